//! The manifests that the repository shows: each is read without a problem.

#![expect(clippy::tests_outside_test_module, reason = "all of it is a test")]

use std::fs;
use std::path::{Path, PathBuf};

use hearth_function::parse_manifests;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Reads every manifest of a text; how many there were.
fn read(from: &Path, text: &str) -> usize {
    let read = parse_manifests(text);
    for manifest in &read {
        assert!(manifest.is_ok(), "{}: {manifest:#?}", from.display());
    }
    read.len()
}

#[test]
fn examples_are_valid() {
    let examples = fs::read_dir(repository().join("examples")).expect("there are examples");
    let files =
        examples.flatten().flat_map(|example| fs::read_dir(example.path()).into_iter().flatten().flatten());
    let manifests =
        files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|end| end == "yaml"));
    let read: usize =
        manifests.map(|path| read(&path, &fs::read_to_string(&path).expect("a manifest is text"))).sum();
    assert!(read >= 19, "only {read} manifests were found");
}

#[test]
fn manifests_in_the_documentation_are_valid() {
    let mut found = 0;
    for page in ["README.md", "docs/manifest.md"] {
        let path = repository().join(page);
        let text = fs::read_to_string(&path).expect("the page is there");
        for block in text.split("```yaml\n").skip(1) {
            let manifest = block.split("```").next().unwrap_or_default();
            found += read(&path, manifest);
        }
    }
    assert_eq!(found, 2);
}
