//! From a firmware image to its launch: the pages in the order in which they are given to the PSP, and the digest that
//! comes of it.
//!
//! Owns the order, in which VMMs differ. What is measured is a list of [`PlannedRegion`]s and the first registers of
//! the vCPUs: the same that launch code executes (law *one-launch*).
//!
//! Specification: SEV-SNP Firmware ABI (56860), 8.17; the order is that of QEMU's `target/i386/sev.c` and of Linux,
//! which adds the vCPUs last.

mod hashing;

use gmem::launch::{Contents, Launch, PageKind, PlannedRegion, Vcpus};
use gmem::{Gpa, PAGE_SIZE};

use crate::digest::{Digest, PAGE_BYTES, PageType};
use crate::hashes::KernelHashes;
use crate::id_block::Identity;
use crate::ovmf::{Ovmf, SectionKind};
use crate::vmsa::{VMSA_GPA, Vmm, Vmsa};

/// Why there is no such launch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MeasureError {
    /// The firmware would start a kernel without looking at it.
    #[error("a kernel is given, but the firmware has no {0}: it could not tell the kernel from another one")]
    NoPlaceForHashes(&'static str),
    /// Nothing runs without a vCPU.
    #[error("a guest has at least one vCPU")]
    NoVcpu,
}

/// Everything that is given to the PSP before the vCPUs, in `vmm`'s order. `hashes` are of a kernel that is started
/// directly.
pub fn regions(ovmf: &Ovmf, vmm: Vmm, hashes: Option<&KernelHashes>) -> Result<Vec<PlannedRegion>, MeasureError> {
    let has_place = ovmf.sections.iter().any(|section| section.kind == SectionKind::KernelHashes);
    if hashes.is_some() && !has_place {
        return Err(MeasureError::NoPlaceForHashes("section for its hashes (type 0x10)"));
    }
    if hashes.is_some() && ovmf.hash_table.is_none() {
        return Err(MeasureError::NoPlaceForHashes("table of its hashes"));
    }
    let mut regions = vec![PlannedRegion {
        range: ovmf.range,
        kind: PageKind::Measured,
        label: "firmware".to_owned(),
        contents: ovmf.image.clone(),
    }];
    for section in &ovmf.sections {
        let table = hashes.zip(ovmf.hash_table).filter(|_| section.kind == SectionKind::KernelHashes);
        let (kind, contents) = match section.kind {
            SectionKind::Secrets => (PageKind::Secrets, Vec::new()),
            SectionKind::Cpuid => (PageKind::Cpuid, Vec::new()),
            SectionKind::SecMemory if vmm == Vmm::Gce => (PageKind::Unmeasured, Vec::new()),
            SectionKind::SecMemory | SectionKind::SvsmCallingArea => (PageKind::Zeros, Vec::new()),
            SectionKind::KernelHashes => match table {
                Some((hashes, gpa)) => (PageKind::Measured, page_with(&hashes.table(), gpa)),
                None => (PageKind::Zeros, Vec::new()),
            },
        };
        let (range, label) = (section.range, section.kind.to_string());
        regions.push(PlannedRegion { range, kind, label, contents: Contents::new(contents) });
    }
    if vmm == Vmm::Ec2 {
        regions.sort_by_key(|region| region.kind == PageKind::Cpuid);
    }
    Ok(regions)
}

/// A page with `bytes` where `gpa` says.
fn page_with(bytes: &[u8], gpa: Gpa) -> Vec<u8> {
    let mut page = vec![0; usize::try_from(gpa.0 % PAGE_SIZE).unwrap_or(0)];
    page.extend(bytes);
    page
}

/// One page given to the PSP, and what became of the digest.
#[derive(Clone, Debug)]
pub struct Step<'a> {
    /// What it belongs to.
    pub label: &'a str,
    /// As what it is added.
    pub page_type: PageType,
    /// Where.
    pub gpa: Gpa,
    /// SHA-384 of its contents, or zeros if they do not count.
    pub contents: Digest,
    /// The launch digest after it.
    pub digest: Digest,
}

/// A page to be given to the PSP.
struct Page<'a> {
    label: &'a str,
    page_type: PageType,
    gpa: Gpa,
    /// What it begins with.
    bytes: &'a [u8],
}

fn pages_of(region: &PlannedRegion) -> impl Iterator<Item = Page<'_>> {
    let page_type = match region.kind {
        PageKind::Measured => Some(PageType::Normal),
        PageKind::Zeros => Some(PageType::Zero),
        PageKind::Secrets => Some(PageType::Secrets),
        PageKind::Cpuid => Some(PageType::Cpuid),
        PageKind::Unmeasured => Some(PageType::Unmeasured),
        // The PSP is not told of what it is not given.
        _ => None,
    };
    page_type.into_iter().flat_map(move |page_type| {
        let mut contents = region.contents.bytes().chunks(PAGE_BYTES);
        region.range.frames().map(move |frame| {
            let bytes = contents.next().unwrap_or_default();
            Page { label: &region.label, page_type, gpa: frame.gpa(), bytes }
        })
    })
}

/// A launch, measured up to its vCPUs: any number of them is a matter of as many steps.
#[derive(Clone, Debug)]
pub struct Measured {
    pages: Digest,
    boot: Digest,
    application: Digest,
}

impl Measured {
    /// Measures everything before the vCPUs, of which the first starts with `boot` and all others with `application`.
    /// Each page is shown to `trace`.
    pub fn new(regions: &[PlannedRegion], boot: &Vmsa, application: &Vmsa, mut trace: impl FnMut(&Step<'_>)) -> Self {
        use zerocopy::IntoBytes;
        let pages = || regions.iter().flat_map(pages_of);
        let measured: Vec<&[u8]> = pages().filter(|page| page.page_type.is_measured()).map(|page| page.bytes).collect();
        let digest = hashing::in_order(&measured, |hashes| {
            let mut digest = Digest::ZERO;
            for Page { label, page_type, gpa, .. } in pages() {
                // There is a hash for each.
                let contents =
                    if page_type.is_measured() { hashes.next().unwrap_or(Digest::ZERO) } else { Digest::ZERO };
                digest = digest.extended(page_type, gpa, contents);
                trace(&Step { label, page_type, gpa, contents, digest });
            }
            digest
        });
        let of = |vmsa: &Vmsa| Digest::of_page(vmsa.as_bytes());
        Self { pages: digest, boot: of(boot), application: of(application) }
    }

    /// The launch digest with so many vCPUs.
    pub fn digest(&self, vcpus: u32, mut trace: impl FnMut(&Step<'_>)) -> Result<Digest, MeasureError> {
        if vcpus == 0 {
            return Err(MeasureError::NoVcpu);
        }
        let mut digest = self.pages;
        for vcpu in 0..vcpus {
            let contents = if vcpu == 0 { self.boot } else { self.application };
            digest = digest.extended(PageType::Vmsa, VMSA_GPA, contents);
            let label = format!("vCPU {vcpu}");
            trace(&Step { label: &label, page_type: PageType::Vmsa, gpa: VMSA_GPA, contents, digest });
        }
        Ok(digest)
    }
}

/// The digest with which a launch will end.
pub fn launch_digest(launch: &Launch<Identity>) -> Result<Digest, MeasureError> {
    traced(launch, |_| {})
}

/// The same; every page is shown to `trace`.
pub fn traced(launch: &Launch<Identity>, mut trace: impl FnMut(&Step<'_>)) -> Result<Digest, MeasureError> {
    let (plan, features) = (&launch.plan, launch.identity.features);
    let Vcpus { count, boot, application } = *plan.vcpus();
    let vmsa = |state| Vmsa::of(state, features);
    let measured = Measured::new(plan.regions(), &vmsa(&boot), &vmsa(&application.unwrap_or(boot)), &mut trace);
    measured.digest(count, trace)
}
