use hearth_protocol::{Frame, Hello, RequestId, Role, decode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;
use crate::backend::{InCluster, Network, Process, Root};

fn spec(id: &str) -> InstanceSpec {
    InstanceSpec {
        id: InstanceId::parse(id).unwrap(),
        owner: None,
        process: Process::Nodejs,
        code: None,
        build_dir: None,
        namespace: None,
        in_cluster: InCluster::default(),
        user: None,
        working_directory: None,
        root: Root::Host { interpreter: None },
        env: BTreeMap::new(),
        limits: Limits {
            memory_bytes: 1 << 20,
            cpu_millis: None,
            tmp_bytes: 1 << 20,
            pids: 16,
            patient: false,
        },
        network: Network::None,
        concurrency: 1,
        secret: "s".repeat(64),
    }
}

async fn connect(started: &Started, secret: &str) -> tokio::net::UnixStream {
    let Address::Unix(path) = &started.invoke else { panic!("a Unix socket") };
    let mut stream = tokio::net::UnixStream::connect(path).await.unwrap();
    send(&mut stream, &Frame::Hello(Hello::new(Role::Invoke, secret))).await;
    stream
}

async fn send(stream: &mut tokio::net::UnixStream, frame: &Frame) {
    let mut bytes = bytes::BytesMut::new();
    frame.encode(&mut bytes).unwrap();
    stream.write_all(&bytes).await.unwrap();
}

async fn receive(stream: &mut tokio::net::UnixStream, buffer: &mut bytes::BytesMut) -> Frame {
    loop {
        if let Some(frame) = decode(buffer).unwrap() {
            return frame;
        }
        assert_ne!(stream.read_buf(buffer).await.unwrap(), 0, "the peer closed");
    }
}

fn invoke(stream: u32) -> Frame {
    let invoke = hearth_protocol::Invoke {
        deadline_ms: 0,
        request_id: RequestId::copied("r1").unwrap(),
        accept: true,
        head: "{}".into(),
        body: bytes::Bytes::new(),
        end: true,
    };
    Frame::Invoke { stream, invoke }
}

#[tokio::test]
async fn its_instances_answer_calls() {
    let fake = Fake::new();
    let started = fake.start(&spec("one")).await.unwrap();
    let mut stream = connect(&started, &"s".repeat(64)).await;
    let mut buffer = bytes::BytesMut::new();
    assert!(matches!(receive(&mut stream, &mut buffer).await, Frame::Welcome(_)));
    send(&mut stream, &invoke(1)).await;
    assert!(matches!(receive(&mut stream, &mut buffer).await, Frame::Accept { stream: 1 }));
    let Frame::Answer { answer, .. } = receive(&mut stream, &mut buffer).await else { panic!("an answer") };
    assert_eq!((answer.status, answer.body.as_ref()), (200, b"one {}".as_slice()));
}

#[tokio::test]
async fn a_wrong_secret_is_refused() {
    let fake = Fake::new();
    let started = fake.start(&spec("one")).await.unwrap();
    let mut stream = connect(&started, "other").await;
    assert!(matches!(
        receive(&mut stream, &mut bytes::BytesMut::new()).await,
        Frame::Error { stream: 0, .. }
    ));
}

#[tokio::test]
async fn a_hanging_call_ends_when_it_is_cancelled() {
    let fake = Fake::with_peer(Peer::new(|_, _, _| Response::Hang));
    let started = fake.start(&spec("one")).await.unwrap();
    let mut stream = connect(&started, &"s".repeat(64)).await;
    let mut buffer = bytes::BytesMut::new();
    send(&mut stream, &invoke(1)).await;
    send(&mut stream, &Frame::Cancel { stream: 1 }).await;
    for expected in ["welcome", "accept", "end"] {
        let frame = receive(&mut stream, &mut buffer).await;
        assert_eq!(frame.outline().kind.name(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn starts_go_as_planned() {
    let fake = Fake::new();
    let exit = Exit { code: Some(1), signal: None, out_of_memory: false };
    fake.plan(Plan::Fails("no space".to_owned()));
    fake.plan(Plan::Slow(Duration::from_secs(3)));
    fake.plan(Plan::DiesAfter(Duration::from_secs(5), exit));
    fake.plan(Plan::Hangs);
    let mut ends = fake.exits();
    assert!(fake.start(&spec("a")).await.is_err());
    let begin = tokio::time::Instant::now();
    fake.start(&spec("b")).await.unwrap();
    assert_eq!(begin.elapsed(), Duration::from_secs(3));
    fake.start(&spec("c")).await.unwrap();
    let ended = ends.recv().await.unwrap();
    assert_eq!((ended.instance.as_str(), ended.exit), ("c", exit));
    assert_eq!(begin.elapsed(), Duration::from_secs(8));
    assert!(tokio::time::timeout(Duration::from_secs(60), fake.start(&spec("d"))).await.is_err());
    assert_eq!(fake.running(), [InstanceId::parse("b").unwrap()]);
}

#[tokio::test(start_paused = true)]
async fn stops_go_as_planned_and_are_noted() {
    let fake = Fake::new();
    let id = InstanceId::parse("a").unwrap();
    fake.start(&spec("a")).await.unwrap();
    fake.stops(Stops::Hang);
    assert!(tokio::time::timeout(Duration::from_secs(60), fake.stop(&id, Duration::ZERO)).await.is_err());
    fake.stops(Stops::Fail);
    assert!(fake.stop(&id, Duration::ZERO).await.is_err());
    assert_eq!(fake.running().len(), 1);
    fake.stops(Stops::Work);
    fake.stop(&id, Duration::ZERO).await.unwrap();
    fake.stop(&id, Duration::ZERO).await.unwrap();
    assert!(fake.list().await.unwrap().is_empty());
    assert_eq!(fake.calls().iter().filter(|call| matches!(call, Call::Stop(_))).count(), 4);
}

/// Those cases of the conformance suite that ask for nothing to run inside.
#[tokio::test]
async fn it_conforms_as_far_as_nothing_runs_in_it() {
    use crate::backend::Owner;
    use crate::backend::conformance::{Fixture, PATIENCE, Suite, cases};
    use hearth_function::{FunctionId, RevisionId};
    const APPLICABLE: [&str; 6] = [
        "an_instance_starts_is_found_and_stops",
        "stopping_what_is_gone_is_no_error",
        "a_name_serves_once",
        "a_start_that_fails_leaves_nothing",
        "several_start_at_once",
        "a_paused_instance_can_be_stopped",
    ];
    let fake = Fake::new();
    let (again, directory) = (Arc::clone(&fake), fake.directory.clone());
    let suite = Suite::new(Fixture {
        backend: fake,
        root: Root::Host { interpreter: None },
        python: "python3".to_owned(),
        directory: directory.clone(),
        reachable: Vec::new(),
        unreachable: Vec::new(),
        owner: Owner {
            function: FunctionId::parse("default/late").unwrap(),
            revision: RevisionId::parse("default/late-00001").unwrap(),
            since: Some(jiff::Timestamp::UNIX_EPOCH),
            uid: None,
        },
        patience: PATIENCE,
        networks: false,
        reopen: Box::new(move || {
            let again: Arc<dyn Backend> = Arc::<Fake>::clone(&again);
            Box::pin(async move { again })
        }),
        left: Box::new(move |id| {
            let path = directory.join(id.as_str());
            if path.exists() { vec![path.display().to_string()] } else { Vec::new() }
        }),
    });
    let all = cases();
    for name in APPLICABLE {
        let case = all.iter().find(|case| case.name == name).unwrap();
        assert_eq!(suite.run(*case).await, Ok(()), "{name}");
    }
}
