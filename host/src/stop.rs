//! A request that the guest end, from wherever it comes.
//!
//! Owns the flag every part of a run looks at, the descriptor a waiting thread can poll, and the process's signal
//! handlers. A request is only a request: it never skips teardown, however often it is repeated.
//!
//! Specification: law *pages-before-key* of `ARCHITECTURE.md` (every path ends in the same teardown).

use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Who wants the guest to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// SIGINT.
    Interrupt = 1,
    /// SIGTERM.
    Terminate = 2,
    /// SIGHUP: the terminal is gone.
    Hangup = 3,
    /// The escape key at the console.
    Escape = 4,
    /// Some part of the VMM that cannot go on.
    Internal = 5,
    /// It has run as long as it may.
    TimeLimit = 6,
}

impl StopReason {
    const ALL: [Self; 6] =
        [Self::Interrupt, Self::Terminate, Self::Hangup, Self::Escape, Self::Internal, Self::TimeLimit];

    fn from_raw(raw: usize) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| *reason as usize == raw)
    }
}

impl fmt::Display for StopReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Interrupt => "SIGINT",
            Self::Terminate => "SIGTERM",
            Self::Hangup => "SIGHUP",
            Self::Escape => "the console's escape key",
            Self::Internal => "an internal error",
            Self::TimeLimit => "its time limit",
        })
    }
}

/// A handle on the request; all clones are the same one.
#[derive(Debug, Clone)]
pub struct StopSignal {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// A [`StopReason`] as number, or zero. Shared with signal handlers.
    reason: Arc<AtomicUsize>,
    /// Readable from the first request on: nobody ever drains it.
    wake_read: OwnedFd,
    wake_write: OwnedFd,
}

impl StopSignal {
    /// A signal nobody has given yet.
    pub fn new() -> io::Result<Self> {
        let (wake_read, wake_write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        Ok(Self { inner: Arc::new(Inner { reason: Arc::default(), wake_read, wake_write }) })
    }

    /// Makes SIGINT, SIGTERM and SIGHUP requests to stop, for as long as the process lives.
    pub fn catch_signals(&self) -> io::Result<()> {
        for (signal, reason) in
            [(SIGINT, StopReason::Interrupt), (SIGTERM, StopReason::Terminate), (SIGHUP, StopReason::Hangup)]
        {
            // In this order: who is woken finds the reason.
            signal_hook::flag::register_usize(signal, Arc::clone(&self.inner.reason), reason as usize)?;
            signal_hook::low_level::pipe::register(signal, self.inner.wake_write.try_clone()?)?;
        }
        Ok(())
    }

    /// Asks for the end. The first reason given by this function stays.
    pub fn request(&self, reason: StopReason) {
        let _ = self.inner.reason.compare_exchange(0, reason as usize, Ordering::AcqRel, Ordering::Acquire);
        // A full pipe is as readable as it gets.
        let _ = rustix::io::write(&self.inner.wake_write, &[0]);
    }

    /// Who asked, if anybody did.
    pub fn reason(&self) -> Option<StopReason> {
        StopReason::from_raw(self.inner.reason.load(Ordering::Acquire))
    }
}

impl AsFd for StopSignal {
    /// A descriptor that becomes readable with the first request and stays so. It must not be read from.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.wake_read.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    fn is_readable(stop: &StopSignal) -> bool {
        poll(&mut [PollFd::new(stop, PollFlags::IN)], Some(&Timespec::default())).unwrap() == 1
    }

    #[test]
    fn the_first_request_wakes_everybody_for_good() {
        let stop = StopSignal::new().unwrap();
        let other = stop.clone();
        assert_eq!((stop.reason(), is_readable(&stop)), (None, false));
        for reason in [StopReason::Escape, StopReason::Internal] {
            other.request(reason);
            assert_eq!((stop.reason(), is_readable(&stop)), (Some(StopReason::Escape), true));
        }
    }

    #[test]
    fn any_number_of_requests_never_blocks() {
        let stop = StopSignal::new().unwrap();
        for _ in 0..100_000 {
            stop.request(StopReason::Internal);
        }
        assert!(is_readable(&stop));
    }

    #[test]
    fn signals_are_requests_and_repeating_them_changes_nothing() {
        let stop = StopSignal::new().unwrap();
        stop.catch_signals().unwrap();
        for _ in 0..3 {
            signal_hook::low_level::raise(SIGTERM).unwrap();
            assert_eq!((stop.reason(), is_readable(&stop)), (Some(StopReason::Terminate), true));
        }
    }
}
