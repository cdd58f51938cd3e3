//! `hearth init`: a function to begin with, in a directory of its own.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::args::{Init, Template};
use super::error::Error;
use super::out;

/// A file of a template.
struct Carried {
    name: &'static str,
    text: &'static str,
    mode: u32,
}

macro_rules! carried {
    ($directory:literal, $name:literal, $mode:literal) => {
        Carried {
            name: $name,
            text: include_str!(concat!("../../templates/", $directory, "/", $name)),
            mode: $mode,
        }
    };
}

fn files(template: Template) -> &'static [Carried] {
    match template {
        Template::Nodejs => {
            &[carried!("nodejs", "function.yaml", 0o644), carried!("nodejs", "index.js", 0o644)]
        }
        Template::Python => {
            &[carried!("python", "function.yaml", 0o644), carried!("python", "main.py", 0o644)]
        }
        Template::Http => &[carried!("http", "function.yaml", 0o644), carried!("http", "server.py", 0o644)],
        Template::Exec => &[carried!("exec", "function.yaml", 0o644), carried!("exec", "run.sh", 0o755)],
    }
}

/// Runs the command.
pub(super) fn run(arguments: &Init) -> Result<(), Error> {
    let name = arguments.name.as_str();
    let is_edge = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_name = name.len() <= 56
        && name.bytes().all(|byte| is_edge(&byte) || byte == b'-')
        && name.as_bytes().first().is_some_and(is_edge)
        && name.as_bytes().last().is_some_and(is_edge);
    if !is_name {
        return Err(Error::Usage {
            what: format!("{name:?} cannot be the name of a function"),
            fix: "use lower-case letters, digits and dashes, with a letter or digit at both ends".to_owned(),
        });
    }
    let directory = Path::new(name);
    let files = files(arguments.template());
    if let Some(there) = files.iter().map(|file| directory.join(file.name)).find(|path| path.exists()) {
        return Err(Error::fixable(format!("{} is there already", there.display()), "choose another name"));
    }
    let failed =
        |path: &Path, error: &io::Error| Error::failed(format!("cannot write {}: {error}", path.display()));
    fs::create_dir_all(directory).map_err(|error| failed(directory, &error))?;
    for file in files {
        let path = directory.join(file.name);
        let text = file.text.replace("NAME", name);
        let mut options = fs::OpenOptions::new();
        let opened = options.write(true).create_new(true).mode(file.mode).open(&path);
        opened
            .and_then(|mut opened| opened.write_all(text.as_bytes()))
            .map_err(|error| failed(&path, &error))?;
    }
    out::line(&format!("{name}/ is there; run it with: hearth up {name}"))
}

impl Init {
    fn template(&self) -> Template {
        self.runtime
    }
}
