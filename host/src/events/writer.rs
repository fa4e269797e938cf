//! The thread that writes events to their file.

use super::{EventLogError, TimedEvent};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

/// Events that may wait for the thread; what comes on top of them is lost, and counted.
pub(super) const QUEUE_LEN: usize = 1 << 14;

/// The thread and the way to it.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    queue: SyncSender<Message>,
    overflowed: AtomicU64,
    /// None once it has ended.
    thread: Mutex<Option<JoinHandle<Outcome>>>,
}

#[derive(Debug)]
enum Message {
    Event(Box<TimedEvent>),
    Finish,
}

/// What became of the events the thread was sent.
#[derive(Debug, Default)]
struct Outcome {
    lost: u64,
    first_error: Option<io::Error>,
}

impl Writer {
    pub(super) fn create(path: &Path) -> Result<Self, EventLogError> {
        let failed = |source| EventLogError::Create { path: path.to_owned(), source };
        let file = File::create(path).map_err(failed)?;
        Self::start(path.to_owned(), file).map_err(failed)
    }

    pub(super) fn start(path: PathBuf, file: File) -> io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE_LEN);
        let thread = std::thread::Builder::new().name("events".into()).spawn(move || write_all(file, &messages))?;
        Ok(Self { path, queue, overflowed: AtomicU64::new(0), thread: Mutex::new(Some(thread)) })
    }

    pub(super) fn send(&self, event: TimedEvent) {
        if self.queue.try_send(Message::Event(Box::new(event))).is_err() {
            self.overflowed.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn finish(&self) -> Result<(), EventLogError> {
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else {
            return Ok(());
        };
        // If the thread is gone, its outcome says so.
        let _ = self.queue.send(Message::Finish);
        let outcome = thread.join().unwrap_or_else(|_| Outcome {
            lost: 0,
            first_error: Some(io::Error::other("the writing thread panicked")),
        });
        let overflowed = self.overflowed.load(Ordering::Relaxed);
        let (path, lost) = (self.path.clone(), outcome.lost + overflowed);
        match outcome.first_error {
            Some(source) => Err(EventLogError::Write { path, lost, source }),
            None if lost > 0 => Err(EventLogError::TooSlow { path, lost }),
            None => Ok(()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Err(error) = self.finish() {
            tracing::warn!("{error}");
        }
    }
}

fn write_all(file: File, messages: &Receiver<Message>) -> Outcome {
    let mut file = BufWriter::new(file);
    let mut outcome = Outcome::default();
    // Lines in the buffer, which are lost if it cannot be written out.
    let mut buffered = 0;
    while let Ok(Message::Event(event)) = messages.recv() {
        let mut next = Some(event);
        while let Some(event) = next {
            buffered += 1;
            if outcome.first_error.is_none()
                && let Err(error) = write_line(&mut file, &event)
            {
                outcome.first_error = Some(error);
            }
            next = match messages.try_recv() {
                Ok(Message::Event(event)) => Some(event),
                Ok(Message::Finish) => return flush(file, buffered, outcome),
                Err(_) => None,
            };
        }
        // Nothing is waiting: a process killed now should leave what it had to say.
        outcome = flush_buffer(&mut file, &mut buffered, outcome);
    }
    flush(file, buffered, outcome)
}

fn write_line(file: &mut impl Write, event: &TimedEvent) -> io::Result<()> {
    serde_json::to_writer(&mut *file, event)?;
    file.write_all(b"\n")
}

fn flush_buffer(file: &mut BufWriter<File>, buffered: &mut u64, mut outcome: Outcome) -> Outcome {
    if outcome.first_error.is_none()
        && let Err(error) = file.flush()
    {
        outcome.first_error = Some(error);
    }
    if outcome.first_error.is_some() {
        outcome.lost += *buffered;
    }
    *buffered = 0;
    outcome
}

fn flush(mut file: BufWriter<File>, mut buffered: u64, outcome: Outcome) -> Outcome {
    let outcome = flush_buffer(&mut file, &mut buffered, outcome);
    // What could not be written must not be tried again by dropping the buffer.
    let _ = file.into_parts();
    outcome
}
