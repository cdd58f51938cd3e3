//! What npm and pip are told of the operator's network: proxies, mirrors, certificates. Nothing else of a process's environment goes in.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::build::shelf::{At, FileError};

/// Directory of the build directory that holds what is not installed: home, caches, certificates.
pub(super) const PRIVATE: &str = hearth_protocol::report::BUILD_PRIVATE;

/// Largest file that a variable may name: a bundle of all certificate authorities has a quarter of a megabyte.
const LARGEST: u64 = 8 << 20;

/// Variables, in lower case, whose value is a file that is copied to where the instance sees it.
const FILES: [&str; 12] = [
    "curl_ca_bundle",
    "node_extra_ca_certs",
    "npm_config_cafile",
    "npm_config_certfile",
    "npm_config_keyfile",
    "npm_config_userconfig",
    "pip_cert",
    "pip_client_cert",
    "pip_config_file",
    "requests_ca_bundle",
    "ssl_cert_file",
    "npm_config_globalconfig",
];

/// Variables, in lower case, that are neither npm's nor pip's own.
const OTHERS: [&str; 4] = ["all_proxy", "http_proxy", "https_proxy", "no_proxy"];

/// Variables, in lower case, that would lead npm or pip away from the build directory or from what the plan says.
const REFUSED: [&str; 24] = [
    "npm_config_cache",
    "npm_config_global",
    "npm_config_global_prefix",
    "npm_config_include",
    "npm_config_init_module",
    "npm_config_local_prefix",
    "npm_config_location",
    "npm_config_node_gyp",
    "npm_config_omit",
    "npm_config_package_lock",
    "npm_config_prefix",
    "npm_config_shell",
    "npm_config_tmp",
    "npm_config_user_agent",
    "pip_cache_dir",
    "pip_log",
    "pip_prefix",
    "pip_python",
    "pip_require_virtualenv",
    "pip_requirement",
    "pip_root",
    "pip_src",
    "pip_target",
    "pip_user",
];

/// Picks what npm and pip should know out of a process's variables: proxies, `NPM_CONFIG_*`, `PIP_*` and the files of certificate
/// authorities. What names a place for their output is not among it.
pub fn select(variables: impl IntoIterator<Item = (String, String)>) -> BTreeMap<String, String> {
    variables
        .into_iter()
        .filter(|(name, value)| !value.is_empty() && is_known(&name.to_lowercase()))
        .collect()
}

fn is_known(name: &str) -> bool {
    let known = name.starts_with("npm_config_") || name.starts_with("pip_");
    (known || OTHERS.contains(&name) || FILES.contains(&name)) && !REFUSED.contains(&name)
}

/// What an installation's variables became.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Prepared {
    /// As the instance gets them.
    pub(super) variables: BTreeMap<String, String>,
    /// What could not be passed on, for the user.
    pub(super) notes: Vec<String>,
}

/// Copies the files that `variables` name into `build`'s private directory and names them as they are seen from inside, at `/build`.
pub(super) fn prepare(variables: &BTreeMap<String, String>, build: &Path) -> Result<Prepared, FileError> {
    let mut prepared = Prepared::default();
    for (name, value) in variables {
        let lower = name.to_lowercase();
        if FILES.contains(&lower.as_str()) {
            let source = Path::new(value);
            let small = fs::metadata(source).is_ok_and(|file| file.is_file() && file.len() <= LARGEST);
            if !small {
                prepared.notes.push(format!("{name} is not passed on: {value} is no file that can be read"));
                continue;
            }
            let inside = Path::new(PRIVATE).join(&lower);
            let copy = build.join(&inside);
            fs::copy(source, &copy).at("copy", source)?;
            prepared.variables.insert(name.clone(), Path::new("/build").join(inside).display().to_string());
        } else if lower == "pip_find_links" {
            let (away, here): (Vec<&str>, Vec<&str>) = value
                .split_whitespace()
                .partition(|place| place.contains("://") && !place.starts_with("file:"));
            if !here.is_empty() {
                prepared
                    .notes
                    .push(format!("{name} without {}, which is not seen from inside", here.join(" ")));
            }
            if !away.is_empty() {
                prepared.variables.insert(name.clone(), away.join(" "));
            }
        } else {
            prepared.variables.insert(name.clone(), value.clone());
        }
    }
    Ok(prepared)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn only_what_npm_and_pip_should_know_is_picked() {
        let all = map(&[
            ("HTTPS_PROXY", "http://proxy:3128"),
            ("no_proxy", "localhost"),
            ("NPM_CONFIG_REGISTRY", "https://mirror/npm"),
            ("npm_config_cache", "/root/.npm"),
            ("PIP_INDEX_URL", "https://mirror/pypi"),
            ("PIP_TARGET", "/elsewhere"),
            ("NODE_EXTRA_CA_CERTS", "/etc/ca.pem"),
            ("HTTP_PROXY", ""),
            ("AWS_SECRET_ACCESS_KEY", "secret"),
            ("PATH", "/bin"),
            ("HOME", "/root"),
        ]);
        let picked = select(all);
        let names: Vec<&str> = picked.keys().map(String::as_str).collect();
        let expected =
            ["HTTPS_PROXY", "NODE_EXTRA_CA_CERTS", "NPM_CONFIG_REGISTRY", "PIP_INDEX_URL", "no_proxy"];
        assert_eq!(names, expected);
    }

    #[test]
    fn a_file_is_copied_to_where_the_instance_sees_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join(PRIVATE)).unwrap();
        let authority = dir.path().join("authority.pem");
        fs::write(&authority, "certificate").unwrap();
        let prepared = prepare(
            &map(&[
                ("PIP_CERT", authority.to_str().unwrap()),
                ("SSL_CERT_FILE", "/there/is/none"),
                ("PIP_FIND_LINKS", "/opt/wheels https://mirror/wheels"),
                ("HTTPS_PROXY", "http://proxy:3128"),
            ]),
            dir.path(),
        )
        .unwrap();
        let expected = map(&[
            ("PIP_CERT", "/build/.hearth/pip_cert"),
            ("PIP_FIND_LINKS", "https://mirror/wheels"),
            ("HTTPS_PROXY", "http://proxy:3128"),
        ]);
        assert_eq!(prepared.variables, expected);
        assert_eq!(fs::read_to_string(dir.path().join(".hearth/pip_cert")).unwrap(), "certificate");
        assert_eq!(prepared.notes.len(), 2, "{:?}", prepared.notes);
    }
}
