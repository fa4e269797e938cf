//! One event of a log: what was measured, and what is said of it.

use core::fmt;

use sha2::{Digest as _, Sha384};

use super::Digest;

/// An event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The RTMR that it was measured into, from 0.
    pub rtmr: u8,
    /// What kind of event it is.
    pub event_type: EventType,
    /// What was measured.
    pub digest: Digest,
    /// What is said of it. Only [`DataDigest::Own`] makes it more than somebody's word.
    pub data: &'a [u8],
}

/// Whether an event's digest is one of its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataDigest {
    /// It is: the data was measured.
    Own,
    /// It should be, and isn't.
    Another,
    /// It is of something else that the data describes, or nobody says of what.
    Elsewhere,
}

/// A kind of event.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventType(pub u32);

impl EventType {
    /// Said, and not measured.
    pub const NO_ACTION: Self = Self(0x3);
    /// The end of a phase.
    pub const SEPARATOR: Self = Self(0x4);
    /// A variable that configures the firmware.
    pub const VARIABLE_DRIVER_CONFIG: Self = Self(0x8000_0001);
    /// A variable that says what to boot.
    pub const VARIABLE_BOOT: Self = Self(0x8000_0002);
    /// The partitions of a disk.
    pub const GPT: Self = Self(0x8000_0006);
    /// Something that the firmware did, in words.
    pub const ACTION: Self = Self(0x8000_0007);
    /// A variable that says what to boot, measured whole.
    pub const VARIABLE_BOOT2: Self = Self(0x8000_000c);
    /// The variable that allowed something to be loaded.
    pub const VARIABLE_AUTHORITY: Self = Self(0x8000_00e0);

    /// Its name in the specification, if it has one.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self.0 {
            0x1 => "EV_POST_CODE",
            0x3 => "EV_NO_ACTION",
            0x4 => "EV_SEPARATOR",
            0x5 => "EV_ACTION",
            0x6 => "EV_EVENT_TAG",
            0x7 => "EV_S_CRTM_CONTENTS",
            0x8 => "EV_S_CRTM_VERSION",
            0x9 => "EV_CPU_MICROCODE",
            0xa => "EV_PLATFORM_CONFIG_FLAGS",
            0xb => "EV_TABLE_OF_DEVICES",
            0xc => "EV_COMPACT_HASH",
            0xd => "EV_IPL",
            0xe => "EV_IPL_PARTITION_DATA",
            0x8000_0001 => "EV_EFI_VARIABLE_DRIVER_CONFIG",
            0x8000_0002 => "EV_EFI_VARIABLE_BOOT",
            0x8000_0003 => "EV_EFI_BOOT_SERVICES_APPLICATION",
            0x8000_0004 => "EV_EFI_BOOT_SERVICES_DRIVER",
            0x8000_0005 => "EV_EFI_RUNTIME_SERVICES_DRIVER",
            0x8000_0006 => "EV_EFI_GPT_EVENT",
            0x8000_0007 => "EV_EFI_ACTION",
            0x8000_0008 => "EV_EFI_PLATFORM_FIRMWARE_BLOB",
            0x8000_0009 => "EV_EFI_HANDOFF_TABLES",
            0x8000_000a => "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
            0x8000_000b => "EV_EFI_HANDOFF_TABLES2",
            0x8000_000c => "EV_EFI_VARIABLE_BOOT2",
            0x8000_00e0 => "EV_EFI_VARIABLE_AUTHORITY",
            _ => return None,
        })
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "event type {:#x}", self.0),
        }
    }
}

impl fmt::Debug for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Event<'_> {
    /// Whether the digest is one of the data, for events of which that is defined.
    #[must_use]
    pub fn data_digest(&self) -> DataDigest {
        let measured = match self.event_type {
            EventType::SEPARATOR
            | EventType::VARIABLE_DRIVER_CONFIG
            | EventType::GPT
            | EventType::ACTION
            | EventType::VARIABLE_BOOT2
            | EventType::VARIABLE_AUTHORITY => Some(self.data),
            EventType::VARIABLE_BOOT => variable_data(self.data),
            _ => return DataDigest::Elsewhere,
        };
        match measured {
            Some(measured) if *Sha384::digest(measured) == self.digest => DataDigest::Own,
            _ => DataDigest::Another,
        }
    }
}

/// What a variable contains, of its whole description: identifier, lengths of name and data, name, data.
fn variable_data(variable: &[u8]) -> Option<&[u8]> {
    let (_, rest) = variable.split_first_chunk::<16>()?;
    let (characters, rest) = rest.split_first_chunk::<8>()?;
    let (length, rest) = rest.split_first_chunk::<8>()?;
    let [characters, length] = [characters, length].map(|number| usize::try_from(u64::from_le_bytes(*number)).ok());
    let (_, data) = rest.split_at_checked(characters?.checked_mul(2)?)?;
    (data.len() == length?).then_some(data)
}
