"""The documents say what the sources do: generated pages are current, everything has a text, links and commands lead somewhere."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from leadline._kernel import FIELDS
from leadline.decode import dialect
from leadline.evaluate.rules import FileSpec
from leadline.look.console.metrics import METRICS
from leadline.settings import Settings

ROOT = Path(__file__).parent.parent
TRACKED = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
).stdout.split()


def _generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATE = _generator()
PAGES: dict[str, str] = GENERATE.pages()


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_current(name: str) -> None:
    """`make docs` writes them; a change of a setting, command, metric, table or error brings its page along."""
    path = GENERATE.FOLDER / name
    assert path.exists(), f"docs/reference/{name} is missing: make docs"
    assert path.read_text() == PAGES[name], f"docs/reference/{name} is stale: make docs"


def test_nothing_else_is_in_the_reference() -> None:
    """A page that is no longer generated is gone."""
    assert {path.name for path in GENERATE.FOLDER.iterdir()} == set(PAGES)


@pytest.mark.parametrize("model", [Settings, FileSpec])
def test_every_setting_has_a_text(model: type) -> None:
    """Also each key of a rules file."""
    assert [path for path, field in GENERATE.fields_of(model) if not field.description] == []


def test_every_command_and_option_has_a_text() -> None:
    """What `--help` shows is not only a name."""
    for name, command in GENERATE.commands():
        assert command.help, name
        assert [option.name for option in command.params if not getattr(option, "help", None)] == [], name


def test_every_metric_and_error_has_a_text() -> None:
    """And metrics are named as Prometheus asks."""
    for name, (kind, text) in METRICS.items():
        assert text
        assert (kind == "counter") == name.endswith("_total"), name
    assert [error.__name__ for error in GENERATE.error_classes() if not error.__doc__] == []


def test_every_field_and_note_has_a_text() -> None:
    """What a dialect may fill, and what is counted as doubtful: whoever meets a name finds it."""
    assert set(dialect.MEANINGS) == {field for field in FIELDS if ":" not in field}
    kernel = (ROOT / "src" / "rust" / "kernel" / "src" / "decode" / "notes.rs").read_text()
    labels = (ROOT / "src" / "leadline" / "decode" / "labels.py").read_text()
    notes = {*re.findall(r'^ {4}"(\w+)",$', kernel, re.MULTILINE), *re.findall(r'\bnote\("(\w+)"\)', labels)}
    page = (ROOT / "docs" / "operate" / "clients.md").read_text()
    assert len(notes) > 15
    assert [note for note in notes if f"`{note}`" not in page] == []


def test_every_table_and_view_has_a_text() -> None:
    """A table is what its comment says; one without is a riddle."""
    from leadline.store.migrate import migrations

    for migration in migrations():
        texts = {found[2]: comment for found, comment, _ in GENERATE._statements(migration.text)}
        named = set(re.findall(r"^CREATE (?:TABLE|VIEW|FUNCTION) IF NOT EXISTS (\w+)", migration.text, re.MULTILINE))
        assert texts.keys() == named
        assert [name for name, comment in texts.items() if not comment] == []


def _prose(text: str) -> str:
    """Without code, in which brackets are not links."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))


def _anchors(text: str) -> set[str]:
    """Headings as GitHub links to them."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", TRACKED)
def test_links_lead_somewhere(name: str) -> None:
    """Every relative link of every document, with its heading."""
    path = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(path.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{name}: {target} leads nowhere"
        if anchor:
            assert anchor in _anchors(found.read_text()), f"{name}: {found.name} has no heading #{anchor}"


def _shell_lines(text: str) -> Iterator[str]:
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language in ("", "sh", "bash", "console"):
            yield from (line.split("#")[0].strip() for line in block.splitlines())


@pytest.mark.parametrize("name", TRACKED)
def test_documents_name_commands_that_exist(name: str) -> None:
    """What a reader copies from a fence, or finds in a sentence, runs."""
    text = (ROOT / name).read_text()
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    commands = {command.removeprefix("leadline ") for command, _ in GENERATE.commands()}
    said = [*_shell_lines(text), *re.findall(r"`((?:make|leadline) [^`]*)`", text)]
    for line in (part.strip() for text in said for part in text.split("&&")):
        words = line.removeprefix("$ ").split()
        if words[:1] == ["make"]:
            for word in words[1:]:
                assert word in targets or "=" in word or word.startswith("-"), f"{name}: no target for `{line}`"
        elif words[:1] == ["leadline"]:
            names = [" ".join(words[1:3]), " ".join(words[1:2])]
            spoken = re.split(r"\s*\|\s*", line.removeprefix("leadline").strip())  # `leadline up | engine | collect`
            known = any(word in commands for word in names) or words[1:2] in (["--help"], ["COMMAND"])
            groups = {command.split()[0] for command in commands}
            assert known or all(word in groups for word in spoken), f"{name}: no command for `{line}`"
