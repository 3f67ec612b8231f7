//! Takes decided traces out: rows and OTLP of what is kept, prediction rows of everything, exact counts.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::index::{Place, Tag};
use super::memory::{Decision, Kept, Verdict};
use super::otlp::{self, KeptSpan};
use super::pinned::{Link, NOWHERE, Pinned, slice};
use super::{Late, PINNED, Trace, TraceBuffer};
use crate::batch::{Body, TraceId};
use crate::export::{Context, Exporter};
use crate::rowbinary::{put_nullable_f64, put_str, put_u32, put_u64};

/// A batch of decisions, as columns; see `TraceBuffer.decide` in `_kernel.pyi`.
#[derive(Debug, Clone, Copy)]
pub struct Decisions<'a> {
    pub trace_ids: &'a [TraceId],
    pub keep: &'a [bool],
    pub threshold: &'a [u64],
    pub weight: &'a [f64],
    pub sampling: &'a [u8],
    pub policy: &'a [u8],
    pub samplings: &'a [String],
    pub policies: &'a [String],
    pub plan_revision: u32,
}

impl Decisions<'_> {
    /// What is wrong with the columns, if anything is.
    pub fn fault(&self) -> Option<String> {
        let traces = self.trace_ids.len();
        let lengths = [
            ("keep", self.keep.len()),
            ("threshold", self.threshold.len()),
            ("weight", self.weight.len()),
            ("sampling", self.sampling.len()),
            ("policy", self.policy.len()),
        ];
        for (name, length) in lengths {
            if length != traces {
                return Some(format!(
                    "{name}: expected {traces} entries, one for each of trace_ids, got {length}"
                ));
            }
        }
        for (name, codes, texts) in [
            ("sampling", self.sampling, self.samplings),
            ("policy", self.policy, self.policies),
        ] {
            if let Some((at, code)) = codes
                .iter()
                .enumerate()
                .find(|&(_, &code)| usize::from(code) >= texts.len())
            {
                return Some(format!(
                    "{name}[{at}]: expected an index into a list of {}, got {code}",
                    texts.len()
                ));
            }
        }
        None
    }
}

/// Who writes the rows, and for which journal segment.
#[derive(Debug, Clone, Copy)]
pub struct Origin<'a> {
    pub collector: &'a str,
    pub segment: u64,
}

/// What a batch of decisions gives out; see `Taken` in `_kernel.pyi`.
#[derive(Debug, Default)]
pub struct Taken {
    pub span_rows: Vec<u8>,
    pub spans_kept: u64,
    pub spans_dropped: u64,
    pub spans_rescued: u64,
    /// Of the kept ones: not given out, since their bytes were not to be had.
    pub spans_missing: u64,
    pub prediction_rows: Vec<u8>,
    pub predictions: BTreeMap<String, u64>,
    pub otlp: Vec<Vec<u8>>,
}

/// What a late error of a dropped trace is kept as: to be looked at, never to be counted from.
const RESCUED: &str = "rescued";

impl TraceBuffer {
    /// Where each trace is. All looks into the index at once: they do not depend on each other, so their cache misses overlap.
    fn find_all(&self, ids: &[TraceId]) -> Vec<Option<Place>> {
        ids.iter()
            .map(|id| self.find(self.index.tag(id), id))
            .collect()
    }

    /// The journal positions of requests that these decisions, and the late spans so far, need and that are not held; ascending.
    pub fn sources(&self, ids: &[TraceId], keep: &[bool]) -> Vec<u64> {
        let mut elsewhere = BTreeSet::new();
        let mut note = |pinned: &Pinned| {
            if pinned.body.is_none() {
                elsewhere.insert(pinned.sequence);
            }
        };
        let kept = ids.iter().zip(keep).filter(|(_, keep)| **keep);
        let kept: Vec<TraceId> = kept.map(|(id, _)| *id).collect();
        for place in self.find_all(&kept) {
            let Some(Place::Waiting(trace)) = place else {
                continue;
            };
            let mut link = self.traces[trace as usize].head;
            while link != NOWHERE {
                let pinned = self.pin(link);
                note(pinned);
                link = pinned.spans[link.at as usize].next;
            }
        }
        for late in &self.late {
            if late.decision.keep || late.error {
                note(self.pin(late.link));
            }
        }
        elsewhere.into_iter().collect()
    }

    /// Takes the traces out, remembers the decisions, and gives out the late spans so far. The decisions must be without fault.
    ///
    /// `bodies` are those of `sources`, by their positions. A span whose bytes are not there is missing: neither kept nor dropped.
    pub fn decide(
        &mut self,
        decisions: &Decisions<'_>,
        origin: Origin<'_>,
        bodies: &FxHashMap<u64, Body>,
        otlp: bool,
    ) -> Taken {
        let mut writer = Writer::new(origin, otlp, self.groups.entries.len());
        let mut verdicts = Shared::new(decisions);
        let mut lent = Vec::new();
        if !bodies.is_empty() {
            for (slot, pinned) in (0u32..).zip(&mut self.pins) {
                if let Some(pinned) = pinned
                    && let Some(body) = bodies.get(&pinned.sequence)
                    && pinned.borrow(body)
                {
                    lent.push(slot);
                }
            }
        }
        let found = self.find_all(decisions.trace_ids);
        for (at, place) in found.into_iter().enumerate() {
            let Some(Place::Waiting(trace)) = place else {
                continue;
            };
            let (id, mut link) = (&decisions.trace_ids[at], self.traces[trace as usize].head);
            if link == NOWHERE {
                continue; // the id was given twice
            }
            let decision = verdicts.decision(self, decisions, at);
            writer.begin(&decision);
            while link != NOWHERE {
                link = self.give_out(&mut writer, link, id, &decision);
            }
            self.close(trace);
            self.keep_in_mind(*id, self.index.tag(id), Some(trace), decision);
        }
        for Late {
            link,
            id,
            decision,
            error,
        } in std::mem::take(&mut self.late)
        {
            let rescued = error && !decision.keep;
            let decision = if rescued {
                let verdict = self.verdicts.get(
                    RESCUED,
                    &decision.verdict.policy,
                    decision.verdict.plan_revision,
                );
                Decision {
                    keep: true,
                    threshold: u64::MAX,
                    weight: 0.0,
                    verdict,
                }
            } else {
                decision
            };
            let is_there = self.pin(link).body.is_some();
            writer.taken.spans_rescued += u64::from(rescued && is_there);
            writer.begin(&decision);
            self.give_out(&mut writer, link, &id, &decision);
        }
        let taken = writer.finish(self);
        for slot in lent {
            // the slot may be empty by now, or gone: an empty buffer gives its memory back
            if let Some(Some(pinned)) = self.pins.get_mut(slot as usize) {
                pinned.body = None;
            }
        }
        taken
    }

    /// Puts decisions of an earlier run into the memory for late spans. The decisions must be without fault.
    pub fn remember(&mut self, decisions: &Decisions<'_>) {
        let mut verdicts = Shared::new(decisions);
        for at in 0..decisions.trace_ids.len() {
            let (id, tag) = (
                decisions.trace_ids[at],
                self.index.tag(&decisions.trace_ids[at]),
            );
            let decision = verdicts.decision(self, decisions, at);
            match self.find(tag, &id) {
                Some(Place::Waiting(_)) => continue, // it is to be decided in this run
                Some(place) => self.index.remove(tag, place), // the newer decision holds
                None => {}
            }
            self.keep_in_mind(id, tag, None, decision);
        }
    }

    /// Writes one span and its predictions, and lets go of it; returns the next span of its trace.
    fn give_out(
        &mut self,
        writer: &mut Writer<'_>,
        link: Link,
        id: &TraceId,
        decision: &Decision,
    ) -> Link {
        let pinned = self.pins[link.slot as usize].as_mut().expect(PINNED);
        pinned.spans_waiting -= 1;
        if pinned.spans_waiting == 0 {
            writer.emptied.push(link.slot);
        }
        for prediction in pinned.predictions_of(link.at) {
            writer.put_prediction(pinned.row(prediction), pinned.predictions[prediction].group);
        }
        if decision.keep && pinned.body.is_none() {
            writer.taken.spans_missing += 1;
        } else if decision.keep {
            writer.put_span(pinned, link, id, decision.threshold);
        } else {
            writer.taken.spans_dropped += 1;
        }
        pinned.spans[link.at as usize].next
    }

    /// Takes a trace off the lists of what is due.
    fn close(&mut self, trace: u32) {
        let Trace {
            head, root_slot, ..
        } = self.traces[trace as usize];
        let first = self.pin_mut(head.slot);
        first.opened_waiting -= 1;
        let (key, done) = ((first.receive_ns, first.number), first.opened_waiting == 0);
        if done {
            self.by_first.remove(&key);
        }
        if root_slot != NOWHERE.slot {
            let root = self.pin_mut(root_slot);
            root.rooted_waiting -= 1;
            let (key, done) = ((root.receive_ns, root.number), root.rooted_waiting == 0);
            if done {
                self.by_root.remove(&key);
            }
        }
        let record = &mut self.traces[trace as usize];
        (record.head, record.root_slot) = (NOWHERE, NOWHERE.slot);
        self.free_traces.push(trace);
    }

    fn unpin(&mut self, slot: u32) {
        let pinned = self.pins[slot as usize].take().expect(PINNED);
        self.free_pins.push(slot);
        self.held -= pinned.cost;
        if let Some(count) = self.sequences.get_mut(&pinned.sequence) {
            *count -= 1;
            if *count == 0 {
                self.sequences.remove(&pinned.sequence);
            }
        }
    }

    /// Remembers a decision for late spans, in place of the waiting trace where there was one; the oldest is forgotten for it.
    fn keep_in_mind(&mut self, id: TraceId, tag: Tag, waiting: Option<u32>, decision: Decision) {
        let oldest = if decision.keep {
            self.kept.oldest().map(|(at, id)| (id, Place::Kept(at)))
        } else {
            self.dropped
                .oldest()
                .map(|(at, id)| (id, Place::Dropped(at)))
        };
        if let Some((id, place)) = oldest {
            self.index.remove(self.index.tag(id), place);
        }
        let place = if decision.keep {
            let Decision {
                threshold,
                weight,
                verdict,
                ..
            } = decision;
            self.kept
                .push(
                    id,
                    Kept {
                        threshold,
                        weight,
                        verdict,
                    },
                )
                .map(Place::Kept)
        } else {
            self.dropped.push(id, decision.verdict).map(Place::Dropped)
        };
        match (waiting.map(Place::Waiting), place) {
            (Some(from), Some(to)) => self.index.replace(tag, from, to),
            (Some(from), None) => self.index.remove(tag, from),
            (None, Some(to)) => self.index.insert(tag, to),
            (None, None) => {}
        }
    }
}

/// The verdicts of a batch of decisions, each made once.
struct Shared {
    verdicts: Vec<Option<Arc<Verdict>>>,
}

impl Shared {
    fn new(decisions: &Decisions<'_>) -> Self {
        Self {
            verdicts: vec![None; decisions.samplings.len() * decisions.policies.len()],
        }
    }

    fn decision(
        &mut self,
        buffer: &mut TraceBuffer,
        decisions: &Decisions<'_>,
        at: usize,
    ) -> Decision {
        let (sampling, policy) = (
            usize::from(decisions.sampling[at]),
            usize::from(decisions.policy[at]),
        );
        let verdict = self.verdicts[sampling * decisions.policies.len() + policy]
            .get_or_insert_with(|| {
                buffer.verdicts.get(
                    &decisions.samplings[sampling],
                    &decisions.policies[policy],
                    decisions.plan_revision,
                )
            });
        Decision {
            keep: decisions.keep[at],
            threshold: decisions.threshold[at],
            weight: decisions.weight[at],
            verdict: verdict.clone(),
        }
    }
}

/// Writes what is given out.
struct Writer<'o> {
    taken: Taken,
    origin: Origin<'o>,
    exporter: Exporter,
    /// Weight to segment, which end the rows of spans and of predictions alike.
    tail: Vec<u8>,
    /// Requests of which nothing waits any more; they are let go of at the end, since kept spans may lie in them.
    emptied: Vec<u32>,
    /// Predictions given out, by the buffer's number of a group.
    groups: Vec<u64>,
    /// Where each resource and scope, by (slot, number), is in `encoded`.
    resources: FxHashMap<(u32, u32), Range<usize>>,
    scopes: FxHashMap<(u32, u32), Range<usize>>,
    encoded: Vec<u8>,
    otlp: Option<Vec<KeptSpan>>,
    otlp_bytes: Vec<u8>,
}

impl<'o> Writer<'o> {
    fn new(origin: Origin<'o>, otlp: bool, groups: usize) -> Self {
        Self {
            taken: Taken::default(),
            origin,
            exporter: Exporter::default(),
            tail: Vec::new(),
            emptied: Vec::new(),
            groups: vec![0; groups],
            resources: FxHashMap::default(),
            scopes: FxHashMap::default(),
            encoded: Vec::new(),
            otlp: otlp.then(Vec::new),
            otlp_bytes: Vec::new(),
        }
    }

    /// What is written from here on was decided so.
    fn begin(&mut self, decision: &Decision) {
        let Verdict {
            sampling,
            policy,
            plan_revision,
        } = &*decision.verdict;
        self.tail.clear();
        put_nullable_f64(
            &mut self.tail,
            Some(decision.weight).filter(|weight| decision.keep && !weight.is_nan()),
        );
        put_str(&mut self.tail, sampling.as_bytes());
        put_str(&mut self.tail, policy.as_bytes());
        put_u32(&mut self.tail, *plan_revision);
        put_str(&mut self.tail, self.origin.collector.as_bytes());
        put_u64(&mut self.tail, self.origin.segment);
    }

    fn put_prediction(&mut self, row: &[u8], group: u32) {
        self.taken.prediction_rows.extend_from_slice(row);
        self.taken.prediction_rows.extend_from_slice(&self.tail);
        self.groups[group as usize] += 1;
    }

    fn put_span(&mut self, pinned: &Pinned, link: Link, id: &TraceId, threshold: u64) {
        let span = &pinned.spans[link.at as usize];
        let (bytes, scope) = (pinned.bytes(), &pinned.scopes[span.scope as usize]);
        let resource = &pinned.resources[scope.resource as usize];
        let resource_row = self
            .resources
            .entry((link.slot, scope.resource))
            .or_insert_with(|| {
                let start = self.encoded.len();
                self.exporter
                    .put_resource(&mut self.encoded, slice(bytes, &resource.message));
                start..self.encoded.len()
            });
        let scope_row = self
            .scopes
            .entry((link.slot, span.scope))
            .or_insert_with(|| {
                let start = self.encoded.len();
                self.exporter
                    .put_scope(&mut self.encoded, slice(bytes, &scope.message));
                start..self.encoded.len()
            });
        let message = slice(bytes, &(span.start..span.end));
        let context = Context {
            trace_id: id,
            service: slice(bytes, &resource.service),
            resource: &self.encoded[resource_row.clone()],
            scope: &self.encoded[scope_row.clone()],
            threshold,
            tail: &self.tail,
        };
        self.exporter
            .put_row(&mut self.taken.span_rows, message, &context);
        self.taken.spans_kept += 1;
        if let Some(spans) = &mut self.otlp {
            let start = self.otlp_bytes.len();
            self.exporter.put_span(&mut self.otlp_bytes, message);
            spans.push(KeptSpan {
                request: pinned.number,
                slot: link.slot,
                resource: scope.resource,
                scope: span.scope,
                bytes: start..self.otlp_bytes.len(),
            });
        }
    }

    /// Counts, packs the kept spans, and lets go of the requests.
    fn finish(mut self, buffer: &mut TraceBuffer) -> Taken {
        if let Some(spans) = self.otlp {
            self.taken.otlp = otlp::requests(spans, &self.otlp_bytes, |slot| {
                buffer.pin(Link { slot, at: 0 })
            });
        }
        for slot in self.emptied {
            buffer.unpin(slot);
        }
        for (number, count) in (0u32..).zip(self.groups).filter(|&(_, count)| count > 0) {
            let model = buffer.groups.entries[number as usize].0.model.to_string();
            *self.taken.predictions.entry(model).or_default() += count;
            buffer.groups.done(number, count);
        }
        let taken = &self.taken;
        buffer.spans -= taken.spans_kept + taken.spans_dropped + taken.spans_missing;
        buffer.shrink();
        self.taken
    }
}
