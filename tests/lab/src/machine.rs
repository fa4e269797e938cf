//! The emulated machine: what every bed's has in common.
//!
//! Owns: what can be asked of a machine, its initramfs, and that its process ends with the value. Does not own: the
//! machines themselves (`machine::qemu`, `machine::bochs`) or what is said to the agent inside (`host`).

mod bochs;
mod qemu;

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::bed::Bed;
use crate::process;

/// Where the serial console's text is collected, in the scratch directory.
const CONSOLE: &str = "console";

/// How the machine's time passes. The Intel bed has a clock of its own: every instruction takes its time, and idle time
/// passes quicker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Clock {
    /// With the host's time: all processors at once, as fast as it goes.
    #[default]
    Host,
    /// With the instructions executed, one nanosecond each: one processor, slower, but a
    /// measurement in its time repeats on any machine.
    Instructions,
}

/// What machine to boot.
#[derive(Clone, Debug)]
pub struct BootOptions {
    /// Its memory in MiB.
    pub memory_mib: u32,
    /// Its processors.
    pub cpus: u32,
    /// Its clock.
    pub clock: Clock,
    /// Files to have on board from the start: path here, absolute path there.
    pub extra_files: Vec<(PathBuf, String)>,
    /// Additions to the kernel's command line.
    pub kernel_args: Vec<String>,
}

impl Default for BootOptions {
    fn default() -> Self {
        Self { memory_mib: 2048, cpus: 2, clock: Clock::Host, extra_files: Vec::new(), kernel_args: Vec::new() }
    }
}

impl BootOptions {
    /// What is best on a bed: its emulator may run several processors at once, or one after the other.
    #[must_use]
    pub fn for_bed(bed: Bed) -> Self {
        match bed {
            Bed::Amd => Self::default(),
            Bed::Intel => Self { cpus: 1, ..Self::default() },
        }
    }
}

/// Why the machine does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The machine asked for cannot be.
    #[error("a lab host cannot have {what}: {why}")]
    Options {
        /// Field and value.
        what: String,
        /// The reason.
        why: &'static str,
    },
    /// A file for the initramfs could not be read.
    #[error("{path} for the lab host: {source}")]
    File {
        /// Path on this side.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The initramfs could not be written.
    #[error(transparent)]
    Initramfs(#[from] initramfs::Error),
    /// The emulator could not be started.
    #[error("cannot start the lab's emulator: {0}")]
    Start(#[source] io::Error),
    /// It started and did not get far.
    #[error("the lab's emulator ended at its start ({status}): {said}")]
    Ended {
        /// How.
        status: ExitStatus,
        /// What it said.
        said: String,
    },
    /// The disc to boot from could not be made.
    #[error(transparent)]
    Disc(#[from] process::Error),
}

/// Where the pieces are that every lab host is made of.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) kernel: PathBuf,
    pub(crate) emulator: Emulator,
    pub(crate) agent: PathBuf,
}

/// The bed's emulator, by its directory in the cache.
#[derive(Clone, Debug)]
pub(crate) enum Emulator {
    Qemu(PathBuf),
    Bochs(PathBuf),
}

impl Emulator {
    pub(crate) fn bed(&self) -> Bed {
        match self {
            Self::Qemu(_) => Bed::Amd,
            Self::Bochs(_) => Bed::Intel,
        }
    }
}

/// An emulator that was started.
struct Started {
    child: Child,
    /// This side's end of the stream to the agent.
    link: File,
    /// What the emulator takes for its terminal; with this end it ends, should this process be killed.
    terminal: Option<OwnedFd>,
}

/// A running emulator; dropping the value ends it.
#[derive(Debug)]
pub(crate) struct Machine {
    bed: Bed,
    child: Child,
    scratch: TempDir,
    _terminal: Option<OwnedFd>,
}

impl Machine {
    /// Starts the machine; returns it with the host's end of the stream to the agent.
    pub(crate) fn start(parts: &Parts, options: &BootOptions) -> Result<(Self, File), Error> {
        options.check()?;
        let scratch = TempDir::with_prefix("tenure-lab-").map_err(Error::Start)?;
        let kernel = parts.kernel.join("bzImage");
        let initramfs = |to: &Path| write_initramfs(to, &parts.agent, &options.extra_files);
        let started = match &parts.emulator {
            Emulator::Qemu(qemu) => {
                qemu::check(options)?;
                qemu::start(qemu, &kernel, options, scratch.path(), initramfs)?
            }
            Emulator::Bochs(bochs) => {
                bochs::check(options)?;
                bochs::start(bochs, &kernel, options, scratch.path(), initramfs)?
            }
        };
        let Started { child, link, terminal } = started;
        Ok((Self { bed: parts.emulator.bed(), child, scratch, _terminal: terminal }, link))
    }

    /// Which machine it is.
    pub(crate) fn bed(&self) -> Bed {
        self.bed
    }

    /// What the machine's serial console showed so far.
    pub(crate) fn console(&self) -> String {
        let mut text = read(&self.console_path()).replace('\r', "");
        let emulator = match self.bed {
            Bed::Amd => read(&self.scratch.path().join(qemu::LOG)),
            Bed::Intel => bochs::messages(self.scratch.path()),
        };
        if !emulator.is_empty() {
            text.push_str("--- the emulator's own messages:\n");
            text.push_str(&emulator);
        }
        text
    }

    /// Where the console's text is collected.
    pub(crate) fn console_path(&self) -> PathBuf {
        self.scratch.path().join(CONSOLE)
    }

    /// How the emulator ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for the emulator to end by itself.
    pub(crate) fn wait(&mut self, deadline: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                return Some(status);
            }
            if start.elapsed() > deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl BootOptions {
    fn check(&self) -> Result<(), Error> {
        let refuse = |what: String, why| Err(Error::Options { what, why });
        match self {
            Self { memory_mib: 0..128, .. } => {
                refuse(format!("memory_mib {}", self.memory_mib), "it needs 128 at least")
            }
            Self { cpus: 0, .. } => refuse("cpus 0".to_owned(), "it needs one"),
            Self { cpus: 33.., .. } => refuse(format!("cpus {}", self.cpus), "its kernel is built for 32"),
            _ => Ok(()),
        }
    }
}

/// A file's text, or nothing; what is no UTF-8 is replaced.
fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

/// The kernel's command line: what every machine needs, what this one does, and what the caller adds.
fn command_line(own: &str, options: &BootOptions) -> String {
    let mut line = format!("console=ttyS0 panic=-1 reboot=t no_timer_check tsc=reliable {own}");
    for arg in &options.kernel_args {
        line.push(' ');
        line.push_str(arg);
    }
    line
}

fn write_initramfs(to: &Path, agent: &Path, extra_files: &[(PathBuf, String)]) -> Result<(), Error> {
    let mut archive =
        initramfs::Writer::new(BufWriter::with_capacity(1 << 20, File::create(to).map_err(Error::Start)?));
    archive.character_device("/dev/console", 5, 1)?;
    let agent = (agent.to_owned(), "/init".to_owned());
    for (path, name) in std::iter::once(&agent).chain(extra_files) {
        let at = |source| Error::File { path: path.clone(), source };
        let file = File::open(path).map_err(at)?;
        let about = file.metadata().map_err(at)?;
        if !about.is_file() {
            return Err(at(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
        }
        archive.file(name, about.permissions().mode(), about.len(), file)?;
    }
    archive.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_that_cannot_be_are_refused() {
        let good = BootOptions::default();
        assert!(good.check().is_ok());
        for bad in [
            BootOptions { memory_mib: 127, ..good.clone() },
            BootOptions { cpus: 0, ..good.clone() },
            BootOptions { cpus: 33, ..good.clone() },
        ] {
            assert!(matches!(bad.check(), Err(Error::Options { .. })), "{bad:?}");
        }
        let counting = BootOptions { clock: Clock::Instructions, ..good.clone() };
        assert!(qemu::check(&good).is_ok() && bochs::check(&good).is_ok());
        assert!(matches!(qemu::check(&counting), Err(Error::Options { .. })));
        for bad in [counting, BootOptions { kernel_args: vec!["quiet\nDEFAULT x".to_owned()], ..good.clone() }] {
            assert!(matches!(bochs::check(&bad), Err(Error::Options { .. })), "{bad:?}");
        }
    }

    #[test]
    fn a_missing_file_is_named() {
        let scratch = tempfile::tempdir().unwrap();
        let missing = (PathBuf::from("/nonexistent/program"), "/bin/program".to_owned());
        let error = write_initramfs(&scratch.path().join("x"), Path::new("/dev/null"), &[missing]).unwrap_err();
        assert!(error.to_string().contains("/dev/null"), "{error}");
        let agent = scratch.path().join("agent");
        fs::write(&agent, "x").unwrap();
        let missing = (PathBuf::from("/nonexistent/program"), "/bin/program".to_owned());
        let error = write_initramfs(&scratch.path().join("x"), &agent, &[missing]).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/program"), "{error}");
    }
}
