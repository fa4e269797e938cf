//! A `tenure` on the lab host, sound or faulty, under way and after its end.

use std::io::Read;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use tenure::events::{Event, TimedEvent};
use tenure::report::{GuestOutcome, TeardownReport};
use tenure_lab::{Child, Command, Host, Status, Stdin, StreamReader};

/// Where a run's events go on the lab host.
const EVENTS: &str = "/run/events";
/// Far beyond what a run takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(300);

/// A program of the lab host with `run`'s options.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Program {
    /// `tenure run`.
    Tenure,
    /// `tenure-faulty`.
    Faulty,
}

/// A run under way.
pub(crate) struct Vmm {
    child: Child,
    console: Arc<Text>,
    messages: Arc<Text>,
    readers: [JoinHandle<()>; 2],
}

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Ended {
    pub status: Status,
    pub console: String,
    pub messages: String,
    pub events: Vec<TimedEvent>,
}

/// Text that comes in while somebody waits for it.
#[derive(Default)]
struct Text {
    seen: Mutex<(Vec<u8>, bool)>,
    grown: Condvar,
}

impl Vmm {
    /// Starts a run with these arguments.
    pub(crate) fn start(host: &Host, program: Program, arguments: &[&str]) -> Result<Self> {
        let command = match program {
            Program::Tenure => Command::new("/bin/tenure").arg("run"),
            Program::Faulty => Command::new("/bin/tenure-faulty"),
        };
        host.write(EVENTS, "")?;
        let command = command.args(["--events", EVENTS]).args(arguments.iter().copied());
        let mut child = host.spawn(command.stdin(Stdin::Stream).deadline(DEADLINE))?;
        let (stdout, stderr) = child.take_output();
        let (console, messages) = (Arc::<Text>::default(), Arc::<Text>::default());
        let readers = [console.fill_from(stdout), messages.fill_from(stderr)];
        Ok(Self { child, console, messages, readers })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Waits until the guest's console shows `text`.
    pub(crate) fn wait_for(&self, text: &str) -> Result<()> {
        let shown = self.console.wait_for(text);
        ensure!(shown, "the guest never said {text:?}:\n{}\n{}", self.console.get(), self.messages.get());
        Ok(())
    }

    /// Sends it a signal.
    pub(crate) fn kill(&self, signal: u32) -> Result<()> {
        Ok(self.child.kill(signal)?)
    }

    /// Waits for its end; its standard input ends now.
    pub(crate) fn wait(mut self, host: &Host) -> Result<Ended> {
        let status = self.child.wait()?;
        for reader in self.readers {
            let _ = reader.join();
        }
        let events = host.read_to_string(EVENTS)?;
        // A process that was killed may leave half a line.
        let events = events.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        Ok(Ended { status, console: self.console.get(), messages: self.messages.get(), events })
    }
}

impl Ended {
    /// How the guest ended, by the events.
    pub(crate) fn outcome(&self) -> Option<&GuestOutcome> {
        self.events.iter().find_map(|timed| match &timed.event {
            Event::GuestEnded { outcome } => Some(outcome),
            _ => None,
        })
    }

    /// The receipt, by the events.
    pub(crate) fn receipt(&self) -> Option<&TeardownReport> {
        self.events.iter().find_map(|timed| match &timed.event {
            Event::Teardown { receipt, .. } => Some(receipt),
            _ => None,
        })
    }

    /// Asserts the exit code.
    pub(crate) fn check_code(&self, code: u32) -> Result<()> {
        ensure!(self.status == Status::Exited(code), "{} instead of {code}\n{}", self.status, self.said());
        Ok(())
    }

    /// Asserts that there is a receipt and that it is clean.
    pub(crate) fn check_receipt(&self) -> Result<()> {
        let clean = self.receipt().is_some_and(TeardownReport::is_clean);
        ensure!(clean, "receipt: {:?}\n{}", self.receipt(), self.said());
        Ok(())
    }

    /// Everything it said.
    pub(crate) fn said(&self) -> String {
        format!("console:\n{}\nmessages:\n{}", self.console, self.messages)
    }
}

impl Text {
    fn lock(&self) -> MutexGuard<'_, (Vec<u8>, bool)> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self) -> String {
        String::from_utf8_lossy(&self.lock().0).into_owned()
    }

    fn fill_from(self: &Arc<Self>, mut stream: StreamReader) -> JoinHandle<()> {
        let text = Arc::clone(self);
        thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = stream.read(&mut piece) {
                text.lock().0.extend_from_slice(&piece[..count]);
                text.grown.notify_all();
            }
            text.lock().1 = true;
            text.grown.notify_all();
        })
    }

    /// Waits until `wanted` is there or nothing more can come.
    fn wait_for(&self, wanted: &str) -> bool {
        let deadline = Instant::now() + DEADLINE;
        let mut seen = self.lock();
        loop {
            if String::from_utf8_lossy(&seen.0).contains(wanted) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if seen.1 || left.is_zero() {
                return false;
            }
            (seen, _) = self.grown.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
