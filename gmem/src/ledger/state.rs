//! The states of a page and the one table that says how they change.
//!
//! Owns the rules. Everything in the ledger that changes a page asks [`next`]; nothing else decides.

use std::fmt;

/// Who a conversion gives a page to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    /// Guest and host: what devices may reach.
    Shared,
    /// The guest alone.
    Private,
}

impl Owner {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::Shared => Self::Private,
            Self::Private => Self::Shared,
        }
    }
}

/// Who may own a page, as far as the host can know: an upper bound on what the guest made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PageState {
    /// The host may read and write it.
    Shared,
    /// Private, and nothing was put there by the launch.
    PrivateUntouched,
    /// Private, and the launch put contents there.
    PrivatePopulated,
    /// On its way from private to shared: nobody may rely on either.
    ConvertingToShared,
    /// On its way from shared to private: no new host access.
    ConvertingToPrivate,
    /// A conversion ended with an unknown outcome; only teardown ends the doubt.
    InDoubt,
    /// The VM gave it up.
    Freed,
}

/// What the ledger stores for a page: its [`PageState`], and while it is on its way to shared also what an abort goes
/// back to. Three bits; the discriminant is the stored code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Stored {
    Shared = 0,
    Untouched = 1,
    Populated = 2,
    UntouchedToShared = 3,
    PopulatedToShared = 4,
    ToPrivate = 5,
    InDoubt = 6,
    Freed = 7,
}

/// What can happen to a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Event {
    BeginShared,
    BeginPrivate,
    Commit,
    Abort,
    Doubt,
    Populate,
    Free,
}

impl Stored {
    /// In the order of their codes.
    pub(super) const ALL: [Self; 8] = [
        Self::Shared,
        Self::Untouched,
        Self::Populated,
        Self::UntouchedToShared,
        Self::PopulatedToShared,
        Self::ToPrivate,
        Self::InDoubt,
        Self::Freed,
    ];
}

impl Event {
    pub(super) const ALL: [Self; 7] =
        [Self::BeginShared, Self::BeginPrivate, Self::Commit, Self::Abort, Self::Doubt, Self::Populate, Self::Free];

    /// The beginning of a conversion.
    pub(super) const fn begin(to: Owner) -> Self {
        match to {
            Owner::Shared => Self::BeginShared,
            Owner::Private => Self::BeginPrivate,
        }
    }
}

/// The state after `event`, or `None` if the event is refused: what [`rule`] says, looked up, because every conversion
/// asks it several times.
#[inline]
pub(super) const fn next(state: Stored, event: Event) -> Option<Stored> {
    static TABLE: [[Option<Stored>; Stored::ALL.len()]; Event::ALL.len()] = {
        let mut table = [[None; Stored::ALL.len()]; Event::ALL.len()];
        let mut place = 0;
        while place < Stored::ALL.len() * Event::ALL.len() {
            let (event, state) = (Event::ALL[place / Stored::ALL.len()], Stored::ALL[place % Stored::ALL.len()]);
            table[event as usize][state as usize] = rule(state, event);
            place += 1;
        }
        table
    };
    TABLE[event as usize][state as usize]
}

/// The transition table: the state after `event`, or `None` if the event is refused.
///
/// | state | begin(shared) | begin(private) | commit | abort | doubt | populate | free |
/// |---|---|---|---|---|---|---|---|
/// | shared               | *same*              | to private | –         | –         | –        | –         | freed |
/// | untouched            | untouched to shared | *same*     | –         | –         | –        | populated | freed |
/// | populated            | populated to shared | *same*     | –         | –         | –        | –         | freed |
/// | untouched to shared  | –                   | –          | shared    | untouched | in doubt | –         | freed |
/// | populated to shared  | –                   | –          | shared    | populated | in doubt | –         | freed |
/// | to private           | –                   | –          | untouched | shared    | in doubt | –         | freed |
/// | in doubt             | –                   | –          | –         | –         | –        | –         | freed |
/// | freed                | –                   | –          | *same*    | *same*    | *same*   | –         | *same* |
///
/// A page converted to private counts as untouched: what it held as shared memory is gone. A conversion that outlives
/// the teardown of its VM has nothing left to settle, so the last row takes its outcome and changes nothing.
const fn rule(state: Stored, event: Event) -> Option<Stored> {
    use Stored::*;
    Some(match (state, event) {
        (_, Event::Free) => Freed,

        (Shared, Event::BeginShared) => Shared,
        (Untouched, Event::BeginShared) => UntouchedToShared,
        (Populated, Event::BeginShared) => PopulatedToShared,
        (Shared, Event::BeginPrivate) => ToPrivate,
        (Untouched | Populated, Event::BeginPrivate) => state,

        (UntouchedToShared | PopulatedToShared, Event::Commit) => Shared,
        (UntouchedToShared, Event::Abort) => Untouched,
        (PopulatedToShared, Event::Abort) => Populated,
        (ToPrivate, Event::Commit) => Untouched,
        (ToPrivate, Event::Abort) => Shared,
        (UntouchedToShared | PopulatedToShared | ToPrivate, Event::Doubt) => InDoubt,
        (Freed, Event::Commit | Event::Abort | Event::Doubt) => Freed,

        (Untouched, Event::Populate) => Populated,

        _ => return None,
    })
}

impl Stored {
    /// What three stored bits mean.
    pub(super) const fn from_code(code: u64) -> Self {
        match code & 0b111 {
            0 => Self::Shared,
            1 => Self::Untouched,
            2 => Self::Populated,
            3 => Self::UntouchedToShared,
            4 => Self::PopulatedToShared,
            5 => Self::ToPrivate,
            7 => Self::Freed,
            _ => Self::InDoubt,
        }
    }

    pub(super) const fn code(self) -> u8 {
        self as u8
    }

    /// What a reader is told.
    pub(super) const fn state(self) -> PageState {
        match self {
            Self::Shared => PageState::Shared,
            Self::Untouched => PageState::PrivateUntouched,
            Self::Populated => PageState::PrivatePopulated,
            Self::UntouchedToShared | Self::PopulatedToShared => PageState::ConvertingToShared,
            Self::ToPrivate => PageState::ConvertingToPrivate,
            Self::InDoubt => PageState::InDoubt,
            Self::Freed => PageState::Freed,
        }
    }
}

impl From<Owner> for Stored {
    /// What a page of that owner is before anything happened to it.
    fn from(owner: Owner) -> Self {
        match owner {
            Owner::Shared => Self::Shared,
            Owner::Private => Self::Untouched,
        }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "shared",
            Self::Private => "private",
        })
    }
}

impl fmt::Display for PageState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Shared => "shared",
            Self::PrivateUntouched => "private, untouched",
            Self::PrivatePopulated => "private, populated",
            Self::ConvertingToShared => "converting to shared",
            Self::ConvertingToPrivate => "converting to private",
            Self::InDoubt => "in doubt",
            Self::Freed => "freed",
        })
    }
}
