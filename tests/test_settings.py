"""Settings: what is taken, and how a fault is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from leadline.errors import ConfigError
from leadline.settings import KeepProbabilistic, KeepSlow, load


@pytest.mark.parametrize(
    ("override", "fault"),
    [
        ("recieve.grpc=a:1", "recieve: no such key; did you mean receive?"),
        ("sample.budget.traces_per_sec=5", "sample.budget.traces_per_sec: no such key; did you mean traces_per_second?"),
        ("console.port=1", "console.port: no such key; expected one of http"),
        ("sample.keep=nope", "sample.keep[0]: input should be 'error', 'slow' or 'always', got 'nope'"),
        ("sample.keep=[{slow: {treshold: 5ms}}]", "sample.keep[0].slow.treshold: no such key; did you mean threshold?"),
        ("sample.keep=[error, {probabilistic: 500%}]", "sample.keep[1].probabilistic: input should be less than or equal to 1, got '500%'"),
        ("sample.keep=[{probabilistc: 5%}]", "sample.keep[0]: expected error, slow, always, {probabilistic: 5%}, "),
        ("sample.keep=[5]", "sample.keep[0]: expected error, slow, always, {probabilistic: 5%}, "),
        ("sample.budget.burst=0.2s", "sample.budget.burst: input should be greater than or equal to 1, got 0.2"),
    ],
)
def test_a_fault_is_told_once_with_its_place(override: str, fault: str) -> None:
    """Also where several kinds of a thing could have been meant: only the one that was is spoken of."""
    with pytest.raises(ConfigError) as caught:
        load(overrides=[override], environ={})
    (told,) = caught.value.faults
    assert told.startswith(fault)
    assert told.endswith(f"(--set {override})")


def test_a_list_of_one_may_be_written_as_that_one() -> None:
    """From an override, a variable or a file; a list stays what it is."""
    settings = load(
        overrides=["evaluate.rules=fraud.yaml", "sample.keep=always"], environ={"LEADLINE_ALERT__ALERTMANAGERS": "http://am:9093"}
    )
    assert settings.evaluate.rules == [Path("fraud.yaml")]
    assert settings.sample.keep == ["always"]
    assert settings.alert.alertmanagers == ["http://am:9093"]
    assert load(overrides=["dialects=[ml, gen_ai]"], environ={}).dialects == ["ml", "gen_ai"]


def test_policies_of_every_kind_are_read() -> None:
    """Names and groups, mixed."""
    keep = load(overrides=["sample.keep=[error, {slow: {threshold: 50ms}}, {probabilistic: 10%}]"], environ={}).sample.keep
    assert keep[0] == "error"
    assert isinstance(keep[1], KeepSlow)
    assert keep[1].slow.threshold == 0.05
    assert keep[2] == KeepProbabilistic(probabilistic=0.1)
