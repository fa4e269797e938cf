//! Bytes to somebody and back, for so long and no longer.
//!
//! Owns waiting. The other end may be anybody, and a limit for each read is none: whoever sends a byte now and then is
//! never late. So a question and its whole answer have one end. Connections and devices (ports of a console, terminals,
//! pipes, in tests plain files) are waited for alike: no call of theirs blocks, and who waits for them does so until then.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::{Errno, ioctl_fionbio};

/// How long a connection may take to be made, and then each question to a relying party, or to whoever signs for guests in
/// software, with its answer. As long as a challenge usually holds.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Until something is tried again that is said to be ready, and is not: a port, for instance, whose other end is closed.
const PAUSE: Duration = Duration::from_millis(10);

/// Somebody who is asked, and answers.
pub trait Stream: Read + Write {
    /// Something else is asked from here on: all of it and of its answer has so long. What is not there by then is an
    /// error ([`ErrorKind::TimedOut`]).
    fn ask_within(&mut self, limit: Duration);
}

impl<S: Stream + ?Sized> Stream for Box<S> {
    fn ask_within(&mut self, limit: Duration) {
        (**self).ask_within(limit);
    }
}

/// A descriptor's bytes, with an end of waiting.
#[derive(Debug)]
pub struct Timed<T> {
    inner: T,
    began: Instant,
    limit: Duration,
}

impl Timed<File> {
    /// A device, or whatever has this name, to be read and written.
    pub fn open(path: &Path) -> io::Result<Self> {
        // Opening must not wait either: for a terminal's carrier, for instance.
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed();
        Self::new(File::options().read(true).write(true).custom_flags(flags).open(path)?)
    }
}

impl<T: AsFd> Timed<T> {
    /// Over this one, which does not block any more. Until something is asked it has [`PATIENCE`].
    pub fn new(inner: T) -> io::Result<Self> {
        ioctl_fionbio(&inner, true)?;
        Ok(Self { inner, began: Instant::now(), limit: PATIENCE })
    }

    /// What is left of the time.
    fn left(&self) -> io::Result<Duration> {
        let left = self.limit.saturating_sub(self.began.elapsed());
        if left.is_zero() {
            return Err(io::Error::new(ErrorKind::TimedOut, format!("no whole answer within {:?}", self.limit)));
        }
        Ok(left)
    }

    /// Does something once that is possible.
    fn act<R>(&mut self, event: PollFlags, mut act: impl FnMut(&mut T) -> io::Result<R>) -> io::Result<R> {
        loop {
            let left = Timespec::try_from(self.left()?).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.inner, event)], Some(&left)) {
                Ok(0) | Err(Errno::INTR) => continue,
                ready => ready?,
            };
            match act(&mut self.inner) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE.min(self.left()?)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }
}

impl<T: AsFd + Read + Write> Stream for Timed<T> {
    fn ask_within(&mut self, limit: Duration) {
        (self.began, self.limit) = (Instant::now(), limit);
    }
}

impl<T: AsFd + Read> Read for Timed<T> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.act(PollFlags::IN, |inner| inner.read(to))
    }
}

impl<T: AsFd + Write> Write for Timed<T> {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.act(PollFlags::OUT, |inner| inner.write(from))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use std::os::unix::net::UnixStream;

    const SHORT: Duration = Duration::from_millis(200);

    fn is_late(error: &io::Error) -> bool {
        error.kind() == ErrorKind::TimedOut && error.to_string() == "no whole answer within 200ms"
    }

    /// no-silent-trust: nobody keeps anybody waiting by saying nothing, nor by saying it slowly.
    #[test]
    fn no_silent_trust_an_answer_has_an_end() {
        for pause in [None, Some(Duration::from_millis(20))] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let slow = thread::spawn(move || {
                let Some(pause) = pause else { return Some(theirs) };
                // For three seconds, and not for ever: a test that fails should end.
                (0..150).take_while(|_| theirs.write_all(b"a").is_ok()).for_each(|_| thread::sleep(pause));
                None
            });
            let mut ours = Timed::new(ours).unwrap();
            let began = Instant::now();
            ours.ask_within(SHORT);
            let error = ours.read_to_end(&mut Vec::new()).unwrap_err();
            assert!(is_late(&error), "{error}");
            assert!((SHORT..20 * SHORT).contains(&began.elapsed()));
            // What is asked next has its own time.
            if pause.is_some() {
                ours.ask_within(SHORT);
                ours.read_exact(&mut [0]).unwrap();
            }
            drop(ours);
            slow.join().unwrap();
        }
    }

    /// no-silent-trust: nor by not listening.
    #[test]
    fn no_silent_trust_a_question_has_an_end() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut ours = Timed::new(ours).unwrap();
        ours.ask_within(SHORT);
        let error = ours.write_all(&vec![0; 16 << 20]).unwrap_err();
        assert!(is_late(&error), "{error}");
    }

    #[test]
    fn devices_are_what_can_be_opened() {
        let dir = tempfile::tempdir().unwrap();
        let (file, pipe) = (dir.path().join("file"), dir.path().join("pipe"));
        std::fs::write(&file, "all of it").unwrap();
        let mut text = String::new();
        Timed::open(&file).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "all of it");
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let mut pipe = Timed::open(&pipe).unwrap();
        pipe.ask_within(SHORT);
        pipe.write_all(b"x").unwrap();
        pipe.read_exact(&mut [0]).unwrap();
        assert!(is_late(&pipe.read(&mut [0]).unwrap_err()));
    }
}
