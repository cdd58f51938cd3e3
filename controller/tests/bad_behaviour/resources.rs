//! Handlers that take all they can get: memory, processes, disk, log, answer.

use std::path::Path;
use std::time::Duration;

use crate::support::http::{Connection, Request};
use crate::support::http2::Answer;
use crate::support::{eventually, inline, node_with, python_with};
use crate::{BAD, Scene, assert_refused, assert_says};

#[test]
fn memory_without_end_loses_the_instance_and_the_caller_is_told_why() {
    let scene = Scene::with(&node_with(
        "bad",
        "exports.handler = async (event) => {
  if (event.rawQueryString === 'who') return process.env.HEARTH_INSTANCE;
  for (const all = []; ; ) all.push(Buffer.alloc(1 << 20, 1));
};",
        "resources: { memory: 96Mi }",
    ));
    let first = scene.instance();
    scene.neighbour.is_undisturbed_while(|| {
        let answer = scene.post("allocate");
        assert_refused(&answer, 502, "instance_lost");
        assert_says(&answer, "memory");
    });
    assert_ne!(scene.instance(), first, "a fresh instance serves");
    scene.end();
}

#[test]
fn a_heap_without_end_loses_the_instance_before_the_kernel_has_to_kill_it() {
    let scene = Scene::with(&node_with(
        "bad",
        "exports.handler = async (event) => {
  if (event.rawQueryString === 'who') return process.env.HEARTH_INSTANCE;
  for (const all = []; ; ) all.push({ all: [all.length] });
};",
        "resources: { memory: 128Mi }",
    ));
    let first = scene.instance();
    scene.neighbour.is_undisturbed_while(|| assert_refused(&scene.post("allocate"), 502, "instance_lost"));
    assert_ne!(scene.instance(), first, "a fresh instance serves");
    scene.end();
}

#[test]
fn python_memory_without_end_loses_the_instance() {
    let scene = Scene::with(&python_with(
        "bad",
        "import os
def handler(event, context):
    if event['rawQueryString'] == 'who':
        return os.environ['HEARTH_INSTANCE']
    kept = []
    while True:
        kept.append(bytearray(1 << 20))",
        "resources: { memory: 64Mi }",
    ));
    let first = scene.instance();
    scene.neighbour.is_undisturbed_while(|| {
        let answer = scene.post("allocate");
        assert_refused(&answer, 502, "instance_lost");
        assert_says(&answer, "memory");
    });
    assert_ne!(scene.instance(), first, "a fresh instance serves");
    scene.end();
}

#[test]
fn forks_without_end_meet_the_process_limit_and_are_all_taken_away() {
    let scene = Scene::with(&python_with(
        "bad",
        "import os, time
def handler(event, context):
    if event['rawQueryString'] == 'who':
        return os.environ['HEARTH_INSTANCE']
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)",
        "timeouts: { execute: 1s }",
    ));
    scene.instance();
    let mut groups = Vec::new();
    scene.neighbour.is_undisturbed_while(|| {
        let mut connection = Connection::open(scene.hearth.gateway()).expect("the gateway listens");
        connection.send(&Request::post(&format!("{BAD}?fork"), "{}")).expect("the request is sent");
        // The instance may be gone by the time of the answer, and its group with it.
        while connection.silent_for(Duration::from_millis(20)) {
            groups.extend(scene.hearth.process_limits());
        }
        let answer = connection.response().expect("an answer");
        // Which limit it meets first, time or memory, is a matter of chance.
        let refused = (answer.status, answer.code());
        assert!(
            [(504, "execute_timeout".to_owned()), (502, "instance_lost".to_owned())].contains(&refused),
            "{refused:?} {}",
            answer.text()
        );
    });
    assert!(!groups.is_empty(), "every instance has a limit");
    assert!(groups.iter().all(|group| group.peak <= group.limit), "the limit holds: {groups:?}");
    // An instance that is short of everything may still be on its way out, and calls that meet it run into their own time limit.
    assert!(eventually(|| (scene.get("who").status == 200).then_some(())).is_some(), "it answers again");
    scene.end();
}

#[test]
fn threads_without_end_meet_the_process_limit_and_the_caller_is_told_so() {
    let scene = Scene::with(&python_with(
        "bad",
        "import os, threading, time
def handler(event, context):
    if event['rawQueryString'] == 'who':
        return os.environ['HEARTH_INSTANCE']
    while True:
        threading.Thread(target=time.sleep, args=(20,), daemon=True).start()",
        "",
    ));
    scene.instance();
    let answer = scene.post("threads");
    assert_refused(&answer, 502, "function_error");
    assert_says(&answer, "limit of 512 processes and threads");
    assert_says(&answer, "process_limit");
    let told = || {
        let logs = scene.hearth.cli(&["logs", "bad"]).stdout;
        String::from_utf8_lossy(&logs).contains("[hearth] the instance met its limit of 512").then_some(())
    };
    assert!(eventually(told).is_some(), "its log says so too");
    scene.end();
}

#[test]
fn processes_of_one_exec_call_do_not_outlive_it() {
    let scene = Scene::with(&inline(
        "bad",
        "runtime: exec\n  command: [sh, bomb.sh]",
        "bomb.sh",
        "for n in 1 2 3 4 5 6 7 8; do sleep 1000 & done\necho started",
        "",
    ));
    scene.neighbour.is_undisturbed_while(|| {
        let answer = scene.post("");
        assert_eq!((answer.status, answer.text().trim()), (200, "started"), "{answer:?}");
    });
    scene.end();
}

#[test]
fn a_full_tmp_is_an_error_of_the_function_and_nobody_elses() {
    let scene = Scene::with(&node_with(
        "bad",
        "const fs = require('node:fs');
exports.handler = async (event) => {
  if (event.rawQueryString === 'who') return process.env.HEARTH_INSTANCE;
  const file = fs.openSync('/tmp/full', 'w');
  let written = 0;
  try {
    for (;;) written += fs.writeSync(file, Buffer.alloc(1 << 20));
  } catch (error) {
    return { code: error.code, written };
  } finally {
    fs.closeSync(file);
    fs.unlinkSync('/tmp/full');
  }
};",
        "resources: { memory: 256Mi, tmp: 16Mi }",
    ));
    let instance = scene.instance();
    scene.neighbour.is_undisturbed_while(|| {
        let answer = scene.post("fill");
        assert_eq!(
            (answer.status, answer.json()["code"].as_str()),
            (200, Some("ENOSPC")),
            "{}",
            answer.text()
        );
        assert!(answer.json()["written"].as_u64() <= Some(16 << 20), "{}", answer.text());
    });
    assert_eq!(scene.instance(), instance, "the same instance serves on");
    scene.end();
}

#[test]
fn a_hundred_megabytes_of_log_are_bounded_and_block_nobody() {
    const LIMIT: u64 = 16 << 20;
    // Room is made by a segment at a time.
    const SEGMENT: u64 = LIMIT / 8;
    let scene = Scene::without_function(&[("HEARTH_LOGS_PER_FUNCTION", "16Mi")]);
    scene.hearth.deploy(&node_with(
        "bad",
        "const line = 'x'.repeat(999) + '\\n';
exports.handler = async (event) => {
  if (event.rawQueryString === 'who') return process.env.HEARTH_INSTANCE;
  for (let n = 0; n < 100; n += 1) process.stdout.write(line.repeat(1000));
  return 'printed';
};",
        "resources: { memory: 512Mi }",
    ));
    let instance = scene.instance();
    scene.neighbour.is_undisturbed_while(|| {
        // What is kept of one call has a limit too: only several reach the function's.
        for _ in 0..3 {
            let answer = scene.post("print");
            assert_eq!((answer.status, answer.json().as_str()), (200, Some("printed")), "{answer:?}");
        }
    });
    assert_eq!(scene.instance(), instance, "the same instance serves on");
    let kept = size_of(&scene.hearth.data_dir().join("logs/default/bad"));
    assert!(kept <= LIMIT + SEGMENT, "logs are bounded on disk: {kept} bytes");
    let memory = scene.controller_memory();
    assert!(memory < 200, "the controller holds {memory} MiB");
    scene.end();
}

/// A client that reads an answer, or only its head, over this version of HTTP.
#[derive(Debug, Clone, Copy)]
enum Client {
    Http1,
    Http2,
}

/// An answer of a gigabyte comes whole, and nothing of it is held.
fn streams_a_gigabyte(signature: &str, handler: &str, client: Client) {
    let code = format!("const block = Buffer.alloc(1 << 20, 'x');\nexports.handler = {handler};");
    let manifest =
        node_with("bad", &code, &format!("signature: {signature}\nresources: {{ memory: 128Mi }}"));
    let scene = Scene::with(&manifest);
    let instance = scene.instance();
    let before = scene.controller_memory();
    scene.neighbour.is_undisturbed_while(|| {
        let (address, target) = (scene.hearth.gateway(), format!("{BAD}?much"));
        let (status, length) = match client {
            Client::Http1 => {
                let mut connection = Connection::open(address).expect("the gateway listens");
                connection.send(&Request::get(&target)).expect("the request is sent");
                let (answer, length) = connection.response_length().expect("the whole answer");
                (answer.status, length)
            }
            Client::Http2 => {
                let answer = Answer::of(address, &target);
                (answer.status(), answer.length())
            }
        };
        assert_eq!((status, length), (200, 1 << 30));
    });
    assert_eq!(scene.instance(), instance, "the same instance serves on");
    let after = scene.controller_memory();
    assert!(after < before + 64, "the controller went from {before} to {after} MiB");
    scene.end();
}

const GIGABYTE_HTTP: &str = "async (req, res) => {
  if (req.url.endsWith('who')) return res.end(process.env.HEARTH_INSTANCE);
  for (let n = 0; n < 1024 && !res.destroyed; n += 1) {
    if (!res.write(block)) await Promise.race(['drain', 'close'].map((event) => new Promise((done) => res.once(event, done))));
  }
  res.end();
}";

const GIGABYTE_FETCH: &str = "async (request) => {
  if (request.url.endsWith('who')) return new Response(process.env.HEARTH_INSTANCE);
  let left = 1024;
  return new Response(new ReadableStream({
    pull(controller) {
      if (left === 0) return controller.close();
      left -= 1;
      controller.enqueue(block);
    },
  }));
}";

#[test]
fn an_answer_of_a_gigabyte_streams_and_nothing_of_it_is_held() {
    streams_a_gigabyte("http", GIGABYTE_HTTP, Client::Http1);
}

#[test]
fn an_answer_of_a_gigabyte_streams_over_frames_too() {
    streams_a_gigabyte("fetch", GIGABYTE_FETCH, Client::Http1);
}

#[test]
fn an_answer_of_a_gigabyte_streams_to_an_http2_client_too() {
    streams_a_gigabyte("fetch", GIGABYTE_FETCH, Client::Http2);
}

/// An answer that nobody reads is not in the controller, and the instance serves on beside it.
fn waits_in_the_instance(signature: &str, handler: &str, client: Client) {
    let code = format!("exports.handler = {handler};");
    let fields = format!("signature: {signature}\nresources: {{ memory: 512Mi }}\nscale: {{ max: 1 }}");
    let scene = Scene::with(&node_with("bad", &code, &fields));
    let instance = scene.instance();
    let before = scene.controller_memory();
    scene.neighbour.is_undisturbed_while(|| {
        let (address, target) = (scene.hearth.gateway(), format!("{BAD}?much"));
        // Both are held until the instance has answered another.
        let (mut http1, http2) = match client {
            Client::Http1 => (Some(Connection::open(address).expect("the gateway listens")), None),
            Client::Http2 => (None, Some(Answer::of(address, &target))),
        };
        if let Some(idle) = &mut http1 {
            idle.send(&Request::get(&target)).expect("the request is sent");
            assert_eq!(idle.response_head().expect("the head").status, 200);
        }
        assert!(http2.as_ref().is_none_or(|answer| answer.status() == 200));
        assert_eq!(scene.instance(), instance, "the instance serves on beside it");
        drop((http1, http2));
    });
    assert_eq!(scene.instance(), instance, "the same instance serves on");
    let after = scene.controller_memory();
    assert!(after < before + 64, "the controller went from {before} to {after} MiB");
    scene.end();
}

const MUCH_EVENT: &str =
    "async (event) => (event.rawQueryString === 'who' ? process.env.HEARTH_INSTANCE : 'x'.repeat(16 << 20))";
const MUCH_FETCH: &str = "async (request) => new Response(request.url.endsWith('who') ? process.env.HEARTH_INSTANCE : 'x'.repeat(16 << 20))";
const MUCH_HTTP: &str =
    "(req, res) => res.end(req.url.endsWith('who') ? process.env.HEARTH_INSTANCE : 'x'.repeat(16 << 20))";

#[test]
fn an_answer_that_nobody_reads_waits_in_the_instance() {
    waits_in_the_instance("event", MUCH_EVENT, Client::Http1);
}

#[test]
fn an_answer_of_a_fetch_handler_that_nobody_reads_waits_in_the_instance() {
    waits_in_the_instance("fetch", MUCH_FETCH, Client::Http1);
}

#[test]
fn an_answer_over_a_dedicated_connection_that_nobody_reads_waits_in_the_instance() {
    waits_in_the_instance("http", MUCH_HTTP, Client::Http1);
}

#[test]
fn an_answer_that_an_http2_client_does_not_read_waits_in_the_instance() {
    waits_in_the_instance("fetch", MUCH_FETCH, Client::Http2);
}

/// Bytes of all files below a directory.
fn size_of(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => size_of(&entry.path()),
            Ok(found) => found.len(),
            Err(_) => 0,
        })
        .sum()
}
