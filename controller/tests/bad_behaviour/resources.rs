//! Handlers that take all they can get: memory, processes, disk, log, answer.

use std::path::Path;

use crate::support::http::{Connection, Request};
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
    let mut most = 0;
    scene.neighbour.is_undisturbed_while(|| {
        let answer = scene.post("fork");
        // Which limit it meets first, time or memory, is a matter of chance.
        let refused = (answer.status, answer.code());
        assert!(
            [(504, "execute_timeout".to_owned()), (502, "instance_lost".to_owned())].contains(&refused),
            "{refused:?} {}",
            answer.text()
        );
        most = most.max(scene.hearth.instance_processes());
    });
    assert!(most < 2000, "the limit holds: {most} processes");
    // An instance that is short of everything may still be on its way out, and calls that meet it run into their own time limit.
    assert!(eventually(|| (scene.get("who").status == 200).then_some(())).is_some(), "it answers again");
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
    let scene = Scene::with(&node_with(
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
        let answer = scene.post("print");
        assert_eq!((answer.status, answer.json().as_str()), (200, Some("printed")), "{answer:?}");
    });
    assert_eq!(scene.instance(), instance, "the same instance serves on");
    let kept = size_of(&scene.hearth.data_dir().join("logs/default/bad"));
    assert!(kept <= 40 << 20, "logs are bounded on disk: {kept} bytes");
    let memory = scene.controller_memory();
    assert!(memory < 200, "the controller holds {memory} MiB");
    scene.end();
}

#[test]
fn an_answer_of_a_gigabyte_streams_and_nothing_of_it_is_held() {
    let scene = Scene::with(&node_with(
        "bad",
        "const block = Buffer.alloc(1 << 20, 'x');
exports.handler = async (req, res) => {
  if (req.url.endsWith('who')) return res.end(process.env.HEARTH_INSTANCE);
  for (let n = 0; n < 1024 && !res.destroyed; n += 1) {
    if (!res.write(block)) await Promise.race(['drain', 'close'].map((event) => new Promise((done) => res.once(event, done))));
  }
  res.end();
};",
        "signature: http\nresources: { memory: 128Mi }",
    ));
    let instance = scene.instance();
    let before = scene.controller_memory();
    scene.neighbour.is_undisturbed_while(|| {
        let mut connection = Connection::open(scene.hearth.gateway()).expect("the gateway listens");
        connection.send(&Request::get(&format!("{BAD}?much"))).expect("the request is sent");
        let (answer, length) = connection.response_length().expect("the whole answer");
        assert_eq!((answer.status, length), (200, 1 << 30));
    });
    assert_eq!(scene.instance(), instance, "the same instance serves on");
    let after = scene.controller_memory();
    assert!(after < before + 64, "the controller went from {before} to {after} MiB");
    scene.end();
}

#[test]
fn an_answer_that_nobody_reads_waits_in_the_instance() {
    let scene = Scene::with(&node_with(
        "bad",
        "exports.handler = async (event) => (event.rawQueryString === 'who' ? process.env.HEARTH_INSTANCE : 'x'.repeat(16 << 20));",
        "resources: { memory: 512Mi }\nscale: { max: 1 }",
    ));
    let instance = scene.instance();
    let before = scene.controller_memory();
    scene.neighbour.is_undisturbed_while(|| {
        let mut idle = Connection::open(scene.hearth.gateway()).expect("the gateway listens");
        idle.send(&Request::get(&format!("{BAD}?much"))).expect("the request is sent");
        assert_eq!(idle.response_head().expect("the head").status, 200);
        assert_eq!(scene.instance(), instance, "the instance serves on beside it");
    });
    assert_eq!(scene.instance(), instance, "the same instance serves on");
    let after = scene.controller_memory();
    assert!(after < before + 64, "the controller went from {before} to {after} MiB");
    scene.end();
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
