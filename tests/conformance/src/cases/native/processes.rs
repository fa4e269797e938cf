//! Cases about other processes.

use super::{Failure, Outcome, ask, ensure, register, set_up};
use crate::cases::Kind;
use crate::kernel::Kernel;
use crate::op::{Cpu, File, Map, Vm};
use crate::outcome::{Errno, Outcome as Answer};
use crate::real::Real;
use crate::sys::{self, Ending};

const SIGBUS: i32 = 7;

pub(super) fn descriptors_on_exec(_: &Kernel, kind: Kind) -> Outcome {
    let mut real = Real::open()?;
    set_up(&mut real, kind, "vm v0 type=$T\ngmem f0 v0 size=0x1000 flags=$F\nvcpu c0 v0")?;
    let vm = real.vm_number(register(Vm::new(0))?);
    let file = real.file_number(register(File::new(0))?);
    let cpu = real.cpu(register(Cpu::new(0))?).map_or(sys::NO_FD, |guest| guest.vcpu().number());
    let closes = |fd| {
        let flags = sys::borrow(fd).map(rustix::io::fcntl_getfd);
        matches!(flags, Ok(Ok(flags)) if flags.contains(rustix::io::FdFlags::CLOEXEC))
    };
    ensure(closes(vm), || "the VM is inherited".to_owned())?;
    ensure(closes(cpu), || "the vCPU is inherited".to_owned())?;
    ensure(!closes(file), || "the guest_memfd is close-on-exec".to_owned())
}

pub(super) fn touching_kills(_: &Kernel, kind: Kind) -> Outcome {
    let mut real = Real::open()?;
    set_up(&mut real, kind, "vm v0 type=$T\ngmem f0 v0 size=0x1000 flags=$F\nmap m0 f0 len=0x2000 shared rw")?;
    let map = register(Map::new(0))?;
    let in_file = sys::in_child(|| real.touch(map, 0)).map_err(failure)?;
    let beyond = sys::in_child(|| real.touch(map, 0x1000)).map_err(failure)?;
    let wanted = if kind == Kind::Shared { Ending::Exited(0) } else { Ending::Killed(SIGBUS) };
    ensure(in_file == wanted, || format!("touching a page of the file: {in_file:?}, not {wanted:?}"))?;
    ensure(beyond == Ending::Killed(SIGBUS), || format!("touching what is beyond the end: {beyond:?}"))
}

fn failure(errno: Errno) -> Failure {
    Failure::Failed(format!("no process: {errno}"))
}

pub(super) fn another_process(kernel: &Kernel, kind: Kind) -> Outcome {
    let mut real = Real::open()?;
    set_up(&mut real, kind, "vm v0 type=$T\ngmem f0 v0 size=0x4000 flags=$F\nvcpu c0 v0")?;
    let mut calls = vec![
        ("gmem f1 v0 size=0x1000 flags=0", "EIO"),
        ("slot v0 id=0 gpa=0x40000000 size=0x1000 hva=p0+0x0 flags=GUEST_MEMFD gmem=f0 offset=0", "EIO"),
        ("slot v0 id=0 gpa=0x40000000 size=0x1000 hva=p0+0x0", "EIO"),
        ("cap v0 234", "EIO"),
        ("guest-read c0 0x40000000", "EIO"),
        ("fallocate f0 mode=KEEP_SIZE offset=0 len=0x4000", "ok"),
        ("fallocate f0 mode=KEEP_SIZE|PUNCH_HOLE offset=0 len=0x1000", "ok"),
    ];
    if kernel.features.attributes_ioctl {
        calls.push(("attr v0 gpa=0x40000000 size=0x1000 attributes=0", "EIO"));
    }
    for (line, wanted) in calls {
        let ending = sys::in_child(|| {
            let answer = ask(&mut real, line).map_or(Answer::Hang, |answer| answer);
            if answer.to_string() == wanted { 0 } else { errno_of(answer) }
        });
        let ending = ending.map_err(failure)?;
        ensure(ending == Ending::Exited(0), || format!("{line}: {ending:?} (an errno), not {wanted}"))?;
    }
    Ok(())
}

/// What a child can say of an answer.
fn errno_of(answer: Answer) -> i32 {
    match answer {
        Answer::Failed(errno) => errno.0,
        Answer::Done | Answer::Value(_) => 254,
        _ => 255,
    }
}
