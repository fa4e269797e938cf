//! Launches an SNP guest over the kernel port.
//!
//! Owns the order in which Linux wants it, and words for what kernel and firmware answer. Every step is a function of
//! its own, because slots, interrupt controller and vCPUs come between them and are no matter of SNP:
//!
//! 1. [`begin`]: the VM gets an ASID and the PSP makes its context;
//! 2. RAM gets its slots and is marked private;
//! 3. [`populate`]: pages are filled, encrypted and measured, in the plan's order;
//! 4. vCPUs are created and given their CPUID and first registers;
//! 5. [`finish`]: the registers are measured, the ID block is checked, and the VM can run.
//!
//! A failure at any step is final: what is left is teardown (law *sealed-is-sealed*).
//!
//! Specification: Linux `Documentation/virt/kvm/x86/amd-memory-encryption.rst` (7.2); errors as in
//! `arch/x86/kvm/svm/sev.c` of that version; SEV-SNP Firmware ABI (56860), chapter 8.

use gmem::launch::{PageKind, Plan, PlannedRegion};
use gmem_kvm::port::snp::{AuthorKey, SignedBlock, SnpFinish, SnpPageType, SourcePage, Vcek};
use gmem_kvm::port::{CallError, CpuidEntry, KernelVm};
use gmem_kvm::vm::{Failed, LaunchError, Launching, PopulateError, Sealed, Vm};
use rustix::io::Errno;
use zerocopy::IntoBytes;

use crate::cpuid_page::{Correction, CpuidPage};
use crate::id_block::{AUTH_BYTES, BLOCK_BYTES, Identity, ReportKey};
use crate::status;

/// Who answers a guest's requests for certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certificates {
    /// The kernel, which has none.
    None,
    /// We do (Linux 7.0).
    Ours,
}

/// Gives the VM an ASID, and has the PSP make the guest's context. Before anything else.
pub fn begin<V: KernelVm>(
    vm: &mut Vm<V, Launching>,
    identity: &Identity,
    certificates: Certificates,
) -> Result<(), LaunchError> {
    // The bit for SNP itself is the kernel's to set.
    let features = identity.features.0 & !crate::vmsa::SevFeatures::SNP.0;
    vm.snp_init(features).map_err(explained(Step::Init))?;
    if certificates == Certificates::Ours {
        vm.snp_enable_certificate_requests().map_err(explained(Step::EnableCertificates))?;
    }
    vm.snp_start(identity.policy.to_raw()).map_err(explained(Step::Start))
}

/// Fills, encrypts and measures every region of the plan, in its order. `cpuid` is what the vCPUs will be given.
/// Returns what the PSP would not have the guest be promised; vCPUs should be given no more.
pub fn populate<V: KernelVm>(
    vm: &mut Vm<V, Launching>,
    plan: &Plan,
    cpuid: &[CpuidEntry],
    mut each: impl FnMut(&PlannedRegion),
) -> Result<Vec<Correction>, LaunchError> {
    let mut corrections = Vec::new();
    for region in plan.regions() {
        let page_type = match region.kind {
            PageKind::Measured => SnpPageType::Normal,
            PageKind::Zeros => SnpPageType::Zero,
            PageKind::Unmeasured => SnpPageType::Unmeasured,
            PageKind::Secrets => SnpPageType::Secrets,
            PageKind::Cpuid => {
                each(region);
                corrections.extend(populate_cpuid(vm, region, cpuid)?);
                continue;
            }
            // The guest's own affair, or the host's: the PSP has no part in it.
            _ => continue,
        };
        each(region);
        let pages = usize::try_from(region.range.pages().get()).unwrap_or(usize::MAX);
        let mut source = match page_type {
            SnpPageType::Zero => Vec::new(),
            _ => SourcePage::pages_of(region.contents.bytes(), pages),
        };
        vm.snp_populate(region.range, page_type, &mut source).map_err(|error| not_populated(region, error))?;
    }
    Ok(corrections)
}

/// The CPUID page. If the PSP refuses it, it says what it would have, and gets that: never more than was asked for.
fn populate_cpuid<V: KernelVm>(
    vm: &mut Vm<V, Launching>,
    region: &PlannedRegion,
    cpuid: &[CpuidEntry],
) -> Result<Vec<Correction>, LaunchError> {
    let plan_error = |reason| LaunchError::Plan { step: Step::Update.name(), reason };
    let asked = CpuidPage::new(cpuid).map_err(|error| plan_error(error.to_string()))?;
    let pages = usize::try_from(region.range.pages().get()).unwrap_or(usize::MAX);
    let mut source = SourcePage::pages_of(asked.as_bytes(), pages);
    let refused = match vm.snp_populate(region.range, SnpPageType::Cpuid, &mut source) {
        Ok(()) => return Ok(Vec::new()),
        Err(error) => error,
    };
    let corrections = match source.first() {
        Some(page) if refused.source.firmware == Some(status::INVALID_PARAM) => {
            asked.corrections(&CpuidPage::parse(&page.0))
        }
        _ => Vec::new(),
    };
    if corrections.is_empty() {
        return Err(not_populated(region, refused));
    }
    vm.snp_populate(region.range, SnpPageType::Cpuid, &mut source).map_err(|error| {
        let list: Vec<_> = corrections.iter().map(ToString::to_string).collect();
        let explanation = format!("{}; its own corrections were refused as well: {}", region.label, list.join("; "));
        LaunchError::Explained { step: Step::Update.name(), source: error.source, explanation }
    })?;
    Ok(corrections)
}

/// Measures the vCPUs' registers, has the ID block checked, and seals the VM.
pub fn finish<V: KernelVm>(vm: Vm<V, Launching>, identity: &Identity) -> Result<Vm<V, Sealed>, Box<Vm<V, Failed>>> {
    let block_and_auth = identity.signed.as_deref().map(|signed| {
        let author = if signed.auth.has_author() { AuthorKey::Present } else { AuthorKey::Absent };
        let block: &[u8; BLOCK_BYTES] = zerocopy::transmute_ref!(&signed.block);
        let auth: &[u8; AUTH_BYTES] = zerocopy::transmute_ref!(&signed.auth);
        SignedBlock { block, auth, author }
    });
    let vcek = match identity.report_key {
        ReportKey::Any => Vcek::Allowed,
        ReportKey::OnlyVlek => Vcek::Disabled,
    };
    let finish = SnpFinish { signed: block_and_auth, host_data: identity.host_data, vcek };
    vm.snp_finish(&finish).map_err(|refused| {
        let (vm, error) = *refused;
        Box::new(vm.fail(explained(Step::Finish)(error)))
    })
}

/// The steps that ask the kernel for something of SNP's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Init,
    EnableCertificates,
    Start,
    Update,
    Finish,
}

impl Step {
    const fn name(self) -> &'static str {
        match self {
            Self::Init => "get an ASID",
            Self::EnableCertificates => "take requests for certificates",
            Self::Start => "begin the launch",
            Self::Update => "populate",
            Self::Finish => "finish the launch",
        }
    }

    /// What an errno means at this step, if the firmware said nothing.
    fn meaning(self, errno: Errno) -> &'static str {
        match (self, errno) {
            (Self::Init, Errno::NOTTY) => {
                "the kernel has no ASIDs for SNP; see \"tenure check\" and the number of ASIDs for SEV-ES in \
                 the machine's setup"
            }
            (Self::Init, Errno::BUSY) => {
                "no ASID is free, or the control group's limit (misc.max, sev_es) is reached; see \"tenure check\""
            }
            (Self::Init, Errno::INVAL) => {
                "the kernel does not know one of the guest's SEV features; see \"tenure check\""
            }
            (Self::Init | Self::EnableCertificates, Errno::PERM) => "the VM was given an ASID before",
            (Self::EnableCertificates, Errno::INVAL) => "this kernel cannot: it takes Linux 7.0",
            (Self::Start, Errno::NOTTY) => {
                "the PSP could not make a context for the guest: see what the kernel logged about ccp, and \
                 whether /dev/sev can be written to"
            }
            (Self::Start, Errno::INVAL) => {
                "the kernel does not allow a bit of the guest's policy; see \"tenure check\""
            }
            (Self::Update, Errno::IO) => {
                "the kernel populated no page and doesn't say why: the page may not be private, or not be free \
                 in the RMP"
            }
            (Self::Update, Errno::INVAL) => "there is no guest_memfd at that address",
            (Self::Finish, Errno::BUSY) => "a vCPU is being created",
            (Self::Finish, Errno::INVAL) => {
                "there is no launch to finish, or a vCPU's registers were taken over before: a finish that \
                 failed cannot be repeated"
            }
            (_, Errno::BADF) => "the PSP's device was closed",
            (_, Errno::IO) => "the VM is dead, or the PSP does not answer: see what the kernel logged",
            (_, Errno::NOMEM) => "the kernel is out of memory",
            _ => "see what the kernel logged",
        }
    }
}

fn explanation(step: Step, error: &CallError) -> String {
    match error.firmware {
        Some(code) => status::describe(code),
        None => step.meaning(Errno::from_raw_os_error(error.errno)).to_owned(),
    }
}

fn explained(step: Step) -> impl FnOnce(CallError) -> LaunchError {
    move |source| LaunchError::Explained { step: step.name(), explanation: explanation(step, &source), source }
}

fn not_populated(region: &PlannedRegion, error: PopulateError) -> LaunchError {
    let PopulateError { range, done, source } = error;
    let why = explanation(Step::Update, &source);
    let explanation = format!("{} at {range}, of which {done} were populated; {why}", region.label);
    LaunchError::Explained { step: Step::Update.name(), source, explanation }
}
