"""The kernel's sketches against the plain ones of `tests/reference/digest.py`."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.reference.digest import Series
from tests.sketch.conftest import predictions

from leadline._kernel import Sketches

RNG = np.random.default_rng(5)
N = 12_000
CASES: dict[str, NDArray[np.float64]] = {
    "normal": RNG.standard_normal(N),
    "lognormal, wide": RNG.lognormal(0, 3, N),
    "zeros": np.where(RNG.random(N) < 0.6, 0.0, RNG.standard_normal(N)),
    "three decimals": np.round(RNG.standard_normal(N), 3),
    "wide grid": np.round(RNG.normal(100, 15, N), 2),
    "counts": RNG.poisson(3, N).astype(np.float64),
    "few counts": RNG.integers(0, 100, 17).astype(np.float64),
    "few": RNG.standard_normal(40),
    "one": np.array([2.5]),
    "sorted": np.sort(RNG.standard_normal(N)),
    "reversed": -np.sort(RNG.standard_normal(N)),
    "shifting": np.concatenate([RNG.standard_normal(6_000), np.repeat(RNG.standard_normal(60), 100)]),
    "hostile": RNG.choice([0.0, -0.0, 5e-324, 1e308, -1e308, 1e31, 1.0, -3.5], N) * RNG.choice([1.0, 1.0, 0.3, 0.7], N),
}


def _drained(
    values: NDArray[np.float64], weight: float | None, references: list[float]
) -> tuple[dict[float, float], list[tuple[float, float]]]:
    sketches = Sketches()
    if references:
        sketches.set_references([("m", "features/x", "b", [], references, [])])
    for batch in predictions({"x": values}, weight=weight):
        sketches.add(batch)
    rows, _ = sketches.drain("c", 0)
    at = rows.index(b"\x0afeatures/x") + 11 + 8 * 10
    n, at = _varint(rows, at)
    atoms = dict(struct.iter_unpack("<dd", rows[at : at + 16 * n]))
    n, at = _varint(rows, at + 16 * n)
    return atoms, list(struct.iter_unpack("<ff", rows[at : at + 8 * n]))


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


@pytest.mark.parametrize("weight", [None, 4.0])
@pytest.mark.parametrize("references", [[], [0.0, 0.5]], ids=["free", "reference"])
@pytest.mark.parametrize("name", list(CASES))
def test_the_kernel_and_the_plain_sketch_agree(name: str, references: list[float], weight: float | None) -> None:
    """The same atoms, and the same centroids as float32."""
    series = Series(references)
    for value in CASES[name]:
        series.add(float(value), weight or 1.0)
    atoms, centroids = series.finish()
    drained_atoms, drained_centroids = _drained(CASES[name], weight, references)
    assert drained_atoms == {value: atoms[value] for value in sorted(atoms)}
    expected = np.array(centroids, dtype=np.float32).reshape(-1, 2)
    np.testing.assert_allclose(np.array(drained_centroids, dtype=np.float32).reshape(-1, 2), expected, rtol=1e-6)
