//! A process that is killed while it writes.

use super::*;

/// Where the child of the next test finds its store; not set in the test itself.
const CHILD: &str = "HEARTH_TEST_STORE";

#[tokio::test]
async fn what_was_answered_survives_a_kill() {
    use std::io::{BufRead, BufReader, Write};
    if let Some(directory) = std::env::var_os(CHILD) {
        let store = open(Path::new(&directory)).await;
        for number in 0_u32.. {
            store.create(function(&format!("f{number}")), now()).await.unwrap();
            writeln!(std::io::stdout(), "stored {number}").unwrap();
        }
    }
    let directory = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "store::tests::crash::what_was_answered_survives_a_kill", "--nocapture"])
        .env(CHILD, directory.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut answered = 0;
    for line in lines {
        // The harness writes lines of its own, and the first answer after the name of the test.
        if line.contains("stored ") {
            answered += 1;
        }
        if answered == 1 {
            let second = Store::open(Config::new(directory.path().join("hearth.redb"))).await;
            assert!(matches!(second, Err(Error::InUse { .. })), "{second:?}");
        }
        if answered == 40 {
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(answered >= 40, "the child ended early");
    let store = open(directory.path()).await;
    // One more may have been stored whose answer did not get out.
    let found = store.list::<Function>(None).items.len();
    assert!(found == answered || found == answered + 1, "{answered} were answered, {found} are there");
}
