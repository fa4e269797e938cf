//! How work that takes minutes tells people where it stands.
//!
//! Owns: the trait and a plain implementation, one line per step. Does not own: bars, colours or
//! anything a terminal can do; whoever has one brings an implementation.

use std::io::Write;
use std::time::{Duration, Instant};

/// Receives what the lab is doing, step by step. Steps do not nest.
pub trait Progress {
    /// A step begins that usually takes about `expected` on two cores.
    fn begin(&mut self, name: &str, expected: Duration);
    /// The step is `done` of `total` parts through.
    fn advance(&mut self, done: u64, total: u64);
    /// A program the step runs printed this line.
    fn line(&mut self, text: &str);
    /// The step is over.
    fn end(&mut self);
    /// Something worth knowing outside of any step.
    fn note(&mut self, text: &str);
}

impl dyn Progress + '_ {
    /// Does `work` as a step: it ends whether the work succeeds or not.
    pub(crate) fn step<T>(&mut self, name: &str, expected: Duration, work: impl FnOnce(&mut Self) -> T) -> T {
        self.begin(name, expected);
        let result = work(self);
        self.end();
        result
    }
}

/// Says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: &str, _: Duration) {}
    fn advance(&mut self, _: u64, _: u64) {}
    fn line(&mut self, _: &str) {}
    fn end(&mut self) {}
    fn note(&mut self, _: &str) {}
}

/// One line when a step begins and one when it ends, on a stream that need not be a terminal.
#[derive(Debug)]
pub struct Plain<W> {
    out: W,
    step: Option<(String, Instant)>,
}

impl<W: Write> Plain<W> {
    /// Reports to `out`.
    pub fn new(out: W) -> Self {
        Self { out, step: None }
    }

    fn say(&mut self, text: &str) {
        // Nobody reading the progress is no reason to stop the work.
        let _ = writeln!(self.out, "lab: {text}");
    }
}

impl<W: Write> Progress for Plain<W> {
    fn begin(&mut self, name: &str, expected: Duration) {
        match expected.as_secs() {
            // Not worth a line unless it turns out to take longer.
            0..=2 => {}
            seconds @ 3..=90 => self.say(&format!("{name} (about {seconds} s)")),
            seconds => self.say(&format!("{name} (about {} min)", seconds.div_ceil(60))),
        }
        self.step = Some((name.to_owned(), Instant::now()));
    }

    fn advance(&mut self, _: u64, _: u64) {}

    fn line(&mut self, _: &str) {}

    fn end(&mut self) {
        if let Some((name, start)) = self.step.take()
            && start.elapsed() > Duration::from_secs(2)
        {
            self.say(&format!("{name}: done in {} s", start.elapsed().as_secs()));
        }
    }

    fn note(&mut self, text: &str) {
        self.say(text);
    }
}
