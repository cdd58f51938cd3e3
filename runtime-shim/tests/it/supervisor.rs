//! The shim itself: logs, exit, absence, signals, confinement.

use hearth_protocol::config::Confinement;
use hearth_protocol::{Exit, Frame, LogStream, ShimProcess};
use rustix::process::Signal;

use crate::client::{Setup, Shim};

fn job(script: &str) -> Setup {
    Setup::new(ShimProcess::Job { command: ["sh", "-c", script].map(str::to_owned).to_vec() })
}

#[test]
fn a_job_is_told_to_its_end() {
    let mut shim = job("echo out; echo err >&2; exit 3").start();
    let mut control = shim.control(0);
    let mut lines = Vec::new();
    let exit = loop {
        match control.next() {
            Frame::Log(record) => {
                assert!(!record.shared && record.request_id.is_none() && record.unix_micros > 0);
                lines.push((record.stream, record.line));
            }
            Frame::Exit(exit) => break exit,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(exit, Exit { code: Some(3), signal: None, out_of_memory: false });
    lines.sort_by_key(|(stream, _)| *stream as u8);
    assert_eq!(lines, [(LogStream::Stdout, "out".into()), (LogStream::Stderr, "err".into())]);
    assert!(control.try_next().is_none());
    assert_eq!(shim.ended(), exit);
}

#[test]
fn a_signals_end_is_told() {
    let mut shim = job("kill -9 $$").start();
    let exit = shim.ended();
    assert_eq!((exit.code, exit.signal), (None, Some(9)));
}

#[test]
fn a_command_that_is_not_there_is_said() {
    let mut shim = Setup::new(ShimProcess::Job { command: vec!["/nowhere".to_owned()] }).start();
    let record = shim.control(0).logs_until(|_| true).remove(0);
    assert_eq!(record.stream, LogStream::Platform);
    assert!(String::from_utf8_lossy(&record.line).contains("could not be started"));
    assert_eq!(shim.ended().code, Some(127));
}

#[test]
fn a_controller_that_comes_back_goes_on_where_it_was() {
    let shim = job("for n in 1 2 3; do echo $n; done; read forever < /proc/self/fd/0; sleep 1000").start();
    let mut first = shim.control(0);
    let records = first.logs_until(|record| record.line == "2");
    let after = records.last().unwrap().sequence;
    drop(first);
    let mut second = shim.control(after);
    let next = second.logs_until(|_| true).remove(0);
    assert_eq!((next.sequence, &next.line[..], next.dropped), (after + 1, &b"3"[..], 0));
}

#[test]
fn a_flood_costs_the_old_lines_and_nothing_else() {
    let begin = std::time::Instant::now();
    // 100 MB, and nobody reads.
    let shim =
        job("head -c 100000000 /dev/zero | tr '\\0' 'x' | fold -w 99; echo; echo done; sleep 1000").start();
    let deadline = begin + crate::client::PATIENCE;
    // Connected only when all is printed: the ring has the end of it.
    let mut resident = 0;
    let mut cpu = String::new();
    let newest = loop {
        let mut control = shim.control(0);
        let record = control.logs_until(|_| true).remove(0);
        if record.sequence > 1_000_000 {
            break record;
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", shim.pid())).unwrap();
        resident = resident.max(field(&status, "VmHWM:"));
        cpu = std::fs::read_to_string(format!("/proc/{}/stat", shim.pid())).unwrap();
        assert!(std::time::Instant::now() < deadline, "too slow: {:?}", record.sequence);
        crate::client::pause();
    };
    let ticks: Vec<&str> = cpu.rsplit(") ").next().unwrap().split(' ').collect();
    println!("resident {resident} kB, {} + {} ticks", ticks[11], ticks[12]);
    assert_eq!(u64::from(newest.dropped), newest.sequence - 1);
    assert!(resident < 16 << 10, "{resident} kB");
}

/// A number of a `/proc` status file.
fn field(status: &str, name: &str) -> u64 {
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn without_a_controller_it_gives_up() {
    let mut shim = job("exec sleep 1000").with(|config| config.controller_absence_ms = 50).start();
    let control = shim.control(0);
    drop(control);
    assert_eq!(shim.ended(), Exit { code: None, signal: Some(15), out_of_memory: false });
}

#[test]
fn sigterm_is_handed_on() {
    let mut shim = job("trap 'exit 5' TERM; echo ready; while :; do sleep 0.01; done").start();
    let mut control = shim.control(0);
    control.logs_until(|record| record.line == "ready");
    shim.signal(Signal::TERM);
    assert!(matches!(control.next(), Frame::Exit(exit) if exit.code == Some(5)));
    drop(control);
    assert_eq!(shim.ended().code, Some(5));
}

#[test]
fn the_runtime_is_locked_in() {
    if !rustix::process::geteuid().is_root() {
        println!("not run: changing the user needs root");
        return;
    }
    let script = "id -u; id -g; grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; unshare -Ur true; echo unshare $?; ls /proc/self/fd | tr '\\n' ' '";
    let shim: Shim = job(script)
        .with(|config| {
            config.confinement = Confinement::Full;
            config.working_directory = "/".to_owned();
        })
        .start_in_root();
    let mut control = shim.control(0);
    let mut text = Vec::new();
    while let Frame::Log(record) = control.next() {
        text.push(String::from_utf8(record.line.to_vec()).unwrap());
    }
    let text = text.join("\n");
    for expected in
        ["65532\n65532", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2", "unshare 1"]
    {
        assert!(text.contains(expected), "{expected} is not in\n{text}");
    }
    // SETUID, SETGID, KILL.
    assert!(text.contains("CapBnd:\t00000000000000e0"), "{text}");
    // The fourth is the directory that `ls` reads.
    assert!(text.ends_with("\n0 1 2 3 "), "only the standard three are inherited:\n{text}");
}
