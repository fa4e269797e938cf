//! Teardown, as far as conversions see it: `Core::settle`, the closing of the guest_memfd, and the end of the ledger
//! (`gmem/kvm/src/teardown.rs`).

use super::{Contents, PAGE, PAGES, State, VCPUS, ledger, name};
use crate::protocol::Steps;

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Teardown {
    /// Not in this form of the model.
    Never,
    NotYet,
    /// Conversions are told to stop.
    Closing,
    HasLock,
    Settled,
    /// The guest_memfd is closed.
    Closed,
    /// Every page is freed in the ledger.
    Done,
}

/// What it holds the conversion lock as.
const HOLDER: usize = VCPUS;

/// What it can do next.
pub(super) fn steps(steps: &mut Steps<'_, State>) {
    const WHO: &str = "teardown";
    let s = steps.state();
    match s.teardown {
        Teardown::NotYet => steps.add(WHO, "begins: conversions are to stop", |s| {
            s.closing = true;
            s.teardown = Teardown::Closing;
        }),
        Teardown::Closing if s.lock.is_none() => steps.add(WHO, "takes the conversion lock", |s| {
            s.lock = Some(HOLDER);
            s.teardown = Teardown::HasLock;
        }),
        Teardown::HasLock => settle(steps),
        Teardown::Settled => steps.add(WHO, "closes the guest_memfd: its pages are freed", |s| {
            s.pages.iter_mut().for_each(|page| page.private = Contents::Nothing);
            s.teardown = Teardown::Closed;
        }),
        Teardown::Closed => steps.add(WHO, "frees every page in the ledger", |s| {
            s.pages.iter_mut().for_each(|page| page.ledger = ledger::freed());
            s.teardown = Teardown::Done;
        }),
        Teardown::Never | Teardown::Closing | Teardown::Done => {}
    }
}

/// Tries debts a last time, then lets the lock go. One that cannot be paid stays, and is on the receipt.
fn settle(steps: &mut Steps<'_, State>) {
    const WHO: &str = "teardown";
    let s = steps.state();
    let owed = (0..PAGES).find_map(|number| Some((number, s.pages[number].debt?)));
    if let Some((number, side)) = owed {
        steps.add(WHO, ("pays a debt: discards the {} copy of page {}", [name(side), PAGE[number]]), |s| {
            *s.pages[number].copy(side) = Contents::Nothing;
            s.pages[number].debt = None;
        });
    }
    if owed.is_none() || s.failures != 0 {
        steps.add(WHO, "has tried every debt, drops the lock", |s| {
            s.lock = None;
            s.teardown = Teardown::Settled;
        });
    }
}
