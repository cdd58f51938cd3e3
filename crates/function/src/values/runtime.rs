//! Names of runtimes.

use std::fmt;
use std::str::FromStr;

use super::{ValueError, text_value};

/// What runs the code inside an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuntimeName {
    /// Node, any supported version or one major version: `nodejs`, `nodejs20`.
    Nodejs(Option<u16>),
    /// `CPython`, any supported version or one minor version: `python`, `python3.11`.
    Python(Option<(u16, u16)>),
    /// Any server that listens on `$PORT`.
    Http,
    /// One process for each call, from standard input to standard output.
    Exec,
    /// A program that speaks the AWS Lambda Runtime API.
    Provided,
}

impl RuntimeName {
    /// The oldest Node that is supported: the bootstrap needs what came with it.
    pub const OLDEST_NODEJS: u16 = 20;
    /// The oldest `CPython` that is supported.
    pub const OLDEST_PYTHON: (u16, u16) = (3, 11);

    /// Whether the code is a handler in a file, called by a bootstrap (and not a program of its own).
    #[must_use]
    pub const fn has_handler(self) -> bool {
        matches!(self, Self::Nodejs(_) | Self::Python(_))
    }
}

impl fmt::Display for RuntimeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nodejs(None) => f.write_str("nodejs"),
            Self::Nodejs(Some(major)) => write!(f, "nodejs{major}"),
            Self::Python(None) => f.write_str("python"),
            Self::Python(Some((major, minor))) => write!(f, "python{major}.{minor}"),
            Self::Http => f.write_str("http"),
            Self::Exec => f.write_str("exec"),
            Self::Provided => f.write_str("provided"),
        }
    }
}

impl FromStr for RuntimeName {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let unknown = |fix: &str| Err(ValueError::new(format!("{text:?} is not a runtime"), fix));
        let number = |digits: &str| {
            let plain = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
            plain.then(|| digits.parse::<u16>().ok()).flatten()
        };
        match text {
            "nodejs" => return Ok(Self::Nodejs(None)),
            "python" => return Ok(Self::Python(None)),
            "http" => return Ok(Self::Http),
            "exec" => return Ok(Self::Exec),
            "provided" => return Ok(Self::Provided),
            "node" | "js" | "javascript" => return unknown("write nodejs"),
            "py" | "python3" => return unknown("write python"),
            _ => {}
        }
        if let Some(version) = text.strip_prefix("nodejs") {
            return match number(version) {
                Some(major) if major >= Self::OLDEST_NODEJS => Ok(Self::Nodejs(Some(major))),
                Some(_) => unknown("the oldest supported is nodejs20"),
                None => unknown("write nodejs, or with a major version, as in nodejs22"),
            };
        }
        if let Some(version) = text.strip_prefix("python") {
            let parts =
                version.split_once('.').and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
            return match parts {
                Some(parts) if parts >= Self::OLDEST_PYTHON => Ok(Self::Python(Some(parts))),
                Some(_) => unknown("the oldest supported is python3.11"),
                None => unknown("write python, or with a minor version, as in python3.11"),
            };
        }
        unknown("write one of nodejs, python, http, exec")
    }
}

text_value!(RuntimeName, kind: "runtime", schema: {
    "type": "string", "pattern": "^(nodejs([1-9][0-9]*)?|python([1-9][0-9]*[.][1-9][0-9]*)?|http|exec|provided)$"
}, numbers: |text| text.parse());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_prints_every_form() {
        for (text, name) in [
            ("nodejs", RuntimeName::Nodejs(None)),
            ("nodejs22", RuntimeName::Nodejs(Some(22))),
            ("python", RuntimeName::Python(None)),
            ("python3.12", RuntimeName::Python(Some((3, 12)))),
            ("http", RuntimeName::Http),
            ("exec", RuntimeName::Exec),
            ("provided", RuntimeName::Provided),
        ] {
            assert_eq!(text.parse(), Ok(name));
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn names_the_fix() {
        for (text, fix) in [
            ("node", "write nodejs"),
            ("nodejs18", "the oldest supported is nodejs20"),
            ("nodejs20.1", "write nodejs, or with a major version, as in nodejs22"),
            ("python3.9", "the oldest supported is python3.11"),
            ("python3", "write python"),
            ("ruby", "write one of nodejs, python, http, exec"),
        ] {
            assert_eq!(text.parse::<RuntimeName>().unwrap_err().fix, fix, "{text}");
        }
    }
}
