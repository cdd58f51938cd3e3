//! `hearth config`: what is in force, and whence.

use std::fmt::Write;

use serde_json::{Value, json};

use super::args::ShowConfig;
use super::error::Error;
use super::out::{self, Paint};
use crate::serve::config::{Effective, Source};

/// Runs the command.
pub(super) fn run(arguments: &ShowConfig) -> Result<(), Error> {
    let effective = super::configuration(&arguments.server)?;
    match arguments.output.form {
        Some(format) => out::object(&object(&effective), format),
        None => out::text(&if arguments.docs { with_docs(&effective) } else { table(&effective) }),
    }
}

fn object(effective: &Effective) -> Value {
    let entry = |(option, source): (&crate::serve::config::Opt, &Source)| {
        let value = json!({ "value": option.show(&effective.config), "source": source.to_string(), "variable": option.variable() });
        (option.key.to_owned(), value)
    };
    Value::Object(effective.entries().map(entry).collect())
}

fn table(effective: &Effective) -> String {
    let rows: Vec<_> = effective
        .entries()
        .map(|(option, source)| {
            vec![option.key.to_owned(), plain(&option.show(&effective.config)), source.to_string()]
        })
        .collect();
    out::table(&["OPTION", "VALUE", "FROM"], &rows)
}

fn with_docs(effective: &Effective) -> String {
    let mut text = String::new();
    for (option, source) in effective.entries() {
        let value = plain(&option.show(&effective.config));
        let head = format!("{} = {value}", option.key);
        writeln!(
            text,
            "{head}  {}",
            out::paint(&format!("(from {source}; {})", option.variable()), Paint::Dim)
        )
        .expect("writing to a String does not fail");
        let doc: Vec<&str> = option.doc.iter().map(|line| line.trim()).collect();
        writeln!(text, "    {}\n    Form: {}.\n", doc.join(" "), option.form)
            .expect("writing to a String does not fail");
    }
    text
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}
