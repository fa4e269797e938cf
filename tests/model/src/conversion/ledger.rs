//! The ledger's transition table, asked of the ledger.
//!
//! For every state a page can have, a real [`Ledger`] is put into it and driven on; what becomes of the page, and what
//! a device is told of it, is what the model goes by. Nothing is written down here a second time.

use std::collections::HashMap;
use std::sync::OnceLock;

use gmem::layout::{MIN_RAM, RamLayout};
use gmem::ledger::{Ledger, Owner, PageState};
use gmem::{ByteLen, GfnRange, Gpa, PAGE_SIZE};

/// What can happen to a page here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Event {
    Begin(Owner),
    Commit,
    Abort,
    Doubt,
}

/// What the ledger answers to a beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Begun(PageState),
    /// The page has that owner already.
    Already,
    Refused,
}

/// A page's first state.
pub(super) fn initial(owner: Owner) -> PageState {
    let (ledger, page) = fresh(owner);
    state_of(&ledger, page)
}

/// What a page is after teardown.
pub(super) fn freed() -> PageState {
    table().freed
}

/// Whether a device is let at a page in this state.
pub(super) fn is_shared(state: PageState) -> bool {
    table().is_shared.get(&state).copied().unwrap_or(false)
}

/// What a conversion's beginning does.
pub(super) fn begin(state: PageState, to: Owner) -> Answer {
    match table().next.get(&(state, Event::Begin(to))) {
        Some(after) if *after == state => Answer::Already,
        Some(after) => Answer::Begun(*after),
        None => Answer::Refused,
    }
}

/// What its outcome does.
pub(super) fn outcome(state: PageState, event: Event) -> PageState {
    table().next.get(&(state, event)).copied().unwrap_or(state)
}

struct Table {
    next: HashMap<(PageState, Event), PageState>,
    is_shared: HashMap<PageState, bool>,
    freed: PageState,
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(ask)
}

fn ask() -> Table {
    let (ledger, page) = fresh(Owner::Private);
    ledger.free();
    let freed = state_of(&ledger, page);
    let mut table = Table { next: HashMap::new(), is_shared: HashMap::new(), freed };
    note(&mut table, &ledger, page);
    note_beginnings(&mut table, &ledger, page, freed);
    for to in [Owner::Shared, Owner::Private] {
        for ending in [Event::Commit, Event::Abort, Event::Doubt] {
            let (ledger, page) = fresh(to.other());
            let before = note(&mut table, &ledger, page);
            let conversion = ledger.begin(page, to).expect("a settled page can be converted");
            let moving = note(&mut table, &ledger, page);
            table.next.insert((before, Event::Begin(to)), moving);
            match ending {
                Event::Commit => conversion.commit(),
                Event::Abort => conversion.abort(),
                Event::Doubt | Event::Begin(_) => conversion.in_doubt(),
            }
            let after = note(&mut table, &ledger, page);
            table.next.insert((moving, ending), after);
            note_beginnings(&mut table, &ledger, page, after);
        }
    }
    table
}

/// A further conversion from a state that is no conversion. One that is refused is not in the table.
fn note_beginnings(table: &mut Table, ledger: &Ledger, page: GfnRange, state: PageState) {
    for to in [Owner::Shared, Owner::Private] {
        if let Ok(conversion) = ledger.begin(page, to) {
            let after = note(table, ledger, page);
            table.next.insert((state, Event::Begin(to)), after);
            conversion.abort();
        }
    }
}

fn note(table: &mut Table, ledger: &Ledger, page: GfnRange) -> PageState {
    let state = state_of(ledger, page);
    table.is_shared.insert(state, ledger.is_shared(page));
    state
}

fn fresh(owner: Owner) -> (Ledger, GfnRange) {
    let ram = RamLayout::new(ByteLen(MIN_RAM)).expect("the least RAM is RAM");
    let page = GfnRange::from_bytes(Gpa(PAGE_SIZE), ByteLen(PAGE_SIZE)).expect("one page");
    (Ledger::new(ram, owner), page)
}

fn state_of(ledger: &Ledger, page: GfnRange) -> PageState {
    ledger.state(page.start()).expect("the page is RAM")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The model rests on these; were the ledger's table another one, the model would say so elsewhere, less clearly.
    #[test]
    fn known_owner_the_table_is_the_ledgers() {
        assert_eq!(begin(PageState::Shared, Owner::Private), Answer::Begun(PageState::ConvertingToPrivate));
        assert_eq!(begin(PageState::Shared, Owner::Shared), Answer::Already);
        assert_eq!(begin(PageState::InDoubt, Owner::Shared), Answer::Refused);
        assert_eq!(begin(PageState::ConvertingToPrivate, Owner::Private), Answer::Refused);
        assert_eq!(outcome(PageState::ConvertingToShared, Event::Commit), PageState::Shared);
        assert_eq!(outcome(PageState::ConvertingToShared, Event::Abort), PageState::PrivateUntouched);
        assert_eq!(freed(), PageState::Freed);
        assert_eq!(begin(PageState::Freed, Owner::Shared), Answer::Refused);
        assert!(is_shared(PageState::Shared) && !is_shared(PageState::Freed));
        assert!(!is_shared(PageState::ConvertingToPrivate) && !is_shared(PageState::InDoubt));
    }
}
