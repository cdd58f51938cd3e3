//! What is waited for, and what is told of it.

use std::net::Ipv4Addr;

use axum::routing::{delete, post};
use axum::{Json, Router};
use serde_json::Value;

use super::*;
use crate::backend::kubernetes::tests::{config, spec};

fn shared() -> (Arc<Shared>, mpsc::Receiver<Hindered>) {
    shared_over(Router::new())
}

fn shared_over(router: Router) -> (Arc<Shared>, mpsc::Receiver<Hindered>) {
    let (hinder, hindered) = mpsc::channel(4);
    let client = kube::Client::new(router, "default");
    (Arc::new(Shared::new(config(client), mpsc::channel(1).0, hinder, mpsc::channel(1).0)), hindered)
}

fn lacks(lack: Lack) -> Option<Obstacle> {
    Some(Obstacle { what: format!("{lack:?}"), lack })
}

fn somewhere() -> Reported {
    Reported::at(Ipv4Addr::LOCALHOST.into(), 1, 2)
}

#[tokio::test(start_paused = true)]
async fn a_stop_deletes_the_pod_that_a_start_was_making_when_it_was_dropped() {
    let (asked, mut asks) = mpsc::channel(1);
    let stored = watch::Sender::new(false);
    let (taking, looking) = (stored.clone(), stored.clone());
    let make = post(move |Json(pod): Json<Value>| async move {
        asked.send(()).await.unwrap();
        // Webhooks look at it.
        tokio::time::sleep(Duration::from_secs(20)).await;
        taking.send_replace(true);
        Json(pod)
    });
    let unmake = delete(move || async move {
        assert!(looking.send_replace(false), "it is not there yet");
        Json(json!({ "kind": "Status", "apiVersion": "v1", "status": "Success" }))
    });
    let router = Router::new()
        .route("/api/v1/namespaces/default/pods", make)
        .route("/api/v1/namespaces/default/pods/hello-a", unmake);
    let shared = shared_over(router).0;
    let mut spec = spec("hello-a");
    spec.owner.as_mut().unwrap().uid = Some("uid-1".to_owned());
    tokio::select! {
        started = shared.start(&spec) => panic!("{started:?}"),
        asked = asks.recv() => assert!(asked.is_some()),
    }
    shared.stop(&spec.id, Duration::ZERO).await.unwrap();
    assert!(!*stored.borrow() && asks.is_empty() && shared.find(&spec.id).is_none());
}

#[test]
fn a_quota_that_asks_for_limits_has_an_advice_of_its_own() {
    let said = |message: &str| {
        let status = json!({ "status": "Failure", "message": message, "reason": "Forbidden", "code": 403 });
        let error = kube::Error::Api(serde_json::from_value(status).unwrap());
        crate::telemetry::chain(&refused(&spec("hello-a").id, "shop", &error))
    };
    let asks = said("pods \"hello-a\" is forbidden: failed quota: compute: must specify limits.cpu");
    assert!(asks.contains("shop asks for more") && asks.contains("set spec.resources.cpu"), "{asks}");
    let full = said("pods \"hello-a\" is forbidden: exceeded quota: compute, requested: limits.memory=72Mi");
    assert!(full.contains("raise the quota"), "{full}");
}

#[tokio::test(start_paused = true)]
async fn the_time_that_an_image_takes_is_none_that_a_start_may_take_but_a_part_of_what_it_took() {
    let (shared, mut hindered) = shared();
    let instance = Instance::new(spec("hello-a"), "default");
    let waited = Waited::default();
    let node = async {
        instance.obstacle.send_replace(lacks(Lack::Node));
        let mut told = Vec::new();
        told.extend(hindered.recv().await.map(|one| one.by));
        instance.obstacle.send_replace(lacks(Lack::Time));
        for _ in 0..2 {
            told.extend(hindered.recv().await.map(|one| one.by));
        }
        tokio::time::sleep(REPORTS_WITHIN / 2).await;
        instance.obstacle.send_replace(None);
        told.extend(hindered.recv().await.map(|one| one.by));
        instance.reported.send_replace(Some(somewhere()));
        told
    };
    let (reported, told) = tokio::join!(shared.report(&instance, true, &waited), node);
    assert_eq!(reported.unwrap(), somewhere());
    let outside = Hindrance::Outside("Node".to_owned());
    assert_eq!(told, [outside, Hindrance::Over, Hindrance::Time, Hindrance::Over]);
    assert_eq!(waited.total(), PASSES_WITHIN, "an image is a part of what it takes, a node is not");
    assert!(!waited.end(), "nothing is left to be told");
}

#[tokio::test(start_paused = true)]
async fn an_image_that_never_comes_fails_the_start_with_what_was_seen_last() {
    let (shared, mut hindered) = shared();
    let instance = Instance::new(spec("hello-a"), "default");
    instance.obstacle.send_replace(lacks(Lack::Time));
    let (begin, waited) = (Instant::now(), Waited::default());
    let error = crate::telemetry::chain(&shared.report(&instance, true, &waited).await.unwrap_err());
    assert!(error.ends_with("within 10m: Time"), "{error}");
    assert_eq!(begin.elapsed(), REPORTS_WITHIN);
    assert_eq!(hindered.recv().await.unwrap().by, Hindrance::Time);
    assert!(waited.end(), "whoever started it tells the end");
}

#[tokio::test(start_paused = true)]
async fn of_a_container_that_is_there_in_a_moment_nobody_is_told() {
    let (shared, mut hindered) = shared();
    let instance = Instance::new(spec("hello-a"), "default");
    instance.obstacle.send_replace(lacks(Lack::Time));
    let node = async {
        tokio::time::sleep(AS_A_RULE / 2).await;
        instance.reported.send_replace(Some(somewhere()));
    };
    let waited = Waited::default();
    let (reported, ()) = tokio::join!(shared.report(&instance, true, &waited), node);
    assert!(reported.is_ok() && !waited.end() && hindered.try_recv().is_err());
}
