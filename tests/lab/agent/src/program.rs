//! Programs run for the other side: started, fed, watched, sent signals.
//!
//! Owns: running programs and their streams. Does not own: requests for them (`serve`).

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Component, Path};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, ensure};
use lab_agent::proto::{CHUNK_BYTES, Message, Program};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use crate::IN_CGROUP;
use crate::serve::Writer;

const CGROUPS: &str = "/sys/fs/cgroup";
/// The most a pipe can hold (`fs.pipe-max-size`): what a program that has ended may have left.
const PIPE_BYTES: usize = 1 << 20;

/// Programs that have not been waited for, by channel: only these may be sent signals.
#[derive(Clone, Default)]
pub(crate) struct Programs(Arc<Mutex<HashMap<u32, Pid>>>);

impl Programs {
    /// Starts a program and says so; returns where its standard input is to go.
    pub(crate) fn start(&self, channel: u32, program: &Program, writer: &Writer) -> Result<Sender<Vec<u8>>> {
        let (path, args) = program.argv.split_first().context("no program is named")?;
        let path = OsStr::from_bytes(path);
        let mut command = if program.cgroup.is_empty() {
            Command::new(path)
        } else {
            let cgroup = OsStr::from_bytes(&program.cgroup);
            let cgroup = cgroup_below_the_root(Path::new(cgroup))?;
            fs::create_dir_all(Path::new(CGROUPS).join(cgroup)).with_context(|| cgroup.display().to_string())?;
            let mut command = Command::new("/proc/self/exe");
            command.arg(IN_CGROUP).arg(cgroup).arg(path);
            command
        };
        command.args(args.iter().map(|arg| OsStr::from_bytes(arg)));
        command.env("PATH", "/bin:/sbin:/usr/bin:/usr/sbin").env("HOME", "/");
        command.envs(program.env.iter().map(|(name, value)| (OsStr::from_bytes(name), OsStr::from_bytes(value))));
        if !program.cwd.is_empty() {
            command.current_dir(OsStr::from_bytes(&program.cwd));
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("cannot run {}", path.display()))?;
        writer.send(channel, Message::Started(child.id()));

        let (input, pieces) = mpsc::channel();
        if let Some(stdin) = child.stdin.take() {
            thread::spawn(move || feed(stdin, &pieces));
        }
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            self.lock().insert(channel, pid);
        }
        let (writer, programs) = (writer.clone(), self.clone());
        thread::spawn(move || {
            if let Err(error) = programs.watch(child, channel, &writer) {
                writer.fail(channel, error);
            }
        });
        Ok(input)
    }

    /// Sends a signal to a channel's program.
    pub(crate) fn kill(&self, channel: u32, signal: u32) -> Result<()> {
        let signal = i32::try_from(signal).ok().and_then(Signal::from_named_raw).context("no such signal")?;
        let running = self.lock();
        // One that has ended needs no signal any more.
        if let Some(pid) = running.get(&channel) {
            kill_process(*pid, signal).context("kill")?;
        }
        Ok(())
    }

    /// Passes on what a program writes, then how it ended.
    fn watch(&self, mut child: Child, channel: u32, writer: &Writer) -> io::Result<()> {
        // Its reading end shows a hang-up as soon as the program has ended.
        let (exited, running) = io::pipe()?;
        let mut streams = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            streams.push(pass_on(stdout, exited.try_clone()?, channel, writer.clone(), Message::Output));
        }
        if let Some(stderr) = child.stderr.take() {
            streams.push(pass_on(stderr, exited, channel, writer.clone(), Message::ErrorOutput));
        }
        let status = self.wait_for(&mut child, channel)?;
        drop(running);
        for stream in streams {
            let _ = stream.join();
        }
        let signal = status.signal().and_then(|signal| u32::try_from(signal).ok());
        let code = status.code().and_then(|code| u32::try_from(code).ok());
        writer.send(channel, signal.map_or(Message::Exited(code.unwrap_or(u32::MAX)), Message::Signaled));
        Ok(())
    }

    /// Waits without taking the process away first: under the lock its number is still its own.
    fn wait_for(&self, child: &mut Child, channel: u32) -> io::Result<ExitStatus> {
        let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        if let Some(id) = id {
            while let Err(rustix::io::Errno::INTR) =
                waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)
            {}
        }
        let mut running = self.lock();
        running.remove(&channel);
        child.wait()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Between the agent and a command with a control group: enters it, then becomes the command.
pub(crate) fn become_in_cgroup(cgroup: &OsStr, program: &OsStr, args: &[OsString]) -> Result<()> {
    let members = Path::new(CGROUPS).join(cgroup).join("cgroup.procs");
    fs::write(&members, "0").with_context(|| members.display().to_string())?;
    let error = Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("cannot run {}", program.display()))
}

/// The path without its leading slash, if it stays in the hierarchy.
fn cgroup_below_the_root(path: &Path) -> Result<&Path> {
    let path = path.strip_prefix("/").unwrap_or(path);
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    ensure!(plain, "control group {} is not a plain path", path.display());
    Ok(path)
}

fn feed(mut stdin: impl Write, pieces: &Receiver<Vec<u8>>) {
    for piece in pieces {
        if stdin.write_all(&piece).is_err() {
            return;
        }
    }
}

/// Reads to the end of the stream, or until the program has ended and nothing is left: others it
/// started may hold the stream open for ever.
fn pass_on(
    mut stream: impl Read + AsFd + Send + 'static,
    exited: PipeReader,
    channel: u32,
    writer: Writer,
    wrap: fn(Vec<u8>) -> Message,
) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut buffer = vec![0; CHUNK_BYTES];
        let mut left = PIPE_BYTES;
        while left > 0 {
            let mut ready = [PollFd::new(&stream, PollFlags::IN), PollFd::new(&exited, PollFlags::IN)];
            if poll(&mut ready, None).is_err() {
                continue;
            }
            let (readable, ended) = (!ready[0].revents().is_empty(), !ready[1].revents().is_empty());
            if readable {
                match stream.read(&mut buffer) {
                    Ok(0) => return,
                    Ok(count) => {
                        writer.send(channel, wrap(buffer[..count].to_vec()));
                        left = if ended { left.saturating_sub(count) } else { left };
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            } else if ended {
                return;
            }
        }
    })
}
