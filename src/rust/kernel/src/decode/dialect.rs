//! A dialect: which attribute means what, compiled from rules.

use std::collections::HashMap;

/// The fields that a dialect may fill. The order is that of the constants below.
pub const FIELDS: [&str; 31] = [
    "model",
    "version",
    "role",
    "task",
    "prediction_id",
    "predicted",
    "score",
    "confidence",
    "class_names",
    "class_scores",
    "error_type",
    "weight",
    "batch_size",
    "features_map",
    "features_names",
    "features_values",
    "features_json",
    "features_packed",
    "features_packed_b64",
    "features_encoding",
    "features_schema_id",
    "features_len",
    "features_null_mask",
    "features_categorical",
    "features_dtypes",
    "features_roles",
    "feature",
    "unused",
    "unknown",
    "feature:<name>",
    "segment:<name>",
];

pub const MODEL: usize = 0;
pub const VERSION: usize = 1;
pub const ROLE: usize = 2;
pub const TASK: usize = 3;
pub const PREDICTION_ID: usize = 4;
pub const PREDICTED: usize = 5;
pub const SCORE: usize = 6;
pub const CONFIDENCE: usize = 7;
pub const CLASS_NAMES: usize = 8;
pub const CLASS_SCORES: usize = 9;
pub const ERROR_TYPE: usize = 10;
pub const WEIGHT: usize = 11;
pub const BATCH_SIZE: usize = 12;
pub const FEATURES_MAP: usize = 13;
pub const FEATURES_NAMES: usize = 14;
pub const FEATURES_VALUES: usize = 15;
pub const FEATURES_JSON: usize = 16;
pub const FEATURES_PACKED: usize = 17;
pub const FEATURES_PACKED_B64: usize = 18;
pub const FEATURES_ENCODING: usize = 19;
pub const FEATURES_SCHEMA_ID: usize = 20;
pub const FEATURES_LEN: usize = 21;
pub const FEATURES_NULL_MASK: usize = 22;
pub const FEATURES_CATEGORICAL: usize = 23;
pub const FEATURES_DTYPES: usize = 24;
pub const FEATURES_ROLES: usize = 25;
/// Fields that are single slots; after them come the named features, then the segments.
pub const SINGLE: usize = 26;

/// Where an attribute's value goes, and how strongly: the lowest rank wins.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    pub slot: u16,
    pub rank: u16,
}

/// Whose attributes a rule looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    Span = 0,
    Scope = 1,
    Resource = 2,
}

/// What a key of a span means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Meaning<'k> {
    Nothing,
    /// A range of [`Dialect::targets`].
    Targets(u32, u32),
    /// A feature of this name.
    Feature(&'k [u8]),
    /// In a convention's own namespace, and not one of its names.
    Unknown,
}

/// What the keys of a prefix are that no rule names whole.
#[derive(Debug, Clone, Copy)]
enum Rest {
    Feature,
    Unused,
    Unknown,
}

type Keys<T> = HashMap<Box<[u8]>, T>;

/// The compiled table. See `Dialect` in `_kernel.pyi`.
#[derive(Debug, Default)]
pub struct Dialect {
    targets: Vec<Target>,
    /// By level: key -> range of `targets`.
    exact: [Keys<(u32, u32)>; 3],
    /// Longest first.
    prefixes: Vec<(Box<[u8]>, Rest)>,
    /// Names of `feature:<name>` slots.
    pub features: Vec<Box<str>>,
    /// Names of `segment:<name>` slots.
    pub segments: Vec<Box<str>>,
}

impl Dialect {
    /// Compiles rules of (scope, key, field), in order of precedence.
    pub fn new<'r>(
        rules: impl IntoIterator<Item = (&'r str, &'r str, &'r str)>,
    ) -> Result<Self, String> {
        let mut dialect = Self::default();
        let mut parsed: [Keys<Vec<(Slot, u16)>>; 3] = Default::default();
        for (rank, (scope, key, field)) in rules.into_iter().enumerate() {
            let place = |expected: &str| {
                format!(
                    "rule {}, ({scope:?}, {key:?}, {field:?}): expected {expected}",
                    rank + 1
                )
            };
            if rank >= MAX_RULES {
                return Err(place(&format!("at most {MAX_RULES} rules")));
            }
            let level = match scope {
                "span" => Level::Span,
                "scope" => Level::Scope,
                "resource" => Level::Resource,
                _ => return Err(place("the scope to be \"span\", \"scope\" or \"resource\"")),
            };
            let rest = match field {
                "feature" => Some(Rest::Feature),
                "unused" => Some(Rest::Unused),
                "unknown" => Some(Rest::Unknown),
                _ => None,
            };
            if let Some(rest) = rest {
                match key.strip_suffix('*').filter(|prefix| prefix.ends_with('.')) {
                    Some(prefix) if level == Level::Span => {
                        dialect.prefixes.push((prefix.as_bytes().into(), rest))
                    }
                    _ => {
                        return Err(place(&format!(
                            "field {field:?} to have scope \"span\" and a key that ends with \".*\""
                        )));
                    }
                }
                continue;
            }
            if key.is_empty() || key.ends_with(".*") {
                return Err(place(
                    "a whole key; only the fields \"feature\", \"unused\" and \"unknown\" take \"prefix.*\"",
                ));
            }
            let slot = if let Some(name) = field
                .strip_prefix("feature:")
                .filter(|name| !name.is_empty())
            {
                Slot::Feature(position(&mut dialect.features, name))
            } else if let Some(name) = field
                .strip_prefix("segment:")
                .filter(|name| !name.is_empty())
            {
                Slot::Segment(position(&mut dialect.segments, name))
            } else {
                let known = FIELDS[..SINGLE].iter().position(|known| *known == field);
                Slot::Single(known.ok_or_else(|| {
                    place(&format!("the field to be one of {}", FIELDS.join(", ")))
                })?)
            };
            parsed[level as usize]
                .entry(key.as_bytes().into())
                .or_default()
                .push((slot, rank as u16));
        }
        dialect
            .prefixes
            .sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        for (level, keys) in parsed.into_iter().enumerate() {
            for (key, slots) in keys {
                let first = dialect.targets.len() as u32;
                for (slot, rank) in slots {
                    let slot = dialect.number(slot);
                    dialect.targets.push(Target { slot, rank });
                }
                dialect.exact[level].insert(key, (first, dialect.targets.len() as u32));
            }
        }
        Ok(dialect)
    }

    fn number(&self, slot: Slot) -> u16 {
        (match slot {
            Slot::Single(field) => field,
            Slot::Feature(index) => SINGLE + index,
            Slot::Segment(index) => SINGLE + self.features.len() + index,
        }) as u16
    }

    pub fn slots(&self) -> usize {
        SINGLE + self.features.len() + self.segments.len()
    }

    pub fn feature_slot(&self, index: usize) -> usize {
        SINGLE + index
    }

    pub fn segment_slot(&self, index: usize) -> usize {
        SINGLE + self.features.len() + index
    }

    pub fn meaning<'k>(&self, level: Level, key: &'k [u8]) -> Meaning<'k> {
        if let Some(&(first, end)) = self.exact[level as usize].get(key) {
            return Meaning::Targets(first, end);
        }
        if level == Level::Span {
            let found = self.prefixes.iter().find_map(|(prefix, rest)| {
                let name = key.strip_prefix(&**prefix)?;
                (!name.is_empty()).then_some((name, *rest))
            });
            return match found {
                Some((name, Rest::Feature)) => Meaning::Feature(name),
                Some((_, Rest::Unknown)) => Meaning::Unknown,
                Some((_, Rest::Unused)) | None => Meaning::Nothing,
            };
        }
        Meaning::Nothing
    }

    #[inline]
    pub fn targets(&self, first: u32, end: u32) -> &[Target] {
        &self.targets[first as usize..end as usize]
    }
}

/// More than any file says; keeps ranks and slots in 16 bits.
const MAX_RULES: usize = 10_000;

#[derive(Clone, Copy)]
enum Slot {
    Single(usize),
    Feature(usize),
    Segment(usize),
}

fn position(names: &mut Vec<Box<str>>, name: &str) -> usize {
    names
        .iter()
        .position(|known| **known == *name)
        .unwrap_or_else(|| {
            names.push(name.into());
            names.len() - 1
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_rules_hide_prefixes() {
        let rules = [
            ("span", "f.*", "feature"),
            ("span", "f.names", "features_names"),
            ("span", "f.g.*", "feature"),
            ("scope", "m", "model"),
            ("span", "f.g.h.*", "unused"),
            ("span", "o.*", "unknown"),
            ("span", "o.m", "model"),
        ];
        let dialect = Dialect::new(rules).unwrap();
        assert_eq!(dialect.meaning(Level::Span, b"f.g.h.a"), Meaning::Nothing);
        assert_eq!(dialect.meaning(Level::Span, b"o.a"), Meaning::Unknown);
        assert_eq!(dialect.meaning(Level::Span, b"o."), Meaning::Nothing);
        assert_eq!(dialect.meaning(Level::Scope, b"o.a"), Meaning::Nothing);
        assert!(matches!(
            dialect.meaning(Level::Span, b"o.m"),
            Meaning::Targets(..)
        ));
        assert_eq!(dialect.meaning(Level::Span, b"f.a"), Meaning::Feature(b"a"));
        assert_eq!(
            dialect.meaning(Level::Span, b"f.g.a"),
            Meaning::Feature(b"a")
        );
        assert_eq!(dialect.meaning(Level::Span, b"f."), Meaning::Nothing);
        assert_eq!(dialect.meaning(Level::Scope, b"f.a"), Meaning::Nothing);
        assert_eq!(dialect.meaning(Level::Span, b"m"), Meaning::Nothing);
        assert!(matches!(
            dialect.meaning(Level::Span, b"f.names"),
            Meaning::Targets(..)
        ));
        assert!(matches!(
            dialect.meaning(Level::Scope, b"m"),
            Meaning::Targets(..)
        ));
    }

    #[test]
    fn a_rule_outside_the_lists_is_named() {
        for (rule, expected) in [
            (("span", "a", "modle"), "the field to be one of model"),
            (("event", "a", "model"), "the scope to be"),
            (("span", "a", "feature"), "a key that ends with"),
            (("scope", "a.*", "feature"), "a key that ends with"),
            (("span", "a", "unknown"), "a key that ends with"),
            (("span", "a.*", "model"), "a whole key"),
            (("span", "a", "segment:"), "the field to be one of"),
        ] {
            let error = Dialect::new([rule]).unwrap_err();
            assert!(
                error.starts_with("rule 1, ") && error.contains(expected),
                "{error}"
            );
        }
    }
}
