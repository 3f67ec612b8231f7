//! The `ot` entry of a W3C trace state: `th`, the rejection threshold, and `rv`, explicit randomness; 56 bits each.
//!
//! Source: OpenTelemetry specification, "TraceState: Probability Sampling".

/// One past the largest threshold: 2^56.
pub const MAX_THRESHOLD: u64 = 1 << 56;

/// What the `ot` entry says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    pub threshold: Option<u64>,
    pub randomness: Option<u64>,
}

impl Sampling {
    /// The adjusted count of what passed `threshold`.
    pub fn weight(threshold: u64) -> f64 {
        MAX_THRESHOLD as f64 / (MAX_THRESHOLD - threshold.min(MAX_THRESHOLD - 1)) as f64
    }
}

/// Reads a trace state; `None` where its `ot` entry is malformed, of which then nothing is believed.
pub fn parse(state: &[u8]) -> Option<Sampling> {
    let mut found = Sampling::default();
    let mut seen = false;
    for member in state.split(|&byte| byte == b',') {
        let Some(entry) = member.trim_ascii().strip_prefix(b"ot=") else {
            continue;
        };
        if std::mem::replace(&mut seen, true) || entry.is_empty() || entry.len() > 256 {
            return None;
        }
        for item in entry.split(|&byte| byte == b';') {
            let colon = item
                .iter()
                .position(|&byte| byte == b':')
                .filter(|&at| at > 0)?;
            let digits = &item[colon + 1..];
            let slot = match &item[..colon] {
                b"th" if (1..=14).contains(&digits.len()) => &mut found.threshold,
                b"rv" if digits.len() == 14 => &mut found.randomness,
                b"th" | b"rv" => return None,
                _ => continue,
            };
            if slot.replace(hex(digits)?).is_some() {
                return None;
            }
        }
    }
    Some(found)
}

/// Lower-case hex digits, right-padded with zeros to 56 bits.
fn hex(digits: &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for &digit in digits {
        let bits = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        value = value << 4 | u64::from(bits);
    }
    Some(value << (4 * (14 - digits.len())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampling(threshold: Option<u64>, randomness: Option<u64>) -> Option<Sampling> {
        Some(Sampling {
            threshold,
            randomness,
        })
    }

    #[test]
    fn well_formed() {
        assert_eq!(parse(b""), sampling(None, None));
        assert_eq!(parse(b"vendor=th:8"), sampling(None, None));
        assert_eq!(parse(b"ot=th:0"), sampling(Some(0), None));
        assert_eq!(parse(b"ot=th:8"), sampling(Some(1 << 55), None));
        assert_eq!(
            parse(b"a=1, ot=rv:0123456789abcd;th:c;xx:Y ,b=2"),
            sampling(Some(0xc << 52), Some(0x0123456789abcd))
        );
        assert_eq!(
            parse(b"ot=th:ffffffffffffff"),
            sampling(Some(MAX_THRESHOLD - 1), None)
        );
    }

    #[test]
    fn malformed_is_absent() {
        for state in [
            "ot=th:",
            "ot=",
            "ot=th",
            "ot=th:A",
            "ot=th:123456789012345",
            "ot=rv:123",
            "ot=rv:0123456789ABCD",
            "ot=th:8;th:8",
            "ot=th:8,ot=rv:0123456789abcd",
            "ot=:8",
        ] {
            assert_eq!(parse(state.as_bytes()), None, "{state}");
        }
    }

    #[test]
    fn published_thresholds_give_their_weight() {
        // 1 in 3, 10, 100, 1000 at precision 4, from the specification's table
        for (threshold, weight) in [
            ("aaab", 3.0),
            ("e666", 10.0),
            ("fd70a", 100.0),
            ("ffbe77", 1000.0),
        ] {
            let state = format!("ot=th:{threshold}");
            let got = Sampling::weight(parse(state.as_bytes()).unwrap().threshold.unwrap());
            assert!((got / weight - 1.0).abs() < 1e-4, "{threshold}: {got}");
        }
        assert_eq!(Sampling::weight(0), 1.0);
    }
}
