//! Where interpreters are looked for, and asking them what they are.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Interpreter, Language, Refused, Searched, exposes, prefix};

/// Runs of each of several equals, to see which starts fastest.
const TRIES: u32 = 3;

/// An interpreter that does not even tell its version by then is none.
const PATIENCE: Duration = Duration::from_secs(5);

/// Finds every interpreter of the language, the preferred one first: of the version that `PATH` leads to before others, then newer before
/// older, and of one version the fastest first.
pub(super) fn search(language: Language) -> Searched {
    search_among(language, candidates(language))
}

fn search_among(language: Language, candidates: Vec<PathBuf>) -> Searched {
    let mut chosen = None;
    let mut found: BTreeMap<PathBuf, [u32; 3]> = BTreeMap::new();
    let mut unanswered = false;
    for candidate in candidates {
        let Some(binary) = real_binary(language, &candidate) else { continue };
        match found.get(&binary).copied().or_else(|| version(&binary)) {
            Some(version) => {
                found.insert(binary, version);
                chosen.get_or_insert(version);
            }
            None => unanswered = true,
        }
    }
    let homes = all_homes();
    let mut refused = Vec::new();
    found.retain(|path, _| {
        let why = prefix(path).and_then(|prefix| exposes(&prefix, &homes));
        refused.extend(why.map(|why| Refused { path: path.clone(), why }));
        refused.last().is_none_or(|last| last.path != *path)
    });
    let mut list: Vec<Interpreter> = found
        .into_iter()
        .filter_map(|(path, version)| {
            Some(Interpreter { language, prefix: prefix(&path)?, path, version, image: None })
        })
        .collect();
    // The patch level does not count: 3.11.2 of the system and 3.11.9 of pyenv are equals.
    let series = |version: [u32; 3]| {
        if language == Language::Nodejs { [version[0], 0] } else { [version[0], version[1]] }
    };
    let chosen = chosen.map(series);
    let equals = |one: &Interpreter, all: &[Interpreter]| {
        all.iter().filter(|other| series(other.version) == series(one.version)).count()
    };
    let speeds: BTreeMap<PathBuf, Duration> = list
        .iter()
        .map(|one| (one.path.clone(), if equals(one, &list) > 1 { start_time(one) } else { Duration::ZERO }))
        .collect();
    list.sort_by_key(|one| {
        let own = series(one.version);
        (Some(own) != chosen, std::cmp::Reverse(own), speeds.get(&one.path).copied())
    });
    Searched { usable: list, refused, unanswered }
}

/// Every file that may be an interpreter, those on `PATH` first. Runs none of them.
pub(super) fn candidates(language: Language) -> Vec<PathBuf> {
    let on_path: Vec<PathBuf> = std::env::var_os("PATH")
        .map(|path| std::env::split_paths(&path).flat_map(|directory| named(language, &directory)).collect())
        .unwrap_or_default();
    on_path.into_iter().chain(known_places(language)).collect()
}

/// Whether a file is a program by itself, and no script.
pub(super) fn is_binary(path: &Path) -> bool {
    let mut start = [0; 4];
    let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == *b"\x7fELF"
}

/// Files of a directory that have an interpreter's name, the plain name first.
fn named(language: Language, directory: &Path) -> Vec<PathBuf> {
    let plain: &[&str] = match language {
        Language::Nodejs => &["node", "nodejs"],
        Language::Python => &["python3", "python"],
    };
    let mut files: Vec<PathBuf> =
        plain.iter().map(|name| directory.join(name)).filter(|path| path.is_file()).collect();
    if language == Language::Python {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        files.extend(entries.filter_map(|entry| {
            let name = entry.file_name();
            let minor = name.to_str()?.strip_prefix("python3.")?;
            minor.bytes().all(|byte| byte.is_ascii_digit()).then(|| entry.path())
        }));
    }
    files
}

/// Interpreters where systems and version managers put them.
fn known_places(language: Language) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = ["/usr/local/bin", "/usr/bin"].map(PathBuf::from).to_vec();
    let managed = |variable: &str, places: &[&str]| -> Vec<PathBuf> {
        let own = std::env::var_os(variable).map(PathBuf::from);
        let at_home = homes()
            .into_iter()
            .flat_map(|home| places.iter().map(move |place| home.join(place)).collect::<Vec<_>>());
        own.into_iter().chain(at_home).collect()
    };
    let versions: Vec<PathBuf> = match language {
        Language::Nodejs => [
            below(managed("NVM_DIR", &[".nvm"]), "versions/node"),
            below(managed("ASDF_DATA_DIR", &[".asdf"]), "installs/nodejs"),
            below(managed("MISE_DATA_DIR", &[".local/share/mise"]), "installs/node"),
            below(managed("VOLTA_HOME", &[".volta"]), "tools/image/node"),
        ]
        .concat(),
        Language::Python => [
            below(managed("PYENV_ROOT", &[".pyenv"]), "versions"),
            below(managed("ASDF_DATA_DIR", &[".asdf"]), "installs/python"),
            below(managed("MISE_DATA_DIR", &[".local/share/mise"]), "installs/python"),
            below(managed("UV_PYTHON_INSTALL_DIR", &[".local/share/uv/python"]), ""),
        ]
        .concat(),
    };
    for place in versions {
        let entries = fs::read_dir(place).into_iter().flatten().flatten();
        directories.extend(entries.map(|entry| entry.path().join("bin")));
    }
    directories.iter().flat_map(|directory| named(language, directory)).collect()
}

fn below(roots: Vec<PathBuf>, part: &str) -> Vec<PathBuf> {
    roots.into_iter().map(|root| root.join(part)).collect()
}

/// This user's home, and of somebody who used sudo their own: that is where their nvm is.
fn homes() -> Vec<PathBuf> {
    let mut homes: Vec<PathBuf> = std::env::var_os("HOME").map(PathBuf::from).into_iter().collect();
    if let Some(user) = std::env::var("SUDO_USER").ok().filter(|user| user != "root") {
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        homes.extend(home_of(&passwd, &user));
    }
    homes
}

/// The homes of everybody who has one: of this process's user, of root and of people, whose numbers begin with 1000.
fn all_homes() -> Vec<PathBuf> {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    homes().into_iter().chain(homes_of_people(&passwd)).collect()
}

fn homes_of_people(passwd: &str) -> Vec<PathBuf> {
    let nobody = 65534;
    let home = |line: &str| {
        let fields: Vec<&str> = line.split(':').collect();
        let user: u32 = fields.get(2)?.parse().ok()?;
        let home = fields.get(5).filter(|home| home.len() > 1)?;
        (user == 0 || (user >= 1000 && user != nobody)).then(|| PathBuf::from(home))
    };
    passwd.lines().filter_map(home).collect()
}

fn home_of(passwd: &str, user: &str) -> Option<PathBuf> {
    passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| {
        (fields.first() == Some(&user)).then(|| fields.get(5).map(PathBuf::from)).flatten()
    })
}

/// The binary behind links and shims.
fn real_binary(language: Language, candidate: &Path) -> Option<PathBuf> {
    let path = fs::canonicalize(candidate).ok()?;
    if is_binary(&path) {
        // A version manager in one binary (volta, mise) is a shim too: it asks by what name it was called.
        let named = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let expected = if language == Language::Nodejs { "node" } else { "python" };
        return named.starts_with(expected).then_some(path);
    }
    // A script: it finds the real one, and the real one knows where it is.
    let ask: &[&str] = match language {
        Language::Nodejs => &["-p", "process.execPath"],
        Language::Python => &["-I", "-c", "import sys; print(sys.executable)"],
    };
    let real = fs::canonicalize(answer(Command::new(candidate).args(ask))?).ok()?;
    (real != path).then_some(real)
}

/// `v20.20.2`, `Python 3.11.2`.
fn version(binary: &Path) -> Option<[u32; 3]> {
    parse_version(&answer(Command::new(binary).arg("--version"))?)
}

fn parse_version(text: &str) -> Option<[u32; 3]> {
    let digits = text.trim().trim_start_matches("Python ").trim_start_matches('v');
    let mut parts = digits.split('.').map(|part| {
        // `3.14.0rc1`
        let end = part.find(|character: char| !character.is_ascii_digit()).unwrap_or(part.len());
        part.get(..end).and_then(|part| part.parse().ok())
    });
    Some([parts.next()??, parts.next()??, parts.next()??])
}

/// The fastest of a few starts.
fn start_time(interpreter: &Interpreter) -> Duration {
    let nothing: &[&str] = match interpreter.language {
        Language::Nodejs => &["-e", "0"],
        Language::Python => &["-I", "-c", "0"],
    };
    let run = |_| {
        let begin = Instant::now();
        answer(Command::new(&interpreter.path).args(nothing)).map(|_| begin.elapsed())
    };
    (0..TRIES).filter_map(run).min().unwrap_or(PATIENCE)
}

/// What a command prints, if it ends well and in time. The environment stays: version managers live by it.
fn answer(command: &mut Command) -> Option<String> {
    // Costs Node 30 ms at every start.
    command
        .env_remove("NODE_EXTRA_CA_CERTS")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().ok()?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().ok()? {
            Some(status) => {
                let mut text = String::new();
                child.stdout.take()?.take(4096).read_to_string(&mut text).ok()?;
                return status.success().then(|| text.trim().to_owned());
            }
            None if Instant::now() > deadline => {
                child.kill().ok();
                child.wait().ok();
                return None;
            }
            None => std::thread::park_timeout(Duration::from_micros(300)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn versions_are_read_as_they_are_printed() {
        assert_eq!(parse_version("v20.20.2\n"), Some([20, 20, 2]));
        assert_eq!(parse_version("Python 3.14.0rc1"), Some([3, 14, 0]));
        assert_eq!(parse_version("pyenv: no such command"), None);
    }

    #[test]
    fn the_home_of_somebody_who_used_sudo_is_looked_up() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nada:x:1000:1000:Ada:/home/ada:/bin/bash\n";
        assert_eq!(home_of(passwd, "ada"), Some("/home/ada".into()));
        assert_eq!(home_of(passwd, "bob"), None);
        let more =
            format!("{passwd}daemon:x:1:1::/usr/sbin:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/sh\n");
        assert_eq!(homes_of_people(&more), ["/root", "/home/ada"].map(PathBuf::from));
    }

    #[test]
    fn a_shim_is_followed_to_the_real_interpreter() {
        let directory = tempfile::tempdir().unwrap();
        let real = fs::canonicalize("/bin/sh").unwrap();
        let shim = directory.path().join("python3");
        fs::write(&shim, format!("#!/bin/sh\necho {}\n", real.display())).unwrap();
        fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(real_binary(Language::Python, &shim), Some(real));
    }

    #[test]
    fn a_binary_that_does_not_tell_its_version_is_noted() {
        let directory = tempfile::tempdir().unwrap();
        let silent = directory.path().join("python3");
        fs::copy("/bin/false", &silent).unwrap();
        assert!(search_among(Language::Python, vec![silent]).unanswered);
        assert!(!search_among(Language::Python, vec![directory.path().join("python")]).unanswered);
    }

    #[test]
    fn this_machine_is_searched_without_shims() {
        for language in [Language::Nodejs, Language::Python] {
            for one in search(language).usable {
                let mut start = [0; 4];
                fs::File::open(&one.path).unwrap().read_exact(&mut start).unwrap();
                assert_eq!(&start, b"\x7fELF", "{}", one.path.display());
                assert!(one.path.starts_with(&one.prefix));
            }
        }
    }
}
