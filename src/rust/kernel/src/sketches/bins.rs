//! Counts over a reference's frozen bins: exact, mergeable, recomputable in SQL.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use super::values::Sorted;

/// The most bins, atoms or categories that one reference may have.
const LARGEST: usize = 65_536;

/// Frozen bins of one series, named by a content hash. Categorical where there are neither edges nor atoms.
#[derive(Debug)]
pub struct Bins {
    pub id: Box<str>,
    edges: Vec<f64>,
    atoms: Vec<f64>,
    categories: Vec<Box<[u8]>>,
    category_index: FxHashMap<Box<[u8]>, usize>,
}

impl Bins {
    /// # Errors
    /// If edges or atoms are not finite and ascending, categories repeat, or numbers and categories come together.
    pub fn new(
        id: &str,
        edges: Vec<f64>,
        atoms: Vec<f64>,
        categories: Vec<Box<[u8]>>,
    ) -> Result<Self, String> {
        for (what, numbers) in [("edges", &edges), ("atoms", &atoms)] {
            if let Some(at) = numbers.iter().position(|number| !number.is_finite()) {
                return Err(format!(
                    "{what}[{at}]: expected a finite number, got {}",
                    numbers[at]
                ));
            }
            if let Some(at) = numbers.windows(2).position(|pair| pair[0] >= pair[1]) {
                return Err(format!(
                    "{what}[{}]: expected more than {}, got {}; sort them and leave out repeats",
                    at + 1,
                    numbers[at],
                    numbers[at + 1]
                ));
            }
        }
        if !categories.is_empty() && (!edges.is_empty() || !atoms.is_empty()) {
            return Err("expected either edges and atoms or categories, got both".into());
        }
        if id.is_empty() {
            return Err("bins_id: expected a name, got ''".into());
        }
        if edges.len().max(atoms.len()).max(categories.len()) > LARGEST {
            return Err(format!(
                "expected at most {LARGEST} edges, atoms or categories"
            ));
        }
        let category_index: FxHashMap<_, _> = categories
            .iter()
            .enumerate()
            .map(|(index, text)| (text.clone(), index))
            .collect();
        if category_index.len() != categories.len() {
            return Err("categories: expected each one once".into());
        }
        // -0.0 and 0.0 are one value.
        let plain = |numbers: Vec<f64>| numbers.into_iter().map(|number| number + 0.0).collect();
        Ok(Self {
            id: id.into(),
            edges: plain(edges),
            atoms: plain(atoms),
            categories,
            category_index,
        })
    }

    fn is_categorical(&self) -> bool {
        self.edges.is_empty() && self.atoms.is_empty()
    }

    pub fn has_category(&self, text: &[u8]) -> bool {
        self.category_index.contains_key(text)
    }

    /// Number of bins between the first edge and the last.
    fn inner(&self) -> usize {
        self.edges.len().saturating_sub(1)
    }

    /// `[null, non_finite, under, bin…, over, atom…]`, or `[null, category…, unseen]`.
    fn width(&self) -> usize {
        if self.is_categorical() {
            self.categories.len() + 2
        } else {
            4 + self.inner() + self.atoms.len()
        }
    }
}

/// What is in force for one series of a model: at most two bins, while a reference changes.
#[derive(Debug, Default)]
pub struct References {
    pub bins: Vec<Arc<Bins>>,
    /// The atoms of all of them, ascending.
    pub atoms: Vec<f64>,
}

impl References {
    /// # Errors
    /// If there are two already, or one of the same name.
    pub fn push(&mut self, bins: Bins) -> Result<(), String> {
        if self.bins.iter().any(|other| other.id == bins.id) {
            return Err(format!("bins_id {}: given twice", bins.id));
        }
        if self.bins.len() == 2 {
            return Err(format!(
                "bins_id {}: a third one; expected at most two in force (while a reference changes)",
                bins.id
            ));
        }
        self.atoms.extend_from_slice(&bins.atoms);
        self.atoms.sort_unstable_by(f64::total_cmp);
        self.atoms.dedup();
        self.bins.push(Arc::new(bins));
        Ok(())
    }
}

/// Weights over one reference's bins.
#[derive(Debug, Clone)]
pub struct Counts {
    pub bins: Arc<Bins>,
    pub weights: Vec<f64>,
}

impl Counts {
    pub fn new(bins: Arc<Bins>) -> Self {
        let weights = vec![0.0; bins.width()];
        Self { bins, weights }
    }

    /// Counts sorted values; a value equal to an atom counts there alone. Cost: a binary search an edge and an atom.
    pub fn add(&mut self, sorted: &Sorted) {
        if self.bins.is_categorical() {
            return;
        }
        let (edges, inner) = (&self.bins.edges, self.bins.inner());
        let atom_base = 4 + inner;
        // Positions at which a bin ends: under, bin…, over. The last bin is closed; without edges all is over.
        let mut from = 0;
        for (index, edge) in edges.iter().enumerate() {
            let closed = index > 0 && index == inner;
            let rest = &sorted.values[from..];
            let to = from + rest.partition_point(|value| value < edge || (closed && value == edge));
            self.weights[2 + index] += sorted.weight(from, to);
            from = to;
        }
        self.weights[3 + inner] += sorted.weight(from, sorted.values.len());
        let mut from = 0;
        for (index, atom) in self.bins.atoms.iter().enumerate() {
            from += sorted.values[from..].partition_point(|value| value < atom);
            let to = from + sorted.values[from..].partition_point(|value| value <= atom);
            if to > from {
                let weight = sorted.weight(from, to);
                self.weights[atom_base + index] += weight;
                let bin = self.bin_of(*atom);
                self.weights[bin] = (self.weights[bin] - weight).max(0.0);
                from = to;
            }
        }
    }

    fn bin_of(&self, value: f64) -> usize {
        let (edges, inner) = (&self.bins.edges, self.bins.inner());
        match edges.last() {
            None => 3,
            Some(last) if inner > 0 && value == *last => 2 + inner,
            Some(_) => 2 + edges.partition_point(|edge| *edge <= value),
        }
    }

    /// What came beside the numbers: nulls, non-finite numbers, texts. A text is not a number: under numeric bins it counts as
    /// non-finite; a number under categorical bins is unseen.
    pub fn finish<'a>(
        &mut self,
        nulls: f64,
        non_finite: f64,
        numbers: f64,
        texts: impl Iterator<Item = (&'a [u8], f64)>,
    ) {
        self.weights[0] += nulls;
        if self.bins.is_categorical() {
            let unseen = self.weights.len() - 1;
            self.weights[unseen] += numbers + non_finite;
            for (text, weight) in texts {
                self.weights[self
                    .bins
                    .category_index
                    .get(text)
                    .map_or(unseen, |index| index + 1)] += weight;
            }
        } else {
            self.weights[1] += non_finite + texts.map(|(_, weight)| weight).sum::<f64>();
        }
    }
}
