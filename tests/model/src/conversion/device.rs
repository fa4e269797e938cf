//! A device: it enters an epoch, asks the ledger, touches the page, leaves.

use super::{Change, Contents, Conversion, PAGE, State, ledger};
use crate::protocol::Steps;

/// Where it is, and with which page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Device {
    Idle,
    /// Has read the epoch.
    HasEpoch {
        page: usize,
        epoch: u8,
    },
    /// Has counted itself in.
    Announced {
        page: usize,
        epoch: u8,
    },
    /// The epoch was over when it had counted itself in.
    TooLate {
        page: usize,
    },
    /// Holds a guard.
    Guarded {
        page: usize,
        parity: usize,
    },
    Refused,
    Allowed {
        page: usize,
        parity: usize,
    },
    Touched {
        parity: usize,
    },
    /// Holds a guard and never goes on: not what a guard is for, but teardown must not wait for it.
    Hangs,
    /// A mutant asked the ledger before it had a guard.
    Hasty {
        page: usize,
    },
}

/// What it can do next.
pub(super) fn steps(how: &Conversion, steps: &mut Steps<'_, State>) {
    const WHO: &str = "device";
    let s = steps.state();
    let late_guard = how.is(Change::GuardAfterCheck);
    match s.device {
        Device::Idle if s.accesses != 0 => {
            for (page, number) in PAGE.into_iter().enumerate() {
                if late_guard {
                    look(page, steps, |page| Device::Hasty { page });
                } else {
                    steps.add(WHO, ("wants page {}, reads the epoch", [number, ""]), |s| {
                        s.accesses -= 1;
                        s.device = Device::HasEpoch { page, epoch: s.epoch };
                    });
                }
            }
        }
        Device::Idle => {}
        Device::Hasty { page } => steps.add(WHO, "reads the epoch", |s| {
            s.device = Device::HasEpoch { page, epoch: s.epoch };
        }),
        Device::HasEpoch { page, epoch } => steps.add(WHO, "counts itself into that epoch", |s| {
            s.active[parity(epoch)] += 1;
            s.device = Device::Announced { page, epoch };
        }),
        Device::Announced { page, epoch } => {
            let guarded = Device::Guarded { page, parity: parity(epoch) };
            if how.is(Change::NoSecondLook) {
                steps.add(WHO, "does not look at the epoch again", |s| s.device = guarded);
            } else if s.epoch == epoch {
                steps.add(WHO, "finds the epoch unchanged: it has a guard", |s| s.device = guarded);
            } else {
                steps.add(WHO, "finds that the epoch is over, counts itself out", |s| {
                    s.active[parity(epoch)] -= 1;
                    s.device = Device::TooLate { page };
                });
            }
        }
        Device::TooLate { page } => steps.add(WHO, "reads the epoch again", |s| {
            s.device = Device::HasEpoch { page, epoch: s.epoch };
        }),
        Device::Guarded { page, parity } if late_guard => {
            steps.add(WHO, "does not look at the ledger again", |s| s.device = Device::Allowed { page, parity });
        }
        Device::Guarded { page, parity } => {
            if ledger::is_shared(s.pages[page].ledger) {
                steps.add(WHO, "finds the page shared", |s| s.device = Device::Allowed { page, parity });
            } else {
                steps.add(WHO, "finds the page not shared, leaves", |s| {
                    s.active[parity] -= 1;
                    s.device = Device::Refused;
                });
            }
        }
        Device::Refused => steps.add(WHO, "reports an error", |s| s.device = Device::Idle),
        Device::Hangs => {}
        Device::Allowed { page, parity } => {
            if how.teardown {
                steps.add(WHO, "hangs, with its guard", |s| s.device = Device::Hangs);
            }
            steps.add(WHO, ("writes to page {}", [PAGE[page], ""]), |s| {
                s.trespass |= is_trespass(s, page);
                s.pages[page].shared = Contents::Data;
                s.device = Device::Touched { parity };
            });
        }
        Device::Touched { parity } => steps.add(WHO, "leaves", |s| {
            s.active[parity] -= 1;
            s.device = Device::Idle;
        }),
    }
}

/// A mutant's look at the ledger, before it has a guard.
fn look(page: usize, steps: &mut Steps<'_, State>, then: fn(usize) -> Device) {
    let allowed = ledger::is_shared(steps.state().pages[page].ledger);
    let found = if allowed { "shared" } else { "not shared" };
    steps.add("device", ("finds page {} {}", [PAGE[page], found]), |s| {
        s.accesses -= 1;
        s.device = if allowed { then(page) } else { Device::Refused };
    });
}

/// Whether the host has no business in this page any more.
fn is_trespass(s: &State, page: usize) -> bool {
    use gmem::ledger::PageState::{ConvertingToPrivate, Freed, Shared};
    let drained = s.vcpus.iter().any(|vcpu| vcpu.has_drained(page));
    // Teardown frees pages under guards: what is shared stays until the last guard goes.
    let freed = s.pages[page].ledger == Freed && s.pages[page].attribute == gmem::ledger::Owner::Shared;
    drained || !(freed || matches!(s.pages[page].ledger, Shared | ConvertingToPrivate))
}

fn parity(epoch: u8) -> usize {
    usize::from(epoch % 2)
}
