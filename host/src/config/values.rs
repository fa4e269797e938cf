//! Single settings as checked values: whoever holds one knows it is within bounds.
//!
//! Each is parsed by the same code from a flag and from a configuration file.

use gmem::ByteLen;
use gmem::layout::{LayoutError, RamLayout};
use guest_fw::abi;
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Why a setting's value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not a size at all.
    #[error(
        "memory size `{0}` is not a whole number with an optional unit K, M, G or T (powers of 1024), as in 512M, 6G, 512MiB or 0x20000000"
    )]
    NotASize(String),
    /// More than 64 bits of bytes.
    #[error("memory size `{0}` does not fit 64 bits")]
    SizeOverflow(String),
    /// A bare number which is probably meant to be MiB.
    #[error("{error}; bytes are meant unless there is a unit: did you mean {number}M?")]
    UnitMissing {
        /// The number as given.
        number: u64,
        /// What is wrong with that many bytes.
        error: LayoutError,
    },
    /// Not a size a guest's RAM can have.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Not a number of vCPUs.
    #[error("vcpus `{0}` is not a number from 1 to {max}", max = abi::VCPUS_MAX)]
    Vcpus(String),
    /// Longer than Linux takes.
    #[error("cmdline is {len} bytes long, the limit is {max}", max = abi::CMDLINE_MAX)]
    CmdlineTooLong {
        /// Its length in bytes.
        len: usize,
    },
    /// A character that would end or garble the line.
    #[error("cmdline has the control character {character:?} at byte {position}")]
    CmdlineControl {
        /// The character.
        character: char,
        /// Where it is.
        position: usize,
    },
    /// A virtio-console back end we do not have.
    #[error("virtio-console `{0}` is none of none, stdio, unix:PATH or a file's path")]
    VirtioConsole(String),
    /// Nowhere one could connect to.
    #[error("address `{0}` is neither HOST:PORT nor unix:PATH")]
    Address(String),
}

/// RAM a guest gets; [`RamLayout`] accepts it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemorySize(ByteLen);

impl MemorySize {
    /// Checks a number of bytes.
    pub fn new(bytes: ByteLen) -> Result<Self, ValueError> {
        RamLayout::new(bytes)?;
        Ok(Self(bytes))
    }

    /// The size.
    pub const fn get(self) -> ByteLen {
        self.0
    }
}

impl FromStr for MemorySize {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let not_a_size = || ValueError::NotASize(text.to_owned());
        let parse = |digits: &str, radix| {
            if !digits.starts_with(|c: char| c.is_digit(radix)) {
                return Err(not_a_size());
            }
            u64::from_str_radix(digits, radix).map_err(|error| match error.kind() {
                std::num::IntErrorKind::PosOverflow => ValueError::SizeOverflow(text.to_owned()),
                _ => not_a_size(),
            })
        };
        if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
            return Self::new(ByteLen(parse(hex, 16)?));
        }
        let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = text.split_at(digits);
        let number = parse(number, 10)?;
        let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
            "" => 0,
            "k" | "kib" => 10,
            "m" | "mib" => 20,
            "g" | "gib" => 30,
            "t" | "tib" => 40,
            _ => return Err(not_a_size()),
        };
        let bytes = number.checked_mul(1 << shift).ok_or_else(|| ValueError::SizeOverflow(text.to_owned()))?;
        Self::new(ByteLen(bytes)).map_err(|error| match error {
            ValueError::Layout(error)
                if unit.is_empty() && Self::new(ByteLen(bytes.saturating_mul(1 << 20))).is_ok() =>
            {
                ValueError::UnitMissing { number, error }
            }
            error => error,
        })
    }
}

impl<'de> Deserialize<'de> for MemorySize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;

        impl Visitor<'_> for SizeVisitor {
            type Value = MemorySize;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a memory size like \"512M\", or a number of bytes")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<MemorySize, E> {
                text.parse().map_err(E::custom)
            }

            // TOML has no unsigned integers.
            fn visit_i64<E: de::Error>(self, number: i64) -> Result<MemorySize, E> {
                self.visit_str(&number.to_string())
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}

/// A number of vCPUs the firmware can describe. What the host allows is a different matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "i64")]
pub struct VcpuCount(u32);

impl VcpuCount {
    /// The least a guest can have.
    pub const ONE: Self = Self(1);

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl TryFrom<i64> for VcpuCount {
    type Error = ValueError;

    fn try_from(number: i64) -> Result<Self, ValueError> {
        match u32::try_from(number) {
            Ok(count @ 1..=abi::VCPUS_MAX) => Ok(Self(count)),
            _ => Err(ValueError::Vcpus(number.to_string())),
        }
    }
}

impl FromStr for VcpuCount {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.parse::<i64>().map_err(|_| ValueError::Vcpus(text.to_owned()))?.try_into()
    }
}

/// A kernel command line that can be handed over as it is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Cmdline(String);

impl Cmdline {
    /// The line.
    pub fn into_string(self) -> String {
        self.0
    }
}

impl TryFrom<String> for Cmdline {
    type Error = ValueError;

    fn try_from(line: String) -> Result<Self, ValueError> {
        if line.len() as u64 > abi::CMDLINE_MAX {
            return Err(ValueError::CmdlineTooLong { len: line.len() });
        }
        match line.char_indices().find(|(_, character)| character.is_control()) {
            Some((position, character)) => Err(ValueError::CmdlineControl { character, position }),
            None => Ok(Self(line)),
        }
    }
}

impl FromStr for Cmdline {
    type Err = ValueError;

    fn from_str(line: &str) -> Result<Self, ValueError> {
        line.to_owned().try_into()
    }
}

/// What is at the host's end of the virtio-console.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum VirtioConsole {
    /// Nothing: what the guest writes is discarded.
    #[default]
    None,
    /// Standard input and output; the serial console then has no input.
    Stdio,
    /// A file that gets what the guest writes; no input.
    File(PathBuf),
    /// A Unix socket at this path, to which one client at a time can connect.
    Unix(PathBuf),
}

impl TryFrom<String> for VirtioConsole {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        match text.as_str() {
            "none" => Ok(Self::None),
            "stdio" => Ok(Self::Stdio),
            other => match other.strip_prefix("unix:") {
                Some("") => Err(ValueError::VirtioConsole(text)),
                Some(path) => Ok(Self::Unix(path.into())),
                None if other.is_empty() => Err(ValueError::VirtioConsole(text)),
                None => Ok(Self::File(other.into())),
            },
        }
    }
}

impl FromStr for VirtioConsole {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.to_owned().try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn size(text: &str) -> Result<u64, String> {
        text.parse::<MemorySize>().map(|size| size.get().0).map_err(|error| error.to_string())
    }

    #[test]
    fn sizes_in_every_notation() {
        for text in ["512M", "512m", "512MiB", "512 MiB", "0x20000000", "536870912", "524288K"] {
            assert_eq!(size(text), Ok(512 << 20), "{text}");
        }
        assert_eq!(size("6G"), Ok(6 << 30));
        assert_eq!(size("1T"), Ok(1 << 40));
    }

    #[test]
    fn no_silent_trust_memory_sizes_name_field_and_value() {
        for text in ["", "M", "-1", "+512M", "1.5G", "512MB", "512M ", "0x", "0x-1", "0x+1", "0x1G", "0b1", "many"] {
            let error = size(text).unwrap_err();
            assert!(error.starts_with(&format!("memory size `{text}` is not a whole number")), "{error}");
        }
        assert_eq!(size("99999999999T").unwrap_err(), "memory size `99999999999T` does not fit 64 bits");
        assert_eq!(
            size("99999999999999999999").unwrap_err(),
            "memory size `99999999999999999999` does not fit 64 bits"
        );
        assert_eq!(size("0").unwrap_err(), "memory size 0 bytes is below the minimum of 16 MiB");
        assert_eq!(size("8192T").unwrap_err(), "memory size 8192 TiB is above the maximum of 4 TiB");
        assert_eq!(size("67108865").unwrap_err(), "memory size 67108865 bytes is not a multiple of the page size 4096");
        assert!(size("512").unwrap_err().ends_with("did you mean 512M?"));
    }

    #[test]
    fn no_silent_trust_vcpus() {
        for text in ["0", "-1", "256", "4294967297", "two", "", "1.0", "99999999999999999999"] {
            let error = text.parse::<VcpuCount>().unwrap_err().to_string();
            assert_eq!(error, format!("vcpus `{text}` is not a number from 1 to 255"));
        }
        assert_eq!("255".parse::<VcpuCount>().unwrap().get(), 255);
    }

    #[test]
    fn no_silent_trust_cmdline() {
        let limit = usize::try_from(abi::CMDLINE_MAX).unwrap();
        assert!("x".repeat(limit).parse::<Cmdline>().is_ok());
        let error = "x".repeat(limit + 1).parse::<Cmdline>().unwrap_err().to_string();
        assert_eq!(error, "cmdline is 2048 bytes long, the limit is 2047");
        for (line, character) in [("a\0b", "'\\0'"), ("a\nb", "'\\n'"), ("a\u{1b}b", "'\\u{1b}'")] {
            let error = line.parse::<Cmdline>().unwrap_err().to_string();
            assert_eq!(error, format!("cmdline has the control character {character} at byte 1"));
        }
    }

    #[test]
    fn virtio_console_back_ends() {
        let parse = |text: &str| text.parse::<VirtioConsole>();
        assert_eq!(parse("none"), Ok(VirtioConsole::None));
        assert_eq!(parse("stdio"), Ok(VirtioConsole::Stdio));
        assert_eq!(parse("unix:/run/c"), Ok(VirtioConsole::Unix("/run/c".into())));
        assert_eq!(parse("out.log"), Ok(VirtioConsole::File("out.log".into())));
        for text in ["", "unix:"] {
            assert!(parse(text).unwrap_err().to_string().starts_with(&format!("virtio-console `{text}` is none of")));
        }
    }

    proptest! {
        /// no-silent-trust: whatever is typed gives a size that can be laid out or an error, and what a size prints as
        /// is read as the same size.
        #[test]
        fn any_text_is_a_valid_size_or_an_error(text in ".{0,12}", pages in 4096u64..(1 << 30)) {
            if let Ok(size) = text.parse::<MemorySize>() {
                prop_assert!(RamLayout::new(size.get()).is_ok());
            }
            let size = ByteLen(pages * 4096);
            prop_assert_eq!(size.to_string().parse::<MemorySize>().unwrap().get(), size);
        }
    }
}
