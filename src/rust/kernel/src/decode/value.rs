//! `AnyValue`: read in place, checked to its leaves.

use std::borrow::Cow;

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

    /// Equal; an array that is the same bytes in the same place is not compared.
    pub fn is_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Value::Array(here), Value::Array(there)) if std::ptr::eq(*here, *there) => true,
            _ => self == other,
        }
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
pub fn key_value<'a>(reader: Reader<'a>, depth: u32) -> Result<(&'a [u8], Value<'a>)> {
    match short(reader.rest()) {
        Some(found) => Ok(found),
        None => any_key_value(reader, depth),
    }
}

/// A `KeyValue` as encoders write it: a key and a scalar, each shorter than 128 bytes, and nothing else.
#[inline]
fn short(message: &[u8]) -> Option<(&[u8], Value<'_>)> {
    let [0x0a, length @ 0..0x80, rest @ ..] = message else {
        return None;
    };
    let (key, rest) = rest.split_at_checked(usize::from(*length))?;
    let [0x12, length @ 0..0x80, value @ ..] = rest else {
        return None;
    };
    if value.len() != usize::from(*length) {
        return None;
    }
    let value = match value {
        [0x21, number @ ..] => Value::Double(f64::from_le_bytes(number.try_into().ok()?)),
        [0x0a, length, text @ ..] if text.len() == usize::from(*length) && *length < 0x80 => {
            Value::Text(text)
        }
        [0x18, number @ 0..0x80] => Value::Int(i64::from(*number)),
        [0x10, truth @ 0..2] => Value::Bool(*truth == 1),
        _ => return None,
    };
    Some((key, value))
}

fn any_key_value<'a>(mut reader: Reader<'a>, depth: u32) -> Result<(&'a [u8], Value<'a>)> {
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
    if std::str::from_utf8(bytes).is_ok() {
        return Cow::Borrowed(bytes);
    }
    Cow::Owned(clip(String::from_utf8_lossy(bytes).as_bytes(), max).to_vec())
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

/// The shortest decimal text that reads back as the number (of two as near, the even one), written as ClickHouse's
/// `toString(Float64)` writes it; the digits are Python's `repr`'s too.
pub fn put_double(out: &mut Vec<u8>, number: f64) {
    if number.is_nan() {
        return out.extend_from_slice(b"nan");
    }
    if number.is_sign_negative() {
        out.push(b'-');
    }
    if number.is_infinite() {
        return out.extend_from_slice(b"inf");
    }
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(number.abs());
    let Some((mantissa, exponent)) = text.split_once('e') else {
        // from 1e-5 to 1e16 both write alike, but for a whole number
        return out.extend_from_slice(text.strip_suffix(".0").unwrap_or(text).as_bytes());
    };
    let digits = mantissa.bytes().filter(|&byte| byte != b'.');
    match exponent.parse::<i32>() {
        Ok(-6) => {
            out.extend_from_slice(b"0.00000");
            out.extend(digits);
        }
        Ok(exponent @ 16..21) => {
            let end = out.len() + exponent as usize + 1;
            out.extend(digits);
            out.resize(end, b'0');
        }
        _ => out.extend_from_slice(text.as_bytes()),
    }
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
            (120.0, "120"),
            (-f64::from(95.42435_f32), "-95.42434692382812"),
            (123456789012345680.0, "123456789012345680"),
            (5e-324, "5e-324"),
            (1.7976931348623157e308, "1.7976931348623157e308"),
            (0.1, "0.1"),
            (-0.0, "-0"),
            (1e20, "100000000000000000000"),
            (1e21, "1e21"),
            (1e-6, "0.000001"),
            (0.0123, "0.0123"),
            (9.9e-7, "9.9e-7"),
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
