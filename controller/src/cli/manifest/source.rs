//! What a manifest says of files that only this machine has: whether the directory is there, and in it the file of the handler or the program.
//!
//! What is packed counts, and not what lies on the disk: a file that `.gitignore` leaves out is not there in an instance.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use hearth_function::{Function, Handler, Problem, RuntimeName};

use crate::build::{self, PackOptions};

const PATH: &str = "spec.source.path";

/// The directory that `source.path` names, if it does.
pub(super) fn directory(function: &Function, file: Option<&Path>) -> Option<PathBuf> {
    let path = function.spec.source.path.as_deref()?;
    let beside = file.and_then(Path::parent);
    let whole = beside.map_or_else(|| PathBuf::from(path), |beside| beside.join(path));
    // Without the dots that lead nowhere: people read it.
    Some(whole.components().collect())
}

/// Everything that is missing. Reads the directory's names, and blocks for that.
pub(super) fn look(function: &Function, file: Option<&Path>) -> Vec<Problem> {
    let Some(directory) = directory(function, file) else { return Vec::new() };
    let given = function.spec.source.path.as_deref().unwrap_or_default();
    if given.is_empty() || given.contains('\0') {
        return Vec::new();
    }
    if let Some(problem) = no_directory(given, &directory, file) {
        return vec![problem];
    }
    let exclude = file.iter().filter_map(|file| file.canonicalize().ok()).collect();
    let files = match build::pack::list(&directory, &PackOptions { exclude, ..PackOptions::default() }) {
        Ok(files) => files,
        Err(error) => {
            let fix = matches!(error, build::pack::Error::Empty(_)).then(|| {
                "put the code there; what .gitignore and .hearthignore name does not count".to_owned()
            });
            return vec![Problem::new(PATH, crate::telemetry::chain(&error), fix)];
        }
    };
    let source = Source {
        directory,
        files,
        elsewhere: function.spec.env.iter().any(|variable| variable.name == "PYTHONPATH"),
    };
    let handler =
        function.spec.handler.as_ref().and_then(|handler| source.handler(handler, function.spec.runtime));
    let command = function.spec.command.first().and_then(|program| source.program(program));
    let found = handler.map(|problem| problem.following_from(&["spec.source", "spec.runtime"]));
    found.into_iter().chain(command.map(|problem| problem.following_from(&["spec.source"]))).collect()
}

fn no_directory(given: &str, directory: &Path, file: Option<&Path>) -> Option<Problem> {
    if directory.is_dir() {
        return None;
    }
    if directory.is_file() {
        let parent = Path::new(given).parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or_else(|| Path::new("."));
        let fix = format!("name the directory that it is in: {}", parent.display());
        return Some(Problem::new(PATH, format!("{} is a file", directory.display()), Some(fix)));
    }
    let beside = file.and_then(Path::parent).filter(|beside| !beside.as_os_str().is_empty());
    let beside = beside.unwrap_or_else(|| Path::new("."));
    let there: Vec<String> = std::fs::read_dir(beside)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir())
        .filter_map(|path| Some(path.file_name()?.to_str()?.to_owned()))
        .filter(|name| !name.starts_with('.') && name != "node_modules")
        .collect::<BTreeSet<_>>()
        .into_iter()
        .take(5)
        .collect();
    let fix = match (Path::new(given).is_absolute(), there.is_empty()) {
        (true, _) => "name a directory of this machine, or one from the manifest's own on".to_owned(),
        (false, true) => {
            "it is looked for beside the manifest: write `.` for the manifest's own directory".to_owned()
        }
        (false, false) => format!(
            "it is looked for beside the manifest: `.` is the manifest's own directory, and in it there are {}",
            there.join(", ")
        ),
    };
    Some(Problem::new(PATH, format!("there is no directory {}", directory.display()), Some(fix)))
}

/// A directory with code.
struct Source {
    directory: PathBuf,
    /// What is packed, from the directory on.
    files: BTreeSet<PathBuf>,
    /// Python looks for modules in other directories of it too.
    elsewhere: bool,
}

impl Source {
    fn handler(&self, handler: &Handler, runtime: RuntimeName) -> Option<Problem> {
        let candidates = handler.files(runtime);
        let (first, others) = candidates.split_first()?;
        if candidates.iter().any(|file| self.has(Path::new(file))) {
            return None;
        }
        let problem = |message: String, fix: String| Some(Problem::new("spec.handler", message, Some(fix)));
        if let Some(file) = candidates.iter().find(|file| self.directory.join(file).is_file()) {
            return problem(left_out(file), self.take_in(Path::new(file)));
        }
        if matches!(runtime, RuntimeName::Python(_)) {
            if self.may_be_installed(Path::new(first)) {
                return None;
            }
        } else if let Some(typescript) = candidates.iter().find_map(|file| self.typescript(file)) {
            let fix =
                "compile it to JavaScript first, and name the directory with what comes out as `source.path`";
            return problem(format!("{typescript} is TypeScript, which Node does not run"), fix.to_owned());
        }
        let endings: BTreeSet<&str> =
            others.iter().filter_map(|file| Path::new(file).extension()?.to_str()).collect();
        let code = self.files.iter().filter(|file| {
            let ending = file.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
            Path::new(first).extension().is_some_and(|first| first == ending) || endings.contains(ending)
        });
        let code: Vec<String> = code.take(5).map(|file| file.display().to_string()).collect();
        let fix = if code.is_empty() {
            "put the file there, or name the one that has the code".to_owned()
        } else {
            format!("name the file that has the code, without its extension: there are {}", code.join(", "))
        };
        let message = format!("there is no {first} in {}: `{handler}` names it", self.directory.display());
        problem(message, fix)
    }

    /// A program that is a part of the code; others are looked for on the instance's `PATH`.
    fn program(&self, program: &str) -> Option<Problem> {
        if !program.contains('/') || program.starts_with('/') {
            return None;
        }
        let mut path = PathBuf::new();
        for part in Path::new(program).components() {
            match part {
                Component::Normal(part) => path.push(part),
                Component::CurDir => {}
                // It leads somewhere else, or back: the instance finds out.
                _ => return None,
            }
        }
        let problem =
            |message: String, fix: String| Some(Problem::new("spec.command[0]", message, Some(fix)));
        let there = std::fs::metadata(self.directory.join(&path)).ok().filter(std::fs::Metadata::is_file);
        match there {
            None if self.has(&path) => None,
            None => problem(
                format!("there is no {} in {}", path.display(), self.directory.display()),
                "name a program that is there, or one of the system without a slash, as in `python3`"
                    .to_owned(),
            ),
            Some(_) if !self.has(&path) => {
                problem(left_out(&path.display().to_string()), self.take_in(&path))
            }
            Some(program) if program.permissions().mode() & 0o111 == 0 => problem(
                format!("{} is not executable", path.display()),
                format!("chmod +x {}", self.directory.join(&path).display()),
            ),
            Some(_) => None,
        }
    }

    /// Whether it is packed, by itself or behind a link.
    fn has(&self, file: &Path) -> bool {
        file.ancestors().any(|path| self.files.contains(path))
    }

    /// Whether a Python module may come from what is installed, or from a file that is no source.
    fn may_be_installed(&self, module: &Path) -> bool {
        let own = module.components().next().is_some_and(|first| {
            let first = Path::new(first.as_os_str());
            self.files.iter().any(|file| file.starts_with(first) || file.with_extension("") == *first)
        });
        let stem = module.with_extension("");
        let compiled = self.files.iter().any(|file| {
            let name =
                |path: &Path| path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            file.parent() == stem.parent() && name(file).starts_with(&format!("{}.", name(&stem)))
        });
        compiled || self.elsewhere || (!own && self.has(Path::new("requirements.txt")))
    }

    fn typescript(&self, file: &str) -> Option<String> {
        let stem = Path::new(file);
        ["ts", "mts", "cts", "tsx", "jsx"]
            .into_iter()
            .map(|ending| stem.with_extension(ending))
            .find(|file| self.has(file))
            .map(|file| file.display().to_string())
    }

    /// How a file comes into the code that ignore files leave out.
    fn take_in(&self, file: &Path) -> String {
        if file
            .components()
            .any(|part| build::is_scratch(part.as_os_str()) || part.as_os_str() == "node_modules")
        {
            return "node_modules, and what editors and Python leave, is never taken along: put the file elsewhere".to_owned();
        }
        // The outermost directory of which nothing is packed is what they name.
        let mut ancestors: Vec<&Path> =
            file.ancestors().filter(|path| !path.as_os_str().is_empty()).collect();
        ancestors.reverse();
        let named = ancestors.into_iter().find(|path| !self.files.iter().any(|file| file.starts_with(path)));
        let named = named.unwrap_or(file);
        let slash = if named == file { "" } else { "/" };
        format!(
            "take it in by the line `!{}{slash}` in {}",
            named.display(),
            self.directory.join(".hearthignore").display()
        )
    }
}

fn left_out(file: &str) -> String {
    format!("{file} is there, and is left out of the code, as by .gitignore or .hearthignore")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of a function in a directory with these files.
    fn said(files: &[(&str, &str)], spec: &serde_json::Value) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = directory.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, text).unwrap();
            if name.ends_with(".sh") {
                std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
            }
        }
        let mut whole = serde_json::json!({ "runtime": "nodejs", "source": { "path": "code" } });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let function = serde_json::json!({
            "apiVersion": "hearth.dev/v1", "kind": "Function", "metadata": { "name": "x" }, "spec": whole,
        });
        let function: Function = serde_json::from_value(function).unwrap();
        let manifest = directory.path().join("function.yaml");
        let problems = look(&function, Some(&manifest));
        let said = problems.iter().map(ToString::to_string);
        said.map(|text| text.replace(&directory.path().display().to_string(), "DIR")).collect()
    }

    fn handler(files: &[(&str, &str)], runtime: &str, handler: &str) -> String {
        let spec = serde_json::json!({ "runtime": runtime, "handler": handler });
        said(files, &spec).join("\n")
    }

    fn command(files: &[(&str, &str)], program: &str) -> String {
        let spec = serde_json::json!({ "runtime": "exec", "command": [program] });
        said(files, &spec).join("\n")
    }

    #[test]
    fn a_directory_that_is_not_there_is_told_with_those_that_are() {
        let spec = serde_json::json!({ "handler": "index.handler" });
        assert_eq!(
            said(&[("src/index.js", ""), ("lib/a.js", "")], &spec),
            [
                "spec.source.path: there is no directory DIR/code; it is looked for beside the manifest: `.` is the manifest's own directory, and in it there are lib, src"
            ]
        );
        assert_eq!(
            said(&[("code", "")], &spec),
            ["spec.source.path: DIR/code is a file; name the directory that it is in: ."]
        );
        assert_eq!(
            said(&[("code/.gitignore", "*\n"), ("code/a.js", "")], &spec),
            [
                "spec.source.path: DIR/code holds no file that is not ignored; put the code there; what .gitignore and .hearthignore name does not count"
            ]
        );
    }

    #[test]
    fn the_file_of_a_handler_is_there_as_the_bootstraps_look_for_it() {
        for (file, runtime, name) in [
            ("code/index.js", "nodejs", "index.handler"),
            ("code/index.mjs", "nodejs", "index.handler"),
            ("code/src/api.js", "nodejs", "src/api.routes.get"),
            ("code/main.py", "python", "main:handler"),
            ("code/pkg/app.py", "python", "pkg.app.create"),
            ("code/pkg/__init__.py", "python", "pkg.create"),
            ("code/fast.cpython-311-x86_64-linux-gnu.so", "python", "fast.handler"),
            // It may come with a package.
            ("code/requirements.txt", "python", "somewhere.app"),
        ] {
            assert_eq!(handler(&[(file, "")], runtime, name), "", "{file}");
        }
        assert_eq!(
            handler(
                &[("code/app.js", ""), ("code/b.mjs", ""), ("code/x.txt", "")],
                "nodejs",
                "index.handler"
            ),
            "spec.handler: there is no index.js in DIR/code: `index.handler` names it; name the file that has the code, without its extension: there are app.js, b.mjs"
        );
        assert_eq!(
            handler(&[("code/main.py", ""), ("code/requirements.txt", "")], "python", "main.app.handler"),
            "spec.handler: there is no main/app.py in DIR/code: `main.app.handler` names it; name the file that has the code, without its extension: there are main.py"
        );
        assert_eq!(
            handler(&[("code/index.ts", "")], "nodejs", "index.handler"),
            "spec.handler: index.ts is TypeScript, which Node does not run; compile it to JavaScript first, and name the directory with what comes out as `source.path`"
        );
        assert_eq!(
            handler(
                &[("code/dist/a/index.js", ""), ("code/.gitignore", "dist\n"), ("code/x", "")],
                "nodejs",
                "dist/a/index.handler"
            ),
            "spec.handler: dist/a/index.js is there, and is left out of the code, as by .gitignore or .hearthignore; take it in by the line `!dist/` in DIR/code/.hearthignore"
        );
        assert!(
            handler(
                &[("code/node_modules/a.js", ""), ("code/package.json", "{}")],
                "nodejs",
                "node_modules/a.handler"
            )
            .ends_with("put the file elsewhere")
        );
        let path = serde_json::json!({ "runtime": "python", "handler": "main.handler", "env": [{ "name": "PYTHONPATH", "value": "/code/src" }] });
        assert_eq!(said(&[("code/src/main.py", "")], &path), Vec::<String>::new());
        // What the fix says is one.
        let files = [
            ("code/dist/a/index.js", ""),
            ("code/.gitignore", "dist\n"),
            ("code/.hearthignore", "!dist/\n"),
            ("code/x", ""),
        ];
        assert_eq!(handler(&files, "nodejs", "dist/a/index.handler"), "");
    }

    #[test]
    fn a_program_of_the_code_is_there_and_executable() {
        assert_eq!(command(&[("code/bin/run.sh", "")], "./bin/run.sh"), "");
        assert_eq!(command(&[("code/a", "")], "python3"), "", "one of the system");
        assert_eq!(command(&[("code/a", "")], "/usr/bin/env"), "", "one of the system");
        assert_eq!(
            command(&[("code/a", "")], "./a"),
            "spec.command[0]: a is not executable; chmod +x DIR/code/a"
        );
        assert_eq!(
            command(&[("code/a", "")], "bin/b"),
            "spec.command[0]: there is no bin/b in DIR/code; name a program that is there, or one of the system without a slash, as in `python3`"
        );
        assert_eq!(
            command(&[("code/a", ""), ("code/b.sh", ""), ("code/.gitignore", "*.sh\n")], "./b.sh"),
            "spec.command[0]: b.sh is there, and is left out of the code, as by .gitignore or .hearthignore; take it in by the line `!b.sh` in DIR/code/.hearthignore"
        );
    }
}
