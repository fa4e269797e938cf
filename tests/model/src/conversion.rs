//! Our own protocol: conversions of pages against devices and guests. Laws *no-stale-copy* and *shared-only*.
//!
//! No mail, but the code of `gmem/kvm/src/convert.rs` (`Core::convert_piece` and the conversion lock),
//! `gmem/kvm/src/shared.rs` and `gmem/kvm/src/shared/epochs.rs` (a device's guard, a conversion's wait). The ledger's
//! transition table is asked of `gmem::ledger` itself (`conversion/ledger.rs`), so that model and code cannot drift
//! apart. On the kernel's side there are `KVM_SET_MEMORY_ATTRIBUTES` and the discarding of a copy, each of which may
//! fail, the first one also with an outcome nobody knows.
//!
//! **One step** is one access to epoch, count, ledger, attribute or a copy of a page. Epochs go through their steps one
//! by one, as in the source.
//!
//! **Left out, and why that is sound.** Two pages, each a request of its own: what of a larger one is worked off under
//! one hold of the lock are steps of the same order. Requests that the desk carries out together are one request. The
//! order in which the lock is given is any order, of which the desk's line is one. Memory is sequentially consistent
//! here; the fences that make it so are `gmem/kvm/tests/epoch_orders.rs`'s. A copy is *data* or *nothing*: what was
//! discarded reads as zeroes. Implicit conversions (a guest touches a page as what it is not, and the exit tells us)
//! are not built yet for lack of SNP and TDX; they are here as the laws demand them. Teardown at any moment is a form
//! of its own, with fewer requests, in which a device may hang with its guard.
//!
//! **Hidden by it:** that under TDX the attribute itself already destroys what was private, so that there is less left
//! to discard.

mod converter;
mod device;
mod ledger;
mod teardown;

use gmem::ledger::{Owner, PageState};

use crate::protocol::{Claim, Kind, Protocol, Steps};
use crate::suite::{Case, Study};

const PAGES: usize = 2;
/// Their names in schedules.
const PAGE: [&str; PAGES] = ["0", "1"];
const VCPUS: usize = 2;
/// What each vCPU may ask for, and the device do.
const REQUESTS: [u8; VCPUS] = [2, 1];
const REQUESTS_WITH_TEARDOWN: [u8; VCPUS] = [1, 1];
const ACCESSES: u8 = 1;
/// Calls to the kernel that may fail in one run.
const FAILURES: u8 = 2;
const FAILURES_WITH_TEARDOWN: u8 = 1;

/// One copy of a page: in the shared memfd, or in the guest_memfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Contents {
    Nothing,
    Data,
}

/// One page, as everybody sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Page {
    /// The kernel's attribute.
    attribute: Owner,
    shared: Contents,
    private: Contents,
    ledger: PageState,
    /// Whose copy is left over because it could not be discarded.
    debt: Option<Owner>,
}

impl Page {
    fn copy(&mut self, owner: Owner) -> &mut Contents {
        match owner {
            Owner::Shared => &mut self.shared,
            Owner::Private => &mut self.private,
        }
    }

    const fn holds(&self, owner: Owner) -> Contents {
        match owner {
            Owner::Shared => self.shared,
            Owner::Private => self.private,
        }
    }
}

/// As [`Owner`] displays itself.
const fn name(owner: Owner) -> &'static str {
    match owner {
        Owner::Shared => "shared",
        Owner::Private => "private",
    }
}

/// Whose a page is, once that is settled.
const fn settled(state: PageState) -> Option<Owner> {
    match state {
        PageState::Shared => Some(Owner::Shared),
        PageState::PrivateUntouched | PageState::PrivatePopulated => Some(Owner::Private),
        _ => None,
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct State {
    pages: [Page; PAGES],
    /// The conversion lock.
    lock: Option<usize>,
    epoch: u8,
    active: [u8; 2],
    device: device::Device,
    accesses: u8,
    vcpus: [converter::Vcpu; VCPUS],
    requests: [u8; VCPUS],
    failures: u8,
    /// Conversions are to stop.
    closing: bool,
    teardown: teardown::Teardown,
    /// A device touched a page that was being taken from the host, or had been.
    trespass: bool,
    /// Data is gone that nobody gave up.
    loss: bool,
    /// A page came to an owner with what that owner had left in it before.
    resurrection: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    DiscardFirst,
    NoDrain,
    MarkAfterDrain,
    GuardAfterCheck,
    NoSecondLook,
    Unserialised,
    DebtForgotten,
    DebtIgnored,
    DoubtAsAbort,
    Flips,
    NeverGivesUp,
    BeginsLate,
}

/// The protocol.
#[derive(Debug, Clone, Copy)]
struct Conversion {
    change: Change,
    /// Whether the VM is torn down at some moment.
    teardown: bool,
}

impl Conversion {
    fn is(&self, change: Change) -> bool {
        self.change == change
    }
}

impl Protocol for Conversion {
    type State = State;

    fn starts(&self) -> Vec<State> {
        let page = |owner| Page {
            attribute: owner,
            shared: if owner == Owner::Shared { Contents::Data } else { Contents::Nothing },
            private: if owner == Owner::Private { Contents::Data } else { Contents::Nothing },
            ledger: ledger::initial(owner),
            debt: None,
        };
        let with = |owners: [Owner; PAGES]| State {
            pages: owners.map(page),
            lock: None,
            epoch: 0,
            active: [0; 2],
            device: device::Device::Idle,
            accesses: ACCESSES,
            vcpus: [converter::Vcpu::Running; VCPUS],
            requests: if self.teardown { REQUESTS_WITH_TEARDOWN } else { REQUESTS },
            failures: if self.teardown { FAILURES_WITH_TEARDOWN } else { FAILURES },
            closing: false,
            teardown: if self.teardown { teardown::Teardown::NotYet } else { teardown::Teardown::Never },
            trespass: false,
            loss: false,
            resurrection: false,
        };
        vec![with([Owner::Shared, Owner::Shared]), with([Owner::Private, Owner::Shared])]
    }

    fn steps(&self, steps: &mut Steps<'_, State>) {
        device::steps(self, steps);
        for cpu in 0..VCPUS {
            converter::steps(self, cpu, steps);
        }
        teardown::steps(steps);
    }

    fn is_over(&self, s: &State) -> bool {
        use teardown::Teardown::{Done, Never};
        matches!(s.device, device::Device::Idle | device::Device::Hangs)
            && s.vcpus.iter().all(|vcpu| *vcpu == converter::Vcpu::Running)
            && matches!(s.teardown, Done | Never)
    }

    fn describe_start(&self, start: &State) -> Option<String> {
        let [first, second] = start.pages.map(|page| page.attribute);
        Some(format!("page 0 is {first}, page 1 is {second}"))
    }
}

impl State {
    /// Whether some vCPU is between the beginning and the end of a conversion of this page.
    fn is_converting(&self, page: usize) -> bool {
        self.vcpus.iter().any(|vcpu| vcpu.converts(page))
    }
}

/// Of a page that is settled, the side that lost it has nothing, or its leftover is known.
fn no_stale_copy(s: &State) -> bool {
    let clean = |(number, page): (usize, &Page)| match settled(page.ledger) {
        Some(owner) if !s.is_converting(number) => {
            page.holds(owner.other()) == Contents::Nothing || page.debt == Some(owner.other())
        }
        _ => true,
    };
    !s.resurrection && s.pages.iter().enumerate().all(clean)
}

const HOST: &str = "shared-only: no host access after the drain";
const STALE: &str = "no-stale-copy: one copy is left";
const LOSS: &str = "no-stale-copy: no data is lost";
const AGREES: &str = "known-owner: the ledger agrees with the kernel";

fn claims() -> Vec<Claim<Conversion>> {
    type Of = Claim<Conversion>;
    vec![
        Of::always(HOST, |_, s| !s.trespass),
        Of::always(STALE, |_, s| no_stale_copy(s)),
        Of::always(LOSS, |_, s| !s.loss),
        Of::always(AGREES, |_, s| {
            s.pages.iter().all(|page| settled(page.ledger).is_none_or(|owner| owner == page.attribute))
        }),
        Of::no_deadlock(),
        Of::sometimes("a conversion waits for a guard", |_, s| s.vcpus.iter().any(|vcpu| vcpu.waits(s))),
        Of::sometimes("a guard finds that its epoch is over", |_, s| {
            matches!(s.device, device::Device::TooLate { .. })
        }),
        Of::sometimes("a device is refused", |_, s| s.device == device::Device::Refused),
        Of::sometimes("a conversion is aborted", |_, s| converter::Vcpu::is_seen(s, converter::Seen::Aborted)),
        Of::sometimes("a conversion ends in doubt", |_, s| converter::Vcpu::is_seen(s, converter::Seen::Doubtful)),
        Of::sometimes("a conversion leaves a debt", |_, s| s.pages.iter().any(|page| page.debt.is_some())),
        Of::sometimes("a debt forbids a conversion", |_, s| converter::Vcpu::is_seen(s, converter::Seen::Owed)),
        Of::sometimes("an implicit conversion finds nothing to do", |_, s| {
            converter::Vcpu::is_seen(s, converter::Seen::Already)
        }),
    ]
}

const EMPTY: &str = "pages-before-key: teardown leaves no private page";
const DEADLOCK: &str = "no deadlock";

/// What is claimed once there is a teardown: the same, and more. What occurs without it need not occur.
fn claims_with_teardown() -> Vec<Claim<Conversion>> {
    let mut claims = claims();
    claims.retain(|claim| !matches!(claim.kind, Kind::Sometimes(_)));
    claims.push(Claim::at_end(EMPTY, |_, s: &State| {
        let is_empty = |page: &Page| page.private == Contents::Nothing && page.ledger == PageState::Freed;
        s.pages.iter().all(is_empty)
    }));
    claims.push(Claim::sometimes("a wait for guards is given up", |_, s: &State| {
        converter::Vcpu::is_seen(s, converter::Seen::GaveUp)
    }));
    claims
}

/// What is checked of this model.
pub fn cases() -> Vec<Case> {
    let with = |change| Conversion { change, teardown: false };
    let torn_down = |change| Conversion { change, teardown: true };
    let cases = Study::of("conversion", claims())
        .sound(&with(Change::None))
        .mutant("discard before attribute", &with(Change::DiscardFirst), &[LOSS])
        .mutant("no drain", &with(Change::NoDrain), &[HOST, STALE])
        .mutant("marked after the drain", &with(Change::MarkAfterDrain), &[HOST])
        .mutant("guard taken after the check", &with(Change::GuardAfterCheck), &[HOST])
        .mutant("guard does not look at the epoch again", &with(Change::NoSecondLook), &[HOST])
        .mutant("conversions not serialised", &with(Change::Unserialised), &[HOST])
        .mutant("failed discard forgotten", &with(Change::DebtForgotten), &[STALE])
        .mutant("debt ignored by the next conversion", &with(Change::DebtIgnored), &[STALE])
        .mutant("unknown outcome taken for an abort", &with(Change::DoubtAsAbort), &[AGREES])
        .mutant("implicit conversion flips without looking again", &with(Change::Flips), &[LOSS])
        .cases();
    let with_teardown = Study::of("conversion", claims_with_teardown())
        .form("teardown at any moment", &torn_down(Change::None))
        .mutant("a wait cannot be given up", &torn_down(Change::NeverGivesUp), &[DEADLOCK])
        .mutant("a conversion begins after a wait was given up", &torn_down(Change::BeginsLate), &[HOST])
        .cases();
    cases.into_iter().chain(with_teardown).collect()
}
