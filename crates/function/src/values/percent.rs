//! Shares of a whole.

use std::fmt;
use std::str::FromStr;

use super::{ValueError, text_value};

/// A share of a whole, in whole hundredths from 0 to 100, written `70%` or `70`. `0.7` is refused: it is never guessed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Percent(u8);

impl Percent {
    /// All of it.
    pub const WHOLE: Self = Self(100);

    /// So many hundredths; `None` above 100.
    #[must_use]
    pub const fn new(hundredths: u8) -> Option<Self> {
        if hundredths <= 100 { Some(Self(hundredths)) } else { None }
    }

    /// In hundredths, 0 to 100.
    #[must_use]
    pub const fn hundredths(self) -> u8 {
        self.0
    }

    /// From 0.0 to 1.0.
    #[must_use]
    pub fn ratio(self) -> f64 {
        f64::from(self.0) / 100.0
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0)
    }
}

impl FromStr for Percent {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let digits = text.strip_suffix('%').unwrap_or(text);
        let number = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten();
        number.and_then(Self::new).ok_or_else(|| {
            // 0.7 is what somebody writes who thinks of a ratio.
            let ratio = text.strip_prefix("0.").filter(|digits| matches!(digits.len(), 1 | 2));
            let meant = ratio.and_then(|digits| format!("{digits:0<2}").parse().ok()).and_then(Self::new);
            let fix = match meant {
                Some(meant) => format!("write {meant}"),
                None => "write a whole number of at most 100, as in 70%".to_owned(),
            };
            ValueError::new(format!("{text:?} is not a percentage"), fix)
        })
    }
}

text_value!(Percent, kind: "percentage", schema: { "x-kubernetes-int-or-string": true, "pattern": "^[0-9]+%?$" }, numbers: |text| text.parse());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_whole_hundredths_only() {
        assert_eq!("70%".parse(), Ok(Percent(70)));
        assert_eq!(serde_json::from_str::<Percent>("70").unwrap(), Percent(70));
        for bad in ["0.7", "101%", "-1", "", "%", "+5"] {
            assert!(bad.parse::<Percent>().is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Percent>("0.7").is_err());
        for (text, fix) in [("0.7", "write 70%"), ("0.05", "write 5%"), ("0.-1", "write a whole number")] {
            let said = text.parse::<Percent>().unwrap_err().fix;
            assert!(said.starts_with(fix), "{text}: {said}");
        }
    }
}
