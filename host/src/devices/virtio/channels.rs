//! Named channels: a virtio-console whose ports are no consoles (virtio 1.2 §5.3, `VIRTIO_CONSOLE_F_MULTIPORT`).
//!
//! Owns the queues: two for each port and two by which both sides speak about ports (module `message`). What is said and when
//! follows from the ports' state (module `port`); the host's side of a channel is [`Channel`], and of one guest program that
//! has it open, [`Session`].
//!
//! A guest finds a channel by its name (Linux: `/sys/class/virtio-ports/*/name`, a device `/dev/vport*`). Linux' driver
//! decides what a guest sees of it (`drivers/char/virtio_console.c`), and so what is done here:
//!
//! - it tells the host of a program that opens or closes a port with its processor spinning until the host took the
//!   message: the queue for them is worked off without waiting for anything;
//! - `write()` blocks until the host says that it is connected, also if it has just hung up, and `read()` returns 0 at once
//!   while it is not: so every port is connected before anybody opens it, and connected again as soon as a program that
//!   was hung up on closes it. A program does best to open a port without blocking and to watch `POLLHUP`: until it is
//!   gone the session has not begun, and when it comes it is over;
//! - `write()` returns before the host has seen the bytes, and so may `close()`: what lies in the port's queue when the
//!   guest closes it still belongs to the session that ends with it;
//! - bytes that come while no program has the port open are discarded by the driver, and bytes that nobody read when it
//!   is closed as well: a session's bytes are put into buffers only while it is open.
//!
//! Everything here is the guest's to abuse (law *no-silent-trust*): what is to be said is kept as state, not as a queue
//! of messages, so that any number of requests makes at most one answer each wait; sessions that nobody on the host has
//! taken yet are limited.

mod host;
mod message;
mod port;

pub use host::{Channel, Session};

use super::console::CLASS;
use super::stream::{ToGuest, send_chain};
use super::{COPY_MAX, ChainError, ChainQueue, VirtioDevice};
use crate::devices::lock;
use host::Pipes;
use message::{Message, MessageError};
use port::{Port, State};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

/// `VIRTIO_CONSOLE_F_MULTIPORT`.
const F_MULTIPORT: u64 = 1 << 1;
/// Entries of each queue.
const QUEUE_SIZE: u16 = 64;
/// Where `virtio_console_config` has the number of ports, and how long it is.
const MAX_NR_PORTS: usize = 4;
const CONFIG_LEN: usize = 12;
/// Most ports of a device: Linux takes no more (`VIRTCONS_MAX_PORTS`).
const PORTS_MAX: usize = 31;

/// A name that no guest could find, or more channels than a device can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelsError {
    /// Nothing to offer, or too much.
    #[error("{0} channels: a device has 1 to {PORTS_MAX}")]
    Count(usize),
    /// Two channels of one name.
    #[error("there are two channels {0}")]
    Twice(&'static str),
}

/// What happened on the channels besides bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChannelsCounts {
    /// Times the guest opened a channel.
    pub sessions: u64,
    /// Times it was hung up on at once, because too many sessions waited or nobody serves the channel.
    pub refused_sessions: u64,
    /// Messages about ports that mean nothing.
    pub bad_messages: u64,
}

/// The device. Its host side is [`Self::channel`].
#[derive(Debug)]
pub struct Channels {
    queue_sizes: Vec<u16>,
    config: [u8; CONFIG_LEN],
    shared: Arc<Shared>,
}

/// What the queues' threads and the host's side share. Nobody waits while holding the lock; it is held for one copy
/// into a guest's buffers.
#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// What a queue is for (§5.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    /// Bytes for the guest on this port.
    Receive(usize),
    /// Bytes from the guest on this port.
    Transmit(usize),
    /// Messages for the guest.
    ControlReceive,
    /// Messages from the guest.
    ControlTransmit,
}

impl Role {
    const fn of(queue: u16) -> Self {
        let pair = queue as usize / 2;
        match (pair, queue % 2) {
            (0, 0) => Self::Receive(0),
            (0, _) => Self::Transmit(0),
            (1, 0) => Self::ControlReceive,
            (1, _) => Self::ControlTransmit,
            (_, 0) => Self::Receive(pair - 1),
            (_, _) => Self::Transmit(pair - 1),
        }
    }

    /// The queue with what the guest sends on `port`.
    fn transmit_queue(port: usize) -> u16 {
        let pair = if port == 0 { 0 } else { port + 1 };
        u16::try_from(2 * pair + 1).unwrap_or(u16::MAX)
    }
}

impl Channels {
    /// A device with these channels, in the order of their ports.
    pub fn new(names: &[&'static str]) -> Result<Self, ChannelsError> {
        if names.is_empty() || names.len() > PORTS_MAX {
            return Err(ChannelsError::Count(names.len()));
        }
        if let Some((_, name)) = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            return Err(ChannelsError::Twice(name));
        }
        let mut config = [0; CONFIG_LEN];
        let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
        config[MAX_NR_PORTS..MAX_NR_PORTS + 4].copy_from_slice(&count.to_le_bytes());
        let ports = names.iter().copied().map(Port::new).collect();
        let state = State { ports, stopped: false, counts: ChannelsCounts::default() };
        Ok(Self {
            queue_sizes: vec![QUEUE_SIZE; 2 * (names.len() + 1)],
            config,
            shared: Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() }),
        })
    }

    /// The host's end of the channel with this name, once.
    pub fn channel(&self, name: &str) -> Option<Channel> {
        Channel::take(&self.shared, name)
    }

    /// What happened so far.
    pub fn counts(&self) -> ChannelsCounts {
        lock(&self.shared.state).counts
    }

    fn receive(&self, port: usize, queue: &dyn ChainQueue) {
        let mut bytes = ToGuest::new();
        // A chain that was taken for a session which ended meanwhile serves the next one.
        let mut spare = None;
        while let Some(session) = self.shared.wait_for_session(port) {
            bytes.forget();
            while bytes.wait_for(&session.to_guest).is_ok() {
                let Some(chain) = spare.take().or_else(|| queue.take()) else { return };
                // The guest cannot close the port between this look and the copy.
                let state = lock(&self.shared.state);
                if !state.is_open(port, &session) {
                    spare = Some(chain);
                    break;
                }
                bytes.put_into(queue, chain);
            }
            self.shared.change(|state| state.said_all(port, &session));
        }
    }

    fn transmit(&self, port: usize, queue: &dyn ChainQueue) {
        let mut buffer = vec![0; COPY_MAX];
        while let Some(chain) = queue.take() {
            let place = chain.place();
            let sender = lock(&self.shared.state).sender(port, place);
            if let Some(session) = sender {
                // Whoever hung up does not want the rest.
                let _ = send_chain(queue, &chain, &mut buffer, &session.from_guest);
            }
            queue.complete(chain, 0);
            lock(&self.shared.state).sent(port, place.next());
        }
    }

    fn tell(&self, queue: &dyn ChainQueue) {
        let mut spare = None;
        while self.shared.wait_for(|state| state.due().map(drop)).is_some() {
            let Some(chain) = spare.take().or_else(|| queue.take()) else { return };
            let mut state = lock(&self.shared.state);
            // It may be something else by now, or nothing.
            let Some((port, message, name)) = state.due() else {
                spare = Some(chain);
                continue;
            };
            // Without an end mark: the length says where the name ends.
            let bytes = [&message.to_bytes()[..], name.as_bytes()].concat();
            match queue.write(&chain, 0, &bytes) {
                Ok(written) => {
                    state.told(port, message);
                    queue.complete(chain, u32::try_from(written).unwrap_or(u32::MAX));
                }
                // It is said again with the next buffer.
                Err(ChainError::Refused) => queue.complete(chain, 0),
                Err(ChainError::Stale) => {}
            }
        }
    }

    fn listen(&self, queue: &dyn ChainQueue) {
        while let Some(chain) = queue.take() {
            let mut bytes = [0; Message::LEN];
            let read = queue.read(&chain, 0, &mut bytes);
            let heard = match read {
                Err(ChainError::Stale) => continue,
                Err(ChainError::Refused) => Err(MessageError::Unreadable),
                Ok(len) => Message::from_bytes(&bytes[..len]),
            };
            let heard = heard.and_then(|message| {
                self.shared.change(|state| {
                    // If the driver resets the device from here on, the state is told after this.
                    if !queue.is_current(&chain) {
                        return Ok(());
                    }
                    state.hear(message, |port| queue.end_of(Role::transmit_queue(port)))
                })
            });
            if let Err(error) = heard {
                lock(&self.shared.state).counts.bad_messages += 1;
                tracing::debug!(%error, "message about channels");
            }
            // Only now: the guest goes on when it has the chain back.
            queue.complete(chain, 0);
        }
    }
}

impl Shared {
    /// Changes something others may be waiting for.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut lock(&self.state));
        self.changed.notify_all();
        result
    }

    /// Waits until `found`, or the device is stopped.
    fn wait_for<T>(&self, mut found: impl FnMut(&mut State) -> Option<T>) -> Option<T> {
        let mut state: MutexGuard<'_, State> = lock(&self.state);
        loop {
            if let Some(value) = found(&mut state) {
                return Some(value);
            }
            if state.stopped {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until the guest has `port` open and the host did not hang up.
    fn wait_for_session(&self, port: usize) -> Option<Arc<Pipes>> {
        self.wait_for(|state| state.speaking(port).filter(|_| !state.stopped))
    }
}

impl VirtioDevice for Channels {
    fn device_type(&self) -> u8 {
        VIRTIO_ID_CONSOLE.to_le_bytes()[0]
    }

    fn pci_class(&self) -> u32 {
        CLASS
    }

    fn features(&self) -> u64 {
        F_MULTIPORT
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn run_queue(&self, index: u16, queue: &dyn ChainQueue) {
        match Role::of(index) {
            Role::Receive(port) => self.receive(port, queue),
            Role::Transmit(port) => self.transmit(port, queue),
            Role::ControlReceive => self.tell(queue),
            Role::ControlTransmit => self.listen(queue),
        }
    }

    fn reset(&self) {
        self.shared.change(State::reset);
    }

    fn stop(&self) {
        self.shared.change(State::stop);
    }
}
