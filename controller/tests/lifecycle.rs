//! The life of functions and their instances, with real containers: from zero, out, in, redeployed, failed, crashed, adopted. Needs root.

#![expect(clippy::tests_outside_test_module, reason = "all of it is a test")]

#[path = "lifecycle/crashes.rs"]
mod crashes;
#[path = "lifecycle/ending.rs"]
mod ending;
mod support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use support::http::{Connection, Request, Response};
use support::{Hearth, condition, eventually, inline, node, node_with, text};

const PATH: &str = "/function/default/fn";

/// Says which instance and which version of the code answered.
fn version(number: u32) -> String {
    format!(
        "exports.handler = async () => ({{ statusCode: 200, headers: {{ instance: process.env.HEARTH_INSTANCE }}, body: 'v{number}' }})"
    )
}

/// The same after a while, so that calls overlap.
fn slow(millis: u32) -> String {
    format!(
        "exports.handler = async () => {{ await new Promise(r => setTimeout(r, {millis})); return {{ statusCode: 200, headers: {{ instance: process.env.HEARTH_INSTANCE }}, body: 'done' }} }}"
    )
}

/// A server that heeds no SIGTERM.
const DEAF: &str = "import http.server, os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
address = ('', int(os.environ['PORT']))
http.server.HTTPServer(address, http.server.SimpleHTTPRequestHandler).serve_forever()";

fn instance(answer: &Response) -> String {
    answer.header("instance").unwrap_or_default().to_owned()
}

/// Clients that send one request after the other until they are told to stop.
struct Load {
    stop: &'static AtomicBool,
    clients: Vec<JoinHandle<Vec<Result<Response, String>>>>,
}

impl Load {
    fn start(gateway: SocketAddr, clients: usize, target: &'static str) -> Self {
        let stop: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        let client = move || {
            let mut answers = Vec::new();
            let mut connection = None;
            while !stop.load(Ordering::Relaxed) {
                let mut open = match connection.take() {
                    Some(open) => open,
                    None => Connection::open(gateway).expect("the gateway takes connections"),
                };
                let answer = open.exchange(&Request::get(target)).map_err(|error| error.to_string());
                if answer.as_ref().is_ok_and(|answer| answer.header("connection") != Some("close")) {
                    connection = Some(open);
                }
                answers.push(answer);
            }
            answers
        };
        Self { stop, clients: (0..clients).map(|_| thread::spawn(client)).collect() }
    }

    fn stop(self) -> Vec<Result<Response, String>> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().expect("a client does not panic")).collect()
    }
}

/// When an instance was started, as the command line lists it.
fn started(hearth: &Hearth, name: &str) -> Option<String> {
    let listed = hearth.cli(&["get", "instances", name, "-o", "json"]);
    let listed: serde_json::Value = serde_json::from_slice(&listed.stdout).ok()?;
    listed["started"].as_str().map(str::to_owned)
}

fn failed(answers: &[Result<Response, String>]) -> Vec<String> {
    let wrong = |answer: &Result<Response, String>| match answer {
        Ok(answer) if answer.status == 200 => None,
        Ok(answer) => Some(format!("{} {}", answer.status, answer.text())),
        Err(error) => Some(error.clone()),
    };
    answers.iter().filter_map(wrong).collect()
}

#[test]
fn a_request_at_zero_starts_an_instance_and_idleness_ends_it() {
    let hearth = Hearth::start(&[]);
    hearth.deploy(&node_with("fn", &version(1), "scale: { initial: 0, idleTimeout: 1s }"));
    assert_eq!(hearth.instance_processes(), 0, "nothing was tried");
    let first = hearth.get(PATH);
    assert_eq!((first.status, first.text().as_str()), (200, "v1"), "{}", hearth.own_log());
    assert_eq!(first.header("x-hearth-start"), Some("cold"));
    assert_eq!(hearth.get(PATH).header("x-hearth-start"), Some("warm"));
    assert!(
        eventually(|| (hearth.instance_processes() == 0).then_some(())).is_some(),
        "{}",
        hearth.own_log()
    );
    let counted = || (hearth.function("fn")?["status"]["instances"]["ready"] == 0).then_some(());
    assert!(eventually(counted).is_some(), "the status says so");
    assert_eq!(hearth.get(PATH).header("x-hearth-start"), Some("cold"));
    hearth.stop();
}

#[test]
fn calls_that_find_no_slot_get_instances_of_their_own() {
    let hearth = Hearth::start(&[]);
    hearth.deploy(&node_with("fn", &slow(300), "concurrency: { limit: 1 }\nscale: { max: 3, initial: 0 }"));
    let gateway = hearth.gateway();
    let calls: Vec<_> =
        (0..6).map(|_| thread::spawn(move || Request::get(PATH).send(gateway).unwrap())).collect();
    let answers: Vec<Response> = calls.into_iter().map(|call| call.join().unwrap()).collect();
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    let instances: BTreeSet<String> = answers.iter().map(instance).collect();
    assert!((2..=3).contains(&instances.len()), "{instances:?}");
    hearth.stop();
}

#[test]
fn one_quick_request_never_causes_a_second_instance() {
    let hearth = Hearth::start(&[]);
    hearth.deploy(&node_with("fn", &version(1), "scale: { initial: 0 }"));
    let instances: BTreeSet<String> = (0..20).map(|_| instance(&hearth.get(PATH))).collect();
    assert_eq!(instances.len(), 1, "{instances:?}\n{}", hearth.own_log());
    hearth.stop();
}

#[test]
fn an_ephemeral_function_has_a_fresh_instance_for_every_call() {
    let hearth = Hearth::start(&[]);
    hearth.deploy(&node_with("fn", &version(1), "processModel: ephemeral\nscale: { initial: 0 }"));
    let answers: Vec<Response> = (0..4).map(|_| hearth.get(PATH)).collect();
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    let instances: BTreeSet<String> = answers.iter().map(instance).collect();
    assert_eq!(instances.len(), 4);
    assert!(eventually(|| (hearth.instance_processes() == 0).then_some(())).is_some());
    hearth.stop();
}

#[test]
fn a_redeployment_under_load_loses_no_request() {
    let hearth = Hearth::start(&[]);
    hearth.deploy(&node("fn", &version(1)));
    let load = Load::start(hearth.gateway(), 4, PATH);
    for number in 2..=4 {
        hearth.deploy(&node("fn", &version(number)));
        assert_eq!(hearth.get(PATH).text(), format!("v{number}"));
    }
    let answers = load.stop();
    assert_eq!(failed(&answers), Vec::<String>::new(), "of {}\n{}", answers.len(), hearth.own_log());
    let versions: BTreeSet<String> = answers.iter().flatten().map(Response::text).collect();
    assert!(versions.len() >= 3, "{versions:?}");
    let only_one = || {
        let shown = text(&hearth.cli(&["get", "revisions"]));
        (shown.matches("Ready").count() == 1 && shown.matches("Retired").count() == 3).then_some(())
    };
    assert!(eventually(only_one).is_some(), "{}", text(&hearth.cli(&["get", "revisions"])));
    hearth.stop();
}

#[test]
fn a_revision_that_fails_leaves_the_old_one_serving_and_says_why() {
    let hearth = Hearth::start(&[]);
    hearth.deploy(&node("fn", &version(1)));
    hearth.apply(&node("fn", "console.log('about to break'); throw new Error('broken on purpose')")).unwrap();
    let function = hearth.settled("fn");
    let (ready, message) = condition(&function, "Ready");
    assert_eq!(ready, "False");
    for part in ["broken on purpose", "about to break", "fn-00001 goes on serving"] {
        assert!(message.contains(part), "{part:?} in {message}");
    }
    assert_eq!(hearth.get(PATH).text(), "v1");
    hearth.deploy(&node("fn", &version(3)));
    assert_eq!(hearth.get(PATH).text(), "v3");
    hearth.stop();
}

#[test]
fn a_first_revision_that_fails_tells_those_who_call_it() {
    let hearth = Hearth::start(&[]);
    hearth.apply(&node("fn", "exports.other = 1")).unwrap();
    let (ready, _) = condition(&hearth.settled("fn"), "Ready");
    assert_eq!(ready, "False");
    let answer = hearth.get(PATH);
    assert_eq!((answer.status, &answer.json()["code"]), (502, &"start_failed".into()), "{}", answer.text());
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    hearth.stop();
}

#[test]
fn a_killed_controller_adopts_its_instances_with_their_logs() {
    let mut hearth = Hearth::start(&[]);
    let code = "let n = 0; exports.handler = async () => { n += 1; console.log('call', n); return { statusCode: 200, headers: { instance: process.env.HEARTH_INSTANCE }, body: String(n) } }";
    hearth.deploy(&node("fn", code));
    let before = hearth.get(PATH);
    assert_eq!(before.text(), "1");
    let age = started(&hearth, &instance(&before)).expect("it is listed");
    let load = Load::start(hearth.gateway(), 2, PATH);
    let ran = || (text(&hearth.cli(&["logs", "fn"])).matches("call").count() > 20).then_some(());
    assert!(eventually(ran).is_some());
    hearth.kill();
    load.stop.store(true, Ordering::Relaxed);
    for client in load.clients {
        // A client that finds nobody has ended in a panic of its own: that is what a killed server is like.
        let _refused = client.join().is_err();
    }
    let processes = hearth.instance_processes();
    assert!(processes > 0, "instances outlive their controller");
    hearth.restart();
    let after = hearth.get(PATH);
    assert_eq!((after.status, instance(&after)), (200, instance(&before)), "{}", hearth.own_log());
    assert_eq!(after.header("x-hearth-start"), Some("warm"));
    // The list is 50 ms behind at most.
    assert_eq!(eventually(|| started(&hearth, &instance(&after))), Some(age), "it keeps its age");
    let calls: u32 = after.text().parse().unwrap();
    assert!(calls > 21, "it is the same process: {calls}");
    let whole = || {
        let shown = text(&hearth.cli(&["logs", "fn"]));
        (1..=calls)
            .all(|call| shown.lines().filter(|line| line.ends_with(&format!("call {call}"))).count() == 1)
            .then_some(())
    };
    assert!(eventually(whole).is_some(), "every line once: {}", text(&hearth.cli(&["logs", "fn"])));
    hearth.stop();
}

#[test]
fn an_instance_that_dies_is_replaced_and_its_end_is_in_the_log() {
    let hearth = Hearth::start(&[]);
    let code = "exports.handler = async (event) => { if (event.rawPath.endsWith('/die')) process.exit(7); return { statusCode: 200, headers: { instance: process.env.HEARTH_INSTANCE } } }";
    hearth.deploy(&node("fn", code));
    let before = instance(&hearth.get(PATH));
    let post = Request::post(&format!("{PATH}/die"), "x");
    let died = hearth.send(&post);
    assert_eq!((died.status, &died.json()["code"]), (502, &"instance_lost".into()), "{}", died.text());
    assert!(died.text().contains("exit code 7"), "{}", died.text());
    let after = hearth.get(PATH);
    assert_eq!(after.status, 200);
    assert_ne!(instance(&after), before);
    let told =
        || text(&hearth.cli(&["logs", "fn"])).contains("the instance ended: exit code 7").then_some(());
    assert!(eventually(told).is_some(), "{}", text(&hearth.cli(&["logs", "fn"])));
    hearth.stop();
}

#[test]
fn the_log_of_a_request_has_exactly_its_lines() {
    let hearth = Hearth::start(&[]);
    let code = "exports.handler = async (event) => { for (let i = 0; i < 3; i++) { console.log(event.rawPath, i); await new Promise(r => setTimeout(r, 20)) } return 'ok' }";
    hearth.deploy(&node("fn", code));
    let gateway = hearth.gateway();
    let calls: Vec<_> = (0..8)
        .map(|number| thread::spawn(move || Request::get(&format!("{PATH}/{number}")).send(gateway).unwrap()))
        .collect();
    for (number, call) in calls.into_iter().enumerate() {
        let answer = call.join().unwrap();
        let id = answer.header("x-hearth-request-id").unwrap().to_owned();
        let expected: Vec<String> = (0..3).map(|line| format!("/{number} {line}")).collect();
        let shown = || {
            let shown = text(&hearth.cli(&["logs", "--request", &id]));
            let lines: Vec<&str> = shown.lines().filter(|line| !line.starts_with("[hearth]")).collect();
            let fits =
                lines.len() == 3 && lines.iter().zip(&expected).all(|(line, text)| line.ends_with(text));
            (fits && shown.lines().last()?.contains("→ 200")).then_some(())
        };
        assert!(eventually(shown).is_some(), "{}", text(&hearth.cli(&["logs", "fn", "--request", &id])));
    }
    hearth.stop();
}

#[test]
fn what_is_deleted_is_gone_with_its_instances_and_logs() {
    let hearth = Hearth::start(&[]);
    hearth.deploy(&node("fn", "console.log('hi'); exports.handler = async () => 'ok'"));
    assert_eq!(hearth.get(PATH).status, 200);
    hearth.delete("fn");
    let gone = || (hearth.get(PATH).status == 404 && hearth.instance_processes() == 0).then_some(());
    assert!(eventually(gone).is_some(), "{}", hearth.own_log());
    let logs = hearth.data_dir().join("logs/default/fn");
    assert!(eventually(|| (!logs.exists()).then_some(())).is_some());
    // One of the same name is another one.
    hearth.deploy(&node("fn", &version(1)));
    assert_eq!(hearth.get(PATH).text(), "v1");
    hearth.stop();
}

#[test]
fn a_stop_lets_running_calls_end() {
    let hearth = Hearth::start(&[]);
    hearth.deploy(&node("fn", &slow(1500)));
    let gateway = hearth.gateway();
    let call = thread::spawn(move || Request::get(PATH).send(gateway));
    let busy = || {
        let shown = hearth.cli(&["describe", "fn", "-o", "json"]);
        text(&shown).contains("\"inFlight\": 1").then_some(())
    };
    assert!(eventually(busy).is_some(), "{}", text(&hearth.cli(&["describe", "fn", "-o", "json"])));
    hearth.stop();
    let answer = call.join().unwrap().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
}

#[test]
fn a_second_signal_kills_at_once_what_heeds_none_though_its_stop_has_begun() {
    let hearth = Hearth::start(&[]);
    hearth.deploy(&inline("fn", "runtime: http\n  command: [python3, main.py]", "main.py", DEAF, ""));
    assert_eq!(hearth.get(PATH).status, 200);
    hearth.interrupt();
    let stopping = || text(&hearth.cli(&["get", "instances"])).contains("Stopping").then_some(());
    assert!(eventually(stopping).is_some(), "{}", hearth.own_log());
    let again = Instant::now();
    hearth.stop();
    // By itself it would have 5 s from the first one on.
    assert!(again.elapsed() < Duration::from_secs(3), "it took {:?}", again.elapsed());
}

#[test]
fn the_management_api_answers_to_the_names_that_are_configured() {
    let hearth = Hearth::start(&[("HEARTH_MANAGEMENT_NAMES", "hearth.test,other.test")]);
    let ask = |name: &str| support::tls::get(hearth.management(), name, "/version", hearth.data_dir());
    for name in ["hearth.test", "other.test", "localhost"] {
        let answer = ask(name).expect("the certificate is for this name");
        assert!(answer.starts_with("HTTP/1.1 200"), "{name}: {answer}");
    }
    assert!(ask("evil.test").is_err());
    hearth.stop();
}
