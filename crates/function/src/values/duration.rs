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
            } else if let Some(meant) = meant(text) {
                format!("write {meant}")
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

/// The time that somebody means who writes one number and a unit that is none of ours, as in `1d` or `3 minutes`.
fn meant(text: &str) -> Option<HumanDuration> {
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit() && c != '.')?);
    let millis: f64 = match unit.trim().to_ascii_lowercase().as_str() {
        "d" | "day" | "days" => 86_400_000.0,
        "h" | "hour" | "hours" => 3_600_000.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000.0,
        "s" | "sec" | "secs" | "second" | "seconds" => 1_000.0,
        "ms" | "msec" | "millis" | "milliseconds" => 1.0,
        _ => return None,
    };
    let meant = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * millis / 1000.0).ok()?;
    let meant = HumanDuration::from_millis(u64::try_from(meant.as_millis()).ok()?);
    // Only what can be read again.
    (meant.get() > Duration::ZERO && meant.to_string().parse() == Ok(meant)).then_some(meant)
}

text_value!(
    HumanDuration, kind: "time",
    schema: { "type": "string", "pattern": "^([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$", "minLength": 1 },
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

    fn text_fix(text: &str) -> String {
        text.parse::<HumanDuration>().unwrap_err().fix
    }

    #[test]
    fn asks_for_a_unit() {
        assert_eq!("30".parse::<HumanDuration>().unwrap_err().fix, "give it a unit, as in 30s");
        for (text, meant) in [
            ("1d", "24h"),
            ("3 min", "3m"),
            ("1.5s", "1s500ms"),
            ("0.5h", "30m"),
            ("2 Minutes", "2m"),
            ("10S", "10s"),
        ] {
            assert_eq!(text.parse::<HumanDuration>().unwrap_err().fix, format!("write {meant}"));
        }
        for vague in ["1x", "soon", "0.0001ms", "1h1d", "99999999999999d", "1.2.3s"] {
            let fix = text_fix(vague);
            assert!(fix.starts_with("write a number and a unit"), "{vague}: {fix}");
        }
        for bad in ["", "s", "1x", "1s1s", "1s1m", "-1s", "1.5s", "99999999999999999999s"] {
            assert!(bad.parse::<HumanDuration>().is_err(), "{bad}");
        }
    }
}
