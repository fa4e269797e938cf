//! The commands of a launch.
//!
//! Specification: Linux 7.2, `arch/x86/kvm/svm/sev.c`: `__sev_guest_init`, `snp_launch_start`, `snp_launch_update`,
//! `sev_gmem_post_populate`, `snp_launch_update_vmsa`, `snp_launch_finish`; ASIDs: `sev_asid_new`.

use gmem::PageCount;
use gmem_kvm::port::snp::{AuthorKey, SnpCommand, SnpFinish, SnpPageType, SnpUpdate, Vcek};
use tenure_silicon::asid::{AsidError, GuestKind};
use tenure_silicon::platform::Platform;
use tenure_silicon::psp::id_block::IdentityInput;
use tenure_silicon::psp::{LaunchFinish, LaunchUpdate, PageKind, Policy, Status};
use tenure_silicon::rmp::Assignment;
use tenure_silicon::units::{Asid, Gpa, PageSize, Pfn};

use crate::host::{Machine, Snp, State, Vmsa};
use crate::memory::Place;
use crate::rows::Row;
use crate::vmsa;

/// VMSA features this kernel has besides SNP itself: debug registers are swapped.
const FEATURES: u64 = 1 << 5;
/// Where Linux has a VMSA measured.
const VMSA_GPA: Gpa = Gpa(0xffff_ffff_f000);
/// Policy bits this kernel accepts, reserved bit 17 among them.
const POLICY: u64 = 0xffff | 1 << 16 | 1 << 17 | 1 << 19 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 23 | 1 << 24 | 1 << 25;

/// A refusal, and what the firmware said.
pub(crate) type Refusal = (Row, Option<Status>);

fn refuse<T>(row: Row) -> Result<T, Refusal> {
    Err((row, None))
}

impl State {
    pub(crate) fn snp(&mut self, platform: &Platform, vm: u32, command: &SnpCommand<'_>) -> Result<(), Refusal> {
        let Some(machine) = self.vms.get_mut(&vm) else { return refuse(Row::DeadVm) };
        if machine.dead {
            return refuse(Row::DeadVm);
        }
        if machine.vm_type != gmem_kvm::port::VmType::Snp {
            return refuse(Row::NotSnp);
        }
        match command {
            SnpCommand::Init { vmsa_features } => init(platform, machine, *vmsa_features),
            SnpCommand::EnableCertificateRequests => {
                let vcpus = !machine.vcpus.is_empty();
                match machine.snp.as_mut() {
                    None => refuse(Row::NotSnp),
                    Some(_) if vcpus => refuse(Row::CertificatesAfterVcpu),
                    Some(snp) => {
                        snp.certificates = true;
                        Ok(())
                    }
                }
            }
            SnpCommand::LaunchStart { policy } => self.start(platform, vm, *policy),
            SnpCommand::LaunchFinish(finish) => self.finish(platform, vm, finish),
        }
    }

    fn start(&mut self, platform: &Platform, vm: u32, policy: u64) -> Result<(), Refusal> {
        let Some(snp) = self.vms.get(&vm).and_then(|machine| machine.snp.as_ref()) else {
            return refuse(Row::StartBeforeInit);
        };
        if snp.context.is_some() {
            return refuse(Row::StartAgain);
        }
        if policy & !POLICY != 0 {
            return refuse(Row::StartPolicy);
        }
        if policy & 1 << 17 == 0 {
            return refuse(Row::StartMustBeOne);
        }
        let asid = snp.asid;
        let context = self.take_page();
        if platform.rmpupdate(context, firmware_page()).is_err() {
            self.free_page(platform, context);
            return refuse(Row::StartContext);
        }
        if platform.snp_gctx_create(context).is_err() {
            self.reclaim_page(platform, context);
            return refuse(Row::StartContext);
        }
        let started = platform
            .snp_launch_start(context, Policy(policy), [0; 16])
            .and_then(|()| platform.snp_activate(context, asid));
        if let Err(status) = started {
            if platform.snp_decommission(context).is_ok() {
                self.reclaim_page(platform, context);
            }
            return Err((Row::StartFirmware, Some(status)));
        }
        if let Some(snp) = self.vms.get_mut(&vm).and_then(|machine| machine.snp.as_mut()) {
            (snp.context, snp.policy) = (Some(context), policy);
        }
        Ok(())
    }

    pub(crate) fn update(&mut self, platform: &Platform, vm: u32, update: &mut SnpUpdate<'_>) -> Result<(), Refusal> {
        let Some(machine) = self.vms.get(&vm).filter(|machine| !machine.dead) else { return refuse(Row::DeadVm) };
        let Some(snp) = &machine.snp else { return refuse(Row::UpdateBeforeStart) };
        let (Some(context), asid) = (snp.context, snp.asid) else { return refuse(Row::UpdateBeforeStart) };
        let first = update.range.start().number();
        let slot = machine.slot_of(first).filter(|slot| !matches!(slot.binding, crate::host::Binding::None));
        let Some(end) = slot.map(|slot| slot.range.end_number()) else { return refuse(Row::UpdateNoGmem) };
        if std::mem::take(&mut self.interrupt_update) {
            return refuse(Row::UpdateInterrupted);
        }
        // To the end of the slot, and the caller asks again.
        for (page, gfn) in (first..end.min(update.range.end_number())).enumerate() {
            let refused = self.update_page(platform, (vm, context, asid), gfn, update, page).err();
            if let Some(refusal) = refused {
                // What was done counts; only a call that did nothing fails.
                return if update.done.get() > 0 { Ok(()) } else { Err(refusal) };
            }
            update.done = PageCount::new(update.done.get() + 1);
        }
        Ok(())
    }

    fn update_page(
        &mut self,
        platform: &Platform,
        (vm, context, asid): (u32, Pfn, Asid),
        gfn: u64,
        update: &mut SnpUpdate<'_>,
        page: usize,
    ) -> Result<(), Refusal> {
        let machine = self.vms.get(&vm).ok_or((Row::DeadVm, None))?;
        let Ok(Place::Private(file, index)) = machine.place(gfn, true) else { return refuse(Row::UpdateClosed) };
        if !machine.private.contains(gfn) {
            return refuse(Row::UpdateNotPrivate);
        }
        let known = self.files.get(&file).and_then(|file| file.pages.get(&index)).copied();
        let pfn = known.unwrap_or_else(|| self.take_page());
        if let Some(file) = self.files.get_mut(&file) {
            file.pages.insert(index, pfn);
        }
        if platform.rmp_entry(pfn).is_some_and(|entry| entry.assigned) {
            return refuse(Row::UpdateAssigned);
        }
        let zeros = [0; 4096];
        let source = if update.page_type == SnpPageType::Zero { None } else { update.source.get(page) };
        let _ = platform.host_write(pfn, source.map_or(&zeros, |source| &source.0));
        let pre_guest =
            Assignment { assigned: true, asid, gpa: Gpa(gfn << 12), size: PageSize::Size4K, immutable: true };
        platform.rmpupdate(pfn, pre_guest).map_err(|_| (Row::UpdateAssigned, None))?;
        let kind = match update.page_type {
            SnpPageType::Normal => PageKind::Normal,
            SnpPageType::Zero => PageKind::Zero,
            SnpPageType::Unmeasured => PageKind::Unmeasured,
            SnpPageType::Secrets => PageKind::Secrets,
            SnpPageType::Cpuid => PageKind::Cpuid,
        };
        let Err(status) = platform.snp_launch_update(context, LaunchUpdate::new(pfn, kind)) else { return Ok(()) };
        // The page goes back to the host, and the caller is told what its CPUID table should have been.
        let back = platform.snp_page_reclaim(pfn, PageSize::Size4K).is_ok();
        if back && platform.rmpupdate(pfn, Assignment::default()).is_ok() {
            if let (PageKind::Cpuid, Status::InvalidParam, Some(source)) = (kind, status, update.source.get_mut(page)) {
                source.0 = platform.host_read(pfn);
            }
        } else {
            platform.leak_page(pfn);
            if let Some(machine) = self.vms.get_mut(&vm) {
                machine.dead = true;
            }
        }
        let sealed = status == Status::InvalidGuestState;
        Err((if sealed { Row::UpdateAfterFinish } else { Row::UpdateFirmware }, Some(status)))
    }

    fn finish(&mut self, platform: &Platform, vm: u32, finish: &SnpFinish<'_>) -> Result<(), Refusal> {
        let Some(snp) = self.vms.get(&vm).and_then(|machine| machine.snp.as_ref()) else {
            return refuse(Row::FinishBeforeStart);
        };
        let (Some(context), asid, features) = (snp.context, snp.asid, snp.features) else {
            return refuse(Row::FinishBeforeStart);
        };
        let ids: Vec<u32> =
            self.vms.get(&vm).map(|machine| machine.vcpus.keys().copied().collect()).unwrap_or_default();
        for id in ids {
            let vcpu = self.vms.get(&vm).and_then(|machine| machine.vcpus.get(&id));
            let Some(state) = vcpu.filter(|vcpu| vcpu.vmsa.is_none()).map(|vcpu| vcpu.state) else {
                return refuse(Row::FinishAgain);
            };
            let pfn = self.take_page();
            if let Some(vcpu) = self.vms.get_mut(&vm).and_then(|machine| machine.vcpus.get_mut(&id)) {
                vcpu.vmsa = Some(Vmsa::Kernel(pfn));
            }
            let _ = platform.host_write(pfn, &vmsa::page(&state, features));
            let pre_guest = Assignment { assigned: true, asid, gpa: VMSA_GPA, size: PageSize::Size4K, immutable: true };
            let failed = |status| (Row::FinishFirmware, Some(status));
            platform.rmpupdate(pfn, pre_guest).map_err(|_| (Row::FinishFirmware, None))?;
            let added = platform.snp_launch_update(context, LaunchUpdate::new(pfn, PageKind::Vmsa));
            if let Err(status) = added {
                let _ = platform.snp_page_reclaim(pfn, PageSize::Size4K);
                return Err(failed(status));
            }
        }
        let identity = finish.signed.map(|signed| IdentityInput {
            block: signed.block,
            auth: signed.auth,
            author_key: signed.author == AuthorKey::Present,
        });
        let finish =
            LaunchFinish { identity, vcek_disabled: finish.vcek == Vcek::Disabled, host_data: finish.host_data };
        platform.snp_launch_finish(context, finish).map_err(|status| (Row::FinishFirmware, Some(status)))?;
        if let Some(snp) = self.vms.get_mut(&vm).and_then(|machine| machine.snp.as_mut()) {
            snp.finished = true;
        }
        Ok(())
    }
}

/// `KVM_SEV_INIT2`.
fn init(platform: &Platform, machine: &mut Machine, features: u64) -> Result<(), Refusal> {
    if machine.snp.is_some() {
        return refuse(Row::InitAgain);
    }
    if !machine.vcpus.is_empty() {
        return refuse(Row::InitAfterVcpu);
    }
    if features & !FEATURES != 0 {
        return refuse(Row::InitFeatures);
    }
    if platform.inspect(|hw, _| hw.asids.range(GuestKind::Snp).is_empty()) {
        return refuse(Row::InitRangeEmpty);
    }
    let asid = match platform.allocate_asid(GuestKind::Snp) {
        Ok(asid) => asid,
        Err(AsidError::Exhausted { .. }) => {
            recycle(platform)?;
            platform.allocate_asid(GuestKind::Snp).map_err(|_| (Row::InitNoAsid, None))?
        }
        Err(_) => return refuse(Row::InitNoAsid),
    };
    // The driver makes sure that SNP is initialised, by asking for the platform's status.
    if let Err(status) = platform.snp_platform_status() {
        let _ = platform.release_asid(asid);
        return Err((Row::InitFirmware, Some(status)));
    }
    let (context, policy, certificates, finished, mailbox) = (None, 0, false, false, None);
    machine.snp = Some(Snp { asid, features, context, policy, certificates, finished, mailbox });
    Ok(())
}

/// All reclaimable ASIDs at once, after what must be flushed was.
fn recycle(platform: &Platform) -> Result<(), Refusal> {
    platform.wbinvd_all();
    platform.snp_df_flush().map_err(|_| (Row::InitNoAsid, None))?;
    platform.recycle_asids().map(drop).map_err(|_| (Row::InitNoAsid, None))
}

/// A page that is the firmware's.
pub(crate) fn firmware_page() -> Assignment {
    Assignment { assigned: true, immutable: true, ..Assignment::default() }
}
