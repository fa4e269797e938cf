//! What the PSP does to entries: it may change those that no one else may.
//!
//! Owns the transitions; which command asks for them is in [`crate::rmp`]'s callers. Specification: 56860,
//! "Page states" and SNP_PAGE_RECLAIM. Reclaiming clears the immutable bit and nothing else, which is why a pre-guest page
//! comes back as guest-invalid and still names its owner: the hypervisor's RMPUPDATE ends that.

use crate::rmp::{Entry, NotCovered, PageState, Permissions, Rmp};
use crate::units::{PageSize, Pfn};

/// Why a page was not reclaimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReclaimFail {
    /// Not a page of the table.
    #[error(transparent)]
    NotCovered(#[from] NotCovered),
    /// Not in a state that only the PSP can end.
    #[error("{pfn} is in state {state}, and needs no reclaiming")]
    State {
        /// The page.
        pfn: Pfn,
        /// Its state.
        state: PageState,
    },
    /// The entry is of the other size.
    #[error("the entry of {pfn} is of another size")]
    Size {
        /// The page.
        pfn: Pfn,
    },
}

impl Rmp {
    /// PAGE_RECLAIM: firmware → reclaim, pre-guest → guest-invalid, pre-swap → guest-valid.
    pub fn reclaim(&mut self, pfn: Pfn, size: PageSize) -> Result<PageState, ReclaimFail> {
        let entry = self.entry(pfn)?;
        let state = entry.state();
        if !matches!(state, PageState::Firmware | PageState::PreGuest | PageState::PreSwap) {
            return Err(ReclaimFail::State { pfn, state });
        }
        if entry.size != size || !pfn.is_aligned(size) {
            return Err(ReclaimFail::Size { pfn });
        }
        let reclaimed = Entry { immutable: false, ..entry };
        self.replace(pfn, reclaimed);
        Ok(reclaimed.state())
    }

    /// Firmware → context. False if the page was something else.
    pub fn firmware_to_context(&mut self, pfn: Pfn) -> bool {
        self.exchange(pfn, PageState::Firmware, |entry| Entry { context: true, ..entry })
    }

    /// Context → firmware. False if the page was something else.
    pub fn context_to_firmware(&mut self, pfn: Pfn) -> bool {
        self.exchange(pfn, PageState::Context, |entry| Entry { context: false, ..entry })
    }

    /// Pre-guest → guest-valid, with what the lesser levels may do. False if the page was something else.
    pub fn launch(&mut self, pfn: Pfn, permissions: [Permissions; 3], vmsa: bool) -> bool {
        let [vmpl1, vmpl2, vmpl3] = permissions;
        let permissions = [Permissions::ALL, vmpl1, vmpl2, vmpl3];
        self.exchange(pfn, PageState::PreGuest, |entry| Entry {
            immutable: false,
            validated: true,
            vmsa,
            permissions,
            ..entry
        })
    }

    fn exchange(&mut self, pfn: Pfn, from: PageState, change: impl FnOnce(Entry) -> Entry) -> bool {
        match self.entry(pfn) {
            Ok(entry) if entry.state() == from => {
                self.replace(pfn, change(entry));
                true
            }
            _ => false,
        }
    }
}
