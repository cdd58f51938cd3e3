//! Numbers and times: all that Knative accepts is a Function that can be run, and what has become another value is named.

use super::*;

/// A Service with these annotations of the autoscaler, and these fields of its Revisions.
fn with(annotations: &[(&str, &str)], pod: Value) -> Value {
    let mut service = service();
    let named = annotations
        .iter()
        .map(|(name, value)| (format!("autoscaling.knative.dev/{name}"), json!(value)))
        .collect::<serde_json::Map<_, _>>();
    service["spec"]["template"]["metadata"]["annotations"] = Value::Object(named);
    let Value::Object(pod) = pod else { panic!("fields are an object") };
    service["spec"]["template"]["spec"].as_object_mut().unwrap().extend(pod);
    service
}

/// What becomes of one of its fields, and the warnings: the last part of the path, and the text.
fn of(service: &Value, field: &str) -> (Value, Vec<(String, String)>) {
    let conversion = convert(service).unwrap();
    from_value(&conversion.function, Side::Client).unwrap();
    let last = |path: &str| path.rsplit(['.', '/']).next().unwrap().trim_end_matches("\"]").to_owned();
    let said =
        conversion.warnings.into_iter().map(|warning| (last(&warning.path), warning.message)).collect();
    (conversion.function["spec"][field].clone(), said)
}

#[test]
fn an_answer_that_stands_still_is_bounded_only_if_the_service_says_so() {
    for (pod, idle) in [
        (json!({}), "0s"),
        (json!({ "idleTimeoutSeconds": 0 }), "0s"),
        (json!({ "idleTimeoutSeconds": 30 }), "30s"),
    ] {
        assert_eq!(
            of(&with(&[], pod), "timeouts"),
            (json!({ "execute": "300s", "idleStream": idle }), vec![])
        );
    }
}

#[test]
fn a_call_may_run_for_the_smaller_of_both_times_until_its_head_is_there() {
    for (whole, head, execute, warned) in [
        (json!(null), json!(null), "300s", false),
        (json!(0), json!(0), "300s", false),
        (json!(300), json!(20), "20s", false),
        (json!(60), json!(null), "60s", true),
        (json!(600), json!(300), "300s", true),
        (json!(10), json!(60), "10s", true),
    ] {
        let pod = json!({ "timeoutSeconds": whole, "responseStartTimeoutSeconds": head });
        let (timeouts, said) = of(&with(&[], pod), "timeouts");
        assert_eq!(timeouts["execute"], json!(execute), "{whole} {head}");
        let said: Vec<_> = said.iter().map(|(field, _)| field.as_str()).collect();
        assert_eq!(said, if warned { vec!["timeoutSeconds"] } else { vec![] }, "{whole} {head}");
    }
    let (timeouts, said) = of(
        &with(&[], json!({ "responseStartTimeoutSeconds": 90_000, "timeoutSeconds": 90_000 })),
        "timeouts",
    );
    assert_eq!(timeouts["execute"], json!("86400s"));
    assert!(said.contains(&(
        "timeoutSeconds".to_owned(),
        "90000 is not to be had: 86400 seconds at most".to_owned()
    )));
}
