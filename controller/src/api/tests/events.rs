//! Events as an informer follows them: lists, watches, and watches that are resumed.

use k8s_openapi::api::core::v1::Event;

use super::*;

impl Running {
    fn events(&self) -> kube::Api<Event> {
        kube::Api::namespaced(self.client.clone(), "default")
    }

    /// Gives the Function conditions with these reasons, one a second: that many events.
    async fn conditions(&self, reasons: &[&str]) {
        let types = ["Ready", "Built", "RoutesReady"];
        let conditions: Vec<Value> = reasons
            .iter()
            .zip(types)
            .enumerate()
            .map(|(second, (reason, kind))| {
                let time = format!("2026-01-01T00:00:0{second}Z");
                json!({ "type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": time })
            })
            .collect();
        let patch = Patch::Merge(json!({ "status": { "conditions": conditions } }));
        self.functions().patch_status("a", &PatchParams::default(), &patch).await.unwrap();
    }

    /// What a watch tells, and the version that it ends with.
    async fn watched(&self, since: &str) -> (Vec<String>, String) {
        let params = WatchParams::default().timeout(1);
        let events: Vec<_> = self.events().watch(&params, since).await.unwrap().try_collect().await.unwrap();
        let mut last = since.to_owned();
        let mut named = |what: &str, event: &Event| {
            last = event.resource_version().unwrap();
            format!("{what} {}", event.reason.clone().unwrap())
        };
        let told = events
            .iter()
            .map(|event| match event {
                WatchEvent::Added(event) => named("added", event),
                WatchEvent::Deleted(event) => named("deleted", event),
                WatchEvent::Error(status) => format!("{} {}", status.code, status.reason),
                other => format!("{other:?}"),
            })
            .collect();
        (told, last)
    }
}

#[tokio::test]
async fn a_streamed_list_of_events_ends_with_a_bookmark() {
    let running = running().await;
    running.functions().create(&PostParams::default(), &hello("a")).await.unwrap();
    let query = "?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=1";
    let path = format!("/api/v1/namespaces/default/events{query}");
    for reasons in [&[][..], &["Serves", "Fetched"]] {
        running.conditions(reasons).await;
        let (_, events) = running.send(Request::get(&path), "").await;
        let mut events: Vec<Value> = events.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let end = events.pop().unwrap();
        assert_eq!((&end["type"], &end["object"]["kind"]), (&json!("BOOKMARK"), &json!("Event")));
        let metadata = &end["object"]["metadata"];
        assert_eq!(metadata["annotations"]["k8s.io/initial-events-end"], "true");
        assert!(events.iter().all(|event| event["type"] == "ADDED") && events.len() == reasons.len());
        let resumed = running.watched(metadata["resourceVersion"].as_str().unwrap()).await;
        assert_eq!(resumed.0, Vec::<String>::new(), "nothing happened since");
    }
    let seen = streamed(running.events()).await;
    let reasons: Vec<String> = seen.into_iter().map(|event| event.reason.unwrap()).collect();
    assert_eq!(reasons, ["Serves", "Fetched"]);
    running.api.stop().await;
}

#[tokio::test]
async fn a_resumed_watch_of_events_tells_what_came_or_that_something_went() {
    let running = running().await;
    running.functions().create(&PostParams::default(), &hello("a")).await.unwrap();
    running.conditions(&["Serves"]).await;
    let list = running.events().list(&ListParams::default()).await.unwrap();
    let since = list.metadata.resource_version.unwrap();
    running.conditions(&["Serves", "Fetched"]).await;
    let (told, last) = running.watched(&since).await;
    assert_eq!(told, ["added Fetched"]);
    assert_eq!(running.watched(&last).await.0, Vec::<String>::new());
    running.conditions(&["Serves"]).await;
    assert_eq!(running.watched(&last).await.0, ["410 Expired"], "a client lists again");
    let (told, _) = running.watched("0").await;
    assert_eq!(told, ["added Serves"]);
    running.api.stop().await;
}
