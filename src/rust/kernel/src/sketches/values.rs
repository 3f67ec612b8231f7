//! The numbers of one series and window, exact while they are few: atoms, and a digest of what does not fit.
//!
//! A value is only pushed onto a buffer. A full buffer is sorted, and everything else is done on runs of equal values:
//! no hashing, no search per value.
//!
//! - *whole*: every distinct value is an atom, until there are too many or the series is seen to be continuous;
//! - *split*: heavy values and the reference's own stay atoms; the rest lives in the digest.
//!
//! The bounds and what they cost in accuracy: docs/adr/0003-atoms-and-digests.md.

use super::digest::{Centroid, Digest, LARGEST_MEAN, Scale};

/// The first buffer is this short: a continuous series is seen before it fills the atoms.
const FIRST_BUFFER: usize = 512;

/// A value this often in one buffer, or in a window that is split for being continuous, is no accident.
const HEAVY_RUN: u32 = 4;

/// In a window of fewer values than this nothing is called continuous.
const FEWEST: u64 = 16;
const FEWEST_AT_ONCE: u64 = 128;

/// Values on a decimal grid of at most this many points times `atoms` may repeat often enough to matter: they stay atoms.
const GRID_POINTS_PER_ATOM: f64 = 16.0;

/// What bounds one series.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    pub atoms: usize,
    /// While values come in the digest is finer than it goes out: merging coarse centroids makes them overlap.
    pub working: Scale,
    pub scale: Scale,
}

/// Values in ascending order, with the running sum of their weights.
pub struct Sorted<'a> {
    pub values: &'a [f64],
    /// `running[i]` is the weight of the first `i` values; empty where every weight is 1.
    running: &'a [f64],
}

impl<'a> Sorted<'a> {
    /// Weight of the values `from..to`.
    pub fn weight(&self, from: usize, to: usize) -> f64 {
        if self.running.is_empty() {
            (to - from) as f64
        } else {
            self.running[to] - self.running[from]
        }
    }

    /// `start` plus the weighted sum of `of(value)`, held within the finite numbers.
    pub fn weighted_sum(&self, start: f64, of: impl Fn(f64) -> f64 + Clone) -> f64 {
        let weighted = self
            .values
            .iter()
            .enumerate()
            .map(|(at, value)| (of(*value), self.weight(at, at + 1)));
        let sum = start
            + weighted
                .clone()
                .map(|(term, weight)| term * weight)
                .sum::<f64>();
        if sum.is_finite() {
            return sum;
        }
        let bounded = |number: f64| number.clamp(f64::MIN, f64::MAX);
        weighted.fold(start, |sum, (term, weight)| {
            bounded(sum + bounded(term) * weight)
        })
    }

    /// (value, weight, count) of each run of equal values.
    fn runs(&self) -> impl Iterator<Item = (f64, f64, u32)> + '_ {
        let mut from = 0;
        std::iter::from_fn(move || {
            let value = *self.values.get(from)?;
            let mut to = from + 1;
            while self.values.get(to) == Some(&value) {
                to += 1;
            }
            let run = (value, self.weight(from, to), (to - from) as u32);
            from = to;
            Some(run)
        })
    }
}

/// Work space, shared by all series.
#[derive(Default)]
pub struct Scratch {
    sorting: Sorting,
    work: Work,
}

#[derive(Default)]
struct Sorting {
    keys: Vec<u64>,
    pairs: Vec<(u64, f64)>,
    values: Vec<f64>,
    running: Vec<f64>,
}

#[derive(Default)]
struct Work {
    points: Vec<Centroid>,
    centroids: Vec<Centroid>,
    atoms: Vec<Atom>,
    fresh: Vec<Atom>,
}

/// A value that is counted exactly.
#[derive(Debug, Clone, Copy)]
struct Atom {
    value: f64,
    weight: f64,
    count: u32,
    /// One of the reference's atoms.
    pinned: bool,
}

#[derive(Debug, Clone, Default)]
pub struct Values {
    buffer: Vec<f64>,
    /// Weights of the buffer; empty while each is 1.
    weights: Vec<f64>,
    limit: usize,
    buffer_limit: usize,
    atoms: Vec<Atom>,
    digest: Digest,
    split: bool,
    count: u64,
}

impl Values {
    pub fn new(buffer_limit: usize) -> Self {
        Self {
            limit: buffer_limit.min(FIRST_BUFFER),
            buffer_limit,
            ..Self::default()
        }
    }

    /// Takes a finite value of positive weight; true where [`Values::flush`] is due.
    #[inline]
    pub fn push(&mut self, value: f64, weight: f64) -> bool {
        if weight != 1.0 || !self.weights.is_empty() {
            self.weights.resize(self.buffer.len(), 1.0);
            self.weights.push(weight);
        }
        self.buffer.push(value + 0.0); // -0.0 and 0.0 are one value
        self.buffer.len() >= self.limit
    }

    /// Sorts the buffer, shows it to `read`, and takes it into atoms and digest. `pinned` are the reference's atoms, ascending.
    pub fn flush(
        &mut self,
        pinned: &[f64],
        limits: &Limits,
        scratch: &mut Scratch,
        read: impl FnOnce(&Sorted),
    ) {
        if self.buffer.is_empty() {
            return;
        }
        let sorted = self.sort(&mut scratch.sorting);
        read(&sorted);
        self.absorb(&sorted, pinned, limits, &mut scratch.work);
    }

    /// The end of a window: a continuous series goes into the digest even if it is short, so that plain SQL over digests is right.
    pub fn finish(&mut self, pinned: &[f64], limits: &Limits, scratch: &mut Scratch) {
        if !self.split && self.looks_continuous(FEWEST, 50) && !self.lies_on_a_coarse_grid(limits) {
            self.split(
                |atom| atom.count >= HEAVY_RUN,
                pinned,
                limits,
                &mut scratch.work,
            );
        }
        self.digest
            .compress(limits.scale, &mut scratch.work.centroids);
    }

    fn sort<'a>(
        &mut self,
        Sorting {
            keys,
            pairs,
            values,
            running,
        }: &'a mut Sorting,
    ) -> Sorted<'a> {
        values.clear();
        running.clear();
        if self.weights.is_empty() {
            keys.clear();
            keys.extend(self.buffer.drain(..).map(order_key));
            keys.sort_unstable();
            values.extend(keys.iter().map(|key| from_order_key(*key)));
        } else {
            pairs.clear();
            pairs.extend(
                self.buffer
                    .drain(..)
                    .map(order_key)
                    .zip(self.weights.drain(..)),
            );
            pairs.sort_by_key(|pair| pair.0);
            values.extend(pairs.iter().map(|pair| from_order_key(pair.0)));
            running.push(0.0);
            running.extend(pairs.iter().scan(0.0, |sum, pair| {
                *sum += pair.1;
                Some(*sum)
            }));
        }
        Sorted { values, running }
    }

    fn absorb(&mut self, sorted: &Sorted, pinned: &[f64], limits: &Limits, work: &mut Work) {
        let first = self.count == 0;
        self.count += sorted.values.len() as u64;
        self.limit = self.buffer_limit;
        if self.split {
            self.absorb_split(sorted, pinned.len(), limits, work);
            return;
        }
        merge_atoms(
            &mut self.atoms,
            sorted.runs().map(Atom::from_run),
            &mut work.atoms,
        );
        if self.atoms.len() > limits.atoms {
            let lightest =
                self.atoms.iter().map(|atom| atom.weight).sum::<f64>() / limits.atoms as f64;
            self.split(|atom| atom.weight >= lightest, pinned, limits, work);
        } else if first && self.looks_continuous(FEWEST_AT_ONCE, 256) {
            self.split(|atom| atom.count >= HEAVY_RUN, pinned, limits, work);
        }
    }

    /// (value, weight), ascending.
    pub fn atoms(&self) -> impl Iterator<Item = Centroid> + Clone + '_ {
        self.atoms
            .iter()
            .filter(|atom| atom.weight > 0.0)
            .map(|atom| Centroid {
                mean: atom.value,
                weight: atom.weight,
            })
    }

    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Whether, heavy values aside, at least `fewest` values repeat less than once in `one_in`.
    fn looks_continuous(&self, fewest: u64, one_in: u64) -> bool {
        let light = self.atoms.iter().filter(|atom| atom.count < HEAVY_RUN);
        let (values, distinct) = light.fold((0, 0), |(values, distinct), atom| {
            (values + u64::from(atom.count), distinct + 1)
        });
        values >= fewest && (values - distinct) * one_in <= values
    }

    /// Whether the light values are short decimals that few others lie between: ages, counts, prices. Repeats are then to be expected.
    fn lies_on_a_coarse_grid(&self, limits: &Limits) -> bool {
        let light = self
            .atoms
            .iter()
            .filter(|atom| atom.count < HEAVY_RUN)
            .map(|atom| atom.value);
        let Some(least) = light.clone().next() else {
            return false;
        };
        let span = light.clone().next_back().unwrap_or(least) - least;
        [1.0, 10.0, 100.0, 1000.0].into_iter().any(|steps| {
            span * steps <= GRID_POINTS_PER_ATOM * limits.atoms as f64
                && light.clone().all(|value| {
                    (value * steps).abs() < 1e9
                        && ((value * steps).round() / steps) as f32 == value as f32
                })
        })
    }

    /// Moves the atoms that `keep` does not name into the digest.
    fn split(
        &mut self,
        keep: impl Fn(&Atom) -> bool,
        pinned: &[f64],
        limits: &Limits,
        work: &mut Work,
    ) {
        self.split = true;
        merge_atoms(
            &mut self.atoms,
            pinned.iter().map(|value| Atom {
                value: *value,
                weight: 0.0,
                count: 0,
                pinned: true,
            }),
            &mut work.atoms,
        );
        work.points.clear();
        work.fresh.clear();
        for atom in &self.atoms {
            if atom.pinned || keep(atom) {
                work.fresh.push(*atom);
            } else if atom.weight > 0.0 {
                work.points.push(point(atom.value, atom.weight));
            }
        }
        self.atoms = work.fresh.as_slice().into();
        self.digest
            .merge(&work.points, limits.working, &mut work.centroids);
    }

    fn absorb_split(&mut self, sorted: &Sorted, pinned: usize, limits: &Limits, work: &mut Work) {
        let mut room = (limits.atoms + pinned).saturating_sub(self.atoms.len());
        work.points.clear();
        work.fresh.clear();
        let mut at = 0;
        for (value, weight, count) in sorted.runs() {
            while self.atoms.get(at).is_some_and(|atom| atom.value < value) {
                at += 1;
            }
            match self.atoms.get_mut(at) {
                Some(atom) if atom.value == value => {
                    atom.weight += weight;
                    atom.count = atom.count.saturating_add(count);
                }
                _ if count >= HEAVY_RUN && room > 0 => {
                    room -= 1;
                    work.fresh.push(Atom {
                        value,
                        weight,
                        count,
                        pinned: false,
                    });
                }
                // A weight may vanish beside one 2⁵³ times as large; ClickHouse refuses a centroid without any.
                _ if weight > 0.0 => work.points.push(point(value, weight)),
                _ => {}
            }
        }
        if !work.fresh.is_empty() {
            merge_atoms(&mut self.atoms, work.fresh.drain(..), &mut work.atoms);
        }
        self.digest
            .merge(&work.points, limits.working, &mut work.centroids);
    }
}

impl Atom {
    fn from_run((value, weight, count): (f64, f64, u32)) -> Self {
        Self {
            value,
            weight,
            count,
            pinned: false,
        }
    }
}

fn point(value: f64, weight: f64) -> Centroid {
    Centroid {
        mean: value.clamp(-LARGEST_MEAN, LARGEST_MEAN),
        weight,
    }
}

/// Adds `more`, ascending, to `atoms`, ascending.
fn merge_atoms(atoms: &mut Vec<Atom>, more: impl Iterator<Item = Atom>, scratch: &mut Vec<Atom>) {
    scratch.clear();
    let mut old = atoms.iter().copied().peekable();
    for atom in more {
        while let Some(smaller) = old.next_if(|other| other.value < atom.value) {
            scratch.push(smaller);
        }
        scratch.push(match old.next_if(|other| other.value == atom.value) {
            Some(same) => Atom {
                weight: same.weight + atom.weight,
                count: same.count.saturating_add(atom.count),
                pinned: same.pinned || atom.pinned,
                ..same
            },
            None => atom,
        });
    }
    scratch.extend(old);
    atoms.clear();
    atoms.extend_from_slice(scratch);
}

/// Maps finite floats to integers of the same order.
#[inline]
fn order_key(value: f64) -> u64 {
    let bits = value.to_bits();
    bits ^ (((bits as i64 >> 63) as u64) | (1 << 63))
}

#[inline]
fn from_order_key(key: u64) -> f64 {
    f64::from_bits(key ^ (((!key as i64 >> 63) as u64) | (1 << 63)))
}
