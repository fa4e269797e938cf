//! The launch digest: what the PSP makes of every page it is given, in the order in which it is given them.
//!
//! Owns the digest, the kinds of pages and the rule by which a page extends it. Does not own which pages there are:
//! that is the launch's ([`crate::measure`]).
//!
//! Specification: SEV-SNP Firmware ABI (AMD 56860), 8.17 `SNP_LAUNCH_UPDATE`, tables of `PAGE_INFO` and of page types.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha384};
use zerocopy::little_endian::{U16, U64};
use zerocopy::{Immutable, IntoBytes, KnownLayout};

use gmem::{Gpa, PAGE_SIZE};

use crate::hex::{self, HexError};

/// Bytes of a page.
pub(crate) const PAGE_BYTES: usize = 4096;
const PAGE_INFO_BYTES: u16 = 0x70;
/// Bytes of SHA-384.
pub const DIGEST_BYTES: usize = 48;

/// A launch digest, or the digest of a page's contents: SHA-384.
#[derive(Clone, Copy, PartialEq, Eq, Hash, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Digest(pub [u8; DIGEST_BYTES]);

/// What the PSP makes of a page (`PAGE_TYPE`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PageType {
    /// The page's contents are measured.
    Normal = 1,
    /// Registers of a vCPU; its contents are measured.
    Vmsa = 2,
    /// Zeros, measured as such.
    Zero = 3,
    /// Contents are put there that are not measured.
    Unmeasured = 4,
    /// The PSP puts the keys for messages to it there.
    Secrets = 5,
    /// CPUID values that the PSP checks against what the processor can.
    Cpuid = 6,
}

/// What a page extends the digest by, `PAGE_INFO`. Linux gives neither a migration image nor permissions to other
/// levels.
#[derive(IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct PageInfo {
    /// The launch digest so far.
    digest: Digest,
    /// SHA-384 of the contents, or zeros if they are not measured.
    contents: Digest,
    length: U16,
    page_type: u8,
    /// Bit 0: part of an initial migration image.
    imi_page: u8,
    /// Permissions of VMPL 3, 2 and 1.
    permissions: [u8; 3],
    reserved: u8,
    gpa: U64,
}

const _: () = {
    assert!(PAGE_BYTES as u64 == PAGE_SIZE);
    assert!(size_of::<PageInfo>() == PAGE_INFO_BYTES as usize);
    assert!(std::mem::offset_of!(PageInfo, page_type) == 0x62);
    assert!(std::mem::offset_of!(PageInfo, gpa) == 0x68);
};

impl Digest {
    /// Where every launch begins.
    pub const ZERO: Self = Self([0; DIGEST_BYTES]);

    /// SHA-384 of a page that begins with these bytes, at most a page of them; the rest is zeros.
    #[must_use]
    pub fn of_page(bytes: &[u8]) -> Self {
        const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];
        let mut hash = Sha384::new();
        hash.update(bytes);
        hash.update(ZEROS.get(bytes.len()..).unwrap_or_default());
        Self(hash.finalize().into())
    }

    /// The digest after one more page. `contents` counts for pages of types that are measured.
    #[must_use]
    pub fn extended(self, page_type: PageType, gpa: Gpa, contents: Self) -> Self {
        let info = PageInfo {
            digest: self,
            contents: if page_type.is_measured() { contents } else { Self::ZERO },
            length: U16::new(PAGE_INFO_BYTES),
            page_type: page_type as u8,
            imi_page: 0,
            permissions: [0; 3],
            reserved: 0,
            gpa: U64::new(gpa.0),
        };
        Self(Sha384::digest(info.as_bytes()).into())
    }
}

impl PageType {
    /// Every type.
    pub const ALL: [Self; 6] = [Self::Normal, Self::Vmsa, Self::Zero, Self::Unmeasured, Self::Secrets, Self::Cpuid];

    /// Whether a page's contents are part of the digest; its type and place always are.
    #[must_use]
    pub const fn is_measured(self) -> bool {
        matches!(self, Self::Normal | Self::Vmsa)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::text(&self.0))
    }
}

impl FromStr for Digest {
    type Err = HexError;

    /// 96 hexadecimal digits, as [`Display`](fmt::Display) writes them.
    fn from_str(text: &str) -> Result<Self, HexError> {
        hex::parse(text).map(Self)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "normal",
            Self::Vmsa => "VMSA",
            Self::Zero => "zero",
            Self::Unmeasured => "unmeasured",
            Self::Secrets => "secrets",
            Self::Cpuid => "CPUID",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// one-launch: what is not measured does not count, but its type and its place do.
    #[test]
    fn one_launch_every_page_counts() {
        let (page, other) = (Digest::of_page(b"page"), Digest::of_page(b"other"));
        let after = |page_type, gpa, contents| Digest::ZERO.extended(page_type, Gpa(gpa), contents);
        assert_ne!(after(PageType::Normal, 0, page), after(PageType::Normal, 0, other));
        assert_eq!(after(PageType::Zero, 0, page), after(PageType::Zero, 0, other));
        assert_ne!(after(PageType::Zero, 0, page), after(PageType::Zero, 0x1000, page));
        assert_ne!(after(PageType::Zero, 0, page), after(PageType::Unmeasured, 0, page));
    }

    /// no-silent-trust: what is read back is what was written, and nothing else is.
    #[test]
    fn no_silent_trust_text() {
        let page = Digest::of_page(b"page");
        assert_eq!(page.to_string().parse(), Ok(page));
        for text in [String::new(), "0".repeat(95), "0".repeat(97), "g".repeat(96), "é".repeat(48), "+1".repeat(48)] {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let digest = Digest::of_page(b"page");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert!("00".parse::<Digest>().unwrap_err().to_string().contains("96"));
    }

    #[test]
    fn a_page_ends_in_zeros() {
        let mut page = [0; 4096];
        page[..4].copy_from_slice(b"page");
        assert_eq!(Digest::of_page(b"page"), Digest::of_page(&page));
    }
}
