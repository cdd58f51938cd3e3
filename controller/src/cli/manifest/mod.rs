//! Finding and reading manifests, and showing what is wrong with them on their own lines: all that is wrong with all of them at once.

mod find;
mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kube::ResourceExt;
use miette::{
    Diagnostic, LabeledSpan, MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents,
};

use hearth_function::{Function, Problem, parse_manifests_with};

use super::error::Error;
use super::out;

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
    is_knative: bool,
}

impl Manifest {
    /// The Function in the namespace that it names, or else in this one.
    pub(super) fn in_namespace(&self, default: &str) -> Function {
        let mut function = self.function.clone();
        if function.metadata.namespace.is_none() {
            function.metadata.namespace = Some(default.to_owned());
            if self.is_knative {
                hearth_function::knative::name_hosts(&mut function);
            }
        }
        function
    }

    /// An error about a field, shown on its line.
    pub(super) fn problem(&self, path: &str, message: String, fix: Option<String>) -> Error {
        Error::Manifests(vec![self.bad(path, message, fix)])
    }

    fn bad(&self, path: &str, message: String, fix: Option<String>) -> BadManifest {
        let mut problem = Problem::new(path, message, fix);
        problem.position = hearth_function::locate(&self.text.content, self.document, path);
        BadManifest { problem, text: self.text.clone() }
    }

    /// `file:line` of its name, to find it again.
    fn place(&self) -> String {
        let position = hearth_function::locate(&self.text.content, self.document, "metadata.name");
        position.map_or_else(|| self.text.name.clone(), |at| format!("{}:{}", self.text.name, at.line))
    }

    /// The directory that `source.path` names, if it does.
    pub(super) fn source_directory(&self) -> Option<PathBuf> {
        source::directory(&self.function, self.file.as_deref())
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

/// Whether what manifests say of this machine's files is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sources {
    /// The code has to be there: it is packed next.
    Needed,
    /// The manifests alone matter.
    Unseen,
}

/// Reads every manifest of these files and directories; `-` is standard input.
///
/// # Errors
/// All that is wrong with any of them, or what to do when there is none.
pub(super) fn read_all(paths: &[PathBuf], sources: Sources) -> Result<Vec<Manifest>, Error> {
    let (manifests, wrong) = read_each(paths, sources);
    wrong.map_or(Ok(manifests), Err)
}

/// The manifests of these files and directories that are in order, and all that is wrong with the others.
pub(super) fn read_each(paths: &[PathBuf], sources: Sources) -> (Vec<Manifest>, Option<Error>) {
    let mut reading = Reading { sources, manifests: Vec::new(), bad: Vec::new(), failures: Vec::new() };
    for path in paths {
        if let Err(error) = reading.path(path) {
            reading.failures.push(error);
        }
    }
    reading.twice();
    let Reading { manifests, bad, mut failures, .. } = reading;
    if !bad.is_empty() {
        failures.push(Error::Manifests(bad));
    }
    let wrong = match failures.pop() {
        Some(last) if !failures.is_empty() => {
            failures.push(last);
            Some(Error::Several(failures))
        }
        one => one,
    };
    (manifests, wrong)
}

/// What was read so far.
#[derive(Debug)]
struct Reading {
    sources: Sources,
    manifests: Vec<Manifest>,
    bad: Vec<BadManifest>,
    /// Files that could not be read, and others that hold nothing.
    failures: Vec<Error>,
}

impl Reading {
    fn path(&mut self, path: &Path) -> Result<(), Error> {
        if path.as_os_str() == "-" {
            let mut bytes = Vec::new();
            std::io::stdin()
                .lock()
                .take(MAX_BYTES + 1)
                .read_to_end(&mut bytes)
                .map_err(|error| Error::failed(format!("cannot read standard input: {error}")))?;
            if bytes.len() as u64 > MAX_BYTES {
                return Err(Error::failed(format!("standard input is larger than {} MiB", MAX_BYTES >> 20)));
            }
            let text = find::text(bytes, STDIN)?;
            self.only(None, text)
        } else if path.is_dir() {
            for file in find::files_in(path)? {
                match find::read(&file) {
                    Ok(text) => self.parse(Some(&file), text),
                    Err(error) => self.failures.push(error),
                }
            }
            Ok(())
        } else {
            let text = find::read(path)?;
            if let Some(error) = find::code(path, &text) {
                return Err(error);
            }
            self.only(Some(path), text)
        }
    }

    /// Takes a text that has to hold a manifest.
    fn only(&mut self, file: Option<&Path>, text: String) -> Result<(), Error> {
        let known = self.manifests.len() + self.bad.len();
        self.parse(file, text);
        if known < self.manifests.len() + self.bad.len() {
            return Ok(());
        }
        Err(Error::fixable(
            format!("{} holds no manifest", name_of(file)),
            "see `hearth explain function` for what one looks like, or make one with `hearth init NAME`",
        ))
    }

    fn parse(&mut self, file: Option<&Path>, text: String) {
        let name = name_of(file);
        let content: Arc<str> = Arc::from(text);
        let mut look = |function: &Function| match self.sources {
            Sources::Needed => source::look(function, file),
            Sources::Unseen => Vec::new(),
        };
        for (document, parsed) in parse_manifests_with(&content, &mut look).into_iter().enumerate() {
            let text = Text { name: name.clone(), content: Arc::clone(&content) };
            match parsed {
                Ok(hearth_function::Manifest { function, warnings, is_knative }) => {
                    for warning in warnings {
                        out::note(&format!("warning: {name}:{warning}"));
                    }
                    self.manifests.push(Manifest {
                        function,
                        file: file.map(Path::to_owned),
                        text,
                        document,
                        is_knative,
                    });
                }
                Err(problems) => {
                    let bad = problems.into_iter().map(|problem| BadManifest { problem, text: text.clone() });
                    self.bad.extend(bad);
                }
            }
        }
    }

    /// Two declarations of one Function would take turns.
    fn twice(&mut self) {
        let mut seen: BTreeMap<_, &Manifest> = BTreeMap::new();
        for manifest in &self.manifests {
            let name = manifest.function.name_any();
            if let Some(first) = seen.get(&(manifest.function.namespace(), name.clone())) {
                let message = format!("function {name} is declared twice, first in {}", first.place());
                let fix = Some("give one of them another name".to_owned());
                self.bad.push(manifest.bad("metadata.name", message, fix));
            } else {
                seen.insert((manifest.function.namespace(), name), manifest);
            }
        }
    }
}

/// What standard input is called.
const STDIN: &str = "standard input";

fn name_of(file: Option<&Path>) -> String {
    file.map_or_else(|| STDIN.to_owned(), |file| file.display().to_string())
}
