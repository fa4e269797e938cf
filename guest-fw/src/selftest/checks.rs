//! Counts checks and says which failed.

use crate::serial::announce;
use core::fmt;
use core::sync::atomic::{AtomicU32, Ordering};

/// Lines said about failures; more would drown the console.
const LINES_MAX: u32 = 40;

/// The tally of all processors.
#[derive(Debug)]
pub struct Checks {
    made: AtomicU32,
    failed: AtomicU32,
}

impl Checks {
    /// None made.
    pub const fn new() -> Self {
        Self { made: AtomicU32::new(0), failed: AtomicU32::new(0) }
    }

    /// Counts a check; if it failed, says what was wrong.
    pub fn check(&self, result: Result<(), impl fmt::Display>, what: fmt::Arguments<'_>) {
        self.made.fetch_add(1, Ordering::Relaxed);
        if let Err(wrong) = result
            && self.failed.fetch_add(1, Ordering::Relaxed) < LINES_MAX
        {
            announce(format_args!("self-test: FAILED: {what}: {wrong}"));
        }
    }

    /// Checks made.
    pub fn made(&self) -> u32 {
        self.made.load(Ordering::Relaxed)
    }

    /// Checks that failed.
    pub fn failed(&self) -> u32 {
        self.failed.load(Ordering::Relaxed)
    }
}

impl Default for Checks {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_successes_and_failures_that_happened_are_counted() {
        let checks = Checks::new();
        checks.check(Ok::<_, &str>(()), format_args!("one"));
        checks.check(Ok::<_, &str>(()), format_args!("two"));
        assert_eq!((checks.made(), checks.failed()), (2, 0));
    }
}
