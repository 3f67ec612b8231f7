//! Log records.

use super::{About, Limits, Records, Result, Walk, each_group, put_texts};
use crate::cells::{each_field, put_hex, put_text, put_value};
use crate::decode::value::{self, Value};
use crate::rowbinary::{put_i64, put_str};
use crate::wire::Reader;

/// (column, ClickHouse type) of a record's row.
pub const COLUMNS: &[(&str, &str)] = &[
    ("Timestamp", "DateTime64(9)"),
    ("TraceId", "String"),
    ("SpanId", "String"),
    ("TraceFlags", "UInt8"),
    ("SeverityText", "LowCardinality(String)"),
    ("SeverityNumber", "UInt8"),
    ("Body", "String"),
    ("LogAttributes", "Map(LowCardinality(String), String)"),
    ("EventName", "String"),
    ("ServiceName", "LowCardinality(String)"),
    ("ResourceSchemaUrl", "LowCardinality(String)"),
    ("ResourceAttributes", "Map(LowCardinality(String), String)"),
    ("ScopeSchemaUrl", "LowCardinality(String)"),
    ("ScopeName", "String"),
    ("ScopeVersion", "LowCardinality(String)"),
    ("ScopeAttributes", "Map(LowCardinality(String), String)"),
    ("Collector", "LowCardinality(String)"),
    ("Segment", "UInt64"),
];

pub const TABLE: &str = "otel_logs";

/// Severities that OpenTelemetry knows.
const MAX_SEVERITY: u64 = 24;

/// Decodes an `ExportLogsServiceRequest`; see `decode_logs` in `_kernel.pyi`.
pub fn decode_logs(
    data: &[u8],
    receive_ns: i64,
    events: &[String],
    limits: &Limits,
) -> Result<Records> {
    let mut walk = Walk::new(receive_ns, limits);
    let mut body = Vec::new();
    each_group(data, &mut walk, |walk, resource, scope, record| {
        if walk.takes(resource.attributes.len() + scope.attributes.len() + scope.name.len())? {
            put_record(walk, resource, scope, record, events, &mut body)?;
        }
        Ok(())
    })?;
    Ok(walk.records)
}

#[derive(Default)]
struct Fields<'a> {
    time_ns: u64,
    observed_ns: u64,
    severity: u64,
    severity_text: &'a [u8],
    body: Option<Value<'a>>,
    flags: u32,
    trace_id: &'a [u8],
    span_id: &'a [u8],
    event_name: &'a [u8],
    /// What SDKs wrote before there was a field for it.
    event_attribute: &'a [u8],
}

fn put_record(
    walk: &mut Walk<'_>,
    resource: &About<'_>,
    scope: &About<'_>,
    record: Reader<'_>,
    events: &[String],
    body: &mut Vec<u8>,
) -> Result<()> {
    let mut fields = Fields::default();
    let depth = walk.limits.max_depth;
    walk.attributes.clear();
    each_field(record, |field, reader| {
        match field {
            0x09 => fields.time_ns = reader.fixed64()?,
            0x10 => fields.severity = reader.varint()?,
            0x1a => fields.severity_text = reader.bytes()?,
            0x2a => fields.body = Some(value::any(reader.message()?, depth)?),
            0x32 => {
                let (key, value) = walk.attributes.add(reader.message()?, depth)?;
                if let (b"event.name", Value::Text(name)) = (key, value) {
                    fields.event_attribute = name;
                }
            }
            0x45 => fields.flags = reader.fixed32()?,
            0x4a => fields.trace_id = reader.bytes()?,
            0x52 => fields.span_id = reader.bytes()?,
            0x59 => fields.observed_ns = reader.fixed64()?,
            0x62 => fields.event_name = reader.bytes()?,
            _ => reader.skip(field)?,
        }
        Ok(())
    })?;
    let event = if fields.event_name.is_empty() {
        fields.event_attribute
    } else {
        fields.event_name
    };
    if events.iter().any(|name| name.as_bytes() == event) {
        walk.records.events.push(record.rest().to_vec());
    }
    let time_ns = if fields.time_ns == 0 {
        fields.observed_ns
    } else {
        fields.time_ns
    };
    let time_ns = walk.clamped(time_ns);
    body.clear();
    put_value(body, fields.body.unwrap_or(Value::Empty));
    let attributes = std::mem::take(&mut walk.attributes);
    walk.put_row(TABLE, |out| {
        put_i64(out, time_ns);
        put_hex(out, fields.trace_id);
        put_hex(out, fields.span_id);
        out.push(fields.flags as u8);
        put_text(out, fields.severity_text);
        out.push(if fields.severity <= MAX_SEVERITY {
            fields.severity as u8
        } else {
            0
        });
        put_str(out, body);
        attributes.put(out);
        put_text(out, event);
        put_texts(out, &[resource.service, resource.schema_url]);
        out.extend_from_slice(&resource.attributes);
        put_texts(out, &[scope.schema_url, scope.name, scope.version]);
        out.extend_from_slice(&scope.attributes);
    });
    walk.attributes = attributes;
    Ok(())
}
