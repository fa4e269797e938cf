//! How a call that never ends is told from a slow one: the alarm that ends it.
//!
//! Owns: patience, and SIGALRM. Does not own: what it means if a call had to be interrupted.

use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::checked;
use crate::outcome::Errno;

/// Milliseconds. Long enough for an emulated machine under load, whose clock goes on while it stands still.
static PATIENCE: AtomicU64 = AtomicU64::new(4_000);

fn patience() -> Duration {
    Duration::from_millis(PATIENCE.load(Ordering::Relaxed))
}

/// How long a vCPU's call may take from now on.
pub(crate) fn be_patient_for(time: Duration) {
    PATIENCE.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
}

/// Does `call`, interrupting it when patience ends.
pub(super) fn until_patience_ends<T>(call: impl FnOnce() -> T) -> T {
    set_alarm(patience());
    let result = call();
    set_alarm(Duration::ZERO);
    result
}

/// Whether a call took so long that the alarm ended it, and nothing else did.
pub(crate) fn took_too_long(started: Instant) -> bool {
    started.elapsed() >= patience() * 3 / 4
}

extern "C" fn interrupted(_signal: c_int) {}

/// Makes SIGALRM interrupt system calls instead of ending the process.
pub(crate) fn let_alarms_interrupt() -> Result<(), Errno> {
    // SAFETY: all zeros is a valid `sigaction`: no flags, so no restart of system calls, and an empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = interrupted as extern "C" fn(c_int) as usize;
    // SAFETY: the handler does nothing, which is safe at any moment.
    checked(unsafe { libc::sigaction(libc::SIGALRM, &raw const action, std::ptr::null_mut()) }).map(drop)
}

/// Has SIGALRM interrupt other threads than this one, or this one again.
pub(crate) fn alarms_are_for(others: Threads) {
    let how = match others {
        Threads::Others => libc::SIG_BLOCK,
        Threads::All => libc::SIG_UNBLOCK,
    };
    // SAFETY: all zeros is a valid set of signals.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: changes the set, which is ours.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGALRM) };
    // SAFETY: reads the set; a mask of signals is no memory.
    unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) };
}

/// Which threads an alarm may interrupt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Threads {
    /// All but the calling one.
    Others,
    /// All.
    All,
}

/// None if the time is zero.
fn set_alarm(time: Duration) {
    let seconds = libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX);
    let microseconds = libc::suseconds_t::from(time.subsec_micros());
    let once = libc::itimerval {
        it_interval: libc::timeval { tv_sec: 0, tv_usec: 0 },
        it_value: libc::timeval { tv_sec: seconds, tv_usec: microseconds },
    };
    // SAFETY: reads the time; nothing is written.
    unsafe { libc::setitimer(libc::ITIMER_REAL, &raw const once, std::ptr::null_mut()) };
}
