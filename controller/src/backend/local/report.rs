//! What `hearth doctor` finds on every machine, whatever makes the containers.

use crate::backend::Capability;
use crate::backend::interpreters::{self, Language};

/// It works here.
pub(in crate::backend) fn works(name: &str, detail: impl Into<String>) -> Capability {
    Capability { name: name.to_owned(), works: true, detail: detail.into(), remedy: None }
}

/// It does not, and this is what to do.
pub(in crate::backend) fn lacks(
    name: &str,
    detail: impl Into<String>,
    remedy: impl Into<String>,
) -> Capability {
    Capability { name: name.to_owned(), works: false, detail: detail.into(), remedy: Some(remedy.into()) }
}

/// Whether Hearth has root's rights.
pub(in crate::backend) fn root() -> Capability {
    let user = rustix::process::geteuid();
    if user.is_root() {
        works("root", "running as root")
    } else {
        lacks("root", format!("running as user {}", user.as_raw()), "start hearth as root (sudo)")
    }
}

/// The host's Node.
pub(in crate::backend) fn node() -> Capability {
    interpreter("nodejs", Language::Nodejs)
}

/// The host's Python.
pub(in crate::backend) fn python() -> Capability {
    interpreter("python", Language::Python)
}

fn interpreter(runtime: &str, language: Language) -> Capability {
    match interpreters::find(runtime) {
        Ok(chosen) => {
            let dotted = |version: [u32; 3]| version.map(|part| part.to_string()).join(".");
            let others: Vec<String> = interpreters::all(language)
                .iter()
                .filter(|one| one.path != chosen.path)
                .map(|one| dotted(one.version))
                .collect();
            let others =
                if others.is_empty() { String::new() } else { format!("; also here: {}", others.join(", ")) };
            let refused: String = interpreters::refused(language)
                .iter()
                .map(|one| format!("; not used: {}, {}", one.path.display(), one.why))
                .collect();
            works(
                runtime,
                format!("{} at {}{others}{refused}", dotted(chosen.version), chosen.path.display()),
            )
        }
        Err(interpreters::Error::None { wanted, found, remedy }) => {
            lacks(runtime, format!("no {wanted}: {found}"), remedy)
        }
        Err(error @ (interpreters::Error::NotARuntime(_) | interpreters::Error::NoImage { .. })) => {
            lacks(runtime, error.to_string(), "use another name")
        }
    }
}
