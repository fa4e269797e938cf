//! The conversation with the agent: one stream, a socket of any family, many channels.
//!
//! Owns: sending frames, and handing received ones to whoever waits on their channel. Does not
//! own: what is asked and how long an answer may take (`host`).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use lab_agent::proto::{self, CONTROL, Decoder, Frame, Message};

/// The host side's end.
#[derive(Debug)]
pub(crate) struct Link {
    writer: Mutex<File>,
    routes: Mutex<Routes>,
    next_channel: AtomicU32,
}

/// A channel as its owner sees it. The streams end when the request does, or when the link does.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) number: u32,
    pub(crate) answers: Receiver<Message>,
    pub(crate) stdout: Receiver<Vec<u8>>,
    pub(crate) stderr: Receiver<Vec<u8>>,
}

#[derive(Debug, Default)]
struct Routes {
    closed: bool,
    channels: HashMap<u32, Route>,
}

/// The other ends of a [`Channel`].
#[derive(Debug)]
struct Route {
    answers: Sender<Message>,
    stdout: Sender<Vec<u8>>,
    stderr: Sender<Vec<u8>>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that is kept in a mutex here is ever left half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Link {
    /// Starts to listen; the channel is the one of messages that belong to no request.
    pub(crate) fn new(stream: File) -> io::Result<(Arc<Self>, Channel)> {
        let reader = stream.try_clone()?;
        let link = Arc::new(Self {
            writer: Mutex::new(stream),
            routes: Mutex::default(),
            next_channel: AtomicU32::new(CONTROL + 1),
        });
        let control = lock(&link.routes).add(CONTROL);
        let listener = Arc::clone(&link);
        // It ends with the stream, which ends with the machine.
        thread::spawn(move || listener.listen(reader));
        Ok((link, control))
    }

    /// Sends a request on a channel of its own.
    pub(crate) fn request(&self, message: Message) -> io::Result<Channel> {
        let number = self.next_channel.fetch_add(1, Ordering::Relaxed);
        let channel = {
            let mut routes = lock(&self.routes);
            if routes.closed {
                return Err(io::ErrorKind::NotConnected.into());
            }
            routes.add(number)
        };
        self.send(number, message)?;
        Ok(channel)
    }

    /// Sends one more message of a request.
    pub(crate) fn send(&self, channel: u32, message: Message) -> io::Result<()> {
        let mut wire = Vec::new();
        Frame { channel, message }.encode(&mut wire);
        if wire.len() > proto::MAX_FRAME_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "request is too large"));
        }
        lock(&self.writer).write_all(&wire)
    }

    fn listen(&self, mut stream: File) {
        let mut decoder = Decoder::default();
        let mut buffer = vec![0; 256 << 10];
        'stream: loop {
            match stream.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => decoder.push(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            }
            let mut routes = lock(&self.routes);
            loop {
                match decoder.next_frame() {
                    Ok(Some(frame)) => routes.deliver(frame),
                    Ok(None) => break,
                    Err(proto::Error::Malformed { .. }) => {}
                    Err(proto::Error::Length(_)) => break 'stream,
                }
            }
        }
        let mut routes = lock(&self.routes);
        routes.closed = true;
        routes.channels.clear();
    }
}

impl Routes {
    fn add(&mut self, number: u32) -> Channel {
        let (answers, answers_end) = mpsc::channel();
        let (stdout, stdout_end) = mpsc::channel();
        let (stderr, stderr_end) = mpsc::channel();
        let route = Route { answers, stdout, stderr };
        self.channels.insert(number, route);
        Channel { number, answers: answers_end, stdout: stdout_end, stderr: stderr_end }
    }

    fn deliver(&mut self, frame: Frame) {
        let Some(route) = self.channels.get(&frame.channel) else {
            return;
        };
        // A receiver that is gone has lost interest; that is its right.
        let last = match frame.message {
            Message::Output(data) => {
                let _ = route.stdout.send(data);
                false
            }
            Message::ErrorOutput(data) => {
                let _ = route.stderr.send(data);
                false
            }
            message => {
                let last = !matches!(message, Message::Started(_) | Message::Hello(_));
                let _ = route.answers.send(message);
                last
            }
        };
        if last {
            self.channels.remove(&frame.channel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    const SOON: Duration = Duration::from_secs(20);

    /// The host side's end, and the agent's.
    fn pair() -> (File, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (OwnedFd::from(ours).into(), theirs)
    }

    fn say(agent: &mut UnixStream, channel: u32, message: Message) {
        let mut wire = Vec::new();
        Frame { channel, message }.encode(&mut wire);
        agent.write_all(&wire).unwrap();
    }

    #[test]
    fn answers_reach_their_own_channel_whatever_comes_between() {
        let (ours, mut agent) = pair();
        let (link, control) = Link::new(ours).unwrap();
        let first = link.request(Message::Get(b"a".to_vec())).unwrap();
        let second = link.request(Message::Get(b"b".to_vec())).unwrap();
        say(&mut agent, second.number, Message::Output(b"two".to_vec()));
        say(&mut agent, 99, Message::Done);
        // A frame with a tag nobody knows.
        agent.write_all(&[5, 0, 0, 0, 1, 0, 0, 0, 200]).unwrap();
        say(&mut agent, CONTROL, Message::Hello(7));
        say(&mut agent, first.number, Message::Done);
        say(&mut agent, second.number, Message::Done);
        assert_eq!(control.answers.recv_timeout(SOON), Ok(Message::Hello(7)));
        assert_eq!(second.stdout.recv_timeout(SOON), Ok(b"two".to_vec()));
        assert_eq!(second.answers.recv_timeout(SOON), Ok(Message::Done));
        assert_eq!(first.answers.recv_timeout(SOON), Ok(Message::Done));
        // The end of a request is the end of its streams.
        assert!(first.stdout.recv().is_err() && second.stderr.recv().is_err());
    }

    #[test]
    fn the_end_of_the_stream_ends_every_wait_and_refuses_requests() {
        for last_words in [&b""[..], &u32::MAX.to_le_bytes()] {
            let (ours, mut agent) = pair();
            let (link, control) = Link::new(ours).unwrap();
            let pending = link.request(Message::Get(b"a".to_vec())).unwrap();
            agent.write_all(last_words).unwrap();
            drop(agent);
            assert!(control.answers.recv().is_err());
            assert!(pending.answers.recv().is_err());
            assert!(link.request(Message::PowerOff).is_err());
        }
    }

    #[test]
    fn a_request_too_large_for_a_frame_is_refused() {
        let (ours, _agent) = pair();
        let (link, _control) = Link::new(ours).unwrap();
        let large = vec![0; proto::MAX_FRAME_BYTES];
        assert_eq!(link.request(Message::Get(large)).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
