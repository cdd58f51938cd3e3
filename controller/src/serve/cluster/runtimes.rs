//! The runtime images of a cluster: which interpreters there are, and in which images.

use std::path::{Path, PathBuf};

use crate::backend::interpreters::{self, Catalogue, Interpreter, Language};

/// Where the official images have them.
const NODE: &str = "/usr/local/bin/node";
const PYTHON: &str = "/usr/local/bin/python3";

/// An image with an interpreter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuntimeImage {
    /// The interpreter, at its path in the image.
    pub interpreter: Interpreter,
    /// The image's reference.
    pub image: String,
}

/// Every runtime image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runtimes {
    /// With an interpreter, the preferred one of a language first.
    pub images: Vec<RuntimeImage>,
    /// For programs that need none.
    pub programs: Option<String>,
}

impl Runtimes {
    /// Reads `NAME=IMAGE` entries: `nodejs22.1.0:/usr/bin/node=registry.example.com/hearth-nodejs:22`, `exec=…`.
    ///
    /// # Errors
    /// What is wrong with the first entry that is.
    pub fn parse(entries: &[String]) -> Result<Self, String> {
        let mut runtimes = Self::default();
        for entry in entries {
            let (name, image) = entry
                .split_once('=')
                .filter(|(_, image)| !image.is_empty())
                .ok_or_else(|| format!("{entry:?} has not the form NAME=IMAGE"))?;
            if name == "exec" {
                runtimes.programs = Some(image.to_owned());
                continue;
            }
            let interpreter = interpreter(name)?;
            runtimes.images.push(RuntimeImage { interpreter, image: image.to_owned() });
        }
        Ok(runtimes)
    }

    /// What functions are resolved by.
    #[must_use]
    pub fn catalogue(&self) -> Catalogue {
        Catalogue::Listed(self.images.iter().map(|one| one.interpreter.clone()).collect())
    }
}

/// `nodejs22.1.0:/usr/bin/node`; without a path where the official images have it.
fn interpreter(name: &str) -> Result<Interpreter, String> {
    let (name, path) = match name.split_once(':') {
        Some((name, path)) => (name, Some(PathBuf::from(path))),
        None => (name, None),
    };
    let (language, version, usual) = match (name.strip_prefix("nodejs"), name.strip_prefix("python")) {
        (Some(version), _) => (Language::Nodejs, version, NODE),
        (None, Some(version)) => (Language::Python, version, PYTHON),
        (None, None) => return Err(format!("{name:?} is no runtime: nodejs22.1.0, python3.12.4 or exec")),
    };
    let parts: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
    let version = <[u32; 3]>::try_from(parts)
        .map_err(|_| format!("{name:?} needs the whole version of its interpreter, as in nodejs22.1.0"))?;
    let path = path.unwrap_or_else(|| PathBuf::from(usual));
    if !path.is_absolute() {
        return Err(format!("{} is no absolute path in an image", path.display()));
    }
    let prefix = interpreters::prefix(&path).unwrap_or_else(|| Path::new("/").to_owned());
    Ok(Interpreter { language, path, version, prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(entries: &[&str]) -> Result<Runtimes, String> {
        Runtimes::parse(&entries.iter().map(|entry| (*entry).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn an_entry_says_version_path_and_image() {
        let runtimes = parse(&[
            "nodejs22.1.0=r:5000/hearth-nodejs:22@sha256:0",
            "python3.12.4:/usr/bin/python3.12=hearth-python",
            "exec=hearth-exec",
        ])
        .unwrap();
        assert_eq!(runtimes.programs.as_deref(), Some("hearth-exec"));
        let [node, python] = &runtimes.images[..] else { panic!("{runtimes:?}") };
        assert_eq!(
            (node.interpreter.version, node.image.as_str()),
            ([22, 1, 0], "r:5000/hearth-nodejs:22@sha256:0")
        );
        assert_eq!(node.interpreter.path, Path::new(NODE));
        assert_eq!(python.interpreter.path, Path::new("/usr/bin/python3.12"));
        assert_eq!(runtimes.catalogue().find("python3.12").unwrap().version, [3, 12, 4]);
    }

    #[test]
    fn what_is_no_entry_is_named() {
        for bad in ["nodejs22", "nodejs=", "nodejs22=i", "ruby3.1.0=i", "nodejs22.1.0:bin/node=i", ""] {
            assert!(parse(&[bad]).is_err(), "{bad}");
        }
    }
}
