-- Logs and metrics in the columns of the OpenTelemetry Collector's ClickHouse exporter (contrib, v0.161), so that queries written for it
-- work unchanged; (Collector, Segment) are ours, as in every fact table.

-- Log records, each as it came.
CREATE TABLE IF NOT EXISTS otel_logs
(
    Timestamp               DateTime64(9) CODEC(Delta, ZSTD(1)),
    TraceId                 String CODEC(ZSTD(1)),
    SpanId                  String CODEC(ZSTD(1)),
    TraceFlags              UInt8,
    SeverityText            LowCardinality(String) CODEC(ZSTD(1)),
    SeverityNumber          UInt8,
    ServiceName             LowCardinality(String) CODEC(ZSTD(1)),
    Body                    String CODEC(ZSTD(1)),
    ResourceSchemaUrl       LowCardinality(String) CODEC(ZSTD(1)),
    ResourceAttributes      Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ScopeSchemaUrl          LowCardinality(String) CODEC(ZSTD(1)),
    ScopeName               String CODEC(ZSTD(1)),
    ScopeVersion            LowCardinality(String) CODEC(ZSTD(1)),
    ScopeAttributes         Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    LogAttributes           Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    EventName               String CODEC(ZSTD(1)),
    Collector               LowCardinality(String),
    Segment                 UInt64,
    INDEX idx_trace_id TraceId TYPE bloom_filter(0.001) GRANULARITY 1,
    INDEX idx_res_attr_key mapKeys(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_res_attr_value mapValues(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_scope_attr_key mapKeys(ScopeAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_scope_attr_value mapValues(ScopeAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_log_attr_key mapKeys(LogAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_log_attr_value mapValues(LogAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_lower_body lower(Body) TYPE tokenbf_v1(32768, 3, 0) GRANULARITY 8
)
ENGINE = MergeTree
PARTITION BY toDate(Timestamp)
ORDER BY (toStartOfFiveMinutes(Timestamp), ServiceName, Timestamp)
TTL toDateTime(Timestamp) + INTERVAL 15 DAY
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- Data points of gauges.
CREATE TABLE IF NOT EXISTS otel_metrics_gauge
(
    ResourceAttributes      Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ResourceSchemaUrl       String CODEC(ZSTD(1)),
    ScopeName               String CODEC(ZSTD(1)),
    ScopeVersion            String CODEC(ZSTD(1)),
    ScopeAttributes         Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ScopeDroppedAttrCount   UInt32 CODEC(ZSTD(1)),
    ScopeSchemaUrl          String CODEC(ZSTD(1)),
    ServiceName             LowCardinality(String) CODEC(ZSTD(1)),
    MetricName              LowCardinality(String) CODEC(ZSTD(1)),
    MetricDescription       String CODEC(ZSTD(1)),
    MetricUnit              String CODEC(ZSTD(1)),
    Attributes              Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    StartTimeUnix           DateTime CODEC(Delta, ZSTD(1)),
    TimeUnix                DateTime CODEC(Delta, ZSTD(1)),
    Flags                   UInt32 CODEC(ZSTD(1)),              -- bit 0: no value was recorded (a series has ended)
    Value                   Float64 CODEC(ZSTD(1)),
    Exemplars               Nested (FilteredAttributes Map(LowCardinality(String), String), TimeUnix DateTime, Value Float64, SpanId String, TraceId String) CODEC(ZSTD(1)),
    Collector               LowCardinality(String),
    Segment                 UInt64,
    INDEX idx_res_attr_key mapKeys(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_res_attr_value mapValues(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_scope_attr_key mapKeys(ScopeAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_scope_attr_value mapValues(ScopeAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_attr_key mapKeys(Attributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_attr_value mapValues(Attributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_time TimeUnix TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toDate(TimeUnix)
ORDER BY (ServiceName, MetricName, toStartOfHour(TimeUnix), cityHash64(Attributes), TimeUnix)
TTL TimeUnix + INTERVAL 90 DAY
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- Data points of sums.
CREATE TABLE IF NOT EXISTS otel_metrics_sum
(
    ResourceAttributes      Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ResourceSchemaUrl       String CODEC(ZSTD(1)),
    ScopeName               String CODEC(ZSTD(1)),
    ScopeVersion            String CODEC(ZSTD(1)),
    ScopeAttributes         Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ScopeDroppedAttrCount   UInt32 CODEC(ZSTD(1)),
    ScopeSchemaUrl          String CODEC(ZSTD(1)),
    ServiceName             LowCardinality(String) CODEC(ZSTD(1)),
    MetricName              LowCardinality(String) CODEC(ZSTD(1)),
    MetricDescription       String CODEC(ZSTD(1)),
    MetricUnit              String CODEC(ZSTD(1)),
    Attributes              Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    StartTimeUnix           DateTime CODEC(Delta, ZSTD(1)),
    TimeUnix                DateTime CODEC(Delta, ZSTD(1)),
    Flags                   UInt32 CODEC(ZSTD(1)),              -- bit 0: no value was recorded (a series has ended)
    Value                   Float64 CODEC(ZSTD(1)),
    Exemplars               Nested (FilteredAttributes Map(LowCardinality(String), String), TimeUnix DateTime, Value Float64, SpanId String, TraceId String) CODEC(ZSTD(1)),
    AggregationTemporality  Int32 CODEC(ZSTD(1)),               -- 1 delta, 2 cumulative
    IsMonotonic             Bool CODEC(Delta, ZSTD(1)),
    Collector               LowCardinality(String),
    Segment                 UInt64,
    INDEX idx_res_attr_key mapKeys(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_res_attr_value mapValues(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_scope_attr_key mapKeys(ScopeAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_scope_attr_value mapValues(ScopeAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_attr_key mapKeys(Attributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_attr_value mapValues(Attributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_time TimeUnix TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toDate(TimeUnix)
ORDER BY (ServiceName, MetricName, toStartOfHour(TimeUnix), cityHash64(Attributes), TimeUnix)
TTL TimeUnix + INTERVAL 90 DAY
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- Data points of histograms.
CREATE TABLE IF NOT EXISTS otel_metrics_histogram
(
    ResourceAttributes      Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ResourceSchemaUrl       String CODEC(ZSTD(1)),
    ScopeName               String CODEC(ZSTD(1)),
    ScopeVersion            String CODEC(ZSTD(1)),
    ScopeAttributes         Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ScopeDroppedAttrCount   UInt32 CODEC(ZSTD(1)),
    ScopeSchemaUrl          String CODEC(ZSTD(1)),
    ServiceName             LowCardinality(String) CODEC(ZSTD(1)),
    MetricName              LowCardinality(String) CODEC(ZSTD(1)),
    MetricDescription       String CODEC(ZSTD(1)),
    MetricUnit              String CODEC(ZSTD(1)),
    Attributes              Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    StartTimeUnix           DateTime CODEC(Delta, ZSTD(1)),
    TimeUnix                DateTime CODEC(Delta, ZSTD(1)),
    Flags                   UInt32 CODEC(ZSTD(1)),              -- bit 0: no value was recorded (a series has ended)
    Count                   UInt64 CODEC(Delta, ZSTD(1)),
    Sum                     Float64 CODEC(ZSTD(1)),
    Min                     Float64 CODEC(ZSTD(1)),
    Max                     Float64 CODEC(ZSTD(1)),
    BucketCounts            Array(UInt64) CODEC(ZSTD(1)),
    ExplicitBounds          Array(Float64) CODEC(ZSTD(1)),
    Exemplars               Nested (FilteredAttributes Map(LowCardinality(String), String), TimeUnix DateTime, Value Float64, SpanId String, TraceId String) CODEC(ZSTD(1)),
    AggregationTemporality  Int32 CODEC(ZSTD(1)),               -- 1 delta, 2 cumulative
    Collector               LowCardinality(String),
    Segment                 UInt64,
    INDEX idx_res_attr_key mapKeys(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_res_attr_value mapValues(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_scope_attr_key mapKeys(ScopeAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_scope_attr_value mapValues(ScopeAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_attr_key mapKeys(Attributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_attr_value mapValues(Attributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_time TimeUnix TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toDate(TimeUnix)
ORDER BY (ServiceName, MetricName, toStartOfHour(TimeUnix), cityHash64(Attributes), TimeUnix)
TTL TimeUnix + INTERVAL 90 DAY
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- Data points of exponential histograms.
CREATE TABLE IF NOT EXISTS otel_metrics_exponential_histogram
(
    ResourceAttributes      Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ResourceSchemaUrl       String CODEC(ZSTD(1)),
    ScopeName               String CODEC(ZSTD(1)),
    ScopeVersion            String CODEC(ZSTD(1)),
    ScopeAttributes         Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ScopeDroppedAttrCount   UInt32 CODEC(ZSTD(1)),
    ScopeSchemaUrl          String CODEC(ZSTD(1)),
    ServiceName             LowCardinality(String) CODEC(ZSTD(1)),
    MetricName              LowCardinality(String) CODEC(ZSTD(1)),
    MetricDescription       String CODEC(ZSTD(1)),
    MetricUnit              String CODEC(ZSTD(1)),
    Attributes              Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    StartTimeUnix           DateTime CODEC(Delta, ZSTD(1)),
    TimeUnix                DateTime CODEC(Delta, ZSTD(1)),
    Flags                   UInt32 CODEC(ZSTD(1)),              -- bit 0: no value was recorded (a series has ended)
    Count                   UInt64 CODEC(Delta, ZSTD(1)),
    Sum                     Float64 CODEC(ZSTD(1)),
    Min                     Float64 CODEC(ZSTD(1)),
    Max                     Float64 CODEC(ZSTD(1)),
    Scale                   Int32 CODEC(ZSTD(1)),
    ZeroCount               UInt64 CODEC(ZSTD(1)),
    ZeroThreshold           Float64 CODEC(ZSTD(1)),             -- ours: the exporter drops it
    PositiveOffset          Int32 CODEC(ZSTD(1)),
    PositiveBucketCounts    Array(UInt64) CODEC(ZSTD(1)),
    NegativeOffset          Int32 CODEC(ZSTD(1)),
    NegativeBucketCounts    Array(UInt64) CODEC(ZSTD(1)),
    Exemplars               Nested (FilteredAttributes Map(LowCardinality(String), String), TimeUnix DateTime, Value Float64, SpanId String, TraceId String) CODEC(ZSTD(1)),
    AggregationTemporality  Int32 CODEC(ZSTD(1)),               -- 1 delta, 2 cumulative
    Collector               LowCardinality(String),
    Segment                 UInt64,
    INDEX idx_res_attr_key mapKeys(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_res_attr_value mapValues(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_scope_attr_key mapKeys(ScopeAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_scope_attr_value mapValues(ScopeAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_attr_key mapKeys(Attributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_attr_value mapValues(Attributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_time TimeUnix TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toDate(TimeUnix)
ORDER BY (ServiceName, MetricName, toStartOfHour(TimeUnix), cityHash64(Attributes), TimeUnix)
TTL TimeUnix + INTERVAL 90 DAY
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;

-- Data points of summaries.
CREATE TABLE IF NOT EXISTS otel_metrics_summary
(
    ResourceAttributes      Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ResourceSchemaUrl       String CODEC(ZSTD(1)),
    ScopeName               String CODEC(ZSTD(1)),
    ScopeVersion            String CODEC(ZSTD(1)),
    ScopeAttributes         Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    ScopeDroppedAttrCount   UInt32 CODEC(ZSTD(1)),
    ScopeSchemaUrl          String CODEC(ZSTD(1)),
    ServiceName             LowCardinality(String) CODEC(ZSTD(1)),
    MetricName              LowCardinality(String) CODEC(ZSTD(1)),
    MetricDescription       String CODEC(ZSTD(1)),
    MetricUnit              String CODEC(ZSTD(1)),
    Attributes              Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    StartTimeUnix           DateTime CODEC(Delta, ZSTD(1)),
    TimeUnix                DateTime CODEC(Delta, ZSTD(1)),
    Flags                   UInt32 CODEC(ZSTD(1)),              -- bit 0: no value was recorded (a series has ended)
    Count                   UInt64 CODEC(Delta, ZSTD(1)),
    Sum                     Float64 CODEC(ZSTD(1)),
    ValueAtQuantiles        Nested (Quantile Float64, Value Float64) CODEC(ZSTD(1)),
    Collector               LowCardinality(String),
    Segment                 UInt64,
    INDEX idx_res_attr_key mapKeys(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_res_attr_value mapValues(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_scope_attr_key mapKeys(ScopeAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_scope_attr_value mapValues(ScopeAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_attr_key mapKeys(Attributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_attr_value mapValues(Attributes) TYPE bloom_filter(0.01) GRANULARITY 1,
    INDEX idx_time TimeUnix TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toDate(TimeUnix)
ORDER BY (ServiceName, MetricName, toStartOfHour(TimeUnix), cityHash64(Attributes), TimeUnix)
TTL TimeUnix + INTERVAL 90 DAY
SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000;
