//! Where the code of a Function comes from.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::values::Digest;

/// Where the code comes from: exactly one of the fields.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
// Who applies a source gives the whole of it: with two fields of two managers nobody could change where the code comes from.
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct Source {
    /// A directory beside the manifest. The hearth client packs it, uploads it and stores its digest as `bundle`; kubectl cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The files themselves: names, with slashes, and their text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<BTreeMap<String, String>>,
    /// The digest of a bundle that was uploaded before: sha256: and 64 hex digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Digest>,
    /// A tar, tar.gz or zip to download.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive: Option<Archive>,
    /// A Git repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<Git>,
    /// A container image that holds the code, or a server and all that it needs: a reference, as in registry.example.com/app:1.2, or the
    /// digest that `hearth image load` printed. A tag is looked up once, when the source is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// A tar, tar.gz or zip to download.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Archive {
    /// Where it is: http or https.
    pub url: String,
    /// The sha256 of the archive: 64 hex digits.
    pub sha256: String,
    /// The directory in it that holds the code; its root when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// A Git repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Git {
    /// Where it is: http or https.
    pub url: String,
    /// A branch, tag or commit; the repository's own default when left out. A branch or tag is looked up once, when the source is new.
    #[serde(rename = "ref", default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The directory in it that holds the code; its root when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// The one field of a [`Source`] that is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind<'a> {
    /// A directory of the client's.
    Path(&'a str),
    /// Files and their text.
    Inline(&'a BTreeMap<String, String>),
    /// An uploaded bundle.
    Bundle(&'a Digest),
    /// Something to download.
    Archive(&'a Archive),
    /// A repository.
    Git(&'a Git),
    /// An image.
    Image(&'a str),
}

impl SourceKind<'_> {
    /// The name of its field.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::Path(_) => "path",
            Self::Inline(_) => "inline",
            Self::Bundle(_) => "bundle",
            Self::Archive(_) => "archive",
            Self::Git(_) => "git",
            Self::Image(_) => "image",
        }
    }
}

impl Source {
    /// A source that names an uploaded bundle.
    #[must_use]
    pub fn from_bundle(bundle: Digest) -> Self {
        Self { bundle: Some(bundle), ..Self::default() }
    }

    /// The fields that are set. A valid source has exactly one.
    #[must_use]
    pub fn kinds(&self) -> Vec<SourceKind<'_>> {
        [
            self.path.as_deref().map(SourceKind::Path),
            self.inline.as_ref().map(SourceKind::Inline),
            self.bundle.as_ref().map(SourceKind::Bundle),
            self.archive.as_ref().map(SourceKind::Archive),
            self.git.as_ref().map(SourceKind::Git),
            self.image.as_deref().map(SourceKind::Image),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// The one field that is set; `None` when there is none or more than one (validation refuses both).
    #[must_use]
    pub fn kind(&self) -> Option<SourceKind<'_>> {
        match self.kinds().as_slice() {
            [kind] => Some(*kind),
            _ => None,
        }
    }
}
