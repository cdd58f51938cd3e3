//! A Git repository, fetched by the `git` program: one commit and nothing of its history, as a user without rights, without configuration,
//! hooks, credential helpers, submodules or any protocol but HTTP. Nothing of it is checked out: `git archive` gives the files.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use hearth_function::Digest;
use hearth_function::spec::Git;
use hearth_protocol::config::USER;
use tokio::process::Command;

use super::{Error, failed, redacted};
use crate::build::bundles::{self, Limits};
use crate::build::shelf::At as _;
use crate::build::unpack;

/// What a repository may be asked by, and what it must not do.
const OPTIONS: [&str; 9] = [
    "protocol.allow=never",
    "protocol.https.allow=always",
    "protocol.http.allow=always",
    "credential.helper=",
    "core.hooksPath=/dev/null",
    "transfer.fsckObjects=true",
    "http.followRedirects=initial",
    // A server that sends less than that for that long is given up.
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=30",
];

/// Variables of this process that `git` needs to reach the outside.
const PASSED: [&str; 9] = [
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_PROXY",
    "https_proxy",
    "http_proxy",
    "no_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "GIT_SSL_CAINFO",
];

/// Last bytes of what the program says that are told.
const LAST_WORDS: usize = 2000;

/// A repository in a directory of its own, which goes away with this value.
pub(super) struct Repository {
    path: PathBuf,
}

/// Whether a text is a whole commit, and no branch.
pub(super) fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Repositories of this data directory lie where a user without rights may go, which the data directory is not.
fn prefix(data_dir: &Path) -> String {
    format!("hearth-git-{}-", Digest::of(data_dir.as_os_str().as_encoded_bytes()).short())
}

/// Removes what a crash left.
pub(super) fn sweep(data_dir: &Path) {
    let prefix = prefix(&data_dir.join("sources"));
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            // Somebody else's of that name stays.
            let _left = fs::remove_dir_all(entry.path()).is_err();
        }
    }
}

impl Repository {
    /// An empty one for this directory of sources.
    pub(super) fn new(sources: &Path) -> Result<Self, Error> {
        let name = format!("{}{}", prefix(sources), crate::build::random_hex::<8>());
        let path = std::env::temp_dir().join(name);
        fs::DirBuilder::new().mode(0o700).create(&path).at("create", &path)?;
        let this = Self { path };
        chown(&this.path, Some(USER), Some(USER)).at("give to the function's user", &this.path)?;
        Ok(this)
    }

    /// Fetches one commit; its name.
    pub(super) async fn fetch(&self, git: &Git, limits: &Limits) -> Result<String, Error> {
        let reference = git.reference.as_deref().unwrap_or("HEAD");
        let odd = |text: &str| {
            text.starts_with('-') || text.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        if odd(reference) || reference.contains(':') || odd(&git.url) {
            return Err(Error::Fetch {
                what: format!(
                    "{reference:?} of {:?} is no branch, tag or commit of a repository",
                    redacted(&git.url)
                ),
                fix: "correct source.git",
                source: None,
            });
        }
        self.run(&["init", "--quiet", "--bare", "."], git, limits).await?;
        let fetch = [
            "fetch",
            "--quiet",
            "--no-tags",
            "--no-recurse-submodules",
            "--depth=1",
            "--",
            &git.url,
            reference,
        ];
        self.run(&fetch, git, limits).await?;
        let commit = self.run(&["rev-parse", "--verify", "FETCH_HEAD^{commit}"], git, limits).await?;
        Ok(commit.trim().to_owned())
    }

    async fn run(&self, arguments: &[&str], git: &Git, limits: &Limits) -> Result<String, Error> {
        let mut command = Command::from(self.command(arguments));
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let child = command.spawn().map_err(missing)?;
        if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
            let limit = rustix::process::Rlimit {
                current: Some(limits.packed_bytes),
                maximum: Some(limits.packed_bytes),
            };
            // It has ended already, or has the limit for all it writes: one pack, as a rule.
            let _ended =
                rustix::process::prlimit(Some(pid), rustix::process::Resource::Fsize, limit).is_err();
        }
        let output = child.wait_with_output().await.map_err(missing)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.trim().replace(&git.url, &redacted(&git.url));
        let start = said.len().saturating_sub(LAST_WORDS);
        let said = said.char_indices().find(|(at, _)| *at >= start).map_or("", |(at, _)| &said[at..]);
        if said.contains("too large")
            || std::os::unix::process::ExitStatusExt::signal(&output.status) == Some(25)
        {
            return Err(Error::TooLarge { what: redacted(&git.url), limit: limits.packed_bytes });
        }
        let reference = git.reference.as_deref().unwrap_or("its default branch");
        Err(Error::Fetch {
            what: format!("{reference} of {} was not fetched", redacted(&git.url)),
            fix: "check the address, the ref, and that this server may read it",
            source: Some(said.to_owned().into()),
        })
    }

    fn command(&self, arguments: &[&str]) -> std::process::Command {
        let mut command = std::process::Command::new("git");
        let passed: HashMap<String, String> =
            std::env::vars().filter(|(name, _)| PASSED.contains(&name.as_str())).collect();
        command
            .env_clear()
            .envs(passed)
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &self.path)
            .env("LANG", "C")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_ASKPASS", "/bin/false")
            .current_dir(&self.path)
            .uid(USER)
            .gid(USER)
            .stdin(Stdio::null());
        for option in OPTIONS {
            command.args(["-c", option]);
        }
        command.args(arguments);
        command
    }

    /// Unpacks the files of a commit. Blocks.
    pub(super) fn unpack(&self, commit: &str, into: &Path, what: &str, limits: &Limits) -> Result<(), Error> {
        let mut command = self.command(&["archive", "--format=tar", commit]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().map_err(missing)?;
        let unpacked = match child.stdout.take() {
            Some(mut archive) => {
                let unpacked = unpack::plain(&mut archive, into, limits);
                let mut rest = Vec::new();
                let _padding = archive.by_ref().take(1 << 20).read_to_end(&mut rest);
                unpacked
            }
            None => Err(bundles::Error::CutOff),
        };
        // Its end of the pipe is closed: it ends whatever it still had to say.
        let ended = child.wait().map_err(missing)?;
        unpacked.map_err(|source| Error::Content { what: what.to_owned(), source })?;
        if ended.success() { Ok(()) } else { Err(Error::CutOff) }
    }
}

impl Drop for Repository {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "a fetched repository stays until the next start");
        }
    }
}

fn missing(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        let fix = "install git there, or use source.archive";
        return Error::Fetch { what: "the server has no git".to_owned(), fix, source: None };
    }
    failed("git cannot be run".to_owned(), "see the server's own log", error)
}
