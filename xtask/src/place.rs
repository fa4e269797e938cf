//! Where things run: on this host, or on a host of the lab. The rest of xtask does not tell them apart.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command as LocalCommand, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tenure_lab::{BootOptions, Command, Host, Lab, Status, Stdin};

/// Cargo's target directory.
pub(crate) fn target() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"))
}

/// Longest a program may take.
const DEADLINE: Duration = Duration::from_secs(3600);

/// A place to run programs in.
#[derive(Debug)]
pub(crate) enum Place {
    /// This host.
    Here,
    /// A host of the lab, and a place for its files.
    Lab(Box<Host>),
}

/// A running program.
pub(crate) struct Running {
    pub pid: u32,
    pub stdin: Box<dyn Write + Send>,
    pub stdout: Box<dyn Read + Send>,
    pub stderr: Box<dyn Read + Send>,
    process: Process,
}

enum Process {
    Here(std::process::Child),
    Lab(Box<tenure_lab::Child>),
}

impl Running {
    /// Asks it to end, waits until it does, and returns its exit code.
    pub(crate) fn end(self) -> Result<u8> {
        match &self.process {
            Process::Here(child) => kill_process(Pid::from_child(child), Signal::TERM)?,
            Process::Lab(child) => child.kill(Signal::TERM.as_raw().unsigned_abs())?,
        }
        self.wait()
    }

    /// Waits for its end and returns its exit code, 128 + N for signal N.
    pub(crate) fn wait(self) -> Result<u8> {
        drop(self.stdin);
        match self.process {
            Process::Here(mut child) => Ok(u8::try_from(child.wait()?.code().unwrap_or(128)).unwrap_or(u8::MAX)),
            Process::Lab(mut child) => Ok(match child.wait()? {
                Status::Exited(code) => u8::try_from(code).unwrap_or(u8::MAX),
                Status::Signaled(signal) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX)),
            }),
        }
    }
}

impl Place {
    /// Boots a lab host with `files` (path here, path there) on board.
    pub(crate) fn lab(lab: &Lab, memory_mib: u32, files: Vec<(PathBuf, String)>) -> Result<Self> {
        let options = BootOptions { memory_mib, extra_files: files, ..BootOptions::for_bed(lab.bed()) };
        Ok(Self::Lab(Box::new(lab.boot(&options)?)))
    }

    /// Starts a program.
    pub(crate) fn start(&self, program: &str, arguments: &[String]) -> Result<Running> {
        match self {
            Self::Here => start_here(program, arguments),
            Self::Lab(host) => {
                let command = Command::new(program).args(arguments.iter().map(String::as_bytes));
                let mut child = host.spawn(command.stdin(Stdin::Stream).deadline(DEADLINE))?;
                let stdin = child.stdin.take().context("the program has no standard input")?;
                let pid = child.pid();
                let (stdout, stderr) = child.take_output();
                Ok(Running {
                    pid,
                    stdin: Box::new(stdin),
                    stdout: Box::new(stdout),
                    stderr: Box::new(stderr),
                    process: Process::Lab(Box::new(child)),
                })
            }
        }
    }

    /// Makes a file there, and the directories above it.
    pub(crate) fn put(&self, path: &str, mode: u32, contents: &[u8]) -> Result<()> {
        match self {
            Self::Here => {
                let made = Path::new(path).parent().map_or(Ok(()), std::fs::create_dir_all);
                let open = || OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(path);
                made.and_then(|()| open()?.write_all(contents)).with_context(|| path.to_owned())
            }
            Self::Lab(host) => Ok(host.put(path, mode, &mut &contents[..])?),
        }
    }

    /// A file of that place.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>> {
        match self {
            Self::Here => std::fs::read(path).with_context(|| path.to_owned()),
            Self::Lab(host) => Ok(host.get_file(path)?),
        }
    }

    /// Ends it.
    pub(crate) fn leave(self) -> Result<()> {
        match self {
            Self::Here => Ok(()),
            Self::Lab(host) => Ok(host.poweroff().map(drop)?),
        }
    }
}

fn start_here(program: &str, arguments: &[String]) -> Result<Running> {
    let mut child = LocalCommand::new(Path::new(program))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {program}"))?;
    let missing = "the program has no standard streams";
    let stdin = child.stdin.take().context(missing)?;
    let stdout = child.stdout.take().context(missing)?;
    let stderr = child.stderr.take().context(missing)?;
    let pid = child.id();
    Ok(Running {
        pid,
        stdin: Box::new(stdin),
        stdout: Box::new(stdout),
        stderr: Box::new(stderr),
        process: Process::Here(child),
    })
}
