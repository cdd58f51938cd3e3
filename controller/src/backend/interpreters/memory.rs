//! What a search has found, from one start of Hearth to the next. It counts as long as the same files lie where interpreters are looked for.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::{Language, Searched, search};

/// A remembered search.
#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    /// Every file that was looked at, in that order.
    candidates: Vec<Candidate>,
    found: Searched,
}

/// A file that may be an interpreter.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Candidate {
    path: PathBuf,
    /// Behind links.
    real: PathBuf,
    length: u64,
    modified: Option<SystemTime>,
}

fn file(directory: &Path, language: Language) -> PathBuf {
    let name = match language {
        Language::Nodejs => "interpreters-nodejs.json",
        Language::Python => "interpreters-python.json",
    };
    directory.join(name)
}

/// The files that a search would look at now.
pub(super) fn candidates(language: Language) -> Vec<Candidate> {
    let look = |path: PathBuf| {
        let real = fs::canonicalize(&path).ok()?;
        let metadata = fs::metadata(&real).ok()?;
        Some(Candidate { path, real, length: metadata.len(), modified: metadata.modified().ok() })
    };
    search::candidates(language).into_iter().filter_map(look).collect()
}

/// What was found before, if everything is as it was; and whether that is certain: where a version manager's script leads is not seen in
/// its file.
pub(super) fn recall(directory: &Path, language: Language) -> Option<(Searched, bool)> {
    let kept: Kept = serde_json::from_slice(&fs::read(file(directory, language)).ok()?).ok()?;
    let candidates = candidates(language);
    let same = kept.candidates == candidates && kept.found.usable.iter().all(|one| one.path.exists());
    let scripts = candidates.iter().any(|candidate| !search::is_binary(&candidate.real));
    same.then_some((kept.found, !scripts))
}

/// Remembers what was found among `candidates`, as they were before the search.
///
/// # Errors
/// When the file cannot be written.
pub(super) fn keep(
    directory: &Path,
    language: Language,
    candidates: Vec<Candidate>,
    found: &Searched,
) -> io::Result<()> {
    let kept = Kept { candidates, found: found.clone() };
    let (path, new) = (file(directory, language), file(directory, language).with_extension("new"));
    fs::write(&new, serde_json::to_vec(&kept).map_err(io::Error::other)?)?;
    fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_counts_until_something_else_is_there() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(recall(directory.path(), Language::Python), None);
        // No search is needed to tell that it was remembered and not made.
        let found = Searched::default();
        keep(directory.path(), Language::Python, candidates(Language::Python), &found).unwrap();
        assert_eq!(recall(directory.path(), Language::Python).map(|(found, _)| found), Some(found));
        assert_eq!(recall(directory.path(), Language::Nodejs), None);
        // As if another interpreter had been there.
        let path = file(directory.path(), Language::Python);
        let mut kept: Kept = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let other = PathBuf::from("/opt/other/bin/python3");
        kept.candidates.push(Candidate { path: other.clone(), real: other, length: 1, modified: None });
        fs::write(&path, serde_json::to_vec(&kept).unwrap()).unwrap();
        assert_eq!(recall(directory.path(), Language::Python), None);
        fs::write(&path, "torn").unwrap();
        assert_eq!(recall(directory.path(), Language::Python), None);
    }
}
