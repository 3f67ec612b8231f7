//! A merging t-digest: the distribution of many values in some two hundred weighted means.
//!
//! Dunning & Ertl (2019), "Computing extremely accurate quantiles using t-digests", with the scale function k1. State is
//! f64 inside; it goes out in the layout of ClickHouse's `AggregateFunction(quantileTDigest, Float32)`, so that plain SQL
//! merges it over any windows. Why k1 and these bounds: docs/adr/0003-atoms-and-digests.md.

use crate::rowbinary::put_varint;

/// Values beyond this are held at it: a mean is written as f32, and ClickHouse multiplies it by counts.
pub const LARGEST_MEAN: f64 = 1e30;

/// A weighted value, or the mean of several.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Centroid {
    pub mean: f64,
    pub weight: f64,
}

/// k1(q) = compression / 2π · asin(2q − 1): how much weight one centroid may hold at the quantile q.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    sin: f64,
    cos: f64,
}

impl Scale {
    pub fn new(compression: u32) -> Self {
        let (sin, cos) = (std::f64::consts::TAU / f64::from(compression)).sin_cos();
        Self { sin, cos }
    }

    /// The quantile at which a centroid that begins at `q` must end: k1⁻¹(k1(q) + 1), by the addition theorem of the sine.
    fn end(self, q: f64) -> f64 {
        let s = 2.0 * q - 1.0;
        if s >= self.cos {
            return 1.0;
        }
        (s * self.cos + (1.0 - s * s).max(0.0).sqrt() * self.sin + 1.0) / 2.0
    }
}

/// Centroids in ascending order of their means. The same merges in the same order give the same bytes.
#[derive(Debug, Clone, Default)]
pub struct Digest {
    centroids: Vec<Centroid>,
    weight: f64,
}

impl Digest {
    pub fn centroids(&self) -> &[Centroid] {
        &self.centroids
    }

    /// Total weight.
    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// Takes in `points`, ascending, finite, of positive weight. Cost: about 3 ns a point and 200 steps.
    ///
    /// The smallest and the largest point stay alone, so that the distribution keeps its ends.
    pub fn merge(&mut self, points: &[Centroid], scale: Scale, scratch: &mut Vec<Centroid>) {
        if points.is_empty() {
            return;
        }
        self.weight += points.iter().map(|point| point.weight).sum::<f64>();
        scratch.clear();
        let (mut old, mut new) = (self.centroids.as_slice(), points);
        let mut remaining = old.len() + new.len();
        let mut cluster = Cluster::default();
        let (mut before, mut limit) = (0.0, 0.0); // weight before the cluster; where it must end
        while remaining > 0 {
            let take_old = match (old.first(), new.first()) {
                (Some(a), Some(b)) => a.mean <= b.mean,
                (a, _) => a.is_some(),
            };
            let side = if take_old { &mut old } else { &mut new };
            let point = side[0];
            *side = &side[1..];
            remaining -= 1;
            if before + cluster.weight + point.weight > limit || remaining == 0 {
                if cluster.weight > 0.0 {
                    before += cluster.weight;
                    scratch.push(cluster.centroid());
                    limit = scale.end((before / self.weight).min(1.0)) * self.weight;
                }
                cluster = Cluster::begin(point);
            } else {
                cluster.add(point);
            }
        }
        scratch.push(cluster.centroid());
        self.centroids.clear();
        self.centroids.extend_from_slice(scratch);
    }

    /// Makes it as coarse as `scale`: the last step before it goes out.
    pub fn compress(&mut self, scale: Scale, scratch: &mut Vec<Centroid>) {
        let centroids = std::mem::take(&mut self.centroids);
        self.weight = 0.0;
        self.merge(&centroids, scale, scratch);
    }

    /// Appends the state of `quantileTDigest`: varint n, then n × (f32 mean, f32 weight).
    pub fn put_state(&self, out: &mut Vec<u8>) {
        put_varint(out, self.centroids.len() as u64);
        for centroid in &self.centroids {
            out.extend_from_slice(&(centroid.mean as f32).to_le_bytes());
            out.extend_from_slice(&(centroid.weight as f32).to_le_bytes());
        }
    }
}

/// The centroid being filled.
#[derive(Default)]
struct Cluster {
    first: f64,
    last: f64,
    sum: f64,
    weight: f64,
}

impl Cluster {
    fn begin(point: Centroid) -> Self {
        Self {
            first: point.mean,
            last: point.mean,
            sum: point.mean * point.weight,
            weight: point.weight,
        }
    }

    fn add(&mut self, point: Centroid) {
        self.last = point.mean;
        self.sum += point.mean * point.weight;
        self.weight += point.weight;
    }

    /// The mean is held between its own points, so that rounding never puts two centroids out of order.
    fn centroid(&self) -> Centroid {
        Centroid {
            mean: (self.sum / self.weight).clamp(self.first, self.last),
            weight: self.weight,
        }
    }
}

/// Atoms and a digest together, as one distribution: jumps at the atoms, straight lines between the digest's centroids.
///
/// The same reading as the shipped view `series_distribution` gives in SQL.
pub struct Distribution {
    points: Vec<Point>,
    weight: f64,
}

struct Point {
    x: f64,
    /// Weight below `x`, and up to and including it.
    left: f64,
    right: f64,
}

impl Distribution {
    /// `atoms` and `centroids` ascending.
    pub fn new(atoms: &[Centroid], centroids: &[Centroid]) -> Self {
        // A centroid alone (weight 1) is a value; of a heavier one half its weight lies on each side of the mean.
        let mut knots: Vec<Point> = Vec::with_capacity(centroids.len());
        let mut before = 0.0;
        for (index, centroid) in centroids.iter().enumerate() {
            let end = index == 0 || index + 1 == centroids.len();
            let (left, right) = if centroid.weight <= 1.0 || end {
                (before, before + centroid.weight)
            } else {
                (
                    before + centroid.weight / 2.0,
                    before + centroid.weight / 2.0,
                )
            };
            before += centroid.weight;
            match knots.last_mut() {
                Some(last) if last.x == centroid.mean => last.right = right,
                _ => knots.push(Point {
                    x: centroid.mean,
                    left,
                    right,
                }),
            }
        }
        let smooth_weight = before;
        let mut points = Vec::with_capacity(knots.len() + atoms.len());
        let (mut next, mut atom, mut atoms_before) = (0, 0, 0.0);
        while next < knots.len() || atom < atoms.len() {
            let knot_x = knots.get(next).map_or(f64::INFINITY, |knot| knot.x);
            let x = atoms.get(atom).map_or(knot_x, |a| a.mean.min(knot_x));
            let (left, right) = if knot_x == x {
                next += 1;
                (knots[next - 1].left, knots[next - 1].right)
            } else {
                let at = match (
                    next.checked_sub(1).map(|index| &knots[index]),
                    knots.get(next),
                ) {
                    (None, _) => 0.0,
                    (Some(_), None) => smooth_weight,
                    (Some(a), Some(b)) => a.right + (b.left - a.right) * ((x - a.x) / (b.x - a.x)),
                };
                (at, at)
            };
            let mut jump = 0.0;
            if atoms.get(atom).is_some_and(|a| a.mean == x) {
                jump = atoms[atom].weight;
                atom += 1;
            }
            points.push(Point {
                x,
                left: atoms_before + left,
                right: atoms_before + jump + right,
            });
            atoms_before += jump;
        }
        Self {
            points,
            weight: smooth_weight + atoms_before,
        }
    }

    pub fn weight(&self) -> f64 {
        self.weight
    }

    /// The value below which a share `level` of the weight lies; NaN where there is none. Never falls as `level` rises.
    pub fn quantile(&self, level: f64) -> f64 {
        let target = level.clamp(0.0, 1.0) * self.weight;
        let index = self.points.partition_point(|point| point.right < target);
        match (self.points.get(index), index.checked_sub(1)) {
            (None, None) => f64::NAN,
            (None, Some(last)) => self.points[last].x,
            (Some(point), Some(previous)) if target < point.left => {
                let from = &self.points[previous];
                let share = (target - from.right) / (point.left - from.right);
                // Not from + share · (to − from): that difference may not be finite.
                (from.x * (1.0 - share) + point.x * share).clamp(from.x, point.x)
            }
            (Some(point), _) => point.x,
        }
    }

    /// The share of the weight at or below `x`; with `left`, strictly below it. NaN where there is no weight.
    pub fn cdf(&self, x: f64, left: bool) -> f64 {
        let index = self.points.partition_point(|point| point.x < x);
        let weight = match (self.points.get(index), index.checked_sub(1)) {
            (None, _) => self.weight,
            (Some(point), _) if point.x == x => {
                if left {
                    point.left
                } else {
                    point.right
                }
            }
            (Some(_), None) => 0.0,
            (Some(point), Some(previous)) => {
                let from = &self.points[previous];
                let span = point.x - from.x;
                let share = if span.is_finite() {
                    (x - from.x) / span
                } else {
                    (x / 2.0 - from.x / 2.0) / (point.x / 2.0 - from.x / 2.0)
                };
                from.right + (point.left - from.right) * share
            }
        };
        (weight / self.weight).clamp(0.0, 1.0)
    }
}
