//! A guest's beginning: context, launch, first pages, seal.
//!
//! Specification: 56860, SNP_GCTX_CREATE, SNP_LAUNCH_START, SNP_LAUNCH_UPDATE, SNP_LAUNCH_FINISH.

use crate::hardware::Hardware;
use crate::memory::Key;
use crate::psp::cpuid::{self, Verdict};
use crate::psp::digest::{self, PageInfo, PageKind};
use crate::psp::guest::{Guest, GuestState};
use crate::psp::id_block::IdentityInput;
use crate::psp::policy::Policy;
use crate::psp::status::Status;
use crate::psp::{Psp, secrets};
use crate::rmp::{Entry, PageState, Permissions};
use crate::units::{PAGE_BYTES, PageSize, Pfn};

/// Parameters of SNP_LAUNCH_UPDATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchUpdate {
    /// The page: pre-guest, with its contents in plain.
    pub pfn: Pfn,
    /// Its size.
    pub size: PageSize,
    /// What to do with it.
    pub kind: PageKind,
    /// Whether it belongs to a migration agent's part of the image.
    pub imi: bool,
    /// What VMPL1, 2 and 3 may do with it.
    pub permissions: [Permissions; 3],
}

/// Parameters of SNP_LAUNCH_FINISH.
#[derive(Clone, Copy, Debug, Default)]
pub struct LaunchFinish<'a> {
    /// The ID block (ID_BLOCK_EN).
    pub identity: Option<IdentityInput<'a>>,
    /// Reports must not be signed with the VCEK (VCEK_DIS).
    pub vcek_disabled: bool,
    /// What the host has to say in reports.
    pub host_data: [u8; 32],
}

impl LaunchUpdate {
    /// A page of 4 KiB for VMPL0 alone, as KVM adds them.
    pub fn new(pfn: Pfn, kind: PageKind) -> LaunchUpdate {
        LaunchUpdate { pfn, size: PageSize::Size4K, kind, imi: false, permissions: Default::default() }
    }
}

impl Psp {
    /// SNP_GCTX_CREATE: a firmware page becomes a guest's context.
    pub fn gctx_create(&mut self, hw: &mut Hardware, context: Pfn) -> Result<(), Status> {
        self.require_init()?;
        if hw.rmp.entry(context).is_err() {
            return Err(Status::InvalidAddress);
        }
        if !hw.rmp.firmware_to_context(context) {
            return Err(Status::InvalidPageState);
        }
        let guest = Guest {
            state: GuestState::Init,
            asid: None,
            policy: Policy(0),
            digest: [0; 48],
            gosvw: [0; 16],
            key: Key::new(self.fresh.next("memory key")),
            vmpcks: [(); 4].map(|()| self.fresh.next("VMPCK")),
            messages: [0; 4],
            report_id: self.fresh.next("report ID"),
            host_data: [0; 32],
            identity: None,
            vcek_disabled: false,
            launch_tcb: self.current_tcb,
            root_key: self.fresh.next("VMRK"),
        };
        self.guests.insert(context, guest);
        Ok(())
    }

    /// SNP_LAUNCH_START.
    pub fn launch_start(&mut self, context: Pfn, policy: Policy, gosvw: [u8; 16]) -> Result<(), Status> {
        let tcb = self.current_tcb;
        let met = policy.check(&self.config);
        let guest = self.guest_in(context, &[GuestState::Init])?;
        met?;
        guest.policy = policy;
        guest.gosvw = gosvw;
        guest.launch_tcb = tcb;
        guest.state = GuestState::Launch;
        Ok(())
    }

    /// SNP_LAUNCH_UPDATE. On INVALID_PARAM a CPUID page has what it should have been, in plain.
    pub fn launch_update(&mut self, hw: &mut Hardware, context: Pfn, update: LaunchUpdate) -> Result<(), Status> {
        let fms = self.config.model.signature();
        let guest = self.guest_in(context, &[GuestState::Launch])?;
        let asid = guest.asid.ok_or(Status::Inactive)?;
        let entry = hw.rmp.entry(update.pfn).map_err(|_| Status::InvalidAddress)?;
        if entry.state() != PageState::PreGuest {
            return Err(Status::InvalidPageState);
        }
        if entry.size != update.size || !update.pfn.is_aligned(update.size) {
            return Err(Status::InvalidPageSize);
        }
        if entry.asid != asid {
            return Err(Status::InvalidPageOwner);
        }
        update.check_form(&entry)?;
        if update.kind == PageKind::Cpuid {
            check_cpuid(hw, update.pfn)?;
        }
        for (offset, pfn) in (0..).zip(update.pfn.range(update.size)) {
            match update.kind {
                PageKind::Zero => hw.memory.write(pfn, None, &[0; PAGE_BYTES]),
                PageKind::Secrets => {
                    let page = secrets::page(fms, &guest.gosvw, &guest.vmpcks, update.imi);
                    hw.memory.write(pfn, None, &page);
                }
                PageKind::Normal | PageKind::Vmsa | PageKind::Unmeasured | PageKind::Cpuid => {}
            }
            let (kind, gpa) = (update.kind, entry.gpa.plus_pages(offset));
            let info = PageInfo { kind, gpa, imi: update.imi, permissions: update.permissions };
            guest.digest = digest::extend(&guest.digest, info, &hw.memory.read(pfn, None));
            hw.memory.encrypt_in_place(pfn, &guest.key);
        }
        hw.rmp.launch(update.pfn, update.permissions, update.kind == PageKind::Vmsa);
        Ok(())
    }

    /// SNP_LAUNCH_FINISH. A guest that fails it is still being launched.
    pub fn launch_finish(&mut self, context: Pfn, finish: LaunchFinish<'_>) -> Result<(), Status> {
        let guest = self.guest_in(context, &[GuestState::Launch])?;
        if guest.asid.is_none() {
            return Err(Status::Inactive);
        }
        guest.identity = match finish.identity {
            Some(identity) => Some(identity.check(&guest.digest, guest.policy)?),
            None => None,
        };
        guest.host_data = finish.host_data;
        guest.vcek_disabled = finish.vcek_disabled;
        guest.state = GuestState::Running;
        Ok(())
    }
}

impl LaunchUpdate {
    /// Whether what is asked for makes sense for this page.
    fn check_form(&self, entry: &Entry) -> Result<(), Status> {
        let single = matches!(self.kind, PageKind::Vmsa | PageKind::Secrets | PageKind::Cpuid);
        if single && entry.size != PageSize::Size4K {
            return Err(Status::InvalidPageSize);
        }
        let known = self.permissions.iter().all(|permissions| Permissions::ALL.contains(*permissions));
        if known { Ok(()) } else { Err(Status::InvalidParam) }
    }
}

fn check_cpuid(hw: &mut Hardware, pfn: Pfn) -> Result<(), Status> {
    match cpuid::check(&hw.memory.read(pfn, None)) {
        Verdict::Good => Ok(()),
        Verdict::Malformed => Err(Status::InvalidParam),
        Verdict::Corrected(page) => {
            hw.memory.write(pfn, None, &page);
            Err(Status::InvalidParam)
        }
    }
}
