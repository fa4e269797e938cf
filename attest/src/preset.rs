//! Policies to begin with, by name: the same names for every technology.

use core::fmt;

/// Policies to begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Preset {
    /// What most relying parties need.
    #[default]
    Strict,
    /// Also what not every platform can do.
    Hardened,
}

impl Preset {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Strict, Self::Hardened];

    /// Its name, where people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Hardened => "hardened",
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
