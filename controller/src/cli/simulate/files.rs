//! What is read and written: traces, and the report.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use hearth_scaler::simulate::{NAMES, Random, Spread, Trace, shipped};

use super::super::error::Error;
use super::super::out;

/// The name of a file that is none.
pub(super) const STANDARD_INPUT: &str = "-";

/// The size of a trace's file, at most: as many calls as are replayed, each with a long name.
const MOST_BYTES: u64 = 1 << 30;

/// A trace that comes with Hearth, a file, or standard input. `durations` is for calls whose duration is not in it.
pub(super) fn trace(name: &str, seed: u64, durations: &Spread) -> Result<Trace, Error> {
    if let Some(trace) = shipped(name, seed) {
        return Ok(trace);
    }
    let (shown, stem, text) = if name == STANDARD_INPUT {
        let text = read(io::stdin().lock(), MOST_BYTES)
            .map_err(|error| Error::failed(format!("cannot read standard input: {error}")))?;
        ("standard input", "standard input".to_owned(), text)
    } else {
        let text = File::open(name).and_then(|file| read(file, MOST_BYTES)).map_err(|error| {
            Error::fixable(
                format!("cannot read {name}: {error}"),
                format!("a file, `-` for standard input, or one of {}", NAMES.join(", ")),
            )
        })?;
        let stem = Path::new(name).file_stem();
        (name, stem.map_or_else(|| name.to_owned(), |stem| stem.display().to_string()), text)
    };
    Trace::parse(&stem, &text, durations, &mut Random::new(seed))
        .map_err(|error| Error::failed(format!("{shown}: {error}")))
}

fn read(source: impl Read, most: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    let read = source.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(read).unwrap_or(u64::MAX) > most {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it is larger than {}", out::bytes_for_people(most)),
        ));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is no text in UTF-8"))
}

/// The file of the report, open before there is anything to write; what it held stays until then.
#[derive(Debug)]
pub(super) struct Report {
    path: PathBuf,
    file: File,
    /// It was made for this, and goes again when nothing comes of it.
    fresh: bool,
}

impl Report {
    /// Opens or makes it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(super) fn open(path: &Path) -> Result<Self, Error> {
        let open = |options: &mut OpenOptions| options.write(true).open(path);
        let opened = match open(OpenOptions::new().create_new(true)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                open(&mut OpenOptions::new()).map(|file| (file, false))
            }
            other => other.map(|file| (file, true)),
        };
        let (file, fresh) = opened.map_err(|error| unwritable(path, &error))?;
        Ok(Self { path: path.to_owned(), file, fresh })
    }

    /// Writes the page and says where it is.
    ///
    /// # Errors
    /// When it cannot be written after all.
    pub(super) fn write(mut self, page: &str) -> Result<(), Error> {
        // A pipe or a terminal has no length.
        let emptied = match self.file.metadata() {
            Ok(metadata) if metadata.is_file() => self.file.set_len(0),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        emptied
            .and_then(|()| self.file.write_all(page.as_bytes()))
            .map_err(|error| unwritable(&self.path, &error))?;
        self.fresh = false;
        out::note(&format!("the report is in {}", self.path.display()));
        Ok(())
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if self.fresh {
            // An empty file that stays harms nobody.
            drop(std::fs::remove_file(&self.path));
        }
    }
}

fn unwritable(path: &Path, error: &io::Error) -> Error {
    Error::fixable(
        format!("cannot write {}: {error}", path.display()),
        "give `--html` a file in a directory that is there and may be written",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_read_up_to_its_size() {
        assert_eq!(read(&b"a,1,1"[..], 5).unwrap(), "a,1,1");
        assert!(read(&b"a,1,1\n"[..], 5).unwrap_err().to_string().contains("larger than"));
        assert!(read(io::repeat(b'a'), 100).is_err());
        assert!(read(&b"\xff,1,1"[..], 100).unwrap_err().to_string().contains("UTF-8"));
    }

    #[test]
    fn a_report_takes_the_place_of_an_older_one_when_it_is_written_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report.html");
        drop(Report::open(&path).unwrap());
        assert!(!path.exists(), "an empty one is left behind");
        std::fs::write(&path, "an older and longer report").unwrap();
        drop(Report::open(&path).unwrap());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "an older and longer report");
        Report::open(&path).unwrap().write("<p>").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "<p>");
        let error = Report::open(&directory.path().join("none/report.html")).unwrap_err();
        assert!(error.text().contains("none/report.html"), "{}", error.text());
    }
}
