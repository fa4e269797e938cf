//! The beds: which machine a lab host is.
//!
//! Owns: their names. Does not own: where an emulator comes from (`qemu`, `bochs`) or how it is run (`machine`).

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// An emulated machine, by the make of its processor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Bed {
    /// AMD's nested paging, in a corrected QEMU: the quick one.
    #[default]
    Amd,
    /// Intel's VMX with EPT and unrestricted guest, in Debian's Bochs as it is.
    Intel,
}

impl Bed {
    /// Every bed.
    pub const ALL: [Self; 2] = [Self::Amd, Self::Intel];

    /// How long a call that should take microseconds may take, by the host's own clock, before it can be said never to
    /// end. The AMD bed's clock goes on while the emulator waits for its turn on a busy machine; the Intel bed's goes by
    /// instructions, and a second of it in vain is half a minute.
    #[must_use]
    pub fn patience(self) -> Duration {
        match self {
            Self::Amd => Duration::from_secs(4),
            Self::Intel => Duration::from_millis(250),
        }
    }
}

/// A name that is none of a bed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no bed of the lab is named {0:?}; there are amd and intel")]
pub struct UnknownBed(String);

impl fmt::Display for Bed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Amd => "amd",
            Self::Intel => "intel",
        })
    }
}

impl FromStr for Bed {
    type Err = UnknownBed;

    fn from_str(name: &str) -> Result<Self, UnknownBed> {
        Self::ALL.into_iter().find(|bed| bed.to_string() == name).ok_or_else(|| UnknownBed(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for bed in Bed::ALL {
            assert_eq!(bed.to_string().parse(), Ok(bed));
        }
        assert!("AMD".parse::<Bed>().unwrap_err().to_string().contains("\"AMD\""));
    }
}
