//! `hearth simulate` as it is typed: files, standard input, the report. Nothing runs but the command.

#![expect(clippy::tests_outside_test_module, clippy::unwrap_used, reason = "all of it is a test")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn simulate(arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hearth"))
        .arg("simulate")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that does not read its input closes it.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    child.wait_with_output().unwrap()
}

fn words(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

fn table(input: &str) -> Value {
    let output = simulate(&["-", "--output", "json"], input);
    assert!(output.status.success(), "{}", words(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn standard_input_is_a_trace_and_its_first_start_is_the_beginning() {
    let late = table("a,1764350003,0.1\n\"b,c\",1764350000,0.1\n");
    assert_eq!(late[0]["trace"], "standard input: 2 calls of 2 functions in 63 s");
    assert_eq!(late, table("a,3,0.1\n\"b,c\",0,0.1\n"));
    assert!(late[0]["policies"].as_array().unwrap().iter().all(|row| row["served"] == 2), "{late}");
    let twice = simulate(&["-", "-"], "a,0,1\n");
    assert_eq!(twice.status.code(), Some(2), "{}", words(&twice.stderr));
}

#[test]
fn what_cannot_be_replayed_is_refused_with_its_line() {
    for (input, said) in [
        ("a,0,1\na,1764350000,1\n", "standard input: line 2: this call ends 20420"),
        (
            "HashOwner,HashApp,HashFunction,Trigger,1\no,a,f,http,2000000000\n",
            "line 2: minute 1: a trace has at most",
        ),
        (
            "HashOwner,HashApp,HashFunction,Trigger,1,2\no,a,f,http,1\n",
            "line 2: 1 counts, and the header names 2",
        ),
    ] {
        let output = simulate(&["-"], input);
        assert_eq!(output.status.code(), Some(1));
        assert!(words(&output.stderr).contains(said), "{}", words(&output.stderr));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_report_that_cannot_be_written_is_said_before_the_replay() {
    let directory = tempfile::tempdir().unwrap();
    let html = |path: &Path| simulate(&["-", "--html", path.to_str().unwrap()], "a,0,0.1\n");
    let refused = html(&directory.path().join("none/report.html"));
    assert_eq!(refused.status.code(), Some(1));
    let said = words(&refused.stderr);
    assert!(said.contains("cannot write") && !said.contains("1 calls"), "{said}");
    // It can be opened, and never takes a byte.
    let full = html(Path::new("/dev/full"));
    assert_eq!(full.status.code(), Some(1));
    assert!(words(&full.stdout).contains("fixed 10 min"), "the table is lost: {}", words(&full.stderr));
    let path = directory.path().join("report.html");
    assert!(html(&path).status.success());
    assert!(std::fs::read_to_string(&path).unwrap().ends_with("</html>\n"));
}

#[test]
fn an_idle_timeout_is_refused_as_in_a_manifest() {
    for (timeout, said) in
        [("0s", "0s is too little; give at least 1s"), ("25h", "25h is too much; give at most 24h")]
    {
        let output = simulate(&["-", "--idle-timeout", timeout], "a,0,0.1\n");
        assert_eq!(output.status.code(), Some(2));
        assert!(words(&output.stderr).contains(said), "{}", words(&output.stderr));
    }
    assert!(simulate(&["-", "--idle-timeout", "1s"], "a,0,0.1\n").status.success());
}
