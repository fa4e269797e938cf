//! A bounded stream of bytes between two threads.
//!
//! Stands between a device and the host's input and output, so that neither a vCPU nor a thread that touches guest
//! memory ever waits for a terminal, a file or a peer: they wait here, and closing the pipe always releases them.

use crate::devices::lock;
use std::collections::VecDeque;
use std::io;
use std::num::NonZeroUsize;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The pipe was closed, so nothing more goes in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("pipe closed")]
pub struct Closed;

#[derive(Debug)]
struct State {
    bytes: VecDeque<u8>,
    closed: bool,
}

#[derive(Debug)]
struct Inner {
    capacity: usize,
    state: Mutex<State>,
    changed: Condvar,
}

/// Both ends of a pipe. Clones are the same pipe.
#[derive(Debug, Clone)]
pub struct BytePipe(Arc<Inner>);

impl BytePipe {
    /// A pipe that holds up to `capacity` bytes.
    pub fn new(capacity: NonZeroUsize) -> Self {
        Self(Arc::new(Inner {
            capacity: capacity.get(),
            state: Mutex::new(State { bytes: VecDeque::new(), closed: false }),
            changed: Condvar::new(),
        }))
    }

    /// Waits for room and puts in as much of `data` as there is room for: at least one byte unless `data` is empty.
    pub fn send(&self, data: &[u8]) -> Result<usize, Closed> {
        let mut state = lock(&self.0.state);
        loop {
            if state.closed {
                return Err(Closed);
            }
            let room = self.0.capacity - state.bytes.len();
            if room > 0 || data.is_empty() {
                let sent = room.min(data.len());
                state.bytes.extend(&data[..sent]);
                self.0.changed.notify_all();
                return Ok(sent);
            }
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until all of `data` is in.
    pub fn send_all(&self, mut data: &[u8]) -> Result<(), Closed> {
        while !data.is_empty() {
            data = &data[self.send(data)?..];
        }
        Ok(())
    }

    /// Waits for bytes and takes as many as are there and fit; none if `buffer` is empty, or the pipe is closed and
    /// everything sent before that was taken.
    pub fn receive(&self, buffer: &mut [u8]) -> usize {
        let mut state = lock(&self.0.state);
        while state.bytes.is_empty() && !state.closed && !buffer.is_empty() {
            state = self.0.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        let received = state.bytes.len().min(buffer.len());
        for (to, from) in buffer.iter_mut().zip(state.bytes.drain(..received)) {
            *to = from;
        }
        self.0.changed.notify_all();
        received
    }

    /// Whether nothing more goes in.
    pub fn is_closed(&self) -> bool {
        lock(&self.0.state).closed
    }

    /// Lets nothing more in, and releases everybody who waits.
    pub fn close(&self) {
        lock(&self.0.state).closed = true;
        self.0.changed.notify_all();
    }
}

impl io::Read for BytePipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.receive(buffer))
    }
}

impl io::Write for BytePipe {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.send(data).map_err(|Closed| io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::thread;

    fn pipe(capacity: usize) -> BytePipe {
        BytePipe::new(NonZeroUsize::new(capacity).unwrap())
    }

    #[test]
    fn closing_releases_both_sides_and_keeps_what_was_sent() {
        let full = pipe(3);
        thread::scope(|scope| {
            let sender = scope.spawn(|| full.send_all(b"abcdef"));
            while lock(&full.0.state).bytes.len() < 3 {
                thread::yield_now();
            }
            full.close();
            assert_eq!(sender.join().unwrap(), Err(Closed));
        });
        let mut buffer = [0; 8];
        assert_eq!(full.receive(&mut buffer), 3);
        assert_eq!(full.receive(&mut buffer), 0);
        let empty = pipe(3);
        thread::scope(|scope| {
            let receiver = scope.spawn(|| empty.receive(&mut [0; 1]));
            empty.close();
            assert_eq!(receiver.join().unwrap(), 0);
        });
    }

    proptest! {
        /// Whatever the sizes, all bytes arrive in order, and the pipe never holds more than it may.
        #[test]
        fn bytes_arrive_complete(capacity in 1usize..100, chunks in proptest::collection::vec(0usize..300, 0..20), take in 1usize..200) {
            let data: Vec<u8> = (0..chunks.iter().sum::<usize>()).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let pipe = pipe(capacity);
            let got = thread::scope(|scope| {
                scope.spawn(|| {
                    let mut rest = &data[..];
                    for chunk in &chunks {
                        pipe.send_all(&rest[..*chunk]).unwrap();
                        rest = &rest[*chunk..];
                    }
                    pipe.close();
                });
                let mut got = Vec::new();
                let mut buffer = vec![0; take];
                loop {
                    assert!(lock(&pipe.0.state).bytes.len() <= capacity);
                    match pipe.receive(&mut buffer) {
                        0 => return got,
                        len => got.extend_from_slice(&buffer[..len]),
                    }
                }
            });
            prop_assert_eq!(got, data);
        }
    }
}
