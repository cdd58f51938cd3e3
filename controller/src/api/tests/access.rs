//! Who is let in, and how.

use super::*;

#[tokio::test]
async fn plain_http_gets_health_and_metrics_and_else_is_told_how_to_connect() {
    let running = running().await;
    let health = running.plain("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(health.starts_with("HTTP/1.1 200") && health.ends_with("ok\n"), "{health}");
    let metrics = running.plain("GET /metrics HTTP/1.1\r\nHost: 127.0.0.1:1\r\n\r\n").await;
    assert!(metrics.contains("text/plain; version=0.0.4") && metrics.ends_with("hearth_up 1\n"), "{metrics}");
    let other = running.plain("GET /apis HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(other.starts_with("HTTP/1.1 400") && other.contains("hearth kubeconfig"), "{other}");
    let rebound = running.plain("GET /metrics HTTP/1.1\r\nHost: evil.example\r\n\r\n").await;
    assert!(rebound.starts_with("HTTP/1.1 403"), "{rebound}");
    let posted =
        running.plain("POST /metrics HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n").await;
    assert!(posted.starts_with("HTTP/1.1 405"), "{posted}");
    running.api.stop().await;
}

#[tokio::test]
async fn strangers_and_pages_of_other_sites_stay_outside() {
    let running = running().await;
    let good = std::fs::read_to_string(running.api.kubeconfig()).unwrap();
    let wrong = running.directory.path().join("wrong");
    std::fs::write(&wrong, good.replace("token: ", "token: 0")).unwrap();
    let stranger: kube::Api<Function> = kube::Api::namespaced(client(&wrong).await, "default");
    let refused = status(stranger.list(&ListParams::default()).await.unwrap_err());
    assert_eq!((refused.code, refused.reason.as_str()), (401, "Unauthorized"));

    let functions = "/apis/hearth.dev/v1/namespaces/default/functions";
    let (code, _) = running.send(Request::get(functions).header("origin", "https://evil.example"), "").await;
    assert_eq!(code, 403);
    let (code, _) = running.send(Request::get(functions).header("host", "evil.example"), "").await;
    assert_eq!(code, 403);
    let (code, _) = running.send(Request::get(functions).header("host", "hearth.test:7070"), "").await;
    assert_eq!(code, 200);
    running.api.stop().await;
}

#[tokio::test]
async fn silent_connections_keep_no_probe_from_an_answer_and_take_no_place_of_who_has_the_token() {
    let running = running().await;
    let functions = running.functions();
    let mut watch = pin!(functions.watch(&WatchParams::default(), "0").await.unwrap());
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(running.api.address()).await.unwrap());
    }
    let health = running.plain("GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(health.ends_with("ok\n"), "{health}");
    let mut byte = [0];
    assert!(matches!(silent[0].read(&mut byte).await, Ok(0) | Err(_)), "the longest has left");
    functions.create(&PostParams::default(), &hello("hello")).await.unwrap();
    let told = watch.try_next().await.unwrap();
    assert!(matches!(told, Some(WatchEvent::Added(_))), "{told:?}");
    running.api.stop().await;
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let running = running().await;
    let directory = tempfile::tempdir().unwrap();
    let config = Config {
        listen: running.api.address(),
        identity: directory.path().join("tls"),
        ..(*example(directory.path())).clone()
    };
    let error = start(config, running.store.clone(), Arc::new(Fake::default())).await.unwrap_err();
    assert!(error.to_string().contains(&running.api.address().to_string()), "{error}");
    running.api.stop().await;
}
