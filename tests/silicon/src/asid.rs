//! ASIDs: who has which, and when one may be used again.
//!
//! Owns each ASID's state, the split of the numbers by kind of guest, and what has been flushed since when. The states
//! are the kernel's and the firmware's in one: the kernel allocates and recycles, the firmware binds (ACTIVATE) and
//! unbinds (DECOMMISSION). Does not own the RMP: whoever makes ASIDs free passes in what it says of them, because law
//! *pages-before-key* is checked here and nowhere on a real host.
//!
//! Specification: 56860, SNP_ACTIVATE, SNP_DECOMMISSION, SNP_DF_FLUSH. Recycling: Linux 7.2 source, `sev_asid_new`,
//! `__sev_recycle_asids`, `sev_asid_free`, `sev_flush_asids`; leaking: `sev_vm_destroy`.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::rmp::Rmp;
use crate::units::Asid;
use crate::violation::Violation;

/// How a machine's ASIDs are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AsidConfig {
    /// The highest (CPUID 0x8000001F, ECX).
    pub max: u32,
    /// The lowest of SEV guests without encrypted state (EDX); SEV-ES and SNP are below.
    pub min_sev: u32,
    /// Ciphertext hiding: SNP has 1 to this, SEV-ES the rest below `min_sev`.
    pub ciphertext_hiding: Option<u32>,
    /// Processors that have to flush.
    pub cpus: u32,
}

/// Whom an ASID is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum GuestKind {
    /// SEV.
    Sev,
    /// SEV-ES.
    SevEs,
    /// SEV-SNP.
    Snp,
}

/// What an ASID is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AsidState {
    /// Can be allocated.
    Free,
    /// A VM has it; the memory controller holds no key.
    Allocated,
    /// A guest's key is in the memory controller.
    Bound,
    /// Its VM is gone; caches may still hold its lines.
    Reclaimable,
    /// Nobody gets it again.
    Leaked,
}

/// Why an operation on ASIDs did nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AsidError {
    /// None is free. Recycling may help.
    #[error("no ASID from {first} to {last} is free")]
    Exhausted {
        /// First of the range.
        first: u32,
        /// Last of the range.
        last: u32,
    },
    /// There is no such ASID.
    #[error("{0} does not exist")]
    Unknown(Asid),
    /// Its state does not allow it.
    #[error("{asid} is {state:?}")]
    State {
        /// Which.
        asid: Asid,
        /// Its state.
        state: AsidState,
    },
    /// Some processor has not written its caches back since the last guest went.
    #[error("{0} processors have not executed WBINVD since an ASID was given up")]
    WbinvdRequired(usize),
    /// The data fabric has not been flushed since the last guest went.
    #[error("DF_FLUSH has not been executed since an ASID was given up")]
    DfFlushRequired,
}

/// All ASIDs of a machine.
#[derive(Debug)]
pub struct AsidPool {
    config: AsidConfig,
    /// Those that are not free.
    states: BTreeMap<Asid, AsidState>,
    /// Processors that have to write their caches back before DF_FLUSH.
    unflushed_cpus: BTreeSet<u32>,
    /// ASIDs the data fabric has to forget before they get another key.
    used: BTreeSet<Asid>,
}

impl AsidPool {
    /// A machine's ASIDs, all free.
    pub fn new(config: AsidConfig) -> AsidPool {
        AsidPool { config, states: BTreeMap::new(), unflushed_cpus: BTreeSet::new(), used: BTreeSet::new() }
    }

    /// The division.
    pub fn config(&self) -> AsidConfig {
        self.config
    }

    /// The ASIDs of a kind of guest. May be empty.
    pub fn range(&self, kind: GuestKind) -> RangeInclusive<u32> {
        let AsidConfig { max, min_sev, ciphertext_hiding, .. } = self.config;
        let below_sev = min_sev.saturating_sub(1).min(max);
        match (kind, ciphertext_hiding) {
            (GuestKind::Sev, _) => min_sev.max(1)..=max,
            (GuestKind::Snp, Some(snp)) => 1..=snp.min(below_sev),
            (GuestKind::SevEs, Some(snp)) => snp.saturating_add(1)..=below_sev,
            (_, None) => 1..=below_sev,
        }
    }

    /// What an ASID is doing.
    pub fn state(&self, asid: Asid) -> Result<AsidState, AsidError> {
        if asid == Asid::HOST || asid.0 > self.config.max {
            return Err(AsidError::Unknown(asid));
        }
        Ok(self.states.get(&asid).copied().unwrap_or(AsidState::Free))
    }

    /// ASIDs in a state.
    pub fn in_state(&self, wanted: AsidState) -> Vec<Asid> {
        let all = (1..=self.config.max).map(Asid);
        all.filter(|asid| self.state(*asid) == Ok(wanted)).collect()
    }

    /// Takes the lowest free ASID of a kind.
    pub fn allocate(&mut self, kind: GuestKind) -> Result<Asid, AsidError> {
        let range = self.range(kind);
        let exhausted = AsidError::Exhausted { first: *range.start(), last: *range.end() };
        let free = range.map(Asid).find(|asid| !self.states.contains_key(asid));
        let asid = free.ok_or(exhausted)?;
        self.states.insert(asid, AsidState::Allocated);
        Ok(asid)
    }

    /// Its VM is gone. It can be used again after recycling.
    pub fn release(&mut self, asid: Asid) -> Result<(), AsidError> {
        self.change(asid, AsidState::Allocated, AsidState::Reclaimable)
    }

    /// Its VM is gone, and the firmware would not unbind it: nobody gets it again.
    pub fn leak(&mut self, asid: Asid) -> Result<(), AsidError> {
        match self.state(asid)? {
            AsidState::Allocated | AsidState::Bound => {
                self.states.insert(asid, AsidState::Leaked);
                Ok(())
            }
            state => Err(AsidError::State { asid, state }),
        }
    }

    /// A guest's key goes into the memory controller.
    pub fn bind(&mut self, asid: Asid) -> Result<(), AsidError> {
        let state = self.state(asid)?;
        if self.used.contains(&asid) && state != AsidState::Bound {
            return Err(AsidError::DfFlushRequired);
        }
        self.change(asid, AsidState::Allocated, AsidState::Bound)
    }

    /// The key leaves the memory controller; lines of it may still be in caches.
    pub fn unbind(&mut self, asid: Asid) -> Result<(), AsidError> {
        if self.state(asid)? != AsidState::Leaked {
            self.change(asid, AsidState::Bound, AsidState::Allocated)?;
        }
        self.unflushed_cpus = (0..self.config.cpus).collect();
        self.used.insert(asid);
        Ok(())
    }

    /// A processor writes back and invalidates its caches.
    pub fn wbinvd(&mut self, cpu: u32) {
        self.unflushed_cpus.remove(&cpu);
    }

    /// All processors do.
    pub fn wbinvd_all(&mut self) {
        self.unflushed_cpus.clear();
    }

    /// The data fabric writes back what it holds.
    pub fn df_flush(&mut self) -> Result<(), AsidError> {
        if !self.unflushed_cpus.is_empty() {
            return Err(AsidError::WbinvdRequired(self.unflushed_cpus.len()));
        }
        self.used.clear();
        Ok(())
    }

    /// Whether a key was used that the data fabric still has to forget.
    pub fn needs_df_flush(&self) -> bool {
        !self.used.is_empty()
    }

    /// Whether recycling would free an ASID for this kind of guest.
    pub fn can_recycle(&self, kind: GuestKind) -> bool {
        let range = self.range(kind);
        self.in_state(AsidState::Reclaimable).iter().any(|asid| range.contains(&asid.0))
    }

    /// Frees all reclaimable ASIDs at once, of all kinds, and says of which of them the RMP still has entries. Real hosts
    /// free those, too: nobody looks.
    pub fn recycle(&mut self, rmp: &Rmp) -> Result<(Vec<Asid>, Vec<Violation>), AsidError> {
        let freed = self.in_state(AsidState::Reclaimable);
        if freed.iter().any(|asid| self.used.contains(asid)) {
            return Err(AsidError::DfFlushRequired);
        }
        for asid in &freed {
            self.states.remove(asid);
        }
        let outlived = freed.iter().filter_map(|asid| Violation::pages_before_key(rmp, *asid)).collect();
        Ok((freed, outlived))
    }

    fn change(&mut self, asid: Asid, from: AsidState, to: AsidState) -> Result<(), AsidError> {
        let state = self.state(asid)?;
        if state != from {
            return Err(AsidError::State { asid, state });
        }
        self.states.insert(asid, to);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
