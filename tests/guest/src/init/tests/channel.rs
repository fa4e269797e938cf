//! The `channel` test.

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};
use test_guest::channel::{NAME, SESSIONS, Session, last_words};
use test_guest::protocol::{PAYLOAD_MAX, Side, exchange};

const PORTS: &str = "/sys/class/virtio-ports";
const DEFAULT_KIB: u64 = 1024;
/// How long the kernel may take to find the port.
const APPEARS_WITHIN: Duration = Duration::from_secs(10);
/// How long the host may be silent before the test gives up.
const SILENCE_MAX: Timespec = Timespec { tv_sec: 60, tv_nsec: 0 };

/// Has all kinds of sessions, with `kib` KiB each way in those that exchange something.
pub(super) fn test(kib: Option<u64>) -> Result<String> {
    let kib = kib.unwrap_or(DEFAULT_KIB);
    let len = usize::try_from(kib).ok().and_then(|kib| kib.checked_mul(1024)).filter(|len| *len <= PAYLOAD_MAX);
    let len = len.with_context(|| format!("{kib} KiB is more than {PAYLOAD_MAX} bytes"))?;
    let port = find()?;
    let begun = Instant::now();
    for (number, session) in (1..).zip(SESSIONS) {
        run(&port, session, len).with_context(|| format!("session {number}, {session:?}"))?;
    }
    let elapsed = begun.elapsed().as_millis();
    Ok(format!("port {} sessions {} kib_each_way {kib} elapsed_ms {elapsed}", port.display(), SESSIONS.len()))
}

/// The device of the port with the channel's name.
fn find() -> Result<PathBuf> {
    let begun = Instant::now();
    loop {
        for port in fs::read_dir(PORTS).into_iter().flatten().flatten() {
            // Until the host has told it there is no name.
            let name = fs::read_to_string(port.path().join("name")).unwrap_or_default();
            if name.trim_end() == NAME {
                return Ok(PathBuf::from("/dev").join(port.file_name()));
            }
        }
        ensure!(begun.elapsed() < APPEARS_WITHIN, "no port in {PORTS} has the name {NAME}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn run(port: &Path, session: Session, len: usize) -> Result<()> {
    let mut channel = Channel::open(port)?;
    channel.write_all(&[session.byte()]).context("the first byte")?;
    match session {
        Session::LastWords => channel.write_all(&last_words()).context("last words")?,
        Session::GuestCloses | Session::HostCloses => {
            exchange(&mut channel, Side::Guest { len })?;
        }
    }
    if session == Session::HostCloses {
        let mut rest = [0; 1];
        match channel.read(&mut rest).context("the end")? {
            0 => {}
            _ => bail!("{rest:?} came instead of the end"),
        }
        ensure!(channel.read(&mut rest).context("the end again")? == 0, "something came after the end");
        let written = channel.write(&rest).map_err(|error| error.kind());
        ensure!(written == Err(io::ErrorKind::BrokenPipe), "{written:?} after the end");
    }
    Ok(())
}

/// The port, with an end to waiting. It never blocks: Linux lets who writes to a port wait for ever once the host has
/// hung up, and who reads find the end before the host is connected again. What tells is POLLHUP: until it is gone the
/// session has not begun, and when it comes it is over.
struct Channel {
    file: File,
}

impl Channel {
    fn open(port: &Path) -> Result<Self> {
        let flags = OFlags::NONBLOCK.bits().cast_signed();
        let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(port);
        let channel = Self { file: file.with_context(|| format!("opening {}", port.display()))? };
        let begun = Instant::now();
        while channel.wait(PollFlags::OUT)?.contains(PollFlags::HUP) {
            ensure!(begun.elapsed() < APPEARS_WITHIN, "the host is not connected");
            thread::sleep(Duration::from_millis(5));
        }
        Ok(channel)
    }

    fn wait(&self, events: PollFlags) -> io::Result<PollFlags> {
        let mut waiting = [PollFd::new(&self.file, events)];
        match poll(&mut waiting, Some(&SILENCE_MAX))? {
            0 => Err(io::ErrorKind::TimedOut.into()),
            _ => Ok(waiting[0].revents()),
        }
    }
}

impl Read for Channel {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::IN)?;
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }
}

impl Write for Channel {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        loop {
            if self.wait(PollFlags::OUT)?.contains(PollFlags::HUP) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            match self.file.write(data) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
