"""Writes docs/reference/ from the sources: settings, rules, commands, metrics, tables, errors. `make docs` runs it.

Nothing here is written by hand: a setting's text is its description in `settings.py`, a command's its `--help`, a table's the comments of
its migration. `tests/test_docs.py` fails when a page is not what this would write, or when something has no text.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import sqlglot
import typer
from pydantic.fields import FieldInfo

from leadline import errors, settings
from leadline.decode import dialect
from leadline.evaluate import rules
from leadline.evaluate.wording import spoken
from leadline.look.cli import app
from leadline.look.console.metrics import METRICS
from leadline.settings import Config, Settings
from leadline.store.migrate import migrations

FOLDER = Path(__file__).parent / "reference"
UNITS: Mapping[Any, str] = {
    settings.size_bytes: "size",
    settings.seconds: "time",
    settings.share: "share",
    settings.http_url: "URL",
    rules.alarm_rate: "alarms, such as `1 per 90d`",
}
_SIZES = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))
_TIMES = (("d", 86400.0), ("h", 3600.0), ("m", 60.0), ("s", 1.0))


def pages() -> dict[str, str]:
    """File name -> what it should hold."""
    made: dict[str, Callable[[], Iterator[str]]] = {
        "README.md": _index,
        "settings.md": _settings,
        "rules.md": _rules,
        "attributes.md": _attributes,
        "commands.md": _commands,
        "metrics.md": _metrics,
        "tables.md": _tables,
        "errors.md": _errors,
    }
    return {
        name: "<!-- Written by docs/generate.py; `make docs` writes it anew. -->\n\n" + "\n".join(page()) + "\n"
        for name, page in made.items()
    }


def _index() -> Iterator[str]:
    yield "# Reference\n"
    yield "| | |\n|---|---|"
    yield "| [settings.md](settings.md) | every key of `leadline.yaml`, its default and what it means |"
    yield "| [rules.md](rules.md) | every key of a rules file |"
    yield "| [attributes.md](attributes.md) | which attribute of a span means what |"
    yield "| [commands.md](commands.md) | every command and option |"
    yield "| [metrics.md](metrics.md) | what a collector says of itself on `/metrics` |"
    yield "| [tables.md](tables.md) | tables, views and functions in ClickHouse |"
    yield "| [errors.md](errors.md) | errors, and what whoever meets one does |"


# -- attributes ----------------------------------------------------------------------------------------------------------------


def _attributes() -> Iterator[str]:
    yield "# Attributes\n"
    yield (
        "What Leadline reads of a span, of its instrumentation scope and of its resource. A span with a model is a prediction. Where several "
        "attributes fill a field, the first of this list wins. A file of the same form may say more: `dialects` in [settings.md](settings.md)."
    )
    for name in Settings().dialects:
        yield f"\n## {name}\n\n| attribute | of | field | |\n|---|---|---|---|"
        for section, key, field in dialect.rules(dialect.SHIPPED / f"{name}.yaml"):
            kind, _, of = field.partition(":")
            text = f"the feature `{of}`" if of else dialect.MEANINGS[kind]
            yield f"| `{key}` | {section} | `{field}` | {_cell(text)} |"


# -- settings and rules --------------------------------------------------------------------------------------------------------


def fields_of(model: type[Config], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every key of a model, with its path; a list of groups is `key[].name`."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{field.alias or name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Config):
            yield from fields_of(field.annotation, f"{path}.")
        else:
            yield path, field
            for group in settings.groups_of(field.annotation):
                yield from fields_of(group, f"{path}[].")


def _settings() -> Iterator[str]:
    yield "# Settings\n"
    yield "A YAML file (`--config`), environment variables (`LEADLINE_STAGE__KEY=value`) and `--set key.path=value` are laid over the defaults,"
    yield "in that order. Sizes are written `64MiB`, times `10s` or `1m30s`, shares `5%` or `0.05`; a plain number is bytes, seconds or a share."
    yield "A list of one may be written as that one."
    yield "`leadline check` tells every fault at once, with its place.\n"
    own = {name: field for name, field in Settings.model_fields.items() if not _is_group(field)}
    yield "## At the top\n"
    yield from _table((name, field) for name, field in own.items())
    for name, field in Settings.model_fields.items():
        if _is_group(field):
            assert isinstance(field.annotation, type)
            yield f"\n## {name}\n\n{inspect.getdoc(field.annotation)}\n"
            yield from _table(fields_of(field.annotation, f"{name}."))


def _is_group(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, Config)


def _rules() -> Iterator[str]:
    yield "# Rules files\n"
    yield "Named by `evaluate.rules`; `leadline check` tells what is wrong with them and shows the rules as they will run. `leadline check --help`"
    yield "has an example. Conditions are SQL over a prediction's row, in the closed language of `src/leadline/expression.py`.\n"
    yield from _table(fields_of(rules.FileSpec))


def _table(fields: Any) -> Iterator[str]:
    yield "| key | form | default | |\n|---|---|---|---|"
    for path, field in fields:
        default = "required" if field.is_required() else _default(field)
        yield f"| `{path}` | {_form(field.annotation, field.metadata)} | {default} | {_cell(field.description or '')} |"


def _form(annotation: Any, metadata: Any = ()) -> str:
    """What is written there, in words."""
    for mark in metadata:
        if (unit := UNITS.get(getattr(mark, "func", None))) is not None:
            return unit
    origin, parts = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):
        return _form(parts[0], annotation.__metadata__)
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin is list:
        return f"list of {_form(parts[0])}"
    if origin is dict:
        return "mapping of names to texts"
    if origin is not None and (origin is Union or origin.__name__ == "UnionType"):
        return " or ".join(dict.fromkeys(_form(part) for part in parts if part is not type(None)))
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return "groups, see below"
    names = {"str": "text", "int": "number", "float": "number", "bool": "true or false", "Path": "path", "Fraction": "share"}
    return names[annotation.__name__]


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    unit = _form(field.annotation, field.metadata)
    if value is None or value in ("", [], {}):
        return "none"
    if unit == "size":
        return next((f"`{value // size}{name}`" for name, size in _SIZES if value % size == 0 and value), f"`{value}`")
    if unit == "time":
        return next((f"`{value / size:g}{name}`" for name, size in _TIMES if value % size == 0 and value), f"`{value:g}s`")
    if unit == "share":
        return f"`{100 * value:g}%`"
    if unit.startswith("alarms"):
        return f"`1 per {spoken(1e9 / value)}`"
    if isinstance(value, float):
        return f"`{value:g}`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


# -- commands ------------------------------------------------------------------------------------------------------------------


def commands() -> Iterator[tuple[str, Any]]:
    """Every command, by its whole name."""

    def walk(name: str, command: Any) -> Iterator[tuple[str, Any]]:
        if hasattr(command, "commands"):
            for word, inner in command.commands.items():
                yield from walk(f"{name} {word}", inner)
        else:
            yield name, command

    return walk("leadline", typer.main.get_command(app))


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    yield "The exit status is 0, 1 for what went wrong on the way, and 2 for settings or arguments that are at fault.\n"
    yield "| option of every command that reads settings | |\n|---|---|"
    shared = {
        option.name: option for _, command in commands() for option in command.params if option.name in ("config", "data", "overrides")
    }
    for option in shared.values():
        yield f"| {_names(option)} | {_cell(_plain(getattr(option, 'help', '') or ''))} |"
    for name, command in commands():
        yield f"\n## {name}\n"
        yield from _paragraphs(command.help or "")
        own = [option for option in command.params if option.name not in shared and option.name != "help"]
        if own:
            yield "\n| | |\n|---|---|"
            for option in own:
                given = "" if option.default in (None, "", False) or callable(option.default) else f"; {option.default} if not said"
                yield f"| {_names(option)} | {_cell(_plain(getattr(option, 'help', '') or ''))}{given} |"
        if any(option.name in shared for option in command.params):
            yield "\nReads settings: takes " + ", ".join(f"`{option.opts[0]}`" for option in command.params if option.name in shared) + "."


def _names(option: Any) -> str:
    if option.param_type_name == "argument":
        return f"`{option.metavar or option.name.upper()}`"
    value = "" if getattr(option, "is_flag", False) else f" {option.metavar or option.name.upper()}"
    return ", ".join(f"`{name}{value}`" for name in option.opts)


def _plain(text: str) -> str:
    return text.replace("\\[", "[")


def _paragraphs(text: str) -> Iterator[str]:
    """Help as Markdown: what `\\b` keeps as it is becomes a fence."""
    for number, paragraph in enumerate(_plain(inspect.cleandoc(text)).split("\n\n")):
        before = "\n" if number else ""
        if paragraph.startswith("\b"):
            lines = paragraph.lstrip("\b").strip("\n")
            yield f"{before}```\n{inspect.cleandoc(lines)}\n```"
        else:
            yield before + paragraph


# -- metrics, tables, errors -----------------------------------------------------------------------------------------------------


def _metrics() -> Iterator[str]:
    yield "# Metrics\n"
    yield "Prometheus text at `http://127.0.0.1:8080/metrics` (`console.http`) of each collector.\n"
    yield "| metric | type | |\n|---|---|---|"
    for name, (kind, text) in METRICS.items():
        yield f"| `{name}` | {kind} | {_cell(text)} |"


def _tables() -> Iterator[str]:
    yield "# Tables, views and functions\n"
    yield "As `leadline schema apply` makes them; `leadline schema show` prints the statements. Times are UTC. Every fact table carries"
    yield "(collector, segment): who wrote the row, and the position in that collector's journal that it is a function of."
    statements = [(found, comment, text) for migration in migrations() for found, comment, text in _statements(migration.text)]
    for kind, title in (("TABLE", "Tables"), ("VIEW", "Views"), ("FUNCTION", "Functions")):
        yield f"\n## {title}"
        for found, comment, text in statements:
            if found[1] == kind:
                yield f"\n### {found[2]}\n\n{comment}\n"
                yield from {"TABLE": _columns, "VIEW": _view, "FUNCTION": _function}[kind](text)


def _statements(text: str) -> Iterator[tuple[re.Match[str], str, str]]:
    """(match of its head, the comment before it, its text) of each CREATE that a user asks by name."""
    for found in re.finditer(r"^((?:--[^\n]*\n)*)(CREATE (TABLE|VIEW|FUNCTION) IF NOT EXISTS (\w+).*?;\n)", text, re.MULTILINE | re.DOTALL):
        head = re.match(r"CREATE (TABLE|VIEW|FUNCTION) IF NOT EXISTS (\w+)", found[2])
        assert head
        yield head, _comment(found[1]), found[2]


def _comment(text: str) -> str:
    return "\n".join(line.removeprefix("--").strip() for line in text.splitlines())


def _columns(text: str) -> Iterator[str]:
    if copied := re.search(r" AS (\w+)\n", text.partition("(")[0]):
        yield f"The columns of `{copied[1]}`."
    else:
        yield "| column | type | |\n|---|---|---|"
        above: list[str] = []
        for line in text.partition("\n(\n")[2].partition("\n)\n")[0].splitlines():
            if line.strip().startswith("--"):
                above.append(line.strip().removeprefix("--").strip())
                continue
            column, _, note = line.partition("--")
            found = re.match(r"\s+(\w+)\s+(.*?)(?:\s+CODEC\(.*\))?(?:\s+DEFAULT .*)?,?\s*$", column)
            if found and found[1] != "INDEX":
                yield f"| `{found[1]}` | `{found[2]}` | {_cell(' '.join([*above, note.strip()]).strip())} |"
            above = []
    order = re.search(r"^ORDER BY (.*)$", text, re.MULTILINE)
    kept = re.search(r"INTERVAL (\d+) DAY", text)
    yield f"\nOrdered by `{order[1].rstrip(';') if order else ''}`{f'; kept for {kept[1]} days' if kept else '; kept for ever'}."


def _view(text: str) -> Iterator[str]:
    body = text.partition(" AS\n")[2].rstrip().rstrip(";")
    names = sqlglot.parse_one(body, read="clickhouse").named_selects
    parameters = dict.fromkeys(re.findall(r"\{(\w+):\w+\}", body))
    if parameters:
        yield f"Parameters: {', '.join(f'`{name}`' for name in parameters)}.\n"
    yield f"Columns: {', '.join(f'`{name}`' for name in names)}."


def _function(text: str) -> Iterator[str]:
    found = re.search(r"(\w+) AS (\([^)]*\)) ->", text)
    assert found
    yield f"`{found[1]}{found[2]}`"


def _errors() -> Iterator[str]:
    yield "# Errors\n"
    yield "Everything Leadline raises on purpose. A text says where, what was expected, what was got and what to do.\n"
    yield "| error | is a | |\n|---|---|---|"
    for error in error_classes():
        yield f"| `{error.__name__}` | `{error.__bases__[0].__name__}` | {_cell(' '.join((inspect.getdoc(error) or '').split()))} |"


def error_classes() -> list[type[errors.LeadlineError]]:
    """All of `leadline.errors`, in the order of the file."""
    return [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.LeadlineError)]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")


def main() -> int:
    """Writes every page; returns the exit status."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        path = FOLDER / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)
            print(f"written: {path.relative_to(FOLDER.parent.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
