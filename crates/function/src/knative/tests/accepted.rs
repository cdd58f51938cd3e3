//! Numbers and times: all that Knative accepts is a Function that can be run, and what has become another value is named.

use super::*;

const ANNOTATIONS: &str = "spec.template.metadata.annotations";

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

#[test]
fn without_a_limit_there_is_room_for_the_instances_that_are_asked_for() {
    let scale = |annotations: &[(&str, &str)]| of(&with(annotations, json!({})), "scale");
    let said = |name: &str, text: &str| vec![(name.to_owned(), text.to_owned())];
    assert_eq!(scale(&[("min-scale", "20")]), (json!({ "min": 20 }), vec![]));
    let both =
        "this makes 30 the most instances too: without max-scale Knative has no limit, and Hearth one of 20";
    assert_eq!(scale(&[("min-scale", "30")]), (json!({ "min": 30, "max": 30 }), said("min-scale", both)));
    let no_limit = "no limit is not to be had: there are at most 40 instances";
    assert_eq!(
        scale(&[("initial-scale", "40"), ("max-scale", "0")]),
        (json!({ "initial": 40, "max": 40 }), said("max-scale", no_limit))
    );
    let most = "5000 is not to be had: there are at most 1000 instances";
    assert_eq!(scale(&[("max-scale", "5000")]), (json!({ "max": 1000 }), said("max-scale", most)));
    assert_eq!(
        scale(&[("min-scale", "5000")]),
        (json!({ "min": 1000, "max": 1000 }), said("min-scale", most))
    );
    // Knative takes this: a new Revision may have more at first than it has later.
    let initial = "9 is not to be had: there are at most 3 instances";
    assert_eq!(
        scale(&[("initial-scale", "9"), ("max-scale", "3")]),
        (json!({ "initial": 3, "max": 3 }), said("initial-scale", initial))
    );
    // And refuses this.
    let service = with(&[("min-scale", "9"), ("max-scale", "3")], json!({}));
    assert_eq!(refused(&service), [format!("{ANNOTATIONS}[\"autoscaling.knative.dev/min-scale\"]")]);
}

#[test]
fn the_last_instance_stays_for_a_window_and_the_retention_whatever_is_learned() {
    let scale = |annotations: &[(&str, &str)]| of(&with(annotations, json!({})), "scale");
    const RETENTION: &str = "scale-to-zero-pod-retention-period";
    assert_eq!(scale(&[(RETENTION, "5m")]), (json!({ "idleTimeout": "6m", "keepAlive": "fixed" }), vec![]));
    assert_eq!(
        scale(&[(RETENTION, "1h0m0s"), ("window", "30s")]).0,
        json!({ "idleTimeout": "1h30s", "keepAlive": "fixed", "window": "30s" })
    );
    assert_eq!(scale(&[(RETENTION, "0"), ("scale-down-delay", "0s")]), (json!(null), vec![]));
    for (name, time) in [(RETENTION, "2h"), ("window", "5s"), ("window", "0"), ("scale-down-delay", "61m")] {
        let path = format!("{ANNOTATIONS}[\"autoscaling.knative.dev/{name}\"]");
        assert_eq!(refused(&with(&[(name, time)], json!({}))), [path]);
    }
}

#[test]
fn a_target_of_another_metric_is_no_number_of_calls() {
    let hpa = ("class", "hpa.autoscaling.knative.dev");
    for annotations in [
        vec![hpa, ("target", "80")],
        vec![hpa, ("metric", "cpu"), ("target", "80")],
        vec![hpa, ("metric", "memory"), ("target", "2048"), ("target-utilization-percentage", "50")],
        vec![("class", "own.example.com"), ("targetUtilizationPercentage", "50")],
    ] {
        let (concurrency, said) =
            of(&with(&annotations, json!({ "containerConcurrency": 0 })), "concurrency");
        assert_eq!(concurrency, json!({ "limit": 100 }));
        let mut said: Vec<_> = said.iter().map(|(field, _)| field.as_str()).collect();
        let mut names: Vec<_> = annotations.iter().map(|(name, _)| *name).collect();
        said.sort_unstable();
        names.sort_unstable();
        assert_eq!(said, names);
    }
    // What Hearth measures too is a number of it with any class.
    let (concurrency, _) =
        of(&with(&[hpa, ("metric", "concurrency"), ("target", "10")], json!({})), "concurrency");
    assert_eq!(concurrency, json!({ "limit": 20, "target": "35%" }));
}

#[test]
fn a_target_that_is_no_whole_percentage_is_named() {
    let of =
        |target: &str| of(&with(&[("target", target)], json!({ "containerConcurrency": 0 })), "concurrency");
    let said = |text: &str| vec![("target".to_owned(), text.to_owned())];
    let nearest = "1 calls at once for each instance are the nearest to 0.35: 1% of 100";
    assert_eq!(of("0.5"), (json!({ "limit": 100, "target": "1%" }), said(nearest)));
    let most = "5000 is not to be had: an instance takes 1000 calls at once";
    assert_eq!(of("5000"), (json!({ "limit": 1000 }), said(most)));
    // One percent, and not all.
    let one = with(&[("target-utilization-percentage", "1")], json!({}));
    assert_eq!(convert(&one).unwrap().function["spec"]["concurrency"]["target"], json!("1%"));
}

/// An annotation that may be left out.
fn maybe(values: impl Strategy<Value = String>) -> impl Strategy<Value = Option<String>> {
    prop::option::of(values)
}

fn seconds(least: u32, most: u32) -> impl Strategy<Value = Option<String>> {
    maybe((least..=most).prop_map(|seconds| format!("{}m{}s", seconds / 60, seconds % 60)))
}

fn count(least: u32) -> impl Strategy<Value = Option<String>> {
    maybe(
        prop_oneof![4 => least..30, 1 => least..2_000, 1 => Just(i32::MAX.unsigned_abs())]
            .prop_map(|count| count.to_string()),
    )
}

fn target() -> impl Strategy<Value = Option<String>> {
    maybe(prop_oneof![
        (1_u32..100_000).prop_map(|target| target.to_string()),
        (0.01..300.0).prop_map(|target: f64| target.to_string()),
        Just("Inf".to_owned()),
    ])
}

fn one_of(values: &'static [&'static str]) -> impl Strategy<Value = Option<String>> {
    maybe(prop::sample::select(values).prop_map(ToOwned::to_owned))
}

proptest! {
    /// What Knative's own validation lets through.
    #[test]
    fn every_service_that_knative_accepts_is_a_function(
        scales in (count(0), count(0), count(0), count(2)),
        times in (seconds(6, 3600), seconds(0, 3600), seconds(0, 3600)),
        class in one_of(&["kpa.autoscaling.knative.dev", "hpa.autoscaling.knative.dev", "own.example.com"]),
        metric in one_of(&["concurrency", "rps", "cpu", "memory", "http_requests"]),
        target in target(),
        share in maybe((1.0..=100.0).prop_map(|share: f64| share.to_string())),
        limit in prop::option::of(0_u64..2_000),
        bounds in (prop::option::of(0_u64..200_000), prop::option::of(0_u64..200_000), prop::option::of(0_u64..200_000)),
    ) {
        let (min, max, initial, activation) = scales;
        let number = |text: &Option<String>| text.as_ref().map_or(0, |text| text.parse::<u32>().unwrap());
        let most = number(&max);
        prop_assume!(most == 0 || number(&min).max(number(&activation)) <= most);
        let (window, delay, retention) = times;
        let given = [
            ("min-scale", min), ("max-scale", max), ("initial-scale", initial), ("activation-scale", activation),
            ("window", window), ("scale-down-delay", delay), ("scale-to-zero-pod-retention-period", retention),
            ("class", class), ("metric", metric), ("target", target), ("target-utilization-percentage", share),
        ];
        let given: Vec<_> = given.iter().filter_map(|(name, value)| Some((*name, value.as_deref()?))).collect();
        let (whole, head, idle) = bounds;
        let service = with(&given, json!({
            "containerConcurrency": limit, "timeoutSeconds": whole,
            "responseStartTimeoutSeconds": head, "idleTimeoutSeconds": idle,
        }));
        let conversion = convert(&service);
        prop_assert!(conversion.is_ok(), "{given:?}: {conversion:?}");
        let function = conversion.unwrap().function;
        let read = from_value(&function, Side::Client);
        prop_assert!(read.is_ok(), "{given:?}: {function} {read:?}");
    }

    /// What does not fit together or is no number or time is refused by the name that it was written under.
    #[test]
    fn whatever_an_annotation_says_a_refusal_names_one(
        name in prop::sample::select(&[
            "min-scale", "max-scale", "initial-scale", "activation-scale", "window", "scale-down-delay",
            "scale-to-zero-pod-retention-period", "class", "metric", "target", "target-utilization-percentage",
        ][..]),
        value in prop_oneof!["-?[0-9]{1,12}", "[0-9]{1,6}(ms|s|m|h|d|us)", "[0-9]{1,3}\\.[0-9]{1,3}m?", "[a-zA-Z%]{0,6}", "NaN|Inf|-0|1e9"],
        max in count(1),
    ) {
        let mut given = vec![(name, value.as_str())];
        if let Some(max) = max.as_deref().filter(|_| name != "max-scale") {
            given.push(("max-scale", max));
        }
        match convert(&with(&given, json!({}))) {
            Ok(conversion) => {
                let read = from_value(&conversion.function, Side::Client);
                prop_assert!(read.is_ok(), "{given:?}: {read:?}");
            }
            Err(problems) => {
                let annotation = format!("{ANNOTATIONS}[\"autoscaling.knative.dev/{name}\"]");
                prop_assert!(problems.iter().all(|problem| problem.path == annotation), "{given:?}: {problems:?}");
            }
        }
    }
}
