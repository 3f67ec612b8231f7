//! One series of one group in one window: what a row of table `sketches` holds.

use std::sync::Arc;

use super::bins::{Counts, References};
use super::categories::Categories;
use super::values::{Limits, Scratch, Values};

/// An inbound adjusted count as it is counted: an unknown or impossible one counts as 1.
#[derive(Debug, Clone, Copy)]
pub struct Weight {
    pub value: f64,
    pub known: bool,
}

impl Weight {
    /// The largest adjusted count that OTel's 56 bits of randomness can express, and a bound below that f32 can hold in sums.
    const LARGEST: f64 = (1_u64 << 56) as f64;
    const SMALLEST: f64 = 1.0 / (1_u64 << 20) as f64;

    pub fn of(inbound: f64) -> Self {
        let known = inbound == 0.0 || (Self::SMALLEST..=Self::LARGEST).contains(&inbound);
        Self {
            value: if known { inbound } else { 1.0 },
            known,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Cell {
    pub observed: u64,
    pub estimated: f64,
    pub weight_unknown: u64,
    pub weight_sq: f64,
    pub nulls: u64,
    pub non_finite: u64,
    pub sum: f64,
    pub sum_sq: f64,
    pub min: f64,
    pub max: f64,
    pub values: Values,
    references: Arc<References>,
    pub counts: Vec<Counts>,
    pub categories: Option<Box<Categories>>,
    null_weight: f64,
    non_finite_weight: f64,
    /// Weight of the finite numbers.
    number_weight: f64,
}

impl Cell {
    pub fn new(references: &Arc<References>, buffer_limit: usize) -> Self {
        Self {
            observed: 0,
            estimated: 0.0,
            weight_unknown: 0,
            weight_sq: 0.0,
            nulls: 0,
            non_finite: 0,
            sum: 0.0,
            sum_sq: 0.0,
            min: f64::INFINITY,
            max: f64::NEG_INFINITY,
            values: Values::new(buffer_limit),
            references: Arc::clone(references),
            counts: references
                .bins
                .iter()
                .map(|bins| Counts::new(Arc::clone(bins)))
                .collect(),
            categories: None,
            null_weight: 0.0,
            non_finite_weight: 0.0,
            number_weight: 0.0,
        }
    }

    /// Counts a prediction in which the series occurs, whatever its value.
    #[inline]
    pub fn observe(&mut self, weight: Weight) {
        self.observed += 1;
        self.estimated += weight.value;
        self.weight_unknown += u64::from(!weight.known);
        self.weight_sq += weight.value * weight.value;
    }

    #[inline]
    pub fn add_number(
        &mut self,
        value: f64,
        weight: Weight,
        limits: &Limits,
        scratch: &mut Scratch,
    ) {
        self.observe(weight);
        if !value.is_finite() {
            self.non_finite += 1;
            self.non_finite_weight += weight.value;
        } else if weight.value > 0.0 && self.values.push(value, weight.value) {
            self.flush(limits, scratch);
        }
    }

    pub fn add_null(&mut self, weight: Weight) {
        self.observe(weight);
        self.nulls += 1;
        self.null_weight += weight.value;
    }

    /// False where the text went to `(other)`.
    pub fn add_text(&mut self, text: &[u8], weight: Weight, cap: usize) -> bool {
        self.observe(weight);
        self.categories
            .get_or_insert_default()
            .add(text, weight.value, cap, &self.references.bins)
    }

    /// Takes what is still in the buffer, and closes the window.
    pub fn finish(&mut self, limits: &Limits, scratch: &mut Scratch) {
        self.flush(limits, scratch);
        self.values.finish(&self.references.atoms, limits, scratch);
        for counts in &mut self.counts {
            let texts = self
                .categories
                .iter()
                .flat_map(|categories| categories.sorted());
            counts.finish(
                self.null_weight,
                self.non_finite_weight,
                self.number_weight,
                texts,
            );
        }
    }

    fn flush(&mut self, limits: &Limits, scratch: &mut Scratch) {
        let Self {
            values,
            references,
            counts,
            sum,
            sum_sq,
            min,
            max,
            number_weight,
            ..
        } = self;
        values.flush(&references.atoms, limits, scratch, |sorted| {
            *sum = sorted.weighted_sum(*sum, |value| value);
            *sum_sq = sorted.weighted_sum(*sum_sq, |value| value * value);
            *min = min.min(sorted.values[0]);
            *max = max.max(sorted.values[sorted.values.len() - 1]);
            *number_weight += sorted.weight(0, sorted.values.len());
            for count in counts {
                count.add(sorted);
            }
        });
    }
}
