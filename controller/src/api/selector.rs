//! Label and field selectors: which objects a list or a watch wants.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use hearth_function::{is_label_value, is_qualified};
use kube::Resource;
use kube::core::{Expression, SelectorExt};
use serde_json::Value;

use super::failure::Failure;

/// Which objects are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Expression>,
    namespace: Option<String>,
}

/// What the labels must be like.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Requirement {
    Term(Expression),
    /// The label of this key is a number, and so it compares to this one.
    Compared(String, Ordering, i64),
}

impl Requirement {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        match self {
            Self::Term(term) => term.matches(labels),
            Self::Compared(key, ordering, number) => labels
                .get(key)
                .and_then(|value| value.parse::<i64>().ok())
                .is_some_and(|value| value.cmp(number) == *ordering),
        }
    }
}

/// The fields that every object can be selected by.
const FIELDS: [&str; 2] = ["metadata.name", "metadata.namespace"];

impl Selector {
    /// The selectors of a request; only objects of `namespace` when there is one. Fields are name, namespace and those of `more`.
    ///
    /// # Errors
    /// For what is no selector, keys and values that no label has, other fields, and forms that fields do not have (anything but =, == and
    /// !=).
    pub(super) fn parse(
        namespace: Option<&str>,
        labels: &str,
        fields: &str,
        more: &[String],
    ) -> Result<Self, Failure> {
        let labels = parts(labels).map(requirement).collect::<Result<_, _>>()?;
        let fields = parts(fields).map(term).collect::<Result<Vec<_>, _>>()?;
        for term in &fields {
            let key = key(term);
            if !FIELDS.contains(&key) && !more.iter().any(|field| field == key) {
                let known: Vec<&str> = FIELDS.into_iter().chain(more.iter().map(String::as_str)).collect();
                return Err(Failure::bad_request(&format!(
                    "field label not supported: {key}; there are {}",
                    known.join(", ")
                )));
            }
            if !matches!(term, Expression::Equal(..) | Expression::NotEqual(..)) {
                return Err(Failure::bad_request(&format!(
                    "field selector {term}: only =, == and != are served"
                )));
            }
        }
        Ok(Self { labels, fields, namespace: namespace.map(str::to_owned) })
    }

    /// Whether name and namespace match.
    fn concerns<K: Resource>(&self, object: &K) -> bool {
        let meta = object.meta();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && self.fields.iter().filter(|term| FIELDS.contains(&key(term))).all(|term| {
                let name = meta.name.as_deref().unwrap_or_default();
                holds(term, if key(term) == "metadata.name" { name } else { namespace })
            })
    }

    /// Whether the object is wanted as it is.
    pub(super) fn matches<K: Resource + serde::Serialize>(&self, object: &K) -> bool {
        if !self.concerns(object) || !self.matches_labels(object.meta().labels.as_ref()) {
            return false;
        }
        let mut others = self.fields.iter().filter(|term| !FIELDS.contains(&key(term))).peekable();
        if others.peek().is_none() {
            return true;
        }
        let object = serde_json::to_value(object).unwrap_or_default();
        others.all(|term| holds(term, field(&object, key(term))))
    }

    /// The same for an object in its JSON form.
    pub(super) fn matches_json(&self, object: &Value) -> bool {
        let labels = serde_json::from_value(object["metadata"]["labels"].clone()).unwrap_or_default();
        let namespace = field(object, "metadata.namespace");
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && self.matches_labels(Some(&labels))
            && self.fields.iter().all(|term| holds(term, field(object, key(term))))
    }

    fn matches_labels(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let none = BTreeMap::new();
        self.labels.iter().all(|requirement| requirement.matches(labels.unwrap_or(&none)))
    }
}

/// The text at a dotted path; empty when there is none.
fn field<'a>(object: &'a Value, path: &str) -> &'a str {
    path.split('.')
        .try_fold(object, |value, name| value.get(name))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn holds(term: &Expression, value: &str) -> bool {
    term.matches(&BTreeMap::from([(key(term).to_owned(), value.to_owned())]))
}

fn key(term: &Expression) -> &str {
    match term {
        Expression::In(key, _)
        | Expression::NotIn(key, _)
        | Expression::Equal(key, _)
        | Expression::NotEqual(key, _)
        | Expression::Exists(key)
        | Expression::DoesNotExist(key) => key,
    }
}

/// Terms are separated by commas, and so are the values in parentheses.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    let parts = text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}

/// A term about labels, which are of a form that fields are not, and can be compared as numbers. A key that no label can have would match
/// nothing, and nobody would be told why.
fn requirement(part: &str) -> Result<Requirement, Failure> {
    let wrong = |why: &str| Failure::bad_request(&format!("unable to parse requirement {part:?}: {why}"));
    let compared = [('>', Ordering::Greater), ('<', Ordering::Less)]
        .into_iter()
        .find_map(|(sign, ordering)| part.split_once(sign).map(|(key, number)| (key, ordering, number)));
    let requirement = match compared {
        Some((key, ordering, number)) => {
            let number = number.trim().parse();
            let number = number.map_err(|_| wrong("what > and < compare to must be an integer"))?;
            Requirement::Compared(key.trim().to_owned(), ordering, number)
        }
        None => Requirement::Term(term(part)?),
    };
    let key = match &requirement {
        Requirement::Term(term) => key(term),
        Requirement::Compared(key, ..) => key,
    };
    if !is_qualified(key) {
        return Err(wrong(&format!(
            "the key {key:?} must be at most 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends, after a DNS name and '/' if it has one"
        )));
    }
    if let Requirement::Term(term) = &requirement
        && let Some(value) = values(term).into_iter().find(|value| !is_label_value(value))
    {
        return Err(wrong(&format!(
            "the value {value:?} must be empty or at most 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends"
        )));
    }
    Ok(requirement)
}

fn values(term: &Expression) -> Vec<&str> {
    match term {
        Expression::In(_, values) | Expression::NotIn(_, values) => {
            values.iter().map(String::as_str).collect()
        }
        Expression::Equal(_, value) | Expression::NotEqual(_, value) => vec![value],
        Expression::Exists(_) | Expression::DoesNotExist(_) => Vec::new(),
    }
}

fn term(part: &str) -> Result<Expression, Failure> {
    let wrong = || {
        let message = format!(
            "selector {part:?} is not understood: write key=value, key!=value, key in (a,b), key notin (a,b), key or !key"
        );
        Failure::bad_request(&message)
    };
    let pair = |(key, value): (&str, &str)| (key.trim().to_owned(), value.trim().to_owned());
    let term = if let Some((head, values)) = part.split_once('(') {
        let values = values.strip_suffix(')').ok_or_else(wrong)?;
        if values.trim().is_empty() {
            return Err(wrong());
        }
        let values: BTreeSet<String> = values.split(',').map(|value| value.trim().to_owned()).collect();
        let mut words = head.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some(key), Some("in"), None) => Expression::In(key.to_owned(), values),
            (Some(key), Some("notin"), None) => Expression::NotIn(key.to_owned(), values),
            _ => return Err(wrong()),
        }
    } else if let Some((key, value)) = part.split_once("!=").map(pair) {
        Expression::NotEqual(key, value)
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')).map(pair) {
        Expression::Equal(key, value)
    } else if let Some(key) = part.strip_prefix('!') {
        Expression::DoesNotExist(key.trim().to_owned())
    } else {
        Expression::Exists(part.to_owned())
    };
    let key = key(&term);
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || "()=!".contains(c)) {
        return Err(wrong());
    }
    Ok(term)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    fn object() -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": "a", "namespace": "n", "labels": { "tier": "web", "x": "", "example.com/n": "10" } },
            "spec": { "containers": [], "nodeName": "here" },
        }))
        .unwrap()
    }

    #[test]
    fn selectors_select() {
        let more = ["spec.nodeName".to_owned()];
        let matches = |labels: &str, fields: &str| {
            let selector = Selector::parse(Some("n"), labels, fields, &more).unwrap();
            let object = object();
            let found = selector.matches(&object);
            assert_eq!(selector.matches_json(&serde_json::to_value(&object).unwrap()), found);
            found
        };
        for yes in [
            "",
            "tier=web",
            "tier==web,x",
            "tier!=db",
            "!absent",
            "absent!=x",
            "x=",
            "tier in (db, web)",
            "tier notin (db,cache),x",
            "absent notin (a)",
            "example.com/n>9",
            "example.com/n > 9, example.com/n < 11",
        ] {
            assert!(matches(yes, ""), "{yes}");
        }
        for no in [
            "tier=db",
            "absent",
            "!tier",
            "tier=web,absent=1",
            "tier!=web",
            "absent in (a,b)",
            "example.com/n>10",
            "example.com/n<10",
            "absent>1",
            "tier>1",
        ] {
            assert!(!matches(no, ""), "{no}");
        }
        assert!(matches("", "metadata.name=a,metadata.namespace!=other,spec.nodeName=here"));
        assert!(!matches("", "metadata.name=b"));
        assert!(!matches("", "spec.nodeName!=here"));
        assert!(!Selector::parse(Some("other"), "", "", &[]).unwrap().matches(&object()));
    }

    #[test]
    fn what_is_not_served_is_refused() {
        for (labels, fields) in [
            ("tier in (a", ""),
            ("tier of (a)", ""),
            ("a b", ""),
            ("=x", ""),
            ("tier in ()", ""),
            ("tier>web", ""),
            ("tier>=1", ""),
            ("-tier", ""),
            ("a/b/c", ""),
            ("tier=a b", ""),
            ("tier in (web, -)", ""),
            ("", "status.phase=x"),
            ("", "metadata.name"),
            ("", "metadata.name in (a)"),
        ] {
            let refused = Selector::parse(None, labels, fields, &[]).unwrap_err();
            assert_eq!(refused.code().as_u16(), 400, "{labels}{fields}");
        }
        let refused = Selector::parse(None, "tier=web, team=a b", "", &[]).unwrap_err();
        assert!(refused.message().contains(r#""team=a b": the value "a b""#), "{}", refused.message());
        assert!(Selector::parse(None, "", "metadata.name=no label", &[]).is_ok());
    }
}
