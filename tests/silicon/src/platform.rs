//! The whole platform, to be shared by threads: processor, memory and firmware under one lock.
//!
//! Owns the order of operations, what broke an invariant ([`Violation`]), what happened ([`Event`]) and what shall fail
//! ([`Fault`]). Each method is one instruction or one command; whoever calls them is the kernel, or the guest where the
//! name says so. Nothing here repairs a kernel's mistake: it is noted, and the hardware does what hardware does.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::asid::{AsidError, GuestKind};
use crate::config::Config;
use crate::hardware::Hardware;
use crate::psp::{Command, Psp, Status};
use crate::rmp::access::HostFault;
use crate::rmp::{
    Access, AccessFault, Adjustment, Assignment, Entry, Mapping, PageState, PsmashFail, PvalidateFail, RmpadjustFail,
    RmpupdateFail, Validation, Validity,
};
use crate::units::{Asid, Gpa, Page, PageSize, Pfn, Vmpl};
use crate::violation::Violation;

mod commands;
mod faults;
mod log;

pub use faults::Fault;
pub use log::{Event, KEPT_EVENTS};

/// A machine.
#[derive(Debug)]
pub struct Platform {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    hw: Hardware,
    psp: Psp,
    violations: Vec<Violation>,
    log: log::Log,
    faults: faults::Faults,
    leaked: Vec<Pfn>,
    commands: u64,
}

/// Counts, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statistics {
    /// How many 4 KiB pages name each ASID.
    pub pages_by_asid: Vec<(Asid, u64)>,
    /// How many 4 KiB pages are in each state but the hypervisor's.
    pub pages_by_state: BTreeMap<PageState, u64>,
    /// Pages the kernel gave up, in that order.
    pub leaked: Vec<Pfn>,
    /// Pages whose contents take memory here.
    pub resident_pages: usize,
    /// Commands the firmware was given.
    pub commands: u64,
    /// Guests that have a context.
    pub guests: u32,
}

impl Platform {
    /// A machine that was just switched on. SNP is not initialised.
    pub fn new(config: Config) -> Platform {
        let state = State {
            hw: Hardware::new(&config),
            psp: Psp::new(&config),
            violations: Vec::new(),
            log: log::Log::default(),
            faults: faults::Faults::default(),
            leaked: Vec::new(),
            commands: 0,
        };
        Platform { state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every operation leaves the state whole, so a thread that panicked while it looked did no harm.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every invariant that was broken so far, in order.
    pub fn violations(&self) -> Vec<Violation> {
        self.lock().violations.clone()
    }

    /// What happened last, oldest first; at most [`KEPT_EVENTS`].
    pub fn events(&self) -> Vec<Event> {
        self.lock().log.events()
    }

    /// Counts.
    pub fn statistics(&self) -> Statistics {
        let state = self.lock();
        let mut pages_by_state = BTreeMap::new();
        for (_, entry) in state.hw.rmp.entries() {
            *pages_by_state.entry(entry.state()).or_default() += entry.size.pages();
        }
        Statistics {
            pages_by_asid: state.hw.rmp.named_asids(),
            pages_by_state,
            leaked: state.leaked.clone(),
            resident_pages: state.hw.memory.resident_pages(),
            commands: state.commands,
            guests: state.psp.platform_status().guest_count,
        }
    }

    /// Looks at everything, as no real host can.
    pub fn inspect<T>(&self, look: impl FnOnce(&Hardware, &Psp) -> T) -> T {
        let state = self.lock();
        look(&state.hw, &state.psp)
    }

    /// Makes something fail.
    pub fn plant(&self, fault: Fault) {
        self.lock().faults.plant(fault);
    }

    /// RMPUPDATE.
    pub fn rmpupdate(&self, pfn: Pfn, new: Assignment) -> Result<(), RmpupdateFail> {
        let mut state = self.lock();
        let outcome = match state.faults.rmpupdate() {
            Some(fail) => Err(fail.at(pfn)),
            None => {
                let old = state.hw.rmp.entry(pfn).unwrap_or_default();
                let outcome = state.hw.rmp.rmpupdate(pfn, new);
                if outcome.is_ok() {
                    state.watch_assignment(pfn, old, new);
                }
                outcome
            }
        };
        state.log.push(Event::Rmpupdate { pfn, new, outcome });
        outcome
    }

    /// PSMASH.
    pub fn psmash(&self, pfn: Pfn) -> Result<(), PsmashFail> {
        let mut state = self.lock();
        let outcome = state.hw.rmp.psmash(pfn);
        state.log.push(Event::Psmash { pfn, outcome });
        outcome
    }

    /// The entry that holds for a page (RMPREAD).
    pub fn rmp_entry(&self, pfn: Pfn) -> Option<Entry> {
        self.lock().hw.rmp.entry(pfn).ok()
    }

    /// PVALIDATE by a guest, where the nested page table says; the mapping's size is the one that the guest asks for. That
    /// a guest asks for 2 MiB where the nested page table has 4 KiB is the caller's to find: FAIL_SIZEMISMATCH, too.
    pub fn pvalidate(&self, asid: Asid, at: Mapping, validity: Validity) -> Result<Validation, PvalidateFail> {
        let mut state = self.lock();
        let outcome = state.hw.rmp.pvalidate(asid, at.gpa, at.pfn, at.size, validity);
        if (outcome, validity) == (Ok(Validation::Changed), Validity::Validate) {
            state.watch_validation(asid, at);
        }
        state.log.push(Event::Pvalidate { asid, gpa: at.gpa, pfn: at.pfn, validity, outcome });
        outcome
    }

    /// RMPADJUST by a guest's level, where the nested page table says; the mapping's size is the one asked for.
    pub fn rmpadjust(
        &self,
        asid: Asid,
        caller: Vmpl,
        at: Mapping,
        adjustment: Adjustment,
    ) -> Result<(), RmpadjustFail> {
        self.lock().hw.rmp.rmpadjust((asid, caller), at.gpa, at.pfn, at.size, adjustment)
    }

    /// A guest reads a page.
    pub fn guest_read(&self, access: Access, at: Mapping) -> Result<Page, AccessFault> {
        self.lock().hw.guest_read(access, at)
    }

    /// A guest writes a page.
    pub fn guest_write(&self, access: Access, at: Mapping, contents: &Page) -> Result<(), AccessFault> {
        self.lock().hw.guest_write(access, at, contents)
    }

    /// The host reads a page.
    pub fn host_read(&self, pfn: Pfn) -> Page {
        self.lock().hw.host_read(pfn)
    }

    /// The host writes a page. One that is assigned keeps its contents; a real host would die of it.
    pub fn host_write(&self, pfn: Pfn, contents: &Page) -> Result<(), HostFault> {
        let mut state = self.lock();
        let outcome = state.hw.host_write(pfn, contents);
        if let Err(HostFault::Assigned(pfn)) = outcome {
            state.violations.push(Violation::HostWrite(pfn));
        }
        outcome
    }

    /// The kernel gives a page up: nobody gets it again.
    pub fn leak_page(&self, pfn: Pfn) {
        let mut state = self.lock();
        state.leaked.push(pfn);
        state.log.push(Event::PageLeaked(pfn));
    }

    /// Takes an ASID for a VM.
    pub fn allocate_asid(&self, kind: GuestKind) -> Result<Asid, AsidError> {
        let mut state = self.lock();
        let asid = state.hw.asids.allocate(kind)?;
        state.log.push(Event::AsidAllocated(asid));
        Ok(asid)
    }

    /// The VM is gone: the ASID is reclaimable.
    pub fn release_asid(&self, asid: Asid) -> Result<(), AsidError> {
        let mut state = self.lock();
        state.hw.asids.release(asid)?;
        state.log.push(Event::AsidReleased(asid));
        Ok(())
    }

    /// The VM is gone, and DECOMMISSION failed: nobody gets the ASID again.
    pub fn leak_asid(&self, asid: Asid) -> Result<(), AsidError> {
        let mut state = self.lock();
        state.hw.asids.leak(asid)?;
        state.log.push(Event::AsidLeaked(asid));
        Ok(())
    }

    /// WBINVD on one processor.
    pub fn wbinvd(&self, cpu: u32) {
        self.lock().hw.asids.wbinvd(cpu);
    }

    /// WBINVD on all.
    pub fn wbinvd_all(&self) {
        let mut state = self.lock();
        state.hw.asids.wbinvd_all();
        state.log.push(Event::WbinvdAll);
    }

    /// Frees all reclaimable ASIDs, after WBINVD and DF_FLUSH. Those that the RMP still names are freed too, as a real
    /// kernel does; each is a violation of *pages-before-key*.
    pub fn recycle_asids(&self) -> Result<Vec<Asid>, AsidError> {
        let mut state = self.lock();
        let State { hw, violations, log, .. } = &mut *state;
        let (freed, outlived) = hw.asids.recycle(&hw.rmp)?;
        violations.extend(outlived);
        log.push(Event::AsidsFreed(freed.clone()));
        Ok(freed)
    }

    /// Gives a command to the firmware, unless it is to fail.
    fn command<T>(
        &self,
        command: Command,
        run: impl FnOnce(&mut Psp, &mut Hardware) -> Result<T, Status>,
    ) -> Result<T, Status> {
        let mut state = self.lock();
        let State { hw, psp, faults, log, commands, .. } = &mut *state;
        *commands += 1;
        let outcome = match faults.command(command) {
            Some(status) => Err(status),
            None => run(psp, hw),
        };
        log.push(Event::Command { command, outcome: outcome.as_ref().map(|_| ()).map_err(|status| *status) });
        outcome
    }
}

impl State {
    fn watch_assignment(&mut self, pfn: Pfn, old: Entry, new: Assignment) {
        use crate::asid::AsidState;
        if !new.assigned || new.asid == Asid::HOST {
            return;
        }
        if old.is_guests() && old.asid != new.asid {
            self.violations.push(Violation::GuestToGuest { pfn, from: old.asid, to: new.asid });
        }
        if !matches!(self.hw.asids.state(new.asid), Ok(AsidState::Allocated | AsidState::Bound)) {
            self.violations.push(Violation::AssignedToNobody { pfn, asid: new.asid });
        }
    }

    fn watch_validation(&mut self, asid: Asid, at: Mapping) {
        for (offset, _) in (0..).zip(at.pfn.range(at.size)) {
            let gpa = at.gpa.plus_pages(offset);
            if let [first, second, ..] = self.hw.rmp.validated_places(asid, gpa)[..] {
                self.violations.push(Violation::ValidatedTwice { asid, gpa, first, second });
            }
        }
    }
}

/// Where a 4 KiB page of a guest is.
pub fn mapping(gpa: Gpa, pfn: Pfn) -> Mapping {
    Mapping { gpa, pfn, size: PageSize::Size4K }
}

#[cfg(test)]
mod tests;
