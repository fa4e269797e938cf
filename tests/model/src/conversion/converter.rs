//! A vCPU: the guest's accesses and requests, and the conversion our thread carries out for it.

use gmem::ledger::Owner;

use super::ledger::{Answer, Event};
use super::{Change, Contents, Conversion, PAGE, State, ledger, name};
use crate::protocol::Steps;

/// Where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Vcpu {
    /// In the guest.
    Running,
    /// Out of it, with a request.
    Asks(Request),
    HasLock(Request),
    /// Debts are paid as far as they can be.
    Paid(Request),
    /// The page is marked in the ledger.
    Marked(Request),
    /// The epoch is over; guards of this parity are waited for.
    Drains {
        request: Request,
        parity: usize,
        marked: bool,
    },
    Drained {
        request: Request,
        marked: bool,
    },
    /// A mutant's discard came before the attribute.
    DiscardedEarly(Request),
    AttributeSet(Request),
    Discarded(Request),
    /// The request is over; the lock is still held.
    Over {
        request: Request,
        seen: Seen,
    },
    /// Converted: back to the guest, which uses the page.
    Uses {
        page: usize,
        kind: Owner,
    },
}

/// What a guest asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Request {
    page: usize,
    /// What the guest wants it to be.
    wants: Owner,
    /// What we make of it: the same, except in a mutant.
    to: Owner,
    /// Whether the guest said so, or touched the page as what it was not.
    implicit: bool,
    /// Whether there was data to lose when it began.
    had_data: bool,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Seen {
    Converted,
    Already,
    Refused,
    Owed,
    Aborted,
    /// Aborted because the wait for guards was given up.
    GaveUp,
    Doubtful,
    /// The VM is being torn down.
    Gone,
}

impl Vcpu {
    /// The conversion it carries out.
    fn request(self) -> Option<Request> {
        match self {
            Self::Marked(request)
            | Self::Drains { request, .. }
            | Self::Drained { request, .. }
            | Self::DiscardedEarly(request)
            | Self::AttributeSet(request)
            | Self::Discarded(request) => Some(request),
            Self::Running
            | Self::Asks(_)
            | Self::HasLock(_)
            | Self::Paid(_)
            | Self::Over { .. }
            | Self::Uses { .. } => None,
        }
    }

    pub(super) fn converts(self, page: usize) -> bool {
        self.request().is_some_and(|request| request.page == page)
    }

    /// Whether a conversion of this page is past its wait for guards.
    pub(super) fn has_drained(self, page: usize) -> bool {
        self.converts(page) && !matches!(self, Self::Marked(_) | Self::Drains { .. })
    }

    pub(super) fn waits(self, s: &State) -> bool {
        matches!(self, Self::Drains { parity, .. } if s.active[parity] != 0)
    }

    /// Whether some request has just ended like this. Of those with nothing to do only an implicit one counts.
    pub(super) fn is_seen(s: &State, wanted: Seen) -> bool {
        s.vcpus.iter().any(|vcpu| match vcpu {
            Self::Over { request, seen } => *seen == wanted && (wanted != Seen::Already || request.implicit),
            _ => false,
        })
    }
}

const WHO: [&str; super::VCPUS] = ["vCPU 0", "vCPU 1"];

/// What it can do next.
pub(super) fn steps(how: &Conversion, cpu: usize, steps: &mut Steps<'_, State>) {
    let who = WHO[cpu];
    let s = steps.state();
    let go = move |s: &mut State, to| s.vcpus[cpu] = to;
    match s.vcpus[cpu] {
        // Teardown begins when vCPUs have stopped; a request may still be on its way.
        Vcpu::Running if s.closing => {}
        Vcpu::Uses { .. } if s.closing => {
            steps.add(who, "does not enter the guest again", |s| go(s, Vcpu::Running));
        }
        Vcpu::Running => guest(cpu, steps),
        Vcpu::Uses { page, kind } => steps.add(who, ("uses page {} as {}", [PAGE[page], name(kind)]), |s| {
            // Another vCPU may have converted it again.
            if s.pages[page].attribute == kind {
                *s.pages[page].copy(kind) = Contents::Data;
            }
            go(s, Vcpu::Running);
        }),
        Vcpu::Asks(request) if how.is(Change::Unserialised) => {
            steps.add(who, "takes no lock", |s| go(s, Vcpu::HasLock(request)));
        }
        Vcpu::Asks(_) if s.closing && !how.is(Change::BeginsLate) => {
            steps.add(who, "is told that the VM is being torn down", |s| go(s, Vcpu::Running));
        }
        Vcpu::Asks(request) if s.lock.is_none() => steps.add(who, "takes the conversion lock", |s| {
            s.lock = Some(cpu);
            go(s, Vcpu::HasLock(request));
        }),
        Vcpu::Asks(_) => {}
        Vcpu::HasLock(request) => pay(cpu, request, steps),
        Vcpu::Paid(request) => begin(how, cpu, request, steps),
        Vcpu::Marked(request) if how.is(Change::NoDrain) => {
            steps.add(who, "does not wait for guards", |s| go(s, Vcpu::Drained { request, marked: true }));
        }
        Vcpu::Marked(request) => end_epoch(cpu, request, true, steps),
        Vcpu::Drains { request, parity, marked } => {
            if s.active[parity] == 0 {
                steps.add(who, "finds all older guards gone", |s| go(s, Vcpu::Drained { request, marked }));
            } else if s.closing && !how.is(Change::NeverGivesUp) {
                steps.add(who, "gives the wait up, for the VM is being torn down: aborts", |s| {
                    abort(s, request);
                    go(s, Vcpu::Over { request, seen: Seen::GaveUp });
                });
            }
        }
        Vcpu::Drained { request, marked: false } => {
            mark(cpu, request, steps, |request| Vcpu::Drained { request, marked: true })
        }
        Vcpu::Drained { request, marked: true } if how.is(Change::DiscardFirst) => {
            discard(how, cpu, request, steps, Vcpu::DiscardedEarly(request));
        }
        Vcpu::Drained { request, marked: true } => set_attribute(how, cpu, request, steps, Vcpu::AttributeSet(request)),
        Vcpu::DiscardedEarly(request) => set_attribute(how, cpu, request, steps, Vcpu::Discarded(request)),
        Vcpu::AttributeSet(request) => discard(how, cpu, request, steps, Vcpu::Discarded(request)),
        Vcpu::Discarded(request) => {
            steps.add(who, ("commits: page {} is {}", [PAGE[request.page], name(request.to)]), |s| {
                let page = &mut s.pages[request.page];
                page.ledger = ledger::outcome(page.ledger, Event::Commit);
                go(s, Vcpu::Over { request, seen: Seen::Converted });
            })
        }
        Vcpu::Over { request, seen } => steps.add(who, "drops the lock, answers the guest", |s| {
            if s.lock == Some(cpu) {
                s.lock = None;
            }
            let succeeded = matches!(seen, Seen::Converted | Seen::Already);
            let uses = Vcpu::Uses { page: request.page, kind: request.wants };
            go(s, if succeeded { uses } else { Vcpu::Running });
        }),
    }
}

/// A guest asks, or just touches a page.
fn guest(cpu: usize, steps: &mut Steps<'_, State>) {
    let s = steps.state();
    if s.requests[cpu] == 0 {
        return;
    }
    for (page, number) in PAGE.into_iter().enumerate() {
        for wants in [Owner::Shared, Owner::Private] {
            let ask = move |implicit: bool| {
                move |s: &mut State| {
                    s.requests[cpu] -= 1;
                    s.vcpus[cpu] = Vcpu::Asks(Request { page, wants, to: wants, implicit, had_data: false });
                }
            };
            steps.add(WHO[cpu], ("asks for page {} to be {}", [number, name(wants)]), ask(false));
            if s.pages[page].attribute == wants {
                steps.add(WHO[cpu], ("touches page {} as {}", [number, name(wants)]), |s| {
                    s.requests[cpu] -= 1;
                    *s.pages[page].copy(wants) = Contents::Data;
                });
            } else {
                steps.add(WHO[cpu], ("touches page {} as {}, which it is not: exit", [number, name(wants)]), ask(true));
            }
        }
    }
}

/// Tries once more what could not be discarded.
fn pay(cpu: usize, request: Request, steps: &mut Steps<'_, State>) {
    let s = steps.state();
    let paid = move |s: &mut State| s.vcpus[cpu] = Vcpu::Paid(request);
    let Some((number, side)) = s.pages.iter().enumerate().find_map(|(number, page)| Some((number, page.debt?))) else {
        return steps.add(WHO[cpu], "finds no debts", paid);
    };
    steps.add(WHO[cpu], ("pays a debt: discards the {} copy of page {}", [name(side), PAGE[number]]), |s| {
        *s.pages[number].copy(side) = Contents::Nothing;
        s.pages[number].debt = None;
        paid(s);
    });
    if s.failures != 0 {
        steps.add(WHO[cpu], ("cannot pay the debt of page {}", [PAGE[number], ""]), |s| {
            s.failures -= 1;
            paid(s);
        });
    }
}

/// Refuses what is owed, looks at what is to be done, and marks the page.
fn begin(how: &Conversion, cpu: usize, request: Request, steps: &mut Steps<'_, State>) {
    let s = steps.state();
    let page = s.pages[request.page];
    if s.closing && !how.is(Change::BeginsLate) {
        let gone = Vcpu::Over { request, seen: Seen::Gone };
        return steps.add(WHO[cpu], "finds that the VM is being torn down", |s| s.vcpus[cpu] = gone);
    }
    let over = move |s: &mut State, seen| s.vcpus[cpu] = Vcpu::Over { request, seen };
    let flips = how.is(Change::Flips) && request.implicit;
    let request = match super::settled(page.ledger) {
        Some(owner) if flips => Request { to: owner.other(), ..request },
        _ => request,
    };
    if page.debt == Some(request.to) && !how.is(Change::DebtIgnored) {
        return steps.add(WHO[cpu], "refuses: a leftover would come back to life", |s| over(s, Seen::Owed));
    }
    match ledger::begin(page.ledger, request.to) {
        Answer::Already => steps.add(WHO[cpu], "finds that the page is so already", |s| over(s, Seen::Already)),
        Answer::Refused => steps.add(WHO[cpu], "is refused by the ledger", |s| over(s, Seen::Refused)),
        Answer::Begun(_) if how.is(Change::MarkAfterDrain) => end_epoch(cpu, request, false, steps),
        Answer::Begun(_) => mark(cpu, request, steps, Vcpu::Marked),
    }
}

/// Marks the page in the ledger: no new host access.
fn mark(cpu: usize, request: Request, steps: &mut Steps<'_, State>, then: fn(Request) -> Vcpu) {
    steps.add(WHO[cpu], ("marks page {}: converting to {}", [PAGE[request.page], name(request.to)]), |s| {
        let page = &mut s.pages[request.page];
        if let Answer::Begun(state) = ledger::begin(page.ledger, request.to) {
            page.ledger = state;
        }
        let had_data = page.holds(request.to.other()) == Contents::Data;
        s.vcpus[cpu] = then(Request { had_data, ..request });
    });
}

fn end_epoch(cpu: usize, request: Request, marked: bool, steps: &mut Steps<'_, State>) {
    steps.add(WHO[cpu], "ends the epoch", |s| {
        let parity = usize::from(s.epoch % 2);
        s.epoch += 1;
        s.vcpus[cpu] = Vcpu::Drains { request, parity, marked };
    });
}

/// Tells the kernel. It may fail, and nobody may know what came of it.
fn set_attribute(how: &Conversion, cpu: usize, request: Request, steps: &mut Steps<'_, State>, then: Vcpu) {
    let Request { page: number, to, .. } = request;
    let take_effect = move |s: &mut State| {
        let page = &mut s.pages[number];
        if page.attribute != to {
            s.resurrection |= page.holds(to) == Contents::Data;
            page.attribute = to;
        }
    };
    steps.add(WHO[cpu], ("sets the attribute of page {} to {}", [PAGE[number], name(to)]), |s| {
        take_effect(s);
        s.vcpus[cpu] = then;
    });
    if steps.state().failures == 0 {
        return;
    }
    let abort = move |s: &mut State| {
        s.failures -= 1;
        abort(s, request);
        s.vcpus[cpu] = Vcpu::Over { request, seen: Seen::Aborted };
    };
    let doubt = move |s: &mut State| {
        s.failures -= 1;
        let page = &mut s.pages[number];
        page.ledger = ledger::outcome(page.ledger, Event::Doubt);
        s.vcpus[cpu] = Vcpu::Over { request, seen: Seen::Doubtful };
    };
    steps.add(WHO[cpu], "fails to set the attribute, nothing has changed: aborts", abort);
    let as_abort = how.is(Change::DoubtAsAbort);
    let ending = move |s: &mut State| if as_abort { abort(s) } else { doubt(s) };
    let meant = if as_abort { "aborts" } else { "in doubt" };
    steps.add(WHO[cpu], ("cannot know whether the attribute is set; it is: {}", [meant, ""]), |s| {
        take_effect(s);
        ending(s);
    });
    steps.add(WHO[cpu], ("cannot know whether the attribute is set; it is not: {}", [meant, ""]), ending);
}

/// Nothing happened, and nothing may have been lost.
fn abort(s: &mut State, request: Request) {
    let page = &mut s.pages[request.page];
    page.ledger = ledger::outcome(page.ledger, Event::Abort);
    s.loss |= request.had_data && page.holds(request.to.other()) == Contents::Nothing;
}

/// Discards the losing side's copy. It may fail; then it is a debt.
fn discard(how: &Conversion, cpu: usize, request: Request, steps: &mut Steps<'_, State>, then: Vcpu) {
    let Request { page: number, wants, to, .. } = request;
    let side = to.other();
    steps.add(WHO[cpu], ("discards the {} copy of page {}", [name(side), PAGE[number]]), |s| {
        // Nobody wanted to take the page from this side.
        s.loss |= wants == side && s.pages[number].holds(side) == Contents::Data;
        *s.pages[number].copy(side) = Contents::Nothing;
        s.vcpus[cpu] = then;
    });
    if steps.state().failures != 0 {
        steps.add(WHO[cpu], ("fails to discard the {} copy of page {}", [name(side), PAGE[number]]), |s| {
            s.failures -= 1;
            if s.pages[number].holds(side) == Contents::Data && !how.is(Change::DebtForgotten) {
                s.pages[number].debt = Some(side);
            }
            s.vcpus[cpu] = then;
        });
    }
}
