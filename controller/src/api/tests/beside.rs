//! What lies beside the objects: invocation, logs, instances, bundles.

use super::*;

#[tokio::test]
async fn an_invocation_carries_only_what_is_meant_for_the_function() {
    let running = running().await;
    running.functions().create(&PostParams::default(), &hello("hello")).await.unwrap();
    let request = Request::put("/apis/hearth.dev/v1/namespaces/default/functions/hello/invoke/a%2Fb?c=d")
        .header(format!("{FORWARDED_HEADER}x-mine"), "1");
    let (code, seen) = running.send(request, "body").await;
    let seen: Value = serde_json::from_str(&seen).unwrap();
    assert_eq!(
        (code, &seen["method"], &seen["target"], &seen["body"]),
        (418, &json!("PUT"), &json!("/a%2Fb?c=d"), &json!("body"))
    );
    assert_eq!(seen["headers"], json!(["x-mine: 1"]), "neither the token nor anything else of the client");
    for (path, target) in [("", "/"), ("/", "/"), ("?q", "/?q")] {
        let request =
            Request::get(format!("/apis/hearth.dev/v1/namespaces/default/functions/hello/invoke{path}"));
        let (code, seen) = running.send(request, "").await;
        let seen: Value = serde_json::from_str(&seen).unwrap();
        assert_eq!((code, &seen["target"]), (418, &json!(target)), "{path}");
    }
    let (code, _) =
        running.send(Request::get("/apis/hearth.dev/v1/namespaces/default/functions/none/invoke"), "").await;
    assert_eq!(code, 404);
    running.api.stop().await;
}

#[tokio::test]
async fn logs_instances_and_activity_are_told() {
    let running = running().await;
    running.functions().create(&PostParams::default(), &hello("hello")).await.unwrap();
    let base = "/apis/hearth.dev/v1/namespaces/default";
    let (_, logs) =
        running.send(Request::get(format!("{base}/functions/hello/logs?tail=5&request=r1")), "").await;
    let line: LogLine = serde_json::from_str(logs.trim_end()).unwrap();
    assert_eq!((line.text.as_str(), line.request.as_deref()), ("tail Some(5)", Some("r1")));
    let (_, known) = running.send(Request::get(format!("{base}/requests/r1")), "").await;
    let known: Value = serde_json::from_str(&known).unwrap();
    assert_eq!(
        known["functions"],
        json!(["hello"]),
        "those that there are, and no other, are looked through"
    );
    let (code, busy) = running.send(Request::get(format!("{base}/requests/busy")), "").await;
    let busy: Value = serde_json::from_str(&busy).unwrap();
    assert_eq!((code, &busy["details"]["retryAfterSeconds"]), (503, &json!(1)));
    let (code, _) = running.send(Request::get(format!("{base}/functions/hello/logs?tial=5")), "").await;
    assert_eq!(code, 400, "an unknown parameter is not ignored");
    let (_, one) = running.send(Request::get(format!("{base}/instances")), "").await;
    let (_, all) = running.send(Request::get("/apis/hearth.dev/v1/instances"), "").await;
    let count =
        |answer: &str| serde_json::from_str::<Value>(answer).unwrap()["items"].as_array().unwrap().len();
    assert_eq!((count(&one), count(&all)), (1, 2));
    let (_, activity) = running.send(Request::get(format!("{base}/functions/hello/activity")), "").await;
    assert_eq!(serde_json::from_str::<Activity>(&activity).unwrap().waiting, 3);
    running.api.stop().await;
}

#[tokio::test]
async fn a_bundle_is_received_once_and_leaves_nothing_behind() {
    let running = running().await;
    let path = format!("/bundles/sha256:{}", "ab".repeat(32));
    assert_eq!(running.send(Request::head(&path), "").await.0, 404);
    assert_eq!(running.send(Request::put(&path), "broken").await.0, 400);
    assert_eq!(running.send(Request::put(&path), vec![b'x'; 1001]).await.0, 413);
    assert_eq!(running.send(Request::put(&path), "content").await.0, 201);
    assert_eq!(running.send(Request::put(&path), "content").await.0, 200);
    assert_eq!(running.send(Request::head(&path), "").await.0, 204);
    assert_eq!(*running.parts.received.lock().unwrap(), [b"content"]);
    assert_eq!(running.send(Request::put("/bundles/sha256:..%2F..%2Fetc"), "x").await.0, 400);
    let left = std::fs::read_dir(running.directory.path().join("incoming")).unwrap().count();
    assert_eq!(left, 0);
    running.api.stop().await;
}
