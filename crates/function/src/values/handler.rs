//! Which export of which file is called.

use std::fmt;
use std::str::FromStr;

use super::{RuntimeName, ValueError, text_value};

/// A handler: the file (below the root of the source, without its extension) and the name exported from it. Written
/// `index.handler`, `src/api.handler`, or with a colon, as Python servers do: `app:app`, `pkg.module:app`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Handler {
    text: String,
    split: usize,
}

impl Handler {
    /// The file without its extension, with slashes: `src/api`. A Python module path is turned into one: `pkg.module:app`
    /// gives `pkg/module`.
    #[must_use]
    pub fn file_stem(&self) -> String {
        let (stem, export) = self.text.split_at(self.split);
        if export.starts_with(':') { stem.replace('.', "/") } else { stem.to_owned() }
    }

    /// The name exported from the file.
    #[must_use]
    pub fn export(&self) -> &str {
        self.text.get(self.split + 1..).unwrap_or_default()
    }

    /// The same with dots alone, as the bootstraps read it: `pkg.module:create` gives `pkg.module.create`.
    #[must_use]
    pub fn dotted(&self) -> String {
        self.text.replace(':', ".")
    }

    /// The files of a source that it may be in, in the order in which the bootstraps look for them; none for a runtime without handlers.
    #[must_use]
    pub fn files(&self, runtime: RuntimeName) -> Vec<String> {
        let dotted = self.dotted();
        match runtime {
            // What stands before a dot behind the last slash: `api.routes.get` is in api.js, or else in api.routes.js.
            RuntimeName::Nodejs(_) => {
                let base = dotted.rfind('/').map_or(0, |slash| slash + 1);
                let dots = dotted.match_indices('.').map(|(dot, _)| dot).filter(|dot| *dot >= base);
                let stems = dots.filter_map(|dot| dotted.get(..dot));
                let endings = [".js", ".mjs", ".cjs"];
                stems.flat_map(|stem| endings.map(|ending| format!("{stem}{ending}"))).collect()
            }
            RuntimeName::Python(_) => {
                let stem = dotted.rsplit_once('.').map_or("", |(module, _)| module).replace('.', "/");
                vec![format!("{stem}.py"), format!("{stem}/__init__.py")]
            }
            RuntimeName::Http | RuntimeName::Exec | RuntimeName::Provided => Vec::new(),
        }
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl fmt::Display for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Handler {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let refused = |fix: &str| ValueError::new(format!("{text:?} is not a handler"), fix);
        let split = text.find(':').or_else(|| text.rfind('.')).ok_or_else(|| {
            refused(&format!(
                "write the file and its export, as in {}.handler",
                if text.is_empty() { "index" } else { text }
            ))
        })?;
        let (stem, export) = text.split_at(split);
        let export = export.get(1..).unwrap_or_default();
        let identifier = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
        if export.is_empty() || !export.chars().all(identifier) {
            return Err(refused(
                "after the last dot (or the colon) comes the name of the export, as in index.handler",
            ));
        }
        if stem.starts_with('/') || stem.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err(refused("the file is named from the root of the source, as in src/api.handler"));
        }
        if stem.chars().any(|c| c.is_control() || c == '\\') {
            return Err(refused("the file's name has characters that files of a source cannot have"));
        }
        // `index.js.handler` and `index.handler.js` are what people write who think of the file's name.
        for extension in [".js", ".mjs", ".cjs", ".ts", ".py"] {
            if let Some(stem) = stem.strip_suffix(extension) {
                return Err(refused(&format!("leave the extension out: {stem}.{export}")));
            }
        }
        if matches!(export, "js" | "mjs" | "cjs" | "ts" | "py") {
            return Err(refused(&format!("name the export and not the extension, as in {stem}.handler")));
        }
        Ok(Self { text: text.to_owned(), split })
    }
}

text_value!(Handler, kind: "handler", schema: { "type": "string" }, numbers: |text| text.parse());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits_file_and_export() {
        for (text, stem, export) in [
            ("index.handler", "index", "handler"),
            ("src/api.handler", "src/api", "handler"),
            ("app:app", "app", "app"),
            ("pkg.module:create", "pkg/module", "create"),
            ("my.file.handler", "my.file", "handler"),
        ] {
            let handler: Handler = text.parse().unwrap();
            assert_eq!((handler.file_stem().as_str(), handler.export()), (stem, export), "{text}");
            assert_eq!(handler.to_string(), text);
        }
    }

    #[test]
    fn names_the_files_that_it_may_be_in() {
        let files = |text: &str, runtime: &str| {
            text.parse::<Handler>().unwrap().files(runtime.parse().unwrap()).join(" ")
        };
        assert_eq!(files("index.handler", "nodejs"), "index.js index.mjs index.cjs");
        assert_eq!(
            files("a.b/api.routes.get", "nodejs20"),
            "a.b/api.js a.b/api.mjs a.b/api.cjs a.b/api.routes.js a.b/api.routes.mjs a.b/api.routes.cjs"
        );
        assert_eq!(files("app:create", "nodejs"), "app.js app.mjs app.cjs");
        assert_eq!(files("pkg.module:create", "python"), "pkg/module.py pkg/module/__init__.py");
        assert_eq!(files("src/main.handler", "python"), "src/main.py src/main/__init__.py");
        assert_eq!(files("index.handler", "exec"), "");
    }

    #[test]
    fn names_the_fix() {
        for (text, fix) in [
            ("index", "write the file and its export, as in index.handler"),
            ("", "write the file and its export, as in index.handler"),
            ("index.js", "name the export and not the extension, as in index.handler"),
            ("index.js.handler", "leave the extension out: index.handler"),
            ("../x.handler", "the file is named from the root of the source, as in src/api.handler"),
            ("/x.handler", "the file is named from the root of the source, as in src/api.handler"),
            (".handler", "the file is named from the root of the source, as in src/api.handler"),
            ("index.", "after the last dot (or the colon) comes the name of the export, as in index.handler"),
            (
                "index.a b",
                "after the last dot (or the colon) comes the name of the export, as in index.handler",
            ),
        ] {
            assert_eq!(text.parse::<Handler>().unwrap_err().fix, fix, "{text}");
        }
    }
}
