use super::*;
use tokio::net::UnixListener;

const SECRET: &str = "s3cret";

/// An instance's side: answers what is told, in this order, to whatever comes.
async fn instance(listener: UnixListener, answers: Vec<Frame>) -> Vec<Frame> {
    let (mut stream, _) = listener.accept().await.unwrap();
    let (mut buffer, mut received) = (BytesMut::new(), Vec::new());
    for answer in answers {
        let frame = loop {
            if let Some(frame) = decode(&mut buffer).unwrap() {
                break frame;
            }
            assert!(stream.read_buf(&mut buffer).await.unwrap() > 0);
        };
        received.push(frame);
        let mut bytes = BytesMut::new();
        answer.encode(&mut bytes).unwrap();
        stream.write_all(&bytes).await.unwrap();
    }
    received
}

fn welcome() -> Frame {
    Frame::Welcome(Welcome { version: 1, instance: "i".to_owned(), served: 0, signature: None })
}

fn request() -> Load {
    Load {
        code: "/code".to_owned(),
        handler: Some("index.handler".to_owned()),
        signature: Signature::Auto,
        env: std::collections::BTreeMap::new(),
        function: "hello".to_owned(),
        namespace: "default".to_owned(),
        revision: "hello-00001".to_owned(),
        concurrency: 1,
        memory_bytes: 1 << 27,
        execute_timeout_ms: 0,
    }
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn place() -> (tempfile::TempDir, Address) {
    let directory = tempfile::tempdir().unwrap();
    let address = Address::Unix(directory.path().join("invoke.sock"));
    (directory, address)
}

fn listen(address: &Address) -> UnixListener {
    let Address::Unix(path) = address else { panic!() };
    UnixListener::bind(path).unwrap()
}

#[tokio::test]
async fn an_instance_that_comes_up_later_is_waited_for_and_loaded() {
    let (_directory, address) = place();
    // Polled second: by then the caller has found nobody once.
    let late = async {
        let answers = vec![
            welcome(),
            Frame::Pong(*b"exercise"),
            Frame::Loaded(Loaded::Ok { signature: Signature::Event }),
        ];
        instance(listen(&address), answers).await
    };
    let caller = async {
        let mut pending = Pending::connect(&address, SECRET, soon()).await.unwrap();
        pending.ping(soon()).await.unwrap();
        assert!(pending.times().connect >= RETRY);
        pending.load(request(), soon()).await.unwrap()
    };
    let (report, received) = tokio::join!(biased; caller, late);
    assert_eq!(report.signature, Signature::Event);
    assert_eq!(received[0], Frame::Hello(Hello::new(Role::Invoke, SECRET)));
    assert_eq!(received[2], Frame::Load(request()));
}

#[tokio::test]
async fn what_goes_wrong_is_told_apart() {
    let error = |kind: &str| CallError::new(kind, "why");
    for (answers, expected) in [
        (vec![Frame::Error { stream: 0, error: error("SecretRefused") }], "refused"),
        (vec![welcome(), Frame::Loaded(Loaded::Error(error("LoadFailed")))], "could not be loaded"),
        (vec![welcome(), Frame::Pong(*b"12345678")], "broke the protocol"),
        (vec![welcome()], "closed the connection"),
        (vec![Frame::Drain], "broke the protocol"),
    ] {
        let (_directory, address) = place();
        let served = instance(listen(&address), answers);
        let (_, result) = tokio::join!(served, load(&address, SECRET, request(), soon()));
        let text = result.unwrap_err().to_string();
        assert!(text.contains(expected), "{text} is not: {expected}");
    }
}

#[tokio::test]
async fn one_that_is_to_end_says_so_while_it_is_loaded_or_later_and_one_that_is_gone_does_not() {
    let (_directory, address) = place();
    let loaded = Frame::Loaded(Loaded::Ok { signature: Signature::Event });
    for [first, second] in [[Frame::Drain, loaded.clone()], [loaded, Frame::Drain]] {
        let listener = listen(&address);
        let shim = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = BytesMut::new();
            for frame in [welcome(), first, second] {
                frame.encode(&mut bytes).unwrap();
            }
            stream.write_all(&bytes).await.unwrap();
            stream
        };
        let caller = async {
            let mut pending = Pending::connect(&address, SECRET, soon()).await.unwrap();
            pending.load(request(), soon()).await.unwrap();
            timeout_at(soon(), pending.ends()).await.unwrap();
        };
        tokio::join!(shim, caller);
        let Address::Unix(path) = &address else { panic!() };
        std::fs::remove_file(path).unwrap();
    }
    let closes = instance(listen(&address), vec![welcome()]);
    let (_, pending) = tokio::join!(closes, Pending::connect(&address, SECRET, soon()));
    let mut pending = pending.unwrap();
    tokio::time::pause();
    assert!(timeout_at(Instant::now() + Duration::from_secs(3600), pending.ends()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn every_wait_ends_at_its_deadline() {
    let (_directory, address) = place();
    let deadline = Instant::now() + Duration::from_secs(3);
    let result = Pending::connect(&address, SECRET, deadline).await;
    assert!(matches!(result, Err(Error::Timeout { phase: "listen" })), "{result:?}");

    let listener = listen(&address);
    let deadline = Instant::now() + Duration::from_secs(3);
    let result = Pending::connect(&address, SECRET, deadline).await;
    assert!(matches!(result, Err(Error::Timeout { phase: "start its runtime" })), "{result:?}");
    drop(listener);
}

#[tokio::test]
async fn a_control_connection_tells_lines_and_the_end() {
    let (_directory, address) = place();
    let record = LogRecord {
        sequence: 8,
        unix_micros: 1,
        stream: hearth_protocol::LogStream::Stdout,
        shared: false,
        truncated: false,
        dropped: 2,
        request_id: None,
        line: "hello".into(),
    };
    let exit = Exit { code: Some(0), ..Exit::default() };
    let listener = listen(&address);
    let said = record.clone();
    let shim = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = BytesMut::new();
        let mut bytes = BytesMut::new();
        for frame in [welcome(), Frame::Log(said), Frame::Exit(exit)] {
            frame.encode(&mut bytes).unwrap();
        }
        stream.write_all(&bytes).await.unwrap();
        while stream.read_buf(&mut buffer).await.unwrap() > 0 {}
        buffer
    };
    let controller = async {
        let (mut events, mut commands) = connect_control(&address, SECRET, 5, soon()).await.unwrap();
        commands.drain(soon()).await.unwrap();
        assert_eq!(events.next().await.unwrap(), Some(Event::Log(record)));
        assert_eq!(events.next().await.unwrap(), Some(Event::Exit(exit)));
    };
    let (mut received, ()) = tokio::join!(shim, controller);
    let hello = Hello { logs_after: 5, ..Hello::new(Role::Control, SECRET) };
    assert_eq!(decode(&mut received).unwrap(), Some(Frame::Hello(hello)));
    assert_eq!(decode(&mut received).unwrap(), Some(Frame::Drain));
}
