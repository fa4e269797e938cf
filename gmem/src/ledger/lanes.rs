//! Sixteen pages in a word: four bits each, of which a state takes three, worked on together.
//!
//! Owns the bit arithmetic and knows nothing of entries or locks. A *lane mask* has the lowest bit of each chosen page's four bits set, so that mask × code puts a code there.

use super::state::Stored;

pub(super) const PAGES_PER_WORD: usize = 16;
const BITS_PER_PAGE: usize = 4;
/// The bits of a page that hold its state; the fourth is spare, zero, and never looked at.
const CODE_MASK: u64 = 0b111;
/// Every page of a word.
pub(super) const ALL_LANES: u64 = 0x1111_1111_1111_1111;

/// The pages `from..to` of a word, `to` at most [`PAGES_PER_WORD`].
pub(super) const fn lanes_between(from: usize, to: usize) -> u64 {
    if from >= to {
        return 0;
    }
    (ALL_LANES >> ((PAGES_PER_WORD - (to - from)) * BITS_PER_PAGE)) << (from * BITS_PER_PAGE)
}

/// A word whose pages are all `state`.
pub(super) const fn splat(state: Stored) -> u64 {
    ALL_LANES * state.code() as u64
}

/// The state of page `page` of `word`.
pub(super) const fn state_at(word: u64, page: usize) -> Stored {
    Stored::from_code((word >> (page * BITS_PER_PAGE)) & CODE_MASK)
}

/// The pages of `word` that are `state`.
pub(super) const fn lanes_equal(word: u64, state: Stored) -> u64 {
    let differs = (word ^ splat(state)) & (ALL_LANES * CODE_MASK);
    let differs = differs | (differs >> 1);
    let differs = differs | (differs >> 2);
    !differs & ALL_LANES
}

/// How many pages in a row from `page` on have that page's state.
pub(super) const fn run_from(word: u64, page: usize) -> usize {
    let others = !lanes_equal(word, state_at(word, page)) & lanes_between(page, PAGES_PER_WORD);
    let end = if others == 0 { PAGES_PER_WORD } else { others.trailing_zeros() as usize / BITS_PER_PAGE };
    end - page
}

/// `word` with `state` in the pages `lanes`.
pub(super) const fn with(word: u64, lanes: u64, state: Stored) -> u64 {
    (word & !(lanes * CODE_MASK)) | (lanes * state.code() as u64)
}

/// The states found in the pages `lanes` of `word`, each once, with the pages that have it.
pub(super) fn groups(word: u64, lanes: u64) -> impl Iterator<Item = (Stored, u64)> {
    let mut rest = lanes;
    std::iter::from_fn(move || {
        if rest == 0 {
            return None;
        }
        let state = state_at(word, rest.trailing_zeros() as usize / BITS_PER_PAGE);
        let found = lanes_equal(word, state) & rest;
        rest &= !found;
        Some((state, found))
    })
}
