//! What the server says about itself: version, groups, resources; one by one, and in one answer ("aggregated").

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, header};
use serde_json::{Value, json};

use super::kinds::{self, Facts};

/// The Kubernetes release whose API conventions the server follows: clients derive what they may ask for from it.
const KUBERNETES_MINOR: u32 = 34;

pub(super) async fn version() -> Json<Value> {
    Json(json!({
        "major": "1",
        "minor": KUBERNETES_MINOR.to_string(),
        "gitVersion": format!("v1.{KUBERNETES_MINOR}.0+hearth.{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
        "hearth": env!("CARGO_PKG_VERSION"),
    }))
}

/// A resource or sub-resource that is served.
struct Served {
    /// `functions`, `functions/status`.
    path: String,
    singular: String,
    /// The kind of its objects, with group and version where they are not those of the resource.
    kind: String,
    kind_of: Option<(&'static str, &'static str)>,
    namespaced: bool,
    verbs: &'static [&'static str],
    short_names: Vec<String>,
    categories: Vec<String>,
}

/// A version of a group.
struct Group {
    name: &'static str,
    version: &'static str,
    resources: Vec<Served>,
}

/// What can be done to Functions. [`super::review`] answers by it.
pub(super) const FUNCTION_VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
/// What can be done to Revisions, which are Hearth's to write.
pub(super) const REVISION_VERBS: &[&str] = &["get", "list", "watch"];
/// What can be done to sub-resources.
pub(super) const SUB_VERBS: &[&str] = &["get", "patch", "update"];
/// What can be done to events, which are a view.
pub(super) const EVENT_VERBS: &[&str] = &["get", "list", "watch"];
/// What can be done to namespaces, which are a view.
pub(super) const NAMESPACE_VERBS: &[&str] = &["get", "list"];
/// The group of Functions and Revisions.
pub(super) const HEARTH: &str = "hearth.dev";

fn hearth() -> Group {
    let resource = |facts: &Facts, verbs| Served {
        path: facts.names.plural.clone(),
        singular: facts.names.singular.clone().unwrap_or_default(),
        kind: facts.names.kind.clone(),
        kind_of: None,
        namespaced: true,
        verbs,
        short_names: facts.names.short_names.clone().unwrap_or_default(),
        categories: facts.names.categories.clone().unwrap_or_default(),
    };
    let [function, revision] = kinds::all();
    let scale = Some(("autoscaling", "v1"));
    let resources = vec![
        resource(function, FUNCTION_VERBS),
        Served { path: "functions/status".to_owned(), ..sub("Function", None) },
        Served { path: "functions/scale".to_owned(), ..sub("Scale", scale) },
        resource(revision, REVISION_VERBS),
    ];
    Group { name: HEARTH, version: "v1", resources }
}

fn sub(kind: &str, kind_of: Option<(&'static str, &'static str)>) -> Served {
    Served { kind_of, namespaced: true, verbs: SUB_VERBS, ..plain("", "", kind) }
}

fn plain(path: &str, singular: &str, kind: &str) -> Served {
    Served {
        path: path.to_owned(),
        singular: singular.to_owned(),
        kind: kind.to_owned(),
        kind_of: None,
        namespaced: false,
        verbs: &["create"],
        short_names: Vec::new(),
        categories: Vec::new(),
    }
}

/// What of Kubernetes' own groups clients ask for beside Functions, and can be answered from them.
fn core() -> Group {
    let events = Served {
        namespaced: true,
        verbs: EVENT_VERBS,
        short_names: vec!["ev".to_owned()],
        ..plain("events", "event", "Event")
    };
    let namespaces = Served {
        verbs: NAMESPACE_VERBS,
        short_names: vec!["ns".to_owned()],
        ..plain("namespaces", "namespace", "Namespace")
    };
    Group { name: "", version: "v1", resources: vec![events, namespaces] }
}

fn authorization() -> Group {
    let resources = vec![
        plain("selfsubjectaccessreviews", "selfsubjectaccessreview", "SelfSubjectAccessReview"),
        plain("selfsubjectrulesreviews", "selfsubjectrulesreview", "SelfSubjectRulesReview"),
    ];
    Group { name: "authorization.k8s.io", version: "v1", resources }
}

fn authentication() -> Group {
    let resources = vec![plain("selfsubjectreviews", "selfsubjectreview", "SelfSubjectReview")];
    Group { name: "authentication.k8s.io", version: "v1", resources }
}

/// Every group with a name.
fn named() -> [Group; 3] {
    [hearth(), authorization(), authentication()]
}

pub(super) async fn core_versions(headers: HeaderMap) -> Response {
    if let Some(version) = aggregated(&headers) {
        return aggregate(version, &[core()]);
    }
    Json(json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] }))
        .into_response()
}

pub(super) async fn core_resources() -> Json<Value> {
    Json(resource_list(&core()))
}

pub(super) async fn groups(headers: HeaderMap) -> Response {
    if let Some(version) = aggregated(&headers) {
        return aggregate(version, &named());
    }
    let groups: Vec<Value> = named().iter().map(group).collect();
    Json(json!({ "kind": "APIGroupList", "apiVersion": "v1", "groups": groups })).into_response()
}

/// `/apis/GROUP`.
pub(super) async fn one_group(name: &'static str) -> Json<Value> {
    let mut answer = named().iter().find(|group| group.name == name).map(group).unwrap_or_default();
    answer["kind"] = json!("APIGroup");
    answer["apiVersion"] = json!("v1");
    Json(answer)
}

/// `/apis/GROUP/v1`.
pub(super) async fn group_resources(name: &'static str) -> Json<Value> {
    Json(named().iter().find(|group| group.name == name).map(resource_list).unwrap_or_default())
}

fn group_version(group: &Group) -> String {
    if group.name.is_empty() { group.version.to_owned() } else { format!("{}/{}", group.name, group.version) }
}

fn group(group: &Group) -> Value {
    let version = json!({ "groupVersion": group_version(group), "version": group.version });
    json!({ "name": group.name, "versions": [version], "preferredVersion": version })
}

fn resource_list(group: &Group) -> Value {
    let resource = |served: &Served| {
        let mut answer = json!({
            "name": served.path, "singularName": served.singular, "namespaced": served.namespaced, "kind": served.kind,
            "verbs": served.verbs,
        });
        if let Some((group, version)) = served.kind_of {
            answer["group"] = json!(group);
            answer["version"] = json!(version);
        }
        for (field, names) in [("shortNames", &served.short_names), ("categories", &served.categories)] {
            if !names.is_empty() {
                answer[field] = json!(names);
            }
        }
        answer
    };
    json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(group),
        "resources": group.resources.iter().map(resource).collect::<Vec<_>>(),
    })
}

/// The version of the aggregated form that the client asks for, if it does.
fn aggregated(headers: &HeaderMap) -> Option<&'static str> {
    let accept = headers.get(header::ACCEPT)?.to_str().ok()?;
    accept.split(',').find_map(|media| {
        let has = |wanted: &str| media.split(';').any(|part| part.trim() == wanted);
        let asked =
            has("application/json") && has("g=apidiscovery.k8s.io") && has("as=APIGroupDiscoveryList");
        ["v2", "v2beta1"].into_iter().find(|version| asked && has(&format!("v={version}")))
    })
}

fn aggregate(version: &str, groups: &[Group]) -> Response {
    let response_kind = |group: &Group, served: &Served| {
        let (group, version) = served.kind_of.unwrap_or((group.name, group.version));
        json!({ "group": group, "version": version, "kind": served.kind })
    };
    let resource = |group: &Group, served: &Served| {
        let subresources = group.resources.iter().filter_map(|other| {
            let name = other.path.strip_prefix(&served.path)?.strip_prefix('/')?;
            Some(json!({ "subresource": name, "responseKind": response_kind(group, other), "verbs": other.verbs }))
        });
        json!({
            "resource": served.path, "responseKind": response_kind(group, served),
            "scope": if served.namespaced { "Namespaced" } else { "Cluster" }, "singularResource": served.singular,
            "verbs": served.verbs, "shortNames": served.short_names, "categories": served.categories,
            "subresources": subresources.collect::<Vec<_>>(),
        })
    };
    let item = |group: &Group| {
        let resources = group.resources.iter().filter(|served| !served.path.contains('/'));
        json!({
            "metadata": { "name": group.name },
            "versions": [{
                "version": group.version, "freshness": "Current",
                "resources": resources.map(|served| resource(group, served)).collect::<Vec<_>>(),
            }],
        })
    };
    let answer = json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {},
        "items": groups.iter().map(item).collect::<Vec<_>>(),
    });
    let media = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
    ([(header::CONTENT_TYPE, media)], answer.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_aggregated_form_is_for_who_asks_for_it() {
        let asks =
            |accept: &str| aggregated(&HeaderMap::from_iter([(header::ACCEPT, accept.parse().unwrap())]));
        let kubectl = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";
        assert_eq!(asks(kubectl), Some("v2"));
        assert_eq!(
            asks(
                "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json"
            ),
            Some("v2beta1")
        );
        assert_eq!(asks("application/json"), None);
    }

    #[test]
    fn names_are_those_of_the_definitions() {
        let list = resource_list(&hearth());
        assert_eq!(list["resources"][0]["shortNames"], json!(["fn"]));
        assert_eq!(list["resources"][2]["group"], "autoscaling");
        assert_eq!(list["resources"][3]["name"], "revisions");
    }
}
