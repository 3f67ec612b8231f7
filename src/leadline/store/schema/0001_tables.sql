-- Leadline's tables. One statement ends with a semicolon at the end of a line; `--` begins a comment.
-- Every fact table carries (collector, segment): who wrote the row, and the position in that collector's journal
-- whose bytes it is a function of. A block goes in under insert_deduplication_token = '<collector>/<segment>/<table>/<n>',
-- so a block that is sent twice changes nothing.

-- The spans of kept traces, in the columns of the OpenTelemetry Collector's ClickHouse exporter (contrib), and with what each stands for.
CREATE TABLE IF NOT EXISTS otel_traces
(
    Timestamp           DateTime64(9) CODEC(Delta, ZSTD(1)),
    TraceId             String CODEC(ZSTD(1)),
    SpanId              String CODEC(ZSTD(1)),
    ParentSpanId        String CODEC(ZSTD(1)),
    TraceState          String CODEC(ZSTD(1)),
    SpanName            LowCardinality(String) CODEC(ZSTD(1)),
    SpanKind            LowCardinality(String) CODEC(ZSTD(1)),
    ServiceName         LowCardinality(String) CODEC(ZSTD(1)),
    ResourceAttributes  Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ScopeName           String CODEC(ZSTD(1)),
    ScopeVersion        String CODEC(ZSTD(1)),
    SpanAttributes      Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    Duration            UInt64 CODEC(ZSTD(1)),
    StatusCode          LowCardinality(String) CODEC(ZSTD(1)),
    StatusMessage       String CODEC(ZSTD(1)),
    Events              Nested (Timestamp DateTime64(9), Name LowCardinality(String), Attributes Map(LowCardinality(String), String)) CODEC(ZSTD(1)),
    Links               Nested (TraceId String, SpanId String, TraceState String, Attributes Map(LowCardinality(String), String)) CODEC(ZSTD(1)),
    -- Leadline's own: how the trace came to be kept. Weight is the adjusted count, 1 / inclusion probability; NULL where
    -- it is unknown, 0 for a span that is kept to be looked at and never to be counted from.
    Weight              Nullable(Float64),
    Sampling            LowCardinality(String),   -- kept, or rescued: a late error of a trace that was not kept
    Policy              LowCardinality(String),   -- what raised the trace's probability most
    PlanRevision        UInt32,                   -- of the collector's sampling_plans
    Collector           LowCardinality(String),
    Segment             UInt64,
    INDEX idx_trace_id TraceId TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX idx_res_attr_key mapKeys(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_res_attr_value mapValues(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_span_attr_key mapKeys(SpanAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_span_attr_value mapValues(SpanAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_duration Duration TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toDate(Timestamp)
ORDER BY (ServiceName, SpanName, toDateTime(Timestamp))
TTL toDateTime(least(Timestamp, toDateTime64('2100-01-01 00:00:00', 9))) + INTERVAL 15 DAY  -- a DateTime ends in 2106
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- Every prediction, also of traces that were not kept: a slim row, so that labels can join and questions need no sample.
CREATE TABLE IF NOT EXISTS predictions
(
    prediction_id   String CODEC(ZSTD(1)),   -- what labels name
    trace_id        String CODEC(ZSTD(1)),   -- in otel_traces, if the trace was kept
    span_id         String CODEC(ZSTD(1)),
    event_time      DateTime64(9) CODEC(Delta, ZSTD(1)),
    receive_time    DateTime64(9) CODEC(Delta, ZSTD(1)),
    model           LowCardinality(String),
    version         LowCardinality(String),
    role            LowCardinality(String),   -- champion, challenger, shadow, canary; '' where it did not say
    task            LowCardinality(String),
    predicted       Nullable(String) CODEC(ZSTD(1)),      -- the model's answer
    score           Nullable(Float64) CODEC(ZSTD(1)),
    confidence      Nullable(Float64) CODEC(ZSTD(1)),
    duration_ns     UInt64 CODEC(ZSTD(1)),
    error_type      LowCardinality(String),   -- '' for an answer
    segments        Map(LowCardinality(String), String) CODEC(ZSTD(1)),   -- the configured ones that it had
    -- Adjusted count with which the prediction came in (a server sampled before us); NULL where it did not say.
    inbound_weight  Nullable(Float64),
    -- Adjusted count of the kept trace's spans; NULL for a trace that was not kept. The row itself is always here.
    weight          Nullable(Float64),
    sampling        LowCardinality(String),   -- of its trace: kept, dropped, or rescued
    policy          LowCardinality(String),
    plan_revision   UInt32,
    collector       LowCardinality(String),
    segment         UInt64,
    INDEX idx_prediction_id prediction_id TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX idx_trace_id trace_id TYPE bloom_filter(0.001) GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toDate(event_time)
ORDER BY (model, version, event_time)
TTL toDateTime(event_time) + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- What was measured of every prediction, by series and event-time window, one row a window and collector. Views and functions read it.
CREATE TABLE IF NOT EXISTS sketches
(
    window_start    DateTime CODEC(Delta, ZSTD(1)),
    window_s        UInt32,
    model           LowCardinality(String),
    version         LowCardinality(String),
    role            LowCardinality(String),
    -- '' counts the predictions themselves; else features/<name>, score, confidence, duration_ms, predicted
    series          LowCardinality(String),
    observed        UInt64,             -- predictions seen, exactly
    estimated       Float64,            -- sum of inbound adjusted counts; an unknown one counts as 1
    weight_unknown  UInt64,             -- predictions whose inbound adjusted count is unknown
    weight_sq       Float64,            -- sum of squared inbound adjusted counts: n_eff = estimated^2 / weight_sq
    nulls           UInt64,
    non_finite      UInt64,
    sum             Float64,
    sum_sq          Float64,
    min             SimpleAggregateFunction(min, Float64),   -- inf where there is no value
    max             SimpleAggregateFunction(max, Float64),   -- -inf where there is no value
    atoms           Map(Float64, Float64),                   -- exact value -> weight
    digest          AggregateFunction(quantileTDigest, Float32),    -- of the values that are not atoms; quantilesTDigestMerge reads it too
    bins_id         LowCardinality(String),                  -- which frozen bins; '' for none
    bins            Array(Float64),                          -- weights over them
    bins_id_next    LowCardinality(String),                  -- the second of two, while a reference changes
    bins_next       Array(Float64),
    categories      Map(String, Float64),                    -- text value -> weight; '(other)' past the cap
    collector       LowCardinality(String),
    segment         UInt64
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(window_start)
ORDER BY (model, series, version, role, window_start)
TTL window_start + INTERVAL 400 DAY
SETTINGS non_replicated_deduplication_window = 10000;

-- Good and bad predictions of each SLI in force, exactly, by event-time window.
CREATE TABLE IF NOT EXISTS sli_counts
(
    window_start    DateTime CODEC(Delta, ZSTD(1)),
    window_s        UInt32,
    sli             LowCardinality(String),   -- content hash of (model, among, good): what was counted
    model           LowCardinality(String),
    version         LowCardinality(String),
    role            LowCardinality(String),
    good            UInt64,
    bad             UInt64,
    unknown         UInt64,                   -- the expression was NULL: neither good nor bad
    good_estimated  Float64,                  -- the same, by inbound adjusted counts
    bad_estimated   Float64,
    collector       LowCardinality(String),
    segment         UInt64
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(window_start)
ORDER BY (sli, model, version, role, window_start)
TTL window_start + INTERVAL 400 DAY
SETTINGS non_replicated_deduplication_window = 10000;

-- One row a change: how much each term grew since the collector's last row, so sum() over any rows is a count.
-- received = kept + sampled_out + rejected + duplicate + forwarded + waiting (+ lost, which is what is missing).
CREATE TABLE IF NOT EXISTS accounting
(
    at              DateTime64(3),
    collector       LowCardinality(String),
    signal          LowCardinality(String),   -- traces (spans), metrics (data points), logs (records), predictions
    model           LowCardinality(String),   -- predictions only
    received        Int64,
    kept            Int64,
    sampled_out     Int64,
    rejected        Int64,
    duplicate       Int64,
    forwarded       Int64,
    waiting         Int64,
    segment         UInt64
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (signal, model, collector, at)
TTL toDateTime(at) + INTERVAL 400 DAY
SETTINGS non_replicated_deduplication_window = 10000;

-- Each revision of a collector's sampling plan, so that any decision can be made again.
CREATE TABLE IF NOT EXISTS sampling_plans
(
    collector       LowCardinality(String),
    revision        UInt32,
    created_at      DateTime64(3) DEFAULT now64(3),
    plan            String,                   -- JSON: everything a decision depends on but the trace
    segment         UInt64
)
ENGINE = MergeTree
ORDER BY (collector, revision)
SETTINGS non_replicated_deduplication_window = 10000;

-- How far each collector has come, by receive time: everything received before `watermark` is in sli_counts, everything received
-- before `sketch_watermark` is in sketches. A row when either has moved, and one each journal segment.
CREATE TABLE IF NOT EXISTS watermarks
(
    at              DateTime64(3),
    collector       LowCardinality(String),
    watermark       DateTime64(3),
    sketch_watermark DateTime64(3),
    lag_p99_ms      Float64,                  -- measured p99 of receive time - event time
    segment         UInt64
)
ENGINE = MergeTree
ORDER BY (collector, at)
TTL toDateTime(at) + INTERVAL 7 DAY
SETTINGS non_replicated_deduplication_window = 10000;

-- Ground truth as it comes in, joined to predictions by prediction_id.
CREATE TABLE IF NOT EXISTS labels
(
    prediction_id   String,
    name            LowCardinality(String),
    feedback_id     String,
    actual          Nullable(String),
    actual_score    Nullable(Float64),
    source          LowCardinality(String),
    label_time      DateTime64(9),
    receive_time    DateTime64(9),
    supersedes      String,
    collector       LowCardinality(String),
    segment         UInt64
)
ENGINE = ReplacingMergeTree(label_time)
ORDER BY (prediction_id, name, feedback_id)
SETTINGS non_replicated_deduplication_window = 10000;

-- Rules in force, by content hash. Collectors poll the newest row of each name and count its SLIs.
CREATE TABLE IF NOT EXISTS rules
(
    name            String,
    hash            String,
    created_at      DateTime64(3),
    active          Bool,
    body            String                    -- JSON
)
ENGINE = MergeTree
ORDER BY (name, created_at)
SETTINGS non_replicated_deduplication_window = 1000;

-- A frozen reference: bins from the reference alone.
CREATE TABLE IF NOT EXISTS baselines
(
    baseline        LowCardinality(String),
    created_at      DateTime64(3),
    model           LowCardinality(String),
    version         LowCardinality(String),
    series          LowCardinality(String),
    kind            LowCardinality(String),   -- numeric, categorical
    bins_id         String,                   -- content hash of (series, kind, edges, atoms, categories)
    edges           Array(Float64),
    atoms           Array(Float64),
    categories      Array(String),
    counts          Array(Float64),           -- of the whole reference; layout as sketches.bins
    n_eff           Float64,
    source          String
)
ENGINE = MergeTree
ORDER BY (baseline, model, series, created_at)
SETTINGS non_replicated_deduplication_window = 1000;

-- The reference's own history over the same bins: what evidence is calibrated against.
CREATE TABLE IF NOT EXISTS baseline_windows
(
    baseline        LowCardinality(String),
    bins_id         String,
    window_start    DateTime,
    window_s        UInt32,
    counts          Array(Float64)
)
ENGINE = MergeTree
ORDER BY (baseline, bins_id, window_start)
SETTINGS non_replicated_deduplication_window = 1000;

-- Every evaluation of every rule. An evaluator that starts rebuilds its whole state from here.
CREATE TABLE IF NOT EXISTS evaluations
(
    evaluated_at    DateTime64(3),            -- the tick's own time, not the wall clock
    watermark       DateTime64(3),
    rule            String,
    rule_hash       String,
    fingerprint     String,                   -- of the alert's identifying labels
    kind            LowCardinality(String),   -- burn_rate, drift, self, dead_man
    severity        LowCardinality(String),   -- page, ticket, none (the dead man)
    state           LowCardinality(String),   -- inactive, pending, firing; no_data, insufficient_history, error: not judged anew
    value           Nullable(Float64),
    threshold       Nullable(Float64),
    coverage        Float64,
    active_at       Nullable(DateTime64(3)),
    fired_at        Nullable(DateTime64(3)),
    resolved_at     Nullable(DateTime64(3)),
    labels          Map(String, String),
    annotations     Map(String, String),
    evidence        String,                   -- JSON: the counts of each window, the measure's terms
    revision        UInt32,
    evaluator       LowCardinality(String)
)
ENGINE = ReplacingMergeTree(revision)
PARTITION BY toYYYYMM(evaluated_at)
ORDER BY (rule, fingerprint, severity, evaluated_at)
TTL toDateTime(evaluated_at) + INTERVAL 400 DAY
SETTINGS non_replicated_deduplication_window = 10000;
