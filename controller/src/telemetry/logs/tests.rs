use std::fs;
use std::io::Write;
use std::time::Duration;

use hearth_function::{FunctionId, InstanceId, RevisionId};
use jiff::Timestamp;
use tempfile::TempDir;

use super::*;

fn function() -> FunctionId {
    FunctionId::parse("default/hello").unwrap()
}

fn line(sequence: u64, request: Option<&str>, text: &str) -> Entry {
    Entry::Line(Line {
        time: Timestamp::from_microsecond(1_000_000 + i64::try_from(sequence).unwrap()).unwrap(),
        request: request.map(str::to_owned),
        instance: InstanceId::parse("hello-a").unwrap(),
        revision: RevisionId::parse("default/hello-00001").unwrap(),
        sequence,
        stream: Stream::Stdout,
        shared: false,
        truncated: false,
        text: text.to_owned(),
    })
}

fn call(request: &str) -> Entry {
    Entry::Call(CallRecord {
        time: Timestamp::from_microsecond(1).unwrap(),
        request: request.to_owned(),
        revision: RevisionId::parse("default/hello-00001").unwrap(),
        instance: None,
        method: "GET".to_owned(),
        path: "/hello".to_owned(),
        status: 200,
        code: None,
        start: None,
        attempts: 1,
        queue: Duration::ZERO,
        init: Duration::ZERO,
        exec: Duration::from_millis(3),
        received: 0,
        sent: 5,
        client_gone: false,
    })
}

fn texts(entries: &[Entry]) -> Vec<&str> {
    entries
        .iter()
        .map(|entry| match entry {
            Entry::Line(line) => line.text.as_str(),
            Entry::Note(note) => note.text.as_str(),
            Entry::Call(call) => call.path.as_str(),
        })
        .collect()
}

fn open(directory: &TempDir, limits: Limits) -> (Logs, std::thread::JoinHandle<()>) {
    let (logs, writer) = Logs::open(directory.path().to_owned(), limits).unwrap();
    (logs, std::thread::spawn(|| writer.run()))
}

#[tokio::test]
async fn a_request_has_exactly_its_lines_and_its_call() {
    let directory = TempDir::new().unwrap();
    let (logs, _writer) = open(&directory, Limits::default());
    logs.write(&function(), line(1, Some("a"), "a1")).await;
    logs.write(&function(), line(2, Some("b"), "b1")).await;
    logs.write(&function(), line(3, None, "shared")).await;
    logs.write(&function(), line(4, Some("a"), "a2")).await;
    logs.offer(&function(), call("a"));
    let of_a = Query { request: Some("a".to_owned()), ..Query::default() };
    assert_eq!(texts(&logs.read(&function(), of_a).await.unwrap()), ["a1", "a2", "/hello"]);
    let newest = Query { tail: Some(2), ..Query::default() };
    assert_eq!(texts(&logs.read(&function(), newest).await.unwrap()), ["shared", "a2"]);
    let since = Query { since: Some(Timestamp::from_microsecond(1_000_003).unwrap()), ..Query::default() };
    assert_eq!(texts(&logs.read(&function(), since).await.unwrap()), ["shared", "a2"]);
    let other = FunctionId::parse("default/other").unwrap();
    assert!(logs.read(&other, Query::default()).await.unwrap().is_empty());
}

fn of(request: &str) -> Query {
    Query { request: Some(request.to_owned()), ..Query::default() }
}

#[tokio::test]
async fn the_call_of_a_request_comes_after_its_lines_whichever_was_written_first() {
    let directory = TempDir::new().unwrap();
    let (logs, _writer) = open(&directory, Limits::default());
    logs.write(&function(), line(1, Some("a"), "a1")).await;
    logs.offer(&function(), call("a"));
    logs.write(&function(), line(2, Some("a"), "a2")).await;
    assert_eq!(texts(&logs.read(&function(), of("a")).await.unwrap()), ["a1", "a2", "/hello"]);
    let newest = Query { tail: Some(2), ..of("a") };
    assert_eq!(texts(&logs.read(&function(), newest).await.unwrap()), ["a2", "/hello"]);
    let mut follow = logs.follow(&function(), of("a")).await.unwrap();
    let mut seen = vec![follow.next().await.unwrap(), follow.next().await.unwrap()];
    // It waits, for a while, for lines that are still on the way.
    logs.write(&function(), line(3, Some("a"), "a3")).await;
    seen.push(follow.next().await.unwrap());
    tokio::time::pause();
    seen.push(follow.next().await.unwrap());
    assert_eq!(texts(&seen), ["a1", "a2", "a3", "/hello"]);
}

#[tokio::test]
async fn no_more_is_shown_than_was_asked_for_though_an_id_has_many_calls() {
    let directory = TempDir::new().unwrap();
    let (logs, _writer) = open(&directory, Limits::default());
    logs.write(&function(), line(1, Some("a"), "a1")).await;
    for _ in 0..5 {
        logs.offer(&function(), call("a"));
    }
    let newest = |tail| Query { tail: Some(tail), ..of("a") };
    for (tail, shown) in [(0, 0), (1, 1), (3, 3), (9, 6)] {
        assert_eq!(logs.read(&function(), newest(tail)).await.unwrap().len(), shown, "the last {tail}");
    }
}

#[tokio::test]
async fn who_asks_right_after_the_answer_gets_the_call() {
    let directory = TempDir::new().unwrap();
    let (logs, _writer) = open(&directory, Limits::default());
    logs.write(&function(), line(1, Some("a"), "a1")).await;
    // The gateway hands its records over a moment later.
    let gateway = async {
        tokio::time::sleep(RECORD_WITHIN / 2).await;
        logs.offer(&function(), call("a"));
    };
    let function = function();
    let (read, ()) = tokio::join!(logs.read(&function, of("a")), gateway);
    assert_eq!(texts(&read.unwrap()), ["a1", "/hello"]);
}

#[tokio::test]
async fn a_request_is_found_among_the_functions_that_are_named_and_no_others() {
    let directory = TempDir::new().unwrap();
    let (logs, _writer) = open(&directory, Limits::default());
    let id = |text: &str| FunctionId::parse(text).unwrap();
    for (name, entry) in [
        ("default/silent", call("a")),
        ("default/hello", line(1, Some("a"), "a1")),
        ("default/other", line(1, Some("b"), "b1")),
        ("elsewhere/hello", line(1, Some("a"), "a1")),
    ] {
        logs.write(&id(name), entry).await;
    }
    let named = || ["default/hello", "default/none", "default/other", "default/silent"].map(id).to_vec();
    let found = logs.of_request(named(), "a").await.unwrap();
    assert_eq!(found, [id("default/hello"), id("default/silent")]);
    assert_eq!(logs.of_request(named(), "c").await.unwrap(), []);
}

#[tokio::test]
async fn a_call_that_has_just_ended_is_found_among_functions_too() {
    let directory = TempDir::new().unwrap();
    let (logs, _writer) = open(&directory, Limits::default());
    let gateway = async {
        tokio::time::sleep(RECORD_WITHIN / 2).await;
        logs.offer(&function(), call("a"));
    };
    let (found, ()) = tokio::join!(logs.of_request(vec![function()], "a"), gateway);
    assert_eq!(found.unwrap(), [function()]);
}

#[tokio::test(start_paused = true)]
async fn one_looks_for_a_request_at_a_time_and_others_wait_for_a_while() {
    let directory = TempDir::new().unwrap();
    let (logs, _writer) = open(&directory, Limits::default());
    let looking = Arc::clone(&logs.shared.looking).acquire_owned().await.unwrap();
    let began = Instant::now();
    let refused = logs.of_request(vec![function()], "a").await;
    assert!(matches!(refused, Err(Error::Busy)), "{refused:?}");
    assert_eq!(began.elapsed(), RECORD_WITHIN + LOOKED_WITHIN);
    drop(looking);
    assert_eq!(logs.of_request(vec![function()], "a").await.unwrap(), []);
}

#[tokio::test]
async fn a_torn_last_line_is_passed_over_and_the_sequence_goes_on() {
    let directory = TempDir::new().unwrap();
    let (logs, writer) = open(&directory, Limits::default());
    logs.write(&function(), line(1, None, "whole")).await;
    logs.write(&function(), line(2, None, "torn")).await;
    logs.close().await;
    writer.join().unwrap();
    let segment = directory.path().join("default/hello/00000001.jsonl");
    let written = fs::read(&segment).unwrap();
    fs::write(&segment, &written[..written.len() - 9]).unwrap();

    let (logs, _writer) = open(&directory, Limits::default());
    let instance = InstanceId::parse("hello-a").unwrap();
    assert_eq!(logs.last_sequence(&function(), &instance).await.unwrap(), 1);
    logs.write(&function(), line(2, None, "again")).await;
    assert_eq!(texts(&logs.read(&function(), Query::default()).await.unwrap()), ["whole", "again"]);
    assert_eq!(fs::read_dir(directory.path().join("default/hello")).unwrap().count(), 2);
}

#[tokio::test]
async fn a_restart_after_a_whole_line_goes_on_in_the_same_segment() {
    let directory = TempDir::new().unwrap();
    for sequence in 1..=3 {
        let (logs, writer) = open(&directory, Limits::default());
        logs.write(&function(), line(sequence, None, "line")).await;
        logs.close().await;
        writer.join().unwrap();
    }
    assert_eq!(fs::read_dir(directory.path().join("default/hello")).unwrap().count(), 1);
}

#[tokio::test]
async fn a_function_keeps_no_more_than_its_bytes_and_the_newest_lines() {
    let directory = TempDir::new().unwrap();
    let limit = 64 * 1024;
    let (logs, _writer) = open(&directory, Limits { per_function: limit, ..Limits::default() });
    let text = "x".repeat(1000);
    for sequence in 1..=500 {
        logs.write(&function(), line(sequence, None, &text)).await;
    }
    let kept = logs.read(&function(), Query::default()).await.unwrap();
    let bytes: u64 = fs::read_dir(directory.path().join("default/hello"))
        .unwrap()
        .map(|entry| entry.unwrap().metadata().unwrap().len())
        .sum();
    assert!(bytes <= limit, "{bytes} bytes on disk");
    assert!(kept.len() > 30, "{} lines kept", kept.len());
    assert!(matches!(kept.last(), Some(Entry::Line(line)) if line.sequence == 500));
}

#[tokio::test]
async fn a_call_that_prints_too_much_is_cut_once_and_others_are_not() {
    let directory = TempDir::new().unwrap();
    let (logs, _writer) = open(&directory, Limits { per_call: 100, ..Limits::default() });
    for sequence in 1..=10 {
        logs.write(&function(), line(sequence, Some("a"), &"x".repeat(39))).await;
    }
    logs.write(&function(), line(11, Some("b"), "b")).await;
    let kept = logs.read(&function(), Query::default()).await.unwrap();
    assert_eq!(kept.len(), 4, "{kept:?}");
    assert!(matches!(&kept[2], Entry::Note(note) if note.request.as_deref() == Some("a")));
    assert_eq!(texts(&kept)[3], "b");
}

#[tokio::test]
async fn a_follower_sees_the_past_and_the_future_without_a_gap_or_a_double() {
    let directory = TempDir::new().unwrap();
    let (logs, _writer) = open(&directory, Limits::default());
    logs.write(&function(), line(1, None, "before")).await;
    let mut follow = logs.follow(&function(), Query::default()).await.unwrap();
    logs.write(&function(), line(2, None, "after")).await;
    let seen = [follow.next().await.unwrap(), follow.next().await.unwrap()];
    assert_eq!(texts(&seen), ["before", "after"]);
    logs.close().await;
    assert_eq!(follow.next().await, None);
}

#[tokio::test]
async fn what_is_removed_is_gone_and_a_function_of_that_name_starts_anew() {
    let directory = TempDir::new().unwrap();
    let (logs, _writer) = open(&directory, Limits::default());
    logs.write(&function(), line(1, None, "old")).await;
    logs.remove(&function()).await.unwrap();
    // The record of a call that ended before comes late.
    logs.offer(&function(), call("old"));
    assert!(logs.read(&function(), Query::default()).await.unwrap().is_empty());
    assert!(!directory.path().join("default/hello").exists());
    let Entry::Line(mut new) = line(1, None, "new") else { unreachable!("a line") };
    new.time = Timestamp::now();
    logs.write(&function(), Entry::Line(new)).await;
    assert_eq!(texts(&logs.read(&function(), Query::default()).await.unwrap()), ["new"]);
}

#[test]
fn bytes_that_are_no_entry_do_not_hide_the_next_line() {
    let directory = TempDir::new().unwrap();
    let own = directory.path().join("default/hello");
    fs::create_dir_all(&own).unwrap();
    let mut file = fs::File::create(own.join("00000001.jsonl")).unwrap();
    file.write_all(b"\xff\x00 not an entry\n").unwrap();
    file.write_all(&serde_json::to_vec(&line(1, None, "entry")).unwrap()).unwrap();
    assert_eq!(texts(&reader::read(&own, &Query::default()).unwrap()), ["entry"]);
}
