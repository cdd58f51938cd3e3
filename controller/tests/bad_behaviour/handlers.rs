//! Handlers that fail, end, loop or answer nobody.

use std::time::Duration;

use crate::support::http::{Connection, Request};
use crate::support::{eventually, inline, node, node_with, python, python_with};
use crate::{BAD, Scene, assert_refused, assert_says};

#[test]
fn a_handler_that_throws_costs_its_own_call_only() {
    let scene = Scene::with(&node(
        "bad",
        "exports.handler = (event) => {
  if (event.rawQueryString === 'who') return Promise.resolve(process.env.HEARTH_INSTANCE);
  throw new Error('no luck');
};",
    ));
    let instance = scene.instance();
    scene.neighbour.is_undisturbed_while(|| assert_refused(&scene.get("throw"), 502, "function_error"));
    assert_eq!(scene.instance(), instance, "the same instance serves on");
    scene.end();
}

#[test]
fn a_handler_that_rejects_costs_its_own_call_only() {
    let scene = Scene::with(&node(
        "bad",
        "exports.handler = async (event) => {
  if (event.rawQueryString === 'who') return process.env.HEARTH_INSTANCE;
  if (event.rawQueryString === 'nothing') return Promise.reject();
  throw new Error('no luck');
};",
    ));
    let instance = scene.instance();
    scene.neighbour.is_undisturbed_while(|| {
        assert_refused(&scene.get("reject"), 502, "function_error");
        assert_refused(&scene.get("nothing"), 502, "function_error");
    });
    assert_eq!(scene.instance(), instance, "the same instance serves on");
    scene.end();
}

#[test]
fn a_python_handler_that_raises_costs_its_own_call_only() {
    let scene = Scene::with(&python(
        "bad",
        "import os
def handler(event, context):
    if event['rawQueryString'] == 'who':
        return os.environ['HEARTH_INSTANCE']
    raise ValueError('no luck')",
    ));
    let instance = scene.instance();
    scene.neighbour.is_undisturbed_while(|| assert_refused(&scene.get("raise"), 502, "function_error"));
    assert_eq!(scene.instance(), instance, "the same instance serves on");
    scene.end();
}

#[test]
fn a_handler_that_exits_loses_its_instance_and_the_next_call_finds_another() {
    let scene = Scene::with(&node(
        "bad",
        "exports.handler = async (event) => {
  if (event.rawQueryString === 'who') return process.env.HEARTH_INSTANCE;
  process.exit(3);
};",
    ));
    let first = scene.instance();
    scene.neighbour.is_undisturbed_while(|| {
        let answer = scene.post("exit");
        assert_refused(&answer, 502, "instance_lost");
        assert_says(&answer, "3");
        assert_ne!(scene.instance(), first, "a fresh instance serves");
    });
    scene.end();
}

#[test]
fn a_call_that_may_be_repeated_is_not_repeated_for_ever() {
    let scene = Scene::with(&node(
        "bad",
        "exports.handler = async (event) => {
  if (event.rawQueryString === 'who') return process.env.HEARTH_INSTANCE;
  process.exit(3);
};",
    ));
    scene.neighbour.is_undisturbed_while(|| assert_refused(&scene.get("exit"), 502, "instance_lost"));
    scene.instance();
    scene.end();
}

#[test]
fn a_python_handler_that_exits_loses_its_instance_and_the_next_call_finds_another() {
    let scene = Scene::with(&python(
        "bad",
        "import os
def handler(event, context):
    if event['rawQueryString'] == 'who':
        return os.environ['HEARTH_INSTANCE']
    os._exit(3)",
    ));
    let first = scene.instance();
    scene.neighbour.is_undisturbed_while(|| {
        assert_refused(&scene.post("exit"), 502, "instance_lost");
        assert_ne!(scene.instance(), first, "a fresh instance serves");
    });
    scene.end();
}

#[test]
fn an_endless_loop_is_cut_off_when_its_time_is_over() {
    let scene = Scene::with(&node_with(
        "bad",
        "exports.handler = async (event) => {
  if (event.rawQueryString === 'who') return process.env.HEARTH_INSTANCE;
  while (true);
};",
        "timeouts: { execute: 1s }",
    ));
    let first = scene.instance();
    scene.neighbour.is_undisturbed_while(|| assert_refused(&scene.post("loop"), 504, "execute_timeout"));
    // It has some seconds to answer a ping; what comes meanwhile waits for that and is not sent there.
    assert_ne!(scene.instance(), first, "the instance that did not even answer a ping is gone");
    scene.end();
}

#[test]
fn a_server_that_loops_is_replaced_as_well() {
    let scene = Scene::with(&inline(
        "bad",
        "runtime: http\n  command: [node, server.js]",
        "server.js",
        "require('http').createServer((request, response) => {
  if (request.url.endsWith('?loop')) while (true);
  response.end(process.env.HEARTH_INSTANCE);
}).listen(process.env.PORT);",
        "timeouts: { execute: 1s }",
    ));
    let first = scene.instance();
    scene.neighbour.is_undisturbed_while(|| assert_refused(&scene.post("loop"), 504, "execute_timeout"));
    assert_ne!(scene.instance(), first, "the instance whose server did not answer is gone");
    scene.end();
}

#[test]
fn an_endless_loop_in_python_is_cut_off_when_its_time_is_over() {
    let scene = Scene::with(&python_with(
        "bad",
        "import os
def handler(event, context):
    if event['rawQueryString'] == 'who':
        return os.environ['HEARTH_INSTANCE']
    while True:
        pass",
        "timeouts: { execute: 1s }",
    ));
    scene.instance();
    scene.neighbour.is_undisturbed_while(|| assert_refused(&scene.post("loop"), 504, "execute_timeout"));
    assert!(eventually(|| (scene.get("who").status == 200).then_some(())).is_some(), "it answers again");
    scene.end();
}

#[test]
fn a_handler_that_blocks_the_loop_delays_its_own_instance_and_loses_no_call() {
    let scene = Scene::with(&node_with(
        "bad",
        "exports.handler = async (event) => {
  if (event.rawQueryString === 'block') Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1500);
  return process.env.HEARTH_INSTANCE;
};",
        "scale: { max: 1 }",
    ));
    let instance = scene.instance();
    scene.neighbour.is_undisturbed_while(|| {
        let mut blocking = Connection::open(scene.hearth.gateway()).expect("the gateway listens");
        blocking.send(&Request::get(&format!("{BAD}?block"))).expect("the request is sent");
        let beside = scene.get("beside");
        let blocked = blocking.response().expect("an answer");
        for answer in [beside, blocked] {
            assert_eq!((answer.status, answer.text()), (200, instance.clone()));
        }
    });
    scene.end();
}

#[test]
fn an_instance_that_ignores_sigterm_is_killed_when_its_time_is_over() {
    let scene = Scene::with(&node(
        "bad",
        "process.on('SIGTERM', () => console.log('not me'));
setInterval(() => {}, 1000);
exports.handler = async () => process.env.HEARTH_INSTANCE;",
    ));
    scene.instance();
    let running = scene.hearth.instance_processes();
    assert!(running > scene.quiet, "the function runs in a container of its own");
    let mut deleted = false;
    scene.neighbour.is_undisturbed_while(|| {
        if !deleted {
            scene.hearth.delete("bad");
            deleted = true;
        }
        let gone = eventually(|| (scene.hearth.instance_processes() <= scene.quiet).then_some(()));
        assert!(gone.is_some(), "its processes are still there");
        assert_refused(&scene.get("gone"), 404, "route_not_found");
    });
    drop(scene.neighbour);
    scene.hearth.stop();
}

#[test]
fn an_answer_that_comes_after_the_client_left_disturbs_nobody() {
    let scene = Scene::with(&node_with(
        "bad",
        "exports.handler = async (event) => {
  if (event.rawQueryString !== 'who') await new Promise((done) => setTimeout(done, 2000));
  return process.env.HEARTH_INSTANCE;
};",
        "concurrency: { limit: 1 }\nscale: { max: 1 }",
    ));
    let instance = scene.instance();
    scene.neighbour.is_undisturbed_while(|| {
        let mut leaving = Connection::open(scene.hearth.gateway()).expect("the gateway listens");
        leaving.send(&Request::post(&format!("{BAD}?late"), "{}")).expect("the request is sent");
        // Long enough that the call has reached the instance, which has one slot.
        assert!(leaving.silent_for(Duration::from_millis(100)), "it answers later");
        drop(leaving);
        assert_eq!(scene.instance(), instance, "the slot is free again, in the same instance");
    });
    scene.end();
}
