//! One installation: an instance with npm or pip in it, its own `/build`, the network, and nothing of any function's.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_function::InstanceId;
use hearth_protocol::config::USER;
use hearth_protocol::{Exit, LogRecord, LogStream};
use tokio::time::{Instant, timeout};

use super::environment::{self, PRIVATE};
use super::plan::{Inputs, Plan, Tool};
use super::space::Room;
use super::{Error, Inner, Progress, blocking};
use crate::backend::control::{Event, Events, connect_control};
use crate::backend::{InstanceSpec, Limits, Network, Process, Root};
use crate::build::random_hex;
use crate::build::shelf::{At, FileError};

/// Lines kept for the message of a failure: npm says what is wrong in its last dozen.
const LAST_LINES: usize = 30;

/// Characters kept of a line.
const LINE: usize = 500;

/// Size of the instance's `/tmp`, in bytes. Large files go to `/build`, which is on disk.
const TMP_BYTES: u64 = 64 << 20;

/// How long npm or pip may take to end when they are told to.
const GRACE: Duration = Duration::from_secs(2);

/// How long log lines may still come after the tool's end.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Installs what the plan says into `build`. Whatever comes of it, the instance is gone afterwards.
pub(super) async fn run(inner: &Inner, plan: &Plan, build: &Path) -> Result<(), Error> {
    let command = command(plan)?;
    let room = Room { installed_bytes: inner.config.installed_bytes, free_bytes: inner.config.free_bytes };
    for note in &plan.notes {
        inner.report(&plan.key, Progress::Note(note.clone()));
    }
    let (owned, directory, variables) = (plan.clone(), build.to_owned(), inner.config.install_env.clone());
    let prepared = blocking(move || prepare(&owned, &directory, &variables)).await??;
    for note in prepared.notes {
        inner.report(&plan.key, Progress::Note(note));
    }
    let spec = spec(inner, plan, build, command, prepared.variables);
    inner.report(&plan.key, Progress::Started { tool: plan.tool });

    let deadline = Instant::now() + inner.config.timeout;
    let watched = tokio::select! {
        watched = watch(inner, plan, &spec, deadline) => watched,
        error = room.exceeded(plan.tool, build) => Err(error),
        () = inner.closing.cancelled() => Err(Error::CutOff),
    };
    // Also when it did not start: a start that was cut off may have left it.
    let stopped = inner.backend.stop(&spec.id, GRACE).await;
    watched?;
    Ok(stopped?)
}

/// Starts the instance and listens to it until its command has ended.
async fn watch(inner: &Inner, plan: &Plan, spec: &InstanceSpec, deadline: Instant) -> Result<(), Error> {
    let started = inner.backend.start(spec).await?;
    let (mut events, _commands) = connect_control(&started.control, &spec.secret, 0, deadline).await?;
    let mut heard = Heard { inner, plan, last: VecDeque::new() };
    let exit = tokio::select! {
        exit = heard.until_exit(&mut events) => exit?,
        () = tokio::time::sleep_until(deadline) => {
            let last_lines = heard.last.into();
            return Err(Error::Timeout { tool: plan.tool, after: inner.config.timeout, last_lines });
        }
    };
    // What is still on the way; whoever does not close the connection in time has nothing more to say.
    drop(timeout(LAST_WORDS, heard.until_exit(&mut events)).await);
    match exit {
        Some(Exit { code: Some(0), .. }) => Ok(()),
        exit => Err(heard.failure(exit)),
    }
}

/// What came from the instance.
struct Heard<'a> {
    inner: &'a Inner,
    plan: &'a Plan,
    last: VecDeque<String>,
}

impl Heard<'_> {
    /// Hears lines until the command has ended; `None`: the shim has, before it could say how the command did.
    async fn until_exit(&mut self, events: &mut Events) -> Result<Option<Exit>, Error> {
        loop {
            match events.next().await? {
                Some(Event::Log(record)) => self.line(&record),
                Some(Event::Exit(exit)) => return Ok(Some(exit)),
                None => return Ok(None),
            }
        }
    }

    fn line(&mut self, record: &LogRecord) {
        let text = String::from_utf8_lossy(&record.line);
        let text: String =
            text.trim_end().chars().filter(|c| !c.is_control() || *c == '\t').take(LINE).collect();
        if let Some(name) = fetched(&text) {
            self.inner.report(&self.plan.key, Progress::Fetched { name: name.to_owned() });
            return;
        }
        if text.is_empty() || (record.stream == LogStream::Stderr && is_request(&text)) {
            return;
        }
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(text.clone());
        self.inner.report(&self.plan.key, Progress::Line(text));
    }

    fn failure(self, exit: Option<Exit>) -> Error {
        let last_lines: Vec<String> = self.last.into();
        let interpreter = &self.plan.toolchain.interpreter.path;
        if self.plan.tool == Tool::Pip && last_lines.iter().any(|line| line.ends_with("No module named pip"))
        {
            return no_pip(interpreter.clone());
        }
        let how = match exit {
            Some(exit) if exit.out_of_memory => {
                format!("{exit}; it had {} bytes: raise build.memory", self.inner.config.memory_bytes)
            }
            Some(exit) => exit.to_string(),
            None => "its instance ended".to_owned(),
        };
        Error::Failed { tool: self.plan.tool, how, last_lines }
    }
}

/// The name of what npm fetched, by its line `npm http fetch GET 200 https://registry.example/express 123ms (cache miss)`.
fn fetched(line: &str) -> Option<&str> {
    let request = line.strip_prefix("npm http fetch GET 200 ")?;
    let address = request.split_whitespace().next()?;
    address.rsplit('/').next()
}

/// Whether npm tells of a request that was answered, or was not needed. One that failed is worth a line.
fn is_request(line: &str) -> bool {
    line.starts_with("npm http cache ")
        || line
            .strip_prefix("npm http fetch ")
            .and_then(|request| request.split(' ').nth(1))
            .is_some_and(|status| status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit()))
}

fn no_pip(interpreter: PathBuf) -> Error {
    let remedy = "install python3-pip, or run `python3 -m ensurepip` with it".to_owned();
    Error::NoTool { tool: "pip", interpreter, remedy }
}

/// What runs in the instance, in `/build`.
fn command(plan: &Plan) -> Result<Vec<String>, Error> {
    let interpreter = &plan.toolchain.interpreter;
    let program = interpreter.path.display().to_string();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let arguments = match plan.tool {
        Tool::NpmCi | Tool::NpmInstall => {
            let npm =
                npm_of(&plan.toolchain.root, &interpreter.path, &interpreter.prefix).ok_or_else(|| {
                    let remedy =
                        "install npm beside it (the package npm, or Node from nodejs.org)".to_owned();
                    Error::NoTool { tool: "npm", interpreter: interpreter.path.clone(), remedy }
                })?;
            let verb = if plan.tool == Tool::NpmCi { "ci" } else { "install" };
            let npm = npm.display().to_string();
            // At this level it tells what it fetches, which is all the progress there is without a terminal.
            let options =
                ["--omit=dev", "--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=http"];
            let mut all = words(&[&npm, verb, "--prefix", "/build"]);
            all.extend(words(&options));
            all
        }
        Tool::Pip => words(&[
            "-m",
            "pip",
            "install",
            "--target",
            "/build/python",
            "--no-cache-dir",
            "--no-input",
            "--disable-pip-version-check",
            "--no-warn-script-location",
            "--progress-bar",
            "off",
            "-r",
            "/build/requirements.txt",
        ]),
    };
    Ok([vec![program], arguments].concat())
}

/// Where npm is, as seen from inside: beside the interpreter, or where Debian has it.
fn npm_of(root: &Root, interpreter: &Path, prefix: &Path) -> Option<PathBuf> {
    let cli = Path::new("npm/bin/npm-cli.js");
    let beside = interpreter.parent().and_then(Path::parent).unwrap_or(prefix);
    let places = [
        beside.join("lib/node_modules"),
        prefix.join("lib/node_modules"),
        PathBuf::from("/usr/share/nodejs"),
        PathBuf::from("/usr/lib/node_modules"),
        PathBuf::from("/usr/local/lib/node_modules"),
    ];
    places.into_iter().map(|place| place.join(cli)).find(|inside| match root {
        // Of the host, only these are seen from inside.
        Root::Host { .. } => inside
            .canonicalize()
            .is_ok_and(|real| real.is_file() && (real.starts_with("/usr") || real.starts_with(prefix))),
        Root::Directory(root) => inside.strip_prefix("/").is_ok_and(|inside| root.join(inside).is_file()),
        // It cannot be looked into from here; most images have it beside the interpreter, which is the first place.
        Root::Image(_) | Root::Runtime { .. } => true,
    })
}

fn spec(
    inner: &Inner,
    plan: &Plan,
    build: &Path,
    command: Vec<String>,
    mut env: BTreeMap<String, String>,
) -> InstanceSpec {
    let beside = plan.toolchain.interpreter.path.parent().unwrap_or_else(|| Path::new("/usr/bin"));
    let private = Path::new("/build").join(PRIVATE);
    let own = [
        ("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", beside.display())),
        ("HOME", private.join("home").display().to_string()),
        ("TMPDIR", private.join("tmp").display().to_string()),
        ("npm_config_cache", private.join("npm").display().to_string()),
        ("LANG", "C.UTF-8".to_owned()),
        ("CI", "true".to_owned()),
    ];
    env.extend(own.map(|(name, value)| (name.to_owned(), value)));
    InstanceSpec {
        id: InstanceId::parse(&format!("job-{}", random_hex::<8>())).expect("20 characters, a-z and 0-9"),
        owner: None,
        process: Process::Job { command },
        code: None,
        build_dir: Some(build.to_owned()),
        namespace: None,
        user: None,
        working_directory: None,
        root: plan.toolchain.root.clone(),
        env,
        limits: Limits {
            memory_bytes: inner.config.memory_bytes,
            cpu_millis: None,
            tmp_bytes: TMP_BYTES,
            pids: inner.config.pids,
            patient: true,
        },
        network: Network::Outbound,
        concurrency: 1,
        secret: random_hex::<32>(),
    }
}

/// Puts into the build directory what the tool needs, and gives it to the user that the tool runs as.
fn prepare(
    plan: &Plan,
    build: &Path,
    variables: &BTreeMap<String, String>,
) -> Result<environment::Prepared, FileError> {
    for name in ["", "home", "tmp", "npm"] {
        let path = build.join(PRIVATE).join(name);
        DirBuilder::new().mode(0o755).create(&path).at("create", &path)?;
    }
    let prepared = environment::prepare(variables, build)?;
    match &plan.inputs {
        Inputs::Whole => copy_tree(&plan.bundle, build)?,
        Inputs::Files(names) => {
            for name in names {
                let source = plan.bundle.join(name);
                fs::copy(&source, build.join(name)).at("copy", &source)?;
            }
        }
    }
    if let Some(manifest) = &plan.manifest {
        let path = build.join("package.json");
        fs::write(&path, manifest).at("write", &path)?;
    }
    give_away(build)?;
    Ok(prepared)
}

fn copy_tree(from: &Path, to: &Path) -> Result<(), FileError> {
    let mut todo = vec![PathBuf::new()];
    while let Some(directory) = todo.pop() {
        let source = from.join(&directory);
        for entry in fs::read_dir(&source).at("list", &source)? {
            let entry = entry.at("list", &source)?;
            let path = directory.join(entry.file_name());
            let (source, target) = (entry.path(), to.join(&path));
            let kind = entry.file_type().at("look at", &source)?;
            if kind.is_dir() {
                DirBuilder::new().mode(0o755).create(&target).at("create", &target)?;
                todo.push(path);
            } else if kind.is_symlink() {
                let link = fs::read_link(&source).at("read", &source)?;
                std::os::unix::fs::symlink(link, &target).at("create", &target)?;
            } else {
                fs::copy(&source, &target).at("copy", &source)?;
            }
        }
    }
    Ok(())
}

/// The directory and all in it belong to the user that code runs as.
fn give_away(directory: &Path) -> Result<(), FileError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let mut todo = vec![directory.to_owned()];
    while let Some(path) = todo.pop() {
        lchown(&path, Some(USER), Some(USER)).at("give away", &path)?;
        if fs::symlink_metadata(&path).is_ok_and(|metadata| metadata.is_dir()) {
            for entry in fs::read_dir(&path).at("list", &path)? {
                todo.push(entry.at("list", &path)?.path());
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_npm_fetches_is_told_by_name() {
        let line =
            "npm http fetch GET 200 https://registry.example/express/-/express-5.1.0.tgz 23ms (cache miss)";
        assert_eq!(fetched(line), Some("express-5.1.0.tgz"));
        assert_eq!(fetched("npm http fetch GET 404 https://registry.example/no-such 1ms"), None);
        assert_eq!(fetched("added 65 packages in 2s"), None);
        assert!(is_request(line));
        assert!(is_request("npm http fetch GET 404 https://registry.example/no-such 1ms"));
        assert!(!is_request(
            "npm http fetch GET https://registry.example/npm attempt 1 failed with ENOTFOUND"
        ));
        assert!(!is_request("npm error code E404"));
    }
}
