//! Which traces to decide, and what is known of them, as columns.

use std::collections::HashMap;

use rustc_hash::FxHashMap;

use super::pinned::{Link, NOWHERE, Pinned};
use super::{Limits, Trace, TraceBuffer};
use crate::batch::Group;
use crate::decode::columns::Columns;

/// The columns of `TraceBuffer.due` in `_kernel.pyi`.
#[derive(Debug, Default, PartialEq)]
pub struct Due {
    /// 16 bytes each.
    pub trace_id: Vec<u8>,
    pub randomness: Vec<u64>,
    pub threshold: Vec<u64>,
    pub sampled: Vec<bool>,
    pub spans: Vec<u32>,
    pub bytes: Vec<u64>,
    pub start_ns: Vec<i64>,
    pub end_ns: Vec<i64>,
    pub error: Vec<bool>,
    pub predictions: Vec<u32>,
    pub service: Vec<u32>,
    pub services: Vec<Box<str>>,
    pub p_trace: Vec<u32>,
    pub p_group: Vec<u32>,
    pub groups: Vec<Group>,
    pub p_duration_ns: Vec<u64>,
    pub rows: Option<Columns>,
}

/// Which traces, and how much about them.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    pub now_ns: i64,
    pub limit: usize,
    pub everything: bool,
    pub rows: bool,
}

impl TraceBuffer {
    /// The traces to decide, oldest first; nothing is removed.
    pub fn due(&self, ask: Ask) -> Due {
        let chosen = self.select(ask);
        let mut columns = Columnar::new(self, chosen.len(), ask.rows);
        chosen
            .into_iter()
            .for_each(|at| columns.push(self, &self.traces[at as usize]));
        columns.due
    }

    /// By the time at which a trace is due, then by its id: whatever the order of arrival, the same traces come in the same order.
    fn select(&self, ask: Ask) -> Vec<u32> {
        let Limits {
            wait_ns,
            wait_after_root_ns,
            ..
        } = self.limits;
        let lists = [
            (&self.by_first, wait_ns),
            (&self.by_root, wait_after_root_ns),
        ];
        let mut requests = lists.map(|(list, wait_ns)| {
            list.iter()
                .map(move |(&(receive_ns, _), &slot)| (receive_ns.saturating_add(wait_ns), slot))
                .peekable()
        });
        let mut pressure = Pressure::of(self);
        let (mut chosen, mut same_time) = (Vec::new(), Vec::new());
        while let Some(time) = requests
            .iter_mut()
            .filter_map(|list| list.peek().map(|&(time, _)| time))
            .min()
        {
            for (by_root, list) in [false, true].into_iter().zip(&mut requests) {
                while let Some((_, slot)) = list.next_if(|&(at, _)| at == time) {
                    self.collect(slot, by_root, &mut same_time);
                }
            }
            same_time.sort_unstable();
            let due = ask.everything || time <= ask.now_ns;
            for (_, at) in same_time.drain(..) {
                if chosen.len() == ask.limit || !(due || pressure.is_on()) {
                    return chosen;
                }
                chosen.push(at);
                pressure.ease(self, &self.traces[at as usize]);
            }
        }
        chosen
    }

    /// The waiting traces that the request at `slot` makes due by their first span, or by their root.
    fn collect(&self, slot: u32, by_root: bool, found: &mut Vec<(u128, u32)>) {
        let pinned = self.pin(Link { slot, at: 0 });
        for &at in if by_root {
            &pinned.rooted
        } else {
            &pinned.opened
        } {
            let trace = &self.traces[at as usize];
            let waits = if by_root {
                trace.root_slot == slot
            } else {
                trace.head.slot == slot
            };
            if waits && self.is_due_by_root(trace) == by_root {
                found.push((u128::from_be_bytes(trace.id), at));
            }
        }
    }

    /// Whether its root makes a trace due sooner than its first span does.
    fn is_due_by_root(&self, trace: &Trace) -> bool {
        let due = |slot, wait_ns| {
            self.pin(Link { slot, at: 0 })
                .receive_ns
                .saturating_add(wait_ns)
        };
        trace.root_slot != NOWHERE.slot
            && due(trace.root_slot, self.limits.wait_after_root_ns)
                < due(trace.head.slot, self.limits.wait_ns)
    }
}

/// How far the buffer is over its bounds, and would be after the traces chosen so far.
struct Pressure {
    traces: u64,
    max_traces: u64,
    bytes: u64,
    max_bytes: u64,
    /// Spans chosen by request; counted only under pressure of bytes.
    chosen: FxHashMap<u32, u32>,
    count_bytes: bool,
}

impl Pressure {
    fn of(buffer: &TraceBuffer) -> Self {
        let Limits {
            max_bytes,
            max_traces,
            ..
        } = buffer.limits;
        let (traces, bytes) = (buffer.traces(), buffer.bytes());
        Self {
            traces,
            max_traces,
            bytes,
            max_bytes,
            chosen: FxHashMap::default(),
            count_bytes: bytes > max_bytes,
        }
    }

    fn is_on(&self) -> bool {
        self.traces > self.max_traces || self.bytes > self.max_bytes
    }

    fn ease(&mut self, buffer: &TraceBuffer, trace: &Trace) {
        self.traces -= 1;
        if !self.count_bytes {
            return;
        }
        self.bytes -= super::TRACE_COST;
        let mut link = trace.head;
        while link != NOWHERE {
            let pinned = buffer.pin(link);
            let chosen = self.chosen.entry(link.slot).or_default();
            *chosen += 1;
            if *chosen == pinned.spans_waiting {
                self.bytes -= pinned.cost;
            }
            link = pinned.spans[link.at as usize].next;
        }
    }
}

/// Fills the columns. Codes are given in the order of first occurrence; the maps are never listed.
struct Columnar<'b> {
    due: Due,
    services: HashMap<&'b [u8], u32>,
    last_service: Option<(Link, u32)>,
    /// By the buffer's number of a group.
    groups: Vec<u32>,
}

const NO_CODE: u32 = u32::MAX;

impl<'b> Columnar<'b> {
    fn new(buffer: &TraceBuffer, traces: usize, rows: bool) -> Self {
        let due = Due {
            trace_id: Vec::with_capacity(16 * traces),
            randomness: Vec::with_capacity(traces),
            threshold: Vec::with_capacity(traces),
            sampled: Vec::with_capacity(traces),
            spans: Vec::with_capacity(traces),
            bytes: Vec::with_capacity(traces),
            start_ns: Vec::with_capacity(traces),
            end_ns: Vec::with_capacity(traces),
            error: Vec::with_capacity(traces),
            predictions: Vec::with_capacity(traces),
            service: Vec::with_capacity(traces),
            rows: rows.then(Columns::default),
            ..Due::default()
        };
        Self {
            due,
            services: HashMap::new(),
            last_service: None,
            groups: vec![NO_CODE; buffer.groups.entries.len()],
        }
    }

    fn push(&mut self, buffer: &'b TraceBuffer, trace: &Trace) {
        let service = self.service(buffer, trace.lead);
        let due = &mut self.due;
        let number = due.spans.len() as u32;
        due.trace_id.extend_from_slice(&trace.id);
        due.randomness.push(trace.randomness());
        due.threshold.push(trace.threshold);
        due.sampled.push(trace.sampled);
        due.spans.push(trace.spans);
        due.bytes.push(trace.bytes);
        due.start_ns.push(signed(trace.start_ns));
        due.end_ns.push(signed(trace.end_ns.max(trace.start_ns)));
        due.error.push(trace.error);
        due.predictions.push(trace.predictions);
        due.service.push(service);
        if trace.predictions == 0 {
            return;
        }
        let mut link = trace.head;
        while link != NOWHERE {
            let pinned = buffer.pin(link);
            for prediction in pinned.predictions_of(link.at) {
                self.prediction(buffer, number, pinned, prediction);
            }
            link = pinned.spans[link.at as usize].next;
        }
    }

    fn prediction(&mut self, buffer: &TraceBuffer, trace: u32, pinned: &Pinned, prediction: usize) {
        let due = &mut self.due;
        let record = &pinned.predictions[prediction];
        let group = &mut self.groups[record.group as usize];
        if *group == NO_CODE {
            *group = due.groups.len() as u32;
            due.groups
                .push(buffer.groups.entries[record.group as usize].0.clone());
        }
        due.p_trace.push(trace);
        due.p_group.push(*group);
        due.p_duration_ns.push(record.duration_ns);
        if let Some(rows) = &mut due.rows {
            rows.push(pinned.row(prediction));
        }
    }

    fn service(&mut self, buffer: &'b TraceBuffer, lead: Link) -> u32 {
        let pinned = buffer.pin(lead);
        let resource = Link {
            slot: lead.slot,
            at: pinned.resource_of(pinned.spans[lead.at as usize].scope),
        };
        match self.last_service {
            Some((last, code)) if last == resource => code,
            _ => {
                let due = &mut self.due;
                let name = pinned.service(lead.at);
                let code = *self.services.entry(name).or_insert_with(|| {
                    due.services.push(String::from_utf8_lossy(name).into());
                    due.services.len() as u32 - 1
                });
                self.last_service = Some((resource, code));
                code
            }
        }
    }
}

/// A time past the year 2262 is that year's.
fn signed(time_ns: u64) -> i64 {
    i64::try_from(time_ns).unwrap_or(i64::MAX)
}
