//! Features as JSON: an object; for a batch an object of arrays, or an array of objects; beside a schema also an array of
//! values in its order. Values wait in cells until the whole text has proved well-formed: text that an SDK has cut gives nothing.

use super::Decoder;
use super::emit::{MAX_TEXT, Place};
use super::features::{NO_SERIES, Schema};
use super::intern::START;
use super::notes::Note;
use super::value::{Value, clip};
use crate::json::{Malformed, Scanner, Token};

/// What a JSON text is of.
#[derive(Clone, Copy)]
pub struct JsonForm {
    /// See [`Place::source`]; the members of an object of arrays count up from here.
    pub source: u32,
    pub rows: usize,
    pub batch: bool,
}

#[derive(Clone, Copy)]
struct Cell {
    series: u32,
    row: u32,
    source: u32,
    value: CellValue,
}

#[derive(Clone, Copy)]
enum CellValue {
    Whole(Value<'static>),
    /// A range of [`Cells::text`].
    Text(usize, usize),
}

/// What a text holds.
#[derive(Default)]
pub struct Cells {
    cells: Vec<Cell>,
    text: Vec<u8>,
    /// Values passed over because they nest.
    not_scalar: u32,
}

impl Cells {
    fn clear(&mut self) {
        self.cells.clear();
        self.text.clear();
        self.not_scalar = 0;
    }

    /// Takes the value that began with `token`; passes over what nests.
    fn take(
        &mut self,
        scanner: &mut Scanner<'_>,
        token: Token<'_>,
        series: u32,
        row: usize,
        source: u32,
    ) -> Result<(), Note> {
        let value = match token {
            Token::Null => CellValue::Whole(Value::Empty),
            Token::Bool(value) => CellValue::Whole(Value::Bool(value)),
            Token::Int(value) => CellValue::Whole(Value::Int(value)),
            Token::Double(value) => CellValue::Whole(Value::Double(value)),
            Token::Text(text) => {
                let start = self.text.len();
                self.text.extend_from_slice(clip(&text, MAX_TEXT));
                CellValue::Text(start, self.text.len())
            }
            nested => {
                scanner.skip(&nested)?;
                self.not_scalar += u32::from(series != NO_SERIES);
                return Ok(());
            }
        };
        if series != NO_SERIES {
            self.cells.push(Cell {
                series,
                row: row as u32,
                source,
                value,
            });
        }
        Ok(())
    }
}

impl<'a> Decoder<'a> {
    pub(super) fn json(
        &mut self,
        text: &[u8],
        form: JsonForm,
        schema: Option<Result<&Schema<'a>, Note>>,
    ) {
        self.cells.clear();
        if let Err(note) = self.read_json(text, form, schema) {
            return self.out.notes.add(note);
        }
        let first = self.predictions.len() as u32;
        for &Cell {
            series,
            row,
            source,
            value,
        } in &self.cells.cells
        {
            let value = match value {
                CellValue::Whole(value) => value,
                CellValue::Text(start, end) => Value::Text(&self.cells.text[start..end]),
            };
            self.out.put(
                series,
                Place {
                    prediction: first + row,
                    row,
                    source,
                },
                value,
            );
        }
        for _ in 0..self.cells.not_scalar {
            self.out.notes.add(Note::FeatureNotScalar);
        }
    }

    fn read_json(
        &mut self,
        text: &[u8],
        form: JsonForm,
        schema: Option<Result<&Schema<'a>, Note>>,
    ) -> Result<(), Note> {
        let mut scanner = Scanner::new(text);
        match (scanner.value()?, schema) {
            (Token::Object, _) => self.read_object(&mut scanner, form, None)?,
            (Token::Array, None) if form.batch => {
                let mut row = 0;
                while scanner.element(row == 0)? {
                    if row == form.rows || scanner.value()? != Token::Object {
                        return Err(Note::BatchLengthMismatch);
                    }
                    self.read_object(&mut scanner, form, Some(row))?;
                    row += 1;
                }
                if row != form.rows {
                    return Err(Note::BatchLengthMismatch);
                }
            }
            (Token::Array, Some(schema)) => {
                let schema = schema?;
                let (count, mut index) = (schema.columns.len(), 0);
                while scanner.element(index == 0)? {
                    if index == form.rows * count {
                        return Err(Note::FeaturesLengthMismatch);
                    }
                    let token = scanner.value()?;
                    let (series, _) = schema.columns[index % count];
                    self.cells
                        .take(&mut scanner, token, series, index / count, form.source)?;
                    index += 1;
                }
                if index != form.rows * count {
                    return Err(Note::FeaturesLengthMismatch);
                }
            }
            _ => return Err(Note::FeaturesJsonMalformed),
        }
        Ok(scanner.end()?)
    }

    /// Reads an object of features: of one row, or (`row` is `None`) of all rows.
    fn read_object(
        &mut self,
        scanner: &mut Scanner<'_>,
        form: JsonForm,
        row: Option<usize>,
    ) -> Result<(), Note> {
        let (mut previous, mut index) = (START, 0);
        while let Some(key) = scanner.key(index == 0)? {
            let source = form.source + if row.is_some() { 0 } else { index };
            index += 1;
            previous = self.out.own_name(previous, &key);
            let series = if key.is_empty() {
                NO_SERIES
            } else {
                self.out.feature(previous)
            };
            match (row, scanner.value()?) {
                (None, Token::Array) if form.batch => {
                    let mut at = 0;
                    while scanner.element(at == 0)? {
                        if at == form.rows {
                            return Err(Note::BatchLengthMismatch);
                        }
                        let token = scanner.value()?;
                        self.cells.take(scanner, token, series, at, source)?;
                        at += 1;
                    }
                    if at != form.rows {
                        return Err(Note::BatchLengthMismatch);
                    }
                }
                (None, token) => {
                    let before = self.cells.cells.len();
                    self.cells.take(scanner, token, series, 0, source)?;
                    if !self.has_room(4 * (before + form.rows)) {
                        self.out.overflowed = true;
                        return Ok(());
                    }
                    if let Some(&cell) = self.cells.cells.get(before) {
                        let others = (1..form.rows as u32).map(|row| Cell { row, ..cell });
                        self.cells.cells.extend(others);
                    }
                }
                (Some(row), token) => self.cells.take(scanner, token, series, row, source)?,
            }
        }
        Ok(())
    }
}

impl From<Malformed> for Note {
    fn from(_: Malformed) -> Self {
        Note::FeaturesJsonMalformed
    }
}
