//! Metrics and logs: request bytes into rows of `otel_logs` and `otel_metrics_*`, in one walk that checks every byte.
//!
//! A fault of the wire format refuses the request; items past a bound, and points of metrics without a name, are refused one by one.
//! Rows lack their last two columns, collector and segment, until the segment is known ([`Records::rows`]).
//!
//! Key files: [`logs`], [`metrics`]: the columns and the fields of each.

use std::collections::BTreeMap;

use crate::cells::{Map, each_field, put_text};
use crate::decode::value::Value;
use crate::rowbinary::{put_str, put_u64};
use crate::wire::{self, Reader};

pub mod logs;
pub mod metrics;

pub use logs::decode_logs;
pub use metrics::decode_metrics;

/// The bounds of a walk.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Times older than this against the receive time are moved up to it.
    pub max_late_ns: i64,
    pub max_items: u64,
    /// Bytes that what rows repeat of resource, scope and metric may come to.
    pub max_repeated: u64,
    /// Levels that arrays and maps may nest.
    pub max_depth: u32,
}

/// How far ahead of the receive time a time may be: clocks differ.
const MAX_EARLY_NS: i64 = 5_000_000_000;

#[derive(Debug, PartialEq, Eq)]
pub enum Error {
    Wire(wire::Error),
    /// More than [`Limits::max_repeated`].
    Repeated,
}

impl From<wire::Error> for Error {
    fn from(error: wire::Error) -> Self {
        Error::Wire(error)
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// Rows of one table, without their last two columns.
#[derive(Default)]
struct Table {
    rows: Vec<u8>,
    /// Where each ends.
    ends: Vec<u64>,
}

/// A decoded request.
#[derive(Default)]
pub struct Records {
    pub items: u64,
    /// Items refused: reason -> count.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Of logs: encoded records whose event was asked for.
    pub events: Vec<Vec<u8>>,
    /// By the table's name.
    tables: BTreeMap<&'static str, Table>,
}

impl Records {
    /// Bytes held.
    pub fn size(&self) -> usize {
        let tables = self.tables.values();
        tables
            .map(|table| table.rows.len() + 8 * table.ends.len())
            .sum()
    }

    /// (table, RowBinary, rows) of each table that has any.
    pub fn rows(&self, collector: &str, segment: u64) -> Vec<(&'static str, Vec<u8>, u64)> {
        let mut tail = Vec::new();
        put_str(&mut tail, collector.as_bytes());
        put_u64(&mut tail, segment);
        let whole = |table: &Table| {
            let mut out = Vec::with_capacity(table.rows.len() + tail.len() * table.ends.len());
            let mut start = 0;
            for &end in &table.ends {
                out.extend_from_slice(&table.rows[start..end as usize]);
                out.extend_from_slice(&tail);
                start = end as usize;
            }
            out
        };
        self.tables
            .iter()
            .map(|(name, table)| (*name, whole(table), table.ends.len() as u64))
            .collect()
    }
}

/// What a walk carries along.
struct Walk<'l> {
    limits: &'l Limits,
    receive_ns: i64,
    repeated: u64,
    records: Records,
    attributes: Map,
}

impl<'l> Walk<'l> {
    fn new(receive_ns: i64, limits: &'l Limits) -> Self {
        Self {
            limits,
            receive_ns,
            repeated: 0,
            records: Records::default(),
            attributes: Map::default(),
        }
    }

    /// Whether one more item is taken, whose row repeats so many bytes; it is counted either way.
    fn takes(&mut self, repeated: usize) -> Result<bool> {
        if self.records.items >= self.limits.max_items {
            self.reject("too_many");
            return Ok(false);
        }
        self.records.items += 1;
        self.repeated += repeated as u64;
        if self.repeated > self.limits.max_repeated {
            return Err(Error::Repeated);
        }
        Ok(true)
    }

    fn reject(&mut self, reason: &'static str) {
        *self.records.rejected.entry(reason).or_default() += 1;
    }

    /// The time, or the nearest one allowed; the receive time where there is none.
    fn clamped(&self, time_ns: u64) -> i64 {
        if time_ns == 0 {
            return self.receive_ns;
        }
        let earliest = self.receive_ns.saturating_sub(self.limits.max_late_ns);
        let latest = self.receive_ns.saturating_add(MAX_EARLY_NS).max(earliest);
        i64::try_from(time_ns)
            .unwrap_or(i64::MAX)
            .clamp(earliest, latest)
    }

    /// Appends the row that `write` gives to a table.
    fn put_row(&mut self, table: &'static str, write: impl FnOnce(&mut Vec<u8>)) {
        let table = self.records.tables.entry(table).or_default();
        write(&mut table.rows);
        table.ends.push(table.rows.len() as u64);
    }

    /// Reads a resource (attributes in field 1) or scope (in field 3) message.
    fn about<'a>(&mut self, message: Reader<'a>, attributes: u32) -> wire::Result<About<'a>> {
        let mut about = About::default();
        self.attributes.clear();
        let depth = self.limits.max_depth;
        each_field(message, |field, reader| {
            match field {
                field if field == attributes => {
                    let (key, value) = self.attributes.add(reader.message()?, depth)?;
                    if let (b"service.name", Value::Text(name)) = (key, value) {
                        about.service = name;
                    }
                }
                0x0a => about.name = reader.bytes()?,
                0x12 => about.version = reader.bytes()?,
                0x20 => about.dropped = reader.varint()? as u32,
                _ => reader.skip(field)?,
            }
            Ok(())
        })?;
        self.attributes.put(&mut about.attributes);
        Ok(about)
    }
}

const RESOURCE_ATTRIBUTES: u32 = 0x0a;
const SCOPE_ATTRIBUTES: u32 = 0x1a;

/// What rows repeat of a resource or scope.
#[derive(Default)]
struct About<'a> {
    /// The map, encoded.
    attributes: Vec<u8>,
    service: &'a [u8],
    name: &'a [u8],
    version: &'a [u8],
    dropped: u32,
    schema_url: &'a [u8],
}

/// Walks `Export…Request`, `Resource…` and `Scope…` messages, which are alike for every signal: `take` is given each `Scope…`'s items.
///
/// What describes items may follow them, so each message is read for that first.
fn each_group<'a>(
    data: &'a [u8],
    walk: &mut Walk<'_>,
    mut take: impl FnMut(&mut Walk<'_>, &About<'a>, &About<'a>, Reader<'a>) -> Result<()>,
) -> Result<()> {
    each_message(Reader::new(data), 0x0a, |message| {
        let resource = described(message, walk, RESOURCE_ATTRIBUTES)?;
        each_message(message, 0x12, |group| {
            let scope = described(group, walk, SCOPE_ATTRIBUTES)?;
            each_message(group, 0x12, |item| take(walk, &resource, &scope, item))
        })
    })
}

/// Gives `take` every message of a field, in order.
fn each_message<'a>(
    mut message: Reader<'a>,
    wanted: u32,
    mut take: impl FnMut(Reader<'a>) -> Result<()>,
) -> Result<()> {
    while message.more() {
        let field = message.tag()?;
        if field == wanted {
            take(message.message()?)?;
        } else {
            message.skip(field)?;
        }
    }
    Ok(())
}

/// What a `Resource…` or `Scope…` message says of its resource or scope.
fn described<'a>(
    mut message: Reader<'a>,
    walk: &mut Walk<'_>,
    attributes: u32,
) -> wire::Result<About<'a>> {
    let mut about = None;
    let mut schema_url = &[][..];
    while message.more() {
        match message.tag()? {
            0x0a => about = Some(walk.about(message.message()?, attributes)?),
            0x1a => schema_url = message.bytes()?,
            field => message.skip(field)?,
        }
    }
    let mut about = match about {
        Some(about) => about,
        None => walk.about(Reader::new(&[]), attributes)?,
    };
    about.schema_url = schema_url;
    Ok(about)
}

/// `ServiceName` and the like, of which a row repeats many.
fn put_texts(out: &mut Vec<u8>, texts: &[&[u8]]) {
    texts.iter().for_each(|text| put_text(out, text));
}
