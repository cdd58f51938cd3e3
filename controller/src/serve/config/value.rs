//! The kinds of values that options have: each reads what a file, a variable or a flag says, and shows itself in the same form.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value as Json;

use crate::backend::kubernetes::Compared;

/// A kind of value.
pub trait Value: Sized {
    /// What it looks like, for messages and documentation.
    const FORM: &'static str;

    /// Takes it from the form it has in a file; a variable or a flag gives a string, and every kind takes its string form.
    ///
    /// # Errors
    /// What is wrong with it, as the end of a sentence that starts with the key.
    fn read(value: &Json) -> Result<Self, String>;

    /// The form that [`Value::read`] takes again. A secret shows only that it is there.
    fn show(&self) -> Json;
}

fn not<T: Value>(value: &Json) -> String {
    format!("{value} is not {}", T::FORM)
}

fn text<T: Value>(value: &Json) -> Result<&str, String> {
    value.as_str().ok_or_else(|| not::<T>(value))
}

impl Value for String {
    const FORM: &'static str = "a text";
    fn read(value: &Json) -> Result<Self, String> {
        text::<Self>(value).map(str::to_owned)
    }
    fn show(&self) -> Json {
        Json::from(self.as_str())
    }
}

impl Value for PathBuf {
    const FORM: &'static str = "a path";
    fn read(value: &Json) -> Result<Self, String> {
        text::<Self>(value).map(PathBuf::from)
    }
    fn show(&self) -> Json {
        Json::from(self.display().to_string())
    }
}

impl Value for SocketAddr {
    const FORM: &'static str = "an address and a port, as in 127.0.0.1:8080";
    fn read(value: &Json) -> Result<Self, String> {
        text::<Self>(value)?.parse().map_err(|_| not::<Self>(value))
    }
    fn show(&self) -> Json {
        Json::from(self.to_string())
    }
}

impl Value for IpAddr {
    const FORM: &'static str = "an address, as in 10.0.0.7";
    fn read(value: &Json) -> Result<Self, String> {
        text::<Self>(value)?.parse().map_err(|_| not::<Self>(value))
    }
    fn show(&self) -> Json {
        Json::from(self.to_string())
    }
}

impl Value for Duration {
    const FORM: &'static str = "a duration, as in 500ms, 30s or 5m";
    fn read(value: &Json) -> Result<Self, String> {
        humantime::parse_duration(text::<Self>(value)?).map_err(|_| not::<Self>(value))
    }
    fn show(&self) -> Json {
        Json::from(humantime::format_duration(*self).to_string())
    }
}

impl Value for bool {
    const FORM: &'static str = "true or false";
    fn read(value: &Json) -> Result<Self, String> {
        let text = value.as_str().map(str::trim).and_then(|text| text.parse().ok());
        value.as_bool().or(text).ok_or_else(|| not::<Self>(value))
    }
    fn show(&self) -> Json {
        Json::from(*self)
    }
}

impl Value for Compared {
    const FORM: &'static str = "one of later, first and never";
    fn read(value: &Json) -> Result<Self, String> {
        match text::<Self>(value)? {
            "later" => Ok(Self::Later),
            "first" => Ok(Self::First),
            "never" => Ok(Self::Never),
            _ => Err(not::<Self>(value)),
        }
    }
    fn show(&self) -> Json {
        Json::from(match self {
            Self::Later => "later",
            Self::First => "first",
            Self::Never => "never",
        })
    }
}

macro_rules! whole_number {
    ($type:ty, $form:literal) => {
        impl Value for $type {
            const FORM: &'static str = $form;
            fn read(value: &Json) -> Result<Self, String> {
                let number =
                    value.as_u64().or_else(|| value.as_str().and_then(|text| text.trim().parse().ok()));
                number.and_then(|number| Self::try_from(number).ok()).ok_or_else(|| not::<Self>(value))
            }
            fn show(&self) -> Json {
                Json::from(*self)
            }
        }
    };
}

whole_number!(u32, "a whole number");
whole_number!(u16, "a port, 0 to 65535");

/// Left out is a value of its own: `auto`, or nothing in a file.
impl<T: Value> Value for Option<T> {
    const FORM: &'static str = T::FORM;
    fn read(value: &Json) -> Result<Self, String> {
        if value.is_null() || value.as_str() == Some("auto") { Ok(None) } else { T::read(value).map(Some) }
    }
    fn show(&self) -> Json {
        self.as_ref().map_or_else(|| Json::from("auto"), Value::show)
    }
}

/// A list in a file; separated by commas in a variable or a flag.
impl<T: Value> Value for Vec<T> {
    const FORM: &'static str = "a list (in a variable or flag: separated by commas)";
    fn read(value: &Json) -> Result<Self, String> {
        match value {
            Json::Array(items) => items.iter().map(T::read).collect(),
            Json::String(text) if text.trim().is_empty() => Ok(Self::new()),
            Json::String(text) => text.split(',').map(|item| T::read(&Json::from(item.trim()))).collect(),
            Json::Null | Json::Bool(_) | Json::Number(_) | Json::Object(_) => Err(not::<Self>(value)),
        }
    }
    fn show(&self) -> Json {
        Json::Array(self.iter().map(Value::show).collect())
    }
}

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(u64);

impl Size {
    const UNITS: [(&'static str, u64); 7] = [
        ("Gi", 1 << 30),
        ("Mi", 1 << 20),
        ("Ki", 1 << 10),
        ("G", 1_000_000_000),
        ("M", 1_000_000),
        ("k", 1000),
        ("", 1),
    ];

    /// So many times 1024 bytes.
    #[must_use]
    pub const fn kib(count: u64) -> Self {
        Self(count << 10)
    }

    /// So many times 1024² bytes.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// So many bytes.
    #[must_use]
    pub const fn bytes(count: u64) -> Self {
        Self(count)
    }

    /// How many bytes.
    #[must_use]
    pub const fn as_bytes(self) -> u64 {
        self.0
    }

    /// As an amount of memory of this process.
    #[must_use]
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let binary =
            Self::UNITS[..3].iter().find(|(_, unit)| self.0 >= *unit && self.0.is_multiple_of(*unit));
        let (name, unit) = binary.copied().unwrap_or(("", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl Value for Size {
    const FORM: &'static str = "a size in bytes, as in 512Ki, 64Mi or 1Gi";
    fn read(value: &Json) -> Result<Self, String> {
        if let Some(bytes) = value.as_u64() {
            return Ok(Self(bytes));
        }
        let text = text::<Self>(value)?.trim();
        let (number, unit) = Self::UNITS
            .iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
            .ok_or_else(|| not::<Self>(value))?;
        let number: u64 = number.trim().parse().map_err(|_| not::<Self>(value))?;
        number.checked_mul(unit).map(Self).ok_or_else(|| not::<Self>(value))
    }
    fn show(&self) -> Json {
        Json::from(self.to_string())
    }
}

/// A text that is not shown: neither by `hearth config` nor in a debug print.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text itself.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl Value for Secret {
    const FORM: &'static str = "a text";
    fn read(value: &Json) -> Result<Self, String> {
        // Whatever it is, it is not repeated in a message.
        value.as_str().map(|text| Self(text.to_owned())).ok_or_else(|| "is not a text".to_owned())
    }
    fn show(&self) -> Json {
        Json::from("(hidden)")
    }
}
