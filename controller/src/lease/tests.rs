//! Candidates against an API server that knows one Lease.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use http::StatusCode;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::*;

const TIMING: Timing = Timing { duration: Duration::from_secs(12) };

/// The Lease; its version is its text form.
#[derive(Debug, Clone, Default)]
pub(crate) struct Server {
    lease: Arc<Mutex<Option<Value>>>,
    /// The last that was deleted.
    deleted: Arc<Mutex<Option<Value>>>,
    version: watch::Sender<u64>,
    away: Arc<AtomicBool>,
    /// It takes what it is asked and never answers.
    hangs: Arc<AtomicBool>,
    /// Watches say nothing, those that are open and those to come.
    silent: Arc<AtomicBool>,
}

impl Server {
    pub(crate) fn client(&self) -> kube::Client {
        let leases = "/apis/coordination.k8s.io/v1/namespaces/hearth/leases";
        let router: Router = Router::new()
            .route(leases, get(list).post(put))
            .route(&format!("{leases}/{{name}}"), get(one).put(put))
            .route("/unused", post(put))
            .layer(from_fn_with_state(self.clone(), unless_it_hangs))
            .with_state(self.clone());
        kube::Client::new(router, "hearth")
    }

    pub(crate) fn candidate(&self, place: &str) -> Candidate {
        self.candidate_with(place, "key", TIMING)
    }

    fn candidate_with(&self, place: &str, key: &str, timing: Timing) -> Candidate {
        let me = Identity { place: place.to_owned(), run: "1".to_owned() };
        Candidate::new(self.client(), "hearth", me, format!("{place}:7071"), key.to_owned(), timing)
    }

    /// Another way to the same Lease.
    pub(crate) fn another_way(&self) -> Self {
        Self { away: Arc::default(), hangs: Arc::default(), silent: Arc::default(), ..self.clone() }
    }

    /// From now on watches by this way lead nowhere.
    pub(crate) fn silence(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    fn field(&self, pointer: &str) -> Option<String> {
        let lease = self.lease.lock().unwrap();
        lease.as_ref()?.pointer(pointer)?.as_str().map(str::to_owned)
    }

    /// Somebody deletes the Lease.
    fn delete(&self) {
        let last = self.lease.lock().unwrap().take();
        *self.deleted.lock().unwrap() = last;
        self.version.send_modify(|version| *version += 1);
    }

    fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }
}

/// What the server answers, or nothing.
async fn unless_it_hangs(State(server): State<Server>, request: Request, next: Next) -> Response {
    if server.hangs.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
    next.run(request).await
}

fn status(code: u16, reason: &str) -> Response {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "code": code, "reason": reason, "message": reason });
    (StatusCode::from_u16(code).unwrap(), Json(status)).into_response()
}

async fn list(State(server): State<Server>, Query(asked): Query<Vec<(String, String)>>) -> Response {
    if server.is_away() {
        return status(503, "ServiceUnavailable");
    }
    let parameter = |name: &str| asked.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    if parameter("watch").is_none() {
        let items: Vec<Value> = server.lease.lock().unwrap().iter().cloned().collect();
        let metadata = json!({ "resourceVersion": server.version.borrow().to_string() });
        return Json(json!({ "kind": "LeaseList", "apiVersion": "coordination.k8s.io/v1", "metadata": metadata, "items": items }))
            .into_response();
    }
    let since: u64 = parameter("resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
    let heard = server.version.subscribe();
    let lines =
        futures_util::stream::unfold((server, heard, since), |(server, mut heard, since)| async move {
            let version = *heard.wait_for(|version| *version > since).await.ok()?;
            if server.silent.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            let lease = server.lease.lock().unwrap().clone();
            let line = match lease {
                Some(lease) => json!({ "type": "MODIFIED", "object": lease }),
                None => {
                    let mut last = server.deleted.lock().unwrap().clone()?;
                    last["metadata"]["resourceVersion"] = json!(version.to_string());
                    json!({ "type": "DELETED", "object": last })
                }
            };
            Some((Ok::<_, std::io::Error>(Bytes::from(format!("{line}\n"))), (server, heard, version)))
        });
    Body::from_stream(lines).into_response()
}

async fn one(State(server): State<Server>) -> Response {
    match &*server.lease.lock().unwrap() {
        _ if server.is_away() => status(503, "ServiceUnavailable"),
        Some(lease) => Json(lease.clone()).into_response(),
        None => status(404, "NotFound"),
    }
}

async fn put(State(server): State<Server>, Json(mut asked): Json<Value>) -> Response {
    if server.is_away() {
        return status(503, "ServiceUnavailable");
    }
    let mut lease = server.lease.lock().unwrap();
    let known = lease.as_ref().map(|lease| lease["metadata"]["resourceVersion"].clone());
    match (&known, asked["metadata"]["resourceVersion"].is_string()) {
        (Some(_), false) => return status(409, "AlreadyExists"),
        (None, true) => return status(404, "NotFound"),
        (Some(known), true) if *known != asked["metadata"]["resourceVersion"] => {
            return status(409, "Conflict");
        }
        _ => {}
    }
    let version = *server.version.borrow() + 1;
    asked["metadata"]["resourceVersion"] = json!(version.to_string());
    *lease = Some(asked.clone());
    drop(lease);
    server.version.send_replace(version);
    Json(asked).into_response()
}

#[tokio::test(start_paused = true)]
async fn of_two_one_leads_and_the_other_follows_at_once_when_it_gives_the_lease_back() {
    let server = Server::default();
    let first = server.candidate("a").acquire().await;
    assert_eq!(server.field("/spec/holderIdentity").as_deref(), Some("a_1"));
    assert_eq!(server.field("/metadata/annotations/hearth.dev~1hub").as_deref(), Some("a:7071"));
    assert_eq!(server.field("/metadata/labels/app.kubernetes.io~1managed-by").as_deref(), Some("hearth"));
    let mut second = std::pin::pin!(server.candidate("b").acquire());
    assert!(timeout(Duration::from_secs(5), &mut second).await.is_err(), "it is held");
    let began = Instant::now();
    first.release().await.unwrap();
    let second = second.await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(server.field("/metadata/annotations/hearth.dev~1hub").as_deref(), Some("b:7071"));
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn who_stands_by_and_hears_nothing_asks_when_the_lease_should_have_run_out() {
    let server = Server::default();
    let mut first = server.candidate("a").acquire().await;
    let way = server.another_way();
    let mut second = std::pin::pin!(way.candidate("b").acquire());
    assert!(timeout(Duration::from_secs(1), &mut second).await.is_err(), "it is held");
    way.silence();
    tokio::select! {
        lost = first.keep() => panic!("{lost}"),
        _ = &mut second => panic!("two lead"),
        () = tokio::time::sleep(Duration::from_secs(8)) => {}
    }
    let began = Instant::now();
    first.release().await.unwrap();
    second.await;
    // That is before the watch counts as dead.
    assert!(began.elapsed() < TIMING.duration, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_silent_is_begun_anew_after_twice_the_duration_that_the_lease_says() {
    let server = Server::default();
    let first = server.candidate("a").acquire().await;
    let way = server.another_way();
    let mut watch = Watch::new(kube::Api::namespaced(way.client(), "hearth"), Duration::from_secs(3600));
    let holder = |lease: Option<Lease>| lease?.spec?.holder_identity;
    assert_eq!(holder(watch.next().await.unwrap()).as_deref(), Some("a_1"));
    let began = Instant::now();
    way.silence();
    first.release().await.unwrap();
    drop(server.candidate("b").acquire().await);
    assert_eq!(holder(watch.next().await.unwrap()).as_deref(), Some("b_1"));
    let waited = began.elapsed();
    assert!(waited.abs_diff(TIMING.duration * 2) < Duration::from_secs(1), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn another_hearth_in_the_namespace_stands_by_and_a_restart_of_the_first_loses_it_nothing() {
    let server = Server::default();
    let first = server.candidate("a").acquire().await;
    let mut second = std::pin::pin!(server.candidate_with("b", "other", TIMING).acquire());
    first.release().await.unwrap();
    assert!(timeout(Duration::from_secs(60), &mut second).await.is_err(), "its own may come back");
    let again = server.candidate("a2").acquire().await;
    assert_eq!(server.field("/spec/holderIdentity").as_deref(), Some("a2_1"));
    again.release().await.unwrap();
    second.await;
    assert_eq!(server.field("/metadata/annotations/hearth.dev~1key").as_deref(), Some("other"));
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_is_killed_is_followed_after_the_duration_and_one_that_renews_never() {
    let server = Server::default();
    let mut first = server.candidate("a").acquire().await;
    let mut second = std::pin::pin!(server.candidate("b").acquire());
    tokio::select! {
        lost = first.keep() => panic!("{lost}"),
        _ = &mut second => panic!("two lead"),
        () = tokio::time::sleep(Duration::from_secs(100)) => {}
    }
    let began = Instant::now();
    drop(first);
    second.await;
    assert!(began.elapsed() <= Duration::from_secs(13), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_cannot_renew_gives_up_before_anybody_may_follow() {
    let server = Server::default();
    let mut first = server.candidate("a").acquire().await;
    server.away.store(true, Ordering::Relaxed);
    let began = Instant::now();
    let lost = first.keep().await;
    assert!(matches!(lost, Lost::NotRenewed(_)), "{lost}");
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_renewal_hangs_gives_up_before_anybody_may_follow() {
    // When its server begins to hang, after it has refused for a while or at once.
    for (duration, refused) in [(12, 0), (12, 5), (12, 7), (4, 0), (4, 2)] {
        let server = Server::default();
        let timing = Timing { duration: Duration::from_secs(duration) };
        let mut first = server.candidate_with("a", "key", timing).acquire().await;
        let began = Instant::now();
        let hanging = async {
            server.away.store(true, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(refused)).await;
            server.hangs.store(true, Ordering::Relaxed);
            std::future::pending::<()>().await;
        };
        let mut second = std::pin::pin!(server.another_way().candidate_with("b", "key", timing).acquire());
        tokio::select! {
            lost = first.keep() => assert!(matches!(lost, Lost::NotRenewed(_)), "{lost}"),
            _ = &mut second => panic!("two lead, {duration} s, refused for {refused} s"),
            () = hanging => {}
        }
        // Timers count in whole milliseconds.
        let latest = timing.deadline() + Duration::from_millis(1);
        assert!(began.elapsed() <= latest, "{:?} of {duration} s", began.elapsed());
        second.await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_request_that_hangs_costs_nobody_the_lease() {
    let server = Server::default();
    let mut first = server.candidate("a").acquire().await;
    let hiccup = async {
        server.hangs.store(true, Ordering::Relaxed);
        tokio::time::sleep(TIMING.renew_every() + TIMING.request()).await;
        server.hangs.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(60)).await;
    };
    tokio::select! {
        lost = first.keep() => panic!("{lost}"),
        () = hiccup => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_deleted_is_made_again_by_its_leader_unless_another_was_faster() {
    let server = Server::default();
    let mut first = server.candidate("a").acquire().await;
    server.delete();
    assert!(timeout(Duration::from_secs(60), first.keep()).await.is_err(), "it goes on");
    assert_eq!(server.field("/spec/holderIdentity").as_deref(), Some("a_1"));

    server.delete();
    let second = server.candidate_with("b", "other", TIMING).acquire().await;
    let began = Instant::now();
    assert_eq!(first.keep().await, Lost::Taken("b_1".to_owned()));
    assert!(began.elapsed() <= TIMING.renew_every() + Duration::from_secs(1), "{:?}", began.elapsed());

    server.delete();
    second.release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn who_stands_by_takes_a_lease_that_was_deleted_only_when_its_holder_has_stopped() {
    let server = Server::default();
    let mut first = server.candidate("a").acquire().await;
    let mut second = std::pin::pin!(server.another_way().candidate("b").acquire());
    assert!(timeout(TIMING.renew_every() / 2, &mut second).await.is_err(), "it is held");
    // The first hears nothing more from the API server, and works until its deadline.
    server.away.store(true, Ordering::Relaxed);
    server.delete();
    tokio::select! {
        lost = first.keep() => assert!(matches!(lost, Lost::NotRenewed(_)), "{lost}"),
        _ = &mut second => panic!("two lead"),
    }
    let began = Instant::now();
    second.await;
    assert!(began.elapsed() <= TIMING.duration, "{:?}", began.elapsed());
}
