//! A running lab host: commands and files, by way of the agent inside.
//!
//! Owns: the conversation with the agent and that no wait is endless. Does not own: the machine
//! (`machine`) or the wire format (`proto`).

use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::bed::Bed;
use crate::child::{Child, StreamReader};
use crate::command::{Command, Output, Status};
use crate::link::{Channel, Link, lock};
use crate::machine::{self, BootOptions, Machine, Parts};
use lab_agent::proto::{self, CHUNK_BYTES, CONTROL, Message};

const FILE_DEADLINE: Duration = Duration::from_secs(300);
/// How much of the console an error shows.
const CONSOLE_TAIL_LINES: usize = 80;

/// What went wrong with a lab host. Where its console may tell why, the end of it is included.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine could not be started.
    #[error(transparent)]
    Machine(#[from] machine::Error),
    /// Something took longer than it may.
    #[error("lab host: {what} took longer than {} s; its console ends with:\n{console}", .after.as_secs())]
    Deadline {
        /// What was waited for.
        what: String,
        /// The deadline.
        after: Duration,
        /// The console's last lines.
        console: String,
    },
    /// The machine or its agent is gone.
    #[error("lab host: lost while waiting for {what}; its console ends with:\n{console}")]
    Lost {
        /// What was waited for.
        what: String,
        /// The console's last lines.
        console: String,
    },
    /// The agent refused.
    #[error("lab host: {what}: {reason}")]
    Refused {
        /// What was asked.
        what: String,
        /// Its answer.
        reason: String,
    },
    /// The agent speaks another version of the protocol.
    #[error("lab agent speaks protocol version {0}, not {ours}", ours = proto::VERSION)]
    Version(u32),
    /// A file on this side could not be read.
    #[error("{path}: {source}")]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A booted lab host. Dropping it, and the commands started on it, ends the machine.
#[derive(Debug)]
pub struct Host {
    machine: Arc<Mutex<Machine>>,
    link: Arc<Link>,
}

impl Host {
    pub(crate) fn boot(parts: &Parts, options: &BootOptions) -> Result<Self, Error> {
        let (machine, stream) = Machine::start(parts, options)?;
        let (link, control) = Link::new(stream).map_err(machine::Error::Start)?;
        let machine = Arc::new(Mutex::new(machine));
        let host = Self { machine, link };
        match host.answer(&control.answers, "its boot", boot_deadline(host.bed()))? {
            Message::Hello(proto::VERSION) => Ok(host),
            Message::Hello(version) => Err(Error::Version(version)),
            other => Err(unexpected("its boot", other)),
        }
    }

    /// Runs a command to its end.
    pub fn run(&self, command: Command) -> Result<Output, Error> {
        let mut child = self.spawn(command)?;
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        // Both streams are collected as they come, whichever is read first here. Why one breaks
        // off is told by `wait`.
        let _ = child.stdout.read_to_end(&mut stdout);
        let _ = child.stderr.read_to_end(&mut stderr);
        let status: Status = child.wait()?;
        Ok(Output { status, stdout, stderr })
    }

    /// Starts a command and returns as soon as it runs.
    pub fn spawn(&self, command: Command) -> Result<Child, Error> {
        let host = Self { machine: Arc::clone(&self.machine), link: Arc::clone(&self.link) };
        Child::start(host, command)
    }

    /// Creates or replaces a file on the lab host, with the directories above it.
    pub fn put(&self, path: &str, mode: u32, contents: &mut dyn Read) -> Result<(), Error> {
        let what = format!("putting {path}");
        let channel = self.request(Message::Put(path.into(), mode), &what)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = match contents.read(&mut chunk) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(source) => return Err(file_error(Path::new(path))(source)),
            };
            if count == 0 {
                break;
            }
            self.send(channel.number, Message::Input(chunk[..count].to_vec()), &what)?;
        }
        self.send(channel.number, Message::InputEnd, &what)?;
        match self.answer(&channel.answers, &what, FILE_DEADLINE)? {
            Message::Done => Ok(()),
            other => Err(unexpected(&what, other)),
        }
    }

    /// Copies a file from here to the lab host.
    pub fn put_file(&self, from: &Path, to: &str) -> Result<(), Error> {
        let mut file = std::fs::File::open(from).map_err(file_error(from))?;
        let about = file.metadata().map_err(file_error(from))?;
        self.put(to, about.permissions().mode() & 0o7777, &mut file)
    }

    /// A file's contents; files of `/proc` and tracefs too, whose size is not known beforehand.
    pub fn get_file(&self, path: &str) -> Result<Vec<u8>, Error> {
        let what = format!("fetching {path}");
        let channel = self.request(Message::Get(path.into()), &what)?;
        let mut contents = Vec::new();
        let mut reader = StreamReader::new(channel.stdout, Instant::now() + FILE_DEADLINE);
        let _ = reader.read_to_end(&mut contents);
        match self.answer(&channel.answers, &what, FILE_DEADLINE)? {
            Message::Done => Ok(contents),
            other => Err(unexpected(&what, other)),
        }
    }

    /// The same as text; what is no UTF-8 is replaced.
    pub fn read_to_string(&self, path: &str) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.get_file(path)?).into_owned())
    }

    /// Replaces a file's contents, as for a switch in tracefs or a cgroup.
    pub fn write(&self, path: &str, contents: impl AsRef<[u8]>) -> Result<(), Error> {
        self.put(path, 0o644, &mut contents.as_ref())
    }

    /// Everything the host's kernel and agent wrote to the serial console so far.
    #[must_use]
    pub fn console(&self) -> String {
        lock(&self.machine).console()
    }

    /// Where that text is collected while the host lives.
    #[must_use]
    pub fn console_path(&self) -> PathBuf {
        lock(&self.machine).console_path()
    }

    /// Switches the host off and waits until it is; returns its whole console.
    pub fn poweroff(self) -> Result<String, Error> {
        self.send(CONTROL, Message::PowerOff, "power-off")?;
        let deadline = power_off_deadline(self.bed());
        let ended = lock(&self.machine).wait(deadline);
        match ended {
            Some(_) => Ok(self.console()),
            None => Err(self.late("power-off", deadline)),
        }
    }

    /// Which machine it is.
    #[must_use]
    pub fn bed(&self) -> Bed {
        lock(&self.machine).bed()
    }

    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    pub(crate) fn request(&self, message: Message, what: &str) -> Result<Channel, Error> {
        self.link.request(message).map_err(|error| self.unsent(&error, what))
    }

    pub(crate) fn send(&self, channel: u32, message: Message, what: &str) -> Result<(), Error> {
        self.link.send(channel, message).map_err(|error| self.unsent(&error, what))
    }

    pub(crate) fn answer(&self, answers: &Receiver<Message>, what: &str, deadline: Duration) -> Result<Message, Error> {
        match answers.recv_timeout(deadline) {
            Ok(Message::Failed(reason)) => Err(refused(what, reason)),
            Ok(message) => Ok(message),
            Err(RecvTimeoutError::Timeout) => Err(self.late(what, deadline)),
            Err(RecvTimeoutError::Disconnected) => Err(self.lost(what)),
        }
    }

    fn unsent(&self, error: &io::Error, what: &str) -> Error {
        match error.kind() {
            io::ErrorKind::InvalidInput => refused(what, error.to_string()),
            _ => self.lost(what),
        }
    }

    fn late(&self, what: &str, after: Duration) -> Error {
        Error::Deadline { what: what.to_owned(), after, console: self.console_tail() }
    }

    fn lost(&self, what: &str) -> Error {
        // The emulator's last words are worth the moment it takes it to end.
        lock(&self.machine).wait(Duration::from_secs(1));
        Error::Lost { what: what.to_owned(), console: self.console_tail() }
    }

    fn console_tail(&self) -> String {
        let text = self.console();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(CONSOLE_TAIL_LINES)..].join("\n")
    }
}

/// Far beyond what a boot takes on a busy machine.
fn boot_deadline(bed: Bed) -> Duration {
    Duration::from_secs(match bed {
        Bed::Amd => 120,
        Bed::Intel => 900,
    })
}

fn power_off_deadline(bed: Bed) -> Duration {
    Duration::from_secs(match bed {
        Bed::Amd => 30,
        Bed::Intel => 120,
    })
}

fn file_error(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

fn refused(what: &str, reason: String) -> Error {
    let what = what.to_owned();
    Error::Refused { what, reason }
}

pub(crate) fn unexpected(what: &str, message: Message) -> Error {
    refused(what, format!("unexpected answer {message:?}"))
}
