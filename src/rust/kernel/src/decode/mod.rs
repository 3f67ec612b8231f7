//! Decode: the bytes of an `ExportTraceServiceRequest` into a [`SpanBatch`], without building the objects between.
//!
//! The walk checks every byte it may later be asked for (attributes, events and links to their leaves), so what the
//! batch points at is well-formed. A fault of the wire format refuses the request; a fault of one span's contents
//! (no trace id, a batch out of bounds) refuses that span; anything doubtful about values is noted, and the rest used.
//!
//! Key files: [`dialect`] which attribute means what; `features` the forms of feature vectors; `predictions` the rows;
//! [`columns`] rows as columns again, for expressions.

use std::borrow::Cow;

use crate::batch::{
    Body, Bytes32, Categorical, Group, Prediction, Rejected, Resource, Scope, Span, SpanBatch,
};
use crate::wire::{Error, Reader, Result, is_same};

pub mod columns;
pub mod dialect;
mod emit;
mod features;
mod intern;
mod json_features;
mod notes;
mod predictions;
pub mod tracestate;
pub mod value;

pub use dialect::{Dialect, FIELDS};
pub(crate) use features::base64;

use dialect::{Level, Meaning, Target};
use emit::{Emitter, Place};
use intern::{Interner, START};
use notes::Note;
use value::Value;

/// The bounds of a walk.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Events older than this against the receive time are moved up to it.
    pub max_late_ns: i64,
    pub max_rows_per_span: usize,
    /// Levels that arrays and maps may nest.
    pub max_depth: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_late_ns: 7 * 86_400 * 1_000_000_000,
            max_rows_per_span: 10_000,
            max_depth: 64,
        }
    }
}

/// The columns of a batch may take this many times the request's size, and a floor: a short span may say that it is a batch
/// of many rows, each of which repeats its model.
const EXPANSION: usize = 64;
const EXPANSION_FLOOR: usize = 1 << 20;
const EXPANSION_CEILING: usize = 1 << 30;

/// Decodes a request. See `decode_traces` in `_kernel.pyi`.
pub fn decode_traces(
    body: Body,
    dialect: &Dialect,
    receive_ns: i64,
    limits: &Limits,
) -> Result<SpanBatch> {
    let shared = body.clone();
    let bytes: &[u8] = (*shared).as_ref();
    if bytes.len() > u32::MAX as usize {
        return Err(Error {
            offset: 0,
            what: "a request below 4 GiB",
        });
    }
    let mut decoder = Decoder::new(bytes, dialect, receive_ns, *limits);
    let mut reader = Reader::new(bytes);
    while reader.more() {
        match reader.tag()? {
            0x0a => decoder.resource_spans(reader.message()?)?,
            tag => reader.skip(tag)?,
        }
    }
    let Decoder {
        resources,
        scopes,
        spans,
        groups,
        predictions,
        rows,
        rejected,
        out,
        ..
    } = decoder;
    let Emitter {
        series,
        numeric,
        categorical,
        missing,
        text,
        notes,
        ..
    } = out;
    let notes = notes.counts();
    Ok(SpanBatch {
        body,
        receive_ns,
        resources,
        scopes,
        spans,
        groups,
        predictions,
        series,
        numeric,
        categorical,
        missing,
        text,
        rows,
        rejected,
        notes,
    })
}

/// What a key of a span does.
#[derive(Clone, Copy)]
enum Action {
    Nothing,
    Unknown,
    Targets(u32, u32),
    /// Appends to this series.
    Feature(u32),
}

#[derive(Clone, Copy)]
struct Slot<'a> {
    rank: u16,
    /// Filled by the scope or the resource.
    base: bool,
    value: Value<'a>,
}

const EMPTY_SLOT: Slot<'static> = Slot {
    rank: u16::MAX,
    base: false,
    value: Value::Empty,
};
/// A blank value stands only where there is no other.
const BLANK_RANK: u16 = u16::MAX - 1;

/// The fields of the span in hand.
struct Slots<'a> {
    slots: Vec<Slot<'a>>,
    filled: Vec<u16>,
    /// What the resource and the scope fill.
    base: Vec<(u16, Slot<'a>)>,
    /// How many of `base` are the resource's.
    base_of_resource: usize,
}

impl<'a> Slots<'a> {
    fn begin_span(&mut self) {
        for slot in self.filled.drain(..) {
            self.slots[slot as usize] = EMPTY_SLOT;
        }
        for index in 0..self.base.len() {
            let (slot, value) = self.base[index];
            self.fill(slot, value);
        }
    }

    /// Fills a slot for all spans to come; `from` is where the slots of this level begin. Each slot is there once a level,
    /// however often an attribute is repeated.
    fn fill_base(&mut self, from: usize, slot: u16, new: Slot<'a>) {
        match self.base[from..]
            .iter_mut()
            .find(|(index, _)| *index == slot)
        {
            Some((_, old)) if new.rank < old.rank => *old = new,
            Some(_) => {}
            None => self.base.push((slot, new)),
        }
    }

    #[inline]
    fn fill(&mut self, slot: u16, new: Slot<'a>) {
        let old = &mut self.slots[slot as usize];
        if new.rank < old.rank {
            if old.rank == u16::MAX {
                self.filled.push(slot);
            }
            *old = new;
        }
    }

    #[inline]
    fn get(&self, slot: usize) -> Option<Value<'a>> {
        let slot = &self.slots[slot];
        (slot.rank != u16::MAX).then_some(slot.value)
    }

    /// The value of a field that is a text, where there is one.
    fn text(&self, slot: usize) -> Option<Value<'a>> {
        self.get(slot)
            .filter(|value| value.is_scalar() && !value.is_blank())
    }

    /// The span says another value of `slot` than the scope or resource, from which it has `of`.
    fn contradicts_base(&self, slot: usize, of: usize) -> bool {
        let here = self.slots[slot];
        let base = self.base.iter().rfind(|(index, _)| *index as usize == slot);
        self.slots[of].base
            && here.rank != u16::MAX
            && base.is_some_and(|(_, base)| base.value != here.value)
    }
}

fn ranked(target: Target, value: Value<'_>, base: bool) -> Slot<'_> {
    Slot {
        rank: if value.is_blank() {
            BLANK_RANK
        } else {
            target.rank
        },
        base,
        value,
    }
}

/// The fields of a `Span` that are looked at while its message is walked.
#[derive(Default)]
struct Head<'a> {
    trace_id: &'a [u8],
    span_id: &'a [u8],
    parent_id: &'a [u8],
    trace_state: &'a [u8],
    start_ns: u64,
    end_ns: u64,
    error: bool,
}

struct Decoder<'a> {
    body: &'a [u8],
    dialect: &'a Dialect,
    receive_ns: i64,
    limits: Limits,
    /// Bytes that the columns may take.
    room: usize,
    keys: Interner<'a>,
    /// Key number -> what it does.
    actions: Vec<Action>,
    /// Key number -> the attribute as it was met, up to its number, and its series; empty where it is no number of a feature.
    forms: Vec<(&'a [u8], u32)>,
    slots: Slots<'a>,
    out: Emitter<'a>,
    /// Rows of the span before.
    rows_before: usize,
    /// Attributes of the span in hand that are in a convention's namespace and not of its names.
    unknown: usize,
    schema: features::Schema<'a>,
    cells: json_features::Cells,
    scratch: Vec<u8>,
    scores: Vec<f64>,
    group_index: predictions::GroupIndex<'a>,
    resources: Vec<Resource>,
    scopes: Vec<Scope>,
    spans: Vec<Span>,
    groups: Vec<Group>,
    predictions: Vec<Prediction>,
    rows: Vec<u8>,
    rejected: Vec<Rejected>,
}

impl<'a> Decoder<'a> {
    fn new(body: &'a [u8], dialect: &'a Dialect, receive_ns: i64, limits: Limits) -> Self {
        Self {
            body,
            dialect,
            receive_ns,
            limits,
            room: (EXPANSION * body.len() + EXPANSION_FLOOR).min(EXPANSION_CEILING),
            keys: Interner::new(),
            actions: vec![Action::Nothing],
            forms: Vec::new(),
            slots: Slots {
                slots: vec![EMPTY_SLOT; dialect.slots()],
                filled: Vec::new(),
                base: Vec::new(),
                base_of_resource: 0,
            },
            out: Emitter::new(dialect, body.len()),
            rows_before: 0,
            unknown: 0,
            schema: features::Schema::default(),
            cells: json_features::Cells::default(),
            scratch: Vec::new(),
            scores: Vec::new(),
            group_index: predictions::GroupIndex::default(),
            resources: Vec::new(),
            scopes: Vec::new(),
            spans: Vec::with_capacity(body.len() / 256),
            groups: Vec::new(),
            predictions: Vec::new(),
            rows: Vec::with_capacity(body.len() / 8),
            rejected: Vec::new(),
        }
    }

    /// Where a slice of the body lies in it.
    fn range_of(&self, slice: &[u8]) -> Bytes32 {
        let start = (slice.as_ptr() as usize).wrapping_sub(self.body.as_ptr() as usize);
        if start > self.body.len() || slice.is_empty() {
            0..0
        } else {
            start as u32..(start + slice.len()) as u32
        }
    }

    fn resource_spans(&mut self, message: Reader<'a>) -> Result<()> {
        let mut resource = Resource {
            message: 0..0,
            service: 0..0,
            schema_url: 0..0,
        };
        self.slots.base.clear();
        // the resource may follow what it describes
        let mut reader = message;
        while reader.more() {
            match reader.tag()? {
                0x0a => {
                    let message = reader.message()?;
                    resource.message = message.range();
                    self.slots.base.clear();
                    resource.service = self.attributes_of(message, 1, Level::Resource)?;
                }
                0x1a => resource.schema_url = self.range_of(reader.bytes()?),
                tag => reader.skip(tag)?,
            }
        }
        self.slots.base_of_resource = self.slots.base.len();
        self.resources.push(resource);
        let mut reader = message;
        while reader.more() {
            match reader.tag()? {
                0x12 => self.scope_spans(reader.message()?)?,
                tag => reader.skip(tag)?,
            }
        }
        Ok(())
    }

    fn scope_spans(&mut self, message: Reader<'a>) -> Result<()> {
        let mut scope = Scope {
            resource: self.resources.len() as u32 - 1,
            message: 0..0,
            schema_url: 0..0,
        };
        self.slots.base.truncate(self.slots.base_of_resource);
        let mut reader = message;
        while reader.more() {
            match reader.tag()? {
                0x0a => {
                    let message = reader.message()?;
                    scope.message = message.range();
                    self.slots.base.truncate(self.slots.base_of_resource);
                    self.attributes_of(message, 3, Level::Scope)?;
                }
                0x1a => scope.schema_url = self.range_of(reader.bytes()?),
                tag => reader.skip(tag)?,
            }
        }
        self.scopes.push(scope);
        let scope = self.scopes.len() as u32 - 1;
        let mut reader = message;
        while reader.more() {
            match reader.tag()? {
                0x12 => self.span(reader.message()?, scope)?,
                tag => reader.skip(tag)?,
            }
        }
        Ok(())
    }

    /// Reads the attributes (`field`) of a resource or scope into the base slots; gives where `service.name` is.
    fn attributes_of(
        &mut self,
        mut reader: Reader<'a>,
        field: u32,
        level: Level,
    ) -> Result<Bytes32> {
        let mut service = 0..0;
        while reader.more() {
            let tag = reader.tag()?;
            if tag != field << 3 | 2 {
                reader.skip(tag)?;
                continue;
            }
            let (key, value) = value::key_value(reader.message()?, self.limits.max_depth)?;
            if let (b"service.name", Value::Text(name)) = (key, value) {
                service = self.range_of(name);
            }
            if let Meaning::Targets(first, end) = self.dialect.meaning(level, key) {
                let from = if level == Level::Scope {
                    self.slots.base_of_resource
                } else {
                    0
                };
                for &target in self.dialect.targets(first, end) {
                    self.slots
                        .fill_base(from, target.slot, ranked(target, value, true));
                }
            }
        }
        Ok(service)
    }

    fn span(&mut self, message: Reader<'a>, scope: u32) -> Result<()> {
        let mark = self.out.mark();
        self.out
            .begin(std::mem::replace(&mut self.rows_before, 1), 1);
        self.slots.begin_span();
        self.unknown = 0;
        let mut head = Head::default();
        let (mut reader, mut key) = (message, START);
        while reader.more() {
            if let Some(number) = self.same_but_for_its_number(&mut reader, key) {
                key = number;
                continue;
            }
            let field = reader.rest();
            match reader.tag()? {
                0x4a => key = self.attribute(reader.message()?, key, field)?,
                0x0a => head.trace_id = reader.bytes()?,
                0x12 => head.span_id = reader.bytes()?,
                0x1a => head.trace_state = reader.bytes()?,
                0x22 => head.parent_id = reader.bytes()?,
                0x39 => head.start_ns = reader.fixed64()?,
                0x41 => head.end_ns = reader.fixed64()?,
                0x5a => self.check_attributes(reader.message()?, 0x1a)?,
                0x6a => self.check_attributes(reader.message()?, 0x22)?,
                0x7a => head.error = is_error(reader.message()?)?,
                tag => reader.skip(tag)?,
            }
        }
        let (Some(trace_id), Some(span_id)) = (id::<16>(head.trace_id), id::<8>(head.span_id))
        else {
            self.out.truncate(mark);
            self.reject(
                if id::<16>(head.trace_id).is_none() {
                    "trace_id_invalid"
                } else {
                    "span_id_invalid"
                },
                message.offset(),
            );
            return Ok(());
        };
        let sampling = tracestate::parse(head.trace_state);
        let (first, rows) = (self.predictions.len(), self.rows.len());
        if self.slots.text(dialect::MODEL).is_some() {
            let threshold = sampling.unwrap_or_default().threshold;
            if let Err(reason) =
                self.predictions_of(message, &head, (&trace_id, &span_id), threshold, mark)
            {
                self.out.truncate(mark);
                self.predictions.truncate(first);
                self.rows.truncate(rows);
                self.reject(reason, message.offset());
                return Ok(());
            }
        } else {
            self.out.truncate(mark);
        }
        self.out
            .notes
            .add_many(Note::AttributeUnknown, self.unknown);
        if sampling.is_none() {
            self.out.notes.add(Note::TracestateMalformed);
        }
        if head.end_ns < head.start_ns {
            self.out.notes.add(if head.end_ns == 0 {
                Note::EndMissing
            } else {
                Note::EndBeforeStart
            });
        }
        let sampling = sampling.unwrap_or_default();
        self.spans.push(Span {
            trace_id,
            message: message.range(),
            scope,
            start_ns: head.start_ns,
            end_ns: head.end_ns,
            randomness: sampling.randomness,
            threshold: sampling.threshold,
            error: head.error,
            root: head.parent_id.is_empty(),
            predictions: first as u32..self.predictions.len() as u32,
        });
        Ok(())
    }

    /// Takes an attribute that is, to the byte, the one that came after `previous` last time, but for the number that it holds.
    #[inline]
    fn same_but_for_its_number(&mut self, reader: &mut Reader<'a>, previous: u32) -> Option<u32> {
        let number = self.keys.likely(previous);
        let (form, series) = *self.forms.get(number as usize)?;
        let (head, rest) = reader.rest().split_at_checked(form.len())?;
        let value = rest.first_chunk::<8>()?;
        if form.is_empty() || !is_same(head, form) {
            return None;
        }
        reader.advance(form.len() + 8);
        let prediction = self.predictions.len() as u32;
        self.out
            .put_number(series, prediction, number, f64::from_le_bytes(*value));
        Some(number)
    }

    fn has_form(&self, number: u32) -> bool {
        let form = self.forms.get(number as usize);
        form.is_some_and(|(form, _)| !form.is_empty())
    }

    /// Remembers how a feature's attribute is written up to its number, where there is nothing else in it.
    #[cold]
    fn add_form(&mut self, number: u32, key: &[u8], field: &'a [u8]) {
        let size = 4 + key.len() + 3 + 8;
        let number = number as usize;
        if self.forms.len() <= number {
            self.forms.resize(number + 1, (&[], 0));
        }
        // 4a .. 0a .. KEY 12 09 21 ........
        let form = &field[..(size - 8).min(field.len())];
        if let Action::Feature(series) = self.actions[number]
            && let [0x4a, length, 0x0a, of_key, ..] = form
            && usize::from(*length) == size - 2
            && usize::from(*of_key) == key.len()
            && form.ends_with(&[0x12, 9, 0x21])
        {
            self.forms[number] = (form, series);
        }
    }

    /// Takes an attribute of the span in hand, which came after that of key `previous`; gives its key. `field` begins with it.
    #[inline]
    fn attribute(&mut self, message: Reader<'a>, previous: u32, field: &'a [u8]) -> Result<u32> {
        let (key, value) = value::key_value(message, self.limits.max_depth)?;
        let number = self.keys.find(previous, key, || Cow::Borrowed(key));
        if number as usize == self.actions.len() {
            self.add_action(key);
        }
        match self.actions[number as usize] {
            Action::Nothing => {}
            Action::Unknown => self.unknown += 1,
            Action::Feature(series) => {
                self.out.put(
                    series,
                    Place {
                        prediction: self.predictions.len() as u32,
                        row: 0,
                        source: number,
                    },
                    value,
                );
                if matches!(value, Value::Double(_)) && !self.has_form(number) {
                    self.add_form(number, key, field);
                }
            }
            Action::Targets(first, end) => {
                for &target in self.dialect.targets(first, end) {
                    self.slots.fill(target.slot, ranked(target, value, false));
                }
            }
        }
        Ok(number)
    }

    #[cold]
    fn add_action(&mut self, key: &'a [u8]) {
        let action = match self.dialect.meaning(Level::Span, key) {
            Meaning::Nothing => Action::Nothing,
            Meaning::Unknown => Action::Unknown,
            Meaning::Targets(first, end) => Action::Targets(first, end),
            Meaning::Feature(name) => {
                let name = self.out.name(START, name);
                Action::Feature(self.out.feature(name))
            }
        };
        self.actions.push(action);
    }

    /// Checks the attributes of an event or link.
    fn check_attributes(&self, mut reader: Reader<'a>, attributes: u32) -> Result<()> {
        while reader.more() {
            match reader.tag()? {
                tag if tag == attributes => {
                    value::key_value(reader.message()?, self.limits.max_depth).map(drop)?
                }
                tag => reader.skip(tag)?,
            }
        }
        Ok(())
    }

    /// Whether the columns may grow by `values` more.
    fn has_room(&self, values: usize) -> bool {
        self.rows.len() + self.out.size() + values * size_of::<Categorical>() <= self.room
    }

    fn reject(&mut self, reason: &'static str, offset: usize) {
        match self
            .rejected
            .iter_mut()
            .find(|rejected| rejected.reason == reason)
        {
            Some(rejected) => rejected.spans += 1,
            None => self.rejected.push(Rejected {
                reason,
                spans: 1,
                offset: offset as u64,
            }),
        }
    }
}

/// An id of the right length that is not all zero.
fn id<const N: usize>(bytes: &[u8]) -> Option<[u8; N]> {
    bytes.try_into().ok().filter(|id| *id != [0; N])
}

/// Whether a `Status` says ERROR.
fn is_error(mut reader: Reader<'_>) -> Result<bool> {
    let mut code = 0;
    while reader.more() {
        match reader.tag()? {
            0x18 => code = reader.varint()?,
            tag => reader.skip(tag)?,
        }
    }
    Ok(code == 2)
}

#[cfg(test)]
mod tests;
