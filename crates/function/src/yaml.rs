//! Manifests as text: YAML (and so JSON), one or several in a file, with the place of every problem.
//!
//! The text is turned into JSON values and an index from path to place; [`crate::from_value`] does the rest, and its problems get their
//! places from the index. What YAML allows and a manifest must not have is refused here: keys given twice, aliases without end, tags.

mod index;
mod list;
mod tree;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span};
use serde_json::Value;

use crate::check::{from_value, from_value_with};
use crate::knative;
use crate::problem::{Part, Position, Problem};
use crate::spec::Function;
use crate::validate::Side;
use crate::{INSTALLATION_ANNOTATION, INSTANCES_FINALIZER, RETRY_ANNOTATION};
use index::{Lines, Places};
use tree::{Builder, Document};

/// Longest text, in bytes: sixteen Functions with as much inline code as there may be.
const TEXT_BYTES: usize = 16 * 1024 * 1024;

/// A manifest that is in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Manifest {
    /// What it declares.
    pub function: Function,
    /// What of it is not honoured, when it is one of Knative's.
    pub warnings: Vec<Problem>,
    /// It is one of Knative's: its hosts follow from its namespace ([`crate::knative::name_hosts`]).
    pub is_knative: bool,
}

/// Reads every manifest of a text, as a client: documents are divided by `---`, and empty ones are passed over. A
/// `List` (`v1`) is its items, each a document.
///
/// For each document there is the Function (also of a Knative Service), or everything that is wrong with it, in the order of the text and each with its place. After a
/// mistake in the YAML itself the rest of the text cannot be read: its problem is the last entry.
#[must_use]
pub fn parse_manifests(text: &str) -> Vec<Result<Manifest, Vec<Problem>>> {
    parse_manifests_with(text, &mut |_| Vec::new())
}

/// The same, and `beyond` looks at each Function too, for what only its caller can know, such as whether a directory is there: what it finds is
/// told together with the rest, in its place. It is given a Function also when some of the manifest could not be read; what follows from that
/// alone is left out.
#[must_use]
pub fn parse_manifests_with(
    text: &str,
    beyond: &mut dyn FnMut(&Function) -> Vec<Problem>,
) -> Vec<Result<Manifest, Vec<Problem>>> {
    // An editor's mark at the start of a file is no part of it.
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = Lines::new(body, text.len() - body.len());
    if text.len() > TEXT_BYTES {
        let message = format!("the text has {} bytes, and at most {TEXT_BYTES} are read", text.len());
        let mut problem = Problem::new("", message, None);
        problem.position = Some(lines.position(1, 0, 0));
        return vec![Err(vec![problem])];
    }
    let mut read = Vec::new();
    each_document(body, &lines, |document| {
        read.extend(match document {
            Ok(document) => understand(document, &lines, beyond),
            Err(problems) => Some(Err(problems)),
        });
    });
    read
}

/// Where in a text a field of its `document`th manifest is, counted from 0 as [`parse_manifests`] gives them: for problems that are found
/// later, as with a directory that the manifest names. Of a field that is not there, the place of what is around it.
#[must_use]
pub fn locate(text: &str, document: usize, path: &str) -> Option<Position> {
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = Lines::new(body, text.len() - body.len());
    let mut found = Vec::new();
    each_document(body, &lines, |document| match document {
        Ok(document) if document.value == Value::Null && document.problems.is_empty() => {}
        Ok(document) => found.push(document.places.find(path, Part::Value)),
        Err(_) => found.push(None),
    });
    found.get(document).copied().flatten().map(|span| lines.of(Some(span)))
}

/// Gives each document of a text, and at last what keeps the rest from being read.
fn each_document(body: &str, lines: &Lines<'_>, mut take: impl FnMut(Result<Document, Vec<Problem>>)) {
    let mut builder = Builder::default();
    let mut parser = Parser::new_from_str(body);
    while let Some(event) = parser.next_event() {
        match event {
            Ok((Event::StreamEnd, _)) => return,
            Ok((event, span)) => {
                if let Some(document) = step(&mut builder, event, span) {
                    list::documents(document).into_iter().for_each(|document| take(Ok(document)));
                }
            }
            Err(error) => return take(Err(vec![unreadable(&error, lines)])),
        }
        if builder.is_exhausted() {
            return take(Err(place(builder.take_problems(), &Places::default(), lines)));
        }
    }
}

fn step(builder: &mut Builder, event: Event<'_>, span: Span) -> Option<Document> {
    match event {
        Event::DocumentEnd => return builder.end_document(),
        Event::Scalar(text, style, anchor, tag) => {
            builder.scalar(&text, style == ScalarStyle::Plain, anchor, tag.as_deref(), span);
        }
        Event::SequenceStart(anchor, tag) => builder.start_list(anchor, tag.as_deref(), span),
        Event::MappingStart(anchor, tag) => builder.start_map(anchor, tag.as_deref(), span),
        Event::SequenceEnd | Event::MappingEnd => builder.end_collection(),
        Event::Alias(anchor) => builder.alias(anchor, span),
        Event::DocumentStart(_) => builder.start_document(),
        Event::Nothing | Event::StreamStart | Event::StreamEnd => {}
    }
    None
}

/// The Function of a document; `None` for an empty one.
fn understand(
    document: Document,
    lines: &Lines<'_>,
    beyond: &mut dyn FnMut(&Function) -> Vec<Problem>,
) -> Option<Result<Manifest, Vec<Problem>>> {
    let Document { value, places, problems } = document;
    if value == Value::Null && problems.is_empty() {
        return None;
    }
    let placed = |found: Vec<Problem>| {
        place(found.into_iter().map(|problem| (problem, None)).collect(), &places, lines)
    };
    let mut problems = place(problems, &places, lines);
    let read = if knative::is_knative(&value) { service(&value) } else { own(&value, beyond) };
    match read {
        Ok(manifest) if problems.is_empty() => {
            let mut warnings = placed(manifest.warnings);
            warnings.sort_by_key(|warning| warning.position);
            return Some(Ok(Manifest { warnings, ..manifest }));
        }
        Ok(_) => {}
        Err(found) => problems.extend(placed(found)),
    }
    problems.sort_by_key(|problem| problem.position);
    Some(Err(problems))
}

fn own(value: &Value, beyond: &mut dyn FnMut(&Function) -> Vec<Problem>) -> Result<Manifest, Vec<Problem>> {
    let mut function = from_value_with(value, Side::Client, beyond)?;
    as_declared(&mut function.metadata);
    Ok(Manifest { function, warnings: Vec::new(), is_knative: false })
}

/// Leaves out what nobody declares: what an API server and Hearth have written into an object that was read from there.
fn as_declared(metadata: &mut ObjectMeta) {
    *metadata = ObjectMeta {
        name: metadata.name.take(),
        namespace: metadata.namespace.take(),
        labels: metadata.labels.take(),
        annotations: metadata.annotations.take(),
        finalizers: metadata.finalizers.take(),
        owner_references: metadata.owner_references.take(),
        ..ObjectMeta::default()
    };
    if let Some(annotations) = &mut metadata.annotations {
        annotations.retain(|name, _| ![RETRY_ANNOTATION, INSTALLATION_ANNOTATION].contains(&name.as_str()));
    }
    if let Some(finalizers) = &mut metadata.finalizers {
        finalizers.retain(|name| name != INSTANCES_FINALIZER);
    }
    metadata.annotations.take_if(|annotations| annotations.is_empty());
    metadata.finalizers.take_if(|finalizers| finalizers.is_empty());
}

fn service(value: &Value) -> Result<Manifest, Vec<Problem>> {
    let knative::Conversion { function, warnings } = knative::convert(value)?;
    let function = from_value(&function, Side::Client).map_err(|problems| {
        // Their paths are those of the Function, which nobody wrote.
        let retold = |problem: Problem| {
            Problem::new("", format!("as a Function, {}: {}", problem.path, problem.message), problem.fix)
        };
        problems.into_iter().map(retold).collect::<Vec<_>>()
    })?;
    Ok(Manifest { function, warnings, is_knative: true })
}

/// Gives each problem the place that it brings along, or that of its path.
fn place(found: Vec<(Problem, Option<Span>)>, places: &Places, lines: &Lines<'_>) -> Vec<Problem> {
    found
        .into_iter()
        .map(|(mut problem, span)| {
            problem.position = Some(lines.of(span.or_else(|| places.find(&problem.path, problem.part))));
            problem
        })
        .collect()
}

fn unreadable(error: &ScanError, lines: &Lines<'_>) -> Problem {
    let marker = error.marker();
    let info = error.info();
    let mut problem = Problem::new("", format!("this is not YAML: {info}"), Some(hint(info).to_owned()));
    problem.position = Some(lines.position(marker.line(), marker.col(), 0));
    problem
}

/// What usually lies behind a message of the parser.
fn hint(info: &str) -> &'static str {
    if info.contains("tab") {
        "indent with spaces"
    } else if info.contains("mapping values are not allowed") || info.contains("simple key") {
        "check the indentation, and put a text that contains `: ` in quotes"
    } else if info.contains("trailing content") {
        "a quote within single quotes is written twice, as in 'it''s', and one within double quotes as \\\""
    } else if info.contains("quoted") || info.contains("end of stream") || info.contains("eof") {
        "close the quotes and brackets that were opened"
    } else if info.contains("flow") {
        "close the brackets, with commas between the items"
    } else if info.contains("unexpected character") {
        "put a text that begins with this character in quotes"
    } else if info.contains("anchor") {
        "put a text that begins with * in quotes; an alias comes after the anchor (&) that it names"
    } else if info.contains("expected key") {
        "give this line the indentation of the fields beside it"
    } else {
        "check the indentation of this line, and its quotes and brackets"
    }
}

#[cfg(test)]
mod tests;
