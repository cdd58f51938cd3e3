//! What most often lies behind the messages of Node and Python: the sentence that a newcomer needs and an interpreter does not say.

/// What to do about a message of a start that failed, where it is clear.
pub(super) fn of(message: &str) -> Option<String> {
    let missing = ["Cannot find module '", "Cannot find package '"]
        .into_iter()
        .find_map(|before| quoted_after(message, before));
    if let Some(name) = missing {
        return package(name).map(|package| {
            format!("add {package} to the dependencies of a package.json beside the code: `npm install {package}` does")
        });
    }
    let module = quoted_after(message, "No module named '")?;
    let module = module.split('.').next().filter(|name| !name.is_empty())?;
    Some(format!(
        "if {module} is a package, name it in a requirements.txt beside the code; if it is a file of yours, see that it is there and not left out by .gitignore"
    ))
}

fn quoted_after<'a>(message: &'a str, before: &str) -> Option<&'a str> {
    let (_, rest) = message.split_once(before)?;
    rest.split_once('\'').map(|(name, _)| name)
}

/// The package of a module's name: `@scope/name` or what stands before the first slash. `None` for a file.
fn package(module: &str) -> Option<&str> {
    if module.starts_with(['.', '/']) || module.is_empty() || module.starts_with("node:") {
        return None;
    }
    let parts = if module.starts_with('@') { 2 } else { 1 };
    let end = module.match_indices('/').nth(parts - 1).map_or(module.len(), |(slash, _)| slash);
    module.get(..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_that_is_not_installed_is_named_with_where_it_belongs() {
        let said = |message: &str| of(message).unwrap_or_default();
        assert!(said("Error: Cannot find module 'lodash/fp'\nRequire stack:").starts_with("add lodash to"));
        assert!(
            said("Cannot find package '@aws-sdk/client-s3' imported from")
                .contains("npm install @aws-sdk/client-s3`")
        );
        assert!(
            said("ModuleNotFoundError: No module named 'flask.json' (main.py:1)")
                .starts_with("if flask is a package")
        );
        for other in [
            "Cannot find module './lib'",
            "Cannot find module '/code/x'",
            "TypeError: x",
            "No module named ''",
        ] {
            assert_eq!(said(other), "", "{other}");
        }
    }
}
