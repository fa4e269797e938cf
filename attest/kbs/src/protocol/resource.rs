//! Names of resources: repository, type, tag.
//!
//! Owns which names there are. They become names of files, so nothing is a name that is anything else there.

use std::fmt;
use std::str::FromStr;

const PART_MOST: usize = 64;

/// Why a text names no resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "a resource is named repository/type/tag, each of 1 to {PART_MOST} letters, digits, -, _ and ., and not . in front"
)]
pub struct ResourceError;

/// The name of a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName(String);

impl ResourceName {
    /// Below a directory.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ResourceName {
    type Err = ResourceError;

    fn from_str(text: &str) -> Result<Self, ResourceError> {
        let is_part = |part: &str| {
            (1..=PART_MOST).contains(&part.len())
                && !part.starts_with('.')
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        if text.split('/').count() == 3 && text.split('/').all(is_part) {
            Ok(Self(text.into()))
        } else {
            Err(ResourceError)
        }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// no-silent-trust: no name leads anywhere else.
    #[test]
    fn no_silent_trust_names_are_names() {
        assert_eq!("default/key/disk-1.bin".parse::<ResourceName>().unwrap().as_str(), "default/key/disk-1.bin");
        for text in [
            "",
            "a",
            "a/b",
            "a/b/c/d",
            "a/b/",
            "/b/c",
            "a//c",
            "a/b/..",
            "../b/c",
            "a/./c",
            "a/b/.c",
            "a/b/c%2f",
            "a/b/c\0",
            "a/b\\c/d",
            "a/b/\u{e9}",
            "a/b/c ",
            "a/b/c?d",
        ] {
            assert_eq!(text.parse::<ResourceName>(), Err(ResourceError), "{text:?}");
        }
        assert_eq!(format!("a/b/{}", "c".repeat(65)).parse::<ResourceName>(), Err(ResourceError));
    }
}
