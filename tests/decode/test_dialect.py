"""Dialect files: what is shipped is whole, and what is wrong in a file is said with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from leadline import names
from leadline.decode.dialect import SHIPPED, load, rules, segment_rules, shipped
from leadline.errors import ConfigError


def test_shipped_dialects_compile() -> None:
    """Each shipped dialect names a model, and they compile together."""
    assert {"ml", "gen_ai"} <= set(shipped())
    for name in shipped():
        assert any(field == "model" for _, _, field in rules(SHIPPED / f"{name}.yaml")), name
    load(shipped(), ["country"])


def test_ml_reads_every_name_of_the_sdk() -> None:
    """Each attribute that `leadline.names` lists for spans is a rule of ml.yaml, and each reserved feature key is exact."""
    keys = {key for section, key, _ in rules(SHIPPED / "ml.yaml") if section == "span"}
    assert {names.FEATURES_PREFIX + reserved for reserved in names.FEATURES_RESERVED} <= keys
    elsewhere = ("FEEDBACK_", "ACTUAL_", "SCOPE_NAME", "SEGMENT_PREFIX", "FEATURES_RESERVED", "FEATURES_PREFIX")
    spoken = {value for name, value in vars(names).items() if name.isupper() and not name.startswith(elsewhere)}
    assert spoken <= keys


def test_a_segment_is_filled_by_its_own_key_first() -> None:
    """`ml.segment.country` beats `country`; span beats scope beats resource."""
    assert segment_rules(["country"]) == [
        ("span", "ml.segment.country", "segment:country"),
        ("span", "country", "segment:country"),
        ("scope", "country", "segment:country"),
        ("resource", "country", "segment:country"),
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("span:\n  a: modle\n", "d.yaml:2: span: a: expected the field to be one of model, version"),
        ("span:\n  a: model\n  b: version\n  a: role\n", "d.yaml:4: span: a: expected each key once"),
        ("event:\n  a: model\n", "d.yaml:1: expected each of the sections span, scope, resource once at most, got 'event'"),
        ("span:\n  a: model\nspan:\n  b: model\n", "d.yaml:3: expected each of the sections"),
        ("scope:\n  a.*: feature\n", 'd.yaml:2: scope: a.*: expected field "feature" to have scope "span"'),
        ("span:\n  a: unknown\n", 'd.yaml:2: span: a: expected field "unknown" to have scope "span" and a key that ends with ".*"'),
        ("span:\n  a.*: model\n", "d.yaml:2: span: a.*: expected a whole key"),
        ("span:\n  a: {b: c}\n", "d.yaml:2: span: a: expected one of model"),
        ("span:\n  a:\n", "d.yaml:2: span: a: expected one of model"),
        ("span:\n  ? [a]\n  : model\n", "d.yaml:2: span: expected an attribute's key"),
        ("span:\n", "d.yaml:1: span: expected entries `key: field`, got none"),
        ("- a\n", "d.yaml: expected the sections span, scope, resource"),
        ("", "d.yaml: expected the sections span, scope, resource"),
        ("span: [\n", "d.yaml: not YAML"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(tmp_path: Path, text: str, fault: str) -> None:
    """A fault names the file and line, what was expected and what was got."""
    path = tmp_path / "d.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        rules(path)
    assert any(fault in found for found in caught.value.faults), caught.value.faults


def test_all_faults_are_reported_at_once(tmp_path: Path) -> None:
    """Two bad files and an unknown name are three faults of one error."""
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("span:\n  k: nonsense\n")
    with pytest.raises(ConfigError) as caught:
        load([str(tmp_path / "a.yaml"), "trition", str(tmp_path / "b.yaml"), str(tmp_path / "none.yaml")])
    assert len(caught.value.faults) == 4
    with pytest.raises(ConfigError, match="at least one dialect"):
        load([])
