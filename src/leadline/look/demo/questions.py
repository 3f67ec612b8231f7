"""Five questions to ClickHouse, as one would ask them with curl or clickhouse-client."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import httpx

from leadline.look.demo.patients import MODEL
from leadline.look.demo.settings import OBJECTIVE


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its SQL, and what the answer shows. Parameters are ClickHouse's: ``{drift_since:UInt32}``."""

    name: str
    asked: str
    sql: str
    note: str


LATENCY: Final = Question(
    "latency",
    "What is the p99 latency of each version?",
    f"""
SELECT version, toUInt64(n) AS predictions, round(p50, 1) AS p50_ms, round(p99, 1) AS p99_ms
FROM series_distribution(since = '2000-01-01 00:00:00', until = '2100-01-01 00:00:00')
WHERE model = '{MODEL}' AND series = 'duration_ms'
ORDER BY version
""",
    "From digests of every prediction, merged over all windows; not from the few traces that were kept.",
)
BUDGET: Final = Question(
    "budget",
    "How much of the error budget is left?",
    f"""
SELECT version, sum(good) AS good, sum(bad) AS bad, round(1 - bad / (good + bad) / (1 - {OBJECTIVE}), 4) AS budget_left
FROM sli_counts
WHERE model = '{MODEL}'
GROUP BY version
ORDER BY version
""",
    "1 is untouched, below 0 is overdrawn. Exact counts, whatever was sampled.",
)
DRIFT: Final = Question(
    "drift",
    "Which feature moved away from the training set, and how far?",
    f"""
WITH
    0.5 AS pseudo_count,
    arrayFilter(pair -> pair.1 + pair.2 > 0, arrayZip(counts, bins)) AS pairs,
    arrayMap(pair -> (pair.1 + pseudo_count) / (arraySum(counts) + pseudo_count * length(pairs)), pairs) AS before,
    arrayMap(pair -> (pair.2 + pseudo_count) / (arraySum(bins) + pseudo_count * length(pairs)), pairs) AS after
SELECT
    substring(series, 10) AS feature,
    round(arraySum((p, q) -> (q - p) * log(q / p), before, after), 3) AS psi,
    toUInt64(arraySum(bins)) AS predictions
FROM
(
    SELECT series, bins_id, sumForEach(bins) AS bins
    FROM sketches
    WHERE model = '{MODEL}' AND bins_id != '' AND series LIKE 'features/%'
      AND toUnixTimestamp(window_start) >= {{drift_since:UInt32}} AND toUnixTimestamp(window_start) < {{drift_until:UInt32}}
    GROUP BY series, bins_id
) AS present
INNER JOIN (SELECT series, bins_id, counts FROM baselines WHERE baseline = 'training') AS reference USING (series, bins_id)
ORDER BY psi DESC
""",
    "The population stability index over bins that were frozen from the training set; above 0.2 is commonly called significant.",
)
SLOWEST: Final = Question(
    "slowest",
    "Which were the slowest traces that were kept, and how many does each stand for?",
    f"""
SELECT trace_id, version, round(duration_ns / 1e6, 1) AS ms, splitByChar('.', error_type)[-1] AS error, policy, round(weight, 2) AS weight
FROM predictions
WHERE model = '{MODEL}' AND weight IS NOT NULL
ORDER BY duration_ns DESC, trace_id
LIMIT 5
""",
    "The weight is one over the probability with which the trace was kept: sums of weights estimate what was not kept.",
)
SAVED: Final = Question(
    "saved",
    "What did sampling save, and what did it cost in accuracy?",
    f"""
SELECT
    received AS spans,
    kept AS stored,
    round(1 - kept / received, 3) AS saved,
    (SELECT sum(observed) FROM sketches WHERE model = '{MODEL}' AND series = '') AS counted,
    round(estimate) AS estimated,
    round(error) AS standard_error
FROM
    (SELECT sum(received) AS received, sum(kept) AS kept FROM accounting WHERE signal = 'traces') AS books,
    (SELECT sum(weight) AS estimate, sqrt(sum(weight * (weight - 1))) AS error FROM predictions WHERE model = '{MODEL}' AND weight > 0) AS sample
""",
    "Predictions are counted exactly at any rate of sampling; what one would estimate from the kept traces alone comes with its error.",
)
MEASURED: Final = Question(
    "measured",
    "How many predictions are in the sketches, and in the counters?",
    f"""
SELECT
    (SELECT sum(observed) FROM sketches WHERE model = '{MODEL}' AND series = '') AS sketched,
    (SELECT sum(good + bad + unknown) FROM sli_counts WHERE model = '{MODEL}') AS counted
""",
    "They go out each sketch.window and each journal.segment.",
)
QUESTIONS: Final = (LATENCY, BUDGET, DRIFT, SLOWEST, SAVED)


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows as ClickHouse gave them."""

    question: Question
    columns: list[str]
    rows: list[list[Any]]

    def records(self) -> list[dict[str, Any]]:
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


async def ask(client: httpx.AsyncClient, url: str, question: Question, parameters: dict[str, int]) -> Answer:
    """Over HTTP, as any client would."""
    wanted = {f"param_{name}": str(value) for name, value in parameters.items() if f"{{{name}:" in question.sql}
    reply = await client.post(
        url,
        params={"default_format": "JSONCompact", "output_format_json_quote_64bit_integers": "0", **wanted},
        content=question.sql.strip(),
    )
    if reply.status_code != 200:
        raise RuntimeError(f"{question.name}: ClickHouse answered {reply.status_code}: {reply.text[:500]}")
    body = reply.json()
    return Answer(question, [column["name"] for column in body["meta"]], body["data"])
