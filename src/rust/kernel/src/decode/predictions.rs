//! From the fields of a span to predictions: one, or the rows of a batch; each with its row for ClickHouse.

use std::collections::HashMap;

use super::dialect::*;
use super::emit::{Mark, Own};
use super::intern::START;
use super::notes::Note;
use super::tracestate::Sampling;
use super::value::{self, Value};
use super::{Action, Decoder, Head};
use crate::batch::{Group, Prediction, SpanId, TraceId};
use crate::rowbinary::{put_i64, put_nullable_f64, put_str, put_u64, put_varint};
use crate::wire::Reader;

/// Bytes of each text that are kept.
const MAX_MODEL: usize = 256;
const MAX_VERSION: usize = 128;
const MAX_ROLE: usize = 64;
const MAX_TASK: usize = 64;
const MAX_ID: usize = 512;
const MAX_PREDICTED: usize = 512;
const MAX_ERROR: usize = 256;

/// How far ahead of the receive time an event may be: clocks differ.
const MAX_EARLY_NS: i64 = 5_000_000_000;

/// Which group (model, version, role) has which number; remembers the last one.
#[derive(Default)]
pub struct GroupIndex<'a> {
    last: Option<([Value<'a>; 3], u32)>,
    numbers: HashMap<Group, u32>,
    /// Of each group, the beginning of a row's texts: model, version, role.
    rows: Vec<Vec<u8>>,
}

/// The values that a field gives to the rows of a span.
enum Column<'a> {
    None,
    Same(Value<'a>),
    Each(Vec<Value<'a>>),
}

impl<'a> Column<'a> {
    fn get(&self, row: usize) -> Option<Value<'a>> {
        match self {
            Column::None => None,
            Column::Same(value) => Some(*value),
            Column::Each(values) => values.get(row).copied(),
        }
    }
}

impl<'a> Decoder<'a> {
    /// Appends the predictions of the span in hand; `Err` is the reason to refuse the span.
    pub(super) fn predictions_of(
        &mut self,
        message: Reader<'a>,
        head: &Head<'a>,
        ids: (&TraceId, &SpanId),
        threshold: Option<u64>,
        mark: Mark,
    ) -> Result<(), &'static str> {
        let (rows, batch) = match self.slots.get(BATCH_SIZE) {
            None | Some(Value::Empty) => (1, false),
            Some(Value::Int(rows)) if rows >= 0 => (rows as usize, true),
            Some(_) => return Err("batch_size_invalid"),
        };
        if rows > self.limits.max_rows_per_span || (batch && rows > message.rest().len()) {
            return Err("batch_too_large");
        }
        if batch {
            // what was appended as the first row's is each row's
            self.out.truncate(mark);
            self.out.begin(1, rows);
            self.rows_before = rows;
            if rows == 0 {
                return Ok(());
            }
            self.batch_attributes(message, rows);
        }
        self.features(rows, batch);
        if self.out.overflowed {
            return Err("expansion_too_large");
        }
        for segment in 0..self.dialect.segments.len() {
            let slot = self.dialect.segment_slot(segment);
            if let Some(value) = self.slots.text(slot) {
                self.out.set_segment(segment, 0..rows, value);
            } else if batch && matches!(self.slots.get(slot), Some(Value::Array(_))) {
                let each = self.field(slot, rows, batch);
                for row in 0..rows {
                    if let Some(value) = each.get(row).filter(|value| value.is_scalar()) {
                        self.out.set_segment(segment, row..row + 1, value);
                    }
                }
            }
        }
        let group = self.group();
        let duration_ns = head.end_ns.saturating_sub(head.start_ns);
        let event_ns = self.event_ns(head);
        let weight = match (
            threshold,
            self.slots.get(WEIGHT).and_then(|value| value.number()),
        ) {
            (Some(threshold), _) => Some(Sampling::weight(threshold)),
            (None, given) => given.filter(|weight| weight.is_finite() && *weight > 0.0),
        };
        let given_ids = self.ids(rows, batch);
        let predicted = self.field(PREDICTED, rows, batch);
        let score = self.field(SCORE, rows, batch);
        let confidence = self.field(CONFIDENCE, rows, batch);
        let classes = self.class_scores(rows);
        let class_names: Vec<Value<'a>> = match (&predicted, self.slots.get(CLASS_NAMES)) {
            (Column::None, Some(names)) if classes > 0 => names.items().collect(),
            _ => Vec::new(),
        };
        let task = self.slots.text(TASK);
        let error = self
            .slots
            .text(ERROR_TYPE)
            .or(head.error.then_some(Value::Text(b"error")));
        for row in 0..rows {
            let prediction = self.predictions.len() as u32;
            let start = self.rows.len();
            self.put_id(ids, given_ids.get(row), row, rows, batch);
            put_i64(&mut self.rows, event_ns);
            put_i64(&mut self.rows, self.receive_ns);
            self.rows
                .extend_from_slice(&self.group_index.rows[group as usize]);
            self.put_text(task, MAX_TASK);
            let scores = &self.scores[row * classes..(row + 1) * classes];
            let best = scores
                .iter()
                .enumerate()
                .filter(|(_, score)| !score.is_nan())
                .fold(None, |best: Option<(usize, f64)>, (at, &score)| {
                    if best.is_none_or(|(_, highest)| score > highest) {
                        Some((at, score))
                    } else {
                        best
                    }
                });
            let named = best
                .filter(|_| class_names.len() == classes)
                .and_then(|(at, _)| class_names.get(at).copied());
            self.put_predicted(prediction, predicted.get(row).or(named));
            self.put_number(Own::Score, prediction, score.get(row), None);
            self.put_number(
                Own::Confidence,
                prediction,
                confidence.get(row),
                best.map(|(_, highest)| highest),
            );
            self.out.put_own(
                Own::DurationMs,
                prediction,
                Value::Double(duration_ns as f64 / 1e6),
            );
            put_u64(&mut self.rows, duration_ns);
            self.put_text(error, MAX_ERROR);
            self.put_segments(row);
            put_nullable_f64(&mut self.rows, weight);
            self.predictions.push(Prediction {
                span: self.spans.len() as u32,
                group,
                event_ns,
                duration_ns,
                weight: weight.unwrap_or(f64::NAN),
                row: start as u32..self.rows.len() as u32,
            });
            if !self.has_room(0) {
                return Err("expansion_too_large");
            }
        }
        if batch {
            self.out.sort(mark);
        }
        Ok(())
    }

    /// Appends the features of one attribute each, to every row.
    fn batch_attributes(&mut self, mut reader: Reader<'a>, rows: usize) {
        let (mut previous, mut index) = (START, 0);
        // the bytes were checked before
        while let Some(tag) = reader.more().then(|| reader.tag().ok()).flatten() {
            if tag != 0x4a {
                if reader.skip(tag).is_err() {
                    return;
                }
                continue;
            }
            let Ok((key, value)) = reader
                .message()
                .and_then(|message| value::key_value(message, u32::MAX))
            else {
                return;
            };
            previous = self.keys.find(previous, key, || key.into());
            if let Action::Feature(series) = self.actions[previous as usize] {
                self.column(series, index, value, rows, true);
            }
            index += 1;
        }
    }

    fn event_ns(&mut self, head: &Head<'a>) -> i64 {
        let said = if head.end_ns != 0 {
            head.end_ns
        } else {
            head.start_ns
        };
        if said == 0 {
            return self.receive_ns;
        }
        let said = i64::try_from(said).unwrap_or(i64::MAX);
        let earliest = self.receive_ns.saturating_sub(self.limits.max_late_ns);
        let event_ns = said.clamp(
            earliest,
            self.receive_ns.saturating_add(MAX_EARLY_NS).max(earliest),
        );
        if event_ns != said {
            self.out.notes.add(Note::EventTimeClamped);
        }
        event_ns
    }

    fn group(&mut self) -> u32 {
        // cut before they are compared: a scope may name a model of megabytes for each of its spans
        let key =
            [(MODEL, MAX_MODEL), (VERSION, MAX_VERSION), (ROLE, MAX_ROLE)].map(|(slot, max)| {
                match self.slots.text(slot) {
                    Some(Value::Text(text)) => Value::Text(value::clip(text, max)),
                    other => other.unwrap_or(Value::Empty),
                }
            });
        if let Some((_, group)) = self.group_index.last.filter(|(last, _)| *last == key) {
            return group;
        }
        let text = |value: Value<'_>, max: usize| {
            let mut text = Vec::new();
            value.put_text(&mut text, max);
            String::from_utf8(text).unwrap_or_default().into_boxed_str()
        };
        let group = Group {
            model: text(key[0], MAX_MODEL),
            version: text(key[1], MAX_VERSION),
            role: text(key[2], MAX_ROLE),
        };
        let number = *self
            .group_index
            .numbers
            .entry(group)
            .or_insert_with_key(|group| {
                let mut row = Vec::new();
                for text in [&group.model, &group.version, &group.role] {
                    put_str(&mut row, text.as_bytes());
                }
                self.group_index.rows.push(row);
                self.groups.push(group.clone());
                self.groups.len() as u32 - 1
            });
        self.group_index.last = Some((key, number));
        number
    }

    /// The values of a field; a batch gives an array of them (numbers may be packed f32).
    fn field(&mut self, slot: usize, rows: usize, batch: bool) -> Column<'a> {
        let Some(value) = self.slots.get(slot) else {
            return Column::None;
        };
        let note = match value {
            Value::Array(_) if batch => {
                let values: Vec<_> = value.items().collect();
                if values.len() == rows {
                    return Column::Each(values);
                }
                Note::BatchLengthMismatch
            }
            Value::Bytes(packed) if batch && slot != PREDICTED => {
                if packed.len() == 4 * rows {
                    return Column::Each(singles(packed).map(Value::Double).collect());
                }
                Note::BatchLengthMismatch
            }
            _ if value.is_scalar() && (!batch || rows == 1) => return Column::Same(value),
            _ if value.is_scalar() => Note::BatchLengthMismatch,
            _ => Note::FieldTypeUnexpected,
        };
        self.out.notes.add(note);
        Column::None
    }

    fn ids(&mut self, rows: usize, batch: bool) -> Column<'a> {
        match self.slots.text(PREDICTION_ID) {
            Some(value) => Column::Same(value),
            None => self.field(PREDICTION_ID, rows, batch),
        }
    }

    /// Fills `scores` with the class scores of all rows; gives how many classes there are, 0 where they are not known.
    fn class_scores(&mut self, rows: usize) -> usize {
        self.scores.clear();
        match self.slots.get(CLASS_SCORES) {
            None | Some(Value::Empty) => return 0,
            Some(value @ Value::Array(_)) => self
                .scores
                .extend(value.items().map(|item| item.number().unwrap_or(f64::NAN))),
            Some(Value::Bytes(packed)) if packed.len() % 4 == 0 => {
                self.scores.extend(singles(packed))
            }
            Some(_) => {
                self.out.notes.add(Note::FieldTypeUnexpected);
                return 0;
            }
        }
        if rows == 0 || self.scores.len() % rows != 0 {
            self.out.notes.add(Note::BatchLengthMismatch);
            return 0;
        }
        self.scores.len() / rows
    }

    /// The row's prediction id, trace id and span id.
    fn put_id(
        &mut self,
        ids: (&TraceId, &SpanId),
        given: Option<Value<'a>>,
        row: usize,
        rows: usize,
        batch: bool,
    ) {
        let mut hex = [b'-'; 49];
        put_hex(&mut hex[..32], ids.0);
        put_hex(&mut hex[33..], ids.1);
        self.scratch.clear();
        let given = given.filter(|value| !value.is_blank() && value.is_scalar());
        let numbered = match given {
            Some(value) => {
                value.put_text(&mut self.scratch, MAX_ID);
                batch && rows > 1 && self.slots.text(PREDICTION_ID).is_some()
            }
            None => {
                self.scratch.extend_from_slice(&hex);
                batch
            }
        };
        if numbered {
            self.scratch
                .truncate(value::clip(&self.scratch, MAX_ID - 21).len());
            self.scratch.push(b'-');
            value::put_int(&mut self.scratch, row as i64);
        }
        put_str(&mut self.rows, &self.scratch);
        put_str(&mut self.rows, &hex[..32]);
        put_str(&mut self.rows, &hex[33..]);
    }

    fn put_text(&mut self, value: Option<Value<'a>>, max: usize) {
        match value {
            None => self.rows.push(0),
            Some(Value::Text(text)) => put_str(&mut self.rows, &value::clean(text, max)),
            Some(value) => {
                self.scratch.clear();
                value.put_text(&mut self.scratch, max);
                put_str(&mut self.rows, &self.scratch);
            }
        }
    }

    fn put_predicted(&mut self, prediction: u32, value: Option<Value<'a>>) {
        match value {
            Some(value) if !value.is_scalar() => self.out.notes.add(Note::FieldTypeUnexpected),
            Some(value) => {
                self.out.put_own(Own::Predicted, prediction, value);
                if value != Value::Empty {
                    self.rows.push(0);
                    return self.put_text(Some(value), MAX_PREDICTED);
                }
            }
            None => {}
        }
        self.rows.push(1);
    }

    /// A number of the row and its series; `or` stands where none was given.
    fn put_number(&mut self, own: Own, prediction: u32, given: Option<Value<'a>>, or: Option<f64>) {
        let number = given.and_then(|value| value.number()).or(or);
        match (number, given) {
            (Some(number), _) => self.out.put_own(own, prediction, Value::Double(number)),
            (None, Some(Value::Empty)) => self.out.put_own(own, prediction, Value::Empty),
            (None, Some(_)) => self.out.notes.add(Note::FieldTypeUnexpected),
            (None, None) => {}
        }
        put_nullable_f64(&mut self.rows, number);
    }

    fn put_segments(&mut self, row: usize) {
        if self.dialect.segments.is_empty() {
            return self.rows.push(0);
        }
        let known = self.out.segments(row);
        put_varint(&mut self.rows, known.clone().count() as u64);
        for (name, value) in known {
            put_str(&mut self.rows, name.as_bytes());
            put_str(&mut self.rows, value);
        }
    }
}

fn singles(packed: &[u8]) -> impl Iterator<Item = f64> + '_ {
    packed
        .chunks_exact(4)
        .map(|chunk| f64::from(f32::from_le_bytes([chunk[0], chunk[1], chunk[2], chunk[3]])))
}

fn put_hex(out: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, &byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}
