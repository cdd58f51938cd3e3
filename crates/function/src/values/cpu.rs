//! Shares of processor cores.

use std::fmt;
use std::str::FromStr;

use super::size::scaled;
use super::{ValueError, text_value};

/// Processor time in thousandths of a core, written `500m` (half a core), `2` or `0.5`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuMillis(u32);

impl CpuMillis {
    /// So many thousandths of a core.
    #[must_use]
    pub const fn from_millis(millis: u32) -> Self {
        Self(millis)
    }

    /// In thousandths of a core.
    #[must_use]
    pub const fn millis(self) -> u32 {
        self.0
    }
}

impl fmt::Display for CpuMillis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_multiple_of(1000) { write!(f, "{}", self.0 / 1000) } else { write!(f, "{}m", self.0) }
    }
}

impl FromStr for CpuMillis {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let millis = match text.strip_suffix('m') {
            Some(millis) => scaled(millis, 1),
            None => scaled(text, 1000),
        };
        millis.and_then(|millis| u32::try_from(millis).ok()).map(Self).ok_or_else(|| {
            ValueError::new(
                format!("{text:?} is not an amount of cpu"),
                "write thousandths of a core, as in 500m, or cores, as in 2",
            )
        })
    }
}

text_value!(CpuMillis, kind: "cpu", schema: { "x-kubernetes-int-or-string": true, "pattern": "^[0-9]+([.][0-9]+)?m?$" }, numbers: |text| text.parse());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_cores_and_thousandths() {
        for (text, millis, printed) in
            [("500m", 500, "500m"), ("2", 2000, "2"), ("0.5", 500, "500m"), ("1000m", 1000, "1")]
        {
            let cpu: CpuMillis = text.parse().unwrap();
            assert_eq!((cpu.millis(), cpu.to_string().as_str()), (millis, printed), "{text}");
        }
        for bad in ["", "m", "half", "-1", "0.0001", "5000000000"] {
            assert!(bad.parse::<CpuMillis>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_number_is_cores() {
        assert_eq!(serde_json::from_str::<CpuMillis>("0.25").unwrap(), CpuMillis::from_millis(250));
        assert_eq!(serde_json::from_str::<CpuMillis>("2").unwrap(), CpuMillis::from_millis(2000));
    }
}
