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
use tokio::io::{AsyncRead, AsyncReadExt as _};
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

/// Last bytes of its output that are kept: a server chooses most of what it says, and may go on for as long as a build may take.
const KEPT: usize = 64 << 10;

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
        let mut child = command.spawn().map_err(missing)?;
        if let Some(pid) = child.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
            let limit = rustix::process::Rlimit {
                current: Some(limits.packed_bytes),
                maximum: Some(limits.packed_bytes),
            };
            // It has ended already, or has the limit for all it writes: one pack, as a rule.
            let _ended =
                rustix::process::prlimit(Some(pid), rustix::process::Resource::Fsize, limit).is_err();
        }
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        // Both at once: what nobody reads holds the program up.
        let (stdout, stderr, status) = tokio::join!(last_of(stdout), last_of(stderr), child.wait());
        let (stdout, stderr, status) =
            (stdout.map_err(missing)?, stderr.map_err(missing)?, status.map_err(missing)?);
        if status.success() {
            return Ok(String::from_utf8_lossy(&stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&stderr);
        let said = said.trim().replace(&git.url, &redacted(&git.url));
        let start = said.len().saturating_sub(LAST_WORDS);
        let said = said.char_indices().find(|(at, _)| *at >= start).map_or("", |(at, _)| &said[at..]);
        if said.contains("too large") || std::os::unix::process::ExitStatusExt::signal(&status) == Some(25) {
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

/// Reads to the end, and keeps the last [`KEPT`] bytes.
async fn last_of(from: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let Some(mut from) = from else { return Ok(kept) };
    while from.read_buf(&mut kept).await? > 0 {
        if kept.len() > 2 * KEPT {
            kept.drain(..kept.len() - KEPT);
        }
    }
    kept.drain(..kept.len().saturating_sub(KEPT));
    Ok(kept)
}

fn missing(error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        let fix = "install git there, or use source.archive";
        return Error::Fetch { what: "the server has no git".to_owned(), fix, source: None };
    }
    failed("git cannot be run".to_owned(), "see the server's own log", error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_what_a_server_says_the_end_is_kept() {
        let said: Vec<u8> = (0..KEPT * 5 + 7).map(|at| u8::try_from(at % 251).unwrap_or_default()).collect();
        let kept = last_of(Some(said.as_slice())).await.unwrap();
        assert_eq!((kept.len(), kept.as_slice()), (KEPT, &said[said.len() - KEPT..]));
        assert_eq!(last_of(Some(&b"short"[..])).await.unwrap(), b"short");
        assert_eq!(last_of(None::<&[u8]>).await.unwrap(), b"");
    }
}
