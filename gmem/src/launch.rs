//! What is launched, as a value: law *one-launch*.
//!
//! A [`Launch`] is executed by launch code, measured by predictors and explained to people; there is no second
//! description of a guest anywhere. It is an ordered list of pages with their kinds and contents ([`Plan`]), the state
//! the first vCPU starts with, and what else the hardware signs ([`Identity`]).
//!
//! Owns the order and the checks that make a plan well formed: every region lies in RAM or in staging, none overlaps
//! another. Does not own what a technology puts into it.

use std::fmt;
use std::sync::Arc;

use crate::address::{GfnRange, Gpa, PAGE_SIZE};
use crate::layout::RamLayout;

/// Everything that is launched.
#[derive(Debug, Clone)]
pub struct Launch {
    /// Pages and initial vCPU state.
    pub plan: Plan,
    /// What else is signed.
    pub identity: Identity,
}

/// What hardware signs besides the plan. Nothing for technologies without hardware.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Identity {
    /// No root of trust: `sw` and `none`.
    Unsigned,
}

/// An ordered list of regions and what the first vCPU starts with.
#[derive(Debug, Clone)]
pub struct Plan {
    ram: RamLayout,
    vcpus: u32,
    regions: Vec<PlannedRegion>,
    boot_state: VcpuState,
}

/// A run of pages that is given its contents before the guest runs.
#[derive(Debug, Clone)]
pub struct PlannedRegion {
    /// Where, in whole pages.
    pub range: GfnRange,
    /// What kind of pages.
    pub kind: PageKind,
    /// What it is, for people.
    pub label: String,
    /// Its first bytes; the rest of the range is zeros.
    pub contents: Contents,
}

/// Bytes shared by everybody who looks at a plan. Taken over as they are: a copy of a large kernel, once freed, may
/// stay with the process for good.
#[derive(Clone, PartialEq, Eq)]
pub struct Contents(Arc<Vec<u8>>);

/// How the pages of a region get their contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PageKind {
    /// Shared memory above RAM that the VMM writes and the guest copies from; gone once the guest says so.
    Staged,
    /// Private memory the guest itself fills from staging, as its firmware is told to.
    CopiedByGuest,
    /// Private memory that the launch fills, and whose contents are measured.
    Measured,
    /// Private zeros, measured as such without being looked at.
    Zeros,
    /// Private memory that the launch fills with what is not measured.
    Unmeasured,
    /// Where SNP's firmware puts the guest's keys for messages to it.
    Secrets,
    /// Where SNP's firmware puts the CPUID values that it has checked.
    Cpuid,
}

impl PageKind {
    /// For people.
    pub const fn describe(self) -> &'static str {
        match self {
            Self::Staged => "shared, staged",
            Self::CopiedByGuest => "private, copied by the guest",
            Self::Measured => "private, measured",
            Self::Zeros => "private, zeros",
            Self::Unmeasured => "private, not measured",
            Self::Secrets => "private, secrets",
            Self::Cpuid => "private, CPUID",
        }
    }
}

/// The registers a vCPU starts with, in 64-bit mode. Everything not named here is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VcpuState {
    /// Instruction pointer.
    pub rip: u64,
    /// First argument.
    pub rdi: u64,
    /// Page-table base.
    pub cr3: Gpa,
    /// Control register 0.
    pub cr0: u64,
    /// Control register 4.
    pub cr4: u64,
    /// Extended feature enable register.
    pub efer: u64,
}

/// Why a list of regions is no plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Outside of what there is.
    #[error("{label} at {range} is outside of {place}")]
    Outside {
        /// Which region.
        label: String,
        /// Where it was to go.
        range: GfnRange,
        /// Where it should be.
        place: &'static str,
    },
    /// Two regions want the same page.
    #[error("{label} at {range} overlaps {other} at {other_range}")]
    Overlap {
        /// Which region.
        label: String,
        /// Where it was to go.
        range: GfnRange,
        /// The region already there.
        other: String,
        /// Where that is.
        other_range: GfnRange,
    },
    /// More bytes than pages for them.
    #[error("{label} has {bytes} bytes, more than its {range} can hold")]
    TooLong {
        /// Which region.
        label: String,
        /// Bytes it has.
        bytes: usize,
        /// Where it was to go.
        range: GfnRange,
    },
}

impl Contents {
    /// These bytes.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(Arc::new(bytes.into()))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Contents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Plan {
    /// An empty plan for `vcpus` vCPUs of which the first starts with `boot_state`.
    pub fn new(ram: RamLayout, vcpus: u32, boot_state: VcpuState) -> Self {
        Self { ram, vcpus, regions: Vec::new(), boot_state }
    }

    /// Adds a region after the others.
    pub fn push(&mut self, region: PlannedRegion) -> Result<(), PlanError> {
        let PlannedRegion { range, kind, label, contents } = &region;
        let (inside, place) = match kind {
            PageKind::Staged => (self.ram.ranges().all(|ram| !ram.overlaps(*range)), "the space above RAM"),
            _ => (self.ram.contains_range(*range), "RAM"),
        };
        if !inside {
            return Err(PlanError::Outside { label: label.clone(), range: *range, place });
        }
        let room = u128::from(range.pages().get()) * u128::from(PAGE_SIZE);
        if contents.bytes().len() as u128 > room {
            return Err(PlanError::TooLong { label: label.clone(), bytes: contents.bytes().len(), range: *range });
        }
        if let Some(other) = self.regions.iter().find(|other| other.range.overlaps(*range)) {
            return Err(PlanError::Overlap {
                label: label.clone(),
                range: *range,
                other: other.label.clone(),
                other_range: other.range,
            });
        }
        self.regions.push(region);
        Ok(())
    }

    /// Where RAM is.
    pub fn ram(&self) -> &RamLayout {
        &self.ram
    }

    /// How many vCPUs.
    pub fn vcpus(&self) -> u32 {
        self.vcpus
    }

    /// The regions in order.
    pub fn regions(&self) -> &[PlannedRegion] {
        &self.regions
    }

    /// What vCPU 0 starts with; all others wait for INIT and SIPI.
    pub fn boot_state(&self) -> &VcpuState {
        &self.boot_state
    }

    /// The smallest range that holds every region of `kind`.
    pub fn extent(&self, kind: PageKind) -> Option<GfnRange> {
        let of_kind = || self.regions.iter().filter(|region| region.kind == kind).map(|region| region.range);
        let first = of_kind().min_by_key(|range| range.start())?;
        let end = of_kind().map(GfnRange::end_number).max()?;
        GfnRange::new(first.start(), crate::PageCount::new(end - first.start().number())).ok()
    }
}

impl fmt::Display for Launch {
    /// The launch explained to a person: one line a region, then the first vCPU.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for region in &self.plan.regions {
            let end = region.range.end_number().saturating_mul(PAGE_SIZE).saturating_sub(1);
            let how = region.kind.describe();
            writeln!(f, "{:#012x}-{end:#012x}  {how:<28}  {}", region.range.gpa().0, region.label)?;
        }
        let state = &self.plan.boot_state;
        let (rip, rdi, cr3) = (state.rip, state.rdi, state.cr3.0);
        writeln!(f, "vcpu 0 starts at rip={rip:#x} rdi={rdi:#x} cr3={cr3:#x}, {} vcpus in all", self.plan.vcpus)?;
        match self.identity {
            Identity::Unsigned => write!(f, "nothing of this is signed by hardware"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ByteLen, Gpa};

    fn plan() -> Plan {
        let state = VcpuState { rip: 0x1000, rdi: 0, cr3: Gpa(0x2000), cr0: 0, cr4: 0, efer: 0 };
        Plan::new(RamLayout::new(ByteLen(64 << 20)).unwrap(), 1, state)
    }

    fn region(label: &str, gpa: u64, len: u64, kind: PageKind) -> PlannedRegion {
        let range = GfnRange::from_bytes(Gpa(gpa), ByteLen(len)).unwrap();
        PlannedRegion { range, kind, label: label.into(), contents: Contents::new(vec![1, 2, 3]) }
    }

    /// one-launch: a plan that could not be executed cannot be built.
    #[test]
    fn one_launch_refuses_what_cannot_be_executed() {
        let mut plan = plan();
        plan.push(region("kernel", 0x10_0000, 0x2000, PageKind::CopiedByGuest)).unwrap();
        let overlap = plan.push(region("initrd", 0x10_1000, 0x1000, PageKind::CopiedByGuest)).unwrap_err();
        assert_eq!(overlap.to_string(), "initrd at 0x101000+1 pages overlaps kernel at 0x100000+2 pages");
        let outside = plan.push(region("initrd", 64 << 20, 0x1000, PageKind::CopiedByGuest)).unwrap_err();
        assert_eq!(outside.to_string(), "initrd at 0x4000000+1 pages is outside of RAM");
        let inside = plan.push(region("staging", 0x20_0000, 0x1000, PageKind::Staged)).unwrap_err();
        assert_eq!(inside.to_string(), "staging at 0x200000+1 pages is outside of the space above RAM");
        let mut long = region("long", 0x30_0000, 0x1000, PageKind::CopiedByGuest);
        long.contents = Contents::new(vec![0; 4097]);
        assert!(matches!(plan.push(long), Err(PlanError::TooLong { bytes: 4097, .. })));
    }

    /// one-launch: the explanation lists what is executed, in order.
    #[test]
    fn one_launch_is_explained_in_order() {
        let mut plan = plan();
        plan.push(region("first", 1 << 32, 0x1000, PageKind::Staged)).unwrap();
        plan.push(region("second", 0x10_0000, 0x1000, PageKind::CopiedByGuest)).unwrap();
        let text = Launch { plan, identity: Identity::Unsigned }.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("0x0100000000-0x0100000fff  shared, staged"), "{text}");
        assert!(lines[1].ends_with("second"), "{text}");
        assert!(lines[2].contains("rip=0x1000"), "{text}");
    }
}
