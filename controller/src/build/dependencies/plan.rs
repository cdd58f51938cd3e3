//! What a bundle asks to be installed, and the key that it is kept under. Reads the bundle; decides, and installs nothing.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use hearth_function::Digest;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{DependencyKey, Toolchain};
use crate::backend::Root;
use crate::backend::interpreters::Language;
use crate::build::shelf::{At, FileError};

/// Largest manifest or lock file that is read. npm's lock of two thousand packages has one megabyte.
const LARGEST: u64 = 32 << 20;

/// What is installed for a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Under which it is kept.
    pub key: DependencyKey,
    /// What installs it.
    pub tool: Tool,
    /// What the user should know about it.
    pub notes: Vec<String>,
    /// For which interpreter and root.
    pub toolchain: Toolchain,
    pub(super) bundle: PathBuf,
    pub(super) inputs: Inputs,
    /// `package.json` without its scripts, for npm.
    pub(super) manifest: Option<String>,
}

/// What installs dependencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Tool {
    /// `npm ci`: exactly what the lock file says.
    NpmCi,
    /// `npm install`: there is no lock file.
    NpmInstall,
    /// `pip install -r requirements.txt`.
    Pip,
}

/// What the installation sees of the bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Inputs {
    /// These files of its root, and no others.
    Files(Vec<&'static str>),
    /// All of it, because it asks for packages that lie in it. Then the key depends on all of it too.
    Whole,
}

/// Why it cannot be told what a bundle asks for.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// A file is not what it should be.
    #[error("{file}: {problem}")]
    Invalid {
        /// Which file of the bundle.
        file: &'static str,
        /// What is wrong with it, with the place.
        problem: String,
    },
    /// A file could not be read.
    #[error(transparent)]
    File(#[from] FileError),
}

impl Plan {
    /// What of the build directory is kept; `None`: all.
    pub(super) fn keep(&self) -> Option<&'static str> {
        match (&self.inputs, self.tool) {
            (Inputs::Whole, _) => None,
            (Inputs::Files(_), Tool::NpmCi | Tool::NpmInstall) => Some("node_modules"),
            (Inputs::Files(_), Tool::Pip) => Some("python"),
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NpmCi => "npm ci",
            Self::NpmInstall => "npm install",
            Self::Pip => "pip install",
        })
    }
}

/// Says what is to be installed for an unpacked bundle; `None`: nothing. Reads a few files of its root and blocks for that.
///
/// # Errors
/// When `package.json` is not JSON, or a file cannot be read.
pub fn plan(bundle: &Path, toolchain: &Toolchain) -> Result<Option<Plan>, PlanError> {
    match toolchain.interpreter.language {
        Language::Nodejs => npm(bundle, toolchain),
        Language::Python => pip(bundle, toolchain),
    }
}

fn npm(bundle: &Path, toolchain: &Toolchain) -> Result<Option<Plan>, PlanError> {
    let Some(text) = read(bundle, "package.json")? else { return Ok(None) };
    let invalid = |problem| PlanError::Invalid { file: "package.json", problem };
    // npm takes a byte order mark, too.
    let text = String::from_utf8(text).map_err(|_| invalid("is not UTF-8".to_owned()))?;
    let parsed = serde_json::from_str::<Value>(text.trim_start_matches('\u{feff}'));
    let Value::Object(mut manifest) = parsed.map_err(|error| invalid(error.to_string()))? else {
        return Err(invalid("is not an object".to_owned()));
    };

    let workspaces = manifest.get("workspaces").is_some_and(|value| !value.is_null());
    let wanted: Vec<&Value> = ["dependencies", "optionalDependencies", "peerDependencies"]
        .iter()
        .filter_map(|section| manifest.get(*section)?.as_object())
        .flat_map(Map::values)
        .collect();
    if wanted.is_empty() && !workspaces {
        return Ok(None);
    }
    let local = workspaces || wanted.iter().any(|version| version.as_str().is_some_and(is_local_version));

    let mut notes = Vec::new();
    let mut files = Vec::new();
    let lock =
        ["npm-shrinkwrap.json", "package-lock.json"].into_iter().find(|name| bundle.join(name).is_file());
    let tool = match lock {
        Some(name) => {
            files.push(name);
            Tool::NpmCi
        }
        None => {
            let other = ["yarn.lock", "pnpm-lock.yaml", "bun.lock"]
                .into_iter()
                .find(|name| bundle.join(name).is_file());
            notes.push(match other {
                Some(name) => format!("{name} is not read: npm chooses the versions; add a package-lock.json to fix them"),
                None => "there is no package-lock.json: npm chooses the versions; run npm install and keep the file to fix them".to_owned(),
            });
            Tool::NpmInstall
        }
    };
    if bundle.join(".npmrc").is_file() {
        files.push(".npmrc");
    }
    if let Some(Value::Object(scripts)) = manifest.remove("scripts") {
        let own =
            ["preinstall", "install", "postinstall", "prepublish", "preprepare", "prepare", "postprepare"];
        let own: Vec<&str> = own.into_iter().filter(|name| scripts.contains_key(*name)).collect();
        if !own.is_empty() {
            // The code is packed as it is to run, and what prepares it is as a rule a development dependency, which is not installed.
            notes.push(format!(
                "the {} script of package.json is not run: run it before the code is packed",
                own.join(" and ")
            ));
        }
    }

    let mut key = Key::new(toolchain, tool);
    for section in SECTIONS {
        key.field(section, manifest.get(section).map(Value::to_string).unwrap_or_default().as_bytes());
    }
    for name in &files {
        key.field(name, &read(bundle, name)?.unwrap_or_default());
    }
    let inputs = key.inputs(local, bundle, files);
    Ok(Some(Plan {
        key: key.finish(),
        tool,
        notes,
        toolchain: toolchain.clone(),
        bundle: bundle.to_owned(),
        inputs,
        manifest: Some(Value::Object(manifest).to_string()),
    }))
}

/// What of `package.json` decides what is installed. A new version number or script installs nothing anew.
const SECTIONS: [&str; 10] = [
    "bundleDependencies",
    "dependencies",
    "devDependencies",
    "engines",
    "optionalDependencies",
    "overrides",
    "peerDependencies",
    "peerDependenciesMeta",
    "type",
    "workspaces",
];

/// Whether npm takes this version from the bundle's own files.
fn is_local_version(version: &str) -> bool {
    ["file:", "link:", "workspace:", ".", "/", "~/"].iter().any(|prefix| version.starts_with(prefix))
}

fn pip(bundle: &Path, toolchain: &Toolchain) -> Result<Option<Plan>, PlanError> {
    const NAME: &str = "requirements.txt";
    let Some(bytes) = read(bundle, NAME)? else { return Ok(None) };
    let text = String::from_utf8(bytes)
        .map_err(|_| PlanError::Invalid { file: NAME, problem: "is not UTF-8".to_owned() })?;
    // As pip: a comment begins a line or comes after a space.
    let lines = text.trim_start_matches('\u{feff}').lines().map(|line| {
        let line = line.split(" #").next().unwrap_or(line).trim();
        if line.starts_with('#') { "" } else { line }
    });
    let lines: Vec<&str> = lines.filter(|line| !line.is_empty()).collect();
    // Options alone, such as an index, install nothing.
    if !lines.iter().any(|line| !line.starts_with('-') || is_local_requirement(line)) {
        return Ok(None);
    }
    let local = lines.iter().any(|line| is_local_requirement(line));
    let mut notes = Vec::new();
    let fixed = |line: &&&str| line.contains("==") || line.contains(" @ ") || line.starts_with('-');
    if !local && lines.iter().filter(|line| !fixed(line)).count() > 0 {
        notes.push(
            "requirements.txt leaves versions open: pip chooses them; write name==version to fix them"
                .to_owned(),
        );
    }
    let mut key = Key::new(toolchain, Tool::Pip);
    key.field(NAME, lines.join("\n").as_bytes());
    let inputs = key.inputs(local, bundle, vec![NAME]);
    Ok(Some(Plan {
        key: key.finish(),
        tool: Tool::Pip,
        notes,
        toolchain: toolchain.clone(),
        bundle: bundle.to_owned(),
        inputs,
        manifest: None,
    }))
}

/// Whether pip reads something else of the bundle for this line: another list, or a package that lies in it.
fn is_local_requirement(line: &str) -> bool {
    let options = ["-r", "-c", "-e", "--requirement", "--constraint", "--editable"];
    options.iter().any(|option| line.starts_with(option))
        || [".", "/", "file:"].iter().any(|prefix| line.starts_with(prefix))
        || line.contains("@ file:")
        || [".whl", ".tar.gz", ".zip"].iter().any(|end| line.ends_with(end) && !line.contains("://"))
}

/// Reads a file of the bundle's root, if it is there. A link was checked to stay inside when the bundle was unpacked.
fn read(bundle: &Path, name: &'static str) -> Result<Option<Vec<u8>>, PlanError> {
    let path = bundle.join(name);
    if !path.is_file() {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    let file = File::open(&path).at("open", &path)?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).at("read", &path)?;
    if bytes.len() as u64 > LARGEST {
        return Err(PlanError::Invalid { file: name, problem: format!("is larger than {LARGEST} bytes") });
    }
    Ok(Some(bytes))
}

/// A hash over named fields, each with its length, so that no two lists of fields look the same.
struct Key(Sha256);

impl Key {
    fn new(toolchain: &Toolchain, tool: Tool) -> Self {
        let mut key = Self(Sha256::new());
        let [major, minor, patch] = toolchain.interpreter.version;
        let root = match &toolchain.root {
            Root::Host { .. } => "host".to_owned(),
            Root::Directory(path) => path.display().to_string(),
            Root::Image(image) | Root::Runtime { image, .. } => image.clone(),
        };
        // Changes when what is installed by the same inputs changes.
        key.field("format", b"1");
        key.field("tool", tool.to_string().as_bytes());
        key.field("version", format!("{major}.{minor}.{patch}").as_bytes());
        key.field("root", root.as_bytes());
        key.field("architecture", std::env::consts::ARCH.as_bytes());
        key
    }

    fn field(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), value] {
            self.0.update((part.len() as u64).to_be_bytes());
            self.0.update(part);
        }
    }

    fn inputs(&mut self, local: bool, bundle: &Path, files: Vec<&'static str>) -> Inputs {
        if !local {
            return Inputs::Files(files);
        }
        // A bundle's directory has its digest for a name.
        self.field("bundle", bundle.file_name().map(|name| name.as_encoded_bytes()).unwrap_or_default());
        Inputs::Whole
    }

    fn finish(self) -> DependencyKey {
        DependencyKey(Digest::from_sha256(self.0.finalize().into()).hex().into())
    }
}
