//! From where instances report, compared with where their Pods are: when one comes, and again when its node has written its address down.
//! The watch tells where they are, before anybody reports as a rule. Where it does not, as over a way that has become silent, the API server is
//! asked: no start waits for the watch.

use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::instance::Instance;
use super::request::within;
use super::watch::{self, TAKEN_AWAY};
use super::whereabouts::{Compared, Verdict, Whereabouts};
use super::{Shared, plain};

/// How long one that reports waits until it is known whether it is the instance's. Then it comes again, or is refused. A shim that runs
/// already takes ten seconds without an answer for a connection that leads nowhere.
const JUDGED_WITHIN: Duration = Duration::from_secs(8);

/// How long the watch may take to tell where a Pod is that reports.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// How long an answer may take to where it is, and how long it is until that is asked again: while one that reports waits, thrice at most.
const LOOK: Duration = Duration::from_secs(3);

/// So many are looked for at once: when the watch is silent, everything that starts is.
pub(super) const LOOKS: usize = 8;

/// What is said of reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Said {
    /// One comes from elsewhere.
    Refused,
    /// Nobody says where its instance is.
    Unknown,
}

impl Shared {
    /// Whether a report from there is the instance's. Waits for what is not known yet.
    pub(super) async fn judged(self: &Arc<Self>, instance: &Instance, from: IpAddr) -> Verdict {
        let mut whereabouts = instance.whereabouts.subscribe();
        let judge =
            |now: Whereabouts| now.judge(from, self.config.compared, || self.is_of_another(instance, from));
        let its = async {
            loop {
                // Copied: others are looked at, and nothing is held for that.
                let now = whereabouts.borrow_and_update().clone();
                // A Pod may be moved to another address before its container begins, and that be told late.
                if judge(now) == Verdict::Its || whereabouts.changed().await.is_err() {
                    return;
                }
            }
        };
        let judged = async {
            tokio::select! {
                () = its => {}
                () = self.look(instance) => {}
            }
        };
        let _over = timeout(JUDGED_WITHIN, judged).await.is_err();
        let now = instance.whereabouts.borrow().clone();
        judge(now)
    }

    /// Asks where its Pod is, as long as the watch does not tell.
    async fn look(self: &Arc<Self>, instance: &Instance) {
        sleep(TOLD_WITHIN).await;
        loop {
            // Nobody closes them.
            let turn = self.looks.acquire().await;
            let mut told = instance.whereabouts.subscribe();
            let pods = self.pods(&instance.namespace);
            tokio::select! {
                // What the watch tells meanwhile may be newer than the answer.
                biased;
                _ = told.changed() => {}
                found = within(LOOK, pods.get_opt(instance.id.as_str())) => match found {
                    Ok(Some(pod)) => {
                        let shared = Arc::clone(self);
                        // Whoever reports may be sent away meanwhile, and an end that was noted must be told.
                        drop(self.tasks.spawn(async move { watch::seen(&shared, &pod).await }));
                    }
                    Ok(None) => {}
                    Err(error) if self.said.is_news(Said::Unknown) => {
                        let error = plain(&error);
                        tracing::warn!(instance = %instance.id, error, "nobody says where an instance is that reports");
                    }
                    Err(_) => {}
                },
            }
            drop(turn);
            sleep(LOOK).await;
        }
    }

    /// Whether what comes from there is of the instance that has reported.
    pub(super) fn is_from(&self, instance: &Instance, from: IpAddr) -> bool {
        let believed = *instance.believed.lock().unwrap_or_else(PoisonError::into_inner);
        believed == Some(from)
            || self.config.compared == Compared::Never
            || instance.whereabouts.borrow().has(from)
    }

    fn is_of_another(&self, instance: &Instance, address: IpAddr) -> bool {
        let books = self.books();
        let mut others = books.values().filter(|other| other.id != instance.id && !other.has_ended());
        others.any(|other| other.whereabouts.borrow().has(address))
    }

    /// Notes, and says, that somebody reported from elsewhere; why that is not believed.
    pub(super) fn turn_away(&self, instance: &Instance, from: IpAddr) -> String {
        let why = belied(from, &instance.whereabouts.borrow());
        if self.said.is_news(Said::Refused) {
            tracing::warn!(instance = %instance.id, why, "a report was refused");
        }
        // The first will do.
        let _known = instance.turned_away.set(why.clone()).is_err();
        why
    }

    /// Ends the instance if it has not reported from its Pod: somebody has read its token there.
    pub(super) async fn compare(&self, instance: &Arc<Instance>) {
        let Some(reported) = *instance.reported.borrow() else { return };
        let from = reported.invoke.ip();
        let whereabouts = instance.whereabouts.borrow().clone();
        if self.config.compared == Compared::Never || !whereabouts.belie(from) || instance.has_ended() {
            return;
        }
        let why = belied(from, &whereabouts);
        tracing::warn!(instance = %instance.id, why, "an instance is ended that is not in its Pod");
        if instance.leaves() {
            self.tell_taken_away(instance, why, Duration::ZERO).await;
        }
        self.end(instance, TAKEN_AWAY).await;
    }
}

/// What is said of a report from elsewhere.
fn belied(from: IpAddr, its: &Whereabouts) -> String {
    format!(
        "it reports from {from}, and its Pod has {its}: somebody else has its token, or Pods are seen with other addresses than their own (controller.pod_addresses)"
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::http::StatusCode;
    use axum::routing::get;
    use axum::{Json, Router};
    use serde_json::{Value, json};
    use tokio::sync::mpsc;
    use tokio::time::Instant;

    use super::*;
    use crate::backend::kubernetes::tests::{config, spec};

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn at(status: &Value) -> Whereabouts {
        let pod =
            json!({ "metadata": {}, "spec": { "containers": [], "nodeName": "node1" }, "status": status });
        Whereabouts::of(&serde_json::from_value(pod).unwrap())
    }

    fn shared() -> Arc<Shared> {
        shared_over(Router::new())
    }

    fn shared_over(router: Router) -> Arc<Shared> {
        let client = kube::Client::new(router, "default");
        let shared = Shared::new(config(client), mpsc::channel(1).0, mpsc::channel(1).0, mpsc::channel(1).0);
        Arc::new(shared)
    }

    fn instance(shared: &Shared, name: &str, at: Whereabouts) -> Arc<Instance> {
        let instance = Arc::new(Instance::new(spec(name), "default"));
        instance.whereabouts.send_replace(at);
        shared.books().insert(instance.id.clone(), Arc::clone(&instance));
        instance
    }

    #[tokio::test(start_paused = true)]
    async fn who_reports_from_elsewhere_is_waited_for_a_moment_and_refused() {
        let shared = shared();
        let known = at(&json!({ "podIP": "10.0.0.7" }));
        let instance = instance(&shared, "hello-a", known);
        assert_eq!(shared.judged(&instance, address("10.0.0.8")).await, Verdict::Another);
        assert_eq!(shared.judged(&instance, address("10.0.0.7")).await, Verdict::Its);
        // Its sandbox was made anew, which is told late.
        let moves = async {
            tokio::time::sleep(JUDGED_WITHIN / 2).await;
            instance.whereabouts.send_replace(at(&json!({ "podIP": "10.0.0.8" })));
        };
        let (verdict, ()) = tokio::join!(shared.judged(&instance, address("10.0.0.8")), moves);
        assert_eq!(verdict, Verdict::Its);
    }

    #[tokio::test]
    async fn what_was_believed_may_fetch_before_its_report_is_noted() {
        let shared = shared();
        let starting = instance(&shared, "hello-a", at(&json!({})));
        assert!(!shared.is_from(&starting, address("10.0.0.8")));
        *starting.believed.lock().unwrap() = Some(address("10.0.0.8"));
        assert!(shared.is_from(&starting, address("10.0.0.8")));
        assert!(!shared.is_from(&starting, address("10.0.0.7")));
    }

    #[tokio::test(start_paused = true)]
    async fn where_an_instance_is_that_reports_is_asked_when_no_watch_tells_it() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&asked);
        let pod = move || {
            // Away at first.
            let is_away = count.fetch_add(1, Ordering::AcqRel) == 0;
            async move {
                let node = json!({ "metadata": { "name": "hello-a", "namespace": "default" },
                    "spec": { "containers": [], "nodeName": "node1" } });
                if is_away { Err(StatusCode::INTERNAL_SERVER_ERROR) } else { Ok(Json(node)) }
            }
        };
        let router = Router::new().route("/api/v1/namespaces/default/pods/hello-a", get(pod));
        let shared = shared_over(router);
        let instance = instance(&shared, "hello-a", Whereabouts::default());
        let begin = Instant::now();
        assert_eq!(shared.judged(&instance, address("10.0.0.7")).await, Verdict::Its);
        assert_eq!(begin.elapsed().as_secs(), (TOLD_WITHIN + LOOK).as_secs(), "as soon as it is known");
        // Nobody is asked for what the watch tells.
        assert_eq!(shared.judged(&instance, address("10.0.0.7")).await, Verdict::Its);
        assert_eq!(asked.load(Ordering::Acquire), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_does_not_report_for_another() {
        let shared = shared();
        let other = instance(&shared, "hello-a", at(&json!({ "podIP": "10.0.0.7" })));
        let starting = instance(&shared, "hello-b", at(&json!({})));
        assert_eq!(shared.judged(&starting, address("10.0.0.7")).await, Verdict::NotYet);
        assert_eq!(shared.judged(&starting, address("10.0.0.8")).await, Verdict::Its);
        // Its address may be another's by now.
        other.note_end(TAKEN_AWAY);
        assert_eq!(shared.judged(&starting, address("10.0.0.7")).await, Verdict::Its);
    }
}
