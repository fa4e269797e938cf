//! What takes more than a second says so, on a terminal.
//!
//! Owns the one line of progress on standard error. It appears only after a second, only if standard error is a
//! terminal, and is gone without a trace when the work is done. Anybody else who writes to the terminal ends it first.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::termios::isatty;
use std::io::{self, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Work shorter than this is nobody's concern.
const PATIENCE: Duration = Duration::from_secs(1);
const REDRAW: Duration = Duration::from_millis(100);

/// Where progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// On standard error.
    Terminal,
    /// Nowhere.
    Hidden,
}

/// A piece of work under way; it is over when the last clone is dropped, or before.
#[derive(Debug, Clone)]
pub struct Step(Arc<Mutex<Option<Shown>>>);

#[derive(Debug)]
struct Shown {
    bar: ProgressBar,
    /// Dropped to end the thread.
    over: Sender<()>,
    thread: JoinHandle<()>,
}

impl Progress {
    /// On standard error if it is a terminal.
    pub fn on_stderr() -> Self {
        if isatty(io::stderr()) { Self::Terminal } else { Self::Hidden }
    }

    /// Begins a piece of work.
    pub fn start(self, what: &str) -> Step {
        let shown = match self {
            Self::Terminal => Shown::start(what, ProgressDrawTarget::stderr()).ok(),
            Self::Hidden => None,
        };
        Step(Arc::new(Mutex::new(shown)))
    }
}

impl Shown {
    fn start(what: &str, target: ProgressDrawTarget) -> io::Result<Self> {
        let bar = ProgressBar::hidden().with_message(what.to_owned());
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        let (over, is_over) = channel::<()>();
        let drawn = bar.clone();
        let thread = std::thread::Builder::new().name("progress".into()).spawn(move || {
            if is_over.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            drawn.set_draw_target(target);
            while is_over.recv_timeout(REDRAW) == Err(RecvTimeoutError::Timeout) {
                drawn.tick();
            }
            drawn.finish_and_clear();
        })?;
        Ok(Self { bar, over, thread })
    }
}

impl Step {
    /// Says what is being done now.
    pub fn say(&self, what: &str) {
        if let Some(shown) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            shown.bar.set_message(what.to_owned());
        }
    }

    /// The work is over: when this returns, the line is gone.
    pub fn finish(&self) {
        let shown = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Shown { over, thread, .. }) = shown {
            drop(over);
            let _ = thread.join();
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if Arc::strong_count(&self.0) == 1 {
            self.finish();
        }
    }
}

/// A writer whose first byte ends a piece of work, because both want the same terminal.
pub struct EndsWithOutput<W> {
    step: Option<Step>,
    to: W,
}

impl<W> std::fmt::Debug for EndsWithOutput<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndsWithOutput").field("step", &self.step).finish_non_exhaustive()
    }
}

impl<W: Write> EndsWithOutput<W> {
    /// Writes to `to`.
    pub fn new(step: Step, to: W) -> Self {
        Self { step: Some(step), to }
    }
}

impl<W: Write> Write for EndsWithOutput<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(step) = self.step.take() {
            step.finish();
        }
        self.to.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::InMemoryTerm;
    use indicatif::TermLike;

    #[test]
    fn short_work_shows_nothing_and_long_work_leaves_nothing() {
        let term = InMemoryTerm::new(4, 80);
        let target = || ProgressDrawTarget::term_like(Box::new(term.clone()));
        let step = Step(Arc::new(Mutex::new(Some(Shown::start("copying", target()).unwrap()))));
        assert_eq!(term.contents(), "");
        step.finish();
        step.finish();
        assert_eq!(term.contents(), "");

        let step = Step(Arc::new(Mutex::new(Some(Shown::start("copying", target()).unwrap()))));
        step.say("still copying");
        while !term.contents().contains("still copying") {
            std::thread::sleep(REDRAW);
        }
        let mut writer = EndsWithOutput::new(step.clone(), Vec::new());
        writer.write_all(b"guest").unwrap();
        assert_eq!((term.contents().as_str(), writer.to.as_slice()), ("", &b"guest"[..]));
        term.flush().unwrap();
    }

    #[test]
    fn hidden_progress_does_nothing() {
        let step = Progress::Hidden.start("nothing");
        step.say("still nothing");
        step.finish();
    }
}
