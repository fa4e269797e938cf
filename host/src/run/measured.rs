//! What a test's root says was measured of a guest that no hardware measures.
//!
//! Owns which of its pages count, and as what: what the guest's first code believes without looking, as if an SNP
//! platform had been given it. That is the header with the table of pieces, the firmware, the page tables it starts with
//! and the first vCPU's registers. The pieces themselves the firmware compares with their SHA-256 in that table, so
//! they count by it, as those of an SNP guest do. Other vCPUs start as INIT leaves them, and the header has their
//! number.
//!
//! Nobody but a test's root signs such a digest, and it says nothing of hardware (law *no-silent-trust*);
//! but it is made of the very launch that is carried out (law *one-launch*).

use gmem::launch::{Launch, PageKind, PlannedRegion, Unsigned};
use snp::digest::Digest;
use snp::measure::{MeasureError, Measured, Step};
use snp::vmsa::{SevFeatures, Vmsa};

/// The digest of a launch; every page is shown to `trace`.
pub(crate) fn traced(launch: &Launch<Unsigned>, mut trace: impl FnMut(&Step<'_>)) -> Result<Digest, MeasureError> {
    let regions = launch.plan.regions();
    let is_checked = |staged: &PlannedRegion| {
        let copy = |region: &PlannedRegion| region.kind == PageKind::CopiedByGuest && region.label == staged.label;
        regions.iter().any(copy)
    };
    let believed = regions.iter().filter(|region| region.kind == PageKind::Staged && !is_checked(region));
    let pages: Vec<_> = believed.map(|region| PlannedRegion { kind: PageKind::Measured, ..region.clone() }).collect();
    let boot = Vmsa::of(&launch.plan.vcpus().boot, SevFeatures::SNP);
    Measured::new(&pages, &boot, &boot, &mut trace).digest(1, trace)
}
