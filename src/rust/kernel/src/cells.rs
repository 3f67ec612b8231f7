//! The cells of rows that spans, log records and data points write alike: texts, ids, times, and attributes as maps.
//!
//! As the OpenTelemetry Collector's ClickHouse exporter writes them: ids in hex, every attribute as text, of arrays and maps as JSON, of
//! bytes in base64. Text that is not UTF-8 gets U+FFFD; a time past 2262 is that year's.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::decode::value::{Value, clean, key_value, put_double, put_int};
use crate::rowbinary::{put_i64, put_str, put_varint};
use crate::wire::{Reader, Result};

/// A map column's value while its entries are met.
#[derive(Default)]
pub struct Map {
    count: u64,
    entries: Vec<u8>,
    text: Vec<u8>,
}

impl Map {
    pub fn clear(&mut self) {
        self.count = 0;
        self.entries.clear();
    }

    /// Adds an encoded `KeyValue`, whose values may nest `depth` levels; `u32::MAX`: it was checked before.
    pub fn add<'a>(
        &mut self,
        key_and_value: Reader<'a>,
        depth: u32,
    ) -> Result<(&'a [u8], Value<'a>)> {
        let (key, value) = key_value(key_and_value, depth)?;
        self.count += 1;
        put_text(&mut self.entries, key);
        match value {
            Value::Text(text) => put_text(&mut self.entries, text),
            value => {
                self.text.clear();
                put_value(&mut self.text, value);
                put_str(&mut self.entries, &self.text);
            }
        }
        Ok((key, value))
    }

    pub fn put(&self, out: &mut Vec<u8>) {
        put_varint(out, self.count);
        out.extend_from_slice(&self.entries);
    }
}

/// A `Nested` column while its elements are met: an array for each of its columns.
pub struct Nested<const COLUMNS: usize> {
    pub count: u64,
    pub columns: [Vec<u8>; COLUMNS],
}

impl<const COLUMNS: usize> Default for Nested<COLUMNS> {
    fn default() -> Self {
        Self {
            count: 0,
            columns: [const { Vec::new() }; COLUMNS],
        }
    }
}

impl<const COLUMNS: usize> Nested<COLUMNS> {
    pub fn clear(&mut self) {
        self.count = 0;
        self.columns.iter_mut().for_each(Vec::clear);
    }

    pub fn put(&self, out: &mut Vec<u8>) {
        for column in &self.columns {
            put_varint(out, self.count);
            out.extend_from_slice(column);
        }
    }
}

pub fn each_field<'a>(
    mut message: Reader<'a>,
    mut take: impl FnMut(u32, &mut Reader<'a>) -> Result<()>,
) -> Result<()> {
    while message.more() {
        let field = message.tag()?;
        take(field, &mut message)?;
    }
    Ok(())
}

pub fn put_time(out: &mut Vec<u8>, time_ns: u64) {
    put_i64(out, i64::try_from(time_ns).unwrap_or(i64::MAX));
}

pub fn put_text(out: &mut Vec<u8>, text: &[u8]) {
    put_str(out, &clean(text, usize::MAX));
}

pub fn put_hex(out: &mut Vec<u8>, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    put_varint(out, 2 * bytes.len() as u64);
    out.extend(bytes.iter().flat_map(|byte| {
        [
            DIGITS[usize::from(byte >> 4)],
            DIGITS[usize::from(byte & 15)],
        ]
    }));
}

/// An attribute's value as text; of arrays and maps as JSON, of bytes in base64.
pub fn put_value(out: &mut Vec<u8>, value: Value<'_>) {
    match value {
        Value::Bytes(bytes) => put_base64(out, bytes),
        Value::Array(_) | Value::Map(_) => put_json(out, value, MAX_DEPTH),
        scalar => {
            scalar.put_text(out, usize::MAX);
        }
    }
}

/// Deeper than decoding lets through: a guard, not a limit.
const MAX_DEPTH: u32 = 1024;

/// JSON without spaces, in the order of the bytes. What JSON cannot say is a string: `"nan"`, `"inf"`, `"-inf"`, bytes in base64.
fn put_json(out: &mut Vec<u8>, value: Value<'_>, depth: u32) {
    match value {
        Value::Text(text) => put_json_text(out, text),
        Value::Double(number) if !number.is_finite() => {
            out.push(b'"');
            put_double(out, number);
            out.push(b'"');
        }
        Value::Double(number) => put_double(out, number),
        Value::Int(number) => put_int(out, number),
        Value::Bool(truth) => out.extend_from_slice(if truth { b"true" } else { b"false" }),
        Value::Bytes(bytes) => {
            out.push(b'"');
            put_base64(out, bytes);
            out.push(b'"');
        }
        Value::Array(_) if depth > 0 => {
            out.push(b'[');
            for (number, item) in value.items().enumerate() {
                if number > 0 {
                    out.push(b',');
                }
                put_json(out, item, depth - 1);
            }
            out.push(b']');
        }
        Value::Map(_) if depth > 0 => {
            out.push(b'{');
            for (number, (key, item)) in value.entries().enumerate() {
                if number > 0 {
                    out.push(b',');
                }
                put_json_text(out, key);
                out.push(b':');
                put_json(out, item, depth - 1);
            }
            out.push(b'}');
        }
        Value::Empty | Value::Array(_) | Value::Map(_) => out.extend_from_slice(b"null"),
    }
}

fn put_json_text(out: &mut Vec<u8>, text: &[u8]) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for &byte in &*clean(text, usize::MAX) {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            0..0x20 => out.extend_from_slice(&[
                b'\\',
                b'u',
                b'0',
                b'0',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

fn put_base64(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
}
