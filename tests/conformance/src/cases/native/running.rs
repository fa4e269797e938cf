//! Cases about running guests and threads.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::{Failure, Outcome, ask, ensure, expect, failed, register, set_up};
use crate::cases::Kind;
use crate::kernel::Kernel;
use crate::op::{Cpu, PAGE, Plain, STUB_GPA, Vm};
use crate::outcome::{Errno, Outcome as Answer};
use crate::real::Real;
use crate::real::guest::Access;
use crate::sys::{self, NO_FD, Region, Threads, Vcpu};

/// `KVM_CAP_NR_MEMSLOTS`
const NR_MEMSLOTS: u32 = 10;
/// `KVM_EXIT_INTERNAL_ERROR`, and its suberror for an event that could not be delivered.
const INTERNAL_ERROR: u32 = 17;
const DELIVERY_EVENT: u32 = 3;
/// How often slots are changed under a guest.
const ROUNDS: u32 = 300;

fn cpu() -> Result<Cpu, Failure> {
    register(Cpu::new(0))
}

fn vm() -> Result<Vm, Failure> {
    register(Vm::new(0))
}

pub(super) fn dead_vm(kernel: &Kernel, kind: Kind) -> Outcome {
    let mut real = Real::open()?;
    set_up(&mut real, kind, "vm v0 type=$T\ngmem f0 v0 size=0x4000 flags=$F\nvcpu c0 v0")?;
    set_up(&mut real, kind, "fallocate f0 mode=KEEP_SIZE offset=0 len=0x4000")?;
    let Some(guest) = real.cpu(cpu()?) else { return failed("no vCPU") };
    if let Err(errno) = guest.vcpu().system_management_interrupt() {
        return Err(Failure::Skipped(format!("this KVM takes no SMI: {errno}")));
    }
    // The save area, at 0x3fe00, is nowhere.
    let ran = ask(&mut real, "guest-read c0 0x40000000")?;
    if ask(&mut real, "cap v0 234")? != Answer::Failed(Errno::IO) {
        return Err(Failure::Skipped(format!("an SMI kills no VM here: {ran}")));
    }
    for line in [
        "gmem f1 v0 size=0x1000 flags=0",
        "slot v0 id=0 gpa=0x40000000 size=0x1000 hva=p0+0x0",
        "attr v0 gpa=0x40000000 size=0x1000 attributes=0",
        "vcpu c1 v0",
        "guest-read c0 0x40000000",
    ] {
        expect(&mut real, line, "EIO")?;
    }
    expect(&mut real, "fallocate f0 mode=KEEP_SIZE|PUNCH_HOLE offset=0 len=0x1000", "ok")?;
    if kernel.features.cachestat {
        expect(&mut real, "pages f0", "ok 0x3")?;
    }
    set_up(&mut real, kind, "close f0\nclose c0\nclose v0")?;
    if kernel.features.debugfs { expect(&mut real, "alive v0", "ok 0x0") } else { Ok(()) }
}

pub(super) fn slots_up_to_the_cap(_: &Kernel, kind: Kind) -> Outcome {
    let mut real = Real::open()?;
    set_up(&mut real, kind, "vm v0 type=$T")?;
    let number = real.vm_number(vm()?);
    let cap = sys::check_extension(number, NR_MEMSLOTS).unwrap_or(0);
    let hva = real.plain_address(register(Plain::new(0))?);
    let slot = |id: u64| {
        let id = u32::try_from(id).unwrap_or(u32::MAX);
        let gpa = u64::from(id) * PAGE;
        sys::set_region(number, &Region { id, flags: 0, gpa, size: PAGE, hva, gmem: NO_FD, offset: 0 })
    };
    for id in 0..cap {
        slot(id).or_else(|errno| failed(format!("slot {id} of {cap}: {errno}")))?;
    }
    ensure(slot(cap) == Err(Errno::INVAL), || format!("slot {cap} of {cap}: not EINVAL"))
}

/// Deletes and makes a slot again until `others`, on another thread, are done or say that something is wrong.
fn change_slot<T: Send>(
    real: &mut Real,
    kind: Kind,
    others: impl FnOnce(&mut crate::real::guest::Guest, &crate::real::Mailbox, &AtomicBool) -> Result<T, String> + Send,
) -> Result<T, Failure> {
    let number = real.vm_number(vm()?);
    let Some((mut guest, mailbox)) = real.take_cpu(cpu()?) else { return failed("no vCPU") };
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let other = scope.spawn(|| others(&mut guest, &mailbox, &over));
        // Were it this thread, waiting for the other one's grace period, that is interrupted, both would wait forever.
        sys::alarms_are_for(Threads::Others);
        let mut result = Ok(());
        for _ in 0..ROUNDS {
            if other.is_finished() {
                break;
            }
            result = set_slot(real, number, kind, false).and_then(|()| {
                thread::sleep(Duration::from_micros(200));
                set_slot(real, number, kind, true)
            });
            if result.is_err() {
                break;
            }
            thread::sleep(Duration::from_micros(200));
        }
        sys::alarms_are_for(Threads::All);
        over.store(true, Ordering::SeqCst);
        let answer = other.join().map_err(|_| Failure::Failed("a thread panicked".to_owned()))?;
        result.map_err(|errno| Failure::Failed(format!("changing the slot: {errno}")))?;
        answer.map_err(Failure::Failed)
    })
}

/// Slot 0 of 16 pages, there or not.
fn set_slot(real: &Real, number: i32, kind: Kind, there: bool) -> Result<(), Errno> {
    let Some(plain) = Plain::new(0) else { return Err(Errno::INVAL) };
    let hva = real.plain_address(plain);
    let gmem = if kind == Kind::Private {
        crate::op::File::new(0).map_or(NO_FD, |file| real.file_number(file))
    } else {
        NO_FD
    };
    let flags = if kind == Kind::Private { crate::op::GUEST_MEMFD } else { 0 };
    let size = if there { 16 * PAGE } else { 0 };
    sys::set_region(number, &Region { id: 0, flags, gpa: 0x4000_0000, size, hva, gmem, offset: 0 })
}

const WITH_SLOT: &str = "vm v0 type=$T
[private]gmem f0 v0 size=0x10000 flags=$F
[private]slot v0 id=0 gpa=0x40000000 size=0x10000 hva=p0+0x0 flags=GUEST_MEMFD gmem=f0 offset=0
[plain]slot v0 id=0 gpa=0x40000000 size=0x10000 hva=p0+0x0
[private]attr v0 gpa=0x40000000 size=0x10000 attributes=PRIVATE
vcpu c0 v0
guest-write c0 0x40000000 0x99
";

pub(super) fn slots_while_running(_: &Kernel, kind: Kind) -> Outcome {
    let mut real = Real::open()?;
    set_up(&mut real, kind, WITH_SLOT)?;
    let (found, missed) = change_slot(&mut real, kind, |guest, mailbox, over| {
        let (mut found, mut missed) = (0u64, 0u64);
        while !over.load(Ordering::SeqCst) {
            mailbox.put(guest, Access::Read, 0x4000_0000);
            match (guest.access(Access::Read), kind) {
                (Answer::Value(0x99), _) => found += 1,
                (Answer::Mmio, Kind::Plain) | (Answer::MemoryFault { flags: 8, .. }, Kind::Private) => missed += 1,
                (other, _) => return Err(format!("a guest's read: {other}")),
            }
        }
        Ok((found, missed))
    })?;
    ensure(found > 0 && missed > 0, || format!("{found} reads found memory and {missed} did not: nothing was tested"))
}

pub(super) fn prefault_while_slots_change(kernel: &Kernel, kind: Kind) -> Outcome {
    let mut real = Real::open()?;
    set_up(&mut real, kind, WITH_SLOT)?;
    let hung = change_slot(&mut real, kind, |guest, _, over| {
        let mut done = 0u64;
        while !over.load(Ordering::SeqCst) {
            match guest.prefault(0x4000_0000, 16 * PAGE, 0) {
                Answer::Value(_) => done += 1,
                // Private frames have no memory without a slot.
                Answer::Failed(Errno::FAULT | Errno(libc::EAGAIN)) => {}
                Answer::Hang => return Ok(true),
                other => return Err(format!("KVM_PRE_FAULT_MEMORY: {other}")),
            }
        }
        if done == 0 { Err("nothing was ever prefaulted".to_owned()) } else { Ok(false) }
    })?;
    if !hung {
        return Ok(());
    }
    let what =
        "a prefault that meets a slot being deleted waits for it, and the deletion for the prefault, until a signal";
    // In later versions it is EAGAIN.
    if kernel.identity.version() < (6, 18) { Err(Failure::Differs(what.to_owned())) } else { failed(what) }
}

pub(super) fn no_slots(kernel: &Kernel, _: Kind) -> Outcome {
    let real = Real::open()?;
    let vm = sys::create_vm(real.kvm(), 0).map_err(|errno| Failure::Failed(errno.to_string()))?;
    // As the processor starts: in real mode, below 4 GiB.
    let created = Vcpu::create(real.kvm(), std::os::fd::AsRawFd::as_raw_fd(&vm), 0);
    let mut vcpu = created.map_err(|errno| Failure::Failed(errno.to_string()))?;
    let ran = vcpu.run();
    let reason = vcpu.exit().exit_reason;
    if ran == Ok(()) && reason == INTERNAL_ERROR {
        return Ok(());
    }
    otherwise(kernel, in_words(ran, reason))
}

/// How `KVM_RUN` ended.
fn in_words(ran: Result<(), Errno>, reason: u32) -> String {
    match ran {
        Err(Errno::INTR) => "the guest does not leave KVM_RUN".to_owned(),
        Err(errno) => format!("KVM_RUN: {errno}, exit reason {reason}"),
        Ok(()) => format!("exit reason {reason}"),
    }
}

/// What a KVM without public source does otherwise is only written down.
fn otherwise(kernel: &Kernel, what: String) -> Outcome {
    if kernel.identity.is_upstream() { failed(what) } else { Err(Failure::Differs(what)) }
}

pub(super) fn mmio_while_vectoring(kernel: &Kernel, kind: Kind) -> Outcome {
    let mut real = Real::open()?;
    set_up(&mut real, kind, "vm v0 type=$T\nvcpu c0 v0")?;
    real.put_code(0x80, &[0xcc]); // int3
    let Some(guest) = real.cpu(cpu()?) else { return failed("no vCPU") };
    let vcpu = guest.vcpu();
    let start = || -> Result<(), Errno> {
        let mut sregs = vcpu.sregs()?;
        (sregs.idt.base, sregs.idt.limit) = (0x4000_0000, 0xfff);
        vcpu.set_sregs(sregs)?;
        let mut regs = vcpu.regs()?;
        regs.rip = STUB_GPA + 0x80;
        vcpu.set_regs(regs)
    };
    start().map_err(|errno| Failure::Failed(errno.to_string()))?;
    let ran = vcpu.run();
    let run = vcpu.exit();
    if ran == Ok(()) && run.exit_reason == INTERNAL_ERROR && sys::suberror(&run) == DELIVERY_EVENT {
        return Ok(());
    }
    let what = match run.exit_reason {
        INTERNAL_ERROR => format!("internal error, suberror {}", sys::suberror(&run)),
        reason => in_words(ran, reason),
    };
    if kernel.identity.is_upstream() && kernel.identity.version() < (6, 14) {
        // `vmx_handle_exit` of Linux 6.12: an EPT misconfiguration is what a second access to the same page would be.
        let remark = "before 6.14 SVM did not look for it, and VMX at a second access to the page only";
        return Err(Failure::Differs(format!("{what}: {remark}")));
    }
    otherwise(kernel, what)
}
