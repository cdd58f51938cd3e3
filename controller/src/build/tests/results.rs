//! Results of installations that mean no good, and those that are only unusual.

use std::fs::{self, File};
use std::io::{Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, UNIX_EPOCH};

use tar::{Builder, EntryType, Header};

use super::hostile::{entry, file, hard, link};
use crate::build::unpack_result;

/// So much may stay; twice as much may come.
const INSTALLED: u64 = 1 << 20;

fn packed(entries: Vec<(Header, Vec<u8>)>) -> File {
    let mut archive = Builder::new(tempfile::tempfile().unwrap());
    for (header, content) in entries {
        archive.append(&header, content.as_slice()).unwrap();
    }
    let mut packed = archive.into_inner().unwrap();
    packed.rewind().unwrap();
    packed
}

/// Unpacks it, and sees that nothing came out beside the directory.
fn unpack(packed: File) -> Result<tempfile::TempDir, String> {
    let dir = tempfile::tempdir().unwrap();
    let build = dir.path().join("build");
    fs::create_dir(&build).unwrap();
    let unpacked = unpack_result(packed, &build, INSTALLED).map_err(|error| error.to_string());
    let beside: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(beside, ["build"]);
    unpacked.map(|()| dir)
}

#[test]
fn a_result_that_leads_out_is_refused_by_name() {
    let outside = tempfile::tempdir().unwrap();
    let target = outside.path().to_str().unwrap();
    fs::write(outside.path().join("kept"), "kept").unwrap();
    let kept = format!("{target}/kept");
    for (entries, expected) in [
        (vec![file("../evil")], r#""../evil" has .. in its path"#),
        (vec![file("a/../../evil")], r#""a/../../evil" has .. in its path"#),
        (vec![file("/tmp/evil")], r#""/tmp/evil" has an absolute path"#),
        (vec![link("l", target)], r#""l" is a link that leads out"#),
        // A link, and then a file through it.
        (vec![link("l", target), file("l/kept")], r#""l" is a link that leads out"#),
        (vec![link("l", ".."), file("l/evil")], r#""l" is a link that leads out"#),
        (vec![link("l", "."), file("l/evil")], r#""l" is there twice"#),
        (vec![link("x", "."), link("y", "x/x/../..")], r#""y" is a link that leads out"#),
        (vec![hard("h", &kept)], r#""h" is a link that leads out"#),
        (vec![hard("h", "../build")], r#""h" is a link that leads out"#),
        (vec![link("l", "."), file("f"), hard("h", "l/f")], r#""h" is a link to something that is no file"#),
        (vec![entry(EntryType::Char, "null", "", 0o666, b"")], "is a device"),
        (vec![entry(EntryType::Block, "disk", "", 0o666, b"")], "is a device"),
        (vec![entry(EntryType::Fifo, "pipe", "", 0o666, b"")], "is a named pipe"),
        (vec![file("a"), file("a")], "is there twice"),
    ] {
        let problem = unpack(packed(entries)).unwrap_err();
        assert!(problem.contains(expected), "{problem}, not {expected}");
    }
    let left: Vec<_> =
        fs::read_dir(outside.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["kept"]);
    assert_eq!(fs::read_to_string(&kept).unwrap(), "kept");
}

#[test]
fn a_result_is_counted_before_it_is_believed() {
    let large = vec![0; usize::try_from(2 * INSTALLED + 1).unwrap()];
    let large = packed(vec![entry(EntryType::Regular, "large", "", 0o644, &large)]);
    assert!(unpack(large).unwrap_err().contains("more than 2097152 bytes unpacked"));
    // A size that nothing comes after.
    let mut header = Header::new_gnu();
    header.set_path("claims").unwrap();
    header.set_mode(0o644);
    header.set_size(1 << 40);
    header.set_cksum();
    let mut claims = tempfile::tempfile().unwrap();
    claims.write_all(header.as_bytes()).unwrap();
    claims.rewind().unwrap();
    assert!(unpack(claims).unwrap_err().contains("bytes unpacked"));
    let long = entry(EntryType::GNULongName, "././@LongLink", "", 0o644, &vec![b'a'; 70_000]);
    assert!(unpack(packed(vec![long])).unwrap_err().contains("bytes in an extension header"));
    let again = vec![entry(EntryType::Directory, "d/", "", 0o755, b""); 3];
    assert!(unpack(packed(again)).is_ok());
}

#[test]
fn a_file_keeps_its_time_and_loses_what_would_make_it_dangerous() {
    let mut header = entry(EntryType::Regular, "lib/one.py", "", 0o4755, b"1").0;
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    let dir = unpack(packed(vec![(header, b"1".to_vec()), link("lib/two.py", "one.py")])).unwrap();
    let one = fs::metadata(dir.path().join("build/lib/one.py")).unwrap();
    assert_eq!(one.modified().unwrap(), UNIX_EPOCH + Duration::from_secs(1_700_000_000));
    assert_eq!(one.permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::read_to_string(dir.path().join("build/lib/two.py")).unwrap(), "1");
}
