//! A vCPU as a script: what the guest does, act by act, and what it may expect of an answer.
//!
//! The guest of a script checks for itself what the law *no-stale-copy* promises it: a conversion that is answered with
//! success gives it pages that hold nothing, and one that is answered with an error has lost nothing on the pages whose
//! owner did not change. What it finds wrong are [complaints](super::FakeKernel::complaints).

use std::collections::VecDeque;

use gmem::ledger::Owner;
use gmem::{GfnRange, Gpa};
use rustix::thread::Timespec;

use super::{FakeVcpu, GuestFault};
use crate::port::{CallError, Direction, Exit, Hypercall, PortAccess};

/// `KVM_HC_MAP_GPA_RANGE` (Linux `include/uapi/linux/kvm_para.h`).
const MAP_GPA_RANGE: u64 = 12;
/// Its attribute "encrypted".
const ENCRYPTED: u64 = 1 << 4;

/// One thing a scripted vCPU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Writes a number to the beginning of a frame.
    Write {
        /// Which frame.
        gfn: u64,
        /// The number.
        value: u64,
    },
    /// Reads the beginning of a frame, and complains of any other number.
    Expect {
        /// Which frame.
        gfn: u64,
        /// The number.
        value: u64,
    },
    /// Writes to a port.
    Out {
        /// Which.
        port: u16,
        /// Bytes: 1, 2 or 4.
        width: usize,
        /// The value.
        value: u32,
    },
    /// Asks for a conversion, `KVM_HC_MAP_GPA_RANGE`.
    Convert {
        /// Which frames.
        range: GfnRange,
        /// Who is to own them.
        to: Owner,
    },
    /// Ends in a triple fault.
    TripleFault,
}

/// What a vCPU has in hand: its script, and what lies in its `kvm_run` page.
#[derive(Debug, Default)]
pub(super) struct Progress {
    acts: VecDeque<Act>,
    /// Data of a port access.
    data: Vec<u8>,
    /// Answer to a hypercall.
    answer: u64,
    asked: Option<Asked>,
}

/// A conversion that waits for its answer, and what the frames held before.
#[derive(Debug)]
struct Asked {
    to: Owner,
    frames: Vec<Seen>,
}

#[derive(Debug)]
struct Seen {
    gfn: u64,
    private: bool,
    contents: Result<u64, GuestFault>,
}

impl Progress {
    pub(super) fn new(acts: Vec<Act>) -> Self {
        Self { acts: acts.into(), ..Self::default() }
    }
}

impl FakeVcpu {
    /// Goes on until something needs the VMM. A vCPU whose script is at its end waits for a signal.
    pub(super) fn advance(&mut self) -> Result<Exit<'_>, CallError> {
        if let Some(asked) = self.progress.asked.take() {
            self.judge(&asked);
        }
        while let Some(act) = self.progress.acts.pop_front() {
            match act {
                Act::Write { gfn, value } => match self.kernel.guest_write(self.vm, gfn, value) {
                    Ok(()) => {}
                    Err(fault) => return Ok(self.fault(act, gfn, fault)),
                },
                Act::Expect { gfn, value } => match self.kernel.guest_read(self.vm, gfn) {
                    Ok(found) if found == value => {}
                    Ok(found) => self.complain(format!("frame {gfn:#x} holds {found:#x} and not {value:#x}")),
                    Err(fault) => return Ok(self.fault(act, gfn, fault)),
                },
                Act::Out { port, width, value } => {
                    self.progress.data = value.to_le_bytes()[..width].to_vec();
                    let data = &mut self.progress.data;
                    return Ok(Exit::Port(PortAccess { port, direction: Direction::Out, width, data }));
                }
                Act::Convert { range, to } => {
                    self.progress.asked = Some(self.look(range, to));
                    self.progress.answer = 0;
                    let attribute = if to == Owner::Private { ENCRYPTED } else { 0 };
                    let arguments = [range.gpa().0, range.pages().get(), attribute, 0, 0, 0];
                    let answer = &mut self.progress.answer;
                    return Ok(Exit::Hypercall(Hypercall { number: MAP_GPA_RANGE, arguments, answer }));
                }
                Act::TripleFault => return Ok(Exit::Shutdown),
            }
        }
        // As a halted CPU does, until somebody interrupts KVM_RUN; or a while, so that nobody waits forever.
        let _ = rustix::thread::nanosleep(&Timespec { tv_sec: 10, tv_nsec: 0 });
        Ok(Exit::Interrupted)
    }

    /// The exit of an access that cannot be made now; the act is tried again.
    fn fault(&mut self, act: Act, gfn: u64, fault: GuestFault) -> Exit<'static> {
        self.progress.acts.push_front(act);
        let wanted = if fault == GuestFault::NoPrivatePage { Owner::Private } else { Owner::Shared };
        Exit::MemoryFault { wanted, gpa: Gpa(gfn * 4096), size: 4096 }
    }

    fn look(&self, range: GfnRange, to: Owner) -> Asked {
        let see = |gfn| {
            let private = self.kernel.is_private(self.vm, gfn);
            Seen { gfn, private, contents: self.kernel.guest_read(self.vm, gfn) }
        };
        Asked { to, frames: range.frames().map(|gfn| see(gfn.number())).collect() }
    }

    fn judge(&self, asked: &Asked) {
        let (answer, wanted) = (self.progress.answer, asked.to == Owner::Private);
        for before in &asked.frames {
            let private = self.kernel.is_private(self.vm, before.gfn);
            let now = self.kernel.guest_read(self.vm, before.gfn);
            if answer == 0 && private != wanted {
                self.complain(format!("frame {:#x} was promised to be {} and is not", before.gfn, asked.to));
            }
            let expected = if private == before.private { before.contents } else { Ok(0) };
            if now != expected {
                let told = if answer == 0 { "done" } else { "failed" };
                let (gfn, to) = (before.gfn, asked.to);
                self.complain(format!("frame {gfn:#x}, to {to}, {told}: {now:?} and not {expected:?}"));
            }
        }
    }

    fn complain(&self, complaint: String) {
        self.kernel.model().complaints.push(format!("vCPU {}: {complaint}", self.id));
    }
}
