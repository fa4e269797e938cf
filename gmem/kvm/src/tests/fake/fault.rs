//! Calls that fail on demand.

use super::record::Kind;

/// What a call that fails on demand does besides failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effect {
    /// It fails before it changes anything.
    Nothing,
    /// It does all it was asked for, and then says it failed.
    Done,
}

#[derive(Debug, Default)]
pub(crate) struct Faults {
    once: Vec<Once>,
    always: Vec<(Kind, i32)>,
}

#[derive(Debug)]
struct Once {
    kind: Kind,
    calls_left: u64,
    errno: i32,
    effect: Effect,
}

impl Faults {
    pub(super) fn plan(&mut self, kind: Kind, nth: u64, errno: i32, effect: Effect) {
        self.once.push(Once { kind, calls_left: nth.max(1), errno, effect });
    }

    pub(super) fn plan_always(&mut self, kind: Kind, errno: i32) {
        self.always.push((kind, errno));
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Counts a call; says how it fails if its turn has come.
    pub(super) fn strike(&mut self, kind: Kind) -> Option<(i32, Effect)> {
        let mut struck = None;
        self.once.retain_mut(|fault| {
            if fault.kind != kind {
                return true;
            }
            fault.calls_left -= 1;
            if fault.calls_left == 0 {
                struck = Some((fault.errno, fault.effect));
            }
            fault.calls_left != 0
        });
        let always = self.always.iter().find(|(other, _)| *other == kind);
        struck.or(always.map(|(_, errno)| (*errno, Effect::Nothing)))
    }
}
