//! What an object is called.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::Problems;
use crate::ids::is_label;

/// Room for a dash and six digits below the 63 characters of a label: the names of a Function's Revisions.
pub(crate) const LONGEST_NAME: usize = 56;
/// As in Kubernetes: keys and values of all annotations together, in bytes.
const ANNOTATION_BYTES: usize = 256 * 1024;

pub(super) fn check(metadata: &ObjectMeta, found: &mut Problems) {
    const FORM: &str = "use lower-case letters, digits and dashes, with a letter or digit at both ends";
    match metadata.name.as_deref() {
        None | Some("") => {
            found.add("metadata.name", "the function has no name", "write `metadata: { name: hello }`");
        }
        Some(name) if name.len() > LONGEST_NAME => {
            let message = format!("the name has {} characters", name.len());
            found.add("metadata.name", message, format!("use at most {LONGEST_NAME}"));
        }
        Some(name) if !is_label(name) => {
            let message = format!("{name:?} is not a name");
            match proposal(name) {
                Some(proposal) => found.add("metadata.name", message, format!("{FORM}, as in {proposal}")),
                None => found.add("metadata.name", message, FORM),
            }
        }
        Some(_) => {}
    }
    if let Some(namespace) = metadata.namespace.as_deref()
        && !is_label(namespace)
    {
        found.add("metadata.namespace", format!("{namespace:?} is not the name of a namespace"), FORM);
    }
    for (key, value) in metadata.labels.iter().flatten() {
        let path = crate::check::join("metadata.labels", key);
        if !is_qualified(key) {
            found.add(
                &path,
                format!("{key:?} is not the name of a label"),
                "write it as in app or example.com/app",
            );
        }
        if !is_label_value(value) {
            let fix = "use at most 63 letters, digits, dashes, dots and underscores";
            found.add(&path, format!("{value:?} cannot be the value of a label"), fix);
        }
    }
    for key in metadata.annotations.iter().flatten().map(|(key, _)| key) {
        if !is_qualified(key) {
            let path = crate::check::join("metadata.annotations", key);
            let fix = "write it as in note or example.com/note";
            found.add(path, format!("{key:?} is not the name of an annotation"), fix);
        }
    }
    let bytes: usize =
        metadata.annotations.iter().flatten().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > ANNOTATION_BYTES {
        let message = format!("the annotations have {bytes} bytes");
        found.add("metadata.annotations", message, format!("keep them below {ANNOTATION_BYTES}"));
    }
}

/// Whether this is `[prefix/]name`, as the keys of labels and annotations are.
#[must_use]
pub fn is_qualified(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => prefix.len() <= 253 && prefix.split('.').all(is_label) && is_word(name),
        None => is_word(key),
    }
}

/// Whether this can be the value of a label.
#[must_use]
pub fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_word(text)
}

/// 1 to 63 letters, digits, dashes, dots and underscores, with a letter or digit at both ends.
fn is_word(text: &str) -> bool {
    (1..=63).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_'))
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

/// The nearest name that would do: `My_Function` gives `my-function`.
fn proposal(name: &str) -> Option<String> {
    let plain: String = name
        .chars()
        .take(LONGEST_NAME)
        .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
        .collect();
    let plain = plain.trim_matches('-');
    is_label(plain).then(|| plain.to_owned())
}
