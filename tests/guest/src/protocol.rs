//! What guest and host say to each other over virtio-console.
//!
//! A frame is a header of 12 bytes (`"TNRG"`, kind, three zero bytes, payload length), the payload and its SHA-256.
//! Numbers are little endian. One exchange:
//!
//! | who | frame | payload |
//! |---|---|---|
//! | guest | hello | version, bytes each way: two 32-bit numbers |
//! | host | data | that many bytes |
//! | guest | digest | SHA-256 of what it received |
//! | guest | data | that many bytes |
//! | host | digest | SHA-256 of what it received |
//!
//! The data is a sequence both sides can compute, so that a wrong byte is known by its position.

use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};

const MAGIC: [u8; 4] = *b"TNRG";
const VERSION: u32 = 1;
const HEADER_LEN: usize = 12;
const DIGEST_LEN: usize = 32;
/// Most bytes in one payload.
pub const PAYLOAD_MAX: usize = 64 << 20;

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// The stream ended or broke.
    #[error("stream: {0}")]
    Io(#[from] io::Error),
    /// Not a frame.
    #[error("frame begins with {0:02x?}")]
    Header([u8; HEADER_LEN]),
    /// A frame out of turn.
    #[error("frame of kind {got} instead of {expected:?}")]
    Kind {
        /// Its kind.
        got: u8,
        /// What was due.
        expected: Kind,
    },
    /// More than any payload may have.
    #[error("payload of {0} bytes is longer than {PAYLOAD_MAX}")]
    TooLong(usize),
    /// The payload is not what its checksum says.
    #[error("payload of {0} bytes does not match its checksum")]
    Checksum(usize),
    /// A payload of the wrong length.
    #[error("payload of {got} bytes instead of {expected}")]
    Length {
        /// Its length.
        got: usize,
        /// What was due.
        expected: usize,
    },
    /// A version we do not speak.
    #[error("protocol version {0} instead of {VERSION}")]
    Version(u32),
    /// The data is not the sequence that was sent.
    #[error("byte {at} of the data is {got:#04x} instead of {expected:#04x}")]
    Data {
        /// Position.
        at: usize,
        /// What came.
        got: u8,
        /// What was sent.
        expected: u8,
    },
    /// The other side received something else than we sent.
    #[error("the other side's digest is not that of what was sent")]
    Digest,
}

/// Kinds of frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The guest begins.
    Hello = 1,
    /// Payload to check.
    Data = 2,
    /// What the other side's data hashed to.
    Digest = 3,
}

/// Who we are in an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The guest, which says how many bytes are sent each way.
    Guest {
        /// At most [`PAYLOAD_MAX`].
        len: usize,
    },
    /// The host.
    Host,
}

/// Seeds of the two sequences.
const GUEST_SEED: u64 = 0x6775_6573_7400_0001;
const HOST_SEED: u64 = 0x686f_7374_0000_0001;

/// Does one exchange and says how many bytes went each way.
pub fn exchange(stream: &mut (impl Read + Write), side: Side) -> Result<usize, ProtocolError> {
    match side {
        Side::Guest { len } => {
            let wire_len = u32::try_from(len).ok().filter(|_| len <= PAYLOAD_MAX);
            let wire_len = wire_len.ok_or(ProtocolError::TooLong(len))?;
            let hello = [VERSION.to_le_bytes(), wire_len.to_le_bytes()];
            send(stream, Kind::Hello, hello.as_flattened())?;
            answer(stream, HOST_SEED, len)?;
            challenge(stream, GUEST_SEED, len)?;
            Ok(len)
        }
        Side::Host => {
            let hello = receive(stream, Kind::Hello)?;
            let (version, len) = match *hello.as_slice() {
                [a, b, c, d, e, f, g, h] => (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h])),
                _ => return Err(ProtocolError::Length { got: hello.len(), expected: 8 }),
            };
            if version != VERSION {
                return Err(ProtocolError::Version(version));
            }
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            if len > PAYLOAD_MAX {
                return Err(ProtocolError::TooLong(len));
            }
            challenge(stream, HOST_SEED, len)?;
            answer(stream, GUEST_SEED, len)?;
            Ok(len)
        }
    }
}

/// Sends data and checks the digest that comes back.
fn challenge(stream: &mut (impl Read + Write), seed: u64, len: usize) -> Result<(), ProtocolError> {
    let data = sequence(seed, len);
    send(stream, Kind::Data, &data)?;
    let digest = receive(stream, Kind::Digest)?;
    if digest == Sha256::digest(&data).as_slice() { Ok(()) } else { Err(ProtocolError::Digest) }
}

/// Receives data, checks it, and sends its digest back.
fn answer(stream: &mut (impl Read + Write), seed: u64, len: usize) -> Result<(), ProtocolError> {
    let data = receive(stream, Kind::Data)?;
    if data.len() != len {
        return Err(ProtocolError::Length { got: data.len(), expected: len });
    }
    let wrong = data.iter().zip(sequence(seed, len)).enumerate().find(|(_, (got, expected))| *got != expected);
    if let Some((at, (got, expected))) = wrong {
        return Err(ProtocolError::Data { at, got: *got, expected });
    }
    send(stream, Kind::Digest, &Sha256::digest(&data))
}

/// Sends one frame.
fn send(stream: &mut impl Write, kind: Kind, payload: &[u8]) -> Result<(), ProtocolError> {
    let len = u32::try_from(payload.len()).map_err(|_| ProtocolError::TooLong(payload.len()))?;
    let mut header = [0; HEADER_LEN];
    header[..4].copy_from_slice(&MAGIC);
    header[4] = kind as u8;
    header[8..].copy_from_slice(&len.to_le_bytes());
    stream.write_all(&header)?;
    stream.write_all(payload)?;
    stream.write_all(&Sha256::digest(payload))?;
    Ok(stream.flush()?)
}

/// Receives one frame, which must be of kind `expected`.
fn receive(stream: &mut impl Read, expected: Kind) -> Result<Vec<u8>, ProtocolError> {
    let mut header = [0; HEADER_LEN];
    stream.read_exact(&mut header)?;
    let [m0, m1, m2, m3, kind, 0, 0, 0, l0, l1, l2, l3] = header else { return Err(ProtocolError::Header(header)) };
    if [m0, m1, m2, m3] != MAGIC {
        return Err(ProtocolError::Header(header));
    }
    if kind != expected as u8 {
        return Err(ProtocolError::Kind { got: kind, expected });
    }
    let len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
    if len > PAYLOAD_MAX {
        return Err(ProtocolError::TooLong(len));
    }
    // Grows as bytes arrive: a length alone costs no memory.
    let mut payload = Vec::new();
    stream.take(len as u64).read_to_end(&mut payload)?;
    let mut digest = [0; DIGEST_LEN];
    stream.read_exact(&mut digest)?;
    if digest != Sha256::digest(&payload).as_slice() {
        return Err(ProtocolError::Checksum(len));
    }
    Ok(payload)
}

/// `len` bytes of the sequence of `seed` (xorshift64*, Vigna 2016).
fn sequence(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed;
    let mut bytes = Vec::with_capacity(len.next_multiple_of(8));
    while bytes.len() < len {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend(state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Cursor;
    use std::os::unix::net::UnixStream;
    use std::thread;

    #[test]
    fn both_sides_agree() {
        for len in [0, 1, 4096, 1 << 20] {
            let (mut guest, mut host) = UnixStream::pair().unwrap();
            let host = thread::spawn(move || exchange(&mut host, Side::Host));
            assert_eq!(exchange(&mut guest, Side::Guest { len }).unwrap(), len);
            assert_eq!(host.join().unwrap().unwrap(), len);
        }
    }

    /// Plays `frames` to one side and returns its error.
    fn play(side: Side, frames: &[(Kind, &[u8])]) -> ProtocolError {
        let (mut us, mut them) = UnixStream::pair().unwrap();
        for (kind, payload) in frames {
            send(&mut them, *kind, payload).unwrap();
        }
        them.shutdown(std::net::Shutdown::Write).unwrap();
        exchange(&mut us, side).unwrap_err()
    }

    #[test]
    fn wrong_data_is_named() {
        let mut data = sequence(HOST_SEED, 100);
        let guest = Side::Guest { len: 100 };
        let expected = data[70];
        data[70] ^= 1;
        let error = play(guest, &[(Kind::Data, &data)]);
        assert!(matches!(error, ProtocolError::Data { at: 70, expected: e, .. } if e == expected), "{error}");
        let error = play(guest, &[(Kind::Data, &data[..99])]);
        assert_eq!(error.to_string(), "payload of 99 bytes instead of 100");
        data[70] ^= 1;
        let error = play(guest, &[(Kind::Data, &data), (Kind::Digest, &[0; 32])]);
        assert!(matches!(error, ProtocolError::Digest), "{error}");
        let error = play(guest, &[(Kind::Digest, &data)]);
        assert_eq!(error.to_string(), "frame of kind 3 instead of Data");
    }

    /// no-silent-trust: what a guest says to the host's side.
    #[test]
    fn no_silent_trust_hello() {
        let hello = |version: u32, len: u32| [version.to_le_bytes(), len.to_le_bytes()].as_flattened().to_vec();
        let error = play(Side::Host, &[(Kind::Hello, &hello(2, 0))]);
        assert_eq!(error.to_string(), "protocol version 2 instead of 1");
        let error = play(Side::Host, &[(Kind::Hello, &hello(1, u32::MAX))]);
        assert_eq!(error.to_string(), "payload of 4294967295 bytes is longer than 67108864");
        let error = play(Side::Host, &[(Kind::Hello, b"hello")]);
        assert_eq!(error.to_string(), "payload of 5 bytes instead of 8");
        let error = play(Side::Host, &[]);
        assert!(matches!(error, ProtocolError::Io(_)), "{error}");
    }

    proptest! {
        /// no-silent-trust: a frame with any bit flipped is refused, and any bytes at all are survived.
        #[test]
        fn no_silent_trust_frames(payload in proptest::collection::vec(any::<u8>(), 0..100), flip in any::<prop::sample::Index>(), noise in proptest::collection::vec(any::<u8>(), 0..100)) {
            let mut frame = Vec::new();
            send(&mut frame, Kind::Data, &payload).unwrap();
            prop_assert_eq!(receive(&mut Cursor::new(&frame), Kind::Data).unwrap(), payload);
            let bit = flip.index(frame.len() * 8);
            frame[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(receive(&mut Cursor::new(&frame), Kind::Data).is_err());
            prop_assert!(receive(&mut Cursor::new(&noise), Kind::Data).is_err());
        }
    }
}
