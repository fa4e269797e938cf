//! What happens during a run, one JSON object a line.
//!
//! Owns the events' vocabulary ([`Event`]) and their way to a file ([`EventLog`]). Writing is one thread's business:
//! whoever reports an event never waits for a disk, and a full disk costs events, not the guest. What was lost is told
//! at the end.
//!
//! Specification: our own. Each line has `t_ms`, milliseconds since the log was opened, and `event`, its kind. Keys are
//! only ever added. Lines are in the order in which they were reported.

mod writer;

use crate::config::{Guise, Tee};
use crate::report::{ConversionCounts, GuestOutcome, TeardownReport};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;
use writer::Writer;

/// Something worth a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run began; nothing was asked of the kernel yet.
    RunStarted {
        /// Version of `tenure`.
        version: Cow<'static, str>,
        /// The host's kernel, as in `uname -sr`.
        host_kernel: String,
        /// What keeps memory private.
        tee: Tee,
        /// What the guest is told it runs on.
        guise: Guise,
        /// RAM.
        memory_bytes: u64,
        /// vCPUs.
        vcpus: u32,
    },
    /// A step of the launch is done.
    LaunchStep {
        /// Which.
        step: Cow<'static, str>,
        /// What is worth knowing about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
        /// How long it took.
        duration_us: u64,
    },
    /// The staging slot is gone: everything the guest needs is in its private memory.
    StagingDropped {
        /// Its size.
        bytes: u64,
    },
    /// A range changed hands, or was meant to.
    Conversion {
        /// Which vCPU asked.
        vcpu: u32,
        /// Whom to.
        to: Owner,
        /// First address.
        gpa: u64,
        /// Pages.
        pages: u64,
        /// How it went.
        result: ConversionResult,
        /// How long it took.
        duration_us: u64,
    },
    /// The guest asked for something it cannot have.
    Refused {
        /// Which vCPU asked.
        vcpu: u32,
        /// For what: `conversion`, `doorbell`, …
        request: Cow<'static, str>,
        /// Why not, with the values.
        reason: String,
    },
    /// The guest rang the doorbell to leave a mark.
    Mark {
        /// Which vCPU.
        vcpu: u32,
        /// The guest's choice.
        value: u32,
    },
    /// The guest handed attestation evidence over.
    Evidence {
        /// Which vCPU.
        vcpu: u32,
        /// How much.
        bytes: u64,
    },
    /// The guest reset itself and was torn down; the same launch is carried out again.
    Relaunch {
        /// How often that was done with this one.
        resets: u32,
    },
    /// A guest's program opened a channel and said something, and was connected.
    RelayConnected {
        /// The channel.
        channel: Cow<'static, str>,
        /// With whom.
        address: String,
    },
    /// It could not be.
    RelayFailed {
        /// The channel.
        channel: Cow<'static, str>,
        /// With whom it should have been.
        address: String,
        /// Why not.
        error: String,
    },
    /// The connection is over.
    RelayEnded {
        /// The channel.
        channel: Cow<'static, str>,
        /// With whom it was.
        address: String,
        /// Who closed it.
        by: Side,
        /// Bytes the peer was sent.
        bytes_from_guest: u64,
        /// Bytes the guest was sent; it need not have read them all.
        bytes_to_guest: u64,
        /// What broke it, if something did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// Exits of one vCPU by reason.
    Exits {
        /// Which vCPU.
        vcpu: u32,
        /// How many for each reason.
        counts: BTreeMap<Cow<'static, str>, u64>,
    },
    /// Conversions of the whole run.
    Conversions {
        /// To shared.
        to_shared: ConversionCounts,
        /// To private.
        to_private: ConversionCounts,
    },
    /// What the guest's memory took of the host's when the guest ended.
    Memory {
        /// Private pages, where the kernel tells.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        private_resident_pages: Option<u64>,
        /// Pages of RAM's shared alias.
        shared_resident_pages: u64,
    },
    /// What a device counted.
    Device {
        /// Its name.
        name: Cow<'static, str>,
        /// Its counters.
        counters: BTreeMap<Cow<'static, str>, u64>,
    },
    /// The guest will not run again.
    GuestEnded {
        /// How it ended.
        outcome: GuestOutcome,
    },
    /// Everything is closed.
    Teardown {
        /// Whether nothing of the guest is known to be left.
        clean: bool,
        /// What was done.
        receipt: TeardownReport,
    },
}

/// Who gets a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Owner {
    /// Host and guest.
    Shared,
    /// The guest alone.
    Private,
}

/// One of the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The guest.
    Guest,
    /// Whom it was connected with.
    Peer,
}

/// How a conversion went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ConversionResult {
    /// Done.
    Done,
    /// Done, but the losing copy is still there: to be retried.
    Debt {
        /// What went wrong with discarding it.
        reason: String,
    },
    /// Nothing changed.
    Aborted {
        /// Why.
        reason: String,
    },
    /// Nobody knows.
    InDoubt {
        /// Why.
        reason: String,
    },
}

/// An event with its time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimedEvent {
    /// Milliseconds since the log was opened.
    pub t_ms: f64,
    /// What happened.
    #[serde(flatten)]
    pub event: Event,
}

/// Why events were lost.
#[derive(Debug, thiserror::Error)]
pub enum EventLogError {
    /// The file cannot be made.
    #[error("events file `{}` cannot be created: {source}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file cannot be written to; nothing was written after the first failure.
    #[error("events file `{}`: {lost} events were lost: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// How many.
        lost: u64,
        /// What the system said first.
        source: io::Error,
    },
    /// The file was too slow.
    #[error("events file `{}`: {lost} events were lost because writing could not keep up", path.display())]
    TooSlow {
        /// The file.
        path: PathBuf,
        /// How many.
        lost: u64,
    },
}

/// A handle on the log; all clones are the same one, and the last one dropped flushes it.
#[derive(Debug, Clone)]
pub struct EventLog {
    started: Instant,
    sink: Sink,
}

#[derive(Debug, Clone)]
enum Sink {
    Off,
    Memory(Arc<Mutex<Vec<TimedEvent>>>),
    File(Arc<Writer>),
}

impl EventLog {
    /// A log that keeps nothing.
    pub fn off() -> Self {
        Self { started: Instant::now(), sink: Sink::Off }
    }

    /// A log that keeps everything in memory, see [`Self::collected`].
    pub fn in_memory() -> Self {
        Self { started: Instant::now(), sink: Sink::Memory(Arc::default()) }
    }

    /// A log that writes to a new file at `path`, in place of one that may be there.
    pub fn create(path: &Path) -> Result<Self, EventLogError> {
        Ok(Self { started: Instant::now(), sink: Sink::File(Arc::new(Writer::create(path)?)) })
    }

    /// The time, if anybody wants to know when things began.
    pub fn clock(&self) -> Option<Instant> {
        (!matches!(self.sink, Sink::Off)).then(Instant::now)
    }

    /// Reports an event. Never waits and never fails; what is lost is told by [`Self::finish`].
    pub fn emit(&self, event: Event) {
        self.emit_with(|| event);
    }

    /// Reports an event that is made only if anybody wants it.
    pub fn emit_with(&self, event: impl FnOnce() -> Event) {
        // Whole microseconds are precise enough and keep lines short.
        let timed = |event| TimedEvent { t_ms: (self.started.elapsed().as_secs_f64() * 1e6).round() / 1e3, event };
        match &self.sink {
            Sink::Off => {}
            Sink::Memory(events) => {
                let event = timed(event());
                events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
            }
            Sink::File(writer) => writer.send(timed(event())),
        }
    }

    /// Everything reported so far, if this log is [in memory](Self::in_memory).
    pub fn collected(&self) -> Vec<TimedEvent> {
        match &self.sink {
            Sink::Memory(events) => events.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            Sink::Off | Sink::File(_) => Vec::new(),
        }
    }

    /// Writes out everything reported so far and tells whether anything was lost. Events after this are not kept.
    pub fn finish(&self) -> Result<(), EventLogError> {
        match &self.sink {
            Sink::Off | Sink::Memory(_) => Ok(()),
            Sink::File(writer) => writer.finish(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn mark(value: u32) -> Event {
        Event::Mark { vcpu: 0, value }
    }

    fn lines(path: &Path) -> Vec<Value> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn lines_have_a_time_a_kind_and_their_fields() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let log = EventLog::create(&path).unwrap();
        log.emit(Event::Conversion {
            vcpu: 1,
            to: Owner::Shared,
            gpa: 0x1000,
            pages: 2,
            result: ConversionResult::Done,
            duration_us: 7,
        });
        log.emit(Event::LaunchStep { step: "slots".into(), detail: None, duration_us: 3 });
        log.finish().unwrap();
        let mut lines = lines(&path);
        for line in &mut lines {
            let time = line.as_object_mut().unwrap().remove("t_ms").unwrap();
            assert!(time.as_f64().unwrap() >= 0.0);
        }
        let conversion = json!({"event": "conversion", "vcpu": 1, "to": "shared", "gpa": 0x1000, "pages": 2,
                                "result": {"kind": "done"}, "duration_us": 7});
        let step = json!({"event": "launch_step", "step": "slots", "duration_us": 3});
        assert_eq!(lines, [conversion, step]);
    }

    #[test]
    fn what_is_written_can_be_read_back() {
        let receipt = TeardownReport { debts: vec!["x".into()], ..TeardownReport::default() };
        let event = TimedEvent { t_ms: 1.5, event: Event::Teardown { clean: false, receipt } };
        let text = serde_json::to_string(&event).unwrap();
        assert_eq!(serde_json::from_str::<TimedEvent>(&text).unwrap(), event);
    }

    #[test]
    fn handles_share_one_log_and_the_last_one_flushes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("events.jsonl");
        let log = EventLog::create(&path).unwrap();
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let log = log.clone();
                std::thread::spawn(move || (0..500).for_each(|n| log.emit(mark(thread * 1000 + n))))
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        drop(log);
        let lines = lines(&path);
        assert_eq!(lines.len(), 2000);
        for thread in 0..4 {
            let values: Vec<u64> = lines.iter().filter_map(|line| line["value"].as_u64()).collect();
            let of_thread: Vec<u64> = values.into_iter().filter(|value| value / 1000 == thread).collect();
            assert!(of_thread.is_sorted(), "events of one thread stay in order");
        }
    }

    /// no-silent-trust: a full disk is an error told at the end, and nobody waits for it.
    #[test]
    fn no_silent_trust_a_full_disk_loses_events_and_says_how_many() {
        let log = EventLog::create("/dev/full".as_ref()).unwrap();
        (0..10).for_each(|n| log.emit(mark(n)));
        let error = log.finish().unwrap_err().to_string();
        assert_eq!(error, "events file `/dev/full`: 10 events were lost: No space left on device (os error 28)");
        // After the end nothing is kept, and nothing breaks.
        log.emit(mark(11));
        log.finish().unwrap();
    }

    /// A writer that is stuck does not hold up anybody: here, a pipe nobody reads.
    #[test]
    fn no_silent_trust_a_stuck_writer_loses_events_and_says_how_many() {
        let (reader, pipe) = io::pipe().unwrap();
        let path = PathBuf::from("stuck");
        let log = EventLog {
            started: Instant::now(),
            sink: Sink::File(Arc::new(
                Writer::start(path, std::fs::File::from(std::os::fd::OwnedFd::from(pipe))).unwrap(),
            )),
        };
        let sent = 4 * writer::QUEUE_LEN as u64;
        (0..sent).for_each(|_| log.emit(mark(0)));
        let counting = std::thread::spawn(move || {
            let text = io::read_to_string(reader).unwrap();
            text.lines().count() as u64
        });
        let error = log.finish().unwrap_err();
        drop(log);
        let written = counting.join().unwrap();
        let EventLogError::TooSlow { lost, .. } = error else { panic!("{error}") };
        assert!(lost > 0 && written > 0);
        assert_eq!(written + lost, sent);
    }

    #[test]
    fn no_silent_trust_an_events_file_that_cannot_be_made() {
        let error = EventLog::create("/nonexistent/events.jsonl".as_ref()).unwrap_err().to_string();
        assert!(
            error.starts_with("events file `/nonexistent/events.jsonl` cannot be created: No such file"),
            "{error}"
        );
    }

    #[test]
    fn memory_keeps_everything_and_off_nothing() {
        let (memory, off) = (EventLog::in_memory(), EventLog::off());
        memory.clone().emit(mark(1));
        off.emit_with(|| panic!("nobody wants this event"));
        assert_eq!(memory.collected().into_iter().map(|timed| timed.event).collect::<Vec<_>>(), [mark(1)]);
        assert!(off.collected().is_empty());
    }
}
