//! The transition table itself: what must hold of it whatever its rows say.

use super::*;

#[test]
fn known_owner_codes_round_trip() {
    for state in Stored::ALL {
        assert_eq!(Stored::from_code(state.code().into()), state);
    }
}

/// A page that begins to move is converting, an abort undoes exactly that, and a commit gives it to whom it was for.
#[test]
fn known_owner_begin_then_outcome() {
    for state in Stored::ALL {
        for to in [Owner::Shared, Owner::Private] {
            let Some(moving) = next(state, Event::begin(to)).filter(|after| *after != state) else { continue };
            let converting = match to {
                Owner::Shared => PageState::ConvertingToShared,
                Owner::Private => PageState::ConvertingToPrivate,
            };
            assert_eq!(moving.state(), converting);
            assert_eq!(next(moving, Event::Abort), Some(state));
            assert_eq!(next(moving, Event::Commit), Some(to.into()));
            assert_eq!(next(moving, Event::Doubt), Some(Stored::InDoubt));
            assert_eq!(next(moving, Event::begin(to)), None);
        }
    }
}

/// Only teardown ends doubt, and nothing ends *freed*.
#[test]
fn known_owner_doubt_and_freed_are_final() {
    for event in Event::ALL {
        let doubtful = (event == Event::Free).then_some(Stored::Freed);
        assert_eq!(next(Stored::InDoubt, event), doubtful, "{event:?}");
        assert!(next(Stored::Freed, event).is_none_or(|after| after == Stored::Freed), "{event:?}");
    }
}

/// A page becomes shared only by the end of a conversion; nothing else opens it to devices.
#[test]
fn known_owner_shared_only_by_an_outcome() {
    for state in Stored::ALL.into_iter().filter(|state| *state != Stored::Shared) {
        for event in Event::ALL {
            if next(state, event) == Some(Stored::Shared) {
                let moving = matches!(state.state(), PageState::ConvertingToShared | PageState::ConvertingToPrivate);
                assert!(moving && matches!(event, Event::Commit | Event::Abort), "{state:?} {event:?}");
            }
        }
    }
}
