//! Functions whose code lies elsewhere: an archive on the web, a Git repository. Both are served from here. Needs root and `git`.

#![expect(clippy::tests_outside_test_module, reason = "all of it is a test")]

mod support;

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use hearth_function::Digest;
use support::{Hearth, condition, text};

/// A small web server: files by their path, and a Git repository below `/git/`.
struct Web {
    address: SocketAddr,
    files: Arc<Mutex<HashMap<String, Vec<u8>>>>,
    asked: Arc<AtomicUsize>,
    repositories: tempfile::TempDir,
}

impl Web {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let repositories = tempfile::tempdir().expect("a temporary directory");
        let (files, asked) = (Arc::default(), Arc::new(AtomicUsize::new(0)));
        let web = Self { address, files: Arc::clone(&files), asked: Arc::clone(&asked), repositories };
        let root = web.repositories.path().to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (files, asked, root) = (Arc::clone(&files), Arc::clone(&asked), root.clone());
                std::thread::spawn(move || serve(stream, &files, &asked, &root));
            }
        });
        web
    }

    fn put(&self, path: &str, content: &[u8]) -> String {
        self.files.lock().expect("no test panics with it").insert(path.to_owned(), content.to_owned());
        format!("http://{}{path}", self.address)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

fn serve(
    mut stream: TcpStream,
    files: &Mutex<HashMap<String, Vec<u8>>>,
    asked: &AtomicUsize,
    root: &Path,
) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut fields = HashMap::new();
    loop {
        let mut field = String::new();
        reader.read_line(&mut field).ok()?;
        match field.trim().split_once(':') {
            Some((name, value)) => fields.insert(name.to_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    asked.fetch_add(1, Ordering::SeqCst);
    let length = fields.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    if target.starts_with("/git/") {
        return git(stream, &method, &target, &fields, &body, root);
    }
    let found = files.lock().ok()?.get(&target).cloned();
    let (status, content) = found.map_or(("404 Not Found", Vec::new()), |content| ("200 OK", content));
    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", content.len());
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(&content).ok()
}

fn git(
    mut stream: TcpStream,
    method: &str,
    target: &str,
    fields: &HashMap<String, String>,
    body: &[u8],
    root: &Path,
) -> Option<()> {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
    let mut backend = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", path.strip_prefix("/git")?)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", method)
        .env("CONTENT_TYPE", field("content-type"))
        .env("HTTP_CONTENT_ENCODING", field("content-encoding"))
        .env("GIT_PROTOCOL", field("git-protocol"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    backend.stdin.take()?.write_all(body).ok()?;
    let output = backend.wait_with_output().ok()?.stdout;
    let end = output.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&output[..end]).into_owned();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK").to_owned();
    let head = head.lines().filter(|line| !line.starts_with("Status")).map(|line| format!("{line}\r\n"));
    let head: String = head.collect();
    write!(stream, "HTTP/1.1 {status}\r\n{head}connection: close\r\n\r\n").ok()?;
    stream.write_all(&output[end + 4..]).ok()
}

const CODE: &str = "exports.handler = async () => ({ statusCode: 200, body: 'VERSION' })";

fn tar_gz(files: &[(&str, &str)]) -> Vec<u8> {
    let encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut archive = tar::Builder::new(encoder);
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        // Set as bytes: the library refuses to write some of what others do write.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_cksum();
        archive.append(&header, content.as_bytes()).expect("it is written to memory");
    }
    archive.into_inner().and_then(flate2::write::GzEncoder::finish).expect("it is written to memory")
}

fn zipped(files: &[(&str, &str)]) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (path, content) in files {
        archive.start_file(*path, zip::write::SimpleFileOptions::default()).expect("it is written to memory");
        archive.write_all(content.as_bytes()).expect("it is written to memory");
    }
    archive.finish().expect("it is written to memory").into_inner()
}

fn manifest(name: &str, source: &str) -> String {
    format!(
        "apiVersion: hearth.dev/v1\nkind: Function\nmetadata: {{ name: {name} }}\nspec:\n  runtime: nodejs\n  handler: index.handler\n  source: {source}\n"
    )
}

fn archive(url: &str, content: &[u8], more: &str) -> String {
    format!("{{ archive: {{ url: \"{url}\", sha256: {}{more} }} }}", Digest::of(content).hex())
}

#[test]
fn an_archive_is_fetched_once_whatever_its_form() {
    let web = Web::start();
    let mut hearth = Hearth::start(&[]);
    let in_a_directory = tar_gz(&[("project-1.0/index.js", &CODE.replace("VERSION", "tar"))]);
    let url = web.put("/app.tar.gz", &in_a_directory);
    let source = archive(&url, &in_a_directory, ", path: project-1.0");
    hearth.deploy(&manifest("one", &source));
    assert_eq!(hearth.get("/function/default/one").text(), "tar");
    assert_eq!(web.asked(), 1);
    // Another function of the same archive, and a restart, ask nobody.
    hearth.deploy(&manifest("two", &source));
    hearth.crash_and_restart();
    assert_eq!(hearth.get("/function/default/two").text(), "tar");
    assert_eq!(web.asked(), 1);
    let zip = zipped(&[("index.js", &CODE.replace("VERSION", "zip"))]);
    let url = web.put("/app.zip", &zip);
    hearth.deploy(&manifest("zip", &archive(&url, &zip, "")));
    assert_eq!(hearth.get("/function/default/zip").text(), "zip");
    hearth.stop();
}

#[test]
fn an_archive_that_cannot_be_used_is_told_and_leaves_nothing() {
    let web = Web::start();
    let hearth = Hearth::start(&[("HEARTH_BUILD_MAX_BUNDLE", "1Mi")]);
    let good = tar_gz(&[("index.js", CODE)]);
    let url = web.put("/good.tar.gz", &good);
    let (up, large) = (tar_gz(&[("../index.js", CODE)]), vec![b'x'; 2 << 20]);
    let zip_up = zipped(&[("../index.js", CODE)]);
    let bomb = tar_gz(&[("zeros", &"\0".repeat(8 << 20))]);
    for (name, source, said) in [
        ("other", archive(&url, b"another", ""), "as source.archive.sha256 says"),
        ("absent", archive(&format!("{url}.x"), &good, ""), "answered 404"),
        ("up", archive(&web.put("/up.tar.gz", &up), &up, ""), "has .. in its path"),
        ("zip-up", archive(&web.put("/up.zip", &zip_up), &zip_up, ""), "has .. in its path"),
        ("large", archive(&web.put("/large", &large), &large, ""), "larger than the 1048576 bytes"),
        ("bomb", archive(&web.put("/bomb.tar.gz", &bomb), &bomb, ""), "bytes unpacked"),
        (
            "nothing",
            archive(&web.put("/nothing", b"nothing of the kind"), b"nothing of the kind", ""),
            "cannot be used",
        ),
        ("nowhere", archive(&url, &good, ", path: src"), "has no directory \"src\""),
        ("down", archive(&format!("http://{}/x", support::free_address()), &good, ""), "cannot be reached"),
        ("repository", "{ git: { url: \"http://127.0.0.1:1/x.git\" } }".to_owned(), "was not fetched"),
        (
            "option",
            "{ git: { url: \"http://127.0.0.1:1/x.git\", ref: --upload-pack=x } }".to_owned(),
            "is no branch",
        ),
    ] {
        hearth.apply(&manifest(name, &source)).expect("the manifest is accepted");
        let (status, message) = condition(&hearth.settled(name), "Ready");
        assert!(status == "False" && message.contains(said), "{name}: {message}");
    }
    let left = |path: PathBuf| fs::read_dir(path).expect("it is there").count();
    assert_eq!(left(hearth.data_dir().join("sources/.work")), 0);
    assert_eq!(left(hearth.data_dir().join("bundles/sha256")), 0);
    for bad in ["file:///etc", "ssh://example.com/x.git", "ext::sh -c x"] {
        let refused = hearth.apply(&manifest("protocol", &format!("{{ git: {{ url: \"{bad}\" }} }}")));
        assert!(refused.expect_err("it is refused").contains("not a web address"), "{bad}");
    }
    hearth.stop();
}

#[test]
fn a_repository_is_fetched_at_a_branch_a_tag_or_a_commit() {
    let web = Web::start();
    let work = web.repositories.path().join("work");
    fs::create_dir_all(work.join("src")).expect("a temporary directory is ours");
    let run = |arguments: &[&str]| {
        let output = Command::new("git")
            .args(["-c", "user.name=ada", "-c", "user.email=ada@example.com", "-C"])
            .arg(&work)
            .args(arguments)
            .output()
            .expect("git is here");
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let write = |version: &str| {
        fs::write(work.join("src/index.js"), CODE.replace("VERSION", version))
            .expect("a temporary directory is ours");
    };
    run(&["init", "--quiet", "--initial-branch=main", "."]);
    run(&["config", "uploadpack.allowReachableSHA1InWant", "true"]);
    let commit = |version: &str| {
        write(version);
        run(&["add", "."]);
        run(&["commit", "--quiet", "-m", version]);
        run(&["rev-parse", "HEAD"])
    };
    let first = commit("first");
    run(&["tag", "v1"]);
    commit("second");
    let url = format!("http://{}/git/work/.git", web.address);
    let mut hearth = Hearth::start(&[]);
    let source = |reference: &str| format!("{{ git: {{ url: \"{url}\", ref: {reference}, path: src }} }}");
    for (name, reference, version) in
        [("branch", "main", "second"), ("tag", "v1", "first"), ("commit", first.as_str(), "first")]
    {
        hearth.deploy(&manifest(name, &source(reference)));
        assert_eq!(hearth.get(&format!("/function/default/{name}")).text(), version, "{}", hearth.own_log());
    }
    commit("third");
    let asked = web.asked();
    hearth.crash_and_restart();
    assert_eq!(hearth.get("/function/default/branch").text(), "second");
    assert_eq!(web.asked(), asked, "a branch is looked up once");
    hearth.apply(&manifest("gone", &source("no-such-branch"))).expect("the manifest is accepted");
    let (_, message) = condition(&hearth.settled("gone"), "Ready");
    assert!(message.contains("no-such-branch of http") && message.contains("remote ref"), "{message}");
    let left = fs::read_dir(std::env::temp_dir()).expect("it is there").flatten();
    let tag = Digest::of(hearth.data_dir().join("sources").as_os_str().as_encoded_bytes()).short().to_owned();
    let left: Vec<_> = left.filter(|entry| entry.file_name().to_string_lossy().contains(&tag)).collect();
    assert!(left.is_empty(), "{left:?}");
    hearth.stop();
}
