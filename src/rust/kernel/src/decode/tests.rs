//! What the Python tests cannot see: where things lie in the body, and what sampling reads of spans. Values and rows are held
//! to the oracle in `tests/decode/test_traces.py`.

use std::sync::Arc;

use super::*;
use crate::rowbinary::put_varint;

const RECEIVE_NS: i64 = 1_700_000_000_000_000_000;

fn field(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    put_varint(&mut out, content.len() as u64);
    out.extend_from_slice(content);
    out
}

fn text_attribute(tag: u8, key: &str, value: &str) -> Vec<u8> {
    field(
        tag,
        &[
            field(0x0a, key.as_bytes()),
            field(0x12, &field(0x0a, value.as_bytes())),
        ]
        .concat(),
    )
}

fn int_attribute(tag: u8, key: &str, value: u64) -> Vec<u8> {
    let mut number = vec![0x18];
    put_varint(&mut number, value);
    field(
        tag,
        &[field(0x0a, key.as_bytes()), field(0x12, &number)].concat(),
    )
}

/// A span of trace `t…` whose fields follow its ids.
fn span(number: u8, rest: &[Vec<u8>]) -> Vec<u8> {
    field(
        0x12,
        &[
            field(0x0a, &[b't'; 16]),
            field(0x12, &[number; 8]),
            rest.concat(),
        ]
        .concat(),
    )
}

fn dialect() -> Dialect {
    Dialect::new([
        ("span", "model", "model"),
        ("scope", "model", "model"),
        ("resource", "model", "model"),
        ("span", "size", "batch_size"),
        ("span", "f.*", "feature"),
        ("resource", "region", "segment:region"),
    ])
    .unwrap()
}

fn decode(data: &[u8]) -> SpanBatch {
    decode_traces(
        Arc::new(data.to_vec()),
        &dialect(),
        RECEIVE_NS,
        &Limits::default(),
    )
    .unwrap()
}

fn slice(data: &[u8], range: &Bytes32) -> Vec<u8> {
    data[range.start as usize..range.end as usize].to_vec()
}

#[test]
fn parts_are_found_whatever_their_order() {
    let resource = text_attribute(0x0a, "service.name", "shop");
    let scope = field(0x0a, b"lib");
    let one = span(1, &[]);
    // spans before their scope, scopes before their resource, schema urls last
    let scope_spans = [
        one.clone(),
        span(2, &[]),
        field(0x0a, &scope),
        field(0x1a, b"s-url"),
    ]
    .concat();
    let second = field(0x12, &span(3, &[]));
    let data = field(
        0x0a,
        &[
            field(0x12, &scope_spans),
            second,
            field(0x0a, &resource),
            field(0x1a, b"r-url"),
        ]
        .concat(),
    );
    let data = [data, field(0x0a, &field(0x12, &span(4, &[])))].concat();
    let batch = decode(&data);
    assert_eq!(slice(&data, &batch.resources[0].message), resource);
    assert_eq!(slice(&data, &batch.resources[0].service), b"shop");
    assert_eq!(slice(&data, &batch.resources[0].schema_url), b"r-url");
    assert_eq!(slice(&data, &batch.scopes[0].message), scope);
    assert_eq!(slice(&data, &batch.scopes[0].schema_url), b"s-url");
    assert_eq!(
        batch
            .scopes
            .iter()
            .map(|scope| scope.resource)
            .collect::<Vec<_>>(),
        [0, 0, 1]
    );
    assert_eq!(
        batch
            .spans
            .iter()
            .map(|span| span.scope)
            .collect::<Vec<_>>(),
        [0, 0, 1, 2]
    );
    assert_eq!(field(0x12, &slice(&data, &batch.spans[0].message)), one);
    let empty = &batch.resources[1];
    assert!(empty.message.is_empty() && empty.service.is_empty() && empty.schema_url.is_empty());
}

#[test]
fn what_sampling_reads_of_a_span() {
    let times = [
        &[0x39][..],
        &5u64.to_le_bytes(),
        &[0x41],
        &9u64.to_le_bytes(),
    ]
    .concat();
    let state = field(0x1a, b"x=1,ot=th:c;rv:0123456789abcd");
    let error = field(0x7a, &[0x18, 2]);
    let child = span(1, &[times, state, error, field(0x22, &[7; 8])]);
    let data = field(
        0x0a,
        &field(0x12, &[child, span(2, &[field(0x7a, &[0x18, 1])])].concat()),
    );
    let batch = decode(&data);
    let (child, root) = (&batch.spans[0], &batch.spans[1]);
    assert_eq!(
        (child.trace_id, child.start_ns, child.end_ns),
        ([b't'; 16], 5, 9)
    );
    assert_eq!(
        (child.threshold, child.randomness),
        (Some(0xc << 52), Some(0x0123456789abcd))
    );
    assert!(child.error && !child.root);
    assert!(!root.error && root.root);
    assert_eq!((root.threshold, root.randomness), (None, None));
}

#[test]
fn rejected_spans_leave_nothing_behind() {
    let features = [
        text_attribute(0x4a, "model", "m"),
        int_attribute(0x4a, "f.a", 1),
        text_attribute(0x4a, "f.b", "x"),
    ]
    .concat();
    let bad = field(
        0x12,
        &[
            field(0x0a, &[0; 16]),
            field(0x12, &[1; 8]),
            features.clone(),
        ]
        .concat(),
    );
    let data = field(
        0x0a,
        &field(0x12, &[bad.clone(), bad, span(1, &[features])].concat()),
    );
    let batch = decode(&data);
    assert_eq!(batch.spans.len(), 1);
    assert_eq!(
        (batch.rejected[0].reason, batch.rejected[0].spans),
        ("trace_id_invalid", 2)
    );
    assert_eq!(
        usize::from(data[batch.rejected[0].offset as usize - 2]),
        0x12,
        "the offset is where the span begins"
    );
    assert_eq!(
        (
            batch.predictions.len(),
            batch.numeric.len(),
            batch.categorical.len()
        ),
        (1, 2, 1)
    );
    assert_eq!(batch.numeric[0].prediction, 0);
}

#[test]
fn values_of_a_batch_are_in_the_order_of_its_rows() {
    let mut column = Vec::new();
    for value in [1, 2, 3] {
        column.extend(field(0x0a, &[0x18, value]));
    }
    let array = |key: &str| {
        field(
            0x4a,
            &[
                field(0x0a, key.as_bytes()),
                field(0x12, &field(0x2a, &column)),
            ]
            .concat(),
        )
    };
    let span = span(
        1,
        &[
            text_attribute(0x4a, "model", "m"),
            array("f.a"),
            array("f.b"),
            int_attribute(0x4a, "size", 3),
        ],
    );
    let batch = decode(&field(0x0a, &field(0x12, &span)));
    let order: Vec<_> = batch
        .numeric
        .iter()
        .map(|value| (value.prediction, &*batch.series[value.series as usize]))
        .collect();
    let row = |at| [(at, "features/a"), (at, "features/b"), (at, "duration_ms")];
    assert_eq!(order, [row(0), row(1), row(2)].concat());
    assert_eq!(batch.spans[0].predictions, 0..3);
    assert!(
        batch
            .predictions
            .iter()
            .all(|prediction| prediction.span == 0 && prediction.weight.is_nan())
    );
}

#[test]
fn the_nearest_of_span_scope_and_resource_names_the_model() {
    let resource = field(
        0x0a,
        &[
            text_attribute(0x0a, "model", "of-resource"),
            text_attribute(0x0a, "region", "eu"),
        ]
        .concat(),
    );
    let scope = field(0x0a, &text_attribute(0x1a, "model", "of-scope"));
    let named = span(1, &[text_attribute(0x4a, "model", "of-span")]);
    let first = field(0x12, &[scope, named, span(2, &[])].concat());
    let second = field(0x12, &span(3, &[]));
    let batch = decode(&field(0x0a, &[resource, first, second].concat()));
    let models: Vec<_> = batch
        .predictions
        .iter()
        .map(|prediction| &*batch.groups[prediction.group as usize].model)
        .collect();
    assert_eq!(models, ["of-span", "of-scope", "of-resource"]);
    let mut columns = columns::Columns::default();
    columns.push_batch(&batch);
    assert_eq!(&*columns.segments[0].1.categories, ["eu".into()]);
}

#[test]
fn event_times_stay_within_their_bounds() {
    let at = |end: u64| {
        span(
            1,
            &[
                text_attribute(0x4a, "model", "m"),
                [&[0x41][..], &end.to_le_bytes()].concat(),
            ],
        )
    };
    let late = Limits::default().max_late_ns;
    for (end, event_ns) in [
        (0, RECEIVE_NS),
        (1, RECEIVE_NS - late),
        (
            RECEIVE_NS as u64 + 4_000_000_000,
            RECEIVE_NS + 4_000_000_000,
        ),
        (
            RECEIVE_NS as u64 + 6_000_000_000,
            RECEIVE_NS + 5_000_000_000,
        ),
        (u64::MAX, RECEIVE_NS + 5_000_000_000),
    ] {
        let batch = decode(&field(0x0a, &field(0x12, &at(end))));
        assert_eq!(batch.predictions[0].event_ns, event_ns, "{end}");
        let clamped = batch
            .notes
            .iter()
            .any(|(name, _)| *name == "event_time_clamped");
        assert_eq!(clamped, end != 0 && event_ns as u64 != end, "{end}");
    }
}

/// Each of these would take minutes or hours if its cost were a product of two lengths; it is a sum.
#[test]
fn hostile_shapes_stay_linear() {
    let spans = |fields: &[Vec<u8>]| {
        (0..100_000)
            .flat_map(|_| span(1, fields))
            .collect::<Vec<_>>()
    };
    let request = |resource: Vec<u8>, scope: Vec<u8>, spans: Vec<u8>| {
        field(
            0x0a,
            &[
                field(0x0a, &resource),
                field(0x12, &[field(0x0a, &scope), spans].concat()),
            ]
            .concat(),
        )
    };
    // an attribute of the resource repeated, for many spans
    let resource = text_attribute(0x0a, "model", "m").repeat(100_000);
    assert_eq!(
        decode(&request(resource, vec![], spans(&[])))
            .predictions
            .len(),
        100_000
    );
    // a model's name of megabytes, for many spans
    let scope = text_attribute(0x1a, "model", &"m".repeat(8 << 20));
    let batch = decode(&request(vec![], scope, spans(&[])));
    assert_eq!(
        (batch.predictions.len(), batch.groups[0].model.len()),
        (100_000, 256)
    );
    // names that are not whole, for many spans that need them
    let dialect = Dialect::new([
        ("scope", "model", "model"),
        ("scope", "names", "features_names"),
        ("span", "values", "features_values"),
        ("span", "size", "batch_size"),
        ("span", "f.*", "feature"),
    ])
    .unwrap();
    let decode = |data: Vec<u8>| {
        decode_traces(Arc::new(data), &dialect, RECEIVE_NS, &Limits::default()).unwrap()
    };
    let names = [
        field(0x0a, &field(0x0a, b"a")).repeat(500_000),
        field(0x0a, &[]),
    ]
    .concat();
    let array = |tag: u8, key: &str, items: &[u8]| {
        field(
            tag,
            &[
                field(0x0a, key.as_bytes()),
                field(0x12, &field(0x2a, items)),
            ]
            .concat(),
        )
    };
    let scope = [
        text_attribute(0x1a, "model", "m"),
        array(0x1a, "names", &names),
    ]
    .concat();
    let batch = decode(request(vec![], scope, spans(&[array(0x4a, "values", &[])])));
    assert_eq!(batch.notes, [("features_schema_unknown", 100_000)]);
    // one feature repeated, for many rows
    let repeated = int_attribute(0x4a, "f.a", 1).repeat(100_000);
    let row = span(1, &[int_attribute(0x4a, "size", 10_000), repeated]);
    let batch = decode(request(vec![], text_attribute(0x1a, "model", "m"), row));
    assert_eq!(
        (batch.predictions.len(), batch.numeric.len()),
        (10_000, 20_000)
    );
    assert_eq!(batch.notes, [("feature_duplicate", 99_999 * 10_000)]);
}
