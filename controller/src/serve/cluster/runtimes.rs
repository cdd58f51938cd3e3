//! The runtime images of a cluster: which interpreters there are, and in which images.

use std::path::PathBuf;

use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::super::config::Value;
use crate::backend::interpreters::{self, Catalogue, Interpreter, Language};

/// The name of the image for programs that need no interpreter.
const PROGRAMS: &str = "exec";

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
    /// With an interpreter, the newest version of a language first.
    pub images: Vec<RuntimeImage>,
    /// For programs that need none.
    pub programs: Option<String>,
}

impl Runtimes {
    /// Reads `NAME=IMAGE` entries: `nodejs22.1.0:/usr/bin/node=registry.example.com/hearth-nodejs:22`, `exec=…`.
    fn parse<'a>(entries: impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let mut runtimes = Self::default();
        for entry in entries {
            let (name, image) = entry
                .split_once('=')
                .filter(|(_, image)| !image.is_empty())
                .ok_or_else(|| format!("has {entry:?}, which is not of the form NAME=IMAGE"))?;
            let (name, path) = name.split_once(':').map_or((name, None), |(name, path)| (name, Some(path)));
            runtimes.add(name, path, None, image)?;
        }
        Ok(runtimes.in_order())
    }

    fn add(
        &mut self,
        name: &str,
        path: Option<&str>,
        version: Option<&str>,
        image: &str,
    ) -> Result<(), String> {
        if name == PROGRAMS {
            self.programs = Some(image.to_owned());
        } else {
            let interpreter = interpreter(name, path, version, image)?;
            self.images.push(RuntimeImage { interpreter, image: image.to_owned() });
        }
        Ok(())
    }

    fn in_order(mut self) -> Self {
        self.images.sort_by_key(|one| std::cmp::Reverse(one.interpreter.version));
        self
    }

    /// What functions are resolved by.
    #[must_use]
    pub fn catalogue(&self) -> Catalogue {
        Catalogue::Listed(self.images.iter().map(|one| one.interpreter.clone()).collect())
    }

    /// The image for programs that need no interpreter: any other will do, which has a shell at least.
    #[must_use]
    pub fn program_image(&self) -> Option<&str> {
        self.programs.as_deref().or_else(|| self.images.first().map(|one| one.image.as_str()))
    }
}

/// In a file, a map of names to what they are; in a variable or flag, entries.
impl Value for Runtimes {
    const FORM: &'static str = "a map of names to image, interpreter and version (in a variable or flag: NAME=IMAGE, separated by commas)";

    fn read(value: &Json) -> Result<Self, String> {
        let Json::Object(map) = value else {
            let text = value.as_str().ok_or_else(|| format!("{value} is not {}", Self::FORM))?;
            return match serde_json::from_str(text) {
                Ok(map @ Json::Object(_)) => Self::read(&map),
                _ => Self::parse(text.split(',').map(str::trim).filter(|entry| !entry.is_empty())),
            };
        };
        let mut runtimes = Self::default();
        for (name, one) in map {
            let Entry { image, interpreter, version } = serde_json::from_value(one.clone())
                .map_err(|error| format!("has something wrong in {name}: {error}"))?;
            runtimes.add(name, interpreter.as_deref(), version.as_deref(), &image)?;
        }
        Ok(runtimes.in_order())
    }

    fn show(&self) -> Json {
        let dotted = |version: [u32; 3]| version.map(|part| part.to_string()).join(".");
        let entry = |one: &RuntimeImage| {
            let Interpreter { language, path, version, .. } = &one.interpreter;
            let name = match language {
                Language::Nodejs => "nodejs",
                Language::Python => "python",
            };
            let version = dotted(*version);
            let entry =
                json!({ "image": one.image, "interpreter": path.display().to_string(), "version": version });
            (format!("{name}{version}"), entry)
        };
        let mut map: Map<String, Json> = self.images.iter().map(entry).collect();
        map.extend(self.programs.as_ref().map(|image| (PROGRAMS.to_owned(), json!({ "image": image }))));
        Json::Object(map)
    }
}

/// An entry of the map.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    image: String,
    interpreter: Option<String>,
    version: Option<String>,
}

/// `nodejs22` with its whole version beside it, or in it. Without a path it is where the official images have it.
fn interpreter(
    name: &str,
    path: Option<&str>,
    version: Option<&str>,
    image: &str,
) -> Result<Interpreter, String> {
    let (language, named, usual) = match (name.strip_prefix("nodejs"), name.strip_prefix("python")) {
        (Some(version), _) => (Language::Nodejs, version, NODE),
        (None, Some(version)) => (Language::Python, version, PYTHON),
        (None, None) => {
            return Err(format!("has {name:?}, which is no runtime: nodejs22, python3.12 or {PROGRAMS}"));
        }
    };
    let version = version.unwrap_or(named);
    let parts: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
    let version = <[u32; 3]>::try_from(parts)
        .map_err(|_| format!("has {name:?} without the whole version of its interpreter, as in 22.1.0"))?;
    let path = PathBuf::from(path.unwrap_or(usual));
    if !path.is_absolute() {
        return Err(format!("has {}, which is no absolute path in an image", path.display()));
    }
    let prefix = interpreters::prefix(&path).unwrap_or_else(|| PathBuf::from("/"));
    Ok(Interpreter { language, path, version, prefix, image: Some(image.to_owned()) })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn read(value: Json) -> Result<Runtimes, String> {
        Runtimes::read(&value)
    }

    #[test]
    fn entries_and_maps_say_version_path_and_image() {
        let runtimes = read(json!(
            "nodejs20.1.0=r:5000/hearth-nodejs:20@sha256:0, python3.12.4:/usr/bin/python3.12=p,exec=e"
        ))
        .unwrap();
        assert_eq!(runtimes.program_image(), Some("e"));
        let [node, python] = &runtimes.images[..] else { panic!("{runtimes:?}") };
        assert_eq!(
            (node.interpreter.version, node.image.as_str()),
            ([20, 1, 0], "r:5000/hearth-nodejs:20@sha256:0")
        );
        assert_eq!(node.interpreter.path, Path::new(NODE));
        assert_eq!(python.interpreter.path, Path::new("/usr/bin/python3.12"));
        assert_eq!(read(runtimes.show()), Ok(runtimes));
        let map = read(json!({
            "nodejs20": { "image": "a", "interpreter": "/usr/local/bin/node", "version": "20.19.0" },
            "nodejs22": { "image": "b", "interpreter": "/usr/local/bin/node", "version": "22.12.0" },
        }))
        .unwrap();
        assert_eq!(map.catalogue().find("nodejs").unwrap().version, [22, 12, 0], "the newest");
        assert_eq!(map.program_image(), Some("b"));
    }

    #[test]
    fn what_is_no_entry_is_named() {
        for bad in ["nodejs22", "nodejs=", "nodejs22=i", "ruby3.1.0=i", "nodejs22.1.0:bin/node=i"] {
            assert!(read(json!(bad)).is_err(), "{bad}");
        }
        assert!(read(json!({ "nodejs22": { "image": "i", "path": "/x" } })).is_err());
        assert_eq!(read(json!("")), Ok(Runtimes::default()));
    }
}
