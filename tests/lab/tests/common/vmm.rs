//! A running `tenure`: its console, messages and events as they come.

use std::io::{BufRead, BufReader, Read, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tenure::events::{Event, TimedEvent};
use tenure::report::{GuestOutcome, TeardownReport};
use tenure_lab::{Child, Command, Host, Status, Stdin};

use super::bed::TENURE;

/// A run may take this long, and so may anything it is waited for: far beyond what it needs on a busy machine.
const DEADLINE: Duration = Duration::from_secs(900);
/// Lines of a guest's console an error shows.
const CONSOLE_TAIL: usize = 40;
/// The mark a test guest leaves when its user space starts.
const MARK_USER_SPACE: u32 = 1;
/// Events go where they take no memory on the lab host, whose file systems are all memory.
const EVENTS: &str = "/proc/self/fd/2";

/// A `tenure run` under way.
pub(crate) struct Vmm {
    child: Child,
    console: Lines,
    messages: Lines,
    readers: Vec<JoinHandle<()>>,
}

/// A run that is over.
#[derive(Debug)]
pub(crate) struct Ended {
    pub status: Status,
    pub console: Vec<String>,
    pub messages: Vec<String>,
    pub events: Vec<TimedEvent>,
}

/// Lines that come in while others wait for one.
#[derive(Clone, Default)]
struct Lines(Arc<Shared>);

#[derive(Default)]
struct Shared {
    text: Mutex<Text>,
    grown: Condvar,
}

#[derive(Default)]
struct Text {
    lines: Vec<String>,
    ended: bool,
}

impl Vmm {
    /// Starts `tenure run` with these arguments, in a control group if one is named.
    pub(crate) fn start(host: &Host, arguments: &[String], cgroup: Option<&str>) -> Result<Self> {
        Self::start_program(host, TENURE, arguments, cgroup)
    }

    /// The same with this `tenure`.
    pub(crate) fn start_program(host: &Host, tenure: &str, arguments: &[String], cgroup: Option<&str>) -> Result<Self> {
        let mut command = Command::new(tenure)
            .args(["run", "--events", EVENTS])
            .args(arguments.iter().map(String::as_bytes))
            .stdin(Stdin::Stream)
            .deadline(DEADLINE);
        if let Some(cgroup) = cgroup {
            command = command.cgroup(cgroup);
        }
        let mut child = host.spawn(command)?;
        let (stdout, stderr) = child.take_output();
        let (console, messages) = (Lines::default(), Lines::default());
        let readers = vec![console.fill_from(stdout), messages.fill_from(stderr)];
        Ok(Self { child, console, messages, readers })
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Waits until the guest says `text` for the `nth` time, counted from 1.
    pub(crate) fn wait_for(&self, text: &str, nth: usize) -> Result<()> {
        let seen = self.console.wait(|lines| lines.iter().filter(|line| line.contains(text)).count() >= nth);
        if !seen {
            bail!("the guest did not say {text:?} {nth} times:\n{}", self.tail());
        }
        Ok(())
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.console.lock().ended
    }

    /// The events so far.
    pub(crate) fn events(&self) -> Result<Vec<TimedEvent>> {
        events(&self.messages.lock().lines)
    }

    /// Sends the guest an empty line on its console.
    pub(crate) fn press_enter(&mut self) -> Result<()> {
        self.child.stdin.as_mut().context("the guest has no console")?.write_all(b"\n").context("the guest's console")
    }

    /// Waits for its end.
    pub(crate) fn wait(mut self) -> Result<Ended> {
        // The readers end with the streams; while standard input is open nobody stops the guest.
        for reader in self.readers {
            let _ = reader.join();
        }
        let status = self.child.wait()?;
        let take = |lines: &Lines| std::mem::take(&mut lines.lock().lines);
        let (console, messages) = (take(&self.console), take(&self.messages));
        let events = events(&messages)?;
        let messages = messages.into_iter().filter(|line| !line.starts_with('{')).collect();
        Ok(Ended { status, console, messages, events })
    }

    fn tail(&self) -> String {
        let (console, messages) = (&self.console.lock().lines, &self.messages.lock().lines);
        tail(console, messages)
    }
}

impl Ended {
    /// The value of a fact the test userland reported.
    pub(crate) fn fact(&self, name: &str) -> Option<&str> {
        let prefix = format!("guest: fact {name} ");
        self.console.iter().find_map(|line| Some(line.split_once(&prefix)?.1.trim()))
    }

    /// Milliseconds from the start of `tenure` to the guest's user space, by its own mark.
    pub(crate) fn user_space_ms(&self) -> Option<f64> {
        let is_mark = |event: &Event| matches!(event, Event::Mark { value: MARK_USER_SPACE, .. });
        self.events.iter().find(|timed| is_mark(&timed.event)).map(|timed| timed.t_ms)
    }

    /// Milliseconds to the last event.
    pub(crate) fn total_ms(&self) -> f64 {
        self.events.last().map_or(0.0, |timed| timed.t_ms)
    }

    /// A device's counter.
    pub(crate) fn device(&self, device: &str, counter: &str) -> Result<u64> {
        let find = |event: &Event| match event {
            Event::Device { name, counters } if name == device => counters.get(counter).copied(),
            _ => None,
        };
        let value = self.events.iter().find_map(|timed| find(&timed.event));
        value.with_context(|| format!("no event tells {counter:?} of {device}"))
    }

    /// Pages the guest's memory took of the host's in the end: private ones, if the kernel tells, and shared ones.
    pub(crate) fn resident_pages(&self) -> Result<(Option<u64>, u64)> {
        let find = |event: &Event| match event {
            Event::Memory { private_resident_pages, shared_resident_pages } => {
                Some((*private_resident_pages, *shared_resident_pages))
            }
            _ => None,
        };
        self.events.iter().find_map(|timed| find(&timed.event)).context("no event tells what memory was taken")
    }

    /// What was done to take the VM down.
    pub(crate) fn receipt(&self) -> Result<&TeardownReport> {
        let find = |event: &'_ TimedEvent| matches!(event.event, Event::Teardown { .. });
        match self.events.iter().find(|event| find(event)).map(|event| &event.event) {
            Some(Event::Teardown { receipt, .. }) => Ok(receipt),
            _ => bail!("there is no receipt\n{}", self.tail()),
        }
    }

    /// Pages of the receipt whose state's name begins with `state`.
    pub(crate) fn pages(&self, state: &str) -> Result<u64> {
        let pages = self.receipt()?.pages.iter().filter(|pages| pages.state.starts_with(state));
        Ok(pages.map(|pages| pages.pages).sum())
    }

    /// Whether `tenure` did what was asked and left nothing behind.
    pub(crate) fn check_clean(&self, outcome: &GuestOutcome) -> Result<()> {
        ensure!(self.status == Status::Exited(0), "{}\n{}", self.status, self.tail());
        let ended = |event: &Event| matches!(event, Event::GuestEnded { outcome: seen } if seen == outcome);
        ensure!(self.events.iter().any(|timed| ended(&timed.event)), "the outcome is not {outcome:?}\n{}", self.tail());
        let receipt = self.receipt()?;
        ensure!(receipt.is_clean(), "{receipt:?}");
        let dropped = |event: &Event| matches!(event, Event::StagingDropped { .. });
        ensure!(self.events.iter().any(|timed| dropped(&timed.event)), "staging was not dropped");
        Ok(())
    }

    /// The ends of console and messages, and what the devices counted.
    pub(crate) fn tail(&self) -> String {
        let mut text = tail(&self.console, &self.messages);
        for timed in &self.events {
            if let Event::Device { name, counters } = &timed.event {
                text.push_str(&format!("{name}: {counters:?}\n"));
            }
        }
        text
    }
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Text> {
        self.0.text.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fill_from(&self, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = self.clone();
        thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n') {
                let Ok(line) = line else { break };
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                lines.lock().lines.push(line);
                lines.0.grown.notify_all();
            }
            lines.lock().ended = true;
            lines.0.grown.notify_all();
        })
    }

    /// Waits until `found`, or nothing more can come.
    fn wait(&self, found: impl Fn(&[String]) -> bool) -> bool {
        let deadline = Instant::now() + DEADLINE;
        let mut lines = self.lock();
        while !found(&lines.lines) {
            let left = deadline.saturating_duration_since(Instant::now());
            if lines.ended || left.is_zero() {
                return false;
            }
            (lines, _) = self.0.grown.wait_timeout(lines, left).unwrap_or_else(PoisonError::into_inner);
        }
        true
    }
}

/// The events among what came over standard error.
fn events(messages: &[String]) -> Result<Vec<TimedEvent>> {
    let lines = messages.iter().filter(|line| line.starts_with('{'));
    lines.map(|line| serde_json::from_str(line).with_context(|| format!("not an event: {line}"))).collect()
}

fn tail(console: &[String], messages: &[String]) -> String {
    let mut text =
        format!("the console ends with:\n{}\n", console[console.len().saturating_sub(CONSOLE_TAIL)..].join("\n"));
    let said: Vec<&str> = messages.iter().filter(|line| !line.starts_with('{')).map(String::as_str).collect();
    if !said.is_empty() {
        text.push_str(&format!("tenure says:\n{}\n", said.join("\n")));
    }
    text
}
