//! ClickHouse's RowBinary: the few types that Leadline's tables use.
//!
//! A `predictions` row is written in two halves: the prefix when the span is decoded, the suffix when its trace is
//! decided. Their columns, in this order, are the contract with `store/schema` (`PREDICTION_PREFIX`, `PREDICTION_SUFFIX`).

/// Columns of `predictions` known at decode, in row order.
pub const PREDICTION_PREFIX: &[(&str, &str)] = &[
    ("prediction_id", "String"),
    ("trace_id", "String"),
    ("span_id", "String"),
    ("event_time", "DateTime64(9)"),
    ("receive_time", "DateTime64(9)"),
    ("model", "LowCardinality(String)"),
    ("version", "LowCardinality(String)"),
    ("role", "LowCardinality(String)"),
    ("task", "LowCardinality(String)"),
    ("predicted", "Nullable(String)"),
    ("score", "Nullable(Float64)"),
    ("confidence", "Nullable(Float64)"),
    ("duration_ns", "UInt64"),
    ("error_type", "LowCardinality(String)"),
    ("segments", "Map(LowCardinality(String), String)"),
    ("inbound_weight", "Nullable(Float64)"),
];

/// Columns of `predictions` known once the trace is decided.
pub const PREDICTION_SUFFIX: &[(&str, &str)] = &[
    ("weight", "Nullable(Float64)"),
    ("sampling", "LowCardinality(String)"),
    ("policy", "LowCardinality(String)"),
    ("plan_revision", "UInt32"),
    ("collector", "LowCardinality(String)"),
    ("segment", "UInt64"),
];

/// Appends an unsigned LEB128 number, as RowBinary's lengths are written.
#[inline]
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value as u8) | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
pub fn put_str(out: &mut Vec<u8>, value: &[u8]) {
    put_varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

#[inline]
pub fn put_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_le_bytes());
}

#[inline]
pub fn put_i64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_le_bytes());
}

#[inline]
pub fn put_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_le_bytes());
}

#[inline]
pub fn put_f64(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// A `Nullable(Float64)`: NaN stays NaN; only `None` is NULL.
#[inline]
pub fn put_nullable_f64(out: &mut Vec<u8>, value: Option<f64>) {
    match value {
        None => out.push(1),
        Some(number) => {
            out.push(0);
            put_f64(out, number);
        }
    }
}
