//! The Reverse Map Table: for every page of memory, who owns it and as what.
//!
//! Owns the entries and the rule which entry holds for a page ([`entry`]), the instructions on them, the hypervisor's
//! ([`instructions`]) and the guest's ([`guest_instructions`]), what the PSP does to them ([`firmware`]) and whether an
//! access may pass ([`access`]). Does not own the pages' contents, nor whether an ASID has a key: the table knows ASIDs as
//! numbers, and nothing here takes an entry back when a guest ends. That is the kernel's duty, law *pages-before-key*.
//!
//! Specification: APM volume 2 (24593), 15.36; 56860, "Page states".

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::units::{Asid, Gpa, PageSize, Pfn};

pub mod access;
pub mod entry;
pub mod firmware;
pub mod guest_instructions;
pub mod instructions;

pub use access::{Access, AccessFault, HostFault, Mapping, NestedFault};
pub use entry::{Entry, PageState, Permissions};
pub use firmware::ReclaimFail;
pub use guest_instructions::{Adjustment, PvalidateFail, RmpadjustFail, Validation, Validity};
pub use instructions::{Assignment, PsmashFail, RmpupdateFail};

/// The table. Pages that no one assigned take no memory.
#[derive(Debug)]
pub struct Rmp {
    pages: u64,
    /// Entries that differ from the hypervisor's; one of 2 MiB stands at its first page only.
    entries: BTreeMap<Pfn, Entry>,
    /// 4 KiB pages by the ASID they name.
    named: HashMap<Asid, u64>,
    /// Where each guest page is validated.
    valid: BTreeSet<(Asid, Gpa, Pfn)>,
}

/// Why a page was not looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{pfn} is not covered by the RMP, which ends at page {pages:#x}")]
pub struct NotCovered {
    /// The page.
    pub pfn: Pfn,
    /// Pages that are covered.
    pub pages: u64,
}

impl Rmp {
    /// A table over so many 4 KiB pages, all the hypervisor's.
    pub fn new(pages: u64) -> Rmp {
        Rmp { pages, entries: BTreeMap::new(), named: HashMap::new(), valid: BTreeSet::new() }
    }

    /// 4 KiB pages that it covers.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// The entry that holds for a page. Within 2 MiB it is that of the whole, at this page's address.
    pub fn entry(&self, pfn: Pfn) -> Result<Entry, NotCovered> {
        self.covered(pfn, PageSize::Size4K)?;
        if let Some((base, whole)) = self.whole_2m(pfn) {
            return Ok(Entry { gpa: whole.gpa.plus_pages(pfn.0 - base.0), ..whole });
        }
        Ok(self.entries.get(&pfn).copied().unwrap_or_default())
    }

    /// How many 4 KiB pages name an ASID.
    pub fn pages_of(&self, asid: Asid) -> u64 {
        self.named.get(&asid).copied().unwrap_or(0)
    }

    /// All guests that are named, with how many pages.
    pub fn named_asids(&self) -> Vec<(Asid, u64)> {
        let mut named: Vec<_> = self.named.iter().map(|(asid, pages)| (*asid, *pages)).collect();
        named.sort_unstable();
        named
    }

    /// The first entry that names an ASID.
    pub fn first_page_of(&self, asid: Asid) -> Option<(Pfn, Entry)> {
        self.entries().find(|(_, entry)| entry.asid == asid)
    }

    /// Entries that are not the hypervisor's, in the order of pages; one of 2 MiB counts once.
    pub fn entries(&self) -> impl Iterator<Item = (Pfn, Entry)> {
        self.entries.iter().map(|(pfn, entry)| (*pfn, *entry))
    }

    /// Where a guest's page is validated. More than one place is the attack that validation exists to stop: a guest
    /// that validates no address twice never lets it happen.
    pub fn validated_places(&self, asid: Asid, gpa: Gpa) -> Vec<Pfn> {
        let from = (asid, gpa, Pfn(0));
        self.valid.range(from..=(asid, gpa, Pfn(u64::MAX))).map(|(.., pfn)| *pfn).collect()
    }

    /// Forgets everything, as at initialisation.
    pub fn clear(&mut self) {
        *self = Rmp::new(self.pages);
    }

    /// Whether all of a page is covered.
    fn covered(&self, pfn: Pfn, size: PageSize) -> Result<(), NotCovered> {
        match pfn.0.checked_add(size.pages()) {
            Some(end) if end <= self.pages => Ok(()),
            _ => Err(NotCovered { pfn, pages: self.pages }),
        }
    }

    /// The 2 MiB entry that a page lies in.
    fn whole_2m(&self, pfn: Pfn) -> Option<(Pfn, Entry)> {
        let base = pfn.base_2m();
        let entry = self.entries.get(&base).filter(|entry| entry.size == PageSize::Size2M)?;
        Some((base, *entry))
    }

    /// Replaces the entry that stands at a page. The only place that changes the table.
    fn replace(&mut self, pfn: Pfn, entry: Entry) {
        let old = self.entries.remove(&pfn).unwrap_or_default();
        self.account(pfn, &old, Count::Leaves);
        self.account(pfn, &entry, Count::Enters);
        if entry != Entry::default() {
            self.entries.insert(pfn, entry);
        }
    }

    fn account(&mut self, pfn: Pfn, entry: &Entry, count: Count) {
        if !entry.is_guests() {
            return;
        }
        let pages = entry.size.pages();
        let named = self.named.entry(entry.asid).or_default();
        *named = match count {
            Count::Enters => named.saturating_add(pages),
            Count::Leaves => named.saturating_sub(pages),
        };
        if *named == 0 {
            self.named.remove(&entry.asid);
        }
        if entry.validated {
            for (offset, pfn) in (0..).zip(pfn.range(entry.size)) {
                let place = (entry.asid, entry.gpa.plus_pages(offset), pfn);
                match count {
                    Count::Enters => self.valid.insert(place),
                    Count::Leaves => self.valid.remove(&place),
                };
            }
        }
    }
}

/// Which way an entry goes.
#[derive(Clone, Copy)]
enum Count {
    Enters,
    Leaves,
}

#[cfg(test)]
mod tests;
