//! The growing columns of a batch: series are numbered, values appended, each series at most once a prediction.

use std::borrow::Cow;
use std::ops::Range;

use super::dialect::Dialect;
use super::intern::Interner;
use super::notes::{Note, Notes};
use super::value::{self, Value};
use crate::batch::{Categorical, Missing, Numeric};

/// Bytes of a categorical value or a segment's value that are kept.
pub const MAX_TEXT: usize = 128;
/// Bytes of a feature's name that are kept.
pub const MAX_NAME: usize = 256;

/// A series that is not a feature.
#[derive(Clone, Copy)]
pub enum Own {
    Score,
    Confidence,
    DurationMs,
    Predicted,
}

const OWN_NAMES: [&str; 4] = ["score", "confidence", "duration_ms", "predicted"];

/// Which prediction a value belongs to, and by which attribute it came.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    pub prediction: u32,
    /// Of the span's rows, the how manieth.
    pub row: u32,
    /// Values that come by one attribute have one number; a series that two attributes of a span give counts once, by the first.
    pub source: u32,
}

#[derive(Clone, Copy)]
struct State {
    /// The tick of the row that last took a value.
    tick: u32,
    source: u32,
    /// The segment that this feature fills where no attribute does.
    segment: u32,
}

const NO_SEGMENT: u32 = u32::MAX;

/// A range of [`Emitter::segment_text`]; empty where the segment is not known.
type Text = (u32, u32);

pub struct Emitter<'a> {
    dialect: &'a Dialect,
    names: Interner<'a>,
    /// Feature name number -> series.
    series_of: Vec<u32>,
    own: [u32; 4],
    state: Vec<State>,
    /// The tick of row 0 of the span in hand is one more; ticks never repeat.
    tick: u32,
    segment_values: Vec<Text>,
    segment_text: Vec<u8>,
    pub series: Vec<Box<str>>,
    pub numeric: Vec<Numeric>,
    pub categorical: Vec<Categorical>,
    pub missing: Vec<Missing>,
    pub text: Vec<u8>,
    pub notes: Notes,
    /// The span in hand was left unfinished: its values would take more room than there is.
    pub overflowed: bool,
}

/// How far the columns had grown.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    numeric: usize,
    categorical: usize,
    missing: usize,
    text: usize,
    notes: Notes,
}

impl<'a> Emitter<'a> {
    pub fn new(dialect: &'a Dialect, body: usize) -> Self {
        Self {
            dialect,
            names: Interner::new(),
            series_of: vec![u32::MAX],
            own: [u32::MAX; 4],
            state: Vec::new(),
            tick: 0,
            segment_values: Vec::new(),
            segment_text: Vec::new(),
            series: Vec::new(),
            numeric: Vec::with_capacity(body / 64),
            categorical: Vec::new(),
            missing: Vec::new(),
            text: Vec::new(),
            notes: Notes::default(),
            overflowed: false,
        }
    }

    /// Begins a span of `rows` rows, once the span before it took `rows_before`.
    pub fn begin(&mut self, rows_before: usize, rows: usize) {
        self.tick += rows_before as u32;
        self.overflowed = false;
        if !self.dialect.segments.is_empty() {
            self.segment_values.clear();
            self.segment_values
                .resize(rows * self.dialect.segments.len(), (0, 0));
            self.segment_text.clear();
        }
    }

    pub fn mark(&self) -> Mark {
        Mark {
            numeric: self.numeric.len(),
            categorical: self.categorical.len(),
            missing: self.missing.len(),
            text: self.text.len(),
            notes: self.notes,
        }
    }

    /// Takes back what came after the mark.
    pub fn truncate(&mut self, mark: Mark) {
        self.numeric.truncate(mark.numeric);
        self.categorical.truncate(mark.categorical);
        self.missing.truncate(mark.missing);
        self.text.truncate(mark.text);
        self.notes = mark.notes;
    }

    /// Bytes that the columns take.
    pub fn size(&self) -> usize {
        self.numeric.len() * size_of::<Numeric>()
            + self.categorical.len() * size_of::<Categorical>()
            + self.missing.len() * size_of::<Missing>()
            + self.text.len()
            + self.segment_text.len()
    }

    /// Puts the values since the mark into the order of their predictions; those of one prediction stay as they came.
    pub fn sort(&mut self, mark: Mark) {
        self.numeric[mark.numeric..].sort_by_key(|value| value.prediction);
        self.categorical[mark.categorical..].sort_by_key(|value| value.prediction);
        self.missing[mark.missing..].sort_by_key(|value| value.prediction);
    }

    fn add_series(&mut self, name: String, segment: u32) -> u32 {
        self.series.push(name.into());
        self.state.push(State {
            tick: 0,
            source: 0,
            segment,
        });
        self.series.len() as u32 - 1
    }

    /// The number of a feature's name; `previous` is that of the name before it, or [`super::intern::START`].
    #[inline]
    pub fn name(&mut self, previous: u32, name: &'a [u8]) -> u32 {
        let name = value::clip(name, MAX_NAME);
        let number = self.names.find(previous, name, || Cow::Borrowed(name));
        if number as usize == self.series_of.len() {
            self.add_name(name);
        }
        number
    }

    /// As [`Emitter::name`], of a name that is not in the body.
    pub fn own_name(&mut self, previous: u32, name: &[u8]) -> u32 {
        let name = value::clip(name, MAX_NAME);
        let number = self
            .names
            .find(previous, name, || Cow::Owned(name.to_vec()));
        if number as usize == self.series_of.len() {
            self.add_name(name);
        }
        number
    }

    fn add_name(&mut self, name: &[u8]) {
        let name = String::from_utf8_lossy(name);
        let segment = self
            .dialect
            .segments
            .iter()
            .position(|segment| **segment == *name);
        let series = self.add_series(
            format!("features/{name}"),
            segment.map_or(NO_SEGMENT, |index| index as u32),
        );
        self.series_of.push(series);
    }

    #[inline]
    pub fn feature(&self, name: u32) -> u32 {
        self.series_of[name as usize]
    }

    fn own(&mut self, own: Own) -> u32 {
        let index = own as usize;
        if self.own[index] == u32::MAX {
            self.own[index] = self.add_series(OWN_NAMES[index].to_owned(), NO_SEGMENT);
        }
        self.own[index]
    }

    /// Appends a value of a series that is not a feature.
    pub fn put_own(&mut self, own: Own, prediction: u32, value: Value<'_>) {
        let series = self.own(own);
        self.append(series, prediction, value);
    }

    /// As [`Emitter::put`], of a number.
    #[inline]
    pub fn put_number(&mut self, series: u32, prediction: u32, source: u32, value: f64) {
        let state = &mut self.state[series as usize];
        if state.tick > self.tick || state.segment != NO_SEGMENT {
            let place = Place {
                prediction,
                row: 0,
                source,
            };
            self.put(series, place, Value::Double(value));
            return;
        }
        (state.tick, state.source) = (self.tick + 1, source);
        self.numeric.push(Numeric {
            prediction,
            series,
            value,
        });
    }

    /// Appends a feature's value, unless the span gave it before by another attribute: then false.
    #[inline]
    pub fn put(&mut self, series: u32, place: Place, value: Value<'_>) -> bool {
        if !value.is_scalar() {
            self.notes.add(Note::FeatureNotScalar);
            return true;
        }
        let tick = self.tick + 1 + place.row;
        let state = &mut self.state[series as usize];
        if state.tick > self.tick && (state.source != place.source || state.tick == tick) {
            self.notes.add(Note::FeatureDuplicate);
            return false;
        }
        (state.tick, state.source) = (tick, place.source);
        let segment = state.segment;
        self.append(series, place.prediction, value);
        if segment != NO_SEGMENT {
            let text = self.segment_text(value);
            self.segment_values
                [place.row as usize * self.dialect.segments.len() + segment as usize] = text;
        }
        true
    }

    #[inline]
    fn append(&mut self, series: u32, prediction: u32, value: Value<'_>) {
        match value {
            Value::Double(value) => self.numeric.push(Numeric {
                prediction,
                series,
                value,
            }),
            Value::Int(value) => self.numeric.push(Numeric {
                prediction,
                series,
                value: value as f64,
            }),
            Value::Empty => self.missing.push(Missing { prediction, series }),
            _ => {
                let start = self.text.len() as u32;
                value.put_text(&mut self.text, MAX_TEXT);
                self.categorical.push(Categorical {
                    prediction,
                    series,
                    value: start..self.text.len() as u32,
                });
            }
        }
    }

    fn segment_text(&mut self, value: Value<'_>) -> Text {
        let start = self.segment_text.len() as u32;
        value.put_text(&mut self.segment_text, MAX_TEXT);
        (start, self.segment_text.len() as u32)
    }

    /// Fills a segment of some rows from the span's own attribute.
    pub fn set_segment(&mut self, segment: usize, rows: Range<usize>, value: Value<'_>) {
        let text = self.segment_text(value);
        for row in rows {
            self.segment_values[row * self.dialect.segments.len() + segment] = text;
        }
    }

    /// The segments of a row that are known: name and value.
    pub fn segments(&self, row: usize) -> impl Iterator<Item = (&str, &[u8])> + Clone {
        let count = self.dialect.segments.len();
        let values = &self.segment_values[row * count..(row + 1) * count];
        let known = self
            .dialect
            .segments
            .iter()
            .zip(values)
            .filter(|(_, (start, end))| end > start);
        known.map(|(name, &(start, end))| {
            (&**name, &self.segment_text[start as usize..end as usize])
        })
    }
}
