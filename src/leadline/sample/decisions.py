"""Decisions: a batch of traces, which are kept, and with what weight. Pure.

A trace is kept iff R ≥ T. R is its 56 bits of randomness, T = (1 − p)·2⁵⁶ its threshold; the adjusted count of a kept trace is
2⁵⁶ / (2⁵⁶ − T). (OpenTelemetry, "TraceState: probability sampling".)
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from leadline.sample.plan import P_MIN, Plan
from leadline.sample.policies import Floats, Policy, Table

R_SPACE = 1 << 56
NO_THRESHOLD = np.uint64(R_SPACE)
SAMPLINGS = ("dropped", "kept")
_HEAD = struct.Struct("<II")


@dataclass(frozen=True, slots=True)
class DecisionBatch:
    """Decisions of one batch, as arrays over its n traces.

    Parameters
    ----------
    trace_ids : uint8 array, shape (n, 16)
    keep : bool array, shape (n,)
    threshold : uint64 array, shape (n,)
        The `th` to emit, 56 bits; `NO_THRESHOLD` where none may be said.
    weight : float64 array, shape (n,)
        Adjusted count if kept; NaN where unknown.
    policy : uint8 array, shape (n,)
        Index into `policies`: what raised the trace's probability most.
    policies : tuple of str
    plan_revision : int
    plan : str
        The plan as JSON; empty where an earlier batch made under it has said it.
    """

    trace_ids: NDArray[np.uint8]
    keep: NDArray[np.bool_]
    threshold: NDArray[np.uint64]
    weight: Floats
    policy: NDArray[np.uint8]
    policies: tuple[str, ...]
    plan_revision: int
    plan: str = ""

    def __len__(self) -> int:
        return len(self.keep)

    def for_buffer(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments that `TraceBuffer.decide` and `remember` share: positional, and by name."""
        arrays = (self.trace_ids, self.keep, self.threshold, self.weight, self.keep.astype(np.uint8), self.policy)
        return arrays, {"samplings": SAMPLINGS, "policies": self.policies, "plan_revision": self.plan_revision}

    def part(self, start: int, stop: int) -> DecisionBatch:
        """Those of the traces from `start` to before `stop`."""
        names = ("trace_ids", "keep", "threshold", "weight", "policy")
        return replace(self, **{name: getattr(self, name)[start:stop] for name in names})

    def to_bytes(self) -> bytes:
        head = json.dumps({"policies": self.policies, "revision": self.plan_revision, "plan": self.plan}).encode()
        arrays = (self.trace_ids, self.keep, self.threshold, self.weight, self.policy)
        return _HEAD.pack(len(head), len(self)) + head + b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)

    @classmethod
    def from_bytes(cls, payload: bytes) -> DecisionBatch:
        length, n = _HEAD.unpack_from(payload)
        head = json.loads(payload[_HEAD.size : _HEAD.size + length])
        offset = _HEAD.size + length

        def take(dtype: Any, count: int) -> NDArray[Any]:
            nonlocal offset
            array = np.frombuffer(payload, dtype, count, offset)
            offset += array.nbytes
            return array

        return cls(
            take(np.uint8, 16 * n).reshape(n, 16),
            take(np.bool_, n),
            take(np.uint64, n),
            take(np.float64, n),
            take(np.uint8, n),
            tuple(head["policies"]),
            head["revision"],
            head["plan"],
        )


def wanted_probabilities(table: Table, policies: Sequence[Policy], plan: Plan) -> tuple[Floats, Floats, NDArray[np.uint8]]:
    """(probability, what of it policies raised above the base, index of the policy) of each trace, before scaling."""
    n = len(table["spans"])
    probability = np.full(n, plan.base)
    policy = np.full(n, len(policies), dtype=np.uint8)  # the last name: 'budget'
    for index, candidate in enumerate(policies):
        raised = candidate.probability(table, plan)
        higher = raised > probability
        probability[higher] = raised[higher]
        policy[higher] = index
    return probability, probability - plan.base, policy


def decide(
    table: Table, policies: Sequence[Policy], plan: Plan, fit: Callable[[float, float, int], Plan], *, budgeted: bool
) -> DecisionBatch:
    """Decides every trace of a table.

    Parameters
    ----------
    table : Table
        The columns of `TraceBuffer.due`.
    policies : sequence of Policy
    plan : Plan
        In force before this batch.
    fit : callable (sum of probabilities, of which raised by policies, traces) -> Plan
        Gives the plan with the scale that fits the tokens; called before any randomness is looked at.
    budgeted : bool
        Whether probabilities are held at or above `P_MIN`, so that every weight is defined.
    """
    probability, raised, policy = wanted_probabilities(table, policies, plan)
    plan = fit(float(probability.sum()), float(raised.sum()), len(probability))
    probability = probability * plan.scale
    if budgeted:
        probability = np.maximum(probability, P_MIN)
    own = np.rint((1.0 - np.clip(probability, 0.0, 1.0)) * R_SPACE).astype(np.uint64)
    randomness = table["randomness"]
    # A larger inbound threshold stands, where it can be true: the trace got here, so R ≥ T must hold.
    inbound = np.where(table["sampled"], table["threshold"], np.uint64(0))
    consistent = ~table["sampled"] | (randomness >= inbound)
    threshold = np.where(consistent, np.maximum(own, inbound), own)
    keep = (randomness >= own) & (own < NO_THRESHOLD)
    known = keep & consistent
    with np.errstate(divide="ignore"):
        weight = np.where(known, R_SPACE / (R_SPACE - threshold.astype(np.float64)), np.nan)
    return DecisionBatch(
        table["trace_id"],
        keep,
        np.where(known, threshold, NO_THRESHOLD),
        weight,
        policy,
        (*(candidate.name for candidate in policies), "budget"),
        plan.revision,
        plan.to_json(),
    )
