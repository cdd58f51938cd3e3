//! From the events of the parser to a JSON value with the place of everything in it. Without recursion, and within budgets: an alias
//! counts as much as what it stands for.

use std::collections::HashMap;

use saphyr_parser::{Span, Tag};
use serde_json::{Map, Number, Value};

use super::index::Places;
use crate::check::join;
use crate::problem::Problem;

/// Values of one document, those that aliases stand for included. A Function has some hundred.
const NODES: usize = 50_000;
/// Text of one document, that which aliases stand for included.
const TEXT_BYTES: usize = 4 * 1024 * 1024;
/// Values within values, those that aliases stand for included. A Function has eight.
const DEPTH: usize = 32;
/// Bytes of a key. The longest that means anything is the name of a label with its prefix.
const KEY_BYTES: usize = 320;

/// A document that was read to its end.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) value: Value,
    pub(super) places: Places,
    pub(super) problems: Vec<(Problem, Option<Span>)>,
}

/// A value and its place.
#[derive(Debug, Clone)]
struct Node {
    content: Content,
    span: Span,
    /// It stands for what was written elsewhere: its place, and that of all in it, is where the alias stands.
    alias: bool,
    /// Values and bytes of text in it, itself included.
    nodes: usize,
    bytes: usize,
    /// Levels of lists and maps in it, itself included.
    depth: usize,
}

#[derive(Debug, Clone)]
enum Content {
    Scalar(Value),
    List(Vec<Node>),
    Map(Vec<(String, Span, Node)>),
}

/// A list or map that has begun.
#[derive(Debug)]
struct Open {
    node: Node,
    anchor: usize,
    /// The key whose value comes next.
    key: Option<(String, Span)>,
    /// The keys of a map so far, with their lines.
    seen: HashMap<String, usize>,
}

/// Takes events and builds documents.
#[derive(Debug, Default)]
pub(super) struct Builder {
    open: Vec<Open>,
    done: Option<Node>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
    bytes: usize,
    problems: Vec<(Problem, Option<Span>)>,
    exhausted: bool,
}

impl Builder {
    pub(super) fn start_document(&mut self) {
        *self = Self::default();
    }

    /// The document, and a clean start for the next.
    pub(super) fn end_document(&mut self) -> Option<Document> {
        let Self { done, problems, .. } = std::mem::take(self);
        let mut document = Document { value: Value::Null, places: Places::default(), problems };
        document.value = flatten(done?, "", None, None, &mut document.places);
        Some(document)
    }

    /// Whether a budget was spent: the rest is not read.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    pub(super) fn take_problems(&mut self) -> Vec<(Problem, Option<Span>)> {
        std::mem::take(&mut self.problems)
    }

    pub(super) fn scalar(&mut self, text: &str, plain: bool, anchor: usize, tag: Option<&Tag>, span: Span) {
        let value = match tag {
            None if plain => resolve(text),
            None => Value::from(text),
            Some(tag) => self.tagged(text, tag, span),
        };
        let node = Node {
            content: Content::Scalar(value),
            span,
            alias: false,
            nodes: 1,
            bytes: text.len(),
            depth: 0,
        };
        if self.charge(node.nodes, node.bytes, span) {
            self.add(node, anchor, Some(text));
        }
    }

    pub(super) fn start_list(&mut self, anchor: usize, tag: Option<&Tag>, span: Span) {
        self.start(Content::List(Vec::new()), anchor, tag, "seq", span);
    }

    pub(super) fn start_map(&mut self, anchor: usize, tag: Option<&Tag>, span: Span) {
        self.start(Content::Map(Vec::new()), anchor, tag, "map", span);
    }

    fn start(&mut self, content: Content, anchor: usize, tag: Option<&Tag>, known: &str, span: Span) {
        if let Some(tag) = tag
            && !(tag.is_yaml_core_schema() && tag.suffix == known)
        {
            self.foreign_tag(tag, span);
        }
        if self.open.len() >= DEPTH {
            self.exhaust(format!("values are more than {DEPTH} deep"), span);
            return;
        }
        // The place of a list or map is where it begins; its end may be many lines on.
        let span = Span::empty(span.start);
        if self.charge(1, 0, span) {
            let node = Node { content, span, alias: false, nodes: 1, bytes: 0, depth: 1 };
            self.open.push(Open { node, anchor, key: None, seen: HashMap::new() });
        }
    }

    pub(super) fn end_collection(&mut self) {
        if let Some(Open { node, anchor, .. }) = self.open.pop() {
            self.add(node, anchor, None);
        }
    }

    pub(super) fn alias(&mut self, anchor: usize, span: Span) {
        let Some(node) = self.anchors.get(&anchor) else {
            return self.exhaust("an alias stands inside of what it stands for".to_owned(), span);
        };
        let (nodes, bytes, depth) = (node.nodes, node.bytes, node.depth);
        if self.open.len() + depth > DEPTH {
            return self.exhaust(format!("values are more than {DEPTH} deep"), span);
        }
        // Charged before it is copied.
        if !self.charge(nodes, bytes, span) {
            return;
        }
        if let Some(node) = self.anchors.get(&anchor) {
            let node = Node { span, alias: true, ..node.clone() };
            let text = match &node.content {
                Content::Scalar(Value::String(text)) => Some(text.clone()),
                _ => None,
            };
            self.add(node, 0, text.as_deref());
        }
    }

    /// Takes from the budgets; whether there was enough.
    fn charge(&mut self, nodes: usize, bytes: usize, span: Span) -> bool {
        self.nodes = self.nodes.saturating_add(nodes);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.nodes > NODES || self.bytes > TEXT_BYTES {
            self.exhaust("the document is too large for a manifest".to_owned(), span);
        }
        !self.exhausted
    }

    /// Puts a finished value where it belongs. `text` is that of a scalar, which a key is made of.
    fn add(&mut self, node: Node, anchor: usize, text: Option<&str>) {
        // What is kept for aliases is a copy, and counts.
        if anchor != 0 && self.charge(node.nodes, node.bytes, node.span) {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(outer) = self.open.last_mut() else {
            self.done = Some(node);
            return;
        };
        outer.node.nodes += node.nodes;
        outer.node.bytes += node.bytes;
        outer.node.depth = outer.node.depth.max(node.depth + 1);
        match &mut outer.node.content {
            Content::Scalar(_) => {}
            Content::List(items) => items.push(node),
            Content::Map(fields) => match outer.key.take() {
                None => {
                    let (key, problem) = as_key(text);
                    self.problems.extend(problem.map(|problem| (problem, Some(node.span))));
                    outer.key = Some((key, node.span));
                }
                Some((key, span)) => match outer.seen.get(&key) {
                    Some(line) => {
                        let message = format!("`{key}` is given twice, first on line {line}");
                        let problem = Problem::new("", message, Some("keep one of them".to_owned()));
                        self.problems.push((problem, Some(span)));
                    }
                    None => {
                        outer.seen.insert(key.clone(), span.start.line());
                        fields.push((key, span, node));
                    }
                },
            },
        }
    }

    fn tagged(&mut self, text: &str, tag: &Tag, span: Span) -> Value {
        if !tag.is_yaml_core_schema() {
            // A lone `!` says: this is text.
            if tag.handle.is_empty() && tag.suffix == "!" {
                return Value::from(text);
            }
            self.foreign_tag(tag, span);
            return Value::from(text);
        }
        let resolved = resolve(text);
        match (tag.suffix.as_str(), &resolved) {
            ("str", _) => Value::from(text),
            ("int" | "float", Value::Number(_)) | ("bool", Value::Bool(_)) | ("null", Value::Null) => {
                resolved
            }
            _ => {
                self.foreign_tag(tag, span);
                Value::from(text)
            }
        }
    }

    fn foreign_tag(&mut self, tag: &Tag, span: Span) {
        let problem =
            Problem::new("", format!("the tag `{tag}` means nothing here"), Some("take it out".to_owned()));
        self.problems.push((problem, Some(span)));
    }

    fn exhaust(&mut self, message: String, span: Span) {
        if !self.exhausted {
            self.exhausted = true;
            self.problems
                .push((Problem::new("", message, Some("write a simpler file".to_owned())), Some(span)));
        }
    }
}

/// The key that a scalar is, or what is wrong with it. A key that cannot be used is read as an empty one.
fn as_key(text: Option<&str>) -> (String, Option<Problem>) {
    let (message, fix) = match text {
        Some("<<") => ("merge keys (`<<`) are not understood", "write the fields out"),
        Some(text) if text.len() > KEY_BYTES => {
            ("this is too long for a key", "check the quotes and the indentation")
        }
        Some(text) => return (text.to_owned(), None),
        None => ("a key is a list or an object", "a key is a word"),
    };
    (String::new(), Some(Problem::new("", message, Some(fix.to_owned()))))
}

/// The value of a plain scalar: the core schema of YAML 1.2, and the words that YAML 1.1 takes for booleans, because kubectl reads a
/// manifest by 1.1 and the same file must mean the same.
fn resolve(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" | "yes" | "Yes" | "YES" | "on" | "On" | "ON" => return Value::Bool(true),
        "false" | "False" | "FALSE" | "no" | "No" | "NO" | "off" | "Off" | "OFF" => {
            return Value::Bool(false);
        }
        _ => {}
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !digits.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return Value::from(text);
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return u64::from_str_radix(hex, 16).map_or_else(|_| Value::from(text), Value::from);
    }
    if let Some(octal) = text.strip_prefix("0o") {
        return u64::from_str_radix(octal, 8).map_or_else(|_| Value::from(text), Value::from);
    }
    let unsigned = text.strip_prefix('+').unwrap_or(text);
    if digits.bytes().all(|byte| byte.is_ascii_digit()) {
        if let Ok(number) = unsigned.parse::<u64>() {
            return Value::from(number);
        }
        if let Ok(number) = unsigned.parse::<i64>() {
            return Value::from(number);
        }
    }
    let float =
        digits.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'-' | b'+'));
    let number = float.then(|| unsigned.parse::<f64>().ok()).flatten().and_then(Number::from_f64);
    number.map_or_else(|| Value::from(text), Value::Number)
}

/// The JSON of a node; its places go into `places`. As deep as [`DEPTH`] at most. `alias`: where the alias stands that it is a part of.
fn flatten(node: Node, path: &str, key: Option<Span>, alias: Option<Span>, places: &mut Places) -> Value {
    places.add(path.to_owned(), alias.or(key), alias.unwrap_or(node.span));
    let alias = alias.or_else(|| node.alias.then_some(node.span));
    match node.content {
        Content::Scalar(value) => value,
        Content::List(items) => items
            .into_iter()
            .enumerate()
            .map(|(index, item)| flatten(item, &format!("{path}[{index}]"), None, alias, places))
            .collect(),
        Content::Map(fields) => {
            let mut map = Map::new();
            for (name, span, value) in fields {
                // A key that was refused: its problem is told, and its value means nothing.
                if !name.is_empty() {
                    let value = flatten(value, &join(path, &name), Some(span), alias, places);
                    map.insert(name, value);
                }
            }
            Value::Object(map)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn plain_words_mean_what_they_mean_to_kubectl() {
        for (text, value) in [
            ("off", json!(false)),
            ("Yes", json!(true)),
            ("~", Value::Null),
            ("12", json!(12)),
            ("-3", json!(-3)),
            ("0x1f", json!(31)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000.0)),
            ("128Mi", json!("128Mi")),
            ("-", json!("-")),
            ("1.2.3", json!("1.2.3")),
            (".inf", json!(".inf")),
            ("nodejs", json!("nodejs")),
            ("99999999999999999999", json!(99999999999999999999.0)),
        ] {
            assert_eq!(resolve(text), value, "{text}");
        }
    }
}
