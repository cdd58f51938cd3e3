//! An instance that nobody writes anything for: it reports, gets its orders and its files, and tells its end.

use std::fs;
use std::io::Read;

use hearth_protocol::config::{Confinement, USER};
use hearth_protocol::report::{FromShim, ToShim};
use hearth_protocol::{Exit, Frame, Load, Loaded, ShimProcess, Signature};
use rustix::process::Signal;
use serde_json::json;

use crate::client::{Setup, get};
use crate::controller::{Controller, Tar};

fn job(script: &str) -> Setup {
    Setup::new(ShimProcess::Job { command: ["sh", "-c", script].map(str::to_owned).to_vec() })
}

/// The next record of the instance, which says this.
fn prints(shim: &crate::client::Shim, expected: &str) {
    shim.control(0).logs_until(|record| record.line == expected.as_bytes());
}

#[test]
fn a_function_comes_over_the_wire_and_is_called_without_a_relay() {
    for (setup, file, code, handler) in [
        (Setup::node(), "index.js", "exports.handler = async (event) => event.n + 1;", "index.handler"),
        (Setup::python(), "main.py", "def handler(event, context): return event['n'] + 1\n", "main.handler"),
    ] {
        let controller = Controller::new();
        let (shim, config) = setup.start_reporting(&controller);
        let _report = controller.start(&shim, config, &[(&Tar::of(&[(file, code)]), "code")]);
        let mut caller = shim.loaded(handler);
        assert_eq!(caller.call("r-1", &json!({ "n": 1 }), b"").unwrap().text(), "2");
        caller.ping();
    }
}

#[test]
fn programs_and_servers_are_reached_by_tcp_too() {
    let controller = Controller::new();
    let command = ["sh", "-c", "cat file; cat"].map(str::to_owned).to_vec();
    let (shim, config) = Setup::new(ShimProcess::Exec { command }).start_reporting(&controller);
    let _report = controller.start(&shim, config, &[(&Tar::of(&[("file", "from the tar, ")]), "code")]);
    let mut caller = shim.invoke();
    let load = Load { handler: None, ..shim.load_request("") };
    assert_eq!(caller.load(load), Loaded::Ok { signature: Signature::Exec });
    assert_eq!(caller.call("r-1", &get("/"), b"and the body").unwrap().text(), "from the tar, and the body");

    let code = "require('http').createServer((req, res) => res.end('served')).listen(process.env.PORT)";
    let command = ["node", "server.js"].map(str::to_owned).to_vec();
    let setup = Setup::new(ShimProcess::Http { command }).with(|config| {
        config.env.insert("PORT".to_owned(), crate::http::free_port().to_string());
    });
    let (shim, config) = setup.start_reporting(&controller);
    let _report = controller.start(&shim, config, &[(&Tar::of(&[("server.js", code)]), "code")]);
    let load = Load { handler: None, ..shim.load_request("") };
    assert_eq!(shim.invoke().load(load), Loaded::Ok { signature: Signature::Http });
    let mut stream = crate::http::attach(&shim).unwrap();
    let request = "GET / HTTP/1.1\r\nhost: x\r\n\r\n";
    assert!(crate::http::exchange(&mut stream, request, "served").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_pooled_instance_gets_its_function_later() {
    let controller = Controller::new();
    let (shim, config) = Setup::node().start_reporting(&controller);
    let mut report = controller.start(&shim, config, &[]);
    let mut caller = shim.invoke();
    caller.ping();
    let tar = Tar::of(&[
        ("index.js", "exports.handler = async () => require('./lib/one');"),
        ("lib/one.js", "module.exports = 1"),
    ]);
    report.say(&ToShim::Mount { number: 7, mounts: vec![tar.at(&shim.code())] });
    controller.accept().gives(&tar);
    assert_eq!(report.hear(), Some(FromShim::Mounted { number: 7, error: None }));
    let loaded = caller.load(shim.load_request("index.handler"));
    assert!(matches!(loaded, Loaded::Ok { .. }), "{loaded:?}");
    assert_eq!(caller.call("r-1", &json!({}), b"").unwrap().text(), "1");
    // Another one finds the directory taken; the instance bears it.
    report.say(&ToShim::Mount { number: 8, mounts: vec![tar.at(&shim.code())] });
    controller.accept().gives(&tar);
    match report.hear() {
        Some(FromShim::Mounted { number: 8, error: Some(error) }) => {
            assert!(error.contains("already"), "{error}")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(caller.call("r-2", &json!({}), b"").unwrap().text(), "1");
}

#[test]
fn a_tar_that_is_not_the_one_that_was_promised_starts_nothing() {
    let controller = Controller::new();
    let (mut shim, config) = job("echo never").start_reporting(&controller);
    let tar = Tar::of(&[("file", "right")]);
    let mut report = controller.accept_report(&shim, false);
    report.say(&ToShim::Start { config: Box::new(config), mounts: vec![tar.at(&shim.code())] });
    let mut wrong = tar.bytes.clone();
    wrong[512] = b'b';
    controller.accept().gives_bytes(&tar, &wrong);
    match report.hear() {
        Some(FromShim::Mounted { number: 0, error: Some(error) }) => {
            assert!(error.contains(&format!("should be {}", tar.digest)), "{error}");
        }
        other => panic!("{other:?}"),
    }
    let exit = Exit { code: Some(1), ..Exit::default() };
    assert_eq!(report.hear(), Some(FromShim::Ended { exit }));
    drop(report);
    assert_eq!(shim.code_at_the_end(), Some(1));
}

#[test]
fn a_tar_that_breaks_off_is_asked_for_again() {
    let controller = Controller::new();
    let (shim, config) = job("cat file; sleep 1000").start_reporting(&controller);
    let tar = Tar::of(&[("before", "x"), ("file", "whole\n")]);
    let mut report = controller.accept_report(&shim, false);
    report.say(&ToShim::Start { config: Box::new(config), mounts: vec![tar.at(&shim.code())] });
    controller.accept().gives_bytes(&tar, &tar.bytes[..1100]);
    // A controller that is not the leader answers in between.
    controller.accept().say(&ToShim::Elsewhere);
    controller.accept().gives(&tar);
    assert_eq!(report.hear(), Some(FromShim::Mounted { number: 0, error: None }));
    prints(&shim, "whole");
}

#[test]
fn the_leader_is_looked_for() {
    let controller = Controller::new();
    let (shim, config) = job("echo $RESOLVED $SAID; sleep 1000").start_reporting(&controller);
    controller.accept_report(&shim, false).say(&ToShim::Elsewhere);
    drop(controller.accept_report(&shim, false));
    let mut config = config;
    config.inherit = ["RESOLVED", "SAID", "HEARTH_TOKEN"].map(str::to_owned).to_vec();
    config.env.insert("SAID".to_owned(), "and by the controller".to_owned());
    let _report = controller.start(&shim, config, &[]);
    prints(&shim, "by the kubelet and by the controller");
}

#[test]
fn who_is_not_root_is_locked_in_as_far_as_it_goes() {
    let script =
        "id -u; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status; unshare -Ur true; echo unshare $?;
        cat /proc/$PPID/environ; echo environ $?; echo >file; echo write $?; echo done";
    let controller = Controller::new();
    let setup = job(script).with(|config| config.confinement = Confinement::Full);
    let (shim, config) = setup.start_reporting(&controller);
    let _report = controller.start(&shim, config, &[(&Tar::of(&[("file", "x")]), "code")]);
    let lines = shim.control(0).logs_until(|record| record.line == "done");
    let text: Vec<&str> = lines.iter().map(|record| std::str::from_utf8(&record.line).unwrap()).collect();
    let text = text.join("\n");
    let user = if rustix::process::geteuid().is_root() { USER } else { rustix::process::geteuid().as_raw() };
    for expected in [
        &format!("{user}\n"),
        "CapEff:\t0000000000000000",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "unshare 1",
        // The token is in there.
        "environ 1",
        "write 2",
    ] {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
}

#[test]
fn after_a_break_it_reports_again_and_what_was_unpacked_is_told_then() {
    let controller = Controller::new();
    let (shim, config) = job("sleep 1000").start_reporting(&controller);
    let mut report = controller.start(&shim, config, &[]);
    let tar = Tar::of(&[("file", "x")]);
    report.say(&ToShim::Mount { number: 1, mounts: vec![tar.at(&shim.code())] });
    let fetch = controller.accept();
    drop(report);
    let mut again = controller.accept_report(&shim, true);
    // Another controller has taken over meanwhile, and is not ready.
    again.say(&ToShim::Elsewhere);
    let mut again = controller.accept_report(&shim, true);
    again.say(&ToShim::GoOn);
    fetch.gives(&tar);
    assert_eq!(again.hear(), Some(FromShim::Mounted { number: 1, error: None }));
}

#[test]
fn an_instance_that_nobody_wants_ends() {
    let controller = Controller::new();
    let (mut shim, config) =
        job("trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done").start_reporting(&controller);
    let report = controller.start(&shim, config, &[]);
    prints(&shim, "ready");
    drop(report);
    controller
        .accept_report(&shim, true)
        .say(&ToShim::Refused { reason: "it is not in the list".to_owned() });
    assert_eq!(shim.code_at_the_end(), Some(5));

    let (mut shim, _) = job("echo never").start_reporting(&controller);
    controller.accept_report(&shim, false).say(&ToShim::Refused { reason: "no such instance".to_owned() });
    assert_eq!(shim.code_at_the_end(), Some(1));
}

#[test]
fn an_instance_that_is_told_to_end_says_how_it_did() {
    let controller = Controller::new();
    let (mut shim, config) =
        job("trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done").start_reporting(&controller);
    let mut report = controller.start(&shim, config, &[]);
    prints(&shim, "ready");
    report.say(&ToShim::End);
    assert_eq!(report.hear(), Some(FromShim::Ended { exit: Exit { code: Some(5), ..Exit::default() } }));
    drop(report);
    assert_eq!(shim.code_at_the_end(), Some(5));
}

#[test]
fn the_end_is_told_after_the_last_line() {
    let controller = Controller::new();
    let (mut shim, config) = job("echo out; exit 3").start_reporting(&controller);
    let mut report = controller.start(&shim, config, &[]);
    let mut control = shim.control(0);
    assert_eq!(control.logs_until(|_| true)[0].line, "out");
    let exit = Exit { code: Some(3), ..Exit::default() };
    assert!(matches!(control.next(), Frame::Exit(told) if told == exit));
    drop(control);
    assert_eq!(report.hear(), Some(FromShim::Ended { exit }));
    drop(report);
    assert_eq!(shim.code_at_the_end(), Some(3));
}

#[test]
fn a_report_connection_is_a_controllers_presence_and_without_one_the_instance_gives_up() {
    let controller = Controller::new();
    let setup = job("echo ready; exec sleep 1000").with(|config| config.controller_absence_ms = 50);
    let (mut shim, config) = setup.start_reporting(&controller);
    let mut report = controller.start(&shim, config, &[]);
    // Longer than the absence, without a control connection.
    report.stream.set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    assert!(report.stream.read(&mut [0]).is_err(), "nothing is said");
    prints(&shim, "ready");
    controller.go();
    drop(report);
    assert_eq!(shim.code_at_the_end(), Some(128 + 15));
}

#[test]
fn who_waits_for_orders_can_be_told_to_end() {
    let controller = Controller::new();
    let (mut shim, _) = job("echo never").start_reporting(&controller);
    let _report = controller.accept_report(&shim, false);
    shim.signal(Signal::TERM);
    assert_eq!(shim.code_at_the_end(), Some(128 + 15));
}

#[test]
fn a_jobs_result_goes_before_its_end() {
    let controller = Controller::new();
    let (mut shim, config) =
        job("echo more >> input && mkdir deep && cp input deep/result && ln -s input link")
            .start_reporting(&controller);
    let build = shim.directory.path().join("build");
    let config =
        hearth_protocol::ShimConfig { working_directory: build.to_string_lossy().into_owned(), ..config };
    let mut report = controller.start(&shim, config, &[(&Tar::of(&[("input", "given\n")]), "build")]);
    controller.accept().say(&ToShim::Elsewhere);
    let mut result = controller.accept();
    let tar = result.takes();
    let unpacked = tempfile::tempdir().unwrap();
    tar::Archive::new(&tar.bytes[..]).unpack(unpacked.path()).unwrap();
    result.say(&ToShim::Taken);
    for name in ["input", "deep/result", "link"] {
        assert_eq!(fs::read_to_string(unpacked.path().join(name)).unwrap(), "given\nmore\n", "{name}");
    }
    assert_eq!(report.hear(), Some(FromShim::Ended { exit: Exit { code: Some(0), ..Exit::default() } }));
    drop(report);
    assert_eq!(shim.code_at_the_end(), Some(0));
}

#[test]
fn a_job_whose_result_is_not_taken_has_failed() {
    let controller = Controller::new();
    let (mut shim, config) = job("true").start_reporting(&controller);
    let mut report = controller.start(&shim, config, &[(&Tar::of(&[]), "build")]);
    let mut result = controller.accept();
    result.takes();
    result.say(&ToShim::Refused { reason: "it is too large".to_owned() });
    shim.control(0).logs_until(|record| String::from_utf8_lossy(&record.line).contains("it is too large"));
    assert_eq!(report.hear(), Some(FromShim::Ended { exit: Exit { code: Some(1), ..Exit::default() } }));
    drop(report);
    assert_eq!(shim.code_at_the_end(), Some(1));
}
