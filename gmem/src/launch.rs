//! What is launched, as a value: law *one-launch*.
//!
//! A [`Launch`] is executed by launch code, measured by predictors and explained to people; there is no second
//! description of a guest anywhere. It is an ordered list of pages with their kinds and contents ([`Plan`]), the state
//! the vCPUs start with, and what else the hardware signs.
//!
//! Owns the order and the checks that make a plan well formed: every region lies in RAM or in staging, none overlaps
//! another. Does not own what a technology puts into it.

use std::fmt;
use std::sync::Arc;

use crate::address::{GfnRange, PAGE_SIZE};
use crate::layout::RamLayout;
use crate::vcpu::VcpuState;

/// Everything that is launched.
#[derive(Debug, Clone)]
pub struct Launch<I> {
    /// Pages and initial vCPU state.
    pub plan: Plan,
    /// What else the hardware signs: a type of each technology, which says in words what it is.
    pub identity: I,
}

/// The identity of a guest of technologies without a root of trust: `sw` and `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsigned;

/// An ordered list of regions and what the vCPUs start with.
#[derive(Debug, Clone)]
pub struct Plan {
    ram: RamLayout,
    vcpus: Vcpus,
    regions: Vec<PlannedRegion>,
}

/// A guest's vCPUs and what they start with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vcpus {
    /// How many.
    pub count: u32,
    /// The first one.
    pub boot: VcpuState,
    /// All others, if they do not wait for INIT and SIPI in whatever state the kernel makes them.
    pub application: Option<VcpuState>,
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
    /// An empty plan.
    pub fn new(ram: RamLayout, vcpus: Vcpus) -> Self {
        Self { ram, vcpus, regions: Vec::new() }
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

    /// The vCPUs.
    pub fn vcpus(&self) -> &Vcpus {
        &self.vcpus
    }

    /// The regions in order.
    pub fn regions(&self) -> &[PlannedRegion] {
        &self.regions
    }

    /// The smallest range that holds every region of `kind`.
    pub fn extent(&self, kind: PageKind) -> Option<GfnRange> {
        let of_kind = || self.regions.iter().filter(|region| region.kind == kind).map(|region| region.range);
        let first = of_kind().min_by_key(|range| range.start())?;
        let end = of_kind().map(GfnRange::end_number).max()?;
        GfnRange::new(first.start(), crate::PageCount::new(end - first.start().number())).ok()
    }
}

impl Vcpus {
    /// What vCPU `id` starts with; `None` if that is not ours to say.
    pub fn state_of(&self, id: u32) -> Option<&VcpuState> {
        if id == 0 { Some(&self.boot) } else { self.application.as_ref() }
    }
}

impl fmt::Display for Unsigned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing of this is signed by hardware")
    }
}

impl<I: fmt::Display> fmt::Display for Launch<I> {
    /// The launch explained to a person: one line a region, then the vCPUs and what is signed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for region in &self.plan.regions {
            let end = region.range.end_number().saturating_mul(PAGE_SIZE).saturating_sub(1);
            let how = region.kind.describe();
            writeln!(f, "{:#012x}-{end:#012x}  {how:<28}  {}", region.range.gpa().0, region.label)?;
        }
        let Vcpus { count, boot, application } = &self.plan.vcpus;
        let (rip, rdi, cr3) = (boot.cs.base + boot.rip, boot.rdi, boot.cr3.0);
        writeln!(f, "vcpu 0 starts at rip={rip:#x} rdi={rdi:#x} cr3={cr3:#x}, {count} vcpus in all")?;
        if let Some(state) = application {
            writeln!(f, "the others start at rip={:#x}", state.cs.base + state.rip)?;
        }
        write!(f, "{}", self.identity)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ByteLen, Gpa};

    fn plan() -> Plan {
        let boot = VcpuState { rip: 0x1000, cr3: Gpa(0x2000), ..VcpuState::LONG_MODE };
        Plan::new(RamLayout::new(ByteLen(64 << 20)).unwrap(), Vcpus { count: 1, boot, application: None })
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
        let text = Launch { plan, identity: Unsigned }.to_string();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[0].starts_with("0x0100000000-0x0100000fff  shared, staged"), "{text}");
        assert!(lines[1].ends_with("second"), "{text}");
        assert!(lines[2].contains("rip=0x1000"), "{text}");
    }
}
