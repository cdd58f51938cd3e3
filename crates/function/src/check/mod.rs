//! Turns a JSON object into a [`Function`], and names everything that is wrong with it at once: unknown fields with the name that was
//! probably meant, values of the wrong kind, what is missing, and then what [`validate`](crate::validate()) finds in the rest.
//!
//! A misspelt field whose name is clear is read as if it were spelt right, so that one mistake is one problem.

mod fix;
mod renamed;
pub(crate) mod suggest;
mod walk;

pub(crate) use walk::join;

use serde_json::Value;

use crate::problem::Problem;
use crate::schema;
use crate::spec::Function;
use crate::validate::{Side, validate};
use walk::Walker;

/// Problems that are told of one object; whoever has more has another file in hand than he thinks.
const MOST_PROBLEMS: usize = 100;

/// Reads a Function from a JSON object and validates it. A `status` is passed over: it is not declared but observed.
///
/// # Errors
/// Everything that is wrong with it, without positions; the first hundred when there is more.
pub fn from_value(value: &Value, side: Side) -> Result<Function, Vec<Problem>> {
    from_value_with(value, side, &mut |_| Vec::new())
}

/// The same, and `beyond` looks at what was read too, for what only its caller can know: what it finds is told together with the rest. It
/// is given the Function also when some of it could not be read; what follows from that alone is left out.
pub(crate) fn from_value_with(
    value: &Value,
    side: Side,
    beyond: &mut dyn FnMut(&Function) -> Vec<Problem>,
) -> Result<Function, Vec<Problem>> {
    let mut walker = Walker::default();
    if let Some(problem) = another_kind(value) {
        return Err(vec![problem]);
    }
    let understood = walker.walk(&schema::FUNCTION, value, "");
    let Walker { mut problems, unread, reported, renamed } = walker;
    let read = match understood.map(serde_json::from_value::<Function>) {
        Some(Ok(function)) => {
            // What hangs on something already reported is no news. Rules know fields by their right names alone.
            let known = reported.into_iter().chain(unread).map(|path| renamed.right(&path));
            let known: Vec<String> = known.collect();
            let news = |found: &Problem| {
                let about = std::iter::once(found.path.as_str()).chain(found.follows_from.iter().copied());
                !about.into_iter().any(|about| known.iter().any(|known| concerns(known, about)))
            };
            let mut found = validate(&function, side);
            found.extend(beyond(&function));
            let found = found.into_iter().filter(news);
            problems.extend(found.map(|found| Problem { path: renamed.written(&found.path), ..found }));
            Some(function)
        }
        Some(Err(error)) => {
            // The walker knows every rule of the types but those of metadata's rarer fields.
            if problems.is_empty() {
                problems.push(Problem::new("", error.to_string(), None));
            }
            None
        }
        None => None,
    };
    if let Some(more) = problems.len().checked_sub(MOST_PROBLEMS + 1) {
        problems.truncate(MOST_PROBLEMS);
        problems.push(Problem::new("", format!("and {} problems more", more + 1), None));
    }
    match read {
        Some(function) if problems.is_empty() => Ok(function),
        _ => Err(problems),
    }
}

/// Whether a problem at `found` may only follow from the one at `known`: it is about a part of it, or about the field that `known` is
/// a part of and that was therefore read without it.
fn concerns(known: &str, found: &str) -> bool {
    let below = |outer: &str, inner: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    below(known, found) || (!matches!(found, "" | "spec" | "metadata") && below(found, known))
}

/// An object that is no Function at all gets one answer, and not a list of unknown fields.
fn another_kind(value: &Value) -> Option<Problem> {
    let kind = value.get("kind").and_then(Value::as_str)?;
    if kind == "Function" || suggest::nearest(kind, ["Function"]).is_some() {
        return None;
    }
    let fix = match kind {
        "Revision" => "Revisions are made by Hearth when a Function changes; declare the Function",
        "List" => "a list is of `apiVersion: v1` and has its objects in `items`",
        _ => "Hearth takes objects of kind `Function`",
    };
    Some(Problem::new("kind", format!("`{kind}` is not a kind that can be declared"), Some(fix.to_owned())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(value: &Value) -> Vec<String> {
        from_value(value, Side::Client).err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    fn hello() -> Value {
        json!({
            "apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": { "name": "hello" },
            "spec": { "runtime": "nodejs", "source": { "path": "." }, "handler": "index.handler" },
        })
    }

    #[test]
    fn a_whole_object_becomes_a_function() {
        let function = from_value(&hello(), Side::Client).unwrap();
        assert_eq!(function.spec.timeouts.queue.to_string(), "30s");
        let text = serde_json::to_value(&function).unwrap();
        assert_eq!(from_value(&text, Side::Client).unwrap(), function);
    }

    #[test]
    fn null_is_as_good_as_nothing() {
        let mut value = hello();
        value["spec"]["timeouts"] = Value::Null;
        value["spec"]["env"] = Value::Null;
        value["metadata"]["creationTimestamp"] = Value::Null;
        assert_eq!(problems(&value), Vec::<String>::new());
        value["spec"]["runtime"] = Value::Null;
        assert_eq!(
            problems(&value),
            ["spec: `runtime` is missing; say what runs the code, as in `runtime: nodejs`"]
        );
    }

    #[test]
    fn a_status_is_passed_over() {
        let mut value = hello();
        value["status"] = json!({ "of": "another version" });
        assert_eq!(
            from_value(&value, Side::Server).err().map(|problems| problems.len()),
            Some(1),
            "the path"
        );
        assert_eq!(from_value(&value, Side::Client).unwrap().status, None);
    }

    #[test]
    fn what_needs_a_cluster_is_refused_by_a_server_of_its_own() {
        let mut value = hello();
        value["spec"]["source"] = json!({ "inline": { "index.js": "" } });
        // Pods are told of these; elsewhere they have no effect.
        value["spec"]["kubernetes"] = json!({ "serviceAccount": "robot" });
        assert_eq!(from_value(&value, Side::Server).err(), None);
        value["spec"]["env"] =
            json!([{ "name": "S", "valueFrom": { "secretKeyRef": { "name": "s", "key": "k" } } }]);
        let refused = from_value(&value, Side::Server).unwrap_err();
        let refused: Vec<_> = refused.iter().map(ToString::to_string).collect();
        assert_eq!(
            refused,
            [
                "spec.env[0].valueFrom: Secrets and ConfigMaps are Kubernetes' own: this server has none; use `value`, or run the function in a cluster"
            ]
        );
        for side in [Side::Client, Side::Cluster] {
            assert_eq!(from_value(&value, side).err(), None, "{side:?}");
        }
        value["spec"]["source"] = json!({ "path": "." });
        assert!(from_value(&value, Side::Cluster).is_err(), "a controller reads no directories of clients");
    }

    #[test]
    fn problems_without_end_are_cut() {
        let mut value = hello();
        value["spec"]["env"] = (0..1000).map(|_| json!({ "name": "1" })).collect();
        let said = problems(&value);
        assert_eq!((said.len(), said.last().map(String::as_str)), (101, Some("and 1899 problems more")));
    }

    #[test]
    fn a_misspelt_field_is_one_problem() {
        let mut value = hello();
        let handler = value["spec"].as_object_mut().unwrap().remove("handler").unwrap();
        value["spec"]["hander"] = handler;
        assert_eq!(problems(&value), ["spec.hander: unknown field `hander`; did you mean `handler`?"]);
    }

    #[test]
    fn one_field_that_cannot_be_read_hides_none_of_the_others() {
        let mut value = hello();
        value["metadata"]["name"] = json!(3);
        value["spec"]["runtime"] = json!(["nodejs"]);
        value["spec"]["scale"] = json!({ "min": 5, "max": 2 });
        value["spec"]["triggers"] = json!([{ "http": { "path": "no-slash" } }]);
        let said = problems(&value);
        let paths: Vec<&str> = said.iter().filter_map(|text| text.split(": ").next()).collect();
        let expected = ["metadata.name", "spec.runtime", "spec.scale.min", "spec.triggers[0].http.path"];
        for path in expected {
            assert!(paths.contains(&path), "{path} is not among {said:#?}");
        }
        assert_eq!(said.len(), expected.len(), "and nothing follows from them: {said:#?}");
        // The same of what is missing.
        value["spec"].as_object_mut().unwrap().remove("runtime");
        value["spec"].as_object_mut().unwrap().remove("source");
        assert_eq!(problems(&value).len(), 5, "{:#?}", problems(&value));
    }

    #[test]
    fn another_kind_of_object_is_named() {
        let value = json!({ "apiVersion": "v1", "kind": "Service", "metadata": {}, "spec": { "ports": [] } });
        assert_eq!(
            problems(&value),
            ["kind: `Service` is not a kind that can be declared; Hearth takes objects of kind `Function`"]
        );
    }

    #[test]
    fn an_object_that_is_none_is_refused() {
        assert_eq!(
            problems(&json!(3)),
            [
                "here stands a number, where an object is wanted; a manifest begins with `apiVersion: hearth.dev/v1` and `kind: Function`: see `hearth explain function`"
            ]
        );
        assert_eq!(problems(&json!({})).len(), 4, "{:?}", problems(&json!({})));
    }
}
