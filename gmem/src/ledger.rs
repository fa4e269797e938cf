//! The ownership ledger: who may own each page of guest RAM.
//!
//! Owns the law *known-owner*: what the host knows of every page at every instant, as an upper bound (a guest that
//! validates or accepts a page does not tell us). A change of ownership is [`begin`](Ledger::begin), then the kernel's
//! part, then one of the outcomes of [`Conversion`]; what became of a page nobody can tell is in doubt until teardown.
//! Does not own the doing: no kernel is called here, and conversions of one VM are serialised by the caller.
//!
//! Looking a page up takes no lock and a fixed number of steps, because it is on the path of every device access;
//! changes take one internal lock. Memory: 4 bytes per 2 MiB of RAM, and 256 more for each 2 MiB the guest ever mixed.
//!
//! Specification: the law *known-owner* of `ARCHITECTURE.md`; the transition table is in `ledger/state.rs`, the words
//! and their memory orders in `ledger/store.rs`.
//!
//! ```
//! use gmem::ledger::{Ledger, Owner, PageState};
//! use gmem::layout::RamLayout;
//! use gmem::{ByteLen, GfnRange, Gpa};
//!
//! let ledger = Ledger::new(RamLayout::new(ByteLen(64 << 20))?, Owner::Private);
//! let buffer = GfnRange::from_bytes(Gpa(0x20_0000), ByteLen(0x4000))?;
//!
//! let conversion = ledger.begin(buffer, Owner::Shared)?;
//! assert_eq!(conversion.parts(), [buffer]);
//! assert_eq!(ledger.state(buffer.start()), Some(PageState::ConvertingToShared));
//! // ... the kernel does its part ...
//! conversion.commit();
//! assert!(ledger.is_shared(buffer));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod census;
mod conversion;
mod lanes;
mod state;
mod store;
#[cfg(test)]
mod tests;
mod words;

use std::fmt;

pub use census::Census;
pub use conversion::Conversion;
pub use state::{Owner, PageState};

use crate::address::{Gfn, GfnRange, PageCount};
use crate::layout::RamLayout;
use conversion::Parts;
use state::{Event, Stored, next};
use store::{Span, Store};

/// Why the ledger refuses. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LedgerError {
    /// Not all of the range is guest RAM.
    #[error("page {} of range {range} is not guest RAM", page.gpa())]
    OutsideRam {
        /// The first page that is not.
        page: Gfn,
        /// The range.
        range: GfnRange,
    },
    /// A page cannot begin a conversion.
    #[error("page {} is {state} and cannot become {to}", page.gpa())]
    NotConvertible {
        /// The first such page.
        page: Gfn,
        /// Its state.
        state: PageState,
        /// What was asked.
        to: Owner,
    },
    /// A page cannot be populated by the launch.
    #[error("page {} is {state} and cannot be populated", page.gpa())]
    NotPopulatable {
        /// The first such page.
        page: Gfn,
        /// Its state.
        state: PageState,
    },
}

/// The state of every page of a VM's RAM.
pub struct Ledger {
    ram: RamLayout,
    store: Store,
}

impl Ledger {
    /// Every page of `ram` belongs to `initial`; private pages are untouched.
    pub fn new(ram: RamLayout, initial: Owner) -> Self {
        // A layout has at most MAX_RAM / 4 KiB = 2^30 pages, which fits everywhere.
        let pages = usize::try_from(ram.pages().get()).unwrap_or(usize::MAX);
        Self { ram, store: Store::new(pages, initial.into()) }
    }

    /// The RAM whose pages these are.
    pub fn ram(&self) -> &RamLayout {
        &self.ram
    }

    /// Refuses a range that is not all RAM, naming the first page that isn't.
    pub fn check_ram(&self, range: GfnRange) -> Result<(), LedgerError> {
        self.span(range).map(drop)
    }

    /// The state of a page; `None` outside RAM. Takes no lock.
    #[inline]
    pub fn state(&self, gfn: Gfn) -> Option<PageState> {
        let page = usize::try_from(self.ram.index_of(gfn)?).ok()?;
        Some(self.store.get(page).state())
    }

    /// Whether every page of `range` is RAM and shared. Takes no lock: the path of every device access.
    ///
    /// Racing with a conversion it may answer from before or after. Whoever goes on to touch the memory first announces
    /// itself to conversions and executes a `SeqCst` fence; see the module `store` for why that is enough.
    #[inline]
    pub fn is_shared(&self, range: GfnRange) -> bool {
        self.span(range).is_ok_and(|span| self.store.all(span, Stored::Shared))
    }

    /// Begins to give `range` to `to`: all of it or, if a page refuses, nothing. Pages `to` owns already are left out.
    pub fn begin(&self, range: GfnRange, to: Owner) -> Result<Conversion<'_>, LedgerError> {
        let span = self.span(range)?;
        let event = Event::begin(to);
        let mut writer = self.store.write();
        let mut parts = Parts::new();
        let mut take = |run: GfnRange, state: Stored| match next(state, event) {
            None => Err(LedgerError::NotConvertible { page: run.start(), state: state.state(), to }),
            Some(after) if after == state => Ok(()),
            Some(_) => {
                append(&mut parts, run);
                Ok(())
            }
        };
        if span.is_one_page() {
            take(range, self.store.get(span.start))?; // Most are, and need no search for runs.
        } else {
            self.store.runs(span).try_for_each(|(run, state)| take(sub_range(range, span, run), state))?;
        }
        writer.apply(span, event);
        drop(writer);
        Ok(Conversion::new(self, to, parts))
    }

    /// Notes that the launch puts contents into every page of `range`, all of it or, if a page refuses, nothing.
    pub fn populate(&self, range: GfnRange) -> Result<(), LedgerError> {
        let span = self.span(range)?;
        let mut writer = self.store.write();
        for (run, state) in self.store.runs(span) {
            if next(state, Event::Populate).is_none() {
                let page = sub_range(range, span, run).start();
                return Err(LedgerError::NotPopulatable { page, state: state.state() });
            }
        }
        writer.apply(span, Event::Populate);
        Ok(())
    }

    /// Teardown: every page is freed, those in doubt too. Returns the census from just before.
    pub fn free(&self) -> Census {
        let mut writer = self.store.write();
        let before = Census::from_counts(self.store.counts());
        writer.apply(self.store.span(), Event::Free);
        before
    }

    /// How many pages are in each state; keeps changes out while it counts.
    pub fn census(&self) -> Census {
        let _writer = self.store.write();
        Census::from_counts(self.store.counts())
    }

    /// All of RAM as runs of equal state, each as long as can be, ascending; a run ends at the hole. Takes no lock:
    /// while conversions run, each page is shown as it was at some moment since the iterator's last step began.
    pub fn runs(&self) -> impl Iterator<Item = (GfnRange, PageState)> {
        let mut runs = self
            .ram
            .ranges()
            .filter_map(|ram| self.span(ram).ok().map(|span| (ram, span)))
            .flat_map(|(ram, span)| {
                self.store.runs(span).map(move |(run, state)| (sub_range(ram, span, run), state.state()))
            })
            .peekable();
        std::iter::from_fn(move || {
            let (mut range, state) = runs.next()?;
            while let Some(longer) = runs.peek().filter(|more| more.1 == state).and_then(|more| range.joined(more.0)) {
                range = longer;
                runs.next();
            }
            Some((range, state))
        })
    }

    /// The first page of `range`, all of it RAM, that is in this state. Takes no lock.
    pub fn first_in(&self, range: GfnRange, wanted: PageState) -> Option<Gfn> {
        let span = self.span(range).ok()?;
        let (run, _) = self.store.runs(span).find(|(_, state)| state.state() == wanted)?;
        Some(sub_range(range, span, run).start())
    }

    /// Bytes the ledger takes, not counting the allocator's own.
    pub fn memory_bytes(&self) -> usize {
        size_of::<Self>() - size_of::<Store>() + self.store.memory_bytes()
    }

    /// A conversion's outcome.
    fn settle(&self, parts: &[GfnRange], outcome: Event) {
        if parts.is_empty() {
            return;
        }
        let mut writer = self.store.write();
        for span in parts.iter().filter_map(|part| self.span(*part).ok()) {
            writer.apply(span, outcome);
        }
    }

    /// The positions of `range` in RAM; they are consecutive because runs of RAM follow each other without a gap.
    #[inline]
    fn span(&self, range: GfnRange) -> Result<Span, LedgerError> {
        let Some(position) = self.ram.position_of(range) else {
            return Err(LedgerError::OutsideRam { page: self.first_outside(range), range });
        };
        let position = usize::try_from(position).ok();
        let pages = usize::try_from(range.pages().get()).ok();
        match (position, pages) {
            (Some(start), Some(pages)) => Ok(Span { start, end: start + pages }),
            _ => Err(LedgerError::OutsideRam { page: range.start(), range }),
        }
    }

    /// The first page of `range` that is not RAM, given that there is one.
    #[cold]
    fn first_outside(&self, range: GfnRange) -> Gfn {
        let mut page = range.start();
        for ram in self.ram.ranges() {
            if ram.contains(page) {
                page = Gfn::new(ram.end_number()).unwrap_or(page);
            }
        }
        page
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("ram", &self.ram).finish_non_exhaustive()
    }
}

/// The pages of `range` that lie at `run`, where `range` lies at `span`.
fn sub_range(range: GfnRange, span: Span, run: Span) -> GfnRange {
    if run == span {
        return range;
    }
    let start = range.start().number() + (run.start - span.start) as u64;
    let pages = PageCount::new((run.end - run.start) as u64);
    Gfn::new(start)
        .and_then(|start| GfnRange::new(start, pages).ok())
        .expect("a run that is not empty and lies in a range is a range")
}

/// Adds `run` to runs that end before it, joining the last one if they touch.
fn append(runs: &mut Parts, run: GfnRange) {
    match runs.last_mut() {
        Some(last) if last.end_number() == run.start().number() => {
            if let Some(longer) = last.joined(run) {
                *last = longer;
            }
        }
        _ => runs.push(run),
    }
}
