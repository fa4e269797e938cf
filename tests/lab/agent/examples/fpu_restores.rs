//! Runs a program on processor 0 while processor 1 does nothing but restore FPU state.
//!
//! `fpu_restores PROGRAM [ARGUMENT]...`; exits as the program does. Proves correction 0007 in `../qemu/`, without which
//! each restore may undo what processor 0 just noted about the guest it runs.
#![expect(unsafe_code, reason = "FXSAVE and FXRSTOR are given an address")]

use std::arch::x86_64::{_fxrstor, _fxsave};
use std::process::{Command, ExitCode};
use std::sync::mpsc;

use anyhow::Context;
use rustix::thread::{CpuSet, sched_setaffinity};

/// What FXSAVE writes: 512 bytes, aligned to 16.
#[repr(align(16))]
struct State([u8; 512]);

fn main() -> anyhow::Result<ExitCode> {
    let mut words = std::env::args_os().skip(1);
    let program = words.next().context("no program given")?;
    let (ready, wait) = mpsc::channel();
    std::thread::spawn(move || {
        let pinned = stay_on(1);
        let failed = pinned.is_err();
        if ready.send(pinned).is_ok() && !failed {
            restore_forever();
        }
    });
    wait.recv()??;
    stay_on(0)?;
    let status = Command::new(&program).args(words).status().with_context(|| program.display().to_string())?;
    Ok(ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)))
}

/// Keeps the calling thread on this processor, and what it starts from now on.
fn stay_on(cpu: usize) -> anyhow::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).with_context(|| format!("processor {cpu}"))
}

fn restore_forever() -> ! {
    let mut state = State([0; 512]);
    // SAFETY: the area has the size and the alignment that the instruction asks for.
    unsafe { _fxsave(state.0.as_mut_ptr()) };
    loop {
        // SAFETY: as before, and it holds what this thread's FPU held.
        unsafe { _fxrstor(state.0.as_ptr()) };
    }
}
