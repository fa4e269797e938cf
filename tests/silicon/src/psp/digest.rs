//! The launch digest: a chain of hashes over what the guest was given.
//!
//! Owns PAGE_INFO and its hash. Written from the specification and compared with a value that third-party predictors
//! give; shares nothing with the predictor it is there to check. Specification: 56860, SNP_LAUNCH_UPDATE, "PAGE_INFO".

use sha2::{Digest as _, Sha384};

use crate::bytes::put;
use crate::rmp::Permissions;
use crate::units::{Gpa, Page};

/// SHA-384.
pub type Digest = [u8; 48];

/// What the firmware is to do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PageKind {
    /// Measure its contents.
    Normal,
    /// Measure its contents; it is registers of a vCPU.
    Vmsa,
    /// Clear it.
    Zero,
    /// Leave its contents unmeasured.
    Unmeasured,
    /// Put the guest's secrets there.
    Secrets,
    /// Check its table of CPUID functions.
    Cpuid,
}

/// PAGE_INFO's size, which is part of it.
const PAGE_INFO_BYTES: u16 = 0x70;

impl PageKind {
    /// The kind of this number (PAGE_TYPE).
    pub fn from_number(number: u8) -> Option<PageKind> {
        use PageKind::*;
        [Normal, Vmsa, Zero, Unmeasured, Secrets, Cpuid].into_iter().find(|kind| kind.number() == number)
    }

    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            PageKind::Normal => 1,
            PageKind::Vmsa => 2,
            PageKind::Zero => 3,
            PageKind::Unmeasured => 4,
            PageKind::Secrets => 5,
            PageKind::Cpuid => 6,
        }
    }

    /// Whether its contents are measured.
    pub fn measures_contents(self) -> bool {
        matches!(self, PageKind::Normal | PageKind::Vmsa)
    }
}

/// What a page adds to the digest besides its contents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PageInfo {
    pub(crate) kind: PageKind,
    pub(crate) gpa: Gpa,
    pub(crate) imi: bool,
    /// Of VMPL1, 2 and 3.
    pub(crate) permissions: [Permissions; 3],
}

/// The digest after one more page.
pub(crate) fn extend(digest: &Digest, info: PageInfo, contents: &Page) -> Digest {
    let measured: Digest = if info.kind.measures_contents() { Sha384::digest(contents).into() } else { [0; 48] };
    let [vmpl1, vmpl2, vmpl3] = info.permissions;
    let mut page_info = [0; PAGE_INFO_BYTES as usize];
    put(&mut page_info, 0x00, digest);
    put(&mut page_info, 0x30, &measured);
    put(&mut page_info, 0x60, &PAGE_INFO_BYTES.to_le_bytes());
    put(&mut page_info, 0x62, &[info.kind.number(), u8::from(info.imi), vmpl3.0, vmpl2.0, vmpl1.0]);
    put(&mut page_info, 0x68, &info.gpa.0.to_le_bytes());
    Sha384::digest(page_info).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer is a hash over the structure's bytes, put together by hand elsewhere: no predictor uses these fields.
    #[test]
    fn permissions_stand_from_the_least_privileged_level_up() {
        let permissions = [1, 3, 7].map(Permissions);
        let info = PageInfo { kind: PageKind::Normal, gpa: Gpa(0x7000), imi: true, permissions };
        let digest = extend(&[9; 48], info, &[0x33; 4096]);
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let answer = "bc686aec56d07465da6b3ad6a308bae6068e99ec42a6c68ee3e5753a927fa39d91571c61302b4e0a529538ab30379bd8";
        assert_eq!(hex, answer);
    }
}
