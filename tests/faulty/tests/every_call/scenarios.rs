//! Whole runs: what is configured, and what the guest does.

use gmem::layout;
use gmem::ledger::Owner;
use gmem::{ByteLen, Gfn, GfnRange, PageCount};
use gmem_kvm::testing::fake::Act;
use guest_fw::abi::{self, Doorbell};
use tenure::config::{Guise, Tee};
use tenure::report::GuestOutcome;

/// A run, and how it ends if nothing goes wrong.
pub(crate) struct Scenario {
    pub name: &'static str,
    pub tee: Tee,
    pub guise: Guise,
    pub memory: ByteLen,
    pub vcpus: u32,
    pub acts: fn() -> Vec<Act>,
    pub outcome: GuestOutcome,
}

/// The least RAM there is.
const SMALL: ByteLen = ByteLen(16 << 20);
/// RAM in two pieces, below and above 4 GiB.
const SPLIT: ByteLen = ByteLen(3 << 30);
const COM1: u16 = abi::FALLBACK_SERIAL_PORT;

pub(crate) const ALL: [Scenario; 5] = [
    Scenario {
        name: "sw, converts to and fro, self-test ends",
        tee: Tee::Sw,
        guise: Guise::None,
        memory: SMALL,
        vcpus: 2,
        acts: to_and_fro,
        outcome: GuestOutcome::SelfTest { failed_checks: 0 },
    },
    Scenario {
        name: "sw, RAM in two pieces, powers off",
        tee: Tee::Sw,
        guise: Guise::None,
        memory: SPLIT,
        vcpus: 1,
        acts: across_the_hole,
        outcome: GuestOutcome::PoweredOff,
    },
    Scenario {
        name: "sw in the guise of sev, resets",
        tee: Tee::Sw,
        guise: Guise::Sev,
        memory: SMALL,
        vcpus: 1,
        acts: shares_a_window,
        outcome: GuestOutcome::Reset,
    },
    Scenario {
        name: "sw, asks for what it cannot have, fails its self-test",
        tee: Tee::Sw,
        guise: Guise::None,
        memory: SMALL,
        vcpus: 1,
        acts: impudent,
        outcome: GuestOutcome::SelfTest { failed_checks: 3 },
    },
    Scenario {
        name: "none, powers off",
        tee: Tee::None,
        guise: Guise::None,
        memory: SMALL,
        vcpus: 1,
        acts: no_privacy,
        outcome: GuestOutcome::PoweredOff,
    },
];

fn frames(start: u64, pages: u64) -> GfnRange {
    Gfn::new(start).and_then(|start| GfnRange::new(start, PageCount::new(pages)).ok()).expect("frames of a scenario")
}

fn convert(start: u64, pages: u64, to: Owner) -> Act {
    Act::Convert { range: frames(start, pages), to }
}

fn doorbell(command: Doorbell, argument: u32) -> Act {
    Act::Out { port: layout::DOORBELL_PORT, width: 4, value: command.to_raw(argument) }
}

fn say(text: &str) -> impl Iterator<Item = Act> {
    text.bytes().map(|byte| Act::Out { port: COM1, width: 1, value: byte.into() })
}

/// Serial port with its interrupts on, so that what it says goes through `KVM_IRQ_LINE` as well.
fn interrupts() -> [Act; 2] {
    [Act::Out { port: COM1 + 4, width: 1, value: 0x8 }, Act::Out { port: COM1 + 1, width: 1, value: 0x2 }]
}

fn power_off() -> Act {
    Act::Out { port: abi::PM1A_CONTROL_PORT, width: 2, value: abi::POWER_OFF.into() }
}

/// Fills pages with their own number.
fn fill(start: u64, pages: u64) -> impl Iterator<Item = Act> {
    (start..start + pages).map(|gfn| Act::Write { gfn, value: 0xf111_0000 + gfn })
}

fn to_and_fro() -> Vec<Act> {
    let mut acts: Vec<_> = fill(0x1f0, 0x20).chain(fill(0x600, 4)).collect();
    acts.push(doorbell(Doorbell::StagingDone, 0));
    acts.extend(interrupts());
    acts.extend(say("ok"));
    // One page, a run across a boundary of 2 MiB, whole entries, and all of it back in other pieces.
    for (start, pages) in [(0x600, 1), (0x1f8, 0x10), (0x400, 0x200)] {
        acts.push(convert(start, pages, Owner::Shared));
        acts.push(convert(start, 1, Owner::Private));
        acts.push(convert(start, pages, Owner::Private));
    }
    for round in 0..4 {
        acts.push(convert(0x700 + round, 2, Owner::Shared));
        acts.push(convert(0x700, 4 + round, Owner::Private));
    }
    // Neighbours were never asked about.
    acts.extend((0x1f0..0x1f8).chain(0x208..0x210).map(|gfn| Act::Expect { gfn, value: 0xf111_0000 + gfn }));
    acts.push(doorbell(Doorbell::Mark, 7));
    acts.push(doorbell(Doorbell::SelfTestDone, 0));
    acts
}

fn across_the_hole() -> Vec<Act> {
    let (low_end, high) = ((2 << 30) >> 12, (4 << 30) >> 12);
    let mut acts: Vec<_> = fill(low_end - 2, 2).chain(fill(high, 3)).collect();
    acts.push(doorbell(Doorbell::StagingDone, 0));
    acts.push(convert(low_end - 1, 1, Owner::Shared));
    acts.push(convert(high, 2, Owner::Shared));
    acts.push(convert(high, 2, Owner::Private));
    acts.push(Act::Expect { gfn: low_end - 2, value: 0xf111_0000 + low_end - 2 });
    acts.push(Act::Expect { gfn: high + 2, value: 0xf111_0000 + high + 2 });
    acts.push(power_off());
    acts
}

/// As a stock kernel does: a window of bounce buffers, and single pages for PV clocks.
fn shares_a_window() -> Vec<Act> {
    let mut acts: Vec<_> = say("boot").collect();
    acts.push(doorbell(Doorbell::StagingDone, 0));
    acts.push(convert(0x300, 0x280, Owner::Shared));
    acts.extend((0x10..0x14).map(|gfn| convert(gfn, 1, Owner::Shared)));
    acts.push(convert(0x10, 4, Owner::Private));
    acts.push(Act::Out { port: abi::RESET_PORT, width: 1, value: abi::RESET_VALUE.into() });
    acts
}

/// Everything it asks for is refused or has been done already.
fn impudent() -> Vec<Act> {
    let end = SMALL.0 >> 12;
    vec![
        Act::Write { gfn: 0x20, value: 1 },
        convert(end, 1, Owner::Shared),
        convert(end - 1, 2, Owner::Shared),
        convert(0xfee00, 1, Owner::Shared),
        convert(0x20, 1, Owner::Private),
        Act::Expect { gfn: 0x20, value: 1 },
        doorbell(Doorbell::StagingDone, 0),
        doorbell(Doorbell::StagingDone, 0),
        Act::Out { port: layout::DOORBELL_PORT, width: 4, value: 0xff },
        doorbell(Doorbell::SelfTestDone, 3),
    ]
}

fn no_privacy() -> Vec<Act> {
    let mut acts: Vec<_> = fill(0x100, 2).collect();
    acts.extend([doorbell(Doorbell::StagingDone, 0), convert(0x100, 1, Owner::Shared)]);
    acts.extend([Act::Expect { gfn: 0x100, value: 0xf111_0100 }, power_off()]);
    acts
}
