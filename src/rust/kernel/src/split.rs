//! Divides a request of metrics or logs into smaller ones, which hold the same items once each.
//!
//! What reads them, protobuf's own parser, keeps the interpreter from the first byte of a message to its last; and the time it takes
//! follows from the number of values, not of bytes, so an item of very many values is left out and counted.

use crate::rowbinary::put_varint;
use crate::wire::{Error, Reader, Result};

/// A message of OTLP, for as long as it holds what may be divided: the tags of its children, and what each of them is.
struct Level(&'static [(u32, Child)]);

enum Child {
    Inner(&'static Level),
    /// An item, with the fields in it that hold values.
    Item(Fields),
}

/// Fields that lead to values: tag, and the same of the message there.
type Fields = &'static [(u32, Inside)];

#[derive(Clone, Copy)]
enum Inside {
    Value,
    Array,
    Map,
    KeyValue,
    Exemplar,
    Quantile,
}

impl Inside {
    fn fields(self) -> Fields {
        match self {
            Inside::Value => &[(0x2a, Inside::Array), (0x32, Inside::Map)],
            Inside::Array => &[(0x0a, Inside::Value)],
            Inside::Map => &[(0x0a, Inside::KeyValue)],
            Inside::KeyValue => &[(0x12, Inside::Value)],
            Inside::Exemplar => &[(0x3a, Inside::KeyValue)],
            Inside::Quantile => &[],
        }
    }
}

const LOGS: Level = Level(&[(0x0a, Child::Inner(&RESOURCE_LOGS))]);
const RESOURCE_LOGS: Level = Level(&[(0x12, Child::Inner(&SCOPE_LOGS))]);
const SCOPE_LOGS: Level = Level(&[(
    0x12,
    Child::Item(&[(0x2a, Inside::Value), (0x32, Inside::KeyValue)]),
)]);

const METRICS: Level = Level(&[(0x0a, Child::Inner(&RESOURCE_METRICS))]);
const RESOURCE_METRICS: Level = Level(&[(0x12, Child::Inner(&SCOPE_METRICS))]);
const SCOPE_METRICS: Level = Level(&[(0x12, Child::Inner(&METRIC))]);
const METRIC: Level = Level(&[
    (0x2a, Child::Inner(&NUMBERS)),
    (0x3a, Child::Inner(&NUMBERS)),
    (0x4a, Child::Inner(&HISTOGRAM)),
    (0x52, Child::Inner(&EXPONENTIAL_HISTOGRAM)),
    (0x5a, Child::Inner(&SUMMARY)),
]);
const NUMBERS: Level = Level(&[(
    0x0a,
    Child::Item(&[(0x3a, Inside::KeyValue), (0x2a, Inside::Exemplar)]),
)]);
const HISTOGRAM: Level = Level(&[(
    0x0a,
    Child::Item(&[(0x4a, Inside::KeyValue), (0x42, Inside::Exemplar)]),
)]);
const EXPONENTIAL_HISTOGRAM: Level = Level(&[(
    0x0a,
    Child::Item(&[(0x0a, Inside::KeyValue), (0x5a, Inside::Exemplar)]),
)]);
const SUMMARY: Level = Level(&[(
    0x0a,
    Child::Item(&[(0x3a, Inside::KeyValue), (0x32, Inside::Quantile)]),
)]);

/// Levels that values are followed down; protobuf's parser refuses more.
const MAX_DEPTH: u32 = 100;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Metrics,
    Logs,
}

/// A request in parts.
#[derive(Debug, Default)]
pub struct Parts {
    pub requests: Vec<Vec<u8>>,
    /// Items left out, since each holds more values than are read.
    pub too_complex: u64,
}

/// Divides a request; see `split_request` in `_kernel.pyi`.
pub fn split(data: &[u8], signal: Signal, size: usize, max_values: usize) -> Result<Parts> {
    if data.len() > u32::MAX as usize {
        return Err(Error {
            offset: 0,
            what: "a request below 4 GiB",
        });
    }
    let mut splitter = Splitter {
        size,
        max_values,
        open: Vec::new(),
        parts: Parts::default(),
    };
    let level = match signal {
        Signal::Metrics => &METRICS,
        Signal::Logs => &LOGS,
    };
    splitter.message(Reader::new(data), 0, level)?;
    Ok(splitter.parts)
}

/// A message whose children are being read.
struct Open<'a> {
    tag: u32,
    /// Its other fields, which every part repeats.
    shared: Vec<&'a [u8]>,
    /// Its children since the last part.
    children: Vec<u8>,
    /// Whether a part has it.
    is_told: bool,
}

struct Splitter<'a> {
    size: usize,
    max_values: usize,
    open: Vec<Open<'a>>,
    parts: Parts,
}

impl<'a> Splitter<'a> {
    fn message(&mut self, message: Reader<'a>, tag: u32, level: &Level) -> Result<()> {
        let child = |tag: u32| level.0.iter().find(|(known, _)| *known == tag);
        let mut shared = Vec::new();
        let mut reader = message;
        while reader.more() {
            let field = reader.rest();
            let tag = reader.tag()?;
            reader.skip(tag)?;
            if child(tag).is_none() {
                shared.push(&field[..field.len() - reader.rest().len()]);
            }
        }
        self.open.push(Open {
            tag,
            shared,
            children: Vec::new(),
            is_told: false,
        });
        let mut reader = message;
        while reader.more() {
            let field = reader.rest();
            let tag = reader.tag()?;
            match child(tag) {
                None => reader.skip(tag)?,
                Some((_, Child::Inner(level))) => self.message(reader.message()?, tag, level)?,
                Some((_, Child::Item(fields))) => {
                    let item = reader.message()?;
                    self.item(item, &field[..field.len() - reader.rest().len()], fields);
                }
            }
        }
        if self.open.len() == 1 {
            self.close_part();
        } else {
            self.close_message();
        }
        Ok(())
    }

    fn item(&mut self, item: Reader<'a>, field: &[u8], fields: Fields) {
        // a value takes two bytes at least
        if item.rest().len() > 2 * self.max_values {
            let mut left = self.max_values;
            if !count(item, fields, 0, &mut left) {
                self.parts.too_complex += 1;
                return;
            }
        }
        if let Some(open) = self.open.last_mut() {
            open.children.extend_from_slice(field);
        }
        self.close_full_part();
    }

    fn close_full_part(&mut self) {
        let repeated = self.open.iter().flat_map(|open| &open.shared);
        let repeated: usize = repeated.map(|field| field.len()).sum();
        let gathered: usize = self.open.iter().map(|open| open.children.len()).sum();
        // no part is mostly what every part repeats, so all of them together are at most twice the request
        if gathered >= self.size.max(repeated) {
            self.close_part();
        }
    }

    /// Ends the part with what has been gathered; what is open stays open for the next.
    fn close_part(&mut self) {
        let mut inner = Vec::new();
        for open in self.open.iter_mut().rev() {
            open.children.append(&mut inner);
            if open.children.is_empty() && open.is_told {
                continue;
            }
            open.is_told = true;
            let mut message = open.shared.concat();
            message.append(&mut open.children);
            if open.tag == 0 {
                inner = message;
            } else {
                put_varint(&mut inner, u64::from(open.tag));
                put_varint(&mut inner, message.len() as u64);
                inner.append(&mut message);
            }
        }
        if !inner.is_empty() {
            self.parts.requests.push(inner);
        }
    }

    /// Ends the message read last, and puts it among its parent's children.
    fn close_message(&mut self) {
        let Some(mut open) = self.open.pop() else {
            return;
        };
        let Some(parent) = self.open.last_mut() else {
            return;
        };
        if open.children.is_empty() && open.is_told {
            return;
        }
        let size = open.children.len() + open.shared.iter().map(|field| field.len()).sum::<usize>();
        put_varint(&mut parent.children, u64::from(open.tag));
        put_varint(&mut parent.children, size as u64);
        for field in open.shared {
            parent.children.extend_from_slice(field);
        }
        parent.children.append(&mut open.children);
        self.close_full_part();
    }
}

/// Counts what is read of a message down from `left`; false once nothing is left. What is malformed is left to the parser.
fn count(mut reader: Reader<'_>, fields: Fields, depth: u32, left: &mut usize) -> bool {
    while reader.more() {
        let Some(rest) = left.checked_sub(1) else {
            return false;
        };
        *left = rest;
        let Ok(tag) = reader.tag() else {
            return true;
        };
        let inside = fields.iter().find(|(known, _)| *known == tag);
        let message = match inside {
            None => match reader.skip(tag) {
                Ok(()) => continue,
                Err(_) => return true,
            },
            Some(_) => reader.message(),
        };
        if let (Ok(message), Some((_, inside))) = (message, inside) {
            if depth < MAX_DEPTH && !count(message, inside.fields(), depth + 1, left) {
                return false;
            }
        } else {
            return true;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(tag: u32, content: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_varint(&mut out, u64::from(tag));
        put_varint(&mut out, content.len() as u64);
        out.extend_from_slice(content);
        out
    }

    fn logs(resource: &[u8], records: usize) -> Vec<u8> {
        let record = |number: usize| field(0x12, &field(0x1a, format!("{number:08}").as_bytes()));
        let scope: Vec<u8> = (0..records).flat_map(record).collect();
        let scope = [scope, field(0x1a, b"scope's schema")].concat();
        field(0x0a, &[field(0x12, &scope), field(0x0a, resource)].concat())
    }

    /// The records of a part, and whether it has the resource and the schema.
    fn read(part: &[u8]) -> (Vec<Vec<u8>>, bool) {
        let (mut records, mut whole) = (Vec::new(), true);
        let mut request = Reader::new(part);
        while request.more() {
            assert_eq!(request.tag(), Ok(0x0a));
            let (mut inner, mut shared) = (request.message().unwrap(), 0);
            while inner.more() {
                if inner.tag().unwrap() == 0x0a {
                    shared += inner.bytes().unwrap().len();
                    continue;
                }
                let mut scope = inner.message().unwrap();
                while scope.more() {
                    match scope.tag().unwrap() {
                        0x12 => records.push(scope.bytes().unwrap().to_vec()),
                        _ => shared += scope.bytes().unwrap().len(),
                    }
                }
            }
            whole &= shared >= b"resourcescope's schema".len();
        }
        (records, whole)
    }

    #[test]
    fn each_item_is_in_one_part_with_what_it_belongs_to() {
        for size in [1, 20, 100, 5000, 1 << 20] {
            let data = [
                logs(b"resource", 100),
                logs(b"resource", 0),
                logs(b"resource", 1),
            ]
            .concat();
            let parts = split(&data, Signal::Logs, size, 1000).unwrap();
            let read: Vec<_> = parts.requests.iter().map(|part| read(part)).collect();
            assert!(read.iter().all(|(_, whole)| *whole));
            let records: Vec<_> = read.into_iter().flat_map(|(records, _)| records).collect();
            let expected = (0..100)
                .chain(0..1)
                .map(|number| field(0x1a, format!("{number:08}").as_bytes()));
            assert!(
                records.iter().eq(expected.collect::<Vec<_>>().iter()),
                "{size}"
            );
            assert!(
                parts
                    .requests
                    .iter()
                    .all(|part| part.len() < 2 * size.max(200) + 200)
            );
        }
    }

    #[test]
    fn a_large_resource_is_not_repeated_for_each_item() {
        let data = logs(&[b'x'; 50_000], 5000);
        let parts = split(&data, Signal::Logs, 1, 1000).unwrap();
        let total: usize = parts.requests.iter().map(Vec::len).sum();
        assert!(
            parts.requests.len() > 1 && total < 3 * data.len(),
            "{total}"
        );
    }

    #[test]
    fn an_item_of_many_values_is_left_out() {
        let empty = field(0x0a, b"").repeat(2000);
        let body = field(0x2a, &field(0x2a, &empty));
        let scope = [
            field(0x12, &body),
            field(0x12, &field(0x2a, &field(0x0a, &[b'x'; 5000]))),
        ]
        .concat();
        let data = field(0x0a, &field(0x12, &scope));
        let parts = split(&data, Signal::Logs, 1 << 20, 1000).unwrap();
        assert_eq!(parts.too_complex, 1);
        assert_eq!(read(&parts.requests[0]).0.len(), 1);
        assert_eq!(
            split(&data, Signal::Logs, 1 << 20, 2100)
                .unwrap()
                .too_complex,
            0
        );
    }

    #[test]
    fn what_is_cut_short_is_an_error() {
        let data = logs(b"resource", 3);
        for end in 1..data.len() {
            assert!(split(&data[..end], Signal::Logs, 1, 1000).is_err());
        }
        assert!(
            split(&[], Signal::Metrics, 1, 1000)
                .unwrap()
                .requests
                .is_empty()
        );
    }
}
