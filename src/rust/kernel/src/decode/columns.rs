//! The rows of predictions as columns again: what expressions are evaluated on.

use std::collections::HashMap;

use crate::batch::SpanBatch;

/// Numbers, some of them missing.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Numbers {
    pub values: Vec<f64>,
    pub null: Vec<bool>,
}

/// Texts as codes into the distinct ones.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Texts {
    pub codes: Vec<u32>,
    pub null: Vec<bool>,
    pub categories: Vec<Box<str>>,
    numbers: HashMap<Box<str>, u32>,
    last: u32,
}

impl Texts {
    fn push(&mut self, text: Option<&[u8]>) {
        // a missing value has the code of an empty text, so that every code is one of a category
        let code = self.code(text.unwrap_or_default());
        self.codes.push(code);
        self.null.push(text.is_none());
    }

    fn code(&mut self, text: &[u8]) -> u32 {
        if self
            .categories
            .get(self.last as usize)
            .is_some_and(|last| last.as_bytes() == text)
        {
            return self.last;
        }
        let text = String::from_utf8_lossy(text);
        self.last = match self.numbers.get(&*text) {
            Some(&code) => code,
            None => {
                let code = self.categories.len() as u32;
                self.categories.push((*text).into());
                self.numbers.insert((*text).into(), code);
                code
            }
        };
        self.last
    }
}

/// The columns of `prediction_columns` in `_kernel.pyi`.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Columns {
    pub event_time: Vec<i64>,
    pub receive_time: Vec<i64>,
    pub model: Texts,
    pub version: Texts,
    pub role: Texts,
    pub task: Texts,
    pub predicted: Texts,
    pub score: Numbers,
    pub confidence: Numbers,
    pub duration_ns: Vec<i64>,
    pub error_type: Texts,
    pub inbound_weight: Numbers,
    /// By name, in the order of their first occurrence.
    pub segments: Vec<(Box<str>, Texts)>,
}

impl Columns {
    pub fn len(&self) -> usize {
        self.event_time.len()
    }

    pub fn is_empty(&self) -> bool {
        self.event_time.is_empty()
    }

    /// Appends all predictions of a batch.
    pub fn push_batch(&mut self, batch: &SpanBatch) {
        for prediction in &batch.predictions {
            self.push(&batch.rows[prediction.row.start as usize..prediction.row.end as usize]);
        }
    }

    /// Appends one prediction, from its row's prefix as [`super::decode_traces`] wrote it.
    pub fn push(&mut self, row: &[u8]) {
        let mut row = Row(row);
        for _id in ["prediction_id", "trace_id", "span_id"] {
            row.text();
        }
        self.event_time.push(row.i64());
        self.receive_time.push(row.i64());
        for column in [
            &mut self.model,
            &mut self.version,
            &mut self.role,
            &mut self.task,
        ] {
            column.push(Some(row.text()));
        }
        self.predicted.push(if row.is_null() {
            None
        } else {
            Some(row.text())
        });
        row.number(&mut self.score);
        row.number(&mut self.confidence);
        self.duration_ns.push(row.i64());
        self.error_type.push(Some(row.text()));
        let rows = self.event_time.len();
        for _ in 0..row.varint() {
            let (name, value) = (row.text(), row.text());
            let index = self
                .segments
                .iter()
                .position(|(known, _)| known.as_bytes() == name)
                .unwrap_or_else(|| {
                    let mut texts = Texts::default();
                    (1..rows).for_each(|_| texts.push(None));
                    self.segments
                        .push((String::from_utf8_lossy(name).into(), texts));
                    self.segments.len() - 1
                });
            self.segments[index].1.push(Some(value));
        }
        for (_, texts) in self
            .segments
            .iter_mut()
            .filter(|(_, texts)| texts.codes.len() < rows)
        {
            texts.push(None);
        }
        row.number(&mut self.inbound_weight);
    }
}

/// A row that we wrote: past its end it reads as zeros.
struct Row<'r>(&'r [u8]);

impl<'r> Row<'r> {
    fn take(&mut self, count: usize) -> &'r [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn varint(&mut self) -> usize {
        let (mut value, mut shift) = (0, 0);
        while let [byte] = *self.take(1) {
            value |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte < 0x80 || shift > 56 {
                break;
            }
        }
        value
    }

    fn text(&mut self) -> &'r [u8] {
        let length = self.varint();
        self.take(length)
    }

    fn i64(&mut self) -> i64 {
        i64::from_le_bytes(self.take(8).try_into().unwrap_or_default())
    }

    fn is_null(&mut self) -> bool {
        self.take(1) != [0]
    }

    fn number(&mut self, column: &mut Numbers) {
        let null = self.is_null();
        column.null.push(null);
        column.values.push(if null {
            f64::NAN
        } else {
            f64::from_bits(self.i64() as u64)
        });
    }
}
