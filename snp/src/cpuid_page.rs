//! The CPUID page: values that the guest believes because the PSP has checked them. It is not measured.
//!
//! Owns the table, filled from what vCPUs are given, and the difference to what the PSP would rather have.
//!
//! Specification: SEV-SNP Firmware ABI (56860), 8.17.2.6 "PAGE_TYPE_CPUID", and 7.1 for the entries.

use std::fmt;

use gmem_kvm::port::CpuidEntry;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// Most entries.
pub const ENTRIES_MAX: usize = 64;
/// Extended state; its size depends on what is enabled.
const XSTATE_LEAF: u32 = 0xd;
/// Bytes of extended state with x87 and SSE only: the legacy area and a header.
const XSTATE_LEGACY_BYTES: u32 = 0x240;

/// One CPUID function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Entry {
    eax_in: U32,
    ecx_in: U32,
    xcr0_in: U64,
    xss_in: U64,
    eax: U32,
    ebx: U32,
    ecx: U32,
    edx: U32,
    reserved: U64,
}

/// The page.
#[derive(Clone, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct CpuidPage {
    count: U32,
    reserved: [u8; 12],
    entries: [Entry; ENTRIES_MAX],
    unused: [u8; 4096 - 16 - ENTRIES_MAX * 48],
}

const _: () = {
    assert!(size_of::<Entry>() == 48);
    assert!(size_of::<CpuidPage>() == 4096);
};

/// A vCPU has more leaves than the page has entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the guest's vCPUs have {0} CPUID leaves; the CPUID page has room for {ENTRIES_MAX}")]
pub struct TooManyLeaves(pub usize);

/// A register the PSP would have otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Correction {
    /// Which leaf.
    pub leaf: u32,
    /// Which subleaf.
    pub subleaf: u32,
    /// Which register.
    pub register: &'static str,
    /// What was asked for.
    pub asked: u32,
    /// What it can be.
    pub allowed: u32,
}

impl CpuidPage {
    /// What vCPUs are given, as the PSP takes it. Their extended state is as at reset, where only x87 is enabled.
    pub fn new(leaves: &[CpuidEntry]) -> Result<Self, TooManyLeaves> {
        let mut page = Self::new_zeroed();
        let too_many = TooManyLeaves(leaves.len());
        page.count = U32::new(u32::try_from(leaves.len()).map_err(|_| too_many)?);
        if leaves.len() > ENTRIES_MAX {
            return Err(too_many);
        }
        for (entry, leaf) in page.entries.iter_mut().zip(leaves) {
            let subleaf = leaf.subleaf.unwrap_or(0);
            let xstate = leaf.leaf == XSTATE_LEAF && subleaf <= 1;
            *entry = Entry {
                eax_in: leaf.leaf.into(),
                ecx_in: subleaf.into(),
                xcr0_in: u64::from(xstate).into(),
                xss_in: 0.into(),
                eax: leaf.eax.into(),
                ebx: if xstate { XSTATE_LEGACY_BYTES } else { leaf.ebx }.into(),
                ecx: leaf.ecx.into(),
                edx: leaf.edx.into(),
                reserved: 0.into(),
            };
        }
        Ok(page)
    }

    /// Reads what the PSP left in a page's place.
    #[must_use]
    pub fn parse(bytes: &[u8; 4096]) -> Self {
        zerocopy::transmute!(*bytes)
    }

    /// What `corrected` has otherwise, function by function.
    #[must_use]
    pub fn corrections(&self, corrected: &Self) -> Vec<Correction> {
        let count = usize::try_from(self.count.get()).unwrap_or(0);
        let pairs = self.entries.iter().zip(&corrected.entries).take(count);
        let registers = pairs.flat_map(|(asked, allowed)| {
            let registers = [
                ("eax", asked.eax, allowed.eax),
                ("ebx", asked.ebx, allowed.ebx),
                ("ecx", asked.ecx, allowed.ecx),
                ("edx", asked.edx, allowed.edx),
            ];
            registers.map(|(register, was, is)| Correction {
                leaf: asked.eax_in.get(),
                subleaf: asked.ecx_in.get(),
                register,
                asked: was.get(),
                allowed: is.get(),
            })
        });
        registers.filter(|correction| correction.asked != correction.allowed).collect()
    }
}

impl fmt::Display for Correction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { leaf, subleaf, register, asked, allowed } = self;
        write!(f, "leaf {leaf:#x}.{subleaf:#x} {register}: {asked:#010x} was asked for, {allowed:#010x} is allowed")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(leaf: u32, subleaf: Option<u32>) -> CpuidEntry {
        CpuidEntry { leaf, subleaf, eax: 1, ebx: 2, ecx: 3, edx: 4 }
    }

    #[test]
    fn a_page_is_laid_out_as_the_firmware_reads_it() {
        let page = CpuidPage::new(&[leaf(0, None), leaf(0xd, Some(0)), leaf(0xd, Some(2))]).unwrap();
        let bytes = page.as_bytes();
        assert_eq!((bytes[0], &bytes[16..20], &bytes[16 + 48..16 + 52]), (3, &[0; 4][..], &[0xd, 0, 0, 0][..]));
        // XCR0_IN and EBX of the first two subleaves of extended state.
        assert_eq!((bytes[16 + 48 + 8], bytes[16 + 48 + 28], bytes[16 + 48 + 29]), (1, 0x40, 2));
        assert_eq!((bytes[16 + 96 + 8], bytes[16 + 96 + 28]), (0, 2));
    }

    /// no-silent-trust: what does not fit is refused, not cut off.
    #[test]
    fn no_silent_trust_too_many_leaves() {
        let leaves = |count: u32| (0..count).map(|number| leaf(number, None)).collect::<Vec<_>>();
        assert!(CpuidPage::new(&leaves(64)).is_ok());
        assert_eq!(CpuidPage::new(&leaves(65)), Err(TooManyLeaves(65)));
    }

    #[test]
    fn corrections_are_named() {
        let asked = CpuidPage::new(&[leaf(7, Some(0))]).unwrap();
        let mut corrected = asked.clone();
        assert_eq!(asked.corrections(&corrected), []);
        corrected.entries[0].ebx = 0.into();
        let corrections = asked.corrections(&CpuidPage::parse(&corrected.as_bytes().try_into().unwrap()));
        assert_eq!(corrections[0].to_string(), "leaf 0x7.0x0 ebx: 0x00000002 was asked for, 0x00000000 is allowed");
    }
}
