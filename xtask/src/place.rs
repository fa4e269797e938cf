//! Where things run: on this host, or on a host of the lab. The rest of xtask does not tell them apart.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command as LocalCommand, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
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
    wait: Box<dyn FnOnce() -> Result<u8>>,
}

impl Running {
    /// Waits for its end and returns its exit code, 128 + N for signal N.
    pub(crate) fn wait(self) -> Result<u8> {
        drop(self.stdin);
        (self.wait)()
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
                let wait = move || {
                    Ok(match child.wait()? {
                        Status::Exited(code) => u8::try_from(code).unwrap_or(u8::MAX),
                        Status::Signaled(signal) => 128u8.saturating_add(u8::try_from(signal).unwrap_or(u8::MAX)),
                    })
                };
                Ok(Running {
                    pid,
                    stdin: Box::new(stdin),
                    stdout: Box::new(stdout),
                    stderr: Box::new(stderr),
                    wait: Box::new(wait),
                })
            }
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
    let wait = move || {
        let status = child.wait()?;
        Ok(u8::try_from(status.code().unwrap_or(128)).unwrap_or(u8::MAX))
    };
    Ok(Running {
        pid,
        stdin: Box::new(stdin),
        stdout: Box::new(stdout),
        stderr: Box::new(stderr),
        wait: Box::new(wait),
    })
}
