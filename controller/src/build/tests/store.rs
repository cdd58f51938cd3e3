//! The store of bundles: whole or not there, whatever happens.

use std::collections::HashSet;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use super::{digest, write};
use crate::build::bundles::Error;
use crate::build::{Bundles, Limits, PackOptions, Packed, pack};

fn some_bundle() -> Packed {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..200u32 {
        let noise: Vec<u8> =
            (0..200u32).flat_map(|n| (n * number).wrapping_mul(2_654_435_761).to_be_bytes()).collect();
        write(dir.path(), &format!("{number}.js"), noise);
    }
    pack(dir.path(), &PackOptions::default()).unwrap()
}

fn count(dir: &Path) -> usize {
    fs::read_dir(dir.join("bundles/sha256")).unwrap().count()
}

#[tokio::test]
async fn a_bundle_is_there_from_its_put_to_its_removal() {
    let dir = tempfile::tempdir().unwrap();
    let bundles = Bundles::open(dir.path(), Limits::default()).unwrap();
    let packed = some_bundle();
    assert!(!bundles.has(&packed.digest));
    let path = bundles.put(&packed.digest, io::Cursor::new(packed.bytes.clone())).await.unwrap();
    assert_eq!(bundles.path(&packed.digest), Some(path.clone()));
    assert!(bundles.has(&packed.digest));
    // It is not even read again.
    let again = bundles.put(&packed.digest, io::Cursor::new(b"no archive")).await.unwrap();
    assert_eq!(again, path);
    let reopened = Bundles::open(dir.path(), Limits::default()).unwrap();
    assert_eq!(
        reopened.list().unwrap().into_iter().collect::<Vec<_>>(),
        std::slice::from_ref(&packed.digest)
    );
    reopened.remove(&packed.digest).unwrap();
    assert!(!bundles.has(&packed.digest));
    assert_eq!(count(dir.path()), 0);
}

#[tokio::test]
async fn the_same_bundle_may_come_twice_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let bundles = Bundles::open(dir.path(), Limits::default()).unwrap();
    let packed = some_bundle();
    let put = || bundles.put(&packed.digest, io::Cursor::new(packed.bytes.clone()));
    let (one, two, three) = tokio::join!(put(), put(), put());
    assert_eq!(one.unwrap(), two.unwrap());
    assert_eq!(fs::read_dir(three.unwrap()).unwrap().count(), 200);
    assert_eq!(count(dir.path()), 1);
}

#[test]
fn an_upload_that_breaks_off_leaves_nothing() {
    struct Breaks<'a>(&'a [u8]);
    impl Read for Breaks<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => Err(io::ErrorKind::ConnectionReset.into()),
                read => Ok(read),
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let bundles = Bundles::open(dir.path(), Limits::default()).unwrap();
    let packed = some_bundle();
    let half = Breaks(&packed.bytes[..packed.bytes.len() / 2]);
    assert!(matches!(bundles.put_blocking(&packed.digest, half), Err(Error::Read(_))));
    assert_eq!(count(dir.path()), 0);
}

#[test]
fn garbage_is_what_nobody_needs_and_nobody_asked_for_lately() {
    let dir = tempfile::tempdir().unwrap();
    let bundles = Bundles::open(dir.path(), Limits::default()).unwrap();
    let packed = some_bundle();
    bundles.put_blocking(&packed.digest, packed.bytes.as_slice()).unwrap();
    let keep = Duration::from_secs(3600);
    let collect = |live: &[_], after: Duration| {
        let live: HashSet<_> = live.iter().cloned().collect();
        bundles.collect(&live, keep, SystemTime::now() + after).unwrap()
    };
    assert!(collect(&[], Duration::ZERO).is_empty());
    assert!(collect(std::slice::from_ref(&packed.digest), 2 * keep).is_empty());
    assert_eq!(collect(&[digest(b"another")], 2 * keep), [packed.digest]);
    assert_eq!(count(dir.path()), 0);
}

/// Names the data directory for the process that is killed.
const DATA: &str = "HEARTH_TEST_DATA";

#[test]
fn a_crash_in_the_middle_leaves_nothing_after_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    let program = std::env::current_exe().unwrap();
    let mut child = Command::new(program)
        .args(["--exact", "--ignored", "--nocapture", "build::tests::store::unpacks_half_and_hangs"])
        .env(DATA, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.map_while(Result::ok).any(|line| line.contains("half is there")));
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(count(dir.path()), 1);
    let bundles = Bundles::open(dir.path(), Limits::default()).unwrap();
    assert_eq!(count(dir.path()), 0);
    let packed = some_bundle();
    assert!(!bundles.has(&packed.digest));
    let path = bundles.put_blocking(&packed.digest, packed.bytes.as_slice()).unwrap();
    assert_eq!(fs::read_dir(path).unwrap().count(), 200);
}

/// Run by the test above, in a process of its own.
#[test]
#[ignore = "hangs until it is killed"]
fn unpacks_half_and_hangs() {
    struct Hangs<'a>(&'a [u8]);
    impl Read for Hangs<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            match self.0.read(buffer)? {
                0 => {
                    println!("half is there");
                    // Until the parent is gone, should it not come to kill.
                    io::stdin().read_to_end(&mut Vec::new())
                }
                read => Ok(read),
            }
        }
    }
    let Ok(data) = std::env::var(DATA) else { return };
    let bundles = Bundles::open(Path::new(&data), Limits::default()).unwrap();
    let packed = some_bundle();
    let half = Hangs(&packed.bytes[..packed.bytes.len() / 2]);
    bundles.put_blocking(&packed.digest, half).unwrap_err();
}
