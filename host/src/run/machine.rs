//! What all threads of a run share.
//!
//! Owns the answer to each kind of exit, the counters, and how the guest's end is made known. The threads themselves
//! are declared in [`super::threads`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use gmem::ledger::{Owner, PageState};
use gmem::{ByteLen, GfnRange, Gpa, PAGE_SIZE, PageCount};
use gmem_kvm::convert::{ConvertError, Converted, Fate};
use gmem_kvm::port::{CertificateRequest, Direction, Hypercall, KernelVm, MsrRead, MsrWrite, PortAccess};
use gmem_kvm::vm::VmHandle;
use guest_fw::abi::{Doorbell, FirmwareFault};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::config::Guise;
use crate::devices::bus::{Event as BusEvent, Outcome as BusOutcome, PioBus};
use crate::events::{self, ConversionResult, Event, EventLog};
use crate::report::{ConversionCounts, DeviceReport, GuestEvidence, GuestOutcome};

use super::certificates::Locked;
use super::handed::HandedOver;
use super::snp_exits::{self, SnpService};

/// `KVM_HC_MAP_GPA_RANGE` and its attribute "encrypted" (Linux `include/uapi/linux/kvm_para.h`).
const HYPERCALL_MAP_GPA_RANGE: u64 = 12;
const MAP_GPA_RANGE_ENCRYPTED: u64 = 1 << 4;
/// Errors a hypercall answers, negated (Linux `include/uapi/linux/kvm_para.h`).
const KVM_EFAULT: u64 = 14;
const KVM_EINVAL: u64 = 22;
const KVM_ENOSYS: u64 = 1000;

/// `MSR_AMD64_SEV`: which kind of SEV is active (AMD APM volume 2, section 15.34.10).
pub(crate) const MSR_SEV_STATUS: u32 = 0xc001_0131;
const SEV_STATUS_SEV: u64 = 1;
/// `MSR_KVM_MIGRATION_CONTROL` (Linux `Documentation/virt/kvm/x86/msr.rst`): we never migrate, whatever it says.
const MSR_KVM_MIGRATION_CONTROL: u32 = 0x4b56_4d08;

/// How often a vCPU re-enters at one faulting address before that counts as a crash. Another vCPU's conversion can
/// make an access fail once or twice; a closed or poisoned page fails forever.
const FAULT_RETRIES: u32 = 1000;
/// Most pages that one access converts: as much as the largest page that a guest's request is worked off in.
const IMPLICIT_PAGES_MAX: u64 = 512;

/// Shared by all threads of a run.
#[derive(Debug)]
pub(crate) struct Machine<V: KernelVm> {
    pub vm: VmHandle<V>,
    pub bus: Arc<PioBus>,
    pub events: EventLog,
    pub guise: Guise,
    pub staging_bytes: ByteLen,
    /// Only for an SNP guest.
    snp: Option<SnpService>,
    to_shared: Tally,
    to_private: Tally,
    refused_one: AtomicBool,
    handed: HandedOver,
    outcome: Mutex<Option<GuestOutcome>>,
    warnings: Mutex<Vec<String>>,
    ended: AtomicBool,
    end_event: OwnedFd,
}

#[derive(Debug, Default)]
struct Tally {
    requests: AtomicU64,
    pages: AtomicU64,
    refused: AtomicU64,
}

impl Tally {
    fn counts(&self) -> ConversionCounts {
        ConversionCounts {
            requests: self.requests.load(Ordering::Relaxed),
            pages: self.pages.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }
}

/// Why a guest's request for a conversion is not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// It cannot be.
    Invalid,
    /// It should have been, and something failed.
    Failed,
}

/// What a vCPU's thread does before it enters the guest again.
#[derive(Debug)]
pub(crate) enum Next<'m> {
    /// Nothing.
    Enter,
    /// Maps these pages, which have just become private and will be used.
    MapAhead(GfnRange),
    /// Has the answer take effect while this is held.
    CompleteWith(Locked<'m>),
    /// Ends the run: the guest cannot go on.
    Crash(String),
}

/// Repeated faults of one vCPU at one place.
#[derive(Debug, Default)]
pub(crate) struct FaultWatch {
    last: Option<(Gpa, Owner)>,
    times: u32,
}

impl<V: KernelVm> Machine<V> {
    pub(crate) fn new(
        vm: VmHandle<V>,
        bus: Arc<PioBus>,
        events: EventLog,
        guise: Guise,
        staging_bytes: ByteLen,
        snp: Option<SnpService>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            vm,
            bus,
            events,
            guise,
            staging_bytes,
            snp,
            to_shared: Tally::default(),
            refused_one: AtomicBool::new(false),
            handed: HandedOver::default(),
            to_private: Tally::default(),
            outcome: Mutex::new(None),
            warnings: Mutex::default(),
            ended: AtomicBool::new(false),
            end_event: eventfd(0, EventfdFlags::CLOEXEC)?,
        })
    }

    /// Ends the run; the first outcome stays.
    pub(crate) fn end(&self, outcome: GuestOutcome) {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(outcome);
        self.ended.store(true, Ordering::SeqCst);
        self.vm.begin_closing();
        // The counter cannot overflow in our lifetime, and whoever waits looks at `ended` as well.
        let _ = rustix::io::write(&self.end_event, &1u64.to_ne_bytes());
    }

    /// Whether the run is over.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::SeqCst)
    }

    /// Readable once the run is over.
    pub(crate) fn end_event(&self) -> BorrowedFd<'_> {
        self.end_event.as_fd()
    }

    /// How it ended.
    pub(crate) fn outcome(&self) -> Option<GuestOutcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Conversions to shared and to private.
    pub(crate) fn conversions(&self) -> (ConversionCounts, ConversionCounts) {
        (self.to_shared.counts(), self.to_private.counts())
    }

    /// A port access, item by item.
    pub(crate) fn port(&self, vcpu: u32, access: PortAccess<'_>) {
        for item in access.data.chunks_mut(access.width.max(1)) {
            match access.direction {
                Direction::In => self.bus.read(access.port, item),
                Direction::Out => {
                    if let BusOutcome::Event(event) = self.bus.write(access.port, item) {
                        self.bus_event(vcpu, event);
                    }
                }
            }
        }
    }

    fn bus_event(&self, vcpu: u32, event: BusEvent) {
        match event {
            BusEvent::PowerOff => self.end(GuestOutcome::PoweredOff),
            BusEvent::Reset(_) => self.end(GuestOutcome::Reset),
            BusEvent::Doorbell { command: Doorbell::StagingDone, .. } => self.drop_staging(vcpu),
            BusEvent::Doorbell { command: Doorbell::Mark, argument } => {
                self.events.emit(Event::Mark { vcpu, value: argument });
            }
            BusEvent::Doorbell { command: Doorbell::SelfTestDone, argument } => {
                self.end(GuestOutcome::SelfTest { failed_checks: argument });
            }
            BusEvent::Doorbell { command: Doorbell::Fault, argument } => {
                let fault = match FirmwareFault::from_raw(argument) {
                    Some(fault) => format!("{fault:?}"),
                    None => format!("unknown fault {argument}"),
                };
                self.end(GuestOutcome::FirmwareFault { fault });
            }
            BusEvent::Doorbell { command: Doorbell::Evidence, argument } => self.take_evidence(vcpu, argument),
            BusEvent::UnknownDoorbell { value } => {
                self.refuse(vcpu, "doorbell", format!("unknown command {value:#x}"));
            }
        }
    }

    fn take_evidence(&self, vcpu: u32, page: u32) {
        match self.handed.take(self.vm.shared(), page) {
            Ok(len) => self.events.emit(Event::Evidence { vcpu, bytes: len }),
            Err(why) => self.refuse(vcpu, "evidence", why.to_string()),
        }
    }

    /// What the guest handed over.
    pub(crate) fn handed(&self) -> Vec<GuestEvidence> {
        self.handed.all()
    }

    fn drop_staging(&self, vcpu: u32) {
        match self.vm.drop_staging() {
            Ok(true) => self.events.emit(Event::StagingDropped { bytes: self.staging_bytes.0 }),
            Ok(false) => self.refuse(vcpu, "doorbell", "staging is gone already".to_owned()),
            Err(error) => self.end(GuestOutcome::Crashed { reason: format!("staging cannot be dropped: {error}") }),
        }
    }

    fn refuse(&self, vcpu: u32, request: &'static str, reason: String) {
        // A guest can ask as often as it likes; it shall not fill the log of who runs it.
        if self.refused_one.swap(true, Ordering::Relaxed) {
            tracing::debug!(vcpu, request, reason, "refused");
        } else {
            tracing::warn!(vcpu, request, reason, "refused; further refusals are logged at level debug");
        }
        self.events.emit(Event::Refused { vcpu, request: request.into(), reason });
    }

    /// A hypercall: the guest asks for a conversion.
    pub(crate) fn hypercall(&self, vcpu: u32, call: Hypercall<'_>) -> Next<'_> {
        let [gpa, pages, attributes, ..] = call.arguments;
        if call.number != HYPERCALL_MAP_GPA_RANGE {
            self.refuse(vcpu, "hypercall", format!("unknown number {}", call.number));
            *call.answer = KVM_ENOSYS.wrapping_neg();
            return Next::Enter;
        }
        let to = if attributes & MAP_GPA_RANGE_ENCRYPTED == 0 { Owner::Shared } else { Owner::Private };
        let converted = self.convert(vcpu, Gpa(gpa), PageCount::new(pages), to);
        *call.answer = match (&converted, &self.snp) {
            (Ok(_), _) => 0,
            // A change of page state: the kernel takes these two, positive, and nothing else.
            (Err(Refusal::Invalid), Some(_)) => snp_exits::raw(Errno::INVAL),
            (Err(Refusal::Failed), Some(_)) => snp_exits::raw(Errno::AGAIN),
            (Err(Refusal::Invalid), None) => KVM_EINVAL.wrapping_neg(),
            (Err(Refusal::Failed), None) => KVM_EFAULT.wrapping_neg(),
        };
        converted.map_or(Next::Enter, |range| self.after_conversion(range, to))
    }

    /// The guest will accept pages that are now private, one by one: they had better be there.
    ///
    /// A single page too, as the MSR protocol asks for them. The kernel allocates and maps it either way; what is saved
    /// is a nested fault, an exit that saves and loads all of a vCPU's state, and what is paid for it is one system
    /// call by a thread that is outside of the guest already. That should be even at worst, so one page has no rule
    /// of their own. (Under `sw` in the lab: 5,891 instructions for a page that faults, 3,449 for one of many mapped
    /// ahead, 229 for a bare call. Nothing was measured on SNP, where an exit should cost more, and the call the same.)
    fn after_conversion(&self, range: GfnRange, to: Owner) -> Next<'_> {
        match (&self.snp, to) {
            (Some(_), Owner::Private) => Next::MapAhead(range),
            _ => Next::Enter,
        }
    }

    /// Carries out a guest's request.
    fn convert(&self, vcpu: u32, gpa: Gpa, pages: PageCount, to: Owner) -> Result<GfnRange, Refusal> {
        let tally = if to == Owner::Shared { &self.to_shared } else { &self.to_private };
        let range = GfnRange::from_request(gpa, pages).map_err(|error| {
            tally.refused.fetch_add(1, Ordering::Relaxed);
            self.refuse(vcpu, "conversion", error.to_string());
            Refusal::Invalid
        })?;
        let started = self.events.clock();
        let result = self.vm.convert(range, to);
        if let Ok(converted) = &result {
            tally.requests.fetch_add(1, Ordering::Relaxed);
            tally.pages.fetch_add(converted.changed.get(), Ordering::Relaxed);
        } else {
            tally.refused.fetch_add(1, Ordering::Relaxed);
        }
        if let Err(error @ (ConvertError::Refused(_) | ConvertError::NoPrivateMemory)) = &result {
            self.refuse(vcpu, "conversion", error.to_string());
            return Err(Refusal::Invalid);
        }
        self.events.emit_with(|| Event::Conversion {
            vcpu,
            to: match to {
                Owner::Shared => events::Owner::Shared,
                Owner::Private => events::Owner::Private,
            },
            gpa: gpa.0,
            pages: pages.get(),
            result: match &result {
                Ok(Converted { owed, .. }) if owed.get() == 0 => ConversionResult::Done,
                Ok(Converted { owed, .. }) => {
                    let reason = format!("{owed} still have the copy of whoever lost them");
                    ConversionResult::Debt { reason }
                }
                Err(error @ ConvertError::Kernel { fate: Fate::InDoubt, .. }) => {
                    ConversionResult::InDoubt { reason: error.to_string() }
                }
                Err(error) => ConversionResult::Aborted { reason: error.to_string() },
            },
            duration_us: started.map_or(0, |started| u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX)),
        });
        result.map(|_| range).map_err(|error| {
            tracing::warn!(vcpu, %range, %error, "conversion failed");
            Refusal::Failed
        })
    }

    /// An SNP guest asks for certificates.
    pub(crate) fn certificates(&self, vcpu: u32, request: CertificateRequest<'_>) -> Next<'_> {
        let Some(snp) = &self.snp else {
            *request.answer = snp_exits::raw(Errno::IO);
            return Next::Enter;
        };
        let answer = snp.certificates(self.vm.shared(), request.gpa.0, *request.pages);
        *request.answer = answer.errno;
        *request.pages = answer.pages.unwrap_or(*request.pages);
        if let Some(why) = answer.why {
            self.refuse(vcpu, "certificates", why);
        }
        answer.held.map_or(Next::Enter, Next::CompleteWith)
    }

    /// A guest's last words.
    pub(crate) fn system_event(&self, kind: u32, data: &[u64]) -> Next<'_> {
        match (&self.snp, kind, data) {
            (Some(_), snp_exits::SYSTEM_EVENT_SEV_TERM, [request, ..]) => {
                self.end(snp_exits::termination(*request));
                Next::Enter
            }
            _ => Next::Crash(format!("system event {kind} with {data:x?}")),
        }
    }

    /// The processor would not enter the guest.
    pub(crate) fn entry_failed(&self, reason: u64, cpu: u32) -> Next<'_> {
        if self.snp.is_some() && reason == snp_exits::NO_VMSA {
            return Next::Crash(snp_exits::NO_VMSA_EXPLAINED.to_owned());
        }
        Next::Crash(format!("CPU {cpu} refused to enter the guest, hardware reason {reason:#x}"))
    }

    /// So many pages were mapped ahead, and so many not.
    pub(crate) fn mapped_ahead(&self, done: PageCount, not_done: PageCount) {
        if let Some(snp) = &self.snp {
            snp.mapped_ahead(done, not_done);
        }
    }

    /// What was done for an SNP guest.
    pub(crate) fn snp_counts(&self) -> Option<DeviceReport> {
        self.snp.as_ref().map(SnpService::counts)
    }

    /// An MSR that KVM left to us.
    pub(crate) fn read_msr(&self, vcpu: u32, msr: MsrRead<'_>) {
        if msr.index == MSR_SEV_STATUS && self.guise == Guise::Sev {
            *msr.value = SEV_STATUS_SEV;
        } else {
            tracing::debug!(vcpu, index = msr.index, "read of an unknown MSR");
            *msr.fault = 1;
        }
    }

    /// An MSR that KVM left to us.
    pub(crate) fn write_msr(&self, vcpu: u32, msr: MsrWrite<'_>) {
        if msr.index != MSR_KVM_MIGRATION_CONTROL || self.guise != Guise::Sev {
            tracing::debug!(vcpu, index = msr.index, value = msr.value, "write of an unknown MSR");
            *msr.fault = 1;
        }
    }

    /// An access that attributes or backing refused. An SNP guest says with each access what it takes the page for; if
    /// that is not what the page is, it asks for a conversion. Otherwise, and always under `sw`, either another vCPU is
    /// converting the page, and trying again helps, or the page cannot be had.
    pub(crate) fn memory_fault(
        &self,
        vcpu: u32,
        watch: &mut FaultWatch,
        wanted: Owner,
        gpa: Gpa,
        size: u64,
    ) -> Next<'_> {
        let owner = self.vm.page_state(gpa).and_then(|state| match state {
            PageState::Shared => Some(Owner::Shared),
            PageState::PrivateUntouched | PageState::PrivatePopulated => Some(Owner::Private),
            _ => None,
        });
        if let (Some(snp), Some(owner)) = (&self.snp, owner)
            && owner != wanted
        {
            let pages = PageCount::new(size.div_ceil(PAGE_SIZE).clamp(1, IMPLICIT_PAGES_MAX));
            tracing::debug!(vcpu, %gpa, %pages, to = %wanted, "converted by an access");
            if let Ok(range) = self.convert(vcpu, gpa, pages, wanted) {
                snp.converted_implicitly();
                return self.after_conversion(range, wanted);
            }
        }
        if watch.last == Some((gpa, wanted)) {
            watch.times += 1;
        } else {
            *watch = FaultWatch { last: Some((gpa, wanted)), times: 1 };
        }
        if watch.times < FAULT_RETRIES {
            if watch.times > 2 {
                std::thread::yield_now();
            }
            return Next::Enter;
        }
        let state = self.vm.page_state(gpa).map_or_else(|| "not RAM".to_owned(), |state| state.to_string());
        let reason = format!("{wanted} access to {gpa} ({size} bytes), which is {state}");
        self.end(GuestOutcome::Crashed { reason });
        Next::Enter
    }

    /// Something people should know at the end.
    pub(crate) fn warn(&self, message: String) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).push(message);
    }

    /// What people should know.
    pub(crate) fn warnings(&self) -> Vec<String> {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
