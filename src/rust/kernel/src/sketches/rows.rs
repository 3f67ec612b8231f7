//! Rows of table `sketches` in RowBinary.

use crate::batch::Group;
use crate::rowbinary::{put_f64, put_str, put_u32, put_u64, put_varint};

use super::cell::Cell;

/// (column, type) of `sketches`, in row order. The digest's type is any t-digest's: all share one state.
pub const SKETCH_COLUMNS: &[(&str, &str)] = &[
    ("window_start", "DateTime"),
    ("window_s", "UInt32"),
    ("model", "LowCardinality(String)"),
    ("version", "LowCardinality(String)"),
    ("role", "LowCardinality(String)"),
    ("series", "LowCardinality(String)"),
    ("observed", "UInt64"),
    ("estimated", "Float64"),
    ("weight_unknown", "UInt64"),
    ("weight_sq", "Float64"),
    ("nulls", "UInt64"),
    ("non_finite", "UInt64"),
    ("sum", "Float64"),
    ("sum_sq", "Float64"),
    ("min", "SimpleAggregateFunction(min, Float64)"),
    ("max", "SimpleAggregateFunction(max, Float64)"),
    ("atoms", "Map(Float64, Float64)"),
    ("digest", "AggregateFunction(quantileTDigest, Float32)"),
    ("bins_id", "LowCardinality(String)"),
    ("bins", "Array(Float64)"),
    ("bins_id_next", "LowCardinality(String)"),
    ("bins_next", "Array(Float64)"),
    ("categories", "Map(String, Float64)"),
    ("collector", "LowCardinality(String)"),
    ("segment", "UInt64"),
];

/// What a row is keyed by.
pub struct Key<'a> {
    pub group: &'a Group,
    pub series: &'a str,
    pub window_start_s: u32,
    pub window_s: u32,
}

/// Appends the row of a finished cell.
pub fn put_row(out: &mut Vec<u8>, key: &Key, cell: &Cell, collector: &str, segment: u64) {
    put_u32(out, key.window_start_s);
    put_u32(out, key.window_s);
    for text in [
        &*key.group.model,
        &*key.group.version,
        &*key.group.role,
        key.series,
    ] {
        put_str(out, text.as_bytes());
    }
    put_u64(out, cell.observed);
    put_f64(out, cell.estimated);
    put_u64(out, cell.weight_unknown);
    put_f64(out, cell.weight_sq);
    put_u64(out, cell.nulls);
    put_u64(out, cell.non_finite);
    for number in [cell.sum, cell.sum_sq, cell.min, cell.max] {
        put_f64(out, number);
    }
    put_varint(out, cell.values.atoms().count() as u64);
    for atom in cell.values.atoms() {
        put_f64(out, atom.mean);
        put_f64(out, atom.weight);
    }
    cell.values.digest().put_state(out);
    for slot in 0..2 {
        let counts = cell.counts.get(slot);
        put_str(out, counts.map_or(b"", |counts| counts.bins.id.as_bytes()));
        let weights = counts.map_or(&[][..], |counts| &counts.weights);
        put_varint(out, weights.len() as u64);
        weights.iter().for_each(|weight| put_f64(out, *weight));
    }
    let categories = cell
        .categories
        .as_ref()
        .map_or_else(Vec::new, |categories| categories.sorted());
    put_varint(out, categories.len() as u64);
    for (text, weight) in categories {
        put_str(out, text);
        put_f64(out, weight);
    }
    put_str(out, collector.as_bytes());
    put_u64(out, segment);
}
