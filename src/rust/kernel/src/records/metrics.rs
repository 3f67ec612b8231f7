//! Data points of the five kinds of metrics. A sum, minimum or maximum that was not sent is 0, as the exporter writes it.

use super::{About, Limits, Records, Result, Walk, each_group, each_message, put_texts};
use crate::cells::{Map, Nested, each_field, put_hex};
use crate::rowbinary::{self, put_u32, put_u64, put_varint};
use crate::wire::{self, Reader};

type Columns = &'static [(&'static str, &'static str)];

const MAP: &str = "Map(LowCardinality(String), String)";

/// What every row begins with.
const SHARED: Columns = &[
    ("ResourceAttributes", MAP),
    ("ResourceSchemaUrl", "String"),
    ("ServiceName", "LowCardinality(String)"),
    ("ScopeName", "String"),
    ("ScopeVersion", "String"),
    ("ScopeAttributes", MAP),
    ("ScopeDroppedAttrCount", "UInt32"),
    ("ScopeSchemaUrl", "String"),
    ("MetricName", "LowCardinality(String)"),
    ("MetricDescription", "String"),
    ("MetricUnit", "String"),
    ("Attributes", MAP),
    ("StartTimeUnix", "DateTime"),
    ("TimeUnix", "DateTime"),
    ("Flags", "UInt32"),
];
const EXEMPLARS: Columns = &[
    (
        "Exemplars.FilteredAttributes",
        "Array(Map(LowCardinality(String), String))",
    ),
    ("Exemplars.TimeUnix", "Array(DateTime)"),
    ("Exemplars.Value", "Array(Float64)"),
    ("Exemplars.SpanId", "Array(String)"),
    ("Exemplars.TraceId", "Array(String)"),
];
const MOMENTS: Columns = &[
    ("Count", "UInt64"),
    ("Sum", "Float64"),
    ("Min", "Float64"),
    ("Max", "Float64"),
];
const OURS: Columns = &[
    ("Collector", "LowCardinality(String)"),
    ("Segment", "UInt64"),
];
const TEMPORALITY: Columns = &[("AggregationTemporality", "Int32")];

/// (table, groups of its columns in row order).
pub const TABLES: &[(&str, &[Columns])] = &[
    (
        "otel_metrics_gauge",
        &[SHARED, &[("Value", "Float64")], EXEMPLARS, OURS],
    ),
    (
        "otel_metrics_sum",
        &[
            SHARED,
            &[("Value", "Float64")],
            EXEMPLARS,
            TEMPORALITY,
            &[("IsMonotonic", "Bool")],
            OURS,
        ],
    ),
    (
        "otel_metrics_histogram",
        &[
            SHARED,
            MOMENTS,
            &[
                ("BucketCounts", "Array(UInt64)"),
                ("ExplicitBounds", "Array(Float64)"),
            ],
            EXEMPLARS,
            TEMPORALITY,
            OURS,
        ],
    ),
    (
        "otel_metrics_exponential_histogram",
        &[
            SHARED,
            MOMENTS,
            &[
                ("Scale", "Int32"),
                ("ZeroCount", "UInt64"),
                ("ZeroThreshold", "Float64"),
                ("PositiveOffset", "Int32"),
                ("PositiveBucketCounts", "Array(UInt64)"),
                ("NegativeOffset", "Int32"),
                ("NegativeBucketCounts", "Array(UInt64)"),
            ],
            EXEMPLARS,
            TEMPORALITY,
            OURS,
        ],
    ),
    (
        "otel_metrics_summary",
        &[
            SHARED,
            &[("Count", "UInt64"), ("Sum", "Float64")],
            &[
                ("ValueAtQuantiles.Quantile", "Array(Float64)"),
                ("ValueAtQuantiles.Value", "Array(Float64)"),
            ],
            OURS,
        ],
    ),
];

/// Decodes an `ExportMetricsServiceRequest`; see `decode_metrics` in `_kernel.pyi`.
pub fn decode_metrics(data: &[u8], receive_ns: i64, limits: &Limits) -> Result<Records> {
    let mut walk = Walk::new(receive_ns, limits);
    let mut point = Point::default();
    each_group(data, &mut walk, |walk, resource, scope, metric| {
        put_metric(walk, resource, scope, metric, &mut point)
    })?;
    Ok(walk.records)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Gauge,
    Sum,
    Histogram,
    ExponentialHistogram,
    Summary,
}

impl Kind {
    /// By the field of `Metric` that holds its points.
    fn of(field: u32) -> Option<Kind> {
        Some(match field {
            0x2a => Kind::Gauge,
            0x3a => Kind::Sum,
            0x4a => Kind::Histogram,
            0x52 => Kind::ExponentialHistogram,
            0x5a => Kind::Summary,
            _ => return None,
        })
    }
}

/// What all points of a metric share.
#[derive(Default)]
struct Metric<'a> {
    name: &'a [u8],
    description: &'a [u8],
    unit: &'a [u8],
    temporality: i32,
    monotonic: bool,
}

fn put_metric(
    walk: &mut Walk<'_>,
    resource: &About<'_>,
    scope: &About<'_>,
    mut message: Reader<'_>,
    point: &mut Point,
) -> Result<()> {
    let mut metric = Metric::default();
    // of several kinds of data the last counts, as where protobuf reads them
    let mut data: Option<(Kind, Vec<Reader<'_>>)> = None;
    while message.more() {
        match message.tag()? {
            0x0a => metric.name = message.bytes()?,
            0x12 => metric.description = message.bytes()?,
            0x1a => metric.unit = message.bytes()?,
            field => match Kind::of(field) {
                None => message.skip(field)?,
                Some(kind) => {
                    let found = message.message()?;
                    match &mut data {
                        Some((known, parts)) if *known == kind => parts.push(found),
                        _ => data = Some((kind, vec![found])),
                    }
                }
            },
        }
    }
    let Some((kind, parts)) = data else {
        return Ok(());
    };
    for part in &parts {
        each_field(*part, |field, reader| {
            match field {
                0x10 if kind != Kind::Gauge => metric.temporality = reader.varint()? as i32,
                0x18 if kind == Kind::Sum => metric.monotonic = reader.varint()? != 0,
                _ => reader.skip(field)?,
            }
            Ok(())
        })?;
    }
    let mut begin = Vec::new();
    begin.extend_from_slice(&resource.attributes);
    put_texts(
        &mut begin,
        &[
            resource.schema_url,
            resource.service,
            scope.name,
            scope.version,
        ],
    );
    begin.extend_from_slice(&scope.attributes);
    put_u32(&mut begin, scope.dropped);
    put_texts(
        &mut begin,
        &[
            scope.schema_url,
            metric.name,
            metric.description,
            metric.unit,
        ],
    );
    for part in parts {
        each_message(part, 0x0a, |encoded| {
            if metric.name.is_empty() {
                walk.reject("no_name");
            } else if walk.takes(begin.len())? {
                point.read(kind, encoded, walk.limits.max_depth)?;
                let time_s = seconds(walk.clamped(point.time_ns) as u64);
                walk.put_row(TABLES[kind as usize].0, |out| {
                    out.extend_from_slice(&begin);
                    point.put(out, kind, time_s, &metric);
                });
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Unix seconds for a `DateTime`, which ends in 2106.
fn seconds(time_ns: u64) -> u32 {
    u32::try_from(time_ns / 1_000_000_000).unwrap_or(u32::MAX)
}

/// A list column while its elements are met.
#[derive(Default)]
struct List {
    count: u64,
    items: Vec<u8>,
}

impl List {
    fn clear(&mut self) {
        self.count = 0;
        self.items.clear();
    }

    fn push(&mut self, number: u64) {
        self.count += 1;
        put_u64(&mut self.items, number);
    }

    fn push_f64(&mut self, bits: u64) {
        self.count += 1;
        put_f64(&mut self.items, f64::from_bits(bits));
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.count);
        out.extend_from_slice(&self.items);
    }
}

/// Reads a packed list of eight bytes each.
fn packed(mut reader: Reader<'_>, mut take: impl FnMut(u64)) -> wire::Result<()> {
    while reader.more() {
        take(reader.fixed64()?);
    }
    Ok(())
}

#[derive(Default)]
struct Buckets {
    offset: i32,
    counts: List,
}

impl Buckets {
    fn clear(&mut self) {
        self.offset = 0;
        self.counts.clear();
    }

    fn read(&mut self, message: Reader<'_>) -> wire::Result<()> {
        each_field(message, |field, reader| {
            match field {
                0x08 => self.offset = zigzag(reader.varint()?),
                0x10 => self.counts.push(reader.varint()?),
                0x12 => {
                    let mut packed = reader.message()?;
                    while packed.more() {
                        self.counts.push(packed.varint()?);
                    }
                }
                _ => reader.skip(field)?,
            }
            Ok(())
        })
    }
}

fn zigzag(value: u64) -> i32 {
    let value = value as u32;
    (value >> 1) as i32 ^ -((value & 1) as i32)
}

/// A point of any kind; kept for the next, with its room.
#[derive(Default)]
struct Point {
    attributes: Map,
    inner: Map,
    start_ns: u64,
    time_ns: u64,
    flags: u32,
    value: f64,
    count: u64,
    sum: f64,
    min: f64,
    max: f64,
    buckets: List,
    bounds: List,
    scale: i32,
    zero_count: u64,
    zero_threshold: f64,
    positive: Buckets,
    negative: Buckets,
    quantiles: Nested<2>,
    exemplars: Nested<5>,
}

impl Point {
    fn read(&mut self, kind: Kind, message: Reader<'_>, depth: u32) -> wire::Result<()> {
        self.attributes.clear();
        self.exemplars.clear();
        (self.start_ns, self.time_ns, self.flags, self.value) = (0, 0, 0, 0.0);
        (self.count, self.sum, self.min, self.max) = (0, 0.0, 0.0, 0.0);
        match kind {
            Kind::Gauge | Kind::Sum => self.read_number(message, depth),
            Kind::Histogram => self.read_histogram(message, depth),
            Kind::ExponentialHistogram => self.read_exponential(message, depth),
            Kind::Summary => self.read_summary(message, depth),
        }
    }

    fn read_number(&mut self, message: Reader<'_>, depth: u32) -> wire::Result<()> {
        each_field(message, |field, reader| {
            match field {
                0x11 => self.start_ns = reader.fixed64()?,
                0x19 => self.time_ns = reader.fixed64()?,
                0x21 => self.value = f64::from_bits(reader.fixed64()?),
                0x31 => self.value = reader.fixed64()? as i64 as f64,
                0x2a => self.exemplar(reader.message()?, depth)?,
                0x3a => drop(self.attributes.add(reader.message()?, depth)?),
                0x40 => self.flags = reader.varint()? as u32,
                _ => reader.skip(field)?,
            }
            Ok(())
        })
    }

    fn read_histogram(&mut self, message: Reader<'_>, depth: u32) -> wire::Result<()> {
        self.buckets.clear();
        self.bounds.clear();
        each_field(message, |field, reader| {
            match field {
                0x11 => self.start_ns = reader.fixed64()?,
                0x19 => self.time_ns = reader.fixed64()?,
                0x21 => self.count = reader.fixed64()?,
                0x29 => self.sum = f64::from_bits(reader.fixed64()?),
                0x31 => self.buckets.push(reader.fixed64()?),
                0x32 => packed(reader.message()?, |number| self.buckets.push(number))?,
                0x39 => self.bounds.push_f64(reader.fixed64()?),
                0x3a => packed(reader.message()?, |bits| self.bounds.push_f64(bits))?,
                0x42 => self.exemplar(reader.message()?, depth)?,
                0x4a => drop(self.attributes.add(reader.message()?, depth)?),
                0x50 => self.flags = reader.varint()? as u32,
                0x59 => self.min = f64::from_bits(reader.fixed64()?),
                0x61 => self.max = f64::from_bits(reader.fixed64()?),
                _ => reader.skip(field)?,
            }
            Ok(())
        })
    }

    fn read_exponential(&mut self, message: Reader<'_>, depth: u32) -> wire::Result<()> {
        (self.scale, self.zero_count, self.zero_threshold) = (0, 0, 0.0);
        self.positive.clear();
        self.negative.clear();
        each_field(message, |field, reader| {
            match field {
                0x0a => drop(self.attributes.add(reader.message()?, depth)?),
                0x11 => self.start_ns = reader.fixed64()?,
                0x19 => self.time_ns = reader.fixed64()?,
                0x21 => self.count = reader.fixed64()?,
                0x29 => self.sum = f64::from_bits(reader.fixed64()?),
                0x30 => self.scale = zigzag(reader.varint()?),
                0x39 => self.zero_count = reader.fixed64()?,
                0x42 => self.positive.read(reader.message()?)?,
                0x4a => self.negative.read(reader.message()?)?,
                0x50 => self.flags = reader.varint()? as u32,
                0x5a => self.exemplar(reader.message()?, depth)?,
                0x61 => self.min = f64::from_bits(reader.fixed64()?),
                0x69 => self.max = f64::from_bits(reader.fixed64()?),
                0x71 => self.zero_threshold = f64::from_bits(reader.fixed64()?),
                _ => reader.skip(field)?,
            }
            Ok(())
        })
    }

    fn read_summary(&mut self, message: Reader<'_>, depth: u32) -> wire::Result<()> {
        self.quantiles.clear();
        each_field(message, |field, reader| {
            match field {
                0x11 => self.start_ns = reader.fixed64()?,
                0x19 => self.time_ns = reader.fixed64()?,
                0x21 => self.count = reader.fixed64()?,
                0x29 => self.sum = f64::from_bits(reader.fixed64()?),
                0x32 => {
                    let mut found = [0.0; 2];
                    each_field(reader.message()?, |field, reader| {
                        match field {
                            0x09 => found[0] = f64::from_bits(reader.fixed64()?),
                            0x11 => found[1] = f64::from_bits(reader.fixed64()?),
                            _ => reader.skip(field)?,
                        }
                        Ok(())
                    })?;
                    for (column, number) in self.quantiles.columns.iter_mut().zip(found) {
                        put_f64(column, number);
                    }
                    self.quantiles.count += 1;
                }
                0x3a => drop(self.attributes.add(reader.message()?, depth)?),
                0x40 => self.flags = reader.varint()? as u32,
                _ => reader.skip(field)?,
            }
            Ok(())
        })
    }

    fn exemplar(&mut self, message: Reader<'_>, depth: u32) -> wire::Result<()> {
        let (mut time_ns, mut value, mut span_id, mut trace_id) = (0, 0.0, &[][..], &[][..]);
        self.inner.clear();
        each_field(message, |field, reader| {
            match field {
                0x11 => time_ns = reader.fixed64()?,
                0x19 => value = f64::from_bits(reader.fixed64()?),
                0x31 => value = reader.fixed64()? as i64 as f64,
                0x22 => span_id = reader.bytes()?,
                0x2a => trace_id = reader.bytes()?,
                0x3a => drop(self.inner.add(reader.message()?, depth)?),
                _ => reader.skip(field)?,
            }
            Ok(())
        })?;
        let [attributes, times, values, span_ids, trace_ids] = &mut self.exemplars.columns;
        self.inner.put(attributes);
        put_u32(times, seconds(time_ns));
        put_f64(values, value);
        put_hex(span_ids, span_id);
        put_hex(trace_ids, trace_id);
        self.exemplars.count += 1;
        Ok(())
    }

    /// Appends the columns after those of resource, scope and metric.
    fn put(&self, out: &mut Vec<u8>, kind: Kind, time_s: u32, metric: &Metric<'_>) {
        self.attributes.put(out);
        put_u32(out, seconds(self.start_ns));
        put_u32(out, time_s);
        put_u32(out, self.flags);
        match kind {
            Kind::Gauge | Kind::Sum => put_f64(out, self.value),
            Kind::Histogram | Kind::ExponentialHistogram => {
                put_u64(out, self.count);
                for moment in [self.sum, self.min, self.max] {
                    put_f64(out, moment);
                }
            }
            Kind::Summary => {
                put_u64(out, self.count);
                put_f64(out, self.sum);
                return self.quantiles.put(out);
            }
        }
        match kind {
            Kind::Histogram => {
                self.buckets.put(out);
                self.bounds.put(out);
            }
            Kind::ExponentialHistogram => {
                put_u32(out, self.scale as u32);
                put_u64(out, self.zero_count);
                put_f64(out, self.zero_threshold);
                for buckets in [&self.positive, &self.negative] {
                    put_u32(out, buckets.offset as u32);
                    buckets.counts.put(out);
                }
            }
            _ => {}
        }
        self.exemplars.put(out);
        if kind != Kind::Gauge {
            put_u32(out, metric.temporality as u32);
        }
        if kind == Kind::Sum {
            out.push(u8::from(metric.monotonic));
        }
    }
}

/// Of the many NaNs there is one in the tables.
fn put_f64(out: &mut Vec<u8>, value: f64) {
    rowbinary::put_f64(out, if value.is_nan() { f64::NAN } else { value });
}
