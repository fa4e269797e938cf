//! The host's side of channels.
//!
//! Owns what a server of a channel holds: pipes and the device's state, nothing of the VM and none of its memory, so that
//! one that is stuck never outlasts a page (law *pages-before-key*).

use super::Shared;
use super::port::State;
use crate::devices::pipe::BytePipe;
use crate::devices::virtio::console::PIPE_BYTES;
use std::io;
use std::sync::Arc;

/// Bytes of one session on their way in each direction.
#[derive(Debug)]
pub(super) struct Pipes {
    pub(super) to_guest: BytePipe,
    pub(super) from_guest: BytePipe,
}

impl Pipes {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { to_guest: BytePipe::new(PIPE_BYTES), from_guest: BytePipe::new(PIPE_BYTES) })
    }

    /// What is still to be said to the guest is; what it says from now on nobody hears.
    pub(super) fn hang_up(&self) {
        self.to_guest.close();
        self.from_guest.close();
    }
}

/// The host's end of a channel. While there is one the guest finds the channel connected; when it is dropped, everybody
/// is hung up on.
#[derive(Debug)]
pub struct Channel {
    shared: Arc<Shared>,
    port: usize,
    name: &'static str,
}

impl Channel {
    pub(super) fn take(shared: &Arc<Shared>, name: &str) -> Option<Self> {
        let (port, name) = shared.change(|state| state.serve(name))?;
        Some(Self { shared: Arc::clone(shared), port, name })
    }

    /// The name the guest finds it by.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Waits until the guest opens the channel. Sessions come one after the other in the order in which they were
    /// opened; the guest may have closed one already that is only now taken. None when the device was stopped.
    pub fn accept(&self) -> Option<Session> {
        self.shared.wait_for(|state| state.accept(self.port)).map(|pipes| Session { pipes })
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let port = self.port;
        self.shared.change(|state: &mut State| state.abandon(port));
    }
}

/// A channel from when a guest's program opens it until that program closes it or the host hangs up, which dropping this
/// does. Reading and writing wait; they may be done from different threads.
#[derive(Debug)]
pub struct Session {
    pipes: Arc<Pipes>,
}

impl Session {
    /// Waits for bytes of the guest's; none if it has closed the channel and all it sent was taken, or the host hung up.
    pub fn receive(&self, buffer: &mut [u8]) -> usize {
        self.pipes.from_guest.receive(buffer)
    }

    /// Waits until all of `data` is on its way. Fails if the guest has closed the channel, or the host hung up.
    pub fn send(&self, data: &[u8]) -> io::Result<()> {
        self.pipes.to_guest.send_all(data).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    /// Whether nothing more can be sent: the guest has closed the channel, or is gone, or the host hung up.
    pub fn has_ended(&self) -> bool {
        self.pipes.to_guest.is_closed()
    }

    /// Ends the session: once it has read what was sent before, the guest finds the channel at its end.
    pub fn hang_up(&self) {
        self.pipes.hang_up();
    }
}

impl io::Read for &Session {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(self.receive(buffer))
    }
}

impl io::Write for &Session {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.send(data).map(|()| data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.hang_up();
    }
}

#[cfg(test)]
impl Session {
    /// A session without a device, what the guest reads, and what it writes.
    pub(crate) fn without_device() -> (Self, BytePipe, BytePipe) {
        let pipes = Pipes::new();
        let (reads, writes) = (pipes.to_guest.clone(), pipes.from_guest.clone());
        (Self { pipes }, reads, writes)
    }
}
