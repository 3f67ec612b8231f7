//! Text values of one series and window: exact weights up to a cap, the rest together.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::bins::Bins;

/// Where values past the cap are counted.
pub const OTHER: &str = "(other)";

#[derive(Debug, Clone, Default)]
pub struct Categories {
    weights: FxHashMap<Box<[u8]>, f64>,
    other: f64,
}

impl Categories {
    /// Counts `text`; false where it went to `(other)`. The reference's own categories are always counted by name.
    pub fn add(&mut self, text: &[u8], weight: f64, cap: usize, references: &[Arc<Bins>]) -> bool {
        if let Some(sum) = self.weights.get_mut(text) {
            *sum += weight;
        } else if self.weights.len() < cap || references.iter().any(|bins| bins.has_category(text))
        {
            self.weights.insert(text.into(), weight);
        } else {
            self.other += weight;
            return false;
        }
        true
    }

    /// (text, weight) in the order of the text, `(other)` last.
    pub fn sorted(&self) -> Vec<(&[u8], f64)> {
        let mut pairs: Vec<(&[u8], f64)> = self
            .weights
            .iter()
            .map(|(text, weight)| (&**text, *weight))
            .collect();
        pairs.sort_unstable_by_key(|pair| pair.0);
        if self.other > 0.0 {
            match pairs.iter_mut().find(|pair| pair.0 == OTHER.as_bytes()) {
                Some(pair) => pair.1 += self.other,
                None => pairs.push((OTHER.as_bytes(), self.other)),
            }
        }
        pairs
    }
}
