//! Label and field selectors: which objects a list or a watch wants.

use kube::Resource;

use super::failure::Failure;

/// One condition.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Term {
    Is(String, String),
    IsNot(String, String),
    Exists(String),
    Absent(String),
}

/// Which objects are wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Selector {
    labels: Vec<Term>,
    fields: Vec<Term>,
    namespace: Option<String>,
}

/// The fields that can be selected by, as for any custom resource.
const FIELDS: [&str; 2] = ["metadata.name", "metadata.namespace"];

impl Selector {
    /// The selectors of a request; only objects of `namespace` when there is one.
    ///
    /// # Errors
    /// For forms that are not served (`in (…)`) and fields other than name and namespace.
    pub(super) fn parse(namespace: Option<&str>, labels: &str, fields: &str) -> Result<Self, Failure> {
        let labels = terms(labels)?;
        let fields = terms(fields)?;
        for term in &fields {
            let (Term::Is(key, _) | Term::IsNot(key, _) | Term::Exists(key) | Term::Absent(key)) = term;
            if !FIELDS.contains(&key.as_str()) || matches!(term, Term::Exists(_) | Term::Absent(_)) {
                return Err(Failure::bad_request(&format!(
                    "field label not supported: {key}; only metadata.name and metadata.namespace, with = or !="
                )));
            }
        }
        Ok(Self { labels, fields, namespace: namespace.map(str::to_owned) })
    }

    /// Whether an object can begin or cease to match while it lives.
    pub(super) fn can_change(&self) -> bool {
        !self.labels.is_empty()
    }

    /// Whether name and namespace match, which never change.
    pub(super) fn concerns<K: Resource>(&self, object: &K) -> bool {
        let meta = object.meta();
        let namespace = meta.namespace.as_deref().unwrap_or_default();
        self.namespace.as_deref().is_none_or(|wanted| wanted == namespace)
            && self.fields.iter().all(|term| {
                term.holds(|key| {
                    Some(if key == "metadata.name" {
                        meta.name.as_deref().unwrap_or_default()
                    } else {
                        namespace
                    })
                })
            })
    }

    /// Whether the object is wanted as it is.
    pub(super) fn matches<K: Resource>(&self, object: &K) -> bool {
        let labels = object.meta().labels.as_ref();
        self.concerns(object)
            && self
                .labels
                .iter()
                .all(|term| term.holds(|key| labels.and_then(|labels| labels.get(key)).map(String::as_str)))
    }
}

impl Term {
    fn holds<'a>(&self, value: impl Fn(&str) -> Option<&'a str>) -> bool {
        match self {
            Self::Is(key, wanted) => value(key) == Some(wanted),
            Self::IsNot(key, unwanted) => value(key) != Some(unwanted),
            Self::Exists(key) => value(key).is_some(),
            Self::Absent(key) => value(key).is_none(),
        }
    }
}

fn terms(text: &str) -> Result<Vec<Term>, Failure> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts.map(term).collect()
}

fn term(part: &str) -> Result<Term, Failure> {
    let pair = |(key, value): (&str, &str)| (key.trim().to_owned(), value.trim().to_owned());
    if part.contains(['(', ')', ' ']) {
        return Err(Failure::bad_request(&format!(
            "selector {part:?}: only =, ==, != and the existence of a key are served"
        )));
    }
    Ok(if let Some((key, value)) = part.split_once("!=").map(pair) {
        Term::IsNot(key, value)
    } else if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')).map(pair) {
        Term::Is(key, value)
    } else if let Some(key) = part.strip_prefix('!') {
        Term::Absent(key.to_owned())
    } else {
        Term::Exists(part.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use serde_json::json;

    #[test]
    fn selectors_select() {
        let object: ConfigMap = serde_json::from_value(
            json!({ "metadata": { "name": "a", "namespace": "n", "labels": { "tier": "web", "x": "" } } }),
        )
        .unwrap();
        let matches =
            |labels: &str, fields: &str| Selector::parse(Some("n"), labels, fields).unwrap().matches(&object);
        for yes in ["", "tier=web", "tier==web,x", "tier!=db", "!absent", "absent!=x", "x="] {
            assert!(matches(yes, ""), "{yes}");
        }
        for no in ["tier=db", "absent", "!tier", "tier=web,absent=1", "tier!=web"] {
            assert!(!matches(no, ""), "{no}");
        }
        assert!(matches("", "metadata.name=a,metadata.namespace!=other"));
        assert!(!matches("", "metadata.name=b"));
        assert!(!Selector::parse(Some("other"), "", "").unwrap().matches(&object));
    }

    #[test]
    fn what_is_not_served_is_refused() {
        for (labels, fields) in [("tier in (a, b)", ""), ("", "status.phase=x"), ("", "metadata.name")] {
            assert_eq!(
                Selector::parse(None, labels, fields).unwrap_err().code().as_u16(),
                400,
                "{labels}{fields}"
            );
        }
    }
}
