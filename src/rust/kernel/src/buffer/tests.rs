//! The buffer over hand-made batches; what it gives out is held to an oracle in `tests/sample/`.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::batch::{Prediction, Resource, Scope};

const SPAN: &[u8] = b"\x2a\x04name";

/// A request of spans of the given traces; each third is a prediction, each fifth an error.
fn batch(traces: &[u8], receive_ns: i64) -> SpanBatch {
    let mut batch = SpanBatch {
        body: Arc::new(SPAN.repeat(traces.len())),
        receive_ns,
        resources: vec![Resource {
            message: 0..0,
            service: 0..0,
            schema_url: 0..0,
        }],
        scopes: vec![Scope {
            resource: 0,
            message: 0..0,
            schema_url: 0..0,
        }],
        spans: Vec::new(),
        groups: vec![Group {
            model: "m".into(),
            version: "1".into(),
            role: "".into(),
        }],
        predictions: Vec::new(),
        series: Vec::new(),
        numeric: Vec::new(),
        categorical: Vec::new(),
        missing: Vec::new(),
        text: Vec::new(),
        rows: b"row".to_vec(),
        rejected: Vec::new(),
        notes: Vec::new(),
    };
    for (at, &trace) in (0u32..).zip(traces) {
        let first = batch.predictions.len() as u32;
        if at % 3 == 0 {
            batch.predictions.push(Prediction {
                span: at,
                group: 0,
                event_ns: 0,
                duration_ns: 1,
                weight: 1.0,
                row: 0..3,
            });
        }
        batch.spans.push(Span {
            trace_id: [trace; 16],
            message: at * SPAN.len() as u32..(at + 1) * SPAN.len() as u32,
            scope: 0,
            start_ns: 1,
            end_ns: 2,
            randomness: None,
            threshold: None,
            error: at % 5 == 0,
            root: at % 2 == 0,
            predictions: first..batch.predictions.len() as u32,
        });
    }
    batch
}

fn decide(buffer: &mut TraceBuffer, ids: &[TraceId], keep: &[bool]) -> Taken {
    let words = ["kept".to_string()];
    let (n, none) = (ids.len(), vec![0; ids.len()]);
    let decisions = Decisions {
        trace_ids: ids,
        keep,
        threshold: &vec![u64::MAX; n],
        weight: &vec![1.0; n],
        sampling: &none,
        policy: &none,
        samplings: &words,
        policies: &words,
        plan_revision: 1,
    };
    assert_eq!(decisions.fault(), None);
    buffer.decide(
        &decisions,
        Origin {
            collector: "c",
            segment: 1,
        },
        &Default::default(),
        true,
    )
}

proptest! {
    /// Spans and predictions added = given out + waiting, after every step; at the end nothing is held.
    #[test]
    fn accounting_is_exact(
        steps in prop::collection::vec((prop::collection::vec(0u8..40, 0..12), 0usize..8, any::<u32>()), 0..60),
        wait_after_root_ns in 0i64..3,
        remember in 0usize..5,
    ) {
        let limits = Limits { wait_ns: 4, wait_after_root_ns, max_bytes: 4000, max_traces: 20, remember_kept: remember, remember_dropped: 2 * remember };
        let mut buffer = TraceBuffer::new(limits);
        let (mut spans, mut predictions) = (0, 0);
        for (now_ns, (traces, limit, keep)) in (0..).zip(steps) {
            let added = batch(&traces, now_ns);
            spans += added.spans.len() as u64;
            predictions += added.predictions.len() as u64;
            buffer.add(&added, now_ns as u64, true);
            let due = buffer.due(Ask { now_ns, limit, everything: false, rows: false });
            let ids: Vec<TraceId> = due.trace_id.chunks_exact(16).map(|id| id.try_into().unwrap()).collect();
            let keep: Vec<bool> = (0..ids.len()).map(|at| keep >> at & 1 == 1).collect();
            let taken = decide(&mut buffer, &ids, &keep);
            spans -= taken.spans_kept + taken.spans_dropped;
            predictions -= taken.predictions.values().sum::<u64>();
            prop_assert_eq!(buffer.spans(), spans);
            prop_assert_eq!(buffer.predictions().values().sum::<u64>(), predictions);
            prop_assert_eq!(buffer.late(), 0);
            prop_assert_eq!(buffer.oldest_sequence().is_some(), spans > 0);
        }
        let ids: Vec<TraceId> = (0..40).map(|trace| [trace; 16]).collect();
        let taken = decide(&mut buffer, &ids, &[false; 40]);
        prop_assert_eq!(taken.spans_dropped, spans);
        prop_assert_eq!((buffer.spans(), buffer.traces(), buffer.bytes()), (0, 0, 0));
        prop_assert!(buffer.by_first.is_empty() && buffer.by_root.is_empty() && buffer.groups.numbers.is_empty());
    }
}
