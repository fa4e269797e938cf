//! What is said about ports: `struct virtio_console_control` (virtio 1.2 §5.3.6.2).
//!
//! Owns the bytes of a message. Does not own when one is said, or what follows.

/// `VIRTIO_CONSOLE_DEVICE_READY`: the driver is ready to be told of ports, or has failed.
const DEVICE_READY: u16 = 0;
/// `VIRTIO_CONSOLE_PORT_ADD`: there is a port.
const PORT_ADD: u16 = 1;
/// `VIRTIO_CONSOLE_PORT_READY`: the driver took a port, or could not.
const PORT_READY: u16 = 3;
/// `VIRTIO_CONSOLE_PORT_OPEN`: the sender's side of a port was opened or closed.
const PORT_OPEN: u16 = 6;
/// `VIRTIO_CONSOLE_PORT_NAME`: the name of a port, which follows the message.
const PORT_NAME: u16 = 7;

/// A message that means nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum MessageError {
    /// Its buffer is not in shared memory.
    #[error("its buffer is not in shared memory")]
    Unreadable,
    /// Too few bytes.
    #[error("{0} bytes are fewer than a message has")]
    Short(usize),
    /// Not for a driver to say, or not with this value.
    #[error("event {event} with value {value} for port {id} is nothing that a driver says")]
    Unknown {
        /// The port.
        id: u32,
        /// What happened.
        event: u16,
        /// How.
        value: u16,
    },
    /// There is no such port.
    #[error("port {id} is none of {ports}")]
    NoSuchPort {
        /// The port.
        id: u32,
        /// How many there are.
        ports: usize,
    },
}

/// A message: which port, what happened, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) id: u32,
    pub(super) event: Event,
}

/// What can be said; a value other than 0 and 1 says nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    /// From the driver, about no port.
    DeviceReady(bool),
    /// To the driver.
    PortAdd,
    /// From the driver.
    PortReady(bool),
    /// To the driver; the name follows.
    PortName,
    /// Both ways.
    PortOpen(bool),
}

impl Message {
    pub(super) const LEN: usize = 8;

    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        let (event, value) = match self.event {
            Event::DeviceReady(ready) => (DEVICE_READY, ready.into()),
            Event::PortAdd => (PORT_ADD, 1),
            Event::PortReady(ready) => (PORT_READY, ready.into()),
            Event::PortName => (PORT_NAME, 1),
            Event::PortOpen(open) => (PORT_OPEN, u16::from(open)),
        };
        let [a, b, c, d] = self.id.to_le_bytes();
        let ([e, f], [g, h]) = (u16::to_le_bytes(event), u16::to_le_bytes(value));
        [a, b, c, d, e, f, g, h]
    }

    /// What a driver said. Bytes after the message mean nothing.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, MessageError> {
        let Some([a, b, c, d, e, f, g, h]) = bytes.first_chunk() else { return Err(MessageError::Short(bytes.len())) };
        let id = u32::from_le_bytes([*a, *b, *c, *d]);
        let (event, value) = (u16::from_le_bytes([*e, *f]), u16::from_le_bytes([*g, *h]));
        let event = match (event, value) {
            (DEVICE_READY, 0 | 1) => Event::DeviceReady(value == 1),
            (PORT_READY, 0 | 1) => Event::PortReady(value == 1),
            (PORT_OPEN, 0 | 1) => Event::PortOpen(value == 1),
            _ => return Err(MessageError::Unknown { id, event, value }),
        };
        Ok(Self { id, event })
    }
}
