"""The sampler over real requests: plans are stored once each, and nothing is decided under a plan that is not."""

from __future__ import annotations

import itertools
import json
import random

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from leadline import _kernel
from leadline.decode import dialect
from leadline.model.requests import Request
from leadline.model.signals import Signal
from leadline.sample.decisions import DecisionBatch
from leadline.sample.sampler import Sampler
from leadline.settings import BudgetConfig, SampleConfig

SECOND = 1_000_000_000
START = 1_800_000_000 * SECOND
DIALECT = dialect.load(["ml"])


def request(sequence: int, now_ns: int, dice: random.Random, traces: int, failing: float = 0.0) -> Request:
    """`traces` predictions in a trace each, of which a share fails."""
    body = ExportTraceServiceRequest()
    spans = body.resource_spans.add().scope_spans.add().spans
    for _ in range(traces):
        span = spans.add(
            trace_id=dice.randbytes(16), span_id=dice.randbytes(8), start_time_unix_nano=now_ns - 1000, end_time_unix_nano=now_ns
        )
        span.attributes.add(key="ml.model.name").value.string_value = "m"
        if dice.random() < failing:
            span.status.code = 2
    batch = _kernel.decode_traces(body.SerializeToString(), DIALECT, now_ns)
    return Request(Signal.TRACES, sequence, now_ns, batch, {("traces", ""): traces, ("predictions", "m"): traces})


def play(sampler: Sampler, seconds: int, *, traces: int, failing: float = 0.0, seed: int = 1, since: int = START) -> list[DecisionBatch]:
    dice, made = random.Random(seed), []
    for second in range(seconds):
        now_ns = since + second * SECOND
        sampler.add(request(second, now_ns, dice, traces, failing))
        if (decisions := sampler.due(now_ns)) is not None:
            sampler.take(decisions, second)
            made.append(decisions)
    return made


def sampler(rate: float = 5.0) -> Sampler:
    config = SampleConfig(decision_wait=0.0, plan_every=5.0, budget=BudgetConfig(traces_per_second=rate))
    return Sampler(config, "here", lambda levels: [])


def test_every_revision_is_stored_with_its_first_decisions() -> None:
    """A decision names a revision; that revision's plan went out with it or before it, once."""
    made = play(sampler(), 60, traces=50, failing=0.02)
    assert len({batch.plan_revision for batch in made}) > 5
    stored: dict[int, str] = {}
    for batch in made:
        if batch.plan:
            assert json.loads(batch.plan)["revision"] == batch.plan_revision
            assert batch.plan_revision not in stored
            stored[batch.plan_revision] = batch.plan
        assert batch.plan_revision in stored


def test_a_restart_never_uses_a_revision_again() -> None:
    """After a restart decisions are replayed from the log; new ones are under new numbers, since the new run begins from a plan of its own."""
    before = play(sampler(), 20, traces=50)
    again = sampler()
    for batch in before:
        again.remember(batch)
    after = play(again, 20, traces=50, seed=2, since=START + 30 * SECOND)
    assert min(batch.plan_revision for batch in after) > max(batch.plan_revision for batch in before)
    assert after[0].plan


def test_an_incident_leaves_a_sample_of_ordinary_traces() -> None:
    """When errors alone would use up the budget, ordinary traces keep a share of it, so that totals can still be estimated."""
    made = play(sampler(rate=20.0), 60, traces=200, failing=0.5)[20:]
    weights = list(itertools.chain.from_iterable(batch.weight[batch.keep].tolist() for batch in made))
    kept_ordinary = sum(int((batch.keep & (batch.policy == len(batch.policies) - 1)).sum()) for batch in made)
    assert kept_ordinary > 40
    assert 0.7 < sum(weights) / (200 * len(made)) < 1.3
    assert len(weights) < 1.3 * 20 * len(made)
