//! A guest of twenty-two bytes: it reads or writes one byte of its memory at a time, and tells of it on a port.
//!
//! Its code, page tables and mailboxes are in a slot of their own, of ordinary shared memory, so that it runs whatever
//! becomes of the memory it looks at; and so that a kernel that must read its instructions can.

use std::os::fd::{BorrowedFd, RawFd};

use kvm_bindings::{
    KVM_EXIT_IO, KVM_EXIT_IO_OUT, KVM_EXIT_MEMORY_FAULT, KVM_EXIT_MMIO, kvm_regs, kvm_run, kvm_segment, kvm_sregs,
};

use crate::op::{Cpu, GUEST_GIGABYTE, PAGE, STUB_BYTES, STUB_GPA};
use crate::outcome::{Errno, Outcome};
use crate::sys::{self, Cpuid, Vcpu};

const CODE: [u8; 22] = [
    0x48, 0x8b, 0x3b, // start: mov rdi, [rbx]          the address
    0x8a, 0x43, 0x08, //        mov al, [rbx + 8]       the value
    0x80, 0x7b, 0x09, 0x00, //  cmp byte [rbx + 9], 0   whether it is written
    0x75, 0x04, //              jne write
    0x8a, 0x07, //              mov al, [rdi]
    0xeb, 0x02, //              jmp tell
    0x88, 0x07, // write:       mov [rdi], al
    0xe6, PORT, // tell:        out PORT, al
    0xeb, 0xea, //              jmp start
];
const PORT: u8 = 0x80;
/// Where a vCPU's mailbox is: behind the code, 16 bytes each.
const MAILBOXES: u64 = 0x100;
/// What a read of no memory gets.
const MMIO_ANSWER: u8 = 0x5a;
/// Interruptions that are no hang: other signals, or the kernel asking to try again.
const RETRIES: usize = 16;

/// What the guest is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Write(u8),
}

/// What the guest reads about what it is to do.
pub(crate) fn mailbox(access: Access, gpa: u64) -> [u8; 10] {
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&gpa.to_le_bytes());
    if let Access::Write(value) = access {
        (bytes[8], bytes[9]) = (value, 1);
    }
    bytes
}

/// Code, then the page tables of one gigabyte, one to one.
pub(crate) fn image() -> Vec<u8> {
    // Present, writable, accessed, dirty: the processor has nothing to note.
    const TABLE: u64 = 0b10_0011;
    const LARGE_PAGE: u64 = 0b1110_0011;
    let entries = (PAGE / 8) as usize;
    let table = |number: u64| (STUB_GPA + number * PAGE) | TABLE;
    let mut words = vec![0u64; (STUB_BYTES / 8) as usize];
    words[entries] = table(2);
    words[2 * entries + (GUEST_GIGABYTE.start >> 30) as usize] = table(3);
    for (entry, address) in words[3 * entries..].iter_mut().zip(GUEST_GIGABYTE.step_by(2 << 20)) {
        *entry = address | LARGE_PAGE;
    }
    let mut bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    bytes[..CODE.len()].copy_from_slice(&CODE);
    bytes
}

/// Flat 64-bit mode.
fn long_mode(mut sregs: kvm_sregs) -> kvm_sregs {
    let flat = kvm_segment { limit: u32::MAX, present: 1, s: 1, g: 1, ..Default::default() };
    sregs.cs = kvm_segment { selector: 0x10, type_: 0b1011, l: 1, ..flat };
    let data = kvm_segment { selector: 0x18, type_: 0b0011, db: 1, ..flat };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (0x8005_0033, STUB_GPA + PAGE, 0x20, 0x500);
    sregs
}

/// A vCPU that runs it.
#[derive(Debug)]
pub(crate) struct Guest {
    vcpu: Vcpu,
    id: Cpu,
    sregs: kvm_sregs,
}

impl Guest {
    pub(crate) fn create(kvm: BorrowedFd<'_>, vm: RawFd, id: Cpu, cpuid: &Cpuid) -> Result<Self, Errno> {
        let vcpu = Vcpu::create(kvm, vm, u32::try_from(id.index()).unwrap_or(0))?;
        vcpu.set_cpuid(cpuid)?;
        let sregs = long_mode(vcpu.sregs()?);
        let guest = Self { vcpu, id, sregs };
        guest.start_over()?;
        Ok(guest)
    }

    pub(crate) fn vcpu(&mut self) -> &mut Vcpu {
        &mut self.vcpu
    }

    pub(crate) fn mailbox_offset(&self) -> u64 {
        MAILBOXES + 16 * self.id.index() as u64
    }

    /// As if it had never been anywhere.
    fn start_over(&self) -> Result<(), Errno> {
        self.vcpu.set_sregs(self.sregs)?;
        let rbx = STUB_GPA + self.mailbox_offset();
        // Bit 1 of RFLAGS is always set; interrupts are off.
        self.vcpu.set_regs(kvm_regs { rip: STUB_GPA, rbx, rflags: 2, ..Default::default() })
    }

    pub(crate) fn prefault(&self, gpa: u64, size: u64, flags: u64) -> Outcome {
        let started = std::time::Instant::now();
        let result = self.vcpu.prefault(gpa, size, flags);
        // It may have got somewhere before it had to be interrupted.
        if sys::took_too_long(started) { Outcome::Hang } else { result.into() }
    }

    /// Has the guest do what its mailbox says.
    pub(crate) fn access(&mut self, access: Access) -> Outcome {
        let outcome = self.one_access(access);
        if !matches!(outcome, Outcome::Done | Outcome::Value(_) | Outcome::Mmio) {
            // It stands at an access that cannot be done, or nowhere.
            if let Err(errno) = self.start_over() {
                return Outcome::Failed(errno);
            }
        }
        outcome
    }

    fn one_access(&mut self, access: Access) -> Outcome {
        let mut mmio = false;
        for _ in 0..RETRIES {
            let started = std::time::Instant::now();
            let errno = match self.vcpu.run() {
                Ok(()) => Errno::NONE,
                Err(Errno::INTR) if sys::took_too_long(started) => return Outcome::Hang,
                Err(Errno::INTR | Errno(libc::EAGAIN)) => continue,
                Err(errno) => errno,
            };
            let run = self.vcpu.exit();
            match run.exit_reason {
                KVM_EXIT_MMIO if errno == Errno::NONE && !mmio => {
                    self.vcpu.answer_mmio(MMIO_ANSWER);
                    mmio = true;
                }
                KVM_EXIT_IO if errno == Errno::NONE => {
                    let Some(value) = self.told(&run) else { return Outcome::Exit { reason: KVM_EXIT_IO, errno } };
                    return match access {
                        // What the emulator was told, the guest saw.
                        _ if mmio && (access != Access::Read || value == MMIO_ANSWER) => Outcome::Mmio,
                        Access::Read => Outcome::Value(u64::from(value)),
                        Access::Write(_) => Outcome::Done,
                    };
                }
                KVM_EXIT_MEMORY_FAULT => return memory_fault(&run, errno),
                0 if errno != Errno::NONE => return Outcome::Failed(errno),
                reason => return Outcome::Exit { reason, errno },
            }
        }
        Outcome::Hang
    }

    /// The byte on the guest's port.
    fn told(&self, run: &kvm_run) -> Option<u8> {
        let (direction, size, port, count, offset) = sys::port_access(run);
        let ours = u32::from(direction) == KVM_EXIT_IO_OUT && size == 1 && port == u16::from(PORT) && count == 1;
        if ours { self.vcpu.port_byte(offset) } else { None }
    }
}

fn memory_fault(run: &kvm_run, errno: Errno) -> Outcome {
    let (flags, gpa, size) = sys::memory_fault(run);
    Outcome::MemoryFault { errno, flags, gpa, size }
}
