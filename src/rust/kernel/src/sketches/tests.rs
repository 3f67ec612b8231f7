use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::digest::{Centroid, Digest, Distribution, Scale};
use super::values::{Limits, Scratch, Values};
use super::*;
use crate::batch::{Categorical, Missing, Numeric, Prediction};

const MINUTE_NS: i64 = 60 * SECOND_NS;

/// One prediction: (version, minute, weight, values by series).
#[derive(Clone)]
struct Row {
    version: &'static str,
    minute: i64,
    weight: f64,
    numbers: Vec<(String, f64)>,
    texts: Vec<(&'static str, String)>,
    missing: Vec<&'static str>,
}

impl Row {
    fn new(numbers: &[(&str, f64)]) -> Self {
        let numbers = numbers
            .iter()
            .map(|(name, value)| ((*name).into(), *value))
            .collect();
        Self {
            version: "1",
            minute: 5,
            weight: 1.0,
            numbers,
            texts: vec![],
            missing: vec![],
        }
    }
}

fn batch(rows: &[Row]) -> SpanBatch {
    let (mut groups, mut series): (Vec<Group>, Vec<Box<str>>) = (vec![], vec![]);
    let (mut predictions, mut numeric, mut categorical, mut missing, mut text) =
        (vec![], vec![], vec![], vec![], vec![]);
    for (index, row) in rows.iter().enumerate() {
        let group = Group {
            model: "m".into(),
            version: row.version.into(),
            role: "".into(),
        };
        let group = position(&mut groups, group);
        let event_ns = row.minute * MINUTE_NS + 7;
        predictions.push(Prediction {
            span: 0,
            group,
            event_ns,
            duration_ns: 1,
            weight: row.weight,
            row: 0..0,
        });
        let prediction = index as u32;
        for (name, value) in &row.numbers {
            numeric.push(Numeric {
                prediction,
                series: position(&mut series, name.as_str().into()),
                value: *value,
            });
        }
        for (name, value) in &row.texts {
            let from = text.len() as u32;
            text.extend_from_slice(value.as_bytes());
            let value = from..text.len() as u32;
            categorical.push(Categorical {
                prediction,
                series: position(&mut series, (*name).into()),
                value,
            });
        }
        for name in &row.missing {
            missing.push(Missing {
                prediction,
                series: position(&mut series, (*name).into()),
            });
        }
    }
    SpanBatch {
        body: Arc::new(Vec::<u8>::new()),
        receive_ns: 0,
        resources: vec![],
        scopes: vec![],
        spans: vec![],
        groups,
        predictions,
        series,
        numeric,
        categorical,
        missing,
        text,
        rows: vec![],
        rejected: vec![],
        notes: vec![],
    }
}

fn position<T: PartialEq>(list: &mut Vec<T>, item: T) -> u32 {
    let found = list.iter().position(|other| *other == item);
    found.unwrap_or_else(|| {
        list.push(item);
        list.len() - 1
    }) as u32
}

/// A row of `sketches`, read back.
#[derive(Debug, Clone, Default, PartialEq)]
struct Read {
    window_start: u32,
    texts: Vec<String>,
    observed: u64,
    estimated: f64,
    weight_unknown: u64,
    weight_sq: f64,
    nulls: u64,
    non_finite: u64,
    moments: Vec<f64>,
    atoms: Vec<(f64, f64)>,
    digest: Vec<(f32, f32)>,
    bins: Vec<(String, Vec<f64>)>,
    categories: Vec<(String, f64)>,
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (head, rest) = self.0.split_at(N);
        self.0 = rest;
        head.try_into().unwrap()
    }
    fn varint(&mut self) -> usize {
        let (mut value, mut shift) = (0, 0);
        loop {
            let [byte] = self.take();
            value |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
            shift += 7;
        }
    }
    fn text(&mut self) -> String {
        let length = self.varint();
        let (head, rest) = self.0.split_at(length);
        self.0 = rest;
        String::from_utf8(head.to_vec()).unwrap()
    }
    fn f64(&mut self) -> f64 {
        f64::from_le_bytes(self.take())
    }
    fn f32(&mut self) -> f32 {
        f32::from_le_bytes(self.take())
    }
    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
    fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let length = self.varint();
        (0..length).map(|_| item(self)).collect()
    }
}

fn read_rows(bytes: &[u8]) -> Vec<Read> {
    let mut reader = Reader(bytes);
    let mut rows = vec![];
    while !reader.0.is_empty() {
        let window_start = u32::from_le_bytes(reader.take());
        assert_eq!(u32::from_le_bytes(reader.take()), 60);
        rows.push(Read {
            window_start,
            texts: (0..4).map(|_| reader.text()).collect(),
            observed: reader.u64(),
            estimated: reader.f64(),
            weight_unknown: reader.u64(),
            weight_sq: reader.f64(),
            nulls: reader.u64(),
            non_finite: reader.u64(),
            moments: (0..4).map(|_| reader.f64()).collect(),
            atoms: reader.list(|r| (r.f64(), r.f64())),
            digest: reader.list(|r| (r.f32(), r.f32())),
            bins: (0..2)
                .map(|_| (reader.text(), reader.list(Reader::f64)))
                .collect(),
            categories: reader.list(|r| (r.text(), r.f64())),
        });
        assert_eq!((reader.text().as_str(), reader.u64()), ("gw-1", 42));
    }
    rows
}

fn drained(sketches: &mut Sketches) -> Vec<Read> {
    let (bytes, count) = sketches.drain("gw-1", 42);
    let rows = read_rows(&bytes);
    assert_eq!(rows.len() as u64, count);
    rows
}

fn sketched(rows: &[Row]) -> Vec<Read> {
    let mut sketches = Sketches::new(Config::default()).unwrap();
    sketches.add(&batch(rows));
    drained(&mut sketches)
}

/// The row of a series.
fn of<'a>(rows: &'a [Read], series: &str) -> &'a Read {
    rows.iter().find(|row| row.texts[3] == series).unwrap()
}

fn bins(id: &str, edges: &[f64], atoms: &[f64], categories: &[&str]) -> Bins {
    Bins::new(
        id,
        edges.into(),
        atoms.into(),
        categories
            .iter()
            .map(|text| text.as_bytes().into())
            .collect(),
    )
    .unwrap()
}

/// Numbers of a fixed sequence, uniform in [0, 1).
fn uniform(seed: u64) -> impl Iterator<Item = f64> {
    let mut state = seed;
    std::iter::repeat_with(move || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 11) as f64 / (1_u64 << 53) as f64
    })
}

/// What a series may hold: ordinary numbers, few distinct ones, and the ends of the floating-point range.
fn any_number() -> impl Strategy<Value = f64> {
    prop_oneof![
        4 => -1e3..1e3_f64,
        3 => (-20..20_i32).prop_map(f64::from),
        1 => prop::sample::select(vec![0.0, -0.0, 5e-324, -5e-324, 1e-310, 1e308, -1e308, f64::MAX, f64::MIN, 1e30, 3.5e38]),
    ]
}

fn any_weight() -> impl Strategy<Value = f64> {
    prop_oneof![3 => Just(1.0), 2 => Just(f64::NAN), 1 => 0.0..1e6_f64, 1 => prop::sample::select(vec![-1.0, f64::INFINITY, 1e300, 7e16, 1e-9])]
}

const LEVELS: [f64; 9] = [0.0, 1e-6, 0.01, 0.25, 0.5, 0.75, 0.99, 0.999_999, 1.0];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Weight is conserved; means ascend; the ends of the data are kept; the size is bounded.
    #[test]
    fn digest_holds_what_it_was_given(parts in prop::collection::vec(prop::collection::vec((-1e6..1e6_f64, 0.5..50.0_f64), 1..400), 1..8)) {
        let (mut digest, mut total, mut scratch) = (Digest::default(), 0.0, vec![]);
        let (mut least, mut most) = (f64::INFINITY, f64::NEG_INFINITY);
        for part in &parts {
            let mut points: Vec<Centroid> = part.iter().map(|(mean, weight)| Centroid { mean: *mean, weight: *weight }).collect();
            points.sort_by(|a, b| a.mean.total_cmp(&b.mean));
            least = least.min(points[0].mean);
            most = most.max(points[points.len() - 1].mean);
            total += points.iter().map(|point| point.weight).sum::<f64>();
            digest.merge(&points, Scale::new(100), &mut scratch);
        }
        let centroids = digest.centroids();
        let held: f64 = centroids.iter().map(|centroid| centroid.weight).sum();
        prop_assert!((held - total).abs() <= 1e-9 * total && (digest.weight() - total).abs() <= 1e-9 * total);
        prop_assert!(centroids.windows(2).all(|pair| pair[0].mean <= pair[1].mean));
        prop_assert_eq!((centroids[0].mean, centroids[centroids.len() - 1].mean), (least, most));
        // k1 allows as many centroids as its compression, and one more at each of the two ends.
        prop_assert!(centroids.len() <= 102, "{} centroids", centroids.len());
    }

    /// Quantiles never fall, cdf stays in [0, 1] and never falls, and what is left of a value is not more than what is up to it.
    #[test]
    fn distribution_is_a_distribution(numbers in prop::collection::vec((any_number(), 0.1..100.0_f64), 1..3000)) {
        let limits = Limits { atoms: 64, working: Scale::new(400), scale: Scale::new(200) };
        let (mut values, mut scratch) = (Values::new(256), Scratch::default());
        for (number, weight) in &numbers {
            if values.push(*number, *weight) {
                values.flush(&[], &limits, &mut scratch, |_| ());
            }
        }
        values.flush(&[], &limits, &mut scratch, |_| ());
        values.finish(&[], &limits, &mut scratch);
        let atoms: Vec<Centroid> = values.atoms().collect();
        prop_assert!(atoms.len() <= 64);
        prop_assert!(atoms.windows(2).all(|pair| pair[0].mean < pair[1].mean));
        let distribution = Distribution::new(&atoms, values.digest().centroids());
        let total: f64 = numbers.iter().map(|(_, weight)| weight).sum();
        prop_assert!((distribution.weight() - total).abs() <= 1e-9 * total);
        let quantiles = LEVELS.map(|level| distribution.quantile(level));
        prop_assert!(quantiles.is_sorted(), "{quantiles:?}");
        let mut xs: Vec<f64> = numbers.iter().map(|(number, _)| *number).chain(quantiles).collect();
        xs.sort_by(f64::total_cmp);
        let shares: Vec<f64> = xs.iter().flat_map(|x| [distribution.cdf(*x, true), distribution.cdf(*x, false)]).collect();
        prop_assert!(shares.iter().all(|share| (0.0..=1.0).contains(share)));
        prop_assert!(xs.iter().all(|x| distribution.cdf(*x, true) <= distribution.cdf(*x, false)));
        prop_assert!(xs.windows(2).all(|pair| distribution.cdf(pair[0], false) <= distribution.cdf(pair[1], false) + 1e-12));
    }

    /// Whatever comes: every prediction is counted, every finite weight is in atoms, digest or a bin, and no state is one that ClickHouse refuses.
    #[test]
    fn hostile_values_are_counted(rows in prop::collection::vec((prop_oneof![9 => any_number(), 1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY])], any_weight()), 1..2500)) {
        let mut sketches = Sketches::new(Config { atoms: 32, ..Config::default() }).unwrap();
        sketches.set_references(vec![("m".into(), "x".into(), bins("b", &[-10.0, 0.0, 10.0], &[0.0, 3.0], &[]))]).unwrap();
        let rows: Vec<Row> = rows.iter().map(|(value, weight)| Row { weight: *weight, ..Row::new(&[("x", *value)]) }).collect();
        sketches.add(&batch(&rows));
        let drained = drained(&mut sketches);
        let row = of(&drained, "x");
        prop_assert_eq!((row.observed, of(&drained, "").observed), (rows.len() as u64, rows.len() as u64));
        prop_assert_eq!(row.non_finite, rows.iter().filter(|row| !row.numbers[0].1.is_finite()).count() as u64);
        prop_assert!(row.estimated.is_finite() && row.moments[0].is_finite() && row.moments[1].is_finite());
        let held = row.atoms.iter().map(|atom| atom.1).sum::<f64>() + row.digest.iter().map(|centroid| f64::from(centroid.1)).sum::<f64>();
        let finite: f64 = rows.iter().filter(|row| row.numbers[0].1.is_finite()).map(|row| Weight::of(row.weight).value).sum();
        prop_assert!((held - finite).abs() <= 1e-5 * finite.max(1.0), "{held} of {finite}");
        prop_assert!(row.digest.iter().all(|(mean, weight)| mean.is_finite() && weight.is_finite() && *weight > 0.0));
        prop_assert!(row.digest.is_sorted_by(|a, b| a.0 <= b.0));
        let binned: f64 = row.bins[0].1.iter().sum();
        prop_assert!((binned - row.estimated).abs() <= 1e-9 * row.estimated.max(1.0), "{binned} of {}", row.estimated);
    }

    /// Bins are numpy's histogram: each bin closed on the left, the last on both sides; atoms apart.
    #[test]
    fn bins_agree_with_counting_one_by_one(
        numbers in prop::collection::vec((-12..12_i32).prop_map(|half| f64::from(half) / 2.0), 1..1500),
        edges in prop::collection::btree_set(-8..8_i32, 0..6),
        atoms in prop::collection::btree_set(-8..8_i32, 1..4),
        weight in prop::sample::select(vec![1.0, 2.0]),
    ) {
        let edges: Vec<f64> = edges.into_iter().map(f64::from).collect();
        let atoms: Vec<f64> = atoms.into_iter().map(f64::from).collect();
        let mut sketches = Sketches::new(Config::default()).unwrap();
        sketches.set_references(vec![("m".into(), "x".into(), bins("b", &edges, &atoms, &[]))]).unwrap();
        sketches.add(&batch(&numbers.iter().map(|number| Row { weight, ..Row::new(&[("x", *number)]) }).collect::<Vec<_>>()));
        let inner = edges.len().saturating_sub(1);
        let mut expected = vec![0.0; 4 + inner + atoms.len()];
        for number in &numbers {
            let place = if let Some(atom) = atoms.iter().position(|atom| atom == number) {
                4 + inner + atom
            } else if edges.is_empty() || *number > edges[edges.len() - 1] || (inner == 0 && *number == edges[0]) {
                3 + inner
            } else if *number < edges[0] {
                2
            } else {
                3 + edges.windows(2).position(|pair| *number < pair[1]).unwrap_or(inner - 1)
            };
            expected[place] += weight;
        }
        let rows = drained(&mut sketches);
        prop_assert_eq!(&of(&rows, "x").bins[0].1, &expected);
    }

    /// However the same predictions are cut into requests, the same bytes come out, also when quantiles are asked for in between.
    #[test]
    fn drained_bytes_do_not_depend_on_cuts(
        rows in prop::collection::vec((0..3_i64, any_number(), any_weight(), 0..5_usize), 1..1500),
        cut in 1..1500_usize,
    ) {
        let rows: Vec<Row> = rows.into_iter().map(|(minute, value, weight, text)| Row {
            minute,
            weight,
            texts: vec![("city", format!("c{text}"))],
            ..Row::new(&[("x", value), ("y", value * 0.37)])
        }).collect();
        let whole = { let mut sketches = Sketches::new(Config::default()).unwrap(); sketches.add(&batch(&rows)); sketches.drain("gw-1", 42) };
        let mut sketches = Sketches::new(Config::default()).unwrap();
        for part in rows.chunks(cut) {
            sketches.add(&batch(part));
            sketches.quantiles("x", &LEVELS);
        }
        prop_assert_eq!(sketches.drain("gw-1", 42), whole);
    }
}

#[test]
fn windows_groups_and_weights_are_counted_apart() {
    let rows = [
        Row {
            minute: 5,
            version: "2",
            weight: f64::NAN,
            ..Row::new(&[("x", 1.0)])
        },
        Row {
            minute: 6,
            version: "2",
            weight: 4.0,
            ..Row::new(&[("x", 3.0)])
        },
        Row {
            minute: 5,
            version: "1",
            missing: vec!["x"],
            ..Row::new(&[])
        },
        Row {
            minute: 5,
            version: "1",
            weight: 2.0,
            ..Row::new(&[("x", f64::NAN)])
        },
    ];
    let rows = sketched(&rows);
    let keys: Vec<_> = rows
        .iter()
        .map(|row| {
            (
                row.texts[3].as_str(),
                row.texts[1].as_str(),
                row.window_start,
            )
        })
        .collect();
    assert_eq!(
        keys,
        [
            ("", "1", 300),
            ("", "2", 300),
            ("", "2", 360),
            ("x", "1", 300),
            ("x", "2", 300),
            ("x", "2", 360)
        ]
    );
    let counts = |index: usize| {
        let row: &Read = &rows[index];
        (
            row.observed,
            row.estimated,
            row.weight_unknown,
            row.weight_sq,
            row.nulls,
            row.non_finite,
        )
    };
    assert_eq!(counts(0), (2, 3.0, 0, 5.0, 0, 0));
    assert_eq!(counts(1), (1, 1.0, 1, 1.0, 0, 0));
    assert_eq!(counts(3), (2, 3.0, 0, 5.0, 1, 1));
    assert_eq!(
        rows[3].moments,
        [0.0, 0.0, f64::INFINITY, f64::NEG_INFINITY]
    );
    assert_eq!(
        (&rows[5].moments[..], &rows[5].atoms[..]),
        (&[12.0, 36.0, 3.0, 3.0][..], &[(3.0, 4.0)][..])
    );
}

#[test]
fn zero_is_one_value_whatever_its_sign() {
    let rows = sketched(&[Row::new(&[("x", -0.0)]), Row::new(&[("x", 0.0)])]);
    assert_eq!(of(&rows, "x").atoms, [(0.0, 2.0)]);
    assert!(of(&rows, "x").atoms[0].0.is_sign_positive());
}

/// (name, values, largest number of atoms, whether there is a digest): what is discrete is exact, what is continuous is a digest.
#[test]
fn discrete_stays_exact_and_continuous_becomes_a_digest() {
    let continuous = |n: usize| uniform(1).take(n).collect::<Vec<_>>();
    let cases: Vec<(&str, Vec<f64>, usize, bool)> = vec![
        ("constant", vec![7.25; 9000], 1, false),
        (
            "counts",
            uniform(1).map(|u| (u * 40.0).floor()).take(9000).collect(),
            40,
            false,
        ),
        (
            "two decimals",
            uniform(1)
                .map(|u| (u * 900.0).round() / 100.0)
                .take(9000)
                .collect(),
            901,
            false,
        ),
        ("continuous", continuous(9000), 0, true),
        ("continuous, one buffer", continuous(512), 0, true),
        ("continuous, few", continuous(20), 0, true),
        ("too few to tell", continuous(12), 12, false),
        (
            "ages, few",
            [
                23.0, 31.0, 45.0, 52.0, 18.0, 67.0, 39.0, 28.0, 71.0, 33.0, 49.0, 55.0, 62.0, 26.0,
                37.0, 41.0, 58.0,
            ]
            .into(),
            17,
            false,
        ),
        (
            "prices, few",
            uniform(3)
                .map(|u| (u * 10_000.0).round() / 100.0)
                .take(30)
                .collect(),
            30,
            false,
        ),
        (
            "mostly zeros",
            uniform(1)
                .zip(uniform(2))
                .map(|(a, b)| if a < 0.6 { 0.0 } else { b })
                .take(9000)
                .collect(),
            1,
            true,
        ),
        (
            "mostly zeros, few",
            uniform(1)
                .zip(uniform(2))
                .map(|(a, b)| if a < 0.6 { 0.0 } else { b })
                .take(90)
                .collect(),
            1,
            true,
        ),
        (
            "many decimals",
            uniform(1)
                .map(|u| (u * 1e6).round() / 100.0)
                .take(9000)
                .collect(),
            0,
            true,
        ),
    ];
    for (name, values, most, digest) in cases {
        let rows = sketched(
            &values
                .iter()
                .map(|value| Row::new(&[("x", *value)]))
                .collect::<Vec<_>>(),
        );
        let row = of(&rows, "x");
        assert!(row.atoms.len() <= most, "{name}: {} atoms", row.atoms.len());
        assert_eq!(
            !row.digest.is_empty(),
            digest,
            "{name}: {} centroids",
            row.digest.len()
        );
        let exact: BTreeMap<u64, f64> = values.iter().fold(BTreeMap::new(), |mut counts, value| {
            *counts.entry(value.to_bits()).or_default() += 1.0;
            counts
        });
        for (value, weight) in &row.atoms {
            assert_eq!(exact[&value.to_bits()], *weight, "{name}: atom {value}");
        }
    }
}

#[test]
fn atoms_of_the_reference_stay_exact_in_a_continuous_series() {
    let values: Vec<f64> = uniform(1)
        .enumerate()
        .map(|(i, u)| if i % 700 == 699 { 0.5 } else { u })
        .take(21_000)
        .collect();
    let mut sketches = Sketches::new(Config::default()).unwrap();
    sketches
        .set_references(vec![(
            "m".into(),
            "x".into(),
            bins("b", &[0.0, 1.0], &[0.5], &[]),
        )])
        .unwrap();
    for part in values.chunks(1000) {
        sketches.add(&batch(
            &part
                .iter()
                .map(|value| Row::new(&[("x", *value)]))
                .collect::<Vec<_>>(),
        ));
    }
    let rows = drained(&mut sketches);
    let row = of(&rows, "x");
    // Too rare for a heavy run in most buffers, and exact all the same.
    assert_eq!(row.atoms, [(0.5, 30.0)]);
    assert_eq!(row.bins[0].1, [0.0, 0.0, 0.0, 20_970.0, 0.0, 30.0]);
}

#[test]
fn ranks_are_right_while_values_come_in() {
    let mut sketches = Sketches::new(Config::default()).unwrap();
    let values: Vec<f64> = uniform(9).take(60_000).collect();
    for (index, part) in values.chunks(777).enumerate() {
        let rows: Vec<Row> = part
            .iter()
            .map(|value| Row {
                minute: index as i64 % 7,
                ..Row::new(&[("score", value.powi(3))])
            })
            .collect();
        sketches.add(&batch(&rows));
    }
    let found = sketches.quantiles("score", &[0.01, 0.5, 0.9, 0.99, 0.999]);
    assert_eq!((found.len(), found[0].weight), (1, 60_000.0));
    for (value, (level, bar)) in found[0].values.iter().zip([
        (0.01, 0.003),
        (0.5, 0.003),
        (0.9, 0.003),
        (0.99, 0.003),
        (0.999, 0.0005),
    ]) {
        let below = values.iter().filter(|other| other.powi(3) < *value).count() as f64
            / values.len() as f64;
        assert!((below - level).abs() <= bar, "{level}: {below}");
    }
    assert!(sketches.quantiles("nothing", &[0.5]).is_empty());
}

#[test]
fn windows_merge_to_nearly_the_same_in_any_order() {
    let values: Vec<f64> = uniform(4).take(40_000).collect();
    let quantiles = |order: &mut dyn Iterator<Item = usize>| {
        let mut sketches = Sketches::new(Config::default()).unwrap();
        for part in order {
            let rows: Vec<Row> = values[part * 1000..][..1000]
                .iter()
                .map(|value| Row {
                    minute: part as i64 / 4,
                    ..Row::new(&[("x", *value)])
                })
                .collect();
            sketches.add(&batch(&rows));
        }
        sketches
            .quantiles("x", &[0.01, 0.1, 0.5, 0.9, 0.99])
            .remove(0)
            .values
    };
    for (a, b) in quantiles(&mut (0..40))
        .iter()
        .zip(quantiles(&mut (0..40).rev()))
    {
        assert!((a - b).abs() < 0.003, "{a} {b}");
    }
}

#[test]
fn texts_are_counted_up_to_a_cap() {
    let mut sketches = Sketches::new(Config {
        max_categories: 2,
        ..Config::default()
    })
    .unwrap();
    sketches
        .set_references(vec![(
            "m".into(),
            "city".into(),
            bins("b", &[], &[], &["Rome", "Oslo"]),
        )])
        .unwrap();
    let rows: Vec<Row> = ["Bonn", "Kyiv", "Rome", "Lima", "Bonn", "Rome", "Quito"]
        .into_iter()
        .map(|city| Row {
            texts: vec![("city", city.into())],
            ..Row::new(&[])
        })
        .chain([
            Row {
                missing: vec!["city"],
                weight: 3.0,
                ..Row::new(&[])
            },
            Row::new(&[("city", 1.0)]),
        ])
        .collect();
    sketches.add(&batch(&rows));
    assert_eq!(
        sketches.overflow(),
        Overflow {
            categories: 2,
            ..Overflow::default()
        }
    );
    let rows = drained(&mut sketches);
    let row = of(&rows, "city");
    let categories: Vec<_> = row
        .categories
        .iter()
        .map(|(text, weight)| (text.as_str(), *weight))
        .collect();
    assert_eq!(
        categories,
        [
            ("Bonn", 2.0),
            ("Kyiv", 1.0),
            ("Rome", 2.0),
            ("(other)", 2.0)
        ]
    );
    // null, Rome, Oslo, unseen (a number is none of the categories)
    assert_eq!(row.bins[0], ("b".into(), vec![3.0, 2.0, 0.0, 6.0]));
    assert_eq!(sketches.overflow(), Overflow::default());
}

#[test]
fn past_its_bounds_values_go_to_other_and_are_counted() {
    let config = Config {
        max_groups: 2,
        max_series: 2,
        ..Config::default()
    };
    let mut sketches = Sketches::new(config).unwrap();
    let rows: Vec<Row> = ["1", "2", "3", "4"]
        .into_iter()
        .map(|version| Row {
            version,
            ..Row::new(&[("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 4.0)])
        })
        .collect();
    sketches.add(&batch(&rows));
    assert_eq!(
        sketches.overflow(),
        Overflow {
            groups: 2,
            series: 8,
            ..Overflow::default()
        }
    );
    let rows = drained(&mut sketches);
    assert_eq!(
        rows.iter()
            .filter(|row| row.texts[3].is_empty())
            .map(|row| row.observed)
            .sum::<u64>(),
        4
    );
    let other: Vec<_> = rows
        .iter()
        .filter(|row| row.texts[0] == "(other)")
        .map(|row| (row.texts[3].as_str(), row.observed))
        .collect();
    assert_eq!(other, [("", 2), ("(other)", 4), ("a", 2), ("b", 2)]);
}

#[test]
fn cells_are_bounded_however_many_windows_come() {
    let mut sketches = Sketches::new(Config {
        max_cells: 8,
        ..Config::default()
    })
    .unwrap();
    let rows: Vec<Row> = (0..100)
        .map(|minute| Row {
            minute: minute % 20,
            ..Row::new(&[("a", 1.0), ("b", 2.0)])
        })
        .collect();
    sketches.add(&batch(&rows));
    assert!(sketches.overflow().cells > 0);
    let rows = drained(&mut sketches);
    let sum = |wanted: &dyn Fn(&Read) -> bool| {
        rows.iter()
            .filter(|row| wanted(row))
            .map(|row| row.observed)
            .sum::<u64>()
    };
    assert_eq!(
        (
            sum(&|row| row.texts[3].is_empty()),
            sum(&|row| !row.texts[3].is_empty())
        ),
        (100, 200)
    );
    // Beyond the bound at most the predictions and one series a window.
    assert!(rows.len() <= 8 + 2 * 20, "{} rows", rows.len());
}

#[test]
fn references_hold_from_the_next_window_on_and_at_most_two_at_once() {
    let reference = |id: &str| ("m".into(), "x".into(), bins(id, &[0.0, 1.0], &[], &[]));
    let mut sketches = Sketches::new(Config::default()).unwrap();
    sketches.add(&batch(&[Row::new(&[("x", 0.5)])]));
    sketches
        .set_references(vec![reference("old"), reference("new")])
        .unwrap();
    sketches.add(&batch(&[
        Row::new(&[("x", 0.5)]),
        Row {
            minute: 6,
            ..Row::new(&[("x", 0.5)])
        },
    ]));
    let rows = drained(&mut sketches);
    let ids: Vec<_> = rows
        .iter()
        .filter(|row| row.texts[3] == "x")
        .map(|row| (row.bins[0].0.as_str(), row.bins[1].0.as_str()))
        .collect();
    assert_eq!(ids, [("", ""), ("old", "new")]);
    for (references, text) in [
        (
            vec![reference("a"), reference("b"), reference("c")],
            "(m, x): bins_id c: a third one; expected at most two in force (while a reference changes)",
        ),
        (
            vec![reference("a"), reference("a")],
            "(m, x): bins_id a: given twice",
        ),
    ] {
        assert_eq!(sketches.set_references(references).unwrap_err(), text);
    }
    sketches.add(&batch(&[Row::new(&[("x", 0.5)])]));
    assert_eq!(
        of(&drained(&mut sketches), "x").bins[1].0,
        "new",
        "a refused set changes nothing"
    );
}

#[test]
fn faults_are_told_with_their_place() {
    let category = |text: &str| text.as_bytes().into();
    for (result, text) in [
        (
            Bins::new("b", vec![0.0, f64::NAN], vec![], vec![]),
            "edges[1]: expected a finite number, got NaN",
        ),
        (
            Bins::new("b", vec![0.0, 0.0], vec![], vec![]),
            "edges[1]: expected more than 0, got 0; sort them and leave out repeats",
        ),
        (
            Bins::new("b", vec![], vec![2.0, 1.0], vec![]),
            "atoms[1]: expected more than 2, got 1; sort them and leave out repeats",
        ),
        (
            Bins::new("b", vec![0.0], vec![], vec![category("a")]),
            "expected either edges and atoms or categories, got both",
        ),
        (
            Bins::new("b", vec![], vec![], vec![category("a"), category("a")]),
            "categories: expected each one once",
        ),
        (
            Bins::new("", vec![], vec![], vec![]),
            "bins_id: expected a name, got ''",
        ),
    ] {
        assert_eq!(result.unwrap_err(), text);
    }
    let fault = |config: Config| Sketches::new(config).err().unwrap();
    assert_eq!(
        fault(Config {
            window_ns: 1_500_000_000,
            ..Config::default()
        }),
        "window_ns: expected whole seconds, at least one, got 1500000000 ns"
    );
    assert_eq!(
        fault(Config {
            max_series: 0,
            ..Config::default()
        }),
        "max_series: expected 1 to 100000000, got 0"
    );
}
