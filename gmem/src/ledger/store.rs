//! Where the states are kept: an entry word per 2 MiB of RAM, and a leaf of four bits a page where an entry is mixed.
//!
//! Owns the words, their layout and the argument why readers need no lock. Pages are positions in RAM, from 0. Which
//! changes are allowed is not decided here but by [`super::state::next`].
//!
//! # Words
//!
//! An entry is *uniform*: its word holds the one state of all its pages; or *split*: its word says so and the states
//! are in its leaf. An entry gets a leaf when it first splits and keeps it for good: the word of an entry that became
//! uniform again still names it, so that the next split needs no allocation and readers that are late still look at
//! the right leaf. Leaves are never moved, shared or freed while the ledger lives. They come in buckets, allocated
//! when the first of their leaves is needed. The guest decides what is split, so the worst case counts: 256 bytes of
//! leaf, 4 of entry and a share of the directory for 512 pages, just over half a byte a page.
//!
//! An entry goes back to uniform when one change covers all of it: then conversions of whole entries, the census and
//! lookups of long ranges are a matter of one word again. A change of a few pages does not look for it. It would cost
//! more than the change, and a guest that shares and takes back one page again and again would pay for filling the leaf
//! each time as well.
//!
//! In the last entry, the pages beyond the end of RAM copy the last page, so that no check needs to know the end.
//!
//! # Readers and writers
//!
//! Writers hold the mutex, so there is one at a time. Readers hold nothing and take a fixed number of steps for a page: a
//! load of the entry word and, if it is split, one of the bucket's pointer and one of a leaf word. All stores are
//! `Release`, all loads `Acquire`. A reader gets, for each page, a state the page had at some moment between the start
//! and the end of the call. Because:
//!
//! 1. *A leaf only ever holds current states.* A writer splits an entry by (a) filling its leaf with the uniform state,
//!    (b) storing the split word, (c) changing pages in the leaf; (a) and (b) change no page's state. While an entry is
//!    uniform, nothing is stored to its leaf, which keeps the states of the moment it became uniform.
//! 2. *Split word, then leaf.* The `Acquire` load of a split word makes the fill it was published with visible, and
//!    the bucket it lies in. The leaf word may be newer than that: then it is a later state of the page, stored during
//!    the reader's call. If the entry became uniform in between, the leaf may be behind the word, but what it holds
//!    was true when the word was stored, which is after the reader loaded the old one, so also during the call.
//! 3. *No going back.* Lookups that happen one after the other never see a page return to an earlier state. The entry
//!    word and the leaf word are each coherent by themselves; and whoever read a leaf word finds in the entry word what
//!    was stored before that leaf word, or newer, because leaf words are stored `Release`.
//!
//! Law 5 (*shared-only*) needs more: a host thread that announces its access (epoch guard), executes a `SeqCst` fence
//! and then looks here, against a conversion that begins here, executes a `SeqCst` fence and then looks for guards; at
//! least one must see the other. The fences are the caller's. They suffice: one of the two fences comes first. If it is
//! the conversion's, the reader's loads of the entry word and of the leaf word each return the last store before that
//! fence or a newer one, hence by 1 and 2 a state not older than *Converting*.
//!
//! A range is looked up piece by piece; there is no snapshot of several pages without the lock.
//!
//! `gmem/tests/ledger_orders.rs` puts this file under a model checker and checks all of it.

use std::mem::size_of;
use std::sync::PoisonError;

use super::lanes::{PAGES_PER_WORD, groups, lanes_between, lanes_equal, run_from, splat, state_at, with};
use super::state::{Event, Stored, next};
use super::words::{AtomicU32, AtomicU64, LEAVES_PER_BUCKET, Mutex, MutexGuard, OnceLock, Ordering, PAGES_PER_ENTRY};
use crate::address::PAGE_SIZE;
use crate::layout::MAX_RAM;

const WORDS_PER_LEAF: usize = PAGES_PER_ENTRY / PAGES_PER_WORD;

/// The states of the pages of a split entry.
#[repr(align(64))]
struct Leaf([AtomicU64; WORDS_PER_LEAF]);

/// A leaf, numbered from 0 in the order they were given to entries.
#[derive(Clone, Copy, PartialEq, Eq)]
struct LeafNumber(u32);

impl LeafNumber {
    /// Bucket, and place in the bucket.
    fn place(self) -> (usize, usize) {
        let number = self.0 as usize;
        (number / LEAVES_PER_BUCKET, number % LEAVES_PER_BUCKET)
    }
}

/// An entry word taken apart. Bit 31 says split; bits 30..4 are the leaf's number plus one, or 0 while the entry never
/// had one; bits 3..0 are the state of a uniform entry.
#[derive(Clone, Copy)]
enum Entry {
    Uniform(Stored, Option<LeafNumber>),
    Split(LeafNumber),
}

const SPLIT: u32 = 1 << 31;
const LEAF_SHIFT: u32 = 4;
const STATE_MASK: u32 = (1 << LEAF_SHIFT) - 1;

const _: () = assert!(MAX_RAM / PAGE_SIZE / (PAGES_PER_ENTRY as u64) < (SPLIT >> LEAF_SHIFT) as u64);

impl Entry {
    #[inline]
    fn load(word: &AtomicU32) -> Self {
        let word = word.load(Ordering::Acquire);
        let leaf = ((word & !SPLIT) >> LEAF_SHIFT).checked_sub(1).map(LeafNumber);
        match leaf {
            Some(leaf) if word & SPLIT != 0 => Self::Split(leaf),
            _ => Self::Uniform(Stored::from_code((word & STATE_MASK).into()), leaf),
        }
    }

    /// Makes it what readers find.
    fn publish(self, word: &AtomicU32) {
        word.store(self.word(), Ordering::Release);
    }

    fn word(self) -> u32 {
        let leaf = |leaf: LeafNumber| (leaf.0 + 1) << LEAF_SHIFT;
        match self {
            Self::Uniform(state, number) => number.map_or(0, leaf) | u32::from(state.code()),
            Self::Split(number) => leaf(number) | SPLIT,
        }
    }
}

/// Positions `start..end` of pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) start: usize,
    pub(super) end: usize,
}

impl Span {
    pub(super) fn is_one_page(self) -> bool {
        self.end - self.start == 1
    }

    /// The span in pieces that do not cross a multiple of `grid`: the multiple's number and the places inside.
    fn cut(self, grid: usize) -> impl Iterator<Item = (usize, Span)> {
        let mut at = self.start;
        std::iter::from_fn(move || {
            if at >= self.end {
                return None;
            }
            let (number, base) = (at / grid, at - at % grid);
            let piece = Span { start: at - base, end: self.end.min(base + grid) - base };
            at = base + grid;
            Some((number, piece))
        })
    }
}

/// The states of all pages of RAM.
pub(super) struct Store {
    pages: usize,
    entries: Box<[AtomicU32]>,
    buckets: Box<[OnceLock<Box<[Leaf]>>]>,
    writer: Mutex<LeavesGiven>,
}

/// How many leaves entries have: what only the writer knows.
struct LeavesGiven(u32);

impl Store {
    pub(super) fn new(pages: usize, initial: Stored) -> Self {
        let entries = pages.div_ceil(PAGES_PER_ENTRY);
        let word = Entry::Uniform(initial, None).word();
        Self {
            pages,
            entries: (0..entries).map(|_| AtomicU32::new(word)).collect(),
            buckets: (0..entries.div_ceil(LEAVES_PER_BUCKET)).map(|_| OnceLock::new()).collect(),
            writer: Mutex::new(LeavesGiven(0)),
        }
    }

    /// All pages.
    pub(super) fn span(&self) -> Span {
        Span { start: 0, end: self.pages }
    }

    /// The state of one page, which must exist.
    #[inline]
    pub(super) fn get(&self, page: usize) -> Stored {
        match Entry::load(&self.entries[page / PAGES_PER_ENTRY]) {
            Entry::Uniform(state, _) => state,
            Entry::Split(leaf) => {
                let page = page % PAGES_PER_ENTRY;
                self.leaf(leaf).map_or(Stored::InDoubt, |leaf| {
                    state_at(leaf.0[page / PAGES_PER_WORD].load(Ordering::Acquire), page % PAGES_PER_WORD)
                })
            }
        }
    }

    /// Whether every page of `span` is `state`.
    #[inline]
    pub(super) fn all(&self, span: Span, state: Stored) -> bool {
        if span.is_one_page() {
            return self.get(span.start) == state;
        }
        span.cut(PAGES_PER_ENTRY).all(|(entry, pages)| match Entry::load(&self.entries[entry]) {
            Entry::Uniform(found, _) => found == state,
            Entry::Split(leaf) => self.leaf(leaf).is_some_and(|leaf| {
                pages.cut(PAGES_PER_WORD).all(|(word, pages)| {
                    let wanted = lanes_between(pages.start, pages.end);
                    lanes_equal(leaf.0[word].load(Ordering::Acquire), state) & wanted == wanted
                })
            }),
        })
    }

    /// Runs of pages of equal state, in order; neighbours may have the same state.
    pub(super) fn runs(&self, span: Span) -> impl Iterator<Item = (Span, Stored)> {
        let mut at = span.start;
        std::iter::from_fn(move || {
            if at >= span.end {
                return None;
            }
            let (state, length) = self.run_from(at);
            let run = Span { start: at, end: span.end.min(at + length) };
            at = run.end;
            Some((run, state))
        })
    }

    /// The state of `page` and for how many pages it surely goes on, within the entry or the leaf's word.
    #[inline]
    fn run_from(&self, page: usize) -> (Stored, usize) {
        let (entry, page) = (page / PAGES_PER_ENTRY, page % PAGES_PER_ENTRY);
        let to_end = PAGES_PER_ENTRY - page;
        match Entry::load(&self.entries[entry]) {
            Entry::Uniform(state, _) => (state, to_end),
            Entry::Split(leaf) => self.leaf(leaf).map_or((Stored::InDoubt, to_end), |leaf| {
                let (word, page) = (leaf.0[page / PAGES_PER_WORD].load(Ordering::Acquire), page % PAGES_PER_WORD);
                (state_at(word, page), run_from(word, page))
            }),
        }
    }

    /// How many pages have each state, by code: whole entries at once, leaves word by word.
    pub(super) fn counts(&self) -> [u64; 8] {
        let mut counts = [0; 8];
        for (entry, pages) in self.span().cut(PAGES_PER_ENTRY) {
            let mut add = |state: Stored, pages: u64| counts[usize::from(state.code())] += pages;
            let all = (pages.end - pages.start) as u64;
            match Entry::load(&self.entries[entry]) {
                Entry::Uniform(state, _) => add(state, all),
                Entry::Split(leaf) => match self.leaf(leaf) {
                    None => add(Stored::InDoubt, all),
                    Some(leaf) => {
                        for (word, pages) in pages.cut(PAGES_PER_WORD) {
                            let lanes = lanes_between(pages.start, pages.end);
                            for (state, found) in groups(leaf.0[word].load(Ordering::Acquire), lanes) {
                                add(state, found.count_ones().into());
                            }
                        }
                    }
                },
            }
        }
        counts
    }

    /// Bytes the store takes, what it points to included.
    pub(super) fn memory_bytes(&self) -> usize {
        let leaves: usize =
            self.buckets.iter().filter_map(OnceLock::get).map(|bucket| size_of_val::<[Leaf]>(bucket)).sum();
        size_of::<Self>() + size_of_val::<[_]>(&self.entries) + size_of_val::<[_]>(&self.buckets) + leaves
    }

    /// Keeps other writers out until it is dropped.
    ///
    /// A writer that panicked left every word it stored legal and its conversion in doubt, so poison means nothing.
    pub(super) fn write(&self) -> Writer<'_> {
        Writer { store: self, given: self.writer.lock().unwrap_or_else(PoisonError::into_inner) }
    }

    /// A leaf by number. It exists: its bucket was stored before any word that names it. Readers answer *in doubt* all
    /// the same rather than trust that with a panic.
    #[inline]
    fn leaf(&self, number: LeafNumber) -> Option<&Leaf> {
        let (bucket, place) = number.place();
        self.buckets.get(bucket)?.get()?.get(place)
    }
}

/// The one who may change states.
pub(super) struct Writer<'a> {
    store: &'a Store,
    given: MutexGuard<'a, LeavesGiven>,
}

impl<'a> Writer<'a> {
    /// Lets `event` happen to every page of `span`; pages that refuse it stay as they are.
    pub(super) fn apply(&mut self, span: Span, event: Event) {
        let mut span = span;
        if span.end == self.store.pages {
            span.end = span.end.next_multiple_of(PAGES_PER_ENTRY); // the copies of the last page
        }
        if self.apply_in_one_word(span, event) {
            return;
        }
        for (entry, pages) in span.cut(PAGES_PER_ENTRY) {
            self.apply_to_entry(entry, pages, event);
        }
    }

    /// The short way for a few neighbours in an entry that is split, which is what most conversions are. Returns
    /// whether it was one; nothing changed if not.
    fn apply_in_one_word(&mut self, span: Span, event: Event) -> bool {
        let (entry, page) = (span.start / PAGES_PER_ENTRY, span.start % PAGES_PER_ENTRY);
        let (place, from) = (page / PAGES_PER_WORD, page % PAGES_PER_WORD);
        let to = from + (span.end - span.start);
        let Entry::Split(number) = Entry::load(&self.store.entries[entry]) else { return false };
        let Some(leaf) = self.store.leaf(number).filter(|_| to <= PAGES_PER_WORD) else { return false };
        change(&leaf.0[place], lanes_between(from, to), event);
        true
    }

    #[inline(never)] // Its registers are not to be saved for the short way.
    fn apply_to_entry(&mut self, entry: usize, pages: Span, event: Event) {
        let word = &self.store.entries[entry];
        let (number, leaf) = match Entry::load(word) {
            Entry::Uniform(state, number) => {
                let Some(after) = next(state, event).filter(|after| *after != state) else { return };
                if pages.end - pages.start == PAGES_PER_ENTRY {
                    return Entry::Uniform(after, number).publish(word);
                }
                let (number, leaf) = self.leaf(number);
                for states in &leaf.0 {
                    states.store(splat(state), Ordering::Release);
                }
                Entry::Split(number).publish(word);
                (number, leaf)
            }
            Entry::Split(number) => self.leaf(Some(number)),
        };
        for (place, pages) in pages.cut(PAGES_PER_WORD) {
            change(&leaf.0[place], lanes_between(pages.start, pages.end), event);
        }
        if pages.end - pages.start < PAGES_PER_ENTRY {
            return; // It may be uniform now; the module says why nobody looks.
        }
        let first = state_at(leaf.0[0].load(Ordering::Acquire), 0);
        if leaf.0.iter().all(|states| states.load(Ordering::Acquire) == splat(first)) {
            Entry::Uniform(first, Some(number)).publish(word);
        }
    }

    /// The entry's leaf, or the next one. There are as many leaves as entries, so none is ever wanting.
    fn leaf(&mut self, number: Option<LeafNumber>) -> (LeafNumber, &'a Leaf) {
        let store = self.store;
        let number = number.unwrap_or_else(|| {
            self.given.0 += 1;
            LeafNumber(self.given.0 - 1)
        });
        let (bucket, place) = number.place();
        let leaves = store.buckets[bucket].get_or_init(|| {
            let rest = store.entries.len() - bucket * LEAVES_PER_BUCKET;
            (0..rest.min(LEAVES_PER_BUCKET)).map(|_| Leaf(Default::default())).collect()
        });
        (number, &leaves[place])
    }
}

/// Lets `event` happen to the pages `lanes` of a leaf's word.
fn change(word: &AtomicU64, lanes: u64, event: Event) {
    let before = word.load(Ordering::Acquire);
    let outcome = |state| next(state, event).unwrap_or(state);
    let after = groups(before, lanes).fold(before, |after, (state, lanes)| with(after, lanes, outcome(state)));
    word.store(after, Ordering::Release);
}
