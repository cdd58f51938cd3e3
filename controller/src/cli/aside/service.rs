//! Which Service leads to the controller of a cluster. Services are listed, since a release may have any name and be in any namespace. Who may not
//! list them is asked for less: the namespace, by the variable, and at last nothing but the Service that the usual release has.

use k8s_openapi::api::core::v1::Service;
use kube::api::ListParams;
use kube::{Api, Client, ResourceExt};

use super::super::error::Error;
use super::said;

/// Where the chart puts things, unless the variable of the configuration says otherwise.
const NAMESPACE: &str = "hearth-system";
const NAMESPACE_VARIABLE: &str = "HEARTH_CLUSTER_NAMESPACE";

/// By which the controller's Service is found.
const CONTROLLER: &str = "app.kubernetes.io/name=hearth,app.kubernetes.io/component=controller";

/// Its name in a release that is called `hearth`.
const NAME: &str = "hearth-controller";

/// The controller's Service.
pub(super) async fn find(client: &Client) -> Result<Service, Error> {
    let named = std::env::var(NAMESPACE_VARIABLE).ok().filter(|name| !name.is_empty());
    find_in(client, named.as_deref()).await
}

/// The same, where Hearth's namespace is `named`, or not known.
async fn find_in(client: &Client, named: Option<&str>) -> Result<Service, Error> {
    let namespace = named.unwrap_or(NAMESPACE);
    let parameters = ListParams::default().labels(CONTROLLER);
    let inside = Api::<Service>::namespaced(client.clone(), namespace);
    let mut listed = match named {
        Some(_) => inside.list(&parameters).await,
        None => Api::<Service>::all(client.clone()).list(&parameters).await,
    };
    if named.is_none() && listed.as_ref().is_err_and(is_forbidden) {
        listed = inside.list(&parameters).await;
    }
    match listed {
        Ok(found) => the_one(found.items),
        Err(error) if is_forbidden(&error) => by_name(&inside, namespace, &error).await,
        Err(error) => Err(Error::failed(format!("cannot look for Hearth's controller: {}", said(&error)))),
    }
}

/// The Service of the usual name, where `refusal` has come of looking for one of any name.
async fn by_name(services: &Api<Service>, namespace: &str, refusal: &kube::Error) -> Result<Service, Error> {
    let fix = format!(
        "ask for `list` on services in the namespace that Hearth is in, or for `get` on its Service {NAME}; \
         {NAMESPACE_VARIABLE} names that namespace where it is not {namespace}"
    );
    match services.get(NAME).await {
        Ok(service) => Ok(service),
        Err(kube::Error::Api(status)) if status.is_not_found() => Err(Error::fixable(
            format!(
                "cannot look for Hearth's controller ({}), and there is no Service {namespace}/{NAME}",
                said(refusal)
            ),
            fix,
        )),
        Err(error) if is_forbidden(&error) => {
            let (list, get) = (said(refusal), said(&error));
            Err(Error::fixable(format!("cannot look for Hearth's controller: {list}; {get}"), fix))
        }
        Err(error) => Err(Error::failed(format!("cannot look for Hearth's controller: {}", said(&error)))),
    }
}

fn the_one(found: Vec<Service>) -> Result<Service, Error> {
    let mut services = found.into_iter();
    match (services.next(), services.next()) {
        (Some(service), None) => Ok(service),
        (None, _) => Err(Error::fixable(
            "there is no Hearth in this cluster: no Service of a controller was found",
            format!("install the chart, or name the namespace that it is in by {NAMESPACE_VARIABLE}"),
        )),
        (Some(one), Some(other)) => Err(Error::fixable(
            format!(
                "there are several of Hearth in this cluster: {} and {}",
                one.namespace().unwrap_or_default(),
                other.namespace().unwrap_or_default()
            ),
            format!("name the one that is meant by {NAMESPACE_VARIABLE}"),
        )),
    }
}

fn is_forbidden(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_forbidden())
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::extract::{Path, State};
    use axum::response::{IntoResponse as _, Response};
    use axum::routing::get;
    use http::StatusCode;
    use serde_json::json;

    use super::*;

    /// A cluster with a Service of a controller in each of these places, and what a user may do there.
    #[derive(Clone, Default)]
    struct Cluster {
        services: &'static [(&'static str, &'static str)],
        lists_all: bool,
        lists_in: &'static [&'static str],
        gets_in: &'static [&'static str],
    }

    impl Cluster {
        fn client(&self) -> Client {
            let router = Router::new()
                .route("/api/v1/services", get(all))
                .route("/api/v1/namespaces/{namespace}/services", get(inside))
                .route("/api/v1/namespaces/{namespace}/services/{name}", get(one))
                .with_state(self.clone());
            Client::new(router, "default")
        }

        fn listed(&self, in_this: impl Fn(&str) -> bool) -> Response {
            let found = self.services.iter().filter(|(namespace, _)| in_this(namespace));
            let items: Vec<_> = found.map(|(namespace, name)| service(namespace, name)).collect();
            axum::Json(json!({ "apiVersion": "v1", "kind": "ServiceList", "metadata": {}, "items": items }))
                .into_response()
        }

        /// What a user is told who looks with this variable: the Service's namespace and name, or the error.
        async fn found(&self, named: Option<&str>) -> Result<String, String> {
            let found = find_in(&self.client(), named).await.map_err(|error| error.text())?;
            Ok(format!("{}/{}", found.namespace().unwrap(), found.name_any()))
        }
    }

    fn service(namespace: &str, name: &str) -> serde_json::Value {
        json!({ "metadata": { "namespace": namespace, "name": name } })
    }

    fn refused(code: StatusCode, reason: &str, message: &str) -> Response {
        let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "code": code.as_u16(), "reason": reason, "message": message });
        (code, axum::Json(status)).into_response()
    }

    async fn all(State(cluster): State<Cluster>) -> Response {
        if !cluster.lists_all {
            return refused(StatusCode::FORBIDDEN, "Forbidden", "may not list all");
        }
        cluster.listed(|_| true)
    }

    async fn inside(State(cluster): State<Cluster>, Path(namespace): Path<String>) -> Response {
        if !cluster.lists_all && !cluster.lists_in.contains(&namespace.as_str()) {
            return refused(StatusCode::FORBIDDEN, "Forbidden", "may not list");
        }
        cluster.listed(|one| one == namespace)
    }

    async fn one(
        State(cluster): State<Cluster>,
        Path((namespace, name)): Path<(String, String)>,
    ) -> Response {
        if !cluster.gets_in.contains(&namespace.as_str()) {
            return refused(StatusCode::FORBIDDEN, "Forbidden", "may not get");
        }
        if cluster.services.contains(&(namespace.as_str(), name.as_str())) {
            return axum::Json(service(&namespace, &name)).into_response();
        }
        refused(StatusCode::NOT_FOUND, "NotFound", "is not there")
    }

    const USUAL: Cluster = Cluster {
        services: &[("hearth-system", "hearth-controller")],
        lists_all: false,
        lists_in: &[],
        gets_in: &[],
    };

    #[tokio::test]
    async fn who_may_do_less_finds_it_by_less() {
        let usual = Ok("hearth-system/hearth-controller".to_owned());
        for may in [
            Cluster { lists_all: true, ..USUAL },
            Cluster { lists_in: &["hearth-system"], ..USUAL },
            Cluster { gets_in: &["hearth-system"], ..USUAL },
        ] {
            assert_eq!(may.found(None).await, usual);
            assert_eq!(may.found(Some("hearth-system")).await, usual);
        }
        let other = Cluster { services: &[("team", "hearth-controller")], gets_in: &["team"], ..USUAL };
        assert_eq!(other.found(Some("team")).await, Ok("team/hearth-controller".to_owned()));
    }

    #[tokio::test]
    async fn who_finds_none_is_told_the_permission_and_the_variable() {
        let error = USUAL.found(None).await.unwrap_err();
        assert!(error.contains("may not list; may not get"), "{error}");
        assert!(error.contains("`get` on its Service hearth-controller"), "{error}");
        assert!(error.contains("HEARTH_CLUSTER_NAMESPACE"), "{error}");
        let elsewhere = Cluster {
            services: &[("hearth-system", "mine-controller")],
            gets_in: &["hearth-system"],
            ..USUAL
        };
        let error = elsewhere.found(None).await.unwrap_err();
        assert!(error.contains("there is no Service hearth-system/hearth-controller"), "{error}");
        assert!(error.contains("`list` on services"), "{error}");
        let none = Cluster { services: &[], lists_all: true, ..USUAL };
        assert!(none.found(None).await.unwrap_err().contains("there is no Hearth in this cluster"));
        let two =
            Cluster { services: &[("a", "x-controller"), ("b", "y-controller")], lists_all: true, ..USUAL };
        assert!(two.found(None).await.unwrap_err().contains("a and b"));
        assert_eq!(two.found(Some("b")).await, Ok("b/y-controller".to_owned()));
    }
}
