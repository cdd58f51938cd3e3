use super::*;

/// A name, its type, its mode and what is in it (or where it leads).
type Entry = (&'static str, EntryType, u32, &'static str);

/// A tar of them.
fn tar_of(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (path, kind, mode, text) in entries {
        let mut header = tar::Header::new_gnu();
        // Past the library's own checks: what comes is not made with it.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_mtime(1_700_000_000);
        let content = if matches!(kind, EntryType::Symlink | EntryType::Link) {
            header.as_old_mut().linkname[..text.len()].copy_from_slice(text.as_bytes());
            ""
        } else {
            text
        };
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content.as_bytes());
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn mount(tar: &[u8], at: &Path) -> Mount {
    let digest = name(&Sha256::digest(tar));
    Mount { digest, bytes: tar.len() as u64, at: at.to_string_lossy().into_owned() }
}

/// A directory with a neighbour that nobody may touch.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("at")).unwrap();
        fs::write(directory.path().join("neighbour"), "untouched").unwrap();
        Self(directory)
    }

    fn at(&self) -> PathBuf {
        self.0.path().join("at")
    }

    fn unpack(&self, tar: &[u8], access: Access) -> Result<(), Error> {
        let unpacked = verified(tar, &mount(tar, &self.at()), access);
        assert_eq!(fs::read_to_string(self.0.path().join("neighbour")).unwrap(), "untouched");
        assert_eq!(fs::read_dir(self.0.path()).unwrap().count(), 2, "something stands beside the directory");
        unpacked
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Who is not root could not remove it.
        let mut todo = vec![self.at()];
        while let Some(path) = todo.pop() {
            if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
                set_mode(&path, 0o755).unwrap();
                todo.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

const USUAL: [Entry; 5] = [
    ("./", EntryType::Directory, 0o700, ""),
    ("./a/index.js", EntryType::Regular, 0o600, "code"),
    ("a/tool", EntryType::Regular, 0o4777, "#!"),
    ("a/b/link", EntryType::Symlink, 0o777, "../index.js"),
    ("same", EntryType::Link, 0o644, "a/tool"),
];

#[test]
fn everything_can_be_read_and_nothing_be_written() {
    let place = Place::new();
    place.unpack(&tar_of(&USUAL), Access::ReadOnly).unwrap();
    let at = place.at();
    assert_eq!(fs::read_to_string(at.join("a/b/link")).unwrap(), "code");
    assert_eq!(fs::read_to_string(at.join("same")).unwrap(), "#!");
    for (path, expected) in
        [("", 0o555), ("a", 0o555), ("a/b", 0o555), ("a/index.js", 0o444), ("a/tool", 0o555)]
    {
        assert_eq!(mode(&at.join(path)), expected, "{path}");
    }
    let modified = fs::metadata(at.join("a/index.js")).unwrap().modified().unwrap();
    assert_eq!(modified.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(), 1_700_000_000);
}

#[test]
fn a_jobs_directory_can_be_written() {
    let place = Place::new();
    place.unpack(&tar_of(&USUAL), Access::ReadWrite).unwrap();
    for (path, expected) in [("a", 0o755), ("a/index.js", 0o644), ("a/tool", 0o755)] {
        assert_eq!(mode(&place.at().join(path)), expected, "{path}");
    }
}

#[test]
fn what_leads_out_or_is_no_file_is_refused() {
    use EntryType as Is;
    let file = |path| (path, Is::Regular, 0o644, "x");
    let cases: &[(&[Entry], &str)] = &[
        (&[file("../neighbour")], "has .. in"),
        (&[file("a/../../neighbour")], "has .. in"),
        (&[file("/tmp/hearth-unpack")], "absolute"),
        (&[("..", Is::Directory, 0o755, "")], "has .. in"),
        (&[("link", Is::Symlink, 0, "../neighbour")], "leads out"),
        (&[("link", Is::Symlink, 0, "/etc/passwd")], "leads out"),
        (&[("a/link", Is::Symlink, 0, "../../neighbour")], "leads out"),
        // `b` may be a link itself.
        (&[("a/link", Is::Symlink, 0, "b/../c")], "leads out"),
        (&[("link", Is::Symlink, 0, "")], "nowhere"),
        (&[("link", Is::Link, 0, "../neighbour")], "has .. in"),
        (&[("link", Is::Link, 0, "nothing")], "no file of it"),
        // A file through a link: the file is there first, whatever the order, and the link finds its name taken.
        (&[("a", Is::Symlink, 0, "b"), file("a/x")], "already"),
        // A link through a link.
        (&[("a", Is::Symlink, 0, "."), ("a/b", Is::Link, 0, "x"), file("x")], "already"),
        (&[file("x"), file("x")], "already"),
        (&[file("x"), file("x/y")], "already"),
        (&[("null", Is::Char, 0o666, "")], "device"),
        (&[("disk", Is::Block, 0o666, "")], "device"),
        (&[("pipe", Is::Fifo, 0o666, "")], "pipe"),
        (&[("volume", Is::new(b'V'), 0o666, "")], "kind"),
        (&[("./", Is::Regular, 0o666, "x")], "no directory"),
    ];
    for (entries, expected) in cases {
        let place = Place::new();
        match place.unpack(&tar_of(entries), Access::ReadOnly) {
            Err(error @ Error::Refused { .. }) => {
                assert!(error.to_string().contains(expected), "{entries:?}: {error}");
            }
            other => panic!("{entries:?}: {other:?}"),
        }
    }
}

#[test]
fn another_tar_is_called_that_even_when_it_is_a_bad_one() {
    for tar in [tar_of(&USUAL), tar_of(&[("../x", EntryType::Regular, 0o644, "x")]), vec![7; 4096]] {
        let place = Place::new();
        let mount = Mount { digest: name(&[0; 32]), ..mount(&tar, &place.at()) };
        assert!(matches!(verified(&tar[..], &mount, Access::ReadOnly), Err(Error::WrongDigest { .. })));
    }
}

#[test]
fn what_is_cut_off_is_told_from_what_is_wrong() {
    let tar = tar_of(&USUAL);
    for length in [0, 100, 600, 1100, tar.len() - 1] {
        let place = Place::new();
        let cut = verified(&tar[..length], &mount(&tar, &place.at()), Access::ReadOnly);
        assert!(matches!(cut, Err(Error::Cut(_))), "{length}: {cut:?}");
        // And the next attempt finds an empty directory.
        clear(&place.at()).unwrap();
        place.unpack(&tar, Access::ReadOnly).unwrap();
    }
}

#[test]
fn no_more_is_read_than_was_promised() {
    let tar = tar_of(&USUAL);
    let place = Place::new();
    let mount = mount(&tar, &place.at());
    let mut longer = io::Cursor::new([&tar[..], b"the next message"].concat());
    verified(&mut longer, &mount, Access::ReadOnly).unwrap();
    assert_eq!(longer.position(), tar.len() as u64);
}
