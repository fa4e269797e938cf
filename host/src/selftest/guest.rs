//! One guest of a self-test: run, watched, and what is kept of it.
//!
//! Owns its time limit and its ends. Does not own how it is run ([`crate::run`]) or what is made of it ([`super::cases`]).

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use gmem_kvm::port::Kernel;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use snp::digest::Digest;

use super::{Bed, SelfTestError};
use crate::config::RunConfig;
use crate::config::inputs::Inputs;
use crate::events::{Event, EventLog, TimedEvent};
use crate::report::RunReport;
use crate::run::{self, Ends, RunError};
use crate::stop::{StopReason, StopSignal};

/// What is kept of a guest's console.
const CONSOLE_MAX: usize = 1 << 20;

/// What is kept of a case, besides what was found.
#[derive(Debug, Default)]
pub struct Kept {
    /// The case.
    pub case: &'static str,
    /// Everything that happened, in order.
    pub events: Vec<TimedEvent>,
    /// What the guest wrote to its serial console, at most a MiB.
    pub console: Vec<u8>,
    /// The screen about it, for people.
    pub summary: String,
    /// Attestation reports it handed over.
    pub reports: Vec<Vec<u8>>,
}

/// A guest that was run.
pub(super) struct Ran {
    pub report: RunReport,
    pub events: Vec<TimedEvent>,
    pub console: Vec<u8>,
}

impl Ran {
    /// The digest it was predicted to be measured as.
    pub(super) fn predicted(&self) -> Option<Digest> {
        self.events.iter().find_map(|timed| match &timed.event {
            Event::LaunchStep { step, detail, .. } if step == run::PREDICTED => detail.as_deref()?.parse().ok(),
            _ => None,
        })
    }
}

/// Runs a guest until it ends, or somebody ends it all, or its time is up.
pub(super) fn run<K: Kernel>(
    bed: &Bed<'_, K>,
    config: &RunConfig,
    inputs: &Inputs,
    time_limit: Duration,
) -> Result<Result<Ran, RunError>, SelfTestError> {
    let stop = StopSignal::new().map_err(SelfTestError::Begin)?;
    let (events, console) = (EventLog::in_memory(), Console::default());
    let ends = Ends {
        events: events.clone(),
        console_output: Box::new(console.clone()),
        console_input: None,
        virtio_output: Box::new(io::sink()),
        virtio_input: None,
        channels: Vec::new(),
        stop: stop.clone(),
    };
    let report = thread::scope(|scope| {
        let watch = || watch(bed.stop, &stop, time_limit);
        let watchdog = thread::Builder::new().name("watchdog".into()).spawn_scoped(scope, watch)?;
        let report = run::run(bed.kernel, config.tee, config, inputs, ends);
        // Whether or not there was a guest to stop, there is none to watch any more.
        stop.request(StopReason::Internal);
        let _ = watchdog.join();
        Ok(report)
    });
    let report = report.map_err(SelfTestError::Begin)?;
    let console = console.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(report.map(|report| Ran { report, events: events.collected(), console }))
}

/// Passes on a request to end it all, and makes one when time is up. Returns when the guest has ended.
fn watch(all: &StopSignal, one: &StopSignal, limit: Duration) {
    let end = Instant::now() + limit;
    loop {
        let left = Timespec::try_from(end.saturating_duration_since(Instant::now())).ok();
        let mut both = [PollFd::new(all, PollFlags::IN), PollFd::new(one, PollFlags::IN)];
        match poll(&mut both, left.as_ref()) {
            Ok(0) => one.request(StopReason::TimeLimit),
            Ok(_) => one.request(all.reason().unwrap_or(StopReason::Internal)),
            Err(Errno::INTR) => continue,
            // It cannot be watched: it must not run.
            Err(_) => one.request(StopReason::Internal),
        }
        return;
    }
}

/// What a guest writes to its serial console.
#[derive(Clone, Default)]
struct Console(Arc<Mutex<Vec<u8>>>);

impl Write for Console {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = CONSOLE_MAX.saturating_sub(kept.len());
        kept.extend_from_slice(&data[..data.len().min(room)]);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
