//! The bytes of a log.
//!
//! Every length and count is the guest's word; nothing is reserved by them, and everything must be there.

use alloc::vec::Vec;

use super::{Digest, Event, EventType};

const SIGNATURE: &[u8; 16] = b"Spec ID Event03\0";
const SHA384: u16 = 0xc;
/// Kinds of digests a log may have beside each other; there are fewer.
const ALGORITHMS_MOST: u32 = 8;
/// Where the register would be, after the last event.
const NO_REGISTER: u32 = u32::MAX;

/// Why bytes are no log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EventLogError {
    /// It ends too early.
    #[error("it ends within {part} of event {event}, at byte {at:#x}")]
    Truncated {
        /// Which event, from 0, which says how the log is written.
        event: usize,
        /// What is not all there.
        part: &'static str,
        /// Where the rest begins.
        at: usize,
    },
    /// It doesn't say how it is written.
    #[error("its first event is not \"Spec ID Event03\", of no register and not measured")]
    NoSpecification,
    /// Digests of kinds that are unknown, none at all, or of the same kind twice.
    #[error("it has digests of {0} kinds; 1 to {ALGORITHMS_MOST} are known")]
    Algorithms(u32),
    /// The same kind twice.
    #[error("it has two digests of kind {0:#x}")]
    Twice(u16),
    /// Without the digests that RTMRs are made of.
    #[error("it has no digests by SHA-384, of 48 bytes")]
    NoSha384,
    /// An event with other digests than the log says.
    #[error("event {event} has {found} digests, not {wanted}")]
    Digests {
        /// Which event.
        event: usize,
        /// How many it has.
        found: u32,
        /// How many each should have.
        wanted: usize,
    },
    /// A digest of another kind.
    #[error("event {event} has a digest of kind {found:#x}, which the log does not have, or twice")]
    Digest {
        /// Which event.
        event: usize,
        /// Of which kind.
        found: u16,
    },
    /// A register that there isn't.
    #[error("event {event} is of register {register}; RTMR0 to RTMR3 are registers 1 to 4")]
    Register {
        /// Which event.
        event: usize,
        /// Which register.
        register: u32,
    },
    /// Something after its end.
    #[error("byte {0:#x} follows its end")]
    Trailing(usize),
}

/// What is left of the log, and where.
struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
    event: usize,
}

impl<'a> Rest<'a> {
    fn take(&mut self, length: usize, part: &'static str) -> Result<&'a [u8], EventLogError> {
        let error = EventLogError::Truncated { event: self.event, part, at: self.at };
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(error)?;
        self.bytes = rest;
        self.at += length;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], EventLogError> {
        let error = EventLogError::Truncated { event: self.event, part, at: self.at };
        self.take(N, part)?.try_into().map_err(|_| error)
    }

    fn u16(&mut self, part: &'static str) -> Result<u16, EventLogError> {
        self.array(part).map(u16::from_le_bytes)
    }

    fn u32(&mut self, part: &'static str) -> Result<u32, EventLogError> {
        self.array(part).map(u32::from_le_bytes)
    }

    fn data(&mut self) -> Result<&'a [u8], EventLogError> {
        let length = self.u32("the length of the data")?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX), "the data")
    }

    /// Whether the events are over: nothing follows, or nothing but bytes of an area that was never written.
    fn is_over(&self) -> Result<bool, EventLogError> {
        let [pad @ (0 | 0xff), ..] = *self.bytes else { return Ok(self.bytes.is_empty()) };
        let word = self.bytes.first_chunk::<4>().map(|register| u32::from_le_bytes(*register));
        match self.bytes.iter().position(|byte| *byte != pad) {
            None => Ok(true),
            // An event of no register has no place here, but neither does anything after the end.
            Some(stray) if word == Some(NO_REGISTER) => Err(EventLogError::Trailing(self.at + stray)),
            Some(_) => Ok(false),
        }
    }
}

pub(super) fn events(bytes: &[u8]) -> Result<Vec<Event<'_>>, EventLogError> {
    let mut rest = Rest { bytes, at: 0, event: 0 };
    let algorithms = specification(&mut rest)?;
    let mut events = Vec::new();
    while !rest.is_over()? {
        rest.event += 1;
        events.push(event(&mut rest, &algorithms)?);
    }
    Ok(events)
}

/// The first event: which digests the others have, and of how many bytes.
fn specification(rest: &mut Rest<'_>) -> Result<Vec<(u16, u16)>, EventLogError> {
    let (_register, kind) = (rest.u32("the register")?, rest.u32("the type")?);
    let digest: [u8; 20] = rest.array("the digest")?;
    let mut inner = Rest { bytes: rest.data()?, at: rest.at, event: 0 };
    inner.at -= inner.bytes.len();
    let signature: [u8; 16] = inner.array("the signature")?;
    if signature != *SIGNATURE || EventType(kind) != EventType::NO_ACTION || digest != [0; 20] {
        return Err(EventLogError::NoSpecification);
    }
    // Class of platform, minor and major version, errata, and bytes of a number.
    inner.take(8, "the version")?;
    let count = inner.u32("the number of algorithms")?;
    if !(1..=ALGORITHMS_MOST).contains(&count) {
        return Err(EventLogError::Algorithms(count));
    }
    let mut algorithms: Vec<(u16, u16)> = Vec::new();
    for _ in 0..count {
        let (algorithm, length) = (inner.u16("an algorithm")?, inner.u16("an algorithm's length")?);
        if algorithms.iter().any(|(there, _)| *there == algorithm) {
            return Err(EventLogError::Twice(algorithm));
        }
        algorithms.push((algorithm, length));
    }
    let [vendors] = inner.array("the length of the vendor's information")?;
    inner.take(usize::from(vendors), "the vendor's information")?;
    match inner.bytes {
        [] if algorithms.contains(&(SHA384, 48)) => Ok(algorithms),
        [] => Err(EventLogError::NoSha384),
        _ => Err(EventLogError::Trailing(inner.at)),
    }
}

fn event<'a>(rest: &mut Rest<'a>, algorithms: &[(u16, u16)]) -> Result<Event<'a>, EventLogError> {
    let (register, kind) = (rest.u32("the register")?, rest.u32("the type")?);
    let rtmr = match register {
        1 => 0,
        2 => 1,
        3 => 2,
        4 => 3,
        register => return Err(EventLogError::Register { event: rest.event, register }),
    };
    let digest = digest(rest, algorithms)?;
    Ok(Event { rtmr, event_type: EventType(kind), digest, data: rest.data()? })
}

/// The digest by SHA-384, among one of each kind.
fn digest(rest: &mut Rest<'_>, algorithms: &[(u16, u16)]) -> Result<Digest, EventLogError> {
    let event = rest.event;
    let found = rest.u32("the number of digests")?;
    if usize::try_from(found) != Ok(algorithms.len()) {
        return Err(EventLogError::Digests { event, found, wanted: algorithms.len() });
    }
    let mut left = algorithms.to_vec();
    let mut digest = None;
    for _ in 0..found {
        let algorithm = rest.u16("a digest's kind")?;
        let place = left.iter().position(|(there, _)| *there == algorithm);
        let (_, length) =
            place.map(|at| left.swap_remove(at)).ok_or(EventLogError::Digest { event, found: algorithm })?;
        let bytes = rest.take(usize::from(length), "a digest")?;
        if algorithm == SHA384 {
            digest = bytes.try_into().ok();
        }
    }
    digest.ok_or(EventLogError::NoSha384)
}
