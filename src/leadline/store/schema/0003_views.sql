-- What a person on call asks first, each as a view to SELECT from.

-- Where every item went, a row a signal: `lost` is what no term accounts for, and is 0.
CREATE VIEW IF NOT EXISTS accounting_now AS
SELECT
    signal,
    sum(a.received) AS received,
    sum(a.kept) AS kept,
    sum(a.sampled_out) AS sampled_out,
    sum(a.rejected) AS rejected,
    sum(a.duplicate) AS duplicate,
    sum(a.forwarded) AS forwarded,
    sum(a.waiting) AS waiting,
    received - kept - sampled_out - rejected - duplicate - forwarded - waiting AS lost
FROM accounting AS a
GROUP BY signal
ORDER BY signal;

-- The same for each collector and model, with the time of its newest row.
CREATE VIEW IF NOT EXISTS accounting_by_collector AS
SELECT
    collector,
    signal,
    model,
    sum(a.received) AS received,
    sum(a.kept) AS kept,
    sum(a.sampled_out) AS sampled_out,
    sum(a.rejected) AS rejected,
    sum(a.duplicate) AS duplicate,
    sum(a.forwarded) AS forwarded,
    sum(a.waiting) AS waiting,
    received - kept - sampled_out - rejected - duplicate - forwarded - waiting AS lost,
    max(a.at) AS newest
FROM accounting AS a
GROUP BY collector, signal, model
ORDER BY collector, signal, model;

-- How many predictions there were, minute by minute, whatever was sampled: `observed` came in, `estimated` counts each with the
-- adjusted count it came in with.
CREATE VIEW IF NOT EXISTS predictions_per_minute AS
SELECT
    toStartOfMinute(s.window_start) AS minute,
    model,
    version,
    role,
    sum(s.observed) AS observed,
    sum(s.estimated) AS estimated
FROM sketches AS s
WHERE series = ''
GROUP BY minute, model, version, role
ORDER BY minute, model, version, role;

-- Measured against stored: the two counts of a model are equal once its windows are out.
CREATE VIEW IF NOT EXISTS prediction_counts AS
SELECT
    model,
    version,
    role,
    sum(c.measured) AS measured,
    sum(c.stored) AS stored,
    sum(c.errors) AS errors,
    sum(c.of_kept_traces) AS of_kept_traces
FROM
(
    SELECT model, version, role, observed AS measured, toUInt64(0) AS stored, toUInt64(0) AS errors, toUInt64(0) AS of_kept_traces
    FROM sketches
    WHERE series = ''
    UNION ALL
    SELECT model, version, role, toUInt64(0), count(), countIf(error_type != ''), countIf(weight > 0)
    FROM predictions
    GROUP BY model, version, role
) AS c
GROUP BY model, version, role
ORDER BY model, version, role;

-- The slowest traces kept: SELECT * FROM slowest_kept_traces(since = '2026-11-01 00:00:00', until = '2026-11-02 00:00:00') LIMIT 10
-- `weight` is how many traces like it each stands for; NULL where unknown.
CREATE VIEW IF NOT EXISTS slowest_kept_traces AS
SELECT
    TraceId AS trace_id,
    min(Timestamp) AS began,
    (max(toUnixTimestamp64Nano(Timestamp) + toInt64(Duration)) - min(toUnixTimestamp64Nano(Timestamp))) / 1e6 AS duration_ms,
    argMin(ServiceName, Timestamp) AS service,
    argMin(SpanName, Timestamp) AS name,
    count() AS spans,
    countIf(StatusCode = 'Error') AS errors,
    max(Weight) AS weight,
    argMin(Sampling, Timestamp) AS sampling,
    argMin(Policy, Timestamp) AS policy
FROM otel_traces
WHERE Timestamp >= {since:DateTime} AND Timestamp < {until:DateTime}
GROUP BY TraceId
ORDER BY duration_ms DESC;

-- What sampling saves: the spans that were not kept, at the size on disk that kept ones have, less what it takes to measure every
-- prediction. In money: SELECT spans_not_kept / 1e6 * 1.50 AS dollars FROM cost_saved, at 1.50 a million spans.
CREATE VIEW IF NOT EXISTS cost_saved AS
SELECT
    a.spans AS spans_received,
    a.kept AS spans_kept,
    spans_received - spans_kept AS spans_not_kept,
    if(spans_received = 0, NULL, spans_kept / spans_received) AS share_kept,
    d.span_rows AS spans_on_disk,
    d.span_bytes AS span_bytes_on_disk,
    if(spans_on_disk = 0, NULL, span_bytes_on_disk / spans_on_disk) AS bytes_per_span,
    bytes_per_span * spans_not_kept AS bytes_not_stored,
    d.measuring_bytes AS bytes_of_measuring,
    bytes_not_stored - bytes_of_measuring AS bytes_saved
FROM
(
    SELECT sum(received) - sum(duplicate) - sum(rejected) - sum(waiting) AS spans, sum(kept) AS kept
    FROM accounting
    WHERE signal = 'traces'
) AS a
CROSS JOIN
(
    SELECT
        sumIf(rows, table = 'otel_traces') AS span_rows,
        sumIf(bytes_on_disk, table = 'otel_traces') AS span_bytes,
        sumIf(bytes_on_disk, table != 'otel_traces') AS measuring_bytes
    FROM system.parts
    WHERE active AND database = currentDatabase() AND (table IN ('otel_traces', 'predictions', 'sli_counts') OR startsWith(table, 'sketches'))
) AS d;

-- The newest word on each alert, firing ones first.
CREATE VIEW IF NOT EXISTS alerts_now AS
SELECT
    rule,
    severity,
    argMax(e.state, (e.evaluated_at, e.revision)) AS state,
    argMax(e.value, (e.evaluated_at, e.revision)) AS value,
    argMax(e.threshold, (e.evaluated_at, e.revision)) AS threshold,
    argMax(e.fired_at, (e.evaluated_at, e.revision)) AS fired_at,
    argMax(e.resolved_at, (e.evaluated_at, e.revision)) AS resolved_at,
    argMax(e.annotations['summary'], (e.evaluated_at, e.revision)) AS summary,
    argMax(e.labels, (e.evaluated_at, e.revision)) AS labels,
    max(e.evaluated_at) AS evaluated
FROM evaluations AS e
WHERE e.evaluated_at >= now() - INTERVAL 40 DAY
GROUP BY rule, fingerprint, severity
ORDER BY state = 'firing' DESC, rule, severity;
