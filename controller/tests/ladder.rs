//! The warmth ladder with real containers: pooled, paused, reserved, ephemeral. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "all of it is a test")]

mod support;

use std::collections::BTreeSet;

use support::http::Request;
use support::{Hearth, eventually, node_with, text};

const PATH: &str = "/function/default/fn";

/// Pools on, with so many in each.
fn pools(size: &'static str) -> [(&'static str, &'static str); 2] {
    [("HEARTH_PREWARM_ENABLED", "true"), ("HEARTH_PREWARM_SIZE", size)]
}

/// How many instances stand on a rung, by the metrics.
fn on_rung(hearth: &Hearth, rung: &str) -> u32 {
    let metrics = Request::get("/metrics").send(hearth.management()).expect("metrics are answered").text();
    let line = format!("hearth_ladder_instances{{rung=\"{rung}\"}} ");
    let count = metrics.lines().find_map(|found| found.strip_prefix(&line)).expect("every rung is counted");
    count.parse().expect("a number")
}

fn until_on_rung(hearth: &Hearth, rung: &str, count: u32) {
    let reached = eventually(|| (on_rung(hearth, rung) == count).then_some(()));
    assert!(reached.is_some(), "{} are {rung}, not {count}\n{}", on_rung(hearth, rung), hearth.own_log());
}

const TELLS: &str = "console.log('loaded');
    exports.handler = async () => { console.log('called');
      return { statusCode: 200, body: [process.env.GREETING, process.env.HEARTH_FUNCTION, process.env.HOME, process.cwd(),
        process.env.HEARTH_INSTANCE].join(' ') }; };";

#[test]
fn a_pooled_instance_becomes_the_functions_own() {
    let hearth = Hearth::start(&pools("1"));
    let env = "env: [{ name: GREETING, value: hi }]\nscale: { initial: 0, idleTimeout: 1s }";
    hearth.deploy(&node_with("fn", TELLS, env));
    until_on_rung(&hearth, "pooled", 1);
    let answer = hearth.get(PATH);
    assert_eq!(answer.header("x-hearth-start"), Some("prewarmed"), "{}", hearth.own_log());
    let body = answer.text();
    let told: Vec<&str> = body.split(' ').collect();
    assert_eq!(&told[..4], ["hi", "fn", "/tmp", "/code"], "{body}");
    let request = answer.header("x-hearth-request-id").expect("every answer has an id").to_owned();
    let logged = eventually(|| {
        let lines = text(&hearth.cli(&["logs", "fn", "--request", &request]));
        lines.contains("called").then_some(lines)
    });
    assert!(logged.is_some_and(|lines| !lines.contains("loaded")), "what it printed is the function's");
    assert!(text(&hearth.cli(&["logs", "fn"])).contains("loaded"));
    until_on_rung(&hearth, "pooled", 1);
    assert!(text(&hearth.cli(&["top"])).contains("pooled"));
    hearth.stop();
}

#[test]
fn ephemeral_calls_get_fresh_pooled_instances_as_long_as_the_pool_lasts() {
    let hearth = Hearth::start(&pools("3"));
    let once = "processModel: ephemeral\nscale: { initial: 0 }";
    let code = "let calls = 0; exports.handler = async () => ({ statusCode: 200, body: `${process.env.HEARTH_INSTANCE} ${++calls}` });";
    hearth.deploy(&node_with("fn", code, once));
    until_on_rung(&hearth, "pooled", 3);
    let answers: Vec<_> = (0..3).map(|_| hearth.get(PATH)).collect();
    let bodies: BTreeSet<String> = answers.iter().map(|answer| answer.text()).collect();
    assert_eq!(bodies.len(), 3, "{bodies:?}");
    assert!(bodies.iter().all(|body| body.ends_with(" 1")), "each serves one call: {bodies:?}");
    assert!(
        answers.iter().all(|answer| answer.header("x-hearth-start") == Some("prewarmed")),
        "{answers:?}\n{}",
        hearth.own_log()
    );
    hearth.stop();
}

#[test]
fn an_idle_instance_is_frozen_and_the_next_request_thaws_it() {
    let hearth = Hearth::start(&[]);
    let code = "let ticks = 0; setInterval(() => ticks++, 5); exports.handler = async () => ({ statusCode: 200, body: String(ticks) });";
    hearth.deploy(&node_with("fn", code, "scale: { initial: 0, pause: 500ms, idleTimeout: 1h }"));
    assert_eq!(hearth.get(PATH).header("x-hearth-start"), Some("cold"));
    until_on_rung(&hearth, "paused", 1);
    let status = eventually(|| (hearth.function("fn")?["status"]["instances"]["paused"] == 1).then_some(()));
    assert!(status.is_some(), "the status says so");
    let answer = hearth.get(PATH);
    assert_eq!((answer.status, answer.header("x-hearth-start")), (200, Some("paused")));
    assert_eq!(hearth.get(PATH).header("x-hearth-start"), Some("warm"));
    until_on_rung(&hearth, "paused", 1);
    // Frozen instances stop like any other.
    hearth.stop();
}

#[test]
fn after_a_crash_paused_instances_are_thawed_and_adopted_and_pools_made_anew() {
    let mut hearth = Hearth::start(&pools("1"));
    let code = "exports.handler = async () => ({ statusCode: 200, body: process.env.HEARTH_INSTANCE });";
    hearth.deploy(&node_with("fn", code, "scale: { initial: 0, pause: 500ms, idleTimeout: 1h }"));
    until_on_rung(&hearth, "pooled", 1);
    let first = hearth.get(PATH);
    assert_eq!(first.header("x-hearth-start"), Some("prewarmed"));
    until_on_rung(&hearth, "paused", 1);
    until_on_rung(&hearth, "pooled", 1);
    hearth.crash_and_restart();
    let again = hearth.get(PATH);
    assert_eq!(again.text(), first.text(), "the same instance goes on\n{}", hearth.own_log());
    until_on_rung(&hearth, "pooled", 1);
    hearth.stop();
}

#[test]
fn what_is_kept_is_there_before_the_first_request_and_replaced_when_it_fails() {
    let hearth = Hearth::start(&[]);
    let code = "exports.handler = async (event) => { if (event.rawQueryString === 'die') process.exit(3); return { statusCode: 200, body: 'ok' }; };";
    hearth.deploy(&node_with("fn", code, "scale: { min: 1, initial: 0 }"));
    until_on_rung(&hearth, "reserved", 1);
    assert_eq!(hearth.get(PATH).header("x-hearth-start"), Some("reserved"));
    assert_eq!(hearth.get(&format!("{PATH}?die")).status, 502);
    until_on_rung(&hearth, "reserved", 1);
    assert_eq!(hearth.get(PATH).status, 200);
    hearth.stop();
}
