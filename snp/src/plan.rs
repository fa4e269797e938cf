//! From a firmware image to a [`Launch`]: what is executed, measured and explained (law *one-launch*).
//!
//! Owns the two kinds of images there are. OVMF starts at the reset vector and says itself which pages it wants; its
//! vCPUs start exactly as QEMU's, so that what others predict holds for us. An image of ours is flat and starts in
//! 32-bit mode. Does not own the order of OVMF's pages: that is [`crate::measure`]'s, who can tell what other VMMs
//! do.

use gmem::address::AddressError;
use gmem::launch::{Contents, Launch, PageKind, Plan, PlanError, PlannedRegion, Vcpus};
use gmem::layout::{LayoutError, RamLayout};
use gmem::vcpu::VcpuState;
use gmem::{ByteLen, GfnRange, Gpa};

use crate::cpu::CpuModel;
use crate::hashes::KernelHashes;
use crate::id_block::Identity;
use crate::measure::{self, MeasureError};
use crate::ovmf::Ovmf;
use crate::vmsa::{Role, Vmm};

/// What a guest is to be, besides its image.
#[derive(Debug, Clone)]
pub struct Guest {
    /// RAM, without the firmware's own memory.
    pub memory: ByteLen,
    /// vCPUs.
    pub vcpus: u32,
    /// Their processor.
    pub cpu: CpuModel,
    /// What else is signed.
    pub identity: Identity,
}

/// An image that is loaded where it says and starts in 32-bit mode with flat segments and without paging.
#[derive(Debug, Clone)]
pub struct FlatImage<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Where they go, in whole pages.
    pub base: Gpa,
    /// Memory it takes from there, with what is zeros at first.
    pub memory: ByteLen,
    /// Where every vCPU starts.
    pub entry: Gpa,
    /// Where it looks for its secrets page.
    pub secrets: Gpa,
    /// Where it looks for its CPUID page.
    pub cpuid: Gpa,
    /// What it is told, which is measured as it is, and where.
    pub parameters: (Gpa, Vec<u8>),
}

/// Why there is no such launch.
#[derive(Debug, thiserror::Error)]
pub enum PlanningError {
    /// RAM.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// What the firmware wants does not fit together.
    #[error("the firmware's memory: {0}")]
    Plan(#[from] PlanError),
    /// What the firmware wants is nowhere.
    #[error("the firmware's memory: {0}")]
    Address(#[from] AddressError),
    /// It cannot be measured.
    #[error(transparent)]
    Measure(#[from] MeasureError),
}

/// The launch of an OVMF image. `hashes` are of a kernel that it is to start.
pub fn ovmf(image: &Ovmf, guest: Guest, hashes: Option<&KernelHashes>) -> Result<Launch<Identity>, PlanningError> {
    let size = image.range.bytes().unwrap_or_default();
    let ram = RamLayout::new(guest.memory)?.with_firmware(size)?;
    let boot = Role::Boot.first_state(guest.cpu);
    let application = Role::Application { eip: image.ap_eip }.first_state(guest.cpu);
    let vcpus = Vcpus { count: guest.vcpus, boot, application: Some(application) };
    let mut plan = Plan::new(ram, vcpus);
    measure::regions(image, Vmm::Qemu, hashes)?.into_iter().try_for_each(|region| plan.push(region))?;
    Ok(Launch { plan, identity: guest.identity })
}

/// The launch of a flat image.
pub fn flat(image: FlatImage<'_>, guest: Guest) -> Result<Launch<Identity>, PlanningError> {
    let ram = RamLayout::new(guest.memory)?;
    let start = VcpuState { rip: image.entry.0, rdx: guest.cpu.signature().into(), ..VcpuState::FLAT_32 };
    let mut plan = Plan::new(ram, Vcpus { count: guest.vcpus, boot: start, application: Some(start) });
    let mut push = |label: &str, kind, range, bytes: Vec<u8>| {
        plan.push(PlannedRegion { range, kind, label: label.to_owned(), contents: Contents::new(bytes) })
    };
    let page = |gpa| GfnRange::from_bytes(gpa, ByteLen(gmem::PAGE_SIZE));
    let bytes = GfnRange::covering(image.base, ByteLen(image.bytes.len() as u64))?;
    push("firmware", PageKind::Measured, bytes, image.bytes.to_vec())?;
    let all = GfnRange::covering(image.base, image.memory)?;
    if let (_, Some(zeros)) = all.split_at(bytes.pages()) {
        push("firmware's zeros and stacks", PageKind::Zeros, zeros, Vec::new())?;
    }
    push("secrets", PageKind::Secrets, page(image.secrets)?, Vec::new())?;
    push("CPUID", PageKind::Cpuid, page(image.cpuid)?, Vec::new())?;
    let (gpa, parameters) = image.parameters;
    let range = GfnRange::covering(gpa, ByteLen(parameters.len() as u64))?;
    push("firmware's parameters", PageKind::Measured, range, parameters)?;
    Ok(Launch { plan, identity: guest.identity })
}
