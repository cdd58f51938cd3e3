//! Reading the layers, one over the other, with every problem told at once.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::{Config, OPTIONS, Opt};

/// Files that are looked for when none is named, the first that is there.
const USUAL_PLACES: [&str; 3] =
    ["/etc/hearth/config.yaml", "/etc/hearth/config.yml", "/etc/hearth/config.toml"];

/// A configuration is short; a file beyond this is a mistake.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Variables of ours that are no options.
const OTHER_VARIABLES: [&str; 3] =
    ["HEARTH_CONFIG", "HEARTH_NAMESPACE", crate::telemetry::tracing::FILTER_VARIABLE];

/// What flags set: pairs of key and text, in the order of the command line.
pub type Flags = Vec<(String, String)>;

/// Everything that a configuration is read from.
#[derive(Debug, Clone, Default)]
pub struct Layers {
    /// `--config FILE`, or the variable `HEARTH_CONFIG`: it must be there. `None`: the usual places are looked at.
    pub file: Option<PathBuf>,
    /// The process's environment.
    pub environment: Vec<(String, String)>,
    /// The command line.
    pub flags: Flags,
}

/// Where the value of an option comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Nothing set it.
    Default,
    /// A file.
    File(PathBuf),
    /// This variable of the environment.
    Variable(String),
    /// A flag of the command line.
    Flag,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// The configuration in force and whence each value came.
#[derive(Debug, Clone)]
pub struct Effective {
    /// The values.
    pub config: Config,
    sources: BTreeMap<&'static str, Source>,
}

impl Effective {
    /// Each option with where its value came from.
    pub fn entries(&self) -> impl Iterator<Item = (&'static Opt, &Source)> {
        OPTIONS.iter().map(|option| (option, self.sources.get(option.key).unwrap_or(&Source::Default)))
    }
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where it was said.
    pub source: Source,
    /// The key it is about, if it is about one.
    pub key: Option<String>,
    /// What is wrong, and the fix.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.source, &self.key) {
            (Source::Variable(_) | Source::File(_), None) => write!(f, "{}: {}", self.source, self.message),
            (_, None) => f.write_str(&self.message),
            (source, Some(key)) => write!(f, "{key} ({source}): {}", self.message),
        }
    }
}

/// Everything that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the configuration has {} problem{}",
            self.0.len(),
            if self.0.len() == 1 { "" } else { "s" }
        )?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

/// Reads all layers.
///
/// # Errors
/// All that is wrong in any of them.
pub fn load(layers: &Layers) -> Result<Effective, Problems> {
    let mut reading = Reading { config: Config::default(), sources: BTreeMap::new(), problems: Vec::new() };
    if let Some(path) = file_to_read(layers) {
        reading.file(&path);
    }
    for (name, value) in &layers.environment {
        reading.variable(name, value);
    }
    for (key, value) in &layers.flags {
        reading.set(key, &Json::from(value.as_str()), &Source::Flag);
    }
    if let Err(broken) = reading.config.validate() {
        for (key, message) in broken {
            let source = reading.sources.get(key).cloned().unwrap_or(Source::Default);
            reading.problems.push(Problem { source, key: Some(key.to_owned()), message });
        }
    }
    let Reading { config, sources, problems } = reading;
    if problems.is_empty() { Ok(Effective { config, sources }) } else { Err(Problems(problems)) }
}

fn file_to_read(layers: &Layers) -> Option<PathBuf> {
    let named =
        || layers.environment.iter().find(|(name, value)| name == "HEARTH_CONFIG" && !value.is_empty());
    layers
        .file
        .clone()
        .or_else(|| named().map(|(_, value)| PathBuf::from(value)))
        .or_else(|| USUAL_PLACES.iter().map(PathBuf::from).find(|path| path.exists()))
}

struct Reading {
    config: Config,
    sources: BTreeMap<&'static str, Source>,
    problems: Vec<Problem>,
}

impl Reading {
    fn problem(&mut self, source: &Source, key: Option<&str>, message: String) {
        self.problems.push(Problem { source: source.clone(), key: key.map(str::to_owned), message });
    }

    fn set(&mut self, key: &str, value: &Json, source: &Source) {
        let Some(option) = OPTIONS.iter().find(|option| option.key == key) else {
            let sections =
                OPTIONS.iter().filter_map(|option| option.key.split_once('.')).map(|(section, _)| section);
            let known = OPTIONS.iter().map(|option| option.key).chain(sections);
            let message = format!("there is no such option{}", meant(key, known));
            return self.problem(source, Some(key), message);
        };
        match (option.set)(&mut self.config, value) {
            Ok(()) => {
                self.sources.insert(option.key, source.clone());
            }
            Err(message) => self.problem(source, Some(key), message),
        }
    }

    fn file(&mut self, path: &Path) {
        let source = Source::File(path.to_owned());
        match parse(path) {
            Ok(Json::Null) => {}
            Ok(Json::Object(top)) => {
                for (name, value) in &top {
                    self.section(name, value, &source);
                }
            }
            Ok(_) => self.problem(&source, None, "is not a map of sections".to_owned()),
            Err(message) => self.problem(&source, None, message),
        }
    }

    fn section(&mut self, name: &str, value: &Json, source: &Source) {
        let is_section = OPTIONS
            .iter()
            .any(|option| option.key.split_once('.').is_some_and(|(section, _)| section == name));
        match value {
            Json::Object(keys) if is_section => {
                for (key, value) in keys {
                    self.set(&format!("{name}.{key}"), value, source);
                }
            }
            Json::Null if is_section => {}
            _ if is_section => {
                self.problem(source, Some(name), "is a section: its options stand below it".to_owned())
            }
            _ => self.set(name, value, source),
        }
    }

    fn variable(&mut self, name: &str, value: &str) {
        if !name.starts_with("HEARTH_") || OTHER_VARIABLES.contains(&name) || is_service_link(name) {
            return;
        }
        let source = Source::Variable(name.to_owned());
        if let Some(option) = OPTIONS.iter().find(|option| option.variable() == name) {
            return self.set(option.key, &Json::from(value), &source);
        }
        let names: Vec<String> = OPTIONS.iter().map(Opt::variable).collect();
        let message = format!("sets no option{}", meant(name, names.iter().map(String::as_str)));
        self.problem(&source, None, message);
    }
}

/// Kubernetes gives every container such variables for a Service named `hearth…`; they are not meant for us.
fn is_service_link(name: &str) -> bool {
    name.contains("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.contains("_PORT_")
}

/// `: did you mean …?` for the nearest of `known`, if one is near.
pub(super) fn meant<'a>(text: &str, known: impl Iterator<Item = &'a str>) -> String {
    known
        .map(|candidate| (strsim::damerau_levenshtein(text, candidate), candidate))
        .min()
        .filter(|(distance, candidate)| *distance <= candidate.len() / 3)
        .map_or_else(
            || "; see `hearth config`".to_owned(),
            |(_, candidate)| format!("; did you mean {candidate}?"),
        )
}

fn parse(path: &Path) -> Result<Json, String> {
    let length = std::fs::metadata(path).map_err(|error| format!("cannot be read: {error}"))?.len();
    if length > MAX_FILE_BYTES {
        return Err(format!("has {length} bytes; a configuration has at most {MAX_FILE_BYTES}"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => toml::from_str(&text).map_err(|error| error.to_string()),
        Some("yaml" | "yml" | "json") if text.trim().is_empty() => Ok(Json::Null),
        Some("yaml" | "yml" | "json") => serde_saphyr::from_str(&text).map_err(|error| error.to_string()),
        _ => Err("is neither .yaml, .yml, .json nor .toml: name it after what it holds".to_owned()),
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
