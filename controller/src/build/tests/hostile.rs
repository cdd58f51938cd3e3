//! Bundles that mean no good. Each is refused by name, and leaves nothing: not in the store, and not outside of it.

use std::fs;
use std::path::Path;

use hearth_protocol::bundle::{inside, link_stays_inside};
use proptest::prelude::*;
use tar::{Builder, EntryType, Header};

use super::{digest, gzip};
use crate::build::bundles::Error;
use crate::build::{Bundles, Limits};

/// An entry as a foe would write it: the library's own checks are not asked.
pub(super) fn entry(kind: EntryType, name: &str, link: &str, mode: u32, content: &[u8]) -> (Header, Vec<u8>) {
    let mut header = Header::new_gnu();
    header.as_gnu_mut().unwrap().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_gnu_mut().unwrap().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    header.set_cksum();
    (header, content.to_vec())
}

pub(super) fn file(name: &str) -> (Header, Vec<u8>) {
    entry(EntryType::Regular, name, "", 0o644, b"content")
}

pub(super) fn link(name: &str, target: &str) -> (Header, Vec<u8>) {
    entry(EntryType::Symlink, name, target, 0o777, b"")
}

pub(super) fn hard(name: &str, target: &str) -> (Header, Vec<u8>) {
    entry(EntryType::Link, name, target, 0o644, b"")
}

fn archive(entries: Vec<(Header, Vec<u8>)>) -> Vec<u8> {
    let mut archive = Builder::new(Vec::new());
    for (header, content) in entries {
        archive.append(&header, content.as_slice()).unwrap();
    }
    gzip(&archive.into_inner().unwrap())
}

const LIMITS: Limits = Limits { packed_bytes: 1 << 20, unpacked_bytes: 1 << 20, entries: 100 };

/// Puts it, and sees that nothing is left after a failure.
fn put(packed: &[u8]) -> Result<tempfile::TempDir, Error> {
    let dir = tempfile::tempdir().unwrap();
    // Where `../` from the bundle's directory would come out.
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    let bundles = Bundles::open(&data, LIMITS).unwrap();
    let result = bundles.put_blocking(&digest(packed), packed);
    let outside: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(outside, ["data"]);
    let store = fs::read_dir(data.join("bundles/sha256")).unwrap().count();
    assert_eq!(store, usize::from(result.is_ok()));
    result.map(|_| dir)
}

fn problem(entries: Vec<(Header, Vec<u8>)>) -> String {
    put(&archive(entries)).map(|_| ()).unwrap_err().to_string()
}

#[test]
fn whatever_leads_out_of_the_bundle_is_refused() {
    for (entries, expected) in [
        (vec![file("../evil")], r#""../evil" has .. in its path"#),
        (vec![file("a/../../evil")], r#""a/../../evil" has .. in its path"#),
        (vec![file("/tmp/evil")], r#""/tmp/evil" has an absolute path"#),
        (vec![link("l", "/etc/passwd")], r#""l" is a link that leads out of the bundle"#),
        (vec![link("l", "../x")], r#""l" is a link that leads out of the bundle"#),
        (vec![link("a/l", "../../x")], r#""a/l" is a link that leads out of the bundle"#),
        // Each link is harmless, and together they lead two directories up.
        (vec![link("x", "."), link("y", "x/x/../..")], r#""y" is a link that leads out of the bundle"#),
        (vec![hard("h", "/etc/passwd")], r#""h" is a link that leads out of the bundle"#),
        (vec![hard("h", "../x")], r#""h" is a link that leads out of the bundle"#),
        (vec![hard("h", "missing")], r#""h" is a link to something that is no file of the bundle"#),
        (
            vec![link("l", "."), file("f"), hard("h", "l/f")],
            r#""h" is a link to something that is no file of the bundle"#,
        ),
    ] {
        let problem = problem(entries);
        assert!(problem.contains(expected), "{problem}");
    }
}

#[test]
fn nothing_is_written_through_a_link() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    for entries in [
        vec![link("l", target), file("l/evil")],
        vec![file("l/evil"), link("l", target)],
        vec![link("l", "."), file("l/evil")],
        vec![link("l", "."), link("l/m", "x")],
        vec![file("f"), file("f/g")],
    ] {
        let problem = problem(entries);
        assert!(
            problem.contains("no directory") || problem.contains("twice") || problem.contains("out of"),
            "{problem}"
        );
    }
    assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
}

#[test]
fn what_is_neither_file_nor_directory_nor_link_is_refused() {
    for (kind, expected) in [
        (EntryType::Char, "is a device"),
        (EntryType::Block, "is a device"),
        (EntryType::Fifo, "is a named pipe"),
        (EntryType::GNUSparse, "is of a kind that cannot be unpacked"),
        (EntryType::new(b'Q'), "is of a kind that cannot be unpacked"),
    ] {
        let problem = problem(vec![entry(kind, "null", "", 0o644, b"")]);
        assert!(problem.contains(expected), "{problem}");
    }
    for mode in [0o4755, 0o2755] {
        assert!(problem(vec![entry(EntryType::Regular, "su", "", mode, b"")]).contains("set-uid"));
    }
    assert!(problem(vec![file("a"), file("a")]).contains("is there twice"));
    assert!(problem(vec![file("a"), link("a", "b")]).contains("is there twice"));
    assert!(problem(vec![entry(EntryType::Symlink, "a", "", 0o777, b"")]).contains("a link to nowhere"));
}

#[test]
fn limits_hold_whatever_the_headers_say() {
    // A megabyte of zeros packs to a kilobyte.
    let bomb = archive(vec![entry(EntryType::Regular, "bomb", "", 0o644, &vec![0; (1 << 20) + 1])]);
    assert!(matches!(put(&bomb), Err(Error::TooLarge { unit: "bytes unpacked", .. })));
    let many = archive((0..101).map(|number| file(&number.to_string())).collect());
    assert!(matches!(put(&many), Err(Error::TooLarge { unit: "entries", .. })));
    let deep = archive(["a/", "b/", "c/"].map(|top| file(&format!("{top}{}x", "d/".repeat(40)))).to_vec());
    assert!(matches!(put(&deep), Err(Error::TooLarge { unit: "entries", .. })));
    let again = vec![entry(EntryType::Directory, "d/", "", 0o755, b""); 401];
    assert!(matches!(put(&archive(again)), Err(Error::TooLarge { unit: "entries", .. })));
    let long_name =
        archive(vec![entry(EntryType::GNULongName, "././@LongLink", "", 0o644, &vec![b'a'; 70_000])]);
    assert!(matches!(put(&long_name), Err(Error::TooLarge { unit: "bytes in an extension header", .. })));
    // Links are made last: until then the archive's names of them are held.
    let far = "x/".repeat(1000);
    let long_link = entry(EntryType::GNULongLink, "././@LongLink", "", 0o644, far.as_bytes());
    let links = (0..20).flat_map(|number| [long_link.clone(), link(&format!("l{number}"), "x")]).collect();
    let unit = "bytes of names of directories and links";
    assert!(matches!(put(&archive(links)), Err(Error::TooLarge { unit: held, .. }) if held == unit));
    let noise: Vec<u8> = (0..300_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()).collect();
    let large = archive(vec![entry(EntryType::Regular, "noise", "", 0o644, &noise)]);
    assert!(matches!(put(&large), Err(Error::TooLarge { unit: "bytes packed", .. })));
}

#[test]
fn an_extension_header_cannot_smuggle() {
    let pax = |record: &str| {
        // The length of a record counts its own digits.
        let length = record.len() + 4;
        assert!((10..100).contains(&length));
        entry(EntryType::XHeader, "pax", "", 0o644, format!("{length} {record}\n").as_bytes())
    };
    let with = |record: &str| problem(vec![pax(record), file("innocent")]);
    assert!(with("path=../../../evil").contains("has .. in its path"));
    assert!(with("size=99999999999").contains("has a size in an extension header"));
    let entries = vec![pax("linkpath=/etc/passwd-"), link("innocent", "here")];
    assert!(problem(entries).contains("leads out of the bundle"));
    let long = entry(EntryType::GNULongName, "././@LongLink", "", 0o644, b"../evil\0");
    assert!(problem(vec![long, file("innocent")]).contains("has .. in its path"));
}

#[test]
fn what_is_damaged_is_called_so() {
    let whole = archive(vec![file("a"), file("b")]);
    let half = &whole[..whole.len() / 2];
    assert!(matches!(put(half), Err(Error::Archive(_))));
    assert!(matches!(put(b"no archive at all"), Err(Error::Archive(_))));
    let dir = tempfile::tempdir().unwrap();
    let bundles = Bundles::open(dir.path(), LIMITS).unwrap();
    // A broken archive that is not what was announced was damaged on the way.
    for bytes in [half, whole.as_slice(), b""] {
        let result = bundles.put_blocking(&digest(b"something else"), bytes);
        assert!(matches!(result, Err(Error::WrongDigest { .. })), "{result:?}");
    }
    // What comes after the archive belongs to the digest.
    let mut longer = whole.clone();
    longer.extend_from_slice(b"more");
    assert!(matches!(
        bundles.put_blocking(&digest(&whole), longer.as_slice()),
        Err(Error::WrongDigest { .. })
    ));
}

#[test]
fn friendly_forms_of_other_tools_are_taken() {
    let long = "d".repeat(120);
    let entries = vec![
        entry(EntryType::XGlobalHeader, "pax_global_header", "", 0o644, b"19 comment=made by\n"),
        entry(EntryType::Directory, "./", "", 0o755, b""),
        entry(EntryType::Directory, "./bin/", "", 0o2775, b""),
        entry(EntryType::Regular, "./bin/run", "", 0o750, b"#!"),
        entry(EntryType::Regular, "old/", "", 0o755, b""),
        entry(EntryType::GNULongName, "././@LongLink", "", 0o644, format!("{long}\0").as_bytes()),
        file("short"),
        link("bin/again", "../bin/run"),
        hard("copy", "bin/run"),
    ];
    let dir = put(&archive(entries)).unwrap();
    let store = dir.path().join("data/bundles/sha256");
    let bundle = fs::read_dir(store).unwrap().next().unwrap().unwrap().path();
    let names: Vec<_> = super::tree(&bundle).into_keys().collect();
    let expected = ["bin/again", "bin/run", "copy", long.as_str()].map(std::path::PathBuf::from);
    assert_eq!(names, expected);
    assert!(bundle.join("old").is_dir());
    assert_eq!(fs::read_to_string(bundle.join("bin/again")).unwrap(), "#!");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_at_all_make_it_panic_or_write_outside(noise in proptest::collection::vec(any::<u8>(), 0..2000), spoil in 0usize..4000, with: u8) {
        drop(put(&gzip(&noise)));
        let mut archive = Builder::new(Vec::new());
        for (header, content) in [file("a/b"), link("a/c", "b"), hard("d", "a/b")] {
            archive.append(&header, content.as_slice()).unwrap();
        }
        let mut bytes = archive.into_inner().unwrap();
        let index = spoil % bytes.len();
        bytes[index] = with;
        drop(put(&gzip(&bytes)));
    }

    #[test]
    fn a_path_that_is_taken_is_below_its_directory(raw in "[a./]{0,12}") {
        if let Ok(path) = inside(raw.as_bytes()) {
            prop_assert!(path.is_relative());
            prop_assert!(!path.components().any(|component| component.as_os_str() == ".."));
        }
    }

    #[test]
    fn links_that_are_taken_stay_inside_together(targets in proptest::collection::vec("(\\.\\./){0,3}([abc]/|\\./){0,3}[abc]?(/\\.\\.)?", 6)) {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("p/q/root").canonicalize().unwrap_or_else(|_| {
            fs::create_dir_all(dir.path().join("p/q/root/d/e")).unwrap();
            dir.path().join("p/q/root").canonicalize().unwrap()
        });
        for (target, place) in targets.iter().zip(["a", "b", "d/a", "d/c", "d/e/a", "d/e/b"]) {
            if link_stays_inside(Path::new(place), Path::new(target)) {
                std::os::unix::fs::symlink(target, root.join(place)).unwrap();
            }
        }
        for place in ["a", "b", "d/a", "d/c", "d/e/a", "d/e/b"] {
            // Endless or broken ones lead nowhere.
            if let Ok(real) = root.join(place).canonicalize() {
                prop_assert!(real.starts_with(&root), "{}", real.display());
            }
        }
    }
}
