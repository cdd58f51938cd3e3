//! Why code or dependencies of a Function are not there.

/// What about code or dependencies is not as it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lack {
    /// The source as it is declared: another look finds it no better.
    SourceInvalid,
    SourceMissing,
    BundleMissing,
    ImageMissing,
    ImageInvalid,
    RuntimeMissing,
    /// The installation, or what this machine has to do with the code.
    BuildFailed,
    /// The template.
    Invalid,
}

impl Lack {
    /// The word for programs, which conditions show.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::SourceInvalid => "SourceInvalid",
            Self::SourceMissing => "SourceMissing",
            Self::BundleMissing => "BundleMissing",
            Self::ImageMissing => "ImageMissing",
            Self::ImageInvalid => "ImageInvalid",
            Self::RuntimeMissing => "RuntimeMissing",
            Self::BuildFailed => "BuildFailed",
            Self::Invalid => "Invalid",
        }
    }
}

/// Why code or dependencies are not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Missing {
    pub(super) reason: Lack,
    /// A sentence for people, with the fix where there is one.
    pub(super) message: String,
}

impl Missing {
    pub(super) fn new(reason: Lack, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }

    /// Whether it may be there later though the spec stays as it is.
    pub(super) fn may_pass(&self) -> bool {
        self.reason != Lack::SourceInvalid
    }
}
