"""Frozen bins: their shares, what is an atom, and that they count as the kernel does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leadline.evaluate.baseline.bins import Bins, categorical_bins, numeric_bins


def test_each_bin_of_a_continuous_series_holds_a_twentieth() -> None:
    values = np.random.default_rng(1).lognormal(3, 2, 100_000)
    bins = numeric_bins(values)
    counts = bins.count(values, nulls=7)
    assert (len(bins.edges), bins.atoms) == (21, ())
    assert counts[3:23] == pytest.approx(np.full(20, 5_000), abs=1)
    assert (counts[0], counts[1], counts[2], counts[-1]) == (7, 0, 0, 0)
    assert bins.count(values.astype(np.float32).astype(float)).tolist() == bins.count(values).tolist(), (
        "servers that send float32 are counted alike"
    )
    outside = bins.count(np.array([-1.0, 1e12, np.nan, np.inf, -np.inf]))
    assert (outside[1], outside[2], outside[-1]) == (3, 1, 1)


def test_a_heavy_value_is_kept_apart() -> None:
    """Zero is exact in float32 and becomes an atom; 32.1 is not, and gets a bin that holds it in either precision."""
    rng = np.random.default_rng(2)
    values = np.concatenate([np.zeros(60_000), np.full(10_000, 32.1), rng.normal(30, 5, 30_000)])
    bins = numeric_bins(values)
    assert bins.atoms == (0.0,)
    counts = bins.count(values)
    assert counts[-1] == 60_000
    for sent in (32.1, float(np.float32(32.1))):
        place = int(np.flatnonzero(bins.count(np.array([sent])))[0])
        assert counts[place] == pytest.approx(10_000, abs=5)
    rest = np.delete(counts, [place, len(counts) - 1])
    assert rest.max() < 6_000, "and the others have about a twentieth of what the atoms leave"


@pytest.mark.parametrize(
    ("values", "edges", "atoms"),
    [
        ([5.0] * 10, 2, (5.0,)),
        ([0.1] * 10, 2, ()),
        ([0.0, 1.0] * 500, 3, ()),
        ([0.0] * 900 + [1.0] * 100, 2, (0.0,)),
        ([7.0], 2, (7.0,)),
        ([-0.0, 0.0, 1e308, -1e308, np.inf, np.nan], 3, (0.0,)),
        (list(range(30)), 21, ()),
    ],
)  # fmt: skip
def test_small_and_odd_references(values: list[float], edges: int, atoms: tuple[float, ...]) -> None:
    bins = numeric_bins(np.array(values, float))
    assert (len(bins.edges), bins.atoms) == (edges, atoms)
    assert bins.count(np.array(values, float)).sum() == len(values)


def test_no_values_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one finite value"):
        numeric_bins(np.array([np.nan]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.floats(allow_nan=True), st.sampled_from([0.0, 1.0, -2.5, 0.1])), min_size=1), st.integers(1, 30))
def test_any_reference_gives_edges_that_the_kernel_takes(values: list[float], n: int) -> None:
    """Finite, strictly ascending, and every value has exactly one place; nothing of the reference is under or over."""
    numbers = np.array(values, float)
    if not np.isfinite(numbers).any():
        return
    bins = numeric_bins(numbers, bins=n)
    for sequence in (bins.edges, bins.atoms):
        assert np.isfinite(sequence).all()
        assert list(sequence) == sorted(set(sequence))
    counts = bins.count(numbers)
    assert counts.sum() == len(numbers)
    assert len(counts) == bins.width
    assert counts[2] == counts[2 + len(bins.edges)] == 0


def test_categories() -> None:
    bins = categorical_bins({"DE": 5.0, "FR": 9, "AT": 5, "x": 1}, top=3)
    assert bins.categories == ("FR", "AT", "DE")
    assert bins.count_texts({"DE": 2.0, "new": 3.0, "x": 1.0}, 4).tolist() == [4, 0, 0, 2, 4]
    assert bins.width == 5


def test_the_id_is_the_content() -> None:
    bins = Bins("numeric", (0.0, 1.0), (0.5,))
    assert bins.id("m", "score") == Bins("numeric", (0.0, 1.0), (0.5,)).id("m", "score")
    assert len(bins.id("m", "score")) == 16
    others = [
        bins.id("m", "s"),
        bins.id("n", "score"),
        Bins("numeric", (0.0, 1.0)).id("m", "score"),
        Bins("numeric", (0.0, 2.0), (0.5,)).id("m", "score"),
    ]
    assert bins.id("m", "score") not in others


def test_the_kernel_counts_the_same(tmp_path: Path) -> None:
    """The same values through the kernel's sketches, in ClickHouse: bin by bin the counts that the baseline would have."""
    import chdb
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
    from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue

    from leadline._kernel import SKETCH_COLUMNS, Sketches, decode_traces
    from leadline.decode import dialect

    rng = np.random.default_rng(3)
    reference = np.concatenate([np.zeros(500), rng.normal(30, 5, 1_500)])
    numeric, texts = numeric_bins(reference), categorical_bins({"DE": 2.0, "FR": 1.0})
    amounts = [0.0, -0.0, *numeric.edges, *rng.normal(30, 9, 200).tolist(), 1e300, float("inf"), float("-inf")]
    countries = [rng.choice(["DE", "FR", "new", ""]) for _ in amounts]
    request = ExportTraceServiceRequest()
    spans = request.resource_spans.add().scope_spans.add().spans
    for index, (amount, country) in enumerate(zip(amounts, countries, strict=True)):
        span = spans.add(
            trace_id=(index + 1).to_bytes(16, "big"),
            span_id=(index + 1).to_bytes(8, "big"),
            start_time_unix_nano=10**18,
            end_time_unix_nano=10**18 + 5,
        )

        def put(key: str, **value: Any) -> None:
            span.attributes.append(KeyValue(key=key, value=AnyValue(**value)))  # noqa: B023 - called in the same turn

        put("ml.model.name", string_value="m")
        put("ml.features.amount", double_value=amount)
        put("ml.features.country", string_value=country)
    sketches = Sketches()
    sketches.set_references(
        [
            ("m", "features/amount", numeric.id("m", "features/amount"), numeric.edges, numeric.atoms, ()),
            ("m", "features/country", texts.id("m", "features/country"), (), (), texts.categories),
        ]
    )
    sketches.add(decode_traces(request.SerializeToString(), dialect.load(["ml"]), 10**18 + 9))
    data, _ = sketches.drain("c", 1)
    path = tmp_path / "sketches.bin"
    path.write_bytes(data)
    structure = ", ".join(f"{name} {kind}" for name, kind in SKETCH_COLUMNS).replace("'", "\\'")
    connection = chdb.connect(":memory:")
    found = str(
        connection.query(
            f"SELECT bins FROM file('{path}', 'RowBinary', '{structure}') WHERE bins_id != '' ORDER BY series", "JSONCompactEachRow"
        )
    )
    connection.close()
    import json

    kernel = [json.loads(line)[0] for line in found.splitlines()]
    assert kernel[0] == numeric.count(np.array(amounts)).tolist()
    assert kernel[1] == texts.count_texts({country: float(countries.count(country)) for country in set(countries)}).tolist()
