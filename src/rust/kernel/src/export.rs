//! What is kept, as it leaves: a span as a row of `otel_traces`, and as OTLP with the `th` that was decided.
//!
//! Rows follow the OpenTelemetry Collector's ClickHouse exporter: ids in hex, kinds and codes by name, every attribute
//! as text (arrays and maps as JSON). Where it has no answer: an end before the start is a duration of 0, a time past 2262 is
//! that year's, text that is not UTF-8 gets U+FFFD, an unknown kind or code is the empty text.

use crate::batch::TraceId;
use crate::cells::{Map, Nested, each_field, put_hex, put_text, put_time};
use crate::decode::tracestate::{self, MAX_THRESHOLD};
use crate::rowbinary::{put_str, put_u64, put_varint};
use crate::wire::{LENGTH, Reader, Result, tag};

/// (column, ClickHouse type) of a span's row.
pub const SPAN_COLUMNS: &[(&str, &str)] = &[
    ("Timestamp", "DateTime64(9)"),
    ("TraceId", "String"),
    ("SpanId", "String"),
    ("ParentSpanId", "String"),
    ("TraceState", "String"),
    ("SpanName", "LowCardinality(String)"),
    ("SpanKind", "LowCardinality(String)"),
    ("ServiceName", "LowCardinality(String)"),
    ("ResourceAttributes", "Map(LowCardinality(String), String)"),
    ("ScopeName", "String"),
    ("ScopeVersion", "String"),
    ("SpanAttributes", "Map(LowCardinality(String), String)"),
    ("Duration", "UInt64"),
    ("StatusCode", "LowCardinality(String)"),
    ("StatusMessage", "String"),
    ("Events.Timestamp", "Array(DateTime64(9))"),
    ("Events.Name", "Array(LowCardinality(String))"),
    (
        "Events.Attributes",
        "Array(Map(LowCardinality(String), String))",
    ),
    ("Links.TraceId", "Array(String)"),
    ("Links.SpanId", "Array(String)"),
    ("Links.TraceState", "Array(String)"),
    (
        "Links.Attributes",
        "Array(Map(LowCardinality(String), String))",
    ),
    ("Weight", "Nullable(Float64)"),
    ("Sampling", "LowCardinality(String)"),
    ("Policy", "LowCardinality(String)"),
    ("PlanRevision", "UInt32"),
    ("Collector", "LowCardinality(String)"),
    ("Segment", "UInt64"),
];

/// What a span's row says beside the span: the parts of its request that it repeats, encoded, and its decision.
pub struct Context<'a> {
    pub trace_id: &'a TraceId,
    pub service: &'a [u8],
    /// `ResourceAttributes`.
    pub resource: &'a [u8],
    /// `ScopeName` and `ScopeVersion`.
    pub scope: &'a [u8],
    /// The `th` to emit; 2^56 and above: none.
    pub threshold: u64,
    /// `Weight` to `Segment`.
    pub tail: &'a [u8],
}

/// The scalar fields of a span.
#[derive(Default)]
struct Fields<'a> {
    span_id: &'a [u8],
    parent_id: &'a [u8],
    state: &'a [u8],
    name: &'a [u8],
    kind: u64,
    start_ns: u64,
    end_ns: u64,
    status: u64,
    message: &'a [u8],
}

/// Reads spans and writes them. Holds the repeated fields of one while it is walked, so that one walk is enough.
#[derive(Default)]
pub struct Exporter {
    attributes: Map,
    inner: Map,
    events: Nested<3>,
    links: Nested<4>,
    state: Vec<u8>,
    state_changed: bool,
}

impl Exporter {
    /// Appends a span's row.
    pub fn put_row(&mut self, out: &mut Vec<u8>, span: &[u8], context: &Context<'_>) {
        self.attributes.clear();
        self.events.clear();
        self.links.clear();
        let mut fields = Fields::default();
        // the span was checked when it was decoded; were it not well-formed, its row would hold what comes before the fault
        let _ = self.walk(span, &mut fields);
        self.state_changed = set_threshold(
            &mut self.state,
            fields.state,
            context.threshold,
            context.trace_id,
        );

        put_time(out, fields.start_ns);
        put_hex(out, context.trace_id);
        put_hex(out, fields.span_id);
        put_hex(out, fields.parent_id);
        put_text(
            out,
            if self.state_changed {
                &self.state
            } else {
                fields.state
            },
        );
        put_text(out, fields.name);
        put_str(
            out,
            name_of(
                fields.kind,
                &[
                    "Unspecified",
                    "Internal",
                    "Server",
                    "Client",
                    "Producer",
                    "Consumer",
                ],
            ),
        );
        put_text(out, context.service);
        out.extend_from_slice(context.resource);
        out.extend_from_slice(context.scope);
        self.attributes.put(out);
        put_u64(out, fields.end_ns.saturating_sub(fields.start_ns));
        put_str(out, name_of(fields.status, &["Unset", "Ok", "Error"]));
        put_text(out, fields.message);
        self.events.put(out);
        self.links.put(out);
        out.extend_from_slice(context.tail);
    }

    /// Appends `span`, of which the row was written last, as a field of a `ScopeSpans`, with the trace state of that row.
    pub fn put_span(&self, out: &mut Vec<u8>, span: &[u8]) {
        const STATE: u32 = tag(3, LENGTH);
        out.push(tag(2, LENGTH) as u8);
        if !self.state_changed {
            return put_str(out, span);
        }
        let mut pieces = Vec::new();
        let mut reader = Reader::new(span);
        let mut from = 0;
        while reader.more() {
            let at = reader.offset();
            let Ok(tag) = reader.tag() else { break };
            if reader.skip(tag).is_err() {
                break;
            }
            if tag == STATE {
                pieces.push(&span[from..at]);
                from = reader.offset();
            }
        }
        pieces.push(&span[from..]);
        let kept: usize = pieces.iter().map(|piece| piece.len()).sum();
        let state = if self.state.is_empty() {
            0
        } else {
            1 + varint_len(self.state.len()) + self.state.len()
        };
        put_varint(out, (kept + state) as u64);
        pieces.iter().for_each(|piece| out.extend_from_slice(piece));
        if state > 0 {
            out.push(STATE as u8);
            put_str(out, &self.state);
        }
    }

    /// Appends `ResourceAttributes` of an encoded `Resource`.
    pub fn put_resource(&mut self, out: &mut Vec<u8>, resource: &[u8]) {
        self.inner.clear();
        let _ = each_field(Reader::new(resource), |field, reader| {
            if field == tag(1, LENGTH) {
                self.inner.add(reader.message()?, u32::MAX).map(drop)
            } else {
                reader.skip(field)
            }
        });
        self.inner.put(out);
    }

    /// Appends `ScopeName` and `ScopeVersion` of an encoded `InstrumentationScope`.
    pub fn put_scope(&mut self, out: &mut Vec<u8>, scope: &[u8]) {
        let (mut name, mut version) = (&[][..], &[][..]);
        let _ = each_field(Reader::new(scope), |field, reader| {
            match field {
                0x0a => name = reader.bytes()?,
                0x12 => version = reader.bytes()?,
                _ => reader.skip(field)?,
            }
            Ok(())
        });
        put_text(out, name);
        put_text(out, version);
    }

    fn walk<'a>(&mut self, span: &'a [u8], fields: &mut Fields<'a>) -> Result<()> {
        each_field(Reader::new(span), |field, reader| {
            match field {
                0x12 => fields.span_id = reader.bytes()?,
                0x1a => fields.state = reader.bytes()?,
                0x22 => fields.parent_id = reader.bytes()?,
                0x2a => fields.name = reader.bytes()?,
                0x30 => fields.kind = reader.varint()?,
                0x39 => fields.start_ns = reader.fixed64()?,
                0x41 => fields.end_ns = reader.fixed64()?,
                0x4a => drop(self.attributes.add(reader.message()?, u32::MAX)?),
                0x5a => self.event(reader.message()?)?,
                0x6a => self.link(reader.message()?)?,
                0x7a => each_field(reader.message()?, |field, reader| {
                    match field {
                        0x12 => fields.message = reader.bytes()?,
                        0x18 => fields.status = reader.varint()?,
                        _ => reader.skip(field)?,
                    }
                    Ok(())
                })?,
                _ => reader.skip(field)?,
            }
            Ok(())
        })
    }

    fn event(&mut self, event: Reader<'_>) -> Result<()> {
        let (mut time_ns, mut name) = (0, &[][..]);
        self.inner.clear();
        let read = each_field(event, |field, reader| {
            match field {
                0x09 => time_ns = reader.fixed64()?,
                0x12 => name = reader.bytes()?,
                0x1a => drop(self.inner.add(reader.message()?, u32::MAX)?),
                _ => reader.skip(field)?,
            }
            Ok(())
        });
        let [times, names, attributes] = &mut self.events.columns;
        put_time(times, time_ns);
        put_text(names, name);
        self.inner.put(attributes);
        self.events.count += 1;
        read
    }

    fn link(&mut self, link: Reader<'_>) -> Result<()> {
        let (mut trace_id, mut span_id, mut state) = (&[][..], &[][..], &[][..]);
        self.inner.clear();
        let read = each_field(link, |field, reader| {
            match field {
                0x0a => trace_id = reader.bytes()?,
                0x12 => span_id = reader.bytes()?,
                0x1a => state = reader.bytes()?,
                0x22 => drop(self.inner.add(reader.message()?, u32::MAX)?),
                _ => reader.skip(field)?,
            }
            Ok(())
        });
        let [trace_ids, span_ids, states, attributes] = &mut self.links.columns;
        put_hex(trace_ids, trace_id);
        put_hex(span_ids, span_id);
        put_text(states, state);
        self.inner.put(attributes);
        self.links.count += 1;
        read
    }
}

fn varint_len(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

fn name_of(code: u64, names: &[&'static str]) -> &'static [u8] {
    names.get(code as usize).map_or(&[], |name| name.as_bytes())
}

/// The most that the specification lets an `ot` entry hold, and a trace state.
const MAX_ENTRY: usize = 256;
const MAX_ENTRIES: usize = 32;

/// Writes `state` with the `th` that is emitted into `out`; false where that is `state` itself.
///
/// The `th` is given only where the span's own randomness (`rv`, else the last 56 bits of the trace id) is not below it, so that
/// whoever reads it finds it consistent. A malformed `ot` entry counts as absent. What else is there stays.
fn set_threshold(out: &mut Vec<u8>, state: &[u8], threshold: u64, trace_id: &TraceId) -> bool {
    out.clear();
    let parsed = tracestate::parse(state);
    let randomness = parsed
        .and_then(|found| found.randomness)
        .unwrap_or_else(|| crate::buffer::randomness_of(trace_id));
    let emitted = (threshold < MAX_THRESHOLD && randomness >= threshold).then_some(threshold);
    if parsed.is_some_and(|found| found.threshold == emitted) {
        return false;
    }
    if let Some(threshold) = emitted {
        out.extend_from_slice(b"ot=th:");
        let digits = format!("{threshold:014x}");
        let digits = digits.trim_end_matches('0');
        out.extend_from_slice(if digits.is_empty() {
            b"0"
        } else {
            digits.as_bytes()
        });
    }
    let members = || {
        state
            .split(|&byte| byte == b',')
            .map(<[u8]>::trim_ascii)
            .filter(|member| !member.is_empty())
    };
    let ours = members()
        .filter_map(|member| member.strip_prefix(b"ot="))
        .filter(|_| parsed.is_some())
        .flat_map(|ot| ot.split(|&byte| byte == b';'));
    // rv is what the threshold is compared with, so it must not be what the bound on length cuts off
    let (rv, others): (Vec<_>, Vec<_>) = ours
        .filter(|item| !item.starts_with(b"th:"))
        .partition(|item| item.starts_with(b"rv:"));
    for item in rv.into_iter().chain(others) {
        let begin: &[u8] = if out.is_empty() { b"ot=" } else { b";" };
        if out.len() + begin.len() + item.len() <= b"ot=".len() + MAX_ENTRY {
            out.extend_from_slice(begin);
            out.extend_from_slice(item);
        }
    }
    let room = MAX_ENTRIES - usize::from(!out.is_empty());
    for member in members()
        .filter(|member| !member.starts_with(b"ot="))
        .take(room)
    {
        if !out.is_empty() {
            out.push(b',');
        }
        out.extend_from_slice(member);
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn context(threshold: u64) -> Context<'static> {
        Context {
            trace_id: &[0xff; 16],
            service: b"",
            resource: &[0],
            scope: &[0, 0],
            threshold,
            tail: &[],
        }
    }

    /// Passes over a row's values, type by type.
    fn row_end(row: &[u8]) -> usize {
        fn count(row: &[u8], at: &mut usize) -> usize {
            let mut reader = Reader::new(&row[*at..]);
            let value = reader.varint().unwrap();
            *at += reader.offset();
            value as usize
        }
        fn value(row: &[u8], at: &mut usize, kind: &str) {
            if let Some(inner) = kind
                .strip_prefix("Array(")
                .and_then(|rest| rest.strip_suffix(")"))
            {
                (0..count(row, at)).for_each(|_| value(row, at, inner));
            } else if kind.starts_with("Map(") {
                (0..2 * count(row, at)).for_each(|_| value(row, at, "String"));
            } else if kind.ends_with("String") || kind.ends_with("String)") {
                let length = count(row, at);
                std::str::from_utf8(&row[*at..*at + length]).unwrap();
                *at += length;
            } else {
                *at += 8;
            }
        }
        let mut at = 0;
        let columns = SPAN_COLUMNS
            .iter()
            .take_while(|(name, _)| *name != "Weight");
        columns.for_each(|(_, kind)| value(row, &mut at, kind));
        at
    }

    /// Bytes that are often a field of a span, and often not.
    fn hostile() -> impl Strategy<Value = Vec<u8>> {
        let field = (
            prop::sample::select(vec![0x1au8, 0x2a, 0x4a, 0x5a, 0x6a, 0x7a, 0x39, 0x30]),
            prop::collection::vec(any::<u8>(), 0..40),
        );
        let fields = prop::collection::vec(field, 0..6).prop_map(|fields| {
            fields
                .into_iter()
                .flat_map(|(tag, value)| [vec![tag, value.len() as u8], value].concat())
                .collect()
        });
        prop_oneof![fields, prop::collection::vec(any::<u8>(), 0..200)]
    }

    proptest! {
        /// Whatever the bytes, a row is whole and its texts are UTF-8.
        #[test]
        fn any_bytes_make_a_whole_row(span in hostile(), threshold in prop::sample::select(vec![0, 1 << 55, u64::MAX])) {
            let (mut exporter, mut row, mut field) = (Exporter::default(), Vec::new(), Vec::new());
            exporter.put_row(&mut row, &span, &context(threshold));
            prop_assert_eq!(row_end(&row), row.len());
            exporter.put_span(&mut field, &span);
            let mut reader = Reader::new(&field);
            prop_assert_eq!(reader.tag(), Ok(0x12));
            prop_assert!(reader.message().is_ok() && !reader.more());
            exporter.put_resource(&mut row, &span);
            exporter.put_scope(&mut row, &span);
        }

        /// Whatever a trace state says, what is emitted is well-formed, is true, and says the same when it is emitted again.
        #[test]
        fn an_emitted_threshold_is_true(
            state in prop_oneof!["(ot=(th:[0-9a-f]{1,15}|rv:[0-9a-f]{13,14}|x:y|;){1,4},?| ?v=1 ?,?){0,5}", ".{0,40}"],
            threshold in 0u64..(1 << 57),
            id in any::<[u8; 16]>(),
        ) {
            let mut out = Vec::new();
            if !set_threshold(&mut out, state.as_bytes(), threshold, &id) {
                out = state.into_bytes();
            }
            let emitted = tracestate::parse(&out).expect("well-formed");
            let randomness = emitted.randomness.unwrap_or_else(|| crate::buffer::randomness_of(&id));
            let expected = (threshold < MAX_THRESHOLD && randomness >= threshold).then_some(threshold);
            prop_assert_eq!(emitted.threshold, expected);
            prop_assert!(!set_threshold(&mut Vec::new(), &out, threshold, &id));
        }
    }
}
