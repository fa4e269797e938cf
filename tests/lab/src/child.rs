//! A command that runs on the lab host: its streams, its end.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::command::{Command, Status, Stdin};
use crate::host::{Error, Host, unexpected};
use crate::link::Link;
use lab_agent::proto::{CHUNK_BYTES, Message};

/// A command running on the lab host. While it is there, so is the machine.
#[derive(Debug)]
pub struct Child {
    host: Host,
    channel: u32,
    pid: u32,
    name: String,
    allowed: Duration,
    deadline: Instant,
    answers: Receiver<Message>,
    /// Its standard input, for [`Stdin::Stream`]; taking and dropping it ends the stream.
    pub stdin: Option<StdinWriter>,
    /// Its standard output.
    pub stdout: StreamReader,
    /// Its standard error.
    pub stderr: StreamReader,
}

impl Child {
    pub(crate) fn start(host: Host, command: Command) -> Result<Self, Error> {
        let name = command.program.argv.first().map_or(&[][..], Vec::as_slice);
        let name = String::from_utf8_lossy(name).into_owned();
        let deadline = Instant::now() + command.deadline;
        let channel = host.request(Message::Run(command.program), &name)?;
        let started = host.answer(&channel.answers, &format!("start of {name}"), command.deadline)?;
        let Message::Started(pid) = started else {
            return Err(unexpected(&name, started));
        };
        let mut stdin = StdinWriter { link: Arc::clone(host.link()), channel: channel.number };
        let stdin = match command.stdin {
            Stdin::Stream => Some(stdin),
            // Dropping the writer ends the stream. That a command ends without having read
            // everything is no error here.
            Stdin::Empty => None,
            Stdin::Bytes(bytes) => {
                let _ = stdin.write_all(&bytes);
                None
            }
        };
        Ok(Self {
            host,
            channel: channel.number,
            pid,
            name,
            allowed: command.deadline,
            deadline,
            answers: channel.answers,
            stdin,
            stdout: StreamReader::new(channel.stdout, deadline),
            stderr: StreamReader::new(channel.stderr, deadline),
        })
    }

    /// Its process id on the lab host.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Takes standard output and standard error, for threads of their own to read.
    pub fn take_output(&mut self) -> (StreamReader, StreamReader) {
        let deadline = self.deadline;
        let take = |stream| std::mem::replace(stream, StreamReader::new(mpsc::channel().1, deadline));
        (take(&mut self.stdout), take(&mut self.stderr))
    }

    /// Sends it a signal, by number; none if it has ended.
    pub fn kill(&self, signal: u32) -> Result<(), Error> {
        self.host.send(self.channel, Message::Kill(signal), &format!("signal to {}", self.name))
    }

    /// Waits until it ends; its deadline runs from its start. Its standard input ends now.
    pub fn wait(&mut self) -> Result<Status, Error> {
        self.stdin = None;
        let what = format!("end of {}", self.name);
        let left = self.deadline.saturating_duration_since(Instant::now());
        match self.host.answer(&self.answers, &what, left) {
            Ok(Message::Exited(code)) => Ok(Status::Exited(code)),
            Ok(Message::Signaled(signal)) => Ok(Status::Signaled(signal)),
            Ok(other) => Err(unexpected(&what, other)),
            Err(Error::Deadline { what, console, .. }) => Err(Error::Deadline { what, after: self.allowed, console }),
            Err(error) => Err(error),
        }
    }
}

/// Writes to a command's standard input; dropping it ends the stream.
#[derive(Debug)]
pub struct StdinWriter {
    link: Arc<Link>,
    channel: u32,
}

impl Write for StdinWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let piece = &data[..data.len().min(CHUNK_BYTES)];
        if !piece.is_empty() {
            self.link.send(self.channel, Message::Input(piece.to_vec()))?;
        }
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for StdinWriter {
    fn drop(&mut self) {
        // If the host is gone, so is the command.
        let _ = self.link.send(self.channel, Message::InputEnd);
    }
}

/// Reads what a command writes. Ends with the stream; a read beyond the command's deadline is
/// [`io::ErrorKind::TimedOut`].
#[derive(Debug)]
pub struct StreamReader {
    pieces: Receiver<Vec<u8>>,
    piece: Vec<u8>,
    consumed: usize,
    deadline: Instant,
}

impl StreamReader {
    pub(crate) fn new(pieces: Receiver<Vec<u8>>, deadline: Instant) -> Self {
        Self { pieces, piece: Vec::new(), consumed: 0, deadline }
    }
}

impl Read for StreamReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.consumed == self.piece.len() {
            let left = self.deadline.saturating_duration_since(Instant::now());
            match self.pieces.recv_timeout(left) {
                Ok(piece) => (self.piece, self.consumed) = (piece, 0),
                Err(RecvTimeoutError::Timeout) => return Err(io::ErrorKind::TimedOut.into()),
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            }
        }
        let rest = &self.piece[self.consumed..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        self.consumed += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_joined_and_an_end_is_told_from_a_delay() {
        let (sender, pieces) = mpsc::channel();
        let soon = Instant::now() + Duration::from_millis(30);
        let mut reader = StreamReader::new(pieces, soon);
        for piece in ["ab", "", "cde"] {
            sender.send(piece.as_bytes().to_vec()).unwrap();
        }
        let mut buffer = [0; 5];
        reader.read_exact(&mut buffer).unwrap();
        assert_eq!(&buffer, b"abcde");
        assert_eq!(reader.read(&mut buffer).unwrap_err().kind(), io::ErrorKind::TimedOut);
        drop(sender);
        assert_eq!(reader.read(&mut buffer).unwrap(), 0);
    }
}
