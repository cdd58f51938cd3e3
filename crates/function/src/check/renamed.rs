//! Fields that stand under a misspelt name and were read all the same: from the names that were written to the right ones, and back.

/// Pairs of paths, outer fields before those in them. In each, all but the last part is as it was written.
#[derive(Debug, Default)]
pub(super) struct Renamed(Vec<(String, String)>);

impl Renamed {
    /// `written` was read as `right`: two paths that differ in their last part.
    pub(super) fn add(&mut self, written: String, right: String) {
        self.0.push((written, right));
    }

    /// The path by the right names.
    pub(super) fn right(&self, path: &str) -> String {
        // From the inside out: the inner pairs have the outer parts as they were written.
        self.0.iter().rev().fold(path.to_owned(), |path, (written, right)| replaced(path, written, right))
    }

    /// The path as it was written.
    pub(super) fn written(&self, path: &str) -> String {
        self.0.iter().fold(path.to_owned(), |path, (written, right)| replaced(path, right, written))
    }
}

fn replaced(path: String, from: &str, to: &str) -> String {
    match path.strip_prefix(from) {
        Some(rest) if rest.is_empty() || rest.starts_with(['.', '[']) => format!("{to}{rest}"),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_go_to_the_right_names_and_back() {
        let mut renamed = Renamed::default();
        renamed.add("spec.scal".to_owned(), "spec.scale".to_owned());
        renamed.add("spec.scal.mn".to_owned(), "spec.scal.min".to_owned());
        for (written, right) in [
            ("spec.scal.mn", "spec.scale.min"),
            ("spec.scal.max", "spec.scale.max"),
            ("spec.scal", "spec.scale"),
            ("spec.scalpel", "spec.scalpel"),
            ("", ""),
        ] {
            assert_eq!(renamed.right(written), right);
            assert_eq!(renamed.written(right), written);
        }
    }
}
