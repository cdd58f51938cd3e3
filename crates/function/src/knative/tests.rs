use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::{Side, from_value};

mod accepted;
mod real;

/// As `kn service create` and Knative's webhook write it.
fn service() -> Value {
    json!({
        "apiVersion": "serving.knative.dev/v1",
        "kind": "Service",
        "metadata": {
            "name": "hello", "namespace": "demo", "labels": { "team": "a" },
            "annotations": { "serving.knative.dev/creator": "kubernetes-admin" },
        },
        "spec": {
            "template": {
                "metadata": { "annotations": {
                    "client.knative.dev/user-image": "registry.example.com/hello",
                    "autoscaling.knative.dev/min-scale": "1",
                    "autoscaling.knative.dev/maxScale": "5",
                    "autoscaling.knative.dev/window": "1m0s",
                    "autoscaling.knative.dev/activation-scale": "2",
                    "autoscaling.knative.dev/scaleDownDelay": "15m",
                    "autoscaling.knative.dev/target-utilization-percentage": "0.8",
                } },
                "spec": {
                    "containerConcurrency": 20,
                    "timeoutSeconds": 300,
                    "enableServiceLinks": false,
                    "containers": [{
                        "name": "user-container",
                        "image": "registry.example.com/hello@sha256:aa",
                        "command": ["/app"], "args": ["--fast"],
                        "env": [{ "name": "TARGET", "value": "World" }],
                        "resources": { "limits": { "memory": "256Mi", "cpu": "500m" }, "requests": { "memory": "256Mi" } },
                        "readinessProbe": { "successThreshold": 1, "tcpSocket": { "port": 0 } },
                    }],
                },
            },
            "traffic": [{ "latestRevision": true, "percent": 100 }],
        },
    })
}

/// The paths of the warnings.
fn warned(service: &Value) -> Vec<String> {
    convert(service).unwrap().warnings.into_iter().map(|warning| warning.path).collect()
}

fn refused(service: &Value) -> Vec<String> {
    convert(service).unwrap_err().into_iter().map(|problem| problem.path).collect()
}

#[test]
fn a_service_is_a_function_with_its_image() {
    let conversion = convert(&service()).unwrap();
    assert_eq!(conversion.warnings, []);
    let trigger = |host: &str| json!({ "http": { "path": "/", "pathType": "Prefix", "host": host } });
    assert_eq!(
        conversion.function,
        json!({
            "apiVersion": "hearth.dev/v1",
            "kind": "Function",
            "metadata": { "name": "hello", "namespace": "demo", "labels": { "team": "a" } },
            "spec": {
                "runtime": "http",
                "source": { "image": "registry.example.com/hello@sha256:aa" },
                "command": ["/app", "--fast"],
                "env": [{ "name": "TARGET", "value": "World" }],
                "resources": { "memory": "256Mi", "cpu": "500m" },
                "timeouts": { "execute": "300s", "idleStream": "0s" },
                "concurrency": { "limit": 20, "target": "80%" },
                "scale": { "min": 1, "max": 5, "activation": 2, "window": "60s", "scaleDownDelay": "15m" },
                "triggers": [trigger("hello.demo.localhost"), trigger("hello.demo.svc.cluster.local")],
            },
        })
    );
}

#[test]
fn what_pods_are_told_is_told_to_ours() {
    let mut service = service();
    let pod = &mut service["spec"]["template"]["spec"];
    pod["serviceAccountName"] = json!("robot");
    pod["imagePullSecrets"] = json!([{ "name": "registry" }]);
    pod["nodeSelector"] = json!({ "topology.kubernetes.io/zone": "a" });
    let toleration = json!({ "key": "example.com/gpu", "operator": "Exists", "effect": "NoSchedule" });
    pod["tolerations"] = json!([toleration]);
    let conversion = convert(&service).unwrap();
    assert_eq!(conversion.warnings, []);
    assert_eq!(
        conversion.function["spec"]["kubernetes"],
        json!({
            "serviceAccount": "robot",
            "imagePullSecrets": [{ "name": "registry" }],
            "nodeSelector": { "topology.kubernetes.io/zone": "a" },
            "tolerations": [toleration],
        })
    );
    from_value(&conversion.function, Side::Client).unwrap();
    let pod = &mut service["spec"]["template"]["spec"];
    (pod["tolerations"], pod["nodeSelector"], pod["imagePullSecrets"]) = (json!([]), json!({}), json!(null));
    pod["serviceAccountName"] = json!("");
    assert_eq!(convert(&service).unwrap().function["spec"].get("kubernetes"), None);
}

#[test]
fn hosts_are_those_of_the_namespace_that_it_is_applied_to() {
    let mut service = service();
    service["metadata"].as_object_mut().unwrap().remove("namespace");
    let mut function = from_value(&convert(&service).unwrap().function, Side::Client).unwrap();
    function.metadata.namespace = Some("team".to_owned());
    name_hosts(&mut function);
    let triggers = serde_json::to_value(&function.spec.triggers).unwrap();
    let hosts: Vec<_> = triggers.as_array().unwrap().iter().map(|one| one["http"]["host"].clone()).collect();
    assert_eq!(hosts, ["hello.team.localhost", "hello.team.svc.cluster.local"]);
}

#[test]
fn older_versions_are_read_where_they_have_their_fields() {
    for template in [
        json!({ "runLatest": { "configuration": { "revisionTemplate": { "spec": { "container": { "image": "a" } } } } } }),
        json!({ "template": { "spec": { "container": { "image": "a" } } } }),
        json!({ "template": { "spec": { "containers": [{ "image": "a" }] } } }),
    ] {
        let service = json!({
            "apiVersion": "serving.knative.dev/v1alpha1", "kind": "Service", "metadata": { "name": "old" }, "spec": template,
        });
        let conversion = convert(&service).unwrap();
        assert_eq!(conversion.function["spec"]["source"], json!({ "image": "a" }));
        assert_eq!(conversion.warnings, []);
    }
    let mut service = service();
    service["apiVersion"] = json!("serving.knative.dev/v1alpha1");
    service["spec"] = json!({ "release": { "revisions": ["a"] } });
    assert_eq!(refused(&service), ["spec.release"]);
    service["spec"] = json!({});
    assert_eq!(refused(&service), ["spec.template.spec.containers"]);
    service["apiVersion"] = json!("serving.knative.dev/v2");
    assert_eq!(refused(&service), ["apiVersion"]);
}

#[test]
fn without_a_limit_there_is_room_above_the_target() {
    let mut service = service();
    let of = |service: &Value| convert(service).unwrap().function["spec"]["concurrency"].clone();
    service["spec"]["template"]["spec"]["containerConcurrency"] = json!(0);
    service["spec"]["template"]["metadata"]["annotations"] = json!({});
    assert_eq!(of(&service), json!({ "limit": 100 }));
    service["spec"]["template"]["metadata"]["annotations"] =
        json!({ "autoscaling.knative.dev/target": "10" });
    assert_eq!(of(&service), json!({ "limit": 100, "target": "7%" }));
    service["spec"]["template"]["metadata"]["annotations"] =
        json!({ "autoscaling.knative.dev/target": "200" });
    assert_eq!(of(&service), json!({ "limit": 200 }));
}

#[test]
fn a_limit_that_no_function_can_have_becomes_the_largest_and_is_named() {
    let of = |limit: u64| {
        let mut service = service();
        service["spec"]["template"]["spec"]["containerConcurrency"] = json!(limit);
        let conversion = convert(&service).unwrap();
        let said: Vec<String> = conversion.warnings.into_iter().map(|warning| warning.path).collect();
        (conversion.function["spec"]["concurrency"]["limit"].clone(), said)
    };
    assert_eq!(of(1000), (json!(1000), vec![]));
    assert_eq!(of(1001), (json!(1000), vec!["spec.template.spec.containerConcurrency".to_owned()]));
}

#[test]
fn requests_per_second_are_a_share_of_what_an_instance_takes() {
    let of = |target: &str, utilisation: Option<&str>| {
        let mut service = service();
        let mut annotations = json!({ "autoscaling.knative.dev/metric": "rps" });
        if !target.is_empty() {
            annotations["autoscaling.knative.dev/target"] = json!(target);
        }
        if let Some(utilisation) = utilisation {
            annotations["autoscaling.knative.dev/target-utilization-percentage"] = json!(utilisation);
        }
        service["spec"]["template"]["metadata"]["annotations"] = annotations;
        let conversion = convert(&service).unwrap();
        assert_eq!(conversion.function["spec"]["scale"], json!({ "metric": "rps" }));
        // The limit of calls at once is the Service's, whatever the requests per second.
        assert_eq!(conversion.function["spec"]["concurrency"]["limit"], json!(20));
        let target = conversion.function["spec"]["concurrency"].get("target").cloned();
        let said: Vec<String> = conversion.warnings.into_iter().map(|warning| warning.message).collect();
        (target, said.join("\n"))
    };
    let kept = |target: &str| (Some(json!(target)), String::new());
    assert_eq!(of("50", None), kept("25%"));
    assert_eq!(of("50", Some("80")), kept("20%"));
    assert_eq!(of("200", None), kept("100%"));
    assert_eq!(of("140", None), (None, String::new()));
    assert_eq!(of("", None), (None, String::new()));
    assert_eq!(of("", Some("50")), kept("50%"));
    assert_eq!(
        of("25", None),
        (
            Some(json!("13%")),
            "26 requests a second for each instance are the nearest to 25: 13% of 200".to_owned()
        )
    );
    assert_eq!(of("500", None).0, Some(json!("100%")));
    assert!(of("500", None).1.starts_with("200 requests a second for each instance are the nearest to 500"));
}

#[test]
fn what_cannot_be_honoured_is_named() {
    let mut service = service();
    service["metadata"]["labels"]["networking.knative.dev/visibility"] = json!("cluster-local");
    service["spec"]["traffic"] =
        json!([{ "latestRevision": true, "percent": 90 }, { "revisionName": "hello-1", "percent": 10 }]);
    let template = &mut service["spec"]["template"];
    template["metadata"]["annotations"] = json!({
        "autoscaling.knative.dev/class": "hpa.autoscaling.knative.dev",
        "autoscaling.knative.dev/metric": "cpu",
        "autoscaling.knative.dev/max-scale": "0",
        "autoscaling.knative.dev/panic-window-percentage": "20",
    });
    template["spec"]["priorityClassName"] = json!("robot");
    let container = &mut template["spec"]["containers"][0];
    container["readinessProbe"] = json!({ "httpGet": { "path": "/healthz" } });
    container["ports"] = json!([{ "containerPort": 8080, "name": "h2c" }]);
    container["resources"] = json!({ "requests": { "memory": "64Mi", "cpu": "100m" } });
    let annotation =
        |name: &str| format!("spec.template.metadata.annotations[\"autoscaling.knative.dev/{name}\"]");
    let container = |rest: &str| format!("spec.template.spec.containers[0].{rest}");
    let mut expected = vec![
        "metadata.labels[\"networking.knative.dev/visibility\"]".to_owned(),
        "spec.traffic[0]".to_owned(),
        "spec.traffic[1]".to_owned(),
        annotation("max-scale"),
        annotation("class"),
        annotation("metric"),
        annotation("panic-window-percentage"),
        container("resources.requests.memory"),
        container("resources.requests.cpu"),
        container("ports[0].name"),
        container("ports[0].containerPort"),
        container("readinessProbe"),
        "spec.template.spec.priorityClassName".to_owned(),
    ];
    let mut found = warned(&service);
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn what_is_no_function_is_refused_with_the_reason() {
    let mut route = service();
    route["kind"] = json!("Route");
    assert_eq!(refused(&route), ["kind"]);

    let mut two = service();
    let containers = &mut two["spec"]["template"]["spec"]["containers"];
    *containers = json!([{ "image": "a" }, { "image": "b" }]);
    assert_eq!(refused(&two), ["spec.template.spec.containers"]);

    let mut wrong = service();
    wrong["apiVersion"] = json!("serving.knative.dev/v2");
    wrong["spec"]["template"]["spec"]["timeoutSeconds"] = json!("soon");
    wrong["spec"]["template"]["spec"]["containers"] = json!([{ "args": ["x"] }]);
    wrong["spec"]["template"]["metadata"]["annotations"] =
        json!({ "autoscaling.knative.dev/window": "soon" });
    assert_eq!(
        refused(&wrong),
        [
            "apiVersion",
            "spec.template.metadata.annotations[\"autoscaling.knative.dev/window\"]",
            "spec.template.spec.timeoutSeconds",
            "spec.template.spec.containers[0].image",
            "spec.template.spec.containers[0].args",
        ]
    );
}

#[test]
fn a_value_that_no_instance_has_is_refused_where_it_stands() {
    let mut service = service();
    service["spec"]["template"]["spec"]["containers"][0]["env"] =
        json!([{ "name": "IP", "valueFrom": { "fieldRef": { "fieldPath": "status.podIP" } } }]);
    assert_eq!(refused(&service), ["spec.template.spec.containers[0].env[0].valueFrom.fieldRef"]);
}

/// Every object in `value`, as JSON pointers.
fn objects(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.push(at.to_owned());
            for (key, value) in map {
                objects(value, &format!("{at}/{}", key.replace('~', "~0").replace('/', "~1")), found);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                objects(item, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

proptest! {
    /// Whatever is added to a Service, wherever: it is in the Function, or a warning names it. Labels and annotations of Knative's own that are
    /// the user's words about the workload are no exception.
    #[test]
    fn nothing_is_dropped_in_silence(
        choice: prop::sample::Index,
        name in prop_oneof![
            4 => "[a-z]{3,8}X",
            1 => Just("serving.knative.dev/no-gc".to_owned()),
            1 => Just("serving.knative.dev/rollout-duration".to_owned()),
        ],
    ) {
        let mut service = service();
        let mut places = Vec::new();
        objects(&service, "", &mut places);
        let place: &String = choice.get(&places);
        service.pointer_mut(place).unwrap()[&name] = json!("added");
        let conversion = convert(&service).unwrap();
        // What stands in a field that is not honoured is named with that one.
        let around = |path: &str| path == "spec.traffic[0]" || (path.ends_with(".readinessProbe") && place.contains("/readinessProbe"));
        let named = conversion.warnings.iter().any(|warning| warning.path.contains(&name) || around(&warning.path));
        prop_assert!(named || conversion.function.to_string().contains(&name), "{place}: {:?}", conversion.warnings);
    }

    /// Nothing that comes in panics.
    #[test]
    fn any_shape_is_answered(choice: prop::sample::Index, with in prop_oneof![
        Just(json!(null)), Just(json!("text")), Just(json!(-7)), Just(json!([1])), Just(json!({ "a": {} })), Just(json!(1e300)),
    ]) {
        let mut service = service();
        let mut places = Vec::new();
        objects(&service, "", &mut places);
        let place: &String = choice.get(&places);
        *service.pointer_mut(place).unwrap() = with;
        if let Ok(conversion) = convert(&service) {
            let _valid = from_value(&conversion.function, Side::Client);
        }
    }
}
