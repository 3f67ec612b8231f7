//! The trace buffer: undecided traces, over the bytes of the requests that their spans came in.
//!
//! Nothing is copied but the encoded prediction rows. A request stays pinned while one of its spans is undecided; a
//! span costs a record of 24 bytes, a trace one of 112 and its cell in the index. The bytes of a request are held, or wait where its
//! sender can find them again: then they are lent for the decision that needs them. What is asked of a trace (its span, count,
//! start, end, error, randomness) does not depend on the order in which its spans came.
//!
//! Key files: [`index`] where each trace is; [`pinned`] the records of a request; [`due`] which traces to decide, as
//! columns; [`decide`] what is given out, [`otlp`] as requests; [`memory`] decisions remembered for late spans.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::batch::{Group, Span, SpanBatch, TraceId};

mod decide;
mod due;
mod index;
mod memory;
mod otlp;
mod pinned;
#[cfg(test)]
mod tests;

pub use decide::{Decisions, Origin, Taken};
pub use due::{Ask, Due};

use index::{Index, MAX_INDEX, Place, Tag};
use memory::{Decision, Kept, Ring, Verdict, Verdicts};
use pinned::{Link, NOWHERE, Pinned, PredictionRecord, SpanRecord};

/// The arguments of a buffer; see `TraceBuffer` in `_kernel.pyi`.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub wait_ns: i64,
    /// 0: a root does not make its trace due.
    pub wait_after_root_ns: i64,
    pub max_bytes: u64,
    pub max_traces: u64,
    pub remember_kept: usize,
    pub remember_dropped: usize,
}

/// One undecided trace.
struct Trace {
    id: TraceId,
    head: Link,
    tail: Link,
    /// The span whose service names the trace: a root before the others, the earliest of those, the least name of those.
    lead: Link,
    lead_rank: (bool, u64),
    /// The earliest known start, the latest end; 0 where there is none.
    start_ns: u64,
    end_ns: u64,
    /// The least `rv` of its spans; `u64::MAX` where none has one.
    randomness: u64,
    /// The largest `th` of its spans; meaningful where `sampled`.
    threshold: u64,
    /// Of its encoded spans.
    bytes: u64,
    spans: u32,
    predictions: u32,
    /// The request that its first root came in; [`NOWHERE`]'s slot while there is none.
    root_slot: u32,
    sampled: bool,
    error: bool,
}

/// A span of a trace that was decided before, with what was decided.
struct Late {
    link: Link,
    id: TraceId,
    decision: Decision,
    error: bool,
}

/// Undecided traces. See `_kernel.pyi`.
pub struct TraceBuffer {
    limits: Limits,
    index: Index,
    traces: Vec<Trace>,
    free_traces: Vec<u32>,
    pins: Vec<Option<Pinned>>,
    free_pins: Vec<u32>,
    /// (receive time, number) of each request that opened traces which still wait, or that brought their first roots.
    by_first: BTreeMap<(i64, u64), u32>,
    by_root: BTreeMap<(i64, u64), u32>,
    /// Journal position -> requests pinned.
    sequences: BTreeMap<u64, u32>,
    late: Vec<Late>,
    kept: Ring<Kept>,
    dropped: Ring<Arc<Verdict>>,
    verdicts: Verdicts,
    groups: Groups,
    added: u64,
    spans: u64,
    held: u64,
}

impl TraceBuffer {
    pub fn new(limits: Limits) -> Self {
        Self {
            index: Index::new(),
            traces: Vec::new(),
            free_traces: Vec::new(),
            pins: Vec::new(),
            free_pins: Vec::new(),
            by_first: BTreeMap::new(),
            by_root: BTreeMap::new(),
            sequences: BTreeMap::new(),
            late: Vec::new(),
            kept: Ring::new(limits.remember_kept.min(MAX_INDEX as usize)),
            dropped: Ring::new(limits.remember_dropped.min(MAX_INDEX as usize)),
            verdicts: Verdicts::default(),
            groups: Groups::default(),
            added: 0,
            spans: 0,
            held: 0,
            limits,
        }
    }

    /// Spans waiting, late ones included.
    pub fn spans(&self) -> u64 {
        self.spans
    }

    /// Predictions waiting, by model.
    pub fn predictions(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for (group, waiting) in self
            .groups
            .entries
            .iter()
            .filter(|(_, waiting)| *waiting > 0)
        {
            *counts.entry(group.model.to_string()).or_default() += waiting;
        }
        counts
    }

    /// Traces waiting.
    pub fn traces(&self) -> u64 {
        (self.traces.len() - self.free_traces.len()) as u64
    }

    /// Bytes held: each pinned request once, and the records about it.
    pub fn bytes(&self) -> u64 {
        self.held + self.traces() * TRACE_COST
    }

    /// Spans that came after their trace was decided.
    pub fn late(&self) -> u64 {
        self.late.len() as u64
    }

    /// The lowest journal position that an undecided or late span came from.
    pub fn oldest_sequence(&self) -> Option<u64> {
        self.sequences.keys().next().copied()
    }

    /// Takes the spans of a request, and its bytes if it is to `hold` them.
    pub fn add(&mut self, batch: &SpanBatch, sequence: u64, hold: bool) {
        if batch.spans.is_empty() {
            return;
        }
        let slot = self.free_pins.pop().unwrap_or(self.pins.len() as u32);
        if slot as usize == self.pins.len() {
            self.pins.push(None);
        }
        let (mut spans, predictions, rows) = self.groups.records(batch);
        let (mut opened, mut rooted) = (Vec::new(), Vec::new());
        let mut last = NO_TRACE;
        self.index
            .warm(batch.spans.iter().map(|span| &span.trace_id));
        for (at, span) in batch.spans.iter().enumerate() {
            let link = Link {
                slot,
                at: at as u32,
            };
            if last == NO_TRACE || self.traces[last as usize].id != span.trace_id {
                let Some(trace) = self.trace_of(span, link) else {
                    last = NO_TRACE;
                    continue;
                };
                last = trace;
            }
            let trace = &mut self.traces[last as usize];
            if trace.spans == 0 {
                opened.push(last);
            } else {
                match trace.tail {
                    Link { slot: same, at } if same == slot => spans[at as usize].next = link,
                    Link { slot, at } => {
                        self.pins[slot as usize].as_mut().expect(PINNED).spans[at as usize].next =
                            link
                    }
                }
            }
            if span.root && trace.root_slot == NOWHERE.slot && self.limits.wait_after_root_ns > 0 {
                trace.root_slot = slot;
                rooted.push(last);
            }
            if trace.spans == 0 || self.leads(last, batch, span, slot) {
                let trace = &mut self.traces[last as usize];
                (trace.lead, trace.lead_rank) = (link, rank(span));
            }
            self.traces[last as usize].take(span, link);
        }
        let pinned = Pinned::new(
            batch,
            sequence,
            self.added,
            spans,
            predictions,
            rows,
            opened.into(),
            rooted.into(),
            hold,
        );
        let key = (pinned.receive_ns, pinned.number);
        if pinned.opened_waiting > 0 {
            self.by_first.insert(key, slot);
        }
        if pinned.rooted_waiting > 0 {
            self.by_root.insert(key, slot);
        }
        *self.sequences.entry(sequence).or_default() += 1;
        self.added += 1;
        self.spans += batch.spans.len() as u64;
        self.held += pinned.cost;
        self.pins[slot as usize] = Some(pinned);
    }

    /// Gives the memory of a burst back once nothing waits.
    fn shrink(&mut self) {
        if self.spans == 0 && self.traces.len() > 1 << 16 {
            (self.traces, self.free_traces) = (Vec::new(), Vec::new());
            (self.pins, self.free_pins) = (Vec::new(), Vec::new());
        }
    }

    fn find(&self, tag: Tag, id: &TraceId) -> Option<Place> {
        self.index.find(tag, |place| match place {
            Place::Waiting(at) => self.traces[at as usize].id == *id,
            Place::Kept(at) => self.kept.get(at).0 == *id,
            Place::Dropped(at) => self.dropped.get(at).0 == *id,
        })
    }

    /// The waiting trace of a span, opened where there is none; `None` where it was decided before, and the span is late.
    fn trace_of(&mut self, span: &Span, link: Link) -> Option<u32> {
        let (id, tag) = (&span.trace_id, self.index.tag(&span.trace_id));
        let decision = match self.find(tag, id) {
            Some(Place::Waiting(at)) => return Some(at),
            Some(Place::Kept(at)) => {
                let Kept {
                    threshold,
                    weight,
                    ref verdict,
                } = self.kept.get(at).1;
                Decision {
                    keep: true,
                    threshold,
                    weight,
                    verdict: verdict.clone(),
                }
            }
            Some(Place::Dropped(at)) => {
                let verdict = self.dropped.get(at).1.clone();
                Decision {
                    keep: false,
                    threshold: u64::MAX,
                    weight: f64::NAN,
                    verdict,
                }
            }
            None => {
                let trace = Trace::new(span.trace_id, link);
                let at = match self.free_traces.pop() {
                    Some(at) => {
                        self.traces[at as usize] = trace;
                        at
                    }
                    None => {
                        self.traces.push(trace);
                        self.traces.len() as u32 - 1
                    }
                };
                self.index.insert(tag, Place::Waiting(at));
                return Some(at);
            }
        };
        self.late.push(Late {
            link,
            id: *id,
            decision,
            error: span.error,
        });
        None
    }

    /// Whether `span` leads its trace rather than the one that leads it now.
    fn leads(&self, trace: u32, batch: &SpanBatch, span: &Span, slot: u32) -> bool {
        let Trace {
            lead, lead_rank, ..
        } = self.traces[trace as usize];
        match rank(span).cmp(&lead_rank) {
            Ordering::Less => true,
            Ordering::Greater => false,
            Ordering::Equal if lead.slot == slot => {
                service_of(batch, span) < service_of(batch, &batch.spans[lead.at as usize])
            }
            Ordering::Equal => service_of(batch, span) < self.pin(lead).service(lead.at),
        }
    }

    fn pin(&self, link: Link) -> &Pinned {
        self.pins[link.slot as usize].as_ref().expect(PINNED)
    }

    fn pin_mut(&mut self, slot: u32) -> &mut Pinned {
        self.pins[slot as usize].as_mut().expect(PINNED)
    }
}

/// A span keeps its request pinned until it is decided.
const PINNED: &str = "a waiting span's request is pinned";

const NO_TRACE: u32 = u32::MAX;

/// What a trace costs beside its spans: its record, and its cell in the index at the load after growing.
const TRACE_COST: u64 = (size_of::<Trace>() + 2 * size_of::<u64>()) as u64;

/// A root before the others, then the earliest; see [`Trace::lead`].
fn rank(span: &Span) -> (bool, u64) {
    (!span.root, span.start_ns)
}

fn service_of<'b>(batch: &'b SpanBatch, span: &Span) -> &'b [u8] {
    let resource = &batch.resources[batch.scopes[span.scope as usize].resource as usize];
    pinned::slice((*batch.body).as_ref(), &resource.service)
}

impl Trace {
    fn new(id: TraceId, link: Link) -> Self {
        Self {
            id,
            head: link,
            tail: link,
            lead: link,
            lead_rank: (true, 0),
            start_ns: 0,
            end_ns: 0,
            randomness: u64::MAX,
            threshold: 0,
            bytes: 0,
            spans: 0,
            predictions: 0,
            root_slot: NOWHERE.slot,
            sampled: false,
            error: false,
        }
    }

    fn take(&mut self, span: &Span, link: Link) {
        self.tail = link;
        // a time of 0 is a time that was not said
        if span.start_ns != 0 && (self.start_ns == 0 || span.start_ns < self.start_ns) {
            self.start_ns = span.start_ns;
        }
        self.end_ns = self.end_ns.max(span.end_ns);
        self.randomness = self.randomness.min(span.randomness.unwrap_or(u64::MAX));
        self.threshold = self.threshold.max(span.threshold.unwrap_or(0));
        self.sampled |= span.threshold.is_some();
        self.error |= span.error;
        self.bytes += u64::from(span.message.end - span.message.start);
        self.spans += 1;
        self.predictions += span.predictions.end - span.predictions.start;
    }

    /// `ot=rv` of its spans, else the last 56 bits of its id.
    fn randomness(&self) -> u64 {
        if self.randomness == u64::MAX {
            randomness_of(&self.id)
        } else {
            self.randomness
        }
    }
}

/// The last 56 bits of a trace id: what stands for `rv` where there is none.
pub fn randomness_of(id: &TraceId) -> u64 {
    u128::from_be_bytes(*id) as u64 & ((1 << 56) - 1)
}

/// The groups of the waiting predictions. A group is forgotten with its last prediction, so hostile names do not pile up.
#[derive(Default)]
struct Groups {
    entries: Vec<(Group, u64)>,
    numbers: HashMap<Group, u32>,
    free: Vec<u32>,
}

impl Groups {
    /// A request's spans and predictions as records, with the encoded rows; counts the predictions as waiting.
    fn records(&mut self, batch: &SpanBatch) -> (Vec<SpanRecord>, Vec<PredictionRecord>, Vec<u8>) {
        let mut numbers = vec![u32::MAX; batch.groups.len()];
        let mut spans = Vec::with_capacity(batch.spans.len());
        let mut predictions = Vec::with_capacity(batch.predictions.len());
        let mut rows = Vec::with_capacity(batch.rows.len());
        for span in &batch.spans {
            spans.push(SpanRecord {
                start: span.message.start,
                end: span.message.end,
                scope: span.scope,
                predictions: predictions.len() as u32,
                next: NOWHERE,
            });
            for prediction in
                &batch.predictions[span.predictions.start as usize..span.predictions.end as usize]
            {
                let number = &mut numbers[prediction.group as usize];
                if *number == u32::MAX {
                    *number = self.number(&batch.groups[prediction.group as usize]);
                }
                self.entries[*number as usize].1 += 1;
                rows.extend_from_slice(pinned::slice(&batch.rows, &prediction.row));
                let row_end = rows.len() as u32;
                predictions.push(PredictionRecord {
                    group: *number,
                    row_end,
                    duration_ns: prediction.duration_ns,
                });
            }
        }
        (spans, predictions, rows)
    }

    fn number(&mut self, group: &Group) -> u32 {
        if let Some(&number) = self.numbers.get(group) {
            return number;
        }
        let number = match self.free.pop() {
            Some(number) => {
                self.entries[number as usize] = (group.clone(), 0);
                number
            }
            None => {
                self.entries.push((group.clone(), 0));
                self.entries.len() as u32 - 1
            }
        };
        self.numbers.insert(group.clone(), number);
        number
    }

    /// Counts `count` predictions of a group as given out.
    fn done(&mut self, number: u32, count: u64) {
        let (group, waiting) = &mut self.entries[number as usize];
        *waiting -= count;
        if *waiting == 0 {
            self.numbers.remove(group);
            self.free.push(number);
        }
    }
}
