//! The forms in which features come: one attribute each, map, names and values, JSON, packed vector.
//!
//! A feature that several forms give counts once; the forms are read in that order. A form that contradicts itself
//! (a length, a mask, JSON cut short) gives nothing: it is never decoded short.

use base64::Engine;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::Decoder;
use super::dialect::*;
use super::emit::{MAX_NAME, Place};
use super::intern::START;
use super::json_features::JsonForm;
use super::notes::Note;
use super::value::Value;

/// Sources (see [`Place::source`]) of the forms; attributes of their own have numbers below.
const SOURCE_NAMED: u32 = 0x8000_0000;
const SOURCE_MAP: u32 = 0xa000_0000;
const SOURCE_VALUES: u32 = 0xc000_0000;
const SOURCE_MAP_JSON: u32 = 0xd000_0000;
const SOURCE_JSON: u32 = 0xe000_0000;
const SOURCE_PACKED: u32 = 0xf000_0000;

/// Not a series: a schema's column that is no feature (its role says so).
pub(super) const NO_SERIES: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Kind {
    Number,
    Bool,
    Text,
}

/// What `names`, `dtypes` and `roles` say, resolved; kept from span to span while they stay the same.
#[derive(Default)]
pub struct Schema<'a> {
    from: Option<[Value<'a>; 3]>,
    /// `from` does not contradict itself.
    is_whole: bool,
    pub(super) columns: Vec<(u32, Kind)>,
    numbers: usize,
    texts: usize,
}

/// How the numbers of a packed vector are written.
#[derive(Clone, Copy)]
enum Encoding {
    F16,
    F32,
    F64,
    /// A row is its scale (f32) and an int8 a number; a number is scale x int8.
    ScaledI8,
}

impl Encoding {
    fn row_size(self, numbers: usize) -> usize {
        match self {
            Encoding::F16 => 2 * numbers,
            Encoding::F32 => 4 * numbers,
            Encoding::F64 => 8 * numbers,
            Encoding::ScaledI8 => 4 + numbers,
        }
    }

    /// Number `index` of a row; the row has [`Encoding::row_size`] bytes.
    fn number(self, row: &[u8], index: usize) -> f64 {
        match self {
            Encoding::F16 => half(u16::from_le_bytes(chunk(row, 2 * index))),
            Encoding::F32 => f64::from(f32::from_le_bytes(chunk(row, 4 * index))),
            Encoding::F64 => f64::from_le_bytes(chunk(row, 8 * index)),
            Encoding::ScaledI8 => {
                f64::from(f32::from_le_bytes(chunk(row, 0))) * f64::from(row[4 + index] as i8)
            }
        }
    }
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..].first_chunk().copied().unwrap_or([0; N])
}

/// An IEEE 754 half-precision number.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 0x1f), f64::from(bits & 0x3ff));
    let size = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 if fraction == 0.0 => f64::INFINITY,
        31 => f64::NAN,
        _ => (1.0 + fraction / 1024.0) * 2f64.powi(exponent - 15),
    };
    if bits >> 15 == 1 { -size } else { size }
}

/// Standard and URL-safe alphabets, padded or not.
pub(crate) fn base64(text: &[u8]) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    const STANDARD: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT);
    const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, LENIENT);
    STANDARD
        .decode(text)
        .or_else(|_| URL_SAFE.decode(text))
        .ok()
}

fn is_any_of(value: Value<'_>, words: &[&str]) -> bool {
    matches!(value, Value::Text(text) if words.iter().any(|word| text.eq_ignore_ascii_case(word.as_bytes())))
}

impl<'a> Decoder<'a> {
    /// Appends the features of the span in hand, but for those of one attribute each, which were appended as they were met.
    pub(super) fn features(&mut self, rows: usize, batch: bool) {
        for index in 0..self.dialect.features.len() {
            let Some(value) = self.slots.get(self.dialect.feature_slot(index)) else {
                continue;
            };
            let dialect = self.dialect;
            let name = self.out.name(START, dialect.features[index].as_bytes());
            self.column(
                self.out.feature(name),
                SOURCE_NAMED | index as u32,
                value,
                rows,
                batch,
            );
        }
        match self.slots.get(FEATURES_MAP) {
            Some(map @ Value::Map(_)) => self.map(map, rows, batch),
            Some(Value::Text(text)) if !text.is_empty() => {
                self.json(
                    text,
                    JsonForm {
                        source: SOURCE_MAP_JSON,
                        rows,
                        batch,
                    },
                    None,
                );
            }
            Some(Value::Empty | Value::Text(_)) | None => {}
            Some(_) => self.out.notes.add(Note::FieldTypeUnexpected),
        }
        let values = self.slots.get(FEATURES_VALUES);
        let json = self.slots.get(FEATURES_JSON);
        let packed = self
            .slots
            .get(FEATURES_PACKED)
            .or(self.slots.get(FEATURES_PACKED_B64));
        let categorical = self.slots.get(FEATURES_CATEGORICAL);
        let mut schema = std::mem::take(&mut self.schema);
        let mut known = Err(Note::FeaturesSchemaUnknown);
        if values.is_some() || packed.is_some() || categorical.is_some() {
            known = self.resolve(&mut schema);
        }
        if let Some(values) = values {
            known
                .and_then(|()| self.values(&schema, values, rows))
                .unwrap_or_else(|note| self.out.notes.add(note));
        }
        match json {
            Some(Value::Text(text)) => self.json(
                text,
                JsonForm {
                    source: SOURCE_JSON,
                    rows,
                    batch,
                },
                None,
            ),
            Some(Value::Empty) | None => {}
            Some(_) => self.out.notes.add(Note::FieldTypeUnexpected),
        }
        if packed.is_some() || (categorical.is_some() && values.is_none()) {
            self.packed(known.map(|()| &schema), rows, batch)
                .unwrap_or_else(|note| self.out.notes.add(note));
        }
        self.schema = schema;
    }

    /// Appends the values of one attribute: one for all rows, or an array with one for each.
    pub(super) fn column(
        &mut self,
        series: u32,
        source: u32,
        value: Value<'a>,
        rows: usize,
        batch: bool,
    ) {
        let first = self.predictions.len() as u32;
        let place = |row: usize| Place {
            prediction: first + row as u32,
            row: row as u32,
            source,
        };
        if !batch {
            self.out.put(series, place(0), value);
            return;
        }
        if matches!(value, Value::Array(_)) {
            if value.items().count() != rows {
                return self.out.notes.add(Note::BatchLengthMismatch);
            }
            for (row, item) in value.items().enumerate() {
                self.out.put(series, place(row), item);
            }
        } else if value.is_scalar() {
            // one value for all rows is what grows faster than its bytes
            if !self.has_room(rows) {
                self.out.overflowed = true;
            } else if self.out.put(series, place(0), value) {
                for row in 1..rows {
                    self.out.put(series, place(row), value);
                }
            } else {
                self.out.notes.add_many(Note::FeatureDuplicate, rows - 1);
            }
        } else {
            self.out.notes.add(Note::FeatureNotScalar);
        }
    }

    fn map(&mut self, map: Value<'a>, rows: usize, batch: bool) {
        let mut previous = START;
        for (index, (key, value)) in map.entries().enumerate() {
            if key.is_empty() {
                continue;
            }
            previous = self.out.name(previous, key);
            self.column(
                self.out.feature(previous),
                SOURCE_MAP + index as u32,
                value,
                rows,
                batch,
            );
        }
    }

    /// Brings `schema` up to date with the span's names, dtypes and roles; the same ones again cost a comparison.
    fn resolve(&mut self, schema: &mut Schema<'a>) -> Result<(), Note> {
        let from = [FEATURES_NAMES, FEATURES_DTYPES, FEATURES_ROLES]
            .map(|slot| self.slots.get(slot).unwrap_or(Value::Empty));
        if self
            .slots
            .contradicts_base(FEATURES_SCHEMA_ID, FEATURES_NAMES)
        {
            return Err(Note::FeaturesSchemaUnknown);
        }
        let same = |(old, new): (&Value<'a>, &Value<'a>)| old.is_same(new);
        if !schema
            .from
            .is_some_and(|old| old.iter().zip(&from).all(same))
        {
            schema.from = Some(from);
            schema.is_whole = self.read_schema(schema, from);
        }
        if schema.is_whole {
            Ok(())
        } else {
            Err(Note::FeaturesSchemaUnknown)
        }
    }

    /// Whether there are names, all of them texts or numbers, and as many dtypes and roles where there are those.
    fn read_schema(
        &mut self,
        schema: &mut Schema<'a>,
        [names, dtypes, roles]: [Value<'a>; 3],
    ) -> bool {
        schema.columns.clear();
        let (mut kinds, mut uses, mut previous) = (dtypes.items(), roles.items(), START);
        for name in names.items() {
            self.scratch.clear();
            if !name.put_text(&mut self.scratch, MAX_NAME) {
                return false;
            }
            previous = self.out.own_name(previous, &self.scratch);
            let dtype = kinds.next().unwrap_or(Value::Empty);
            let kind = if is_any_of(
                dtype,
                &["string", "str", "text", "category", "categorical", "object"],
            ) {
                Kind::Text
            } else if is_any_of(dtype, &["bool", "boolean"]) {
                Kind::Bool
            } else {
                Kind::Number
            };
            let is_feature = uses
                .next()
                .is_none_or(|role| role.is_blank() || is_any_of(role, &["feature"]));
            schema.columns.push((
                if is_feature {
                    self.out.feature(previous)
                } else {
                    NO_SERIES
                },
                kind,
            ));
        }
        let count = schema.columns.len();
        schema.texts = schema
            .columns
            .iter()
            .filter(|(_, kind)| *kind == Kind::Text)
            .count();
        schema.numbers = count - schema.texts;
        count > 0
            && [dtypes, roles]
                .iter()
                .all(|list| matches!(list, Value::Empty) || list.items().count() == count)
    }

    fn values(&mut self, schema: &Schema<'a>, values: Value<'a>, rows: usize) -> Result<(), Note> {
        let count = schema.columns.len();
        if values.items().count() != rows * count {
            return Err(Note::FeaturesLengthMismatch);
        }
        let mut items = values.items();
        for row in 0..rows {
            let place = Place {
                prediction: (self.predictions.len() + row) as u32,
                row: row as u32,
                source: SOURCE_VALUES,
            };
            for (&(series, _), value) in schema.columns.iter().zip(&mut items) {
                if series != NO_SERIES {
                    self.out.put(series, place, value);
                }
            }
        }
        Ok(())
    }

    fn packed(
        &mut self,
        schema: Result<&Schema<'a>, Note>,
        rows: usize,
        batch: bool,
    ) -> Result<(), Note> {
        let encoding = match self.slots.get(FEATURES_ENCODING) {
            None | Some(Value::Empty | Value::Text(b"")) => Some(Encoding::F32),
            Some(value) if is_any_of(value, &["f32le"]) => Some(Encoding::F32),
            Some(value) if is_any_of(value, &["f64le"]) => Some(Encoding::F64),
            Some(value) if is_any_of(value, &["f16le"]) => Some(Encoding::F16),
            Some(value) if is_any_of(value, &["i8q"]) => Some(Encoding::ScaledI8),
            Some(value) if is_any_of(value, &["json"]) => None,
            Some(_) => return Err(Note::FeaturesEncodingUnknown),
        };
        let decoded;
        let data = match (
            self.slots.get(FEATURES_PACKED),
            self.slots.get(FEATURES_PACKED_B64),
        ) {
            // an SDK without bytes attributes sends bytes that happen to be UTF-8 as text
            (Some(Value::Bytes(data) | Value::Text(data)), _) => data,
            (None | Some(Value::Empty), Some(Value::Text(text))) => {
                decoded = base64(text).ok_or(Note::FeaturesBase64Malformed)?;
                &decoded
            }
            (None | Some(Value::Empty), None | Some(Value::Empty)) => &[],
            _ => return Err(Note::FieldTypeUnexpected),
        };
        let Some(encoding) = encoding else {
            self.json(
                data,
                JsonForm {
                    source: SOURCE_PACKED,
                    rows,
                    batch,
                },
                Some(schema),
            );
            return Ok(());
        };
        let schema = schema?;
        let count = schema.columns.len();
        let row_size = if schema.numbers == 0 {
            0
        } else {
            encoding.row_size(schema.numbers)
        };
        let said = self
            .slots
            .get(FEATURES_LEN)
            .and_then(|value| value.number());
        let lengths = [schema.numbers, count, schema.numbers * rows, count * rows];
        if data.len() != row_size * rows
            || said.is_some_and(|said| !lengths.contains(&(said as usize)))
        {
            return Err(Note::FeaturesLengthMismatch);
        }
        let categorical = self.slots.get(FEATURES_CATEGORICAL).unwrap_or(Value::Empty);
        if categorical.items().count() != schema.texts * rows {
            return Err(Note::FeaturesLengthMismatch);
        }
        let decoded_mask;
        let mask = match self.slots.get(FEATURES_NULL_MASK) {
            None | Some(Value::Empty | Value::Text(b"")) => &[],
            Some(Value::Bytes(mask)) => mask,
            Some(Value::Text(text)) => {
                decoded_mask = base64(text).ok_or(Note::FeaturesBase64Malformed)?;
                &decoded_mask[..]
            }
            Some(_) => return Err(Note::FieldTypeUnexpected),
        };
        if !mask.is_empty() && mask.len() != (rows * count).div_ceil(8) {
            return Err(Note::FeaturesLengthMismatch);
        }
        let is_null = |index: usize| {
            mask.get(index / 8)
                .is_some_and(|byte| byte >> (index % 8) & 1 == 1)
        };
        let mut texts = categorical.items();
        for row in 0..rows {
            let numbers = &data[row * row_size..(row + 1) * row_size];
            let place = Place {
                prediction: (self.predictions.len() + row) as u32,
                row: row as u32,
                source: SOURCE_PACKED,
            };
            let mut at = 0;
            for (column, &(series, kind)) in schema.columns.iter().enumerate() {
                let value = if kind == Kind::Text {
                    texts.next().unwrap_or(Value::Empty)
                } else {
                    at += 1;
                    let number = encoding.number(numbers, at - 1);
                    if kind == Kind::Bool && !number.is_nan() {
                        Value::Bool(number != 0.0)
                    } else {
                        Value::Double(number)
                    }
                };
                if series != NO_SERIES {
                    self.out.put(
                        series,
                        place,
                        if is_null(row * count + column) {
                            Value::Empty
                        } else {
                            value
                        },
                    );
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves() {
        for (bits, expected) in [
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x0001, 2f64.powi(-24)),
            (0x7bff, 65504.0),
            (0x3555, 0.333251953125),
            (0xfc00, f64::NEG_INFINITY),
        ] {
            assert_eq!(half(bits), expected);
        }
        assert!(half(0x7e00).is_nan());
    }

    #[test]
    fn base64_of_both_alphabets_padded_or_not() {
        for text in ["+/8=", "+/8", "-_8=", "-_8"] {
            assert_eq!(base64(text.as_bytes()), Some(vec![0xfb, 0xff]));
        }
        assert_eq!(base64(b"+/8=x"), None);
    }
}
