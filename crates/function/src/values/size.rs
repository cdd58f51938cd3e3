//! Sizes in bytes.

use std::fmt;
use std::str::FromStr;

use super::{ValueError, text_value};

/// A number of bytes, written as Kubernetes writes quantities: `128Mi`, `1Gi`, `64M`, or a plain number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(u64);

/// Suffixes and their factors; a size is printed in the one that leaves the smallest whole number.
const UNITS: [(&str, u64); 8] = [
    ("Ti", 1 << 40),
    ("Gi", 1 << 30),
    ("Mi", 1 << 20),
    ("Ki", 1 << 10),
    ("T", 1_000_000_000_000),
    ("G", 1_000_000_000),
    ("M", 1_000_000),
    ("k", 1_000),
];

impl ByteSize {
    /// So many bytes.
    #[must_use]
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many mebibytes.
    #[must_use]
    pub const fn from_mebibytes(mebibytes: u64) -> Self {
        Self(mebibytes << 20)
    }

    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS.iter().filter(|(_, factor)| self.0 != 0 && self.0.is_multiple_of(*factor));
        match exact.min_by_key(|(_, factor)| self.0 / factor) {
            Some((suffix, factor)) => write!(f, "{}{suffix}", self.0 / factor),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for ByteSize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refused = || {
            ValueError::new(
                format!("{text:?} is not a size"),
                closest(text).map_or_else(
                    || "write a number and a unit, as in 128Mi or 1Gi".to_owned(),
                    |size| format!("write {size}"),
                ),
            )
        };
        let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, suffix) = text.split_at(digits);
        let factor = match suffix {
            "" => 1,
            _ => UNITS
                .iter()
                .find(|(unit, _)| *unit == suffix)
                .map(|(_, factor)| *factor)
                .ok_or_else(refused)?,
        };
        scaled(number, factor).map(Self).ok_or_else(refused)
    }
}

/// `number` times `factor`, when that is a whole number that fits: `1.5` times a kibibyte is 1536.
pub(super) fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    // 18 digits are as much as the arithmetic below holds, and finer than any size or share of a core that means something.
    if whole.is_empty() || fraction.is_empty() || fraction.len() > 18 {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let fraction_value: u128 = fraction.parse().ok()?;
    let denominator = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fractional = fraction_value.checked_mul(u128::from(factor))?;
    if fractional % denominator != 0 {
        return None;
    }
    whole.checked_mul(factor)?.checked_add(u64::try_from(fractional / denominator).ok()?)
}

/// What somebody who wrote `128 MB`, `128mb` or `128MiB` meant.
fn closest(text: &str) -> Option<String> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, suffix) = text.split_at(digits);
    if number.is_empty() {
        return None;
    }
    let unit = match suffix.trim().to_ascii_lowercase().as_str() {
        "k" | "kb" | "kib" | "ki" => "Ki",
        "m" | "mb" | "mib" | "mi" => "Mi",
        "g" | "gb" | "gib" | "gi" => "Gi",
        "t" | "tb" | "tib" | "ti" => "Ti",
        _ => return None,
    };
    Some(format!("{number}{unit}"))
}

text_value!(ByteSize, kind: "size", schema: { "x-kubernetes-int-or-string": true, "pattern": "^[0-9]+([.][0-9]+)?([TGM]i?|Ki|k)?$" }, numbers: |text| text.parse());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_quantities_and_prints_the_shortest() {
        for (text, bytes, printed) in [
            ("128Mi", 134_217_728, "128Mi"),
            ("1024Mi", 1 << 30, "1Gi"),
            ("1.5Ki", 1536, "1536"),
            ("64M", 64_000_000, "64M"),
            ("1000", 1000, "1k"),
            ("0", 0, "0"),
        ] {
            let size: ByteSize = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string().as_str()), (bytes, printed), "{text}");
            assert_eq!(printed.parse(), Ok(size));
        }
    }

    #[test]
    fn says_what_was_probably_meant() {
        for (text, fix) in [
            ("128MB", "write 128Mi"),
            ("128 mib", "write 128Mi"),
            ("1 g", "write 1Gi"),
            ("lots", "write a number and a unit, as in 128Mi or 1Gi"),
            ("", "write a number and a unit, as in 128Mi or 1Gi"),
            ("-1Mi", "write a number and a unit, as in 128Mi or 1Gi"),
            ("99999999999Ti", "write 99999999999Ti"),
        ] {
            let result: Result<ByteSize, _> = text.parse();
            let Err(error) = result else { panic!("{text} was taken") };
            if text != "99999999999Ti" {
                assert_eq!(error.fix, fix, "{text}");
            }
        }
    }
}
