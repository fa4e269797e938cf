//! The emulated machine: QEMU's command line, its initramfs, its process.
//!
//! Owns: what the machine consists of and that its process ends with the value. Does not own:
//! what is said to the agent inside (`host`).

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{cpio, tsc};
use lab_agent::proto::PORT_NAME;

/// An AMD processor with nested paging, less what the emulator lacks of that model: so that it
/// says something only when something is wrong.
const PROCESSOR: &str = "EPYC,+svm,+npt,+nrip-save,+decodeassists,-x2apic,-rdseed,-sha-ni,-fxsr-opt,\
                         -misalignsse,-3dnowprefetch,-osvw,-topoext,-xsavec";

/// `CONFIG_HZ` of the lab's kernel.
const KERNEL_HZ: u64 = 250;

/// How the machine's time passes.
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
    Initramfs(#[from] cpio::Error),
    /// QEMU could not be started.
    #[error("cannot start the lab's emulator: {0}")]
    Start(#[source] io::Error),
}

/// Where the pieces are that every lab host is made of.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) kernel: PathBuf,
    pub(crate) qemu: PathBuf,
    pub(crate) agent: PathBuf,
}

/// A running QEMU; dropping the value ends it.
#[derive(Debug)]
pub(crate) struct Machine {
    child: Child,
    scratch: TempDir,
}

impl Machine {
    /// Starts the machine; returns it with the host's end of the agent's port.
    pub(crate) fn start(parts: &Parts, options: &BootOptions) -> Result<(Self, UnixStream), Error> {
        options.check()?;
        let measured = match options.clock {
            Clock::Host => Some(thread::spawn(tsc::measure_khz)),
            Clock::Instructions => None,
        };
        let scratch = TempDir::with_prefix("tenure-lab-").map_err(Error::Start)?;
        let initramfs = scratch.path().join("initramfs");
        write_initramfs(&initramfs, &parts.agent, &options.extra_files)?;
        // QEMU gives the guest one counter tick per virtual nanosecond when it counts instructions.
        let tsc_khz = measured.and_then(|thread| thread.join().ok()).unwrap_or(1_000_000);

        let (ours, theirs) = UnixStream::pair().map_err(Error::Start)?;
        let log = File::create(scratch.path().join("qemu.log")).map_err(Error::Start)?;
        let mut qemu = Command::new(parts.qemu.join("qemu-system-x86_64"));
        qemu.arg("-L").arg(parts.qemu.join("share"));
        qemu.args(options.arguments());
        qemu.arg("-kernel").arg(parts.kernel.join("bzImage"));
        qemu.arg("-initrd").arg(&initramfs);
        qemu.arg("-append").arg(options.command_line(tsc_khz));
        qemu.arg("-chardev").arg(format!("file,id=console,path={}", path_argument(&scratch.path().join("console"))));
        // The agent's port is QEMU's standard input: nothing to name, to connect to or to clean up.
        qemu.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(log);
        let child = qemu.spawn().map_err(Error::Start)?;
        Ok((Self { child, scratch }, ours))
    }

    /// What the machine's serial console showed so far.
    pub(crate) fn console(&self) -> String {
        let read = |name| fs::read(self.scratch.path().join(name)).unwrap_or_default();
        let console = read("console");
        let emulator = read("qemu.log");
        let mut text = String::from_utf8_lossy(&console).replace('\r', "");
        if !emulator.is_empty() {
            text.push_str("--- the emulator's own messages:\n");
            text.push_str(&String::from_utf8_lossy(&emulator));
        }
        text
    }

    /// Where the console's text is collected.
    pub(crate) fn console_path(&self) -> PathBuf {
        self.scratch.path().join("console")
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
            Self { clock: Clock::Instructions, cpus: 2.., .. } => {
                refuse(format!("cpus {}", self.cpus), "instructions are counted on one processor only")
            }
            _ => Ok(()),
        }
    }

    fn arguments(&self) -> Vec<String> {
        let accelerator = match self.clock {
            Clock::Host => "tcg,thread=multi",
            Clock::Instructions => "tcg,thread=single",
        };
        let mut arguments: Vec<String> = [
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-machine",
            "q35,hpet=off",
            "-accel",
            accelerator,
            "-cpu",
            PROCESSOR,
            "-serial",
            "chardev:console",
            "-chardev",
            "socket,id=agent,fd=0",
            "-device",
            "virtio-serial-pci",
            "-device",
        ]
        .map(str::to_owned)
        .to_vec();
        arguments.push(format!("virtserialport,chardev=agent,name={PORT_NAME}"));
        arguments.extend(["-m".to_owned(), self.memory_mib.to_string()]);
        arguments.extend(["-smp".to_owned(), self.cpus.to_string()]);
        if self.clock == Clock::Instructions {
            arguments.extend(["-icount", "shift=0,sleep=off"].map(str::to_owned));
        }
        arguments
    }

    fn command_line(&self, tsc_khz: u64) -> String {
        // Nothing is to be calibrated or tested by emulated timers: on a busy machine they are late.
        let loops_per_tick = tsc_khz * 1000 / KERNEL_HZ;
        let mut line = format!(
            "console=ttyS0 panic=-1 reboot=t no_timer_check lpj={loops_per_tick} tsc=reliable tsc_early_khz={tsc_khz}"
        );
        for arg in &self.kernel_args {
            line.push(' ');
            line.push_str(arg);
        }
        line
    }
}

/// QEMU doubles a comma that is no separator.
fn path_argument(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

fn write_initramfs(to: &Path, agent: &Path, extra_files: &[(PathBuf, String)]) -> Result<(), Error> {
    let mut archive = cpio::Writer::new(BufWriter::with_capacity(1 << 20, File::create(to).map_err(Error::Start)?));
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
            BootOptions { clock: Clock::Instructions, ..good.clone() },
        ] {
            assert!(matches!(bad.check(), Err(Error::Options { .. })), "{bad:?}");
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
