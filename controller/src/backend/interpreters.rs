//! Finds the interpreters of this machine: Node and Python, from the system, pyenv, nvm or asdf.
//!
//! A shim (pyenv's, asdf's) costs a shell at every start and cannot run in an instance; what is found is always the real binary.

mod memory;
mod search;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

use serde::{Deserialize, Serialize};

/// A language that an instance needs an interpreter for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// Node.js, 20 or later.
    Nodejs,
    /// Python, 3.11 or later.
    Python,
}

/// An interpreter that an instance can run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interpreter {
    /// What it interprets.
    pub language: Language,
    /// The real binary, no link and no shim.
    pub path: PathBuf,
    /// Its version, as in `[20, 11, 1]`.
    pub version: [u32; 3],
    /// The directory that holds all of it, to be mounted at its own path; `/usr` needs no mount of its own.
    pub prefix: PathBuf,
    /// The image that it is in, at this path; `None`: this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// Why there is no interpreter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A runtime's name that is not `nodejs`, `python` or one of them with a version.
    #[error("{0:?} is not a runtime with an interpreter: use nodejs, nodejs20, python or python3.11")]
    NotARuntime(String),
    /// No runtime image of the cluster fits.
    #[error(
        "this cluster has no runtime image for {runtime} (it has: {listed}): ask for one of those, or have one added to cluster.runtimes"
    )]
    NoImage {
        /// What was looked for.
        runtime: String,
        /// What is there instead.
        listed: String,
    },
    /// None on this machine fits.
    #[error("no {wanted} on this machine ({found}): {remedy}")]
    None {
        /// What was looked for, as in `python 3.12`.
        wanted: String,
        /// What is there instead.
        found: String,
        /// How to get it.
        remedy: String,
    },
}

/// Which interpreters there are for functions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Catalogue {
    /// Those of this machine, looked for when they are asked for.
    #[default]
    Machine,
    /// These, the preferred ones first: those of the runtime images of a cluster, each at its path in its image.
    Listed(Vec<Interpreter>),
}

impl Catalogue {
    /// As [`find`], in this catalogue. Blocks where it is this machine's.
    ///
    /// # Errors
    /// As [`find`].
    pub fn find(&self, runtime: &str) -> Result<Interpreter, Error> {
        let Self::Listed(listed) = self else { return find(runtime) };
        let (language, pin) = parse(runtime)?;
        let own: Vec<Interpreter> = listed.iter().filter(|one| one.language == language).cloned().collect();
        choose(language, &pin, &own, &[]).map_err(|_| {
            let version = |one: &Interpreter| one.version.map(|part| part.to_string()).join(".");
            let listed: Vec<String> =
                listed.iter().map(|one| format!("{:?} {}", one.language, version(one))).collect();
            Error::NoImage { runtime: runtime.to_owned(), listed: listed.join(", ").to_lowercase() }
        })
    }
}

/// The oldest versions that the bootstraps work with.
const OLDEST_NODE: [u32; 2] = [20, 0];
const OLDEST_PYTHON: [u32; 2] = [3, 11];

/// An interpreter that is here and is not used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// The real binary.
    pub path: PathBuf,
    /// Why not, and what to do.
    pub why: String,
}

/// What a search has found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Searched {
    /// The preferred one first.
    usable: Vec<Interpreter>,
    refused: Vec<Refused>,
    /// A binary did not tell its version: the machine may have been busy, and it may be one that is wanted.
    #[serde(skip)]
    unanswered: bool,
}

/// What was found, by language; looked at again when nothing was, for somebody may have installed one.
static FOUND: Mutex<[Option<Searched>; 2]> = Mutex::new([None, None]);

/// Where searches are remembered for the next start of Hearth, if anywhere.
static KEPT: OnceLock<PathBuf> = OnceLock::new();

/// Remembers in this directory, from one start of Hearth to the next, what was found: a search runs every interpreter of the machine, and
/// nobody is answered after a restart before his interpreter is known. To be called before the first search.
pub fn remember_in(directory: &Path) {
    let _first = KEPT.set(directory.to_owned()).is_ok();
}

/// Finds the interpreter for a runtime as the manifest names it: `nodejs`, `nodejs22`, `python`, `python3.12`. Looks at the machine on
/// the first call and remembers; blocks for as long as it takes to run each candidate (about 30 ms each).
///
/// Without a version it is the one that `PATH` leads to; of several with the same version, the one that starts fastest.
///
/// # Errors
/// When the name is not a runtime's, or nothing on this machine fits it: the message says what was found and what to do.
pub fn find(runtime: &str) -> Result<Interpreter, Error> {
    let (language, pin) = parse(runtime)?;
    let all = searched(language);
    choose(language, &pin, &all.usable, &all.refused)
}

/// Every interpreter of a language on this machine, the preferred one first.
#[must_use]
pub fn all(language: Language) -> Vec<Interpreter> {
    searched(language).usable
}

/// The oldest version, major and minor, that Hearth's own code runs on.
#[must_use]
pub fn oldest(language: Language) -> [u32; 2] {
    match language {
        Language::Nodejs => OLDEST_NODE,
        Language::Python => OLDEST_PYTHON,
    }
}

/// Those that are not used because instances would see more of this machine with them than they should.
#[must_use]
pub fn refused(language: Language) -> Vec<Refused> {
    searched(language).refused
}

fn searched(language: Language) -> Searched {
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    let [nodejs, python] = &mut *found;
    let place = if language == Language::Nodejs { nodejs } else { python };
    if let Some(known) = place
        && known.usable.iter().all(|one| one.path.exists())
    {
        return known.clone();
    }
    if place.is_none()
        && let Some((known, certain)) = KEPT.get().and_then(|kept| memory::recall(kept, language))
    {
        *place = Some(known.clone());
        if !certain {
            search_again(language);
        }
        return known;
    }
    let searched = look(language);
    *place = (!searched.usable.is_empty()).then(|| searched.clone());
    searched
}

/// Searches, and remembers what was found.
fn look(language: Language) -> Searched {
    // Before: what is changed while it is searched makes the memory of it void.
    let candidates = memory::candidates(language);
    let searched = search::search(language);
    if let Some(kept) = KEPT.get()
        && !searched.usable.is_empty()
        && !searched.unanswered
        && let Err(error) = memory::keep(kept, language, candidates, &searched)
    {
        tracing::debug!(%error, "what interpreters there are is not remembered");
    }
    searched
}

/// What is remembered may be outdated: a version manager may lead elsewhere by now. Searched beside, for those who ask later.
fn search_again(language: Language) {
    let again = move || {
        let searched = look(language);
        if !searched.usable.is_empty() {
            let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
            let [nodejs, python] = &mut *found;
            *(if language == Language::Nodejs { nodejs } else { python }) = Some(searched);
        }
    };
    let started = std::thread::Builder::new().name("interpreters".to_owned()).spawn(again);
    if let Err(error) = started {
        tracing::debug!(%error, "interpreters are not searched again");
    }
}

/// The language and the parts of the version that the name gives.
fn parse(runtime: &str) -> Result<(Language, Vec<u32>), Error> {
    let unknown = || Error::NotARuntime(runtime.to_owned());
    let (language, version) = match (runtime.strip_prefix("nodejs"), runtime.strip_prefix("python")) {
        (Some(version), _) => (Language::Nodejs, version),
        (None, Some(version)) => (Language::Python, version),
        (None, None) => return Err(unknown()),
    };
    if version.is_empty() {
        return Ok((language, Vec::new()));
    }
    let parts: Result<Vec<u32>, _> = version.split('.').map(str::parse).collect();
    let parts = parts.map_err(|_| unknown())?;
    if parts.len() > 3 { Err(unknown()) } else { Ok((language, parts)) }
}

/// The first of `all` that is new enough and of the version asked for.
fn choose(
    language: Language,
    pin: &[u32],
    all: &[Interpreter],
    refused: &[Refused],
) -> Result<Interpreter, Error> {
    let (name, oldest, install) = match language {
        Language::Nodejs => (
            "Node.js",
            OLDEST_NODE,
            "install it (https://nodejs.org, nvm, or the distribution's nodejs package)",
        ),
        Language::Python => {
            ("Python", OLDEST_PYTHON, "install it (pyenv, or the distribution's python3 package)")
        }
    };
    let fits = |one: &&Interpreter| one.version.get(..2) >= Some(&oldest) && one.version.starts_with(pin);
    if let Some(interpreter) = all.iter().find(fits) {
        return Ok(interpreter.clone());
    }
    let dotted = |parts: &[u32]| parts.iter().map(u32::to_string).collect::<Vec<_>>().join(".");
    let too_old = !pin.is_empty() && pin < oldest.get(..pin.len()).unwrap_or(&oldest);
    let wanted = if pin.is_empty() {
        format!("{name} {} or later", dotted(&oldest))
    } else {
        format!("{name} {}", dotted(pin))
    };
    let found: Vec<String> = all
        .iter()
        .map(|one| format!("{} at {}", dotted(&one.version), one.path.display()))
        .chain(refused.iter().map(|one| format!("{}, which is not used: {}", one.path.display(), one.why)))
        .collect();
    let found = if found.is_empty() {
        "none at all was found".to_owned()
    } else {
        format!("found: {}", found.join(", "))
    };
    let remedy = if too_old {
        format!("Hearth needs {name} {} or later: ask for that", dotted(&oldest))
    } else if all.is_empty() || pin.is_empty() {
        install.to_owned()
    } else {
        format!("{install}, or name a version that is here")
    };
    Err(Error::None { wanted, found, remedy })
}

/// Trees whose parts need each other: an interpreter in one of them needs all of it.
const WHOLE_TREES: [&str; 2] = ["/nix/store", "/home/linuxbrew/.linuxbrew"];

/// The directory that holds all of an interpreter: its binary is `<prefix>/bin/…`. `None` when it lies elsewhere.
#[must_use]
pub fn prefix(binary: &Path) -> Option<PathBuf> {
    if let Some(tree) = WHOLE_TREES.iter().find(|tree| binary.starts_with(tree)) {
        return Some(PathBuf::from(tree));
    }
    let directory = binary.parent()?;
    if directory.file_name()? == "bin" {
        directory.parent().map(Path::to_owned)
    } else {
        Some(directory.to_owned())
    }
}

/// What of a prefix instances see: where interpreters keep what they need, and nothing else that may lie there.
const PARTS: [&str; 7] = ["bin", "include", "lib", "lib64", "libexec", "share", "ssl"];

/// The directories that instances see of an interpreter, each at its own path.
#[must_use]
pub fn trees(binary: &Path) -> Vec<PathBuf> {
    let Some(prefix) = prefix(binary) else { return Vec::new() };
    if WHOLE_TREES.iter().any(|tree| prefix == Path::new(tree)) || binary.parent() == Some(prefix.as_path()) {
        return vec![prefix];
    }
    PARTS.iter().map(|part| prefix.join(part)).filter(|part| part.is_dir()).collect()
}

/// Why instances must not see the parts of this prefix, with what to do; `homes` are people's home directories.
fn exposes(prefix: &Path, homes: &[PathBuf]) -> Option<String> {
    // Seen by every instance in any case.
    if prefix.starts_with("/usr") {
        return None;
    }
    let of_a_home = homes.iter().find(|home| home.starts_with(prefix) || home.join(".local") == prefix);
    let whose = match of_a_home {
        Some(home) => format!("the home directory {}", home.display()),
        None if prefix == Path::new("/") => "the whole file system".to_owned(),
        None => return None,
    };
    Some(format!(
        "every function would see what lies beside it in {whose}: move it to a directory of its own, as in /opt/NAME/bin"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interpreter(language: Language, path: &str, version: [u32; 3]) -> Interpreter {
        Interpreter {
            language,
            path: path.into(),
            version,
            prefix: prefix(Path::new(path)).unwrap(),
            image: None,
        }
    }

    #[test]
    fn a_runtimes_name_gives_language_and_version() {
        assert_eq!(parse("nodejs22").unwrap(), (Language::Nodejs, vec![22]));
        assert_eq!(parse("python3.12").unwrap(), (Language::Python, vec![3, 12]));
        assert_eq!(parse("python").unwrap(), (Language::Python, vec![]));
        for bad in ["ruby", "nodejs-20", "python3.x", "nodejs1.2.3.4", ""] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_version_that_was_asked_for_is_chosen_or_named_with_a_way_out() {
        let all = [
            interpreter(Language::Nodejs, "/usr/bin/node", [20, 20, 2]),
            interpreter(Language::Nodejs, "/root/.nvm/versions/node/v22.1.0/bin/node", [22, 1, 0]),
            interpreter(Language::Nodejs, "/opt/node18/bin/node", [18, 0, 0]),
        ];
        let path = |pin: &[u32]| choose(Language::Nodejs, pin, &all, &[]).map(|one| one.path);
        assert_eq!(path(&[]).unwrap(), Path::new("/usr/bin/node"));
        assert_eq!(path(&[22]).unwrap(), Path::new("/root/.nvm/versions/node/v22.1.0/bin/node"));
        let old = path(&[18]).unwrap_err().to_string();
        assert!(old.contains("needs Node.js 20.0 or later"), "{old}");
        let missing = path(&[24]).unwrap_err().to_string();
        assert!(
            missing.contains("no Node.js 24") && missing.contains("20.20.2 at /usr/bin/node"),
            "{missing}"
        );
        let none = choose(Language::Python, &[], &[], &[]).unwrap_err().to_string();
        assert!(none.contains("none at all") && none.contains("install"), "{none}");
        let refused = [Refused { path: "/home/ada/bin/python3".into(), why: "too open".to_owned() }];
        let told = choose(Language::Python, &[], &[], &refused).unwrap_err().to_string();
        assert!(told.contains("/home/ada/bin/python3, which is not used: too open"), "{told}");
    }

    #[test]
    fn a_list_is_all_there_is() {
        let listed = Catalogue::Listed(vec![
            interpreter(Language::Nodejs, "/usr/local/bin/node", [22, 1, 0]),
            interpreter(Language::Nodejs, "/usr/local/bin/node", [20, 20, 2]),
        ]);
        assert_eq!(listed.find("nodejs").unwrap().version, [22, 1, 0]);
        assert_eq!(listed.find("nodejs20").unwrap().version, [20, 20, 2]);
        let missing = listed.find("python").unwrap_err().to_string();
        assert!(missing.contains("python") && missing.contains("nodejs 22.1.0, nodejs 20.20.2"), "{missing}");
        assert!(matches!(listed.find("ruby"), Err(Error::NotARuntime(_))));
    }

    #[test]
    fn two_does_not_fit_twenty() {
        let all = [interpreter(Language::Python, "/usr/bin/python3.11", [3, 11, 2])];
        assert!(choose(Language::Python, &[3, 1], &all, &[]).is_err());
    }

    #[test]
    fn the_prefix_is_above_bin() {
        assert_eq!(prefix(Path::new("/usr/bin/node")), Some("/usr".into()));
        assert_eq!(prefix(Path::new("/nix/store/abc-nodejs/bin/node")), Some("/nix/store".into()));
        assert_eq!(prefix(Path::new("/opt/tool/node")), Some("/opt/tool".into()));
    }

    #[test]
    fn of_a_prefix_only_the_parts_of_an_interpreter_are_seen() {
        let prefix = tempfile::tempdir().unwrap();
        for name in ["bin", "lib", "share", "secrets"] {
            std::fs::create_dir(prefix.path().join(name)).unwrap();
        }
        let seen = trees(&prefix.path().join("bin/node"));
        assert_eq!(seen, ["bin", "lib", "share"].map(|part| prefix.path().join(part)));
        let beside = prefix.path().join("secrets/node");
        assert_eq!(trees(&beside), [prefix.path().join("secrets")], "it has what it needs beside it");
        assert_eq!(trees(Path::new("/nix/store/abc-nodejs/bin/node")), [PathBuf::from("/nix/store")]);
    }

    #[test]
    fn nobodys_home_is_shown() {
        let homes = ["/root", "/home/ada"].map(PathBuf::from);
        let refused = |binary: &str| exposes(&prefix(Path::new(binary)).unwrap(), &homes);
        for binary in [
            "/home/ada/bin/node",
            "/home/ada/node",
            "/home/ada/.local/bin/node",
            "/bin/node",
            "/home/bin/node",
        ] {
            assert!(refused(binary).is_some_and(|why| why.contains("move it")), "{binary}");
        }
        for binary in [
            "/usr/bin/node",
            "/home/ada/.nvm/versions/node/v22.1.0/bin/node",
            "/root/.local/share/uv/python/cpython-3.12/bin/python3",
            "/opt/node/bin/node",
            "/opt/bin/node",
        ] {
            assert_eq!(refused(binary), None, "{binary}");
        }
    }
}
