//! Spans of time.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::{ValueError, text_value};

/// A span of time, written with units: `30s`, `1m30s`, `500ms`, `10h`. Milliseconds are the finest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(Duration);

/// Unit and its length in milliseconds, longest first: the order in which a span is written.
const UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl HumanDuration {
    /// So many seconds.
    #[must_use]
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// As the standard library's type.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.0
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        // People set timeouts in seconds up to a minute or two, and want to find their own number again.
        if millis < 120_000 && millis.is_multiple_of(1000) {
            return write!(f, "{}s", millis / 1000);
        }
        for (unit, length) in UNITS {
            if millis >= length {
                write!(f, "{}{unit}", millis / length)?;
                millis %= length;
            }
        }
        Ok(())
    }
}

impl FromStr for HumanDuration {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refused = || {
            let fix = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
                format!("give it a unit, as in {text}s")
            } else {
                "write a number and a unit (ms, s, m, h), as in 30s or 1m30s".to_owned()
            };
            ValueError::new(format!("{text:?} is not a time"), fix)
        };
        let mut rest = text;
        let mut total: u64 = 0;
        // Units come longest first and once each, so that `1s1h` and `1s1s` are seen as the mistakes they are.
        let mut next_unit = 0;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(refused)?;
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let position = UNITS.iter().position(|(name, _)| *name == unit).ok_or_else(refused)?;
            if position < next_unit {
                return Err(refused());
            }
            next_unit = position + 1;
            let number: u64 = number.parse().map_err(|_| refused())?;
            let part = number.checked_mul(UNITS[position].1).ok_or_else(refused)?;
            total = total.checked_add(part).ok_or_else(refused)?;
            rest = tail;
        }
        if text.is_empty() { Err(refused()) } else { Ok(Self::from_millis(total)) }
    }
}

text_value!(
    HumanDuration, kind: "time", schema: { "type": "string" },
    numbers: |text| if text == "0" { Ok(HumanDuration::from_secs(0)) } else { text.parse() }
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_units_and_prints_them_back() {
        for (text, millis, printed) in [
            ("30s", 30_000, "30s"),
            ("60s", 60_000, "60s"),
            ("90s", 90_000, "90s"),
            ("2m", 120_000, "2m"),
            ("1h30m", 5_400_000, "1h30m"),
            ("500ms", 500, "500ms"),
            ("1m0s500ms", 60_500, "1m500ms"),
            ("0s", 0, "0s"),
        ] {
            let time: HumanDuration = text.parse().unwrap();
            assert_eq!(
                (time, time.to_string().as_str()),
                (HumanDuration::from_millis(millis), printed),
                "{text}"
            );
            assert_eq!(printed.parse(), Ok(time));
        }
    }

    #[test]
    fn asks_for_a_unit() {
        assert_eq!("30".parse::<HumanDuration>().unwrap_err().fix, "give it a unit, as in 30s");
        for bad in ["", "s", "1x", "1s1s", "1s1m", "-1s", "1.5s", "99999999999999999999s"] {
            assert!(bad.parse::<HumanDuration>().is_err(), "{bad}");
        }
    }
}
