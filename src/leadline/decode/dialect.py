"""Dialects: which attribute means what, as YAML files, compiled for the kernel.

A dialect file has the sections ``span``, ``scope`` and ``resource``: whose attributes the keys are. An entry is
``key: field`` or ``key: [field, …]``; ``prefix.*`` stands for every other key that begins with ``prefix.``: features, keys that are
passed over (``unused``), or keys that are noted because nobody knows them (``unknown``).
Where several keys fill a field, the first wins: of the dialects in the order of the setting, of a file from its top.
`dialects/ml.yaml` is the example to copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import yaml

from leadline import names
from leadline._kernel import FIELDS, Dialect
from leadline.errors import ConfigError

SHIPPED: Final = Path(__file__).parent / "dialects"
SECTIONS: Final = ("span", "scope", "resource")

MEANINGS: Final = {
    "model": "the model's name; what makes a span a prediction",
    "version": "the model's version",
    "role": "what the version is in an experiment: champion, challenger, shadow",
    "task": "classification, regression, …",
    "prediction_id": "what a label is later joined by; made from trace and span if it is missing",
    "predicted": "the answer: a text, a truth value or a number",
    "score": "the number behind the answer",
    "confidence": "how sure the model is, 0 to 1",
    "class_names": "names of the classes, an array",
    "class_scores": "a score a class, an array",
    "error_type": "what went wrong; a span of status ERROR is an error without it",
    "weight": "how many predictions this one stands for, where a client has sampled",
    "batch_size": "rows in this span; each field of a prediction is then an array with an entry a row",
    "features_map": "features by name, a map",
    "features_names": "names of the features, an array",
    "features_values": "values of the features, an array",
    "features_json": "features by name, a JSON object in a string",
    "features_packed": "a packed vector, bytes",
    "features_packed_b64": "the same in base64",
    "features_encoding": "how it is packed: f32le, f64le, f16le, i8q, json",
    "features_schema_id": "which schema it follows",
    "features_len": "numbers in the vector, all rows together",
    "features_null_mask": "which features are missing, a bit each",
    "features_categorical": "the schema's texts, beside the vector",
    "features_dtypes": "types of the schema's features, an array",
    "features_roles": "roles of the schema's features, an array; only `feature` is measured",
    "feature": "a feature: the rest of the key is its name",
    "unused": "passed over, unless a setting names it",
    "unknown": "no name of this convention; noted as `attribute_unknown`",
}
"""Field -> what it holds, for people. `feature:<name>` and `segment:<name>` say themselves."""

Rule = tuple[str, str, str]
"""(whose attribute, key, field)"""


def load(dialects: Sequence[str], segments: Sequence[str] = ()) -> Dialect:
    """Compiles dialects for the kernel.

    Parameters
    ----------
    dialects : sequence of str
        Names of shipped dialects (``ml``), or paths of files (anything with a ``/`` or that ends with ``.yaml``).
    segments : sequence of str
        Names that slice the traffic. Each is filled by the attribute of that name of a span, scope or resource, or by
        ``ml.segment.<name>``; where there is none, by the feature of that name, in whatever form it comes.

    Raises
    ------
    ConfigError
        With every fault of every file.
    """
    faults: list[str] = []
    rules = [rule for dialect in dialects for rule in _read(_path(dialect, faults), faults)]
    if not dialects:
        faults.append("dialects: expected at least one dialect, got none. Leave the setting out for ml and gen_ai.")
    if faults:
        raise ConfigError(faults)
    return Dialect([*rules, *segment_rules(segments)])


def segment_rules(segments: Sequence[str]) -> list[Rule]:
    """The rules that fill segments from attributes."""
    return [
        (section, key, f"segment:{segment}")
        for segment in segments
        for section, key in (("span", names.SEGMENT_PREFIX + segment), *((section, segment) for section in SECTIONS))
    ]


def rules(path: Path) -> list[Rule]:
    """The rules of one file, in order. Raises `ConfigError` with every fault."""
    faults: list[str] = []
    found = list(_read(path, faults))
    if faults:
        raise ConfigError(faults)
    return found


def shipped() -> list[str]:
    """Names of the dialects that come with Leadline."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def _path(dialect: str, faults: list[str]) -> Path | None:
    if "/" in dialect or dialect.endswith((".yaml", ".yml")):
        return Path(dialect)
    if dialect in shipped():
        return SHIPPED / f"{dialect}.yaml"
    faults.append(f"dialects: expected one of {', '.join(shipped())}, or the path of a .yaml file, got {dialect!r}")
    return None


def _read(path: Path | None, faults: list[str]) -> Iterator[Rule]:
    if path is None:
        return
    try:
        root = yaml.compose(path.read_text(), Loader=yaml.SafeLoader)
    except OSError as error:
        faults.append(f"{path}: cannot be read ({error.strerror}). Give the name of a shipped dialect or the path of a YAML file.")
        return
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        faults.append(f"{path}: not YAML: {error}")
        return
    if not isinstance(root, yaml.MappingNode):
        faults.append(f"{path}: expected the sections {', '.join(SECTIONS)}, got nothing of the kind")
        return
    seen: set[tuple[str, ...]] = set()
    for section, entries in root.value:
        place = f"{path}:{section.start_mark.line + 1}"
        if not isinstance(section, yaml.ScalarNode) or section.value not in SECTIONS or (section.value,) in seen:
            faults.append(f"{place}: expected each of the sections {', '.join(SECTIONS)} once at most, got {section.value!r}")
        elif not isinstance(entries, yaml.MappingNode):
            faults.append(f"{place}: {section.value}: expected entries `key: field`, got none")
        else:
            seen.add((section.value,))
            for key, fields in entries.value:
                yield from _entry(section.value, key, fields, path=path, seen=seen, faults=faults)


def _entry(section: str, key: yaml.Node, fields: yaml.Node, *, path: Path, seen: set[tuple[str, ...]], faults: list[str]) -> Iterator[Rule]:
    place = f"{path}:{key.start_mark.line + 1}: {section}: {key.value}"
    if not isinstance(key, yaml.ScalarNode):
        faults.append(f"{path}:{key.start_mark.line + 1}: {section}: expected an attribute's key, got a list or mapping")
        return
    if (section, key.value) in seen:
        faults.append(f"{place}: expected each key once, got it a second time. Give it a list of fields: `{key.value}: [field, field]`.")
        return
    seen.add((section, key.value))
    for field in fields.value if isinstance(fields, yaml.SequenceNode) else [fields]:
        rule = (section, key.value, field.value)
        if not isinstance(field, yaml.ScalarNode) or not field.value:
            faults.append(f"{place}: expected one of {', '.join(FIELDS)}, or a list of them")
            continue
        try:
            Dialect([rule])
        except ValueError as error:
            # "rule 1, (…): expected …": the place says better which rule it is
            faults.append(f"{place}: {str(error).partition('): ')[2]}, got {field.value!r}")
            continue
        yield rule
