"""The kernel's sketch of one numeric series, written down plainly: what the Rust is held to.

Follows docs/adr/0003-atoms-and-digests.md step by step, a value at a time, with dictionaries where the kernel merges sorted arrays.
"""

from __future__ import annotations

from collections import Counter
from math import cos, pi, sin, sqrt

FIRST_BUFFER, BUFFER, HEAVY_RUN, FINENESS, LARGEST_MEAN = 512, 2_048, 4, 2, 1e30

Centroid = tuple[float, float]
"""(mean, weight)"""


def merged(centroids: list[Centroid], points: list[Centroid], compression: int) -> list[Centroid]:
    """Merging t-digest with the scale function k1; the first and the last point stay alone."""
    points = sorted([*centroids, *points], key=lambda point: point[0])  # stable: at equal means the older comes first
    total = sum(weight for _, weight in points)
    clusters: list[list[Centroid]] = []
    before = limit = held = 0.0
    for index, point in enumerate(points):
        if not clusters or before + held + point[1] > limit or index == len(points) - 1:
            if clusters:
                before += held
                limit = _end(min(before / total, 1.0), compression) * total
            clusters.append([])
            held = 0.0
        clusters[-1].append(point)
        held += point[1]
    return [_mean(cluster) for cluster in clusters]


def _end(q: float, compression: int) -> float:
    """k1⁻¹(k1(q) + 1)."""
    s, step = 2 * q - 1, 2 * pi / compression
    return 1.0 if s >= cos(step) else (s * cos(step) + sqrt(max(0.0, 1 - s * s)) * sin(step) + 1) / 2


def _mean(cluster: list[Centroid]) -> Centroid:
    weight = sum(weight for _, weight in cluster)
    mean = sum(mean * weight for mean, weight in cluster) / weight
    return min(max(mean, cluster[0][0]), cluster[-1][0]), weight


class Series:
    """Atoms and a digest of the rest.

    Parameters
    ----------
    reference_atoms : list of float
        Values that are counted exactly whatever comes.
    """

    def __init__(self, reference_atoms: list[float] | None = None, *, atoms: int = 1_024, compression: int = 200) -> None:
        self.reference_atoms, self.most_atoms, self.compression = set(reference_atoms or ()), atoms, compression
        self.atoms: dict[float, float] = {}
        self.counts: Counter[float] = Counter()
        self.digest: list[Centroid] = []
        self.split = self.flushed = False
        self.buffer: list[Centroid] = []

    def add(self, value: float, weight: float = 1.0) -> None:
        self.buffer.append((value + 0.0, weight))
        if len(self.buffer) == (BUFFER if self.flushed else FIRST_BUFFER):
            self.flush()

    def finish(self) -> tuple[dict[float, float], list[Centroid]]:
        """The atoms (value -> weight) and the centroids, as they go out."""
        if self.buffer:
            self.flush()
        if not self.split and self._continuous(16, 50) and not self._on_a_coarse_grid():
            self._split({value for value in self.atoms if self.counts[value] >= HEAVY_RUN})
        if self.digest:
            self.digest = merged([], self.digest, self.compression)
        return {value: weight for value, weight in self.atoms.items() if weight > 0}, self.digest

    def flush(self) -> None:
        runs: dict[float, float] = {}
        lengths: Counter[float] = Counter()
        for value, weight in sorted(self.buffer, key=lambda pair: pair[0]):
            runs[value] = runs.get(value, 0.0) + weight
            lengths[value] += 1
        first, self.flushed, self.buffer = not self.flushed, True, []
        if not self.split:
            for value, weight in runs.items():
                self.atoms[value] = self.atoms.get(value, 0.0) + weight
                self.counts[value] += lengths[value]
            if len(self.atoms) > self.most_atoms:
                lightest = sum(self.atoms.values()) / self.most_atoms
                self._split({value for value, weight in self.atoms.items() if weight >= lightest})
            elif first and self._continuous(128, 256):
                self._split({value for value in self.atoms if self.counts[value] >= HEAVY_RUN})
            return
        room = self.most_atoms + len(self.reference_atoms) - len(self.atoms)
        points = []
        for value, weight in runs.items():
            if value in self.atoms:
                self.atoms[value] += weight
            elif lengths[value] >= HEAVY_RUN and room > 0:
                room -= 1
                self.atoms[value] = weight
            else:
                points.append((_held(value), weight))
        if points:
            self.digest = merged(self.digest, points, FINENESS * self.compression)

    def _continuous(self, fewest: int, one_in: int) -> bool:
        light = [self.counts[value] for value in self.atoms if self.counts[value] < HEAVY_RUN]
        return sum(light) >= fewest and (sum(light) - len(light)) * one_in <= sum(light)

    def _on_a_coarse_grid(self) -> bool:
        light = [value for value in self.atoms if self.counts[value] < HEAVY_RUN]
        span = max(light) - min(light)
        return any(span * steps <= 16 * self.most_atoms and all(_is_step(value, steps) for value in light) for steps in (1, 10, 100, 1000))

    def _split(self, heavy: set[float]) -> None:
        self.split = True
        stay = heavy | self.reference_atoms
        points = [(_held(value), weight) for value, weight in sorted(self.atoms.items()) if value not in stay]
        self.atoms = {value: self.atoms.get(value, 0.0) for value in sorted(stay)}
        if points:
            self.digest = merged(self.digest, points, FINENESS * self.compression)


def _held(value: float) -> float:
    return min(max(value, -LARGEST_MEAN), LARGEST_MEAN)


def _is_step(value: float, steps: float) -> bool:
    """Whether the value is a multiple of 1 / steps, as far as a float32 can tell."""
    nearest = round(value * steps) / steps
    return abs(value * steps) < 1e9 and abs(nearest - value) <= 2**-24 * abs(value)
