//! `AnyValue`: read in place, checked to its leaves.

use std::borrow::Cow;
use std::io::Write;

use crate::wire::{Error, Reader, Result};

/// A value of an attribute. Texts need not be UTF-8; the contents of arrays and maps are checked, and read on demand.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Value<'a> {
    Empty,
    Text(&'a [u8]),
    Bool(bool),
    Int(i64),
    Double(f64),
    Bytes(&'a [u8]),
    /// The encoded `ArrayValue`.
    Array(&'a [u8]),
    /// The encoded `KeyValueList`.
    Map(&'a [u8]),
}

impl<'a> Value<'a> {
    /// The number, where it is one.
    #[inline]
    pub fn number(&self) -> Option<f64> {
        match *self {
            Value::Double(number) => Some(number),
            Value::Int(number) => Some(number as f64),
            _ => None,
        }
    }

    #[inline]
    pub fn is_scalar(&self) -> bool {
        !matches!(self, Value::Bytes(_) | Value::Array(_) | Value::Map(_))
    }

    /// Nothing, or a text of nothing.
    #[inline]
    pub fn is_blank(&self) -> bool {
        matches!(self, Value::Empty | Value::Text(b""))
    }

    /// The elements of an array; none where it is not one.
    pub fn items(&self) -> impl Iterator<Item = Value<'a>> + use<'a> {
        let mut reader = Reader::new(if let Value::Array(bytes) = self {
            bytes
        } else {
            &[]
        });
        std::iter::from_fn(move || {
            while reader.more() {
                match reader.tag().ok()? {
                    0x0a => return any(reader.message().ok()?, u32::MAX).ok(),
                    tag => reader.skip(tag).ok()?,
                }
            }
            None
        })
    }

    /// The entries of a map; none where it is not one.
    pub fn entries(&self) -> impl Iterator<Item = (&'a [u8], Value<'a>)> + use<'a> {
        let mut reader = Reader::new(if let Value::Map(bytes) = self {
            bytes
        } else {
            &[]
        });
        std::iter::from_fn(move || {
            while reader.more() {
                match reader.tag().ok()? {
                    0x0a => return key_value(reader.message().ok()?, u32::MAX).ok(),
                    tag => reader.skip(tag).ok()?,
                }
            }
            None
        })
    }

    /// Appends the text of a scalar, at most `max` bytes of it; false (and nothing) where there is none.
    pub fn put_text(&self, out: &mut Vec<u8>, max: usize) -> bool {
        match *self {
            Value::Text(bytes) => out.extend_from_slice(&clean(bytes, max)),
            Value::Bool(true) => out.extend_from_slice(b"true"),
            Value::Bool(false) => out.extend_from_slice(b"false"),
            Value::Int(number) => put_int(out, number),
            Value::Double(number) => put_double(out, number),
            _ => return false,
        }
        true
    }
}

/// Reads an `AnyValue`, of which `depth` levels may nest.
#[inline]
pub fn any<'a>(mut reader: Reader<'a>, depth: u32) -> Result<Value<'a>> {
    let mut value = Value::Empty;
    while reader.more() {
        value = match reader.tag()? {
            0x0a => Value::Text(reader.bytes()?),
            0x10 => Value::Bool(reader.varint()? != 0),
            0x18 => Value::Int(reader.varint()? as i64),
            0x21 => Value::Double(f64::from_bits(reader.fixed64()?)),
            0x2a => {
                let array = reader.message()?;
                check_array(array, depth)?;
                Value::Array(array.rest())
            }
            0x32 => {
                let map = reader.message()?;
                check_map(map, depth)?;
                Value::Map(map.rest())
            }
            0x3a => Value::Bytes(reader.bytes()?),
            tag => {
                reader.skip(tag)?;
                value
            }
        };
    }
    Ok(value)
}

/// Reads a `KeyValue`.
#[inline]
pub fn key_value<'a>(mut reader: Reader<'a>, depth: u32) -> Result<(&'a [u8], Value<'a>)> {
    let (mut key, mut value) = (&[][..], Value::Empty);
    while reader.more() {
        match reader.tag()? {
            0x0a => key = reader.bytes()?,
            0x12 => value = any(reader.message()?, depth)?,
            tag => reader.skip(tag)?,
        }
    }
    Ok((key, value))
}

fn check_array(mut reader: Reader<'_>, depth: u32) -> Result<()> {
    // u32::MAX: the bytes were checked before, when the request was walked
    if depth == u32::MAX {
        return Ok(());
    }
    let depth = deeper(&reader, depth)?;
    while reader.more() {
        match reader.tag()? {
            0x0a => any(reader.message()?, depth).map(drop)?,
            tag => reader.skip(tag)?,
        }
    }
    Ok(())
}

fn check_map(mut reader: Reader<'_>, depth: u32) -> Result<()> {
    if depth == u32::MAX {
        return Ok(());
    }
    let depth = deeper(&reader, depth)?;
    while reader.more() {
        match reader.tag()? {
            0x0a => key_value(reader.message()?, depth).map(drop)?,
            tag => reader.skip(tag)?,
        }
    }
    Ok(())
}

fn deeper(reader: &Reader<'_>, depth: u32) -> Result<u32> {
    depth.checked_sub(1).ok_or(Error {
        offset: reader.offset(),
        what: "arrays and maps nested no deeper than the limit",
    })
}

/// At most `max` bytes, cut where a character begins.
pub fn clip(bytes: &[u8], max: usize) -> &[u8] {
    if bytes.len() <= max {
        return bytes;
    }
    let mut end = max;
    while end > 0 && max - end < 3 && bytes[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    &bytes[..end]
}

/// The text as UTF-8 of at most `max` bytes; what is not UTF-8 becomes U+FFFD.
pub fn clean(bytes: &[u8], max: usize) -> Cow<'_, [u8]> {
    let bytes = clip(bytes, max);
    match String::from_utf8_lossy(bytes) {
        Cow::Borrowed(_) => Cow::Borrowed(bytes),
        Cow::Owned(text) => Cow::Owned(clip(text.as_bytes(), max).to_vec()),
    }
}

pub fn put_int(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

/// The shortest decimal text that reads back as the number, written as ClickHouse's `toString(Float64)` writes it.
pub fn put_double(out: &mut Vec<u8>, number: f64) {
    let size = number.abs();
    let written = if number.is_nan() {
        out.write_all(b"nan")
    } else if size == 0.0 || (1e-6..1e21).contains(&size) || size.is_infinite() {
        write!(out, "{number}")
    } else {
        write!(out, "{number:e}")
    };
    debug_assert!(written.is_ok(), "a Vec takes everything");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(number: f64) -> String {
        let mut out = Vec::new();
        put_double(&mut out, number);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn doubles_are_shortest() {
        for (number, expected) in [
            (1.0, "1"),
            (0.1, "0.1"),
            (-0.0, "-0"),
            (1e20, "100000000000000000000"),
            (1e21, "1e21"),
            (1e-6, "0.000001"),
            (1.5e-7, "1.5e-7"),
            (f64::NAN, "nan"),
            (f64::NEG_INFINITY, "-inf"),
        ] {
            assert_eq!(text(number), expected);
        }
    }

    #[test]
    fn integers_reach_both_ends() {
        for number in [0, 7, -7, 120, i64::MAX, i64::MIN] {
            let mut out = Vec::new();
            put_int(&mut out, number);
            assert_eq!(String::from_utf8(out).unwrap(), number.to_string());
        }
    }

    #[test]
    fn texts_are_cut_at_a_character() {
        let text = "añb€c".as_bytes();
        for max in 0..=text.len() + 1 {
            let cut = clip(text, max);
            assert!(
                cut.len() <= max
                    && std::str::from_utf8(cut).is_ok()
                    && max - cut.len().min(max) <= 3
            );
        }
        assert_eq!(&*clean(&[0xff; 5], 5), "\u{fffd}".as_bytes());
        assert_eq!(&*clean(b"a\xffb", 100), "a\u{fffd}b".as_bytes());
    }
}
