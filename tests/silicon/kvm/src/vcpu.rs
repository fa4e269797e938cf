//! A vCPU: runs its script until something needs the VMM.
//!
//! Specification: Linux 7.2, `arch/x86/kvm/svm/sev.c`: `snp_begin_psc_msr`, `snp_begin_psc`, `sev_snp_ap_creation`,
//! `snp_handle_guest_req`, `snp_handle_ext_guest_req`, `sev_handle_vmgexit_msr_protocol`; `pre_sev_run`.

use gmem::ledger::Owner;
use gmem::{Gfn, GfnRange, Gpa, PageCount};
use gmem_kvm::backing::Region;
use gmem_kvm::port::{CallError, CertificateRequest, Direction, Exit, Hypercall, PortAccess};
use rustix::io::Errno;
use rustix::thread::Timespec;
use tenure_silicon::message::GuestChannel;
use tenure_silicon::psp::secrets::vmpcks;
use tenure_silicon::rmp::{Access, Adjustment, Assignment, Mapping, Permissions, Validity};
use tenure_silicon::units::{Asid, Gpa as HardwareGpa, Page, PageSize, Pfn, Vmpl};

use crate::host::{Complaint, State, Vmsa};
use crate::launch::firmware_page;
use crate::memory::{Nowhere, Place};
use crate::port::SiliconVcpu;
use crate::rows::Row;
use crate::script::{Reported, Script, Step, Way};

/// `KVM_HC_MAP_GPA_RANGE`, and its attribute "encrypted".
const MAP_GPA_RANGE: u64 = 12;
const ENCRYPTED: u64 = 1 << 4;
/// `KVM_SYSTEM_EVENT_SEV_TERM`.
const SEV_TERM: u32 = 6;
/// MSG_REPORT_REQ.
const REPORT_REQUEST: u8 = 5;

/// What a vCPU has in hand.
#[derive(Default)]
pub(crate) struct Progress {
    script: Script,
    pending: Option<Pending>,
    answer: u64,
    pages: u64,
    data: [u8; 4],
    channel: Option<GuestChannel>,
    /// The last report it got.
    report: Vec<u8>,
}

/// An exit that waits for its answer.
enum Pending {
    PageState { range: GfnRange, to: Owner, way: Way, works: bool },
    Certificates { secrets: Gpa, data: [u8; 64], room: GfnRange },
}

/// What ends a step early.
enum Stop {
    /// The VMM must do something about an access.
    Fault { wanted: Owner, gfn: u64 },
    /// The guest cannot go on with it.
    Complain(String),
}

impl Progress {
    pub(crate) fn new(script: Script) -> Self {
        Self { script, ..Self::default() }
    }
}

/// One page, as nested page tables of this kernel have it.
fn mapping(gfn: u64, pfn: Pfn) -> Mapping {
    Mapping { gpa: HardwareGpa(gfn << 12), pfn, size: PageSize::Size4K }
}

fn access(asid: Asid, needs: Permissions) -> Access {
    Access { asid, vmpl: Vmpl::Vmpl0, private: true, needs }
}

fn number_of(page: &Page) -> u64 {
    page.first_chunk().map_or(0, |number| u64::from_le_bytes(*number))
}

impl SiliconVcpu {
    fn refuse<T>(&self, row: Row) -> Result<T, CallError> {
        let errno = self.kernel.lock().meet(row);
        Err(CallError::new("KVM_RUN", row.text(), errno.raw_os_error()))
    }

    fn complain(&self, what: String) {
        self.kernel.lock().complaints.push(Complaint::Guest { vcpu: self.id, what });
    }

    /// Whether it can be entered, and its guest's ASID.
    fn enter(&self) -> Result<Option<Asid>, Row> {
        let state = self.kernel.lock();
        let Some(machine) = state.vms.get(&self.vm).filter(|machine| !machine.dead) else { return Err(Row::DeadVm) };
        let Some(vcpu) = machine.vcpus.get(&self.id) else { return Err(Row::DeadVm) };
        if vcpu.unprotected {
            return Err(Row::VcpuBeforeInit);
        }
        let Some(snp) = machine.snp.as_ref().filter(|snp| snp.finished) else { return Ok(None) };
        Ok(matches!(vcpu.vmsa, Some(Vmsa::Kernel(_) | Vmsa::Guest(_))).then_some(snp.asid))
    }

    /// Whether it waits for another vCPU to start it.
    fn waits(&self) -> bool {
        let state = self.kernel.lock();
        let vcpu = state.vms.get(&self.vm).and_then(|machine| machine.vcpus.get(&self.id));
        self.id != 0 && matches!(vcpu.and_then(|vcpu| vcpu.vmsa), Some(Vmsa::Kernel(_)))
    }

    /// The answer to the last exit takes effect.
    pub(crate) fn complete(&mut self) -> Result<(), CallError> {
        match self.progress.pending.take() {
            None => Ok(()),
            Some(Pending::PageState { range, to, way, works }) => {
                let answer = self.progress.answer;
                if answer != 0 && !is_one_of(answer, &[Errno::INVAL, Errno::AGAIN]) {
                    return self.refuse(Row::HypercallAnswer);
                }
                if (answer == 0) != works {
                    self.complain(format!("change of {range} to {to} was answered with {answer}"));
                }
                let one = PageCount::new(1);
                if let (0, Way::Msr, (_, Some(rest))) = (answer, way, range.split_at(one)) {
                    self.progress.script.push_front(Step::PageState { range: rest, to, way, works });
                }
                Ok(())
            }
            Some(Pending::Certificates { secrets, data, room }) => {
                match self.progress.answer {
                    0 => self.report(secrets, data, Some(room)),
                    answer if is_one_of(answer, &[Errno::NOSPC, Errno::AGAIN, Errno::IO]) => {
                        let pages = self.progress.pages;
                        self.complain(format!("certificates: errno {answer}, {pages} pages are needed"));
                    }
                    _ => return self.refuse(Row::CertificatesAnswer),
                }
                Ok(())
            }
        }
    }

    /// Goes on until something needs the VMM. A vCPU whose script is at its end waits for a signal.
    pub(crate) fn advance(&mut self) -> Result<Exit<'_>, CallError> {
        self.kernel.lock().begin_call(self.vm);
        self.complete()?;
        let asid = match self.enter() {
            Ok(Some(asid)) => asid,
            Ok(None) => return Ok(Exit::FailEntry { reason: u64::MAX, cpu: 0 }),
            Err(row) => return self.refuse(row),
        };
        while let Some(step) = if self.waits() { None } else { self.progress.script.pop_front() } {
            let outcome = match &step {
                Step::Validate(range) => self.pvalidate(asid, *range, Validity::Validate),
                Step::Rescind(range) => self.pvalidate(asid, *range, Validity::Rescind),
                Step::Write(gpa, value) => self.write(asid, *gpa, *value),
                Step::Expect(gpa, value) => self.expect(asid, *gpa, *value),
                Step::ExpectOther(gpa, value) => match self.expect(asid, *gpa, *value) {
                    Ok(()) => Err(Stop::Complain(format!("{gpa} still holds {value:#x}"))),
                    Err(Stop::Complain(_)) => Ok(()),
                    Err(fault) => Err(fault),
                },
                Step::WriteShared(gpa, value) => {
                    self.edit_shared(*gpa, |page| page[..8].copy_from_slice(&value.to_le_bytes()))
                }
                Step::ExpectShared(gpa, value) => {
                    self.shared(*gpa).and_then(|page| check(*gpa, number_of(&page), *value))
                }
                Step::WriteReport { to, before } => self.edit_shared(*to, |page| {
                    let report = self.progress.report.iter();
                    page.iter_mut().zip(before.iter().chain(report)).for_each(|(byte, with)| *byte = *with);
                }),
                Step::WriteBytes(to, bytes) => self.edit_shared(*to, |page| {
                    page.iter_mut().zip(bytes).for_each(|(byte, with)| *byte = *with);
                }),
                Step::CreateAp { vcpu, vmsa } => self.create_ap(asid, *vcpu, *vmsa),
                Step::DestroyAp(vcpu) => {
                    self.set_vmsa(*vcpu, Vmsa::None);
                    Ok(())
                }
                Step::PageState { range, to, way, works } => return Ok(self.page_state(*range, *to, *way, *works)),
                Step::Report { secrets, data, certificates } => match (*certificates, self.serves_certificates()) {
                    (Some(room), true) => return Ok(self.ask_for_certificates(*secrets, *data, room)),
                    _ => {
                        self.report(*secrets, *data, None);
                        Ok(())
                    }
                },
                Step::Out { port, value } => {
                    self.progress.data = value.to_le_bytes();
                    let (port, direction, width) = (*port, Direction::Out, 4);
                    return Ok(Exit::Port(PortAccess { port, direction, width, data: &mut self.progress.data }));
                }
                Step::OutByte { port, value } => {
                    self.progress.data[0] = *value;
                    let (port, direction, width) = (*port, Direction::Out, 1);
                    let data = &mut self.progress.data[..1];
                    return Ok(Exit::Port(PortAccess { port, direction, width, data }));
                }
                Step::Terminate(value) => return Ok(Exit::SystemEvent { kind: SEV_TERM, data: vec![*value] }),
                Step::TripleFault => return Ok(Exit::Shutdown),
            };
            match outcome {
                Ok(()) => {}
                Err(Stop::Complain(what)) => self.complain(what),
                Err(Stop::Fault { wanted, gfn }) => {
                    self.progress.script.push_front(step);
                    return Ok(Exit::MemoryFault { wanted, gpa: Gpa(gfn << 12), size: 4096 });
                }
            }
        }
        // As a halted processor does, until somebody interrupts KVM_RUN; or a while, so that nobody waits for ever.
        let _ = rustix::thread::nanosleep(&Timespec { tv_sec: 0, tv_nsec: 20_000_000 });
        Ok(Exit::Interrupted)
    }

    /// The page behind a private frame, if the attribute says that it is one.
    fn private_page(&self, state: &mut State, gfn: u64) -> Result<Pfn, Stop> {
        let fault = Stop::Fault { wanted: Owner::Private, gfn };
        match state.vms.get(&self.vm) {
            Some(machine) if machine.private.contains(gfn) => {}
            _ => return Err(fault),
        }
        state.private_page(&self.kernel.platform, self.vm, gfn).map_err(|_| fault)
    }

    fn pvalidate(&self, asid: Asid, range: GfnRange, validity: Validity) -> Result<(), Stop> {
        for gfn in range.frames().map(Gfn::number) {
            let pfn = self.private_page(&mut self.kernel.lock(), gfn)?;
            let done = self.kernel.platform.pvalidate(asid, mapping(gfn, pfn), validity);
            done.map_err(|error| Stop::Complain(format!("PVALIDATE of frame {gfn:#x}: {error}")))?;
        }
        Ok(())
    }

    fn read(&self, asid: Asid, gfn: u64) -> Result<Page, Stop> {
        let pfn = self.private_page(&mut self.kernel.lock(), gfn)?;
        let read = self.kernel.platform.guest_read(access(asid, Permissions::READ), mapping(gfn, pfn));
        read.map_err(|error| Stop::Complain(format!("read of frame {gfn:#x}: {error}")))
    }

    fn write(&self, asid: Asid, gpa: Gpa, value: u64) -> Result<(), Stop> {
        let gfn = gpa.gfn().number();
        let pfn = self.private_page(&mut self.kernel.lock(), gfn)?;
        let mut page = [0; 4096];
        page[..8].copy_from_slice(&value.to_le_bytes());
        let written = self.kernel.platform.guest_write(access(asid, Permissions::WRITE), mapping(gfn, pfn), &page);
        written.map_err(|error| Stop::Complain(format!("write to frame {gfn:#x}: {error}")))
    }

    fn expect(&self, asid: Asid, gpa: Gpa, value: u64) -> Result<(), Stop> {
        check(gpa, number_of(&self.read(asid, gpa.gfn().number())?), value)
    }

    /// A shared page.
    fn shared(&self, gpa: Gpa) -> Result<Page, Stop> {
        self.on_shared(gpa, |region| region.read_page(gpa.gfn()))
    }

    /// Changes what is in a shared page.
    fn edit_shared(&self, gpa: Gpa, edit: impl FnOnce(&mut Page)) -> Result<(), Stop> {
        let mut page = self.shared(gpa)?;
        edit(&mut page);
        self.on_shared(gpa, |region| region.write_page(gpa.gfn(), &page))
    }

    fn on_shared<T>(&self, gpa: Gpa, access: impl FnOnce(&Region) -> Option<T>) -> Result<T, Stop> {
        let (state, gfn) = (self.kernel.lock(), gpa.gfn().number());
        let nothing = || Stop::Complain(format!("frame {gfn:#x} is nowhere"));
        let machine = state.vms.get(&self.vm).ok_or_else(nothing)?;
        if machine.private.contains(gfn) {
            return Err(Stop::Fault { wanted: Owner::Shared, gfn });
        }
        let Ok(Place::Shared(region)) = machine.place(gfn, false) else { return Err(nothing()) };
        access(&region).ok_or_else(nothing)
    }

    fn page_state(&mut self, range: GfnRange, to: Owner, way: Way, works: bool) -> Exit<'_> {
        let pages = if way == Way::Msr { 1 } else { range.pages().get() };
        self.progress.pending = Some(Pending::PageState { range, to, way, works });
        self.progress.answer = 0;
        let attribute = if to == Owner::Private { ENCRYPTED } else { 0 };
        let arguments = [range.gpa().0, pages, attribute, 0, 0, 0];
        Exit::Hypercall(Hypercall { number: MAP_GPA_RANGE, arguments, answer: &mut self.progress.answer })
    }

    /// The guest makes the page one of registers, and has another vCPU start with it.
    fn create_ap(&self, asid: Asid, vcpu: u32, vmsa: Gpa) -> Result<(), Stop> {
        if !vmsa.0.is_multiple_of(4096) || vmsa.0.is_multiple_of(2 << 20) {
            return Err(Stop::Complain(format!("AP creation: {vmsa} cannot be a VMSA")));
        }
        let gfn = vmsa.gfn().number();
        let pfn = self.private_page(&mut self.kernel.lock(), gfn)?;
        let adjustment = Adjustment { target: Vmpl::Vmpl1, permissions: Permissions(0), vmsa: true };
        let adjusted = self.kernel.platform.rmpadjust(asid, Vmpl::Vmpl0, mapping(gfn, pfn), adjustment);
        adjusted.map_err(|error| Stop::Complain(format!("RMPADJUST of {vmsa}: {error}")))?;
        self.set_vmsa(vcpu, Vmsa::Guest(gfn));
        Ok(())
    }

    fn set_vmsa(&self, vcpu: u32, vmsa: Vmsa) {
        let mut state = self.kernel.lock();
        let old = state.vms.get_mut(&self.vm).and_then(|machine| machine.vcpus.get_mut(&vcpu)).and_then(|vcpu| {
            let old = vcpu.vmsa;
            vcpu.vmsa = Some(vmsa);
            old
        });
        if let Some(Vmsa::Kernel(pfn)) = old {
            state.free_page(&self.kernel.platform, pfn);
        }
    }

    fn serves_certificates(&self) -> bool {
        let state = self.kernel.lock();
        state.vms.get(&self.vm).and_then(|machine| machine.snp.as_ref()).is_some_and(|snp| snp.certificates)
    }

    fn ask_for_certificates(&mut self, secrets: Gpa, data: [u8; 64], room: GfnRange) -> Exit<'_> {
        self.progress.pending = Some(Pending::Certificates { secrets, data, room });
        (self.progress.answer, self.progress.pages) = (0, room.pages().get());
        let Progress { answer, pages, .. } = &mut self.progress;
        Exit::SnpCertificates(CertificateRequest { gpa: room.gpa(), pages, answer })
    }

    /// A report, by a message to the firmware.
    fn report(&mut self, secrets: Gpa, data: [u8; 64], room: Option<GfnRange>) {
        match self.request_report(secrets, data) {
            Ok(report) => {
                let mut state = self.kernel.lock();
                let certificates = room.map_or_else(Vec::new, |room| {
                    let machine = state.vms.get(&self.vm);
                    let pages = room.frames().filter_map(|gfn| match machine?.place(gfn.number(), false) {
                        Ok(Place::Shared(region)) => region.read_page(gfn),
                        _ => None,
                    });
                    pages.collect()
                });
                self.progress.report.clone_from(&report);
                state.reports.push(Reported { report, certificates });
            }
            Err(what) => self.complain(what),
        }
    }

    fn request_report(&mut self, secrets: Gpa, data: [u8; 64]) -> Result<Vec<u8>, String> {
        let Ok(Some(asid)) = self.enter() else { return Err("report: not running".to_owned()) };
        if self.progress.channel.is_none() {
            let Ok(page) = self.read(asid, secrets.gfn().number()) else {
                return Err(format!("report: no secrets at {secrets}"));
            };
            self.progress.channel = Some(GuestChannel::new(0, vmpcks(&page)[0]));
        }
        let Some(channel) = &mut self.progress.channel else { return Err("report: no channel".to_owned()) };
        let mut payload = [0; 0x60];
        payload[..64].copy_from_slice(&data);
        let request = channel.request(REPORT_REQUEST, &payload);
        let platform = &self.kernel.platform;
        let mut state = self.kernel.lock();
        let (context, known) = state
            .vms
            .get(&self.vm)
            .and_then(|machine| machine.snp.as_ref())
            .and_then(|snp| Some((snp.context?, snp.mailbox)))
            .ok_or("report: no context")?;
        let (to, from) = known.unwrap_or_else(|| (state.take_page(), state.take_page()));
        if let Some(snp) = state.vms.get_mut(&self.vm).and_then(|machine| machine.snp.as_mut()) {
            snp.mailbox = Some((to, from));
        }
        platform.host_write(to, &request).map_err(|error| error.to_string())?;
        platform.rmpupdate(from, firmware_page()).map_err(|error| error.to_string())?;
        if let Some(look) = &state.at_request {
            look();
        }
        let outcome = platform.snp_guest_request(context, to, from);
        platform.snp_page_reclaim(from, PageSize::Size4K).map_err(|status| status.to_string())?;
        platform.rmpupdate(from, Assignment::default()).map_err(|error| error.to_string())?;
        outcome.map_err(|status| format!("report: the firmware says {status}"))?;
        let response = platform.host_read(from);
        let (_, text) = channel.response(&response).map_err(|error| error.to_string())?;
        match text.get(..4) {
            Some([0, 0, 0, 0]) => Ok(text.get(0x20..).unwrap_or_default().to_vec()),
            status => Err(format!("report: status {status:x?}")),
        }
    }

    pub(crate) fn prefault_pages(&mut self, range: GfnRange) -> Result<PageCount, CallError> {
        let mut state = self.kernel.lock();
        let refused = |state: &mut State, row: Row| {
            Err(CallError::new("KVM_PRE_FAULT_MEMORY", row.text(), state.meet(row).raw_os_error()))
        };
        let Some(machine) = state.vms.get(&self.vm) else { return refused(&mut state, Row::DeadVm) };
        if !machine.snp.as_ref().is_some_and(|snp| snp.finished) {
            return refused(&mut state, Row::PrefaultBeforeFinish);
        }
        let mut done = 0;
        for gfn in range.frames().map(Gfn::number) {
            let Some(machine) = state.vms.get(&self.vm) else { break };
            let private = machine.private.contains(gfn);
            let mapped = match machine.place(gfn, private) {
                Ok(Place::Shared(_)) => Ok(()),
                Ok(Place::Private(..)) => state.private_page(&self.kernel.platform, self.vm, gfn).map(drop),
                Err(nowhere) => Err(nowhere),
            };
            match mapped {
                Ok(()) => done += 1,
                Err(_) if done > 0 => break,
                Err(Nowhere::NoSlot) if !private => return refused(&mut state, Row::PrefaultNoSlot),
                Err(_) => return refused(&mut state, Row::PrefaultNoGmem),
            }
        }
        Ok(PageCount::new(done))
    }
}

/// Whether an answer is one of these, as a positive number.
fn is_one_of(answer: u64, errnos: &[Errno]) -> bool {
    errnos.iter().any(|errno| u64::from(errno.raw_os_error().unsigned_abs()) == answer)
}

fn check(gpa: Gpa, found: u64, value: u64) -> Result<(), Stop> {
    if found == value { Ok(()) } else { Err(Stop::Complain(format!("{gpa} holds {found:#x} and not {value:#x}"))) }
}
