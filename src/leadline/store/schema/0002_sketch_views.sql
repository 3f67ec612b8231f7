-- How sketches are read. A row of `sketches` holds the values of one series and window as atoms (exact value -> weight) and a
-- digest of the rest; for a continuous series all is in the digest, and ClickHouse's own functions read it over any windows:
--
--   SELECT version, quantilesTDigestMerge(0.5, 0.99)(digest) FROM sketches WHERE model = 'fraud' AND series = 'score' GROUP BY version
--
-- For any series, also one of counts, rounded amounts or many zeros, `series_distribution` reads both together:
--
--   SELECT version, p50, p99, leadline_cdf(xs, cdf, cdf_left, 100) AS at_most_100
--   FROM series_distribution(since = '2026-11-01 00:00:00', until = '2026-11-02 00:00:00') WHERE model = 'fraud' AND series = 'features/amount'

-- The share of the weight at or below x. A distribution is three arrays: `xs` ascending, `cdf` the share at or below each,
-- `cdf_left` the share below it; straight lines run from one's `cdf` to the next one's `cdf_left`.
CREATE FUNCTION IF NOT EXISTS leadline_cdf AS (xs, cdf, cdf_left, x) -> arrayMap(
    i -> multiIf(
        i = 0, 0.,
        i = length(xs) OR xs[i] = x, cdf[i],
        cdf[i] + (cdf_left[i + 1] - cdf[i]) * if(isFinite(xs[i + 1] - xs[i]), (x - xs[i]) / (xs[i + 1] - xs[i]), 0.5)),
    [arrayLastIndex(value -> value <= x, xs)])[1];

-- The share of the weight below x.
CREATE FUNCTION IF NOT EXISTS leadline_cdf_left AS (xs, cdf, cdf_left, x) -> arrayMap(
    i -> multiIf(
        i = 0, 0.,
        xs[i] = x, cdf_left[i],
        i = length(xs), cdf[i],
        cdf[i] + (cdf_left[i + 1] - cdf[i]) * if(isFinite(xs[i + 1] - xs[i]), (x - xs[i]) / (xs[i + 1] - xs[i]), 0.5)),
    [arrayLastIndex(value -> value <= x, xs)])[1];

-- The value below which a share `level` lies; NaN where there is no value.
CREATE FUNCTION IF NOT EXISTS leadline_quantile AS (xs, cdf, cdf_left, level) -> arrayMap(
    i -> multiIf(
        empty(xs), nan,
        i = 0, xs[-1],
        i = 1 OR cdf_left[i] <= level, xs[i],
        xs[i - 1] + (xs[i] - xs[i - 1]) * (level - cdf[i - 1]) / (cdf_left[i] - cdf[i - 1])),
    [arrayFirstIndex(share -> share >= level, cdf)])[1];

-- A digest's state as points (x, weight, whether it is a single value), to be added to those of other windows. A state is a varint n
-- and n times (Float32 mean, Float32 weight); the varint is shorter than 8 bytes. Single values and the two ends stand where they are.
-- Half the weight of any other centroid lies on the line to each neighbour, spread over `pieces` points: centroids of several windows
-- overlap, and to merge their means alone is six times less accurate (docs/adr/0003-atoms-and-digests.md).
CREATE FUNCTION IF NOT EXISTS leadline_digest_points AS (state, pieces) -> arrayMap(
    pairs -> arrayMap(
        (means, weights) -> arrayMap(
            halves -> arrayConcat(
                arrayFilter(point -> point.2 > 0, arrayMap((x, w, half) -> (x, w - 2 * half, true), means, weights, halves)),
                arrayFlatten(arrayMap(
                    (x0, half0, x1, half1) -> arrayMap(
                        piece -> (x0 + (x1 - x0) * (piece + 0.5) / pieces, (half0 + half1) / pieces, false),
                        range(if(half0 + half1 > 0, pieces, 0))),
                    arrayPopBack(means), arrayPopBack(halves), arrayPopFront(means), arrayPopFront(halves)))),
            [arrayMap((w, i) -> if(w <= 1 OR i = 1 OR i = length(weights), 0., w / 2), weights, arrayEnumerate(weights))])[1],
        [arrayMap(i -> toFloat64(pairs[2 * i - 1]), range(1, 1 + intDiv(length(pairs), 2)))],
        [arrayMap(i -> toFloat64(pairs[2 * i]), range(1, 1 + intDiv(length(pairs), 2)))])[1],
    [reinterpret(substring(state, 1 + length(state) % 8), 'Array(Float32)')])[1];

-- Roll-ups by the hour and the day. Bins add up only over the same edges, so their ids are part of the key: one series has one row an
-- hour for each pair of bins that was in force. Atoms are two arrays here, since ClickHouse sums no Map with Float64 keys.
CREATE TABLE IF NOT EXISTS sketches_1h
(
    window_start    DateTime CODEC(Delta, ZSTD(1)),
    model           LowCardinality(String),
    version         LowCardinality(String),
    role            LowCardinality(String),
    series          LowCardinality(String),
    bins_id         LowCardinality(String),
    bins_id_next    LowCardinality(String),
    observed        SimpleAggregateFunction(sum, UInt64),
    estimated       SimpleAggregateFunction(sum, Float64),
    weight_unknown  SimpleAggregateFunction(sum, UInt64),
    weight_sq       SimpleAggregateFunction(sum, Float64),
    nulls           SimpleAggregateFunction(sum, UInt64),
    non_finite      SimpleAggregateFunction(sum, UInt64),
    sum             SimpleAggregateFunction(sum, Float64),
    sum_sq          SimpleAggregateFunction(sum, Float64),
    min             SimpleAggregateFunction(min, Float64),
    max             SimpleAggregateFunction(max, Float64),
    atoms           SimpleAggregateFunction(sumMappedArrays, Tuple(Array(Float64), Array(Float64))),   -- values, weights
    digest          AggregateFunction(quantileTDigest, Float32),
    bins            AggregateFunction(sumForEach, Array(Float64)),                                      -- sumForEachMerge reads it
    bins_next       AggregateFunction(sumForEach, Array(Float64)),
    categories      SimpleAggregateFunction(sumMap, Map(String, Float64))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(window_start)
ORDER BY (model, series, version, role, window_start, bins_id, bins_id_next)
TTL window_start + INTERVAL 800 DAY
SETTINGS non_replicated_deduplication_window = 10000;

-- The same by the day.
CREATE TABLE IF NOT EXISTS sketches_1d AS sketches_1h
ENGINE = AggregatingMergeTree
PARTITION BY toYear(window_start)
ORDER BY (model, series, version, role, window_start, bins_id, bins_id_next)
TTL window_start + INTERVAL 1850 DAY
SETTINGS non_replicated_deduplication_window = 10000;

-- Fills sketches_1h.
CREATE MATERIALIZED VIEW IF NOT EXISTS sketches_to_1h TO sketches_1h AS
SELECT
    toStartOfHour(s.window_start) AS window_start,
    model, version, role, series, bins_id, bins_id_next,
    sum(s.observed) AS observed,
    sum(s.estimated) AS estimated,
    sum(s.weight_unknown) AS weight_unknown,
    sum(s.weight_sq) AS weight_sq,
    sum(s.nulls) AS nulls,
    sum(s.non_finite) AS non_finite,
    sum(s.sum) AS sum,
    sum(s.sum_sq) AS sum_sq,
    min(s.min) AS min,
    max(s.max) AS max,
    sumMap(mapKeys(s.atoms), mapValues(s.atoms)) AS atoms,
    quantileTDigestMergeState(s.digest) AS digest,
    sumForEachState(s.bins) AS bins,
    sumForEachState(s.bins_next) AS bins_next,
    sumMap(s.categories) AS categories
FROM sketches AS s
GROUP BY window_start, model, version, role, series, bins_id, bins_id_next;

-- Fills sketches_1d.
CREATE MATERIALIZED VIEW IF NOT EXISTS sketches_to_1d TO sketches_1d AS
SELECT
    toDateTime(toStartOfDay(s.window_start)) AS window_start,
    model, version, role, series, bins_id, bins_id_next,
    sum(s.observed) AS observed,
    sum(s.estimated) AS estimated,
    sum(s.weight_unknown) AS weight_unknown,
    sum(s.weight_sq) AS weight_sq,
    sum(s.nulls) AS nulls,
    sum(s.non_finite) AS non_finite,
    sum(s.sum) AS sum,
    sum(s.sum_sq) AS sum_sq,
    min(s.min) AS min,
    max(s.max) AS max,
    sumMap(mapKeys(s.atoms), mapValues(s.atoms)) AS atoms,
    quantileTDigestMergeState(s.digest) AS digest,
    sumForEachState(s.bins) AS bins,
    sumForEachState(s.bins_next) AS bins_next,
    sumMap(s.categories) AS categories
FROM sketches AS s
GROUP BY window_start, model, version, role, series, bins_id, bins_id_next;

-- The merged distribution of each (model, version, role, series) over the windows that begin in [since, until). `n` is the weight of its
-- finite numbers. Over more than two days the windows are the hours of the roll-up. Name the model and the series: time and memory grow with
-- the windows and with their distinct atoms.
CREATE VIEW IF NOT EXISTS series_distribution AS
WITH
    merged AS
    (
        SELECT
            model, version, role, series,
            sum(s.observed) AS observed,
            sum(s.estimated) AS estimated,
            sum(s.nulls) AS nulls,
            sum(s.non_finite) AS non_finite,
            sumMap(s.atom_values, s.atom_weights) AS atoms,
            groupArrayIf(toString(s.digest), length(toString(s.digest)) > 1) AS states,
            -- The more windows, the more their errors even out by themselves.
            greatest(1, least(8, intDiv(1024, length(states) + 1))) AS pieces,
            arraySort(point -> point.1, arrayFlatten(arrayMap(state -> leadline_digest_points(state, pieces), states))) AS spread,
            arrayCumSum(point -> point.2, spread) AS spread_ends,
            ifNull(spread_ends[-1], 0.) AS digest_weight,
            -- 500 steps of the t-digest's own scale: narrow at both tails.
            arrayMap(
                (point, end) -> floor(500 * (0.5 + asin(least(1, greatest(-1, (2 * end - point.2) / digest_weight - 1))) / pi())),
                spread, spread_ends) AS steps,
            arrayMap(
                part -> (
                    arraySum(point -> point.1 * point.2, part) / arraySum(point -> point.2, part),
                    arraySum(point -> point.2, part),
                    length(part) = 1 AND part[1].3),
                if(empty(spread), [], arraySplit((point, change) -> change != 0, spread, arrayDifference(steps)))) AS knots,
            arrayCumSum(knot -> knot.2, knots) AS ends
        FROM
        (
            SELECT model, version, role, series, observed, estimated, nulls, non_finite, mapKeys(atoms) AS atom_values, mapValues(atoms) AS atom_weights, digest
            FROM sketches
            WHERE window_start >= {since:DateTime} AND window_start < {until:DateTime} AND {until:DateTime} - {since:DateTime} <= 172800
            UNION ALL
            SELECT model, version, role, series, observed, estimated, nulls, non_finite, atoms.1, atoms.2, digest
            FROM sketches_1h
            WHERE window_start >= {since:DateTime} AND window_start < {until:DateTime} AND {until:DateTime} - {since:DateTime} > 172800
        ) AS s
        GROUP BY model, version, role, series
    ),
    -- Points of the curve: a jump at each atom, and the digest's weight below and up to each knot.
    points AS
    (
        SELECT
            model, version, role, series, point.1 AS x,
            any(observed) AS observed,
            any(estimated) AS estimated,
            any(nulls) AS nulls,
            any(non_finite) AS non_finite,
            any(digest_weight) AS digest_weight,
            sum(point.2) AS jump,
            min(point.3) AS below,
            max(point.4) AS up_to
        FROM merged
        ARRAY JOIN arrayConcat(
            arrayMap((value, weight) -> (value, weight, CAST(NULL, 'Nullable(Float64)'), CAST(NULL, 'Nullable(Float64)')), atoms.1, atoms.2),
            arrayMap(
                (knot, end, i) -> (
                    knot.1,
                    0.,
                    toNullable(multiIf(i = 1, 0., knot.3, end - knot.2, end - knot.2 / 2)),
                    toNullable(if(i = length(knots) OR knot.3, end, end - knot.2 / 2))),
                knots, ends, arrayEnumerate(knots))) AS point
        GROUP BY model, version, role, series, x
    ),
    curves AS
    (
        SELECT
            model, version, role, series,
            any(p.observed) AS observed,
            any(p.estimated) AS estimated,
            any(p.nulls) AS nulls,
            any(p.non_finite) AS non_finite,
            any(p.digest_weight) AS digest_weight,
            arraySort(point -> point.1, groupArray((p.x, p.jump, p.below, p.up_to))) AS curve,
            arrayMap(point -> point.1, curve) AS xs,
            arrayMap(point -> point.2, curve) AS jumps,
            arrayCumSum(jumps) AS jumped,
            arrayMap(point -> point.3, curve) AS below,
            arrayMap(point -> point.4, curve) AS up_to,
            arrayMap((x, b) -> if(b IS NULL, NULL, x), xs, below) AS knot_xs,
            -- What the digest holds between its knots: on a line from the knot before to the one after.
            arrayMap(
                (x, b, x0, w0, x1, w1) -> multiIf(
                    b IS NOT NULL, assumeNotNull(b),
                    x0 IS NULL, 0.,
                    x1 IS NULL, digest_weight,
                    assumeNotNull(w0 + (w1 - w0) * (x - x0) / (x1 - x0))),
                xs, below,
                arrayFill(k -> k IS NOT NULL, knot_xs), arrayFill(w -> w IS NOT NULL, up_to),
                arrayReverseFill(k -> k IS NOT NULL, knot_xs), arrayReverseFill(w -> w IS NOT NULL, below)) AS smooth_left,
            arrayMap((s, w) -> ifNull(w, s), smooth_left, up_to) AS smooth
        FROM points AS p
        GROUP BY model, version, role, series
    )
SELECT
    model, version, role, series, observed, estimated, nulls, non_finite,
    digest_weight + jumped[-1] AS n,
    xs,
    arrayMap((j, s) -> (j + s) / n, jumped, smooth) AS cdf,
    arrayMap((j, own, s) -> (j - own + s) / n, jumped, jumps, smooth_left) AS cdf_left,
    leadline_quantile(xs, cdf, cdf_left, 0.01) AS p01,
    leadline_quantile(xs, cdf, cdf_left, 0.5) AS p50,
    leadline_quantile(xs, cdf, cdf_left, 0.9) AS p90,
    leadline_quantile(xs, cdf, cdf_left, 0.99) AS p99,
    leadline_quantile(xs, cdf, cdf_left, 0.999) AS p999
FROM curves;

-- One row a level, for charts.
CREATE VIEW IF NOT EXISTS series_quantiles AS
SELECT model, version, role, series, n, level, leadline_quantile(xs, cdf, cdf_left, level) AS value
FROM series_distribution(since = {since:DateTime}, until = {until:DateTime})
ARRAY JOIN [0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999] AS level;
