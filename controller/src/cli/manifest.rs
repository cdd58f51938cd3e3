//! Finding and reading manifests, and showing what is wrong with them on their own lines.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::ResourceExt;
use miette::{
    Diagnostic, LabeledSpan, MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents,
};

use hearth_function::{Function, Problem, parse_manifests};

use super::error::Error;
use super::out;

/// Extensions of manifests in a directory.
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// A manifest with sixteen large inline sources fits.
const MAX_BYTES: u64 = 16 << 20;

/// A Function and where it was declared.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Manifest {
    /// What is declared.
    pub(super) function: Function,
    /// The file; `None` for standard input.
    pub(super) file: Option<PathBuf>,
    text: Text,
    /// Which of the text's manifests it is.
    document: usize,
}

impl Manifest {
    /// An error about a field, shown on its line.
    pub(super) fn problem(&self, path: &str, message: String, fix: Option<String>) -> Error {
        let mut problem = Problem::new(path, message, fix);
        problem.position = hearth_function::locate(&self.text.content, self.document, path);
        Error::Manifests(vec![BadManifest { problem, text: self.text.clone() }])
    }

    /// The directory that `source.path` names, if it does.
    pub(super) fn source_directory(&self) -> Option<PathBuf> {
        let path = self.function.spec.source.path.as_deref()?;
        let beside = self.file.as_deref().and_then(Path::parent);
        Some(beside.map_or_else(|| PathBuf::from(path), |beside| beside.join(path)))
    }
}

/// One problem of a manifest, with the text it is in.
#[derive(Debug, Clone)]
pub(super) struct BadManifest {
    problem: Problem,
    text: Text,
}

#[derive(Debug, Clone, PartialEq)]
struct Text {
    name: String,
    content: Arc<str>,
}

impl SourceCode for Text {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let inner = self.content.as_ref().read_span(span, before, after)?;
        Ok(Box::new(MietteSpanContents::new_named(
            self.name.clone(),
            inner.data(),
            *inner.span(),
            inner.line(),
            inner.column(),
            inner.line_count(),
        )))
    }
}

impl fmt::Display for BadManifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.problem.position.is_none() {
            write!(f, "{}: ", self.text.name)?;
        }
        if !self.problem.path.is_empty() {
            write!(f, "{}: ", self.problem.path)?;
        }
        f.write_str(&self.problem.message)
    }
}

impl std::error::Error for BadManifest {}

impl Diagnostic for BadManifest {
    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.problem.fix.as_ref().map(|fix| Box::new(fix) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.problem.position.map(|_| &self.text as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let position = self.problem.position?;
        // The position may be at the very end of the text.
        let offset = position.offset.min(self.text.content.len());
        let length = position.length.min(self.text.content.len() - offset);
        Some(Box::new(std::iter::once(LabeledSpan::new(Some("here".to_owned()), offset, length))))
    }
}

/// Reads every manifest of these files and directories; `-` is standard input.
///
/// # Errors
/// All that is wrong with any of them, or what to do when there is none.
pub(super) fn read_all(paths: &[PathBuf]) -> Result<Vec<Manifest>, Error> {
    let mut manifests = Vec::new();
    let mut bad = Vec::new();
    for path in paths {
        if path.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin()
                .lock()
                .take(MAX_BYTES)
                .read_to_string(&mut text)
                .map_err(|error| Error::failed(format!("cannot read standard input: {error}")))?;
            parse(None, text, &mut manifests, &mut bad);
        } else if path.is_dir() {
            for file in files_in(path)? {
                let text = read(&file)?;
                parse(Some(&file), text, &mut manifests, &mut bad);
            }
        } else {
            let text = read(path)?;
            let known = manifests.len() + bad.len();
            parse(Some(path), text, &mut manifests, &mut bad);
            if known == manifests.len() + bad.len() {
                return Err(Error::fixable(
                    format!("{} holds no manifest", path.display()),
                    "see `hearth explain function` for what one looks like",
                ));
            }
        }
    }
    if !bad.is_empty() {
        return Err(Error::Manifests(bad));
    }
    twice(&manifests)?;
    Ok(manifests)
}

fn parse(file: Option<&Path>, text: String, manifests: &mut Vec<Manifest>, bad: &mut Vec<BadManifest>) {
    let name = file.map_or_else(|| "standard input".to_owned(), |file| file.display().to_string());
    let content: Arc<str> = Arc::from(text);
    for (document, parsed) in parse_manifests(&content).into_iter().enumerate() {
        let text = Text { name: name.clone(), content: Arc::clone(&content) };
        match parsed {
            Ok(hearth_function::Manifest { function, warnings }) => {
                for warning in warnings {
                    out::note(&format!("warning: {name}:{warning}"));
                }
                manifests.push(Manifest { function, file: file.map(Path::to_owned), text, document });
            }
            Err(problems) => {
                bad.extend(problems.into_iter().map(|problem| BadManifest { problem, text: text.clone() }));
            }
        }
    }
}

/// Two declarations of one Function would take turns.
fn twice(manifests: &[Manifest]) -> Result<(), Error> {
    let mut seen = BTreeMap::new();
    for manifest in manifests {
        let place = manifest
            .file
            .as_ref()
            .map_or_else(|| "standard input".to_owned(), |file| file.display().to_string());
        let key = (manifest.function.namespace(), manifest.function.name_any());
        if let Some(first) = seen.insert(key.clone(), place.clone()) {
            return Err(Error::fixable(
                format!("function {} is declared twice: in {first} and in {place}", key.1),
                "give one of them another name",
            ));
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Error> {
    let failed = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::fixable(
            format!("there is no {}", path.display()),
            "name a manifest, or a directory that holds one",
        ),
        _ => Error::failed(format!("{} cannot be read: {error}", path.display())),
    };
    let mut text = String::new();
    let length = std::fs::metadata(path).map_err(failed)?.len();
    if length > MAX_BYTES {
        return Err(Error::failed(format!(
            "{} has {length} bytes: a manifest has at most {MAX_BYTES}",
            path.display()
        )));
    }
    std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)).map_err(failed)?;
    Ok(text)
}

/// The manifests directly in a directory, by name.
fn files_in(directory: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(directory)
        .map_err(|error| Error::failed(format!("{} cannot be read: {error}", directory.display())))?;
    let mut files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .and_then(|extension| extension.to_str())
                .is_some_and(|extension| EXTENSIONS.contains(&extension))
        })
        // Other tools keep files of these kinds beside ours.
        .filter(|path| std::fs::read_to_string(path).is_ok_and(|text| is_ours(&text)))
        .collect();
    files.sort();
    if files.is_empty() { Err(none_in(directory)) } else { Ok(files) }
}

fn is_ours(text: &str) -> bool {
    let kind = |line: &str| {
        let line: String = line
            .chars()
            .filter(|character| !character.is_whitespace() && !matches!(character, '"' | '\'' | ','))
            .collect();
        line == "kind:Function"
    };
    text.contains("hearth.dev/") || text.lines().any(kind)
}

/// What to add to a directory that has code and no manifest.
fn none_in(directory: &Path) -> Error {
    let what = format!("there is no manifest in {}", directory.display());
    let has = |name: &str| directory.join(name).is_file();
    let code = [
        ("index.js", "nodejs", "index.handler"),
        ("index.mjs", "nodejs", "index.handler"),
        ("index.cjs", "nodejs", "index.handler"),
        ("main.py", "python", "main.handler"),
        ("app.py", "python", "app.app"),
    ];
    if let Some((_, runtime, handler)) = code.iter().find(|(file, _, _)| has(file)) {
        let name = name_for(directory);
        let manifest = format!(
            "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: {{ name: {name} }}\nspec:\n  runtime: {runtime}\n  source: {{ path: . }}\n  handler: {handler}\n  triggers:\n    - http: {{ path: /{name} }}"
        );
        return Error::Failed {
            what,
            details: manifest.lines().map(|line| format!("  {line}")).collect(),
            fix: Some(format!(
                "write the lines above to {} and name the handler that the code exports",
                directory.join("function.yaml").display()
            )),
        };
    }
    let below: Vec<String> = std::fs::read_dir(directory)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && files_in(path).is_ok())
        .take(5)
        .map(|path| path.display().to_string())
        .collect();
    match below.first() {
        Some(first) => Error::Failed {
            what,
            details: vec![format!("directories below have some: {}", below.join(", "))],
            fix: Some(format!("name them, as in {first}")),
        },
        None => Error::fixable(
            what,
            "a manifest is a .yaml, .yml or .json file of kind Function: see `hearth explain function`",
        ),
    }
}

/// A function's name out of a directory's.
fn name_for(directory: &Path) -> String {
    let full = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
    let name = full.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    let name: String = name
        .chars()
        .map(|character| if character.is_ascii_alphanumeric() { character } else { '-' })
        .take(40)
        .collect();
    let name = name.trim_matches('-');
    if name.is_empty() { "hello".to_owned() } else { name.to_owned() }
}
