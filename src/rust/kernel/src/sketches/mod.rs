//! Sketches: what is known of every prediction, whatever the sampling.
//!
//! The way of a value: [`Sketches::add`] finds its [`cell`] (group, series, event-time window); the cell counts it and puts it
//! onto a buffer; a full buffer is sorted once, and the moments, the reference's [`bins`], the atoms and the [`digest`] are made
//! from the sorted values ([`values`]). [`Sketches::drain`] closes all windows and writes their [`rows`]. What is
//! drained is a function of the batches added since the last drain and of the references, and of nothing else.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::batch::{Group, SpanBatch};

pub use self::bins::Bins;
use self::bins::References;
use self::categories::OTHER;
use self::cell::{Cell, Weight};
use self::digest::{Centroid, Digest, Distribution, Scale};
pub use self::rows::SKETCH_COLUMNS;
use self::values::{Limits, Scratch};

mod bins;
mod categories;
mod cell;
pub mod digest;
mod rows;
#[cfg(test)]
mod tests;
mod values;

const SECOND_NS: i64 = 1_000_000_000;

/// What bounds the sketches.
#[derive(Debug, Clone)]
pub struct Config {
    /// Whole seconds.
    pub window_ns: i64,
    pub max_groups: usize,
    pub max_series: usize,
    pub max_categories: usize,
    /// (group, series, window) at once.
    pub max_cells: usize,
    pub atoms: usize,
    pub compression: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            window_ns: 60 * SECOND_NS,
            max_groups: 1_000,
            max_series: 2_000,
            max_categories: 256,
            max_cells: 100_000,
            atoms: 1_024,
            compression: 200,
        }
    }
}

/// What went to `(other)` since the last drain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Overflow {
    /// Predictions of groups past `max_groups`.
    pub groups: u64,
    /// Values of series past `max_series`.
    pub series: u64,
    /// Texts past `max_categories`.
    pub categories: u64,
    /// Predictions and values that found no cell of their own below `max_cells`.
    pub cells: u64,
}

/// One group's distribution of a series.
pub struct GroupQuantiles {
    pub group: Group,
    pub weight: f64,
    pub values: Vec<f64>,
}

pub struct Sketches {
    config: Config,
    limits: Limits,
    references: FxHashMap<Box<str>, FxHashMap<Box<str>, Arc<References>>>,
    no_references: Arc<References>,
    groups: Vec<GroupState>,
    group_index: FxHashMap<Group, u32>,
    other_group: Option<u32>,
    windows: Vec<Window>,
    window_index: FxHashMap<(u32, i64), u32>,
    cells: Vec<Cell>,
    overflow: Overflow,
    scratch: Scratch,
}

struct GroupState {
    name: Group,
    series: Vec<SeriesState>,
    series_index: FxHashMap<Box<str>, u32>,
}

struct SeriesState {
    name: Box<str>,
    references: Arc<References>,
}

/// One group in one event-time window.
struct Window {
    group: u32,
    number: i64,
    /// Cell of each of the group's series; [`NONE`] where the series has not occurred.
    cells: Vec<u32>,
}

const NONE: u32 = u32::MAX;

/// How much finer a digest is while values still come in.
const WORKING_FINENESS: u32 = 2;

/// The series that counts the predictions themselves.
const PREDICTIONS: u32 = 0;

/// The row of series '' counts predictions, so a series without a name gets this one.
const UNNAMED: &str = "(unnamed)";

/// Where a prediction is counted.
#[derive(Clone, Copy)]
struct Place {
    window: u32,
    /// Row of [`SeriesNumbers`]: the batch's own number of the group.
    row: u32,
    weight: Weight,
}

/// What is known of a batch while its values are added.
struct Places {
    predictions: Vec<Place>,
    numbers: SeriesNumbers,
}

/// (group, series) of a batch → the group's own number of the series. Remembers nothing where the product is large.
struct SeriesNumbers {
    series: usize,
    numbers: Vec<u32>,
}

impl SeriesNumbers {
    const LARGEST: usize = 1 << 20;

    fn new(rows: usize, series: usize) -> Self {
        let size = rows.saturating_mul(series);
        Self {
            series,
            numbers: vec![NONE; if size <= Self::LARGEST { size } else { 0 }],
        }
    }

    #[inline]
    fn get(&self, row: u32, series: u32) -> u32 {
        self.numbers
            .get(row as usize * self.series + series as usize)
            .copied()
            .unwrap_or(NONE)
    }

    fn set(&mut self, row: u32, series: u32, number: u32) {
        if let Some(entry) = self
            .numbers
            .get_mut(row as usize * self.series + series as usize)
        {
            *entry = number;
        }
    }
}

impl Sketches {
    /// # Errors
    /// If a bound is 0, or the window is not whole seconds.
    pub fn new(config: Config) -> Result<Self, String> {
        if config.window_ns < SECOND_NS
            || config.window_ns % SECOND_NS != 0
            || config.window_ns / SECOND_NS > i64::from(u32::MAX)
        {
            return Err(format!(
                "window_ns: expected whole seconds, at least one, got {} ns",
                config.window_ns
            ));
        }
        for (name, bound, least) in [
            ("max_groups", config.max_groups, 1),
            ("max_series", config.max_series, 1),
            ("max_categories", config.max_categories, 1),
            ("max_cells", config.max_cells, 1),
            ("atoms", config.atoms, 16),
            ("compression", config.compression as usize, 20),
        ] {
            if bound < least || bound > 100_000_000 {
                return Err(format!(
                    "{name}: expected {least} to 100000000, got {bound}"
                ));
            }
        }
        let limits = Limits {
            atoms: config.atoms,
            working: Scale::new(WORKING_FINENESS * config.compression),
            scale: Scale::new(config.compression),
        };
        Ok(Self {
            config,
            limits,
            references: FxHashMap::default(),
            no_references: Arc::default(),
            groups: Vec::new(),
            group_index: FxHashMap::default(),
            other_group: None,
            windows: Vec::new(),
            window_index: FxHashMap::default(),
            cells: Vec::new(),
            overflow: Overflow::default(),
            scratch: Scratch::default(),
        })
    }

    /// Bins in force for (model, series) from here on. Windows that have begun keep what they began with until they are drained.
    ///
    /// # Errors
    /// If a series has more than two bins, or the same twice. Nothing changes then.
    pub fn set_references(
        &mut self,
        references: Vec<(Box<str>, Box<str>, Bins)>,
    ) -> Result<(), String> {
        let mut by_series: FxHashMap<Box<str>, FxHashMap<Box<str>, References>> =
            FxHashMap::default();
        for (model, series, bins) in references {
            let place = format!("{model}, {series}");
            let of_model = by_series.entry(model).or_default();
            of_model
                .entry(series)
                .or_default()
                .push(bins)
                .map_err(|error| format!("({place}): {error}"))?;
        }
        let share = |of_model: FxHashMap<_, _>| {
            of_model
                .into_iter()
                .map(|(series, references)| (series, Arc::new(references)))
                .collect()
        };
        self.references = by_series
            .into_iter()
            .map(|(model, of_model)| (model, share(of_model)))
            .collect();
        for group in &mut self.groups {
            for series in &mut group.series {
                series.references = find_references(
                    &self.references,
                    &self.no_references,
                    &group.name.model,
                    &series.name,
                );
            }
        }
        Ok(())
    }

    pub fn overflow(&self) -> Overflow {
        self.overflow
    }

    /// Counts every prediction and value of `batch`. Cost: see benchmarks/sketches.py.
    pub fn add(&mut self, batch: &SpanBatch) {
        let mut places = self.count_predictions(batch);
        for number in &batch.numeric {
            let (cell, weight) = self.locate(batch, &mut places, number.prediction, number.series);
            self.cells[cell].add_number(number.value, weight, &self.limits, &mut self.scratch);
        }
        for text in &batch.categorical {
            let (cell, weight) = self.locate(batch, &mut places, text.prediction, text.series);
            let value = &batch.text[text.value.start as usize..text.value.end as usize];
            if !self.cells[cell].add_text(value, weight, self.config.max_categories) {
                self.overflow.categories += 1;
            }
        }
        for missing in &batch.missing {
            let (cell, weight) =
                self.locate(batch, &mut places, missing.prediction, missing.series);
            self.cells[cell].add_null(weight);
        }
    }

    /// The rows of all windows, sorted by (model, series, version, role, window), and their number; then all starts afresh.
    pub fn drain(&mut self, collector: &str, segment: u64) -> (Vec<u8>, u64) {
        let mut order: Vec<(&Group, &str, i64, u32)> = Vec::with_capacity(self.cells.len());
        for window in &self.windows {
            let group = &self.groups[window.group as usize];
            let used = window
                .cells
                .iter()
                .enumerate()
                .filter(|(_, cell)| **cell != NONE);
            order.extend(used.map(|(series, cell)| {
                (
                    &group.name,
                    &*group.series[series].name,
                    window.number,
                    *cell,
                )
            }));
        }
        order.sort_unstable_by(|a, b| {
            (&a.0.model, a.1, &a.0.version, &a.0.role, a.2).cmp(&(
                &b.0.model,
                b.1,
                &b.0.version,
                &b.0.role,
                b.2,
            ))
        });
        let window_s = self.config.window_ns / SECOND_NS;
        let mut out = Vec::new();
        for (group, series, number, cell) in &order {
            let cell = &mut self.cells[*cell as usize];
            cell.finish(&self.limits, &mut self.scratch);
            let start = number
                .saturating_mul(window_s)
                .clamp(0, i64::from(u32::MAX));
            let key = rows::Key {
                group,
                series,
                window_start_s: start as u32,
                window_s: window_s as u32,
            };
            rows::put_row(&mut out, &key, cell, collector, segment);
        }
        let rows = order.len() as u64;
        self.groups = Vec::new();
        self.group_index = FxHashMap::default();
        self.other_group = None;
        self.windows = Vec::new();
        self.window_index = FxHashMap::default();
        self.cells = Vec::new();
        self.overflow = Overflow::default();
        (out, rows)
    }

    /// The quantiles of a series over what has not been drained, its windows together, by group in sorted order.
    ///
    /// Works on copies: what a later drain gives out does not depend on who asked.
    pub fn quantiles(&mut self, series: &str, levels: &[f64]) -> Vec<GroupQuantiles> {
        let mut of_group: FxHashMap<u32, (Vec<Centroid>, Vec<Centroid>)> = FxHashMap::default();
        for window in &self.windows {
            let number = self.groups[window.group as usize].series_index.get(series);
            let Some(cell) = number
                .and_then(|number| window.cells.get(*number as usize))
                .filter(|cell| **cell != NONE)
            else {
                continue;
            };
            let mut cell = self.cells[*cell as usize].clone();
            cell.finish(&self.limits, &mut self.scratch);
            let (atoms, centroids) = of_group.entry(window.group).or_default();
            atoms.extend(cell.values.atoms());
            centroids.extend_from_slice(cell.values.digest().centroids());
        }
        let mut found: Vec<GroupQuantiles> = of_group
            .into_iter()
            .map(|(group, (mut atoms, mut centroids))| {
                atoms.sort_by(|a, b| a.mean.total_cmp(&b.mean));
                atoms.dedup_by(|next, kept| {
                    let same = next.mean == kept.mean;
                    kept.weight += if same { next.weight } else { 0.0 };
                    same
                });
                centroids.sort_by(|a, b| a.mean.total_cmp(&b.mean));
                let mut digest = Digest::default();
                digest.merge(&centroids, self.limits.scale, &mut Vec::new());
                let distribution = Distribution::new(&atoms, digest.centroids());
                let values = levels
                    .iter()
                    .map(|level| distribution.quantile(*level))
                    .collect();
                GroupQuantiles {
                    group: self.groups[group as usize].name.clone(),
                    weight: distribution.weight(),
                    values,
                }
            })
            .collect();
        found.sort_unstable_by(|a, b| a.group.cmp(&b.group));
        found
    }

    /// Counts the predictions themselves, and finds the window of each.
    fn count_predictions(&mut self, batch: &SpanBatch) -> Places {
        let other_row = batch.groups.len() as u32;
        let mut group_numbers = vec![NONE; batch.groups.len()];
        let mut predictions = Vec::with_capacity(batch.predictions.len());
        let mut last = (NONE, 0, 0); // group, number of the window, window
        for prediction in &batch.predictions {
            let known = &mut group_numbers[prediction.group as usize];
            if *known == NONE {
                *known = self.group_number(&batch.groups[prediction.group as usize]);
            }
            let group = *known;
            let number = prediction.event_ns.div_euclid(self.config.window_ns);
            if (last.0, last.1) != (group, number) {
                last = (group, number, self.window_of(group, number));
            }
            let window = &self.windows[last.2 as usize];
            let in_own_group = window.group == group;
            self.overflow.groups += u64::from(Some(group) == self.other_group);
            self.overflow.cells += u64::from(!in_own_group);
            let place = Place {
                window: last.2,
                row: if in_own_group {
                    prediction.group
                } else {
                    other_row
                },
                weight: Weight::of(prediction.weight),
            };
            self.cells[window.cells[PREDICTIONS as usize] as usize].observe(place.weight);
            predictions.push(place);
        }
        Places {
            predictions,
            numbers: SeriesNumbers::new(batch.groups.len() + 1, batch.series.len()),
        }
    }

    /// The cell of a value, made where there is none.
    #[inline]
    fn locate(
        &mut self,
        batch: &SpanBatch,
        places: &mut Places,
        prediction: u32,
        series: u32,
    ) -> (usize, Weight) {
        let place = places.predictions[prediction as usize];
        let number = places.numbers.get(place.row, series);
        let cell = self.windows[place.window as usize]
            .cells
            .get(number as usize)
            .copied()
            .unwrap_or(NONE);
        if cell != NONE {
            return (cell as usize, place.weight);
        }
        let name = match &*batch.series[series as usize] {
            "" => UNNAMED,
            name => name,
        };
        let (number, is_other) =
            self.series_number(self.windows[place.window as usize].group, name);
        if is_other {
            self.overflow.series += 1; // and not remembered, so that each value passes here and is counted
        } else {
            places.numbers.set(place.row, series, number);
        }
        (self.cell_of(place.window, number), place.weight)
    }

    fn group_number(&mut self, group: &Group) -> u32 {
        if let Some(number) = self.group_index.get(group) {
            return *number;
        }
        if self.groups.len() >= self.config.max_groups {
            self.other_group_number()
        } else {
            self.add_group(group.clone())
        }
    }

    fn other_group_number(&mut self) -> u32 {
        let name = Group {
            model: OTHER.into(),
            version: "".into(),
            role: "".into(),
        };
        let number = self
            .group_index
            .get(&name)
            .copied()
            .unwrap_or_else(|| self.add_group(name));
        self.other_group = Some(number);
        number
    }

    fn add_group(&mut self, name: Group) -> u32 {
        let number = self.groups.len() as u32;
        self.group_index.insert(name.clone(), number);
        let predictions = SeriesState {
            name: "".into(),
            references: Arc::clone(&self.no_references),
        };
        self.groups.push(GroupState {
            name,
            series: vec![predictions],
            series_index: FxHashMap::default(),
        });
        number
    }

    /// The group's own number of a series, and whether that is `(other)` for want of room.
    fn series_number(&mut self, group: u32, name: &str) -> (u32, bool) {
        let state = &self.groups[group as usize];
        match state.series_index.get(name) {
            Some(number) => (*number, false),
            None if state.series.len() > self.config.max_series => {
                (self.other_series_number(group), true)
            }
            None => (self.add_series(group, name), false),
        }
    }

    fn other_series_number(&mut self, group: u32) -> u32 {
        let known = self.groups[group as usize].series_index.get(OTHER).copied();
        known.unwrap_or_else(|| self.add_series(group, OTHER))
    }

    fn add_series(&mut self, group: u32, name: &str) -> u32 {
        let state = &mut self.groups[group as usize];
        let number = state.series.len() as u32;
        let references = find_references(
            &self.references,
            &self.no_references,
            &state.name.model,
            name,
        );
        state.series.push(SeriesState {
            name: name.into(),
            references,
        });
        state.series_index.insert(name.into(), number);
        number
    }

    /// The window of a group, made where there is none; the window of the group `(other)` where there is no room.
    fn window_of(&mut self, group: u32, number: i64) -> u32 {
        if let Some(window) = self.window_index.get(&(group, number)) {
            return *window;
        }
        if self.cells.len() >= self.config.max_cells {
            let other = self.other_group_number();
            if group != other {
                return self.window_of(other, number);
            }
        }
        let window = self.windows.len() as u32;
        self.window_index.insert((group, number), window);
        self.windows.push(Window {
            group,
            number,
            cells: Vec::new(),
        });
        self.make_cell(window, PREDICTIONS);
        window
    }

    /// The cell of a series in a window; that of `(other)`, `(other)` where there is no room.
    fn cell_of(&mut self, window: u32, number: u32) -> usize {
        let cell = self.windows[window as usize]
            .cells
            .get(number as usize)
            .copied()
            .unwrap_or(NONE);
        if cell != NONE {
            return cell as usize;
        }
        if self.cells.len() < self.config.max_cells {
            return self.make_cell(window, number);
        }
        self.overflow.cells += 1;
        let group = self.other_group_number();
        let window = self.window_of(group, self.windows[window as usize].number);
        let number = self.other_series_number(group);
        match self.windows[window as usize].cells.get(number as usize) {
            Some(cell) if *cell != NONE => *cell as usize,
            _ => self.make_cell(window, number),
        }
    }

    fn make_cell(&mut self, window: u32, number: u32) -> usize {
        let Window { group, cells, .. } = &mut self.windows[window as usize];
        if cells.len() <= number as usize {
            cells.resize(number as usize + 1, NONE);
        }
        cells[number as usize] = self.cells.len() as u32;
        // Many cells share the memory: the more there are, the smaller a new one's buffer.
        let buffer = match self.cells.len() {
            0..4_096 => 2_048,
            4_096..32_768 => 512,
            _ => 128,
        };
        self.cells.push(Cell::new(
            &self.groups[*group as usize].series[number as usize].references,
            buffer,
        ));
        self.cells.len() - 1
    }
}

fn find_references(
    all: &FxHashMap<Box<str>, FxHashMap<Box<str>, Arc<References>>>,
    none: &Arc<References>,
    model: &str,
    series: &str,
) -> Arc<References> {
    Arc::clone(
        all.get(model)
            .and_then(|of_model| of_model.get(series))
            .unwrap_or(none),
    )
}
