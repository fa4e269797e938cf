//! What stands before a message, in plain but authenticated.
//!
//! Specification: 56860, SNP_GUEST_REQUEST, "message header".

use crate::bytes::{all_zero, put, take, take_u16, take_u64};
use crate::units::{PAGE_BYTES, Page};

/// Bytes of a header.
pub const HEADER_BYTES: usize = 0x60;
/// Bytes a message can have.
pub const MAX_PAYLOAD: usize = PAGE_BYTES - HEADER_BYTES;
/// Where the authenticated part begins; it ends with the header.
pub const AUTHENTICATED: usize = 0x30;
/// AES-256-GCM.
const ALGORITHM: u8 = 1;
const VERSION: u8 = 1;

/// What a message is (MSG_TYPE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the specification's")]
pub enum MessageKind {
    CpuidRequest,
    CpuidResponse,
    KeyRequest,
    KeyResponse,
    ReportRequest,
    ReportResponse,
}

/// A header's fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Authentication tag.
    pub tag: [u8; 16],
    /// The message's number under its key.
    pub sequence: u64,
    /// MSG_TYPE. Not every number is a kind of message.
    pub kind: u8,
    /// MSG_VERSION.
    pub version: u8,
    /// Bytes of the message.
    pub size: u16,
    /// Which of the four keys.
    pub vmpck: u8,
}

impl MessageKind {
    const ALL: [MessageKind; 6] = [
        MessageKind::CpuidRequest,
        MessageKind::CpuidResponse,
        MessageKind::KeyRequest,
        MessageKind::KeyResponse,
        MessageKind::ReportRequest,
        MessageKind::ReportResponse,
    ];

    /// Its number.
    pub fn number(self) -> u8 {
        match self {
            MessageKind::CpuidRequest => 1,
            MessageKind::CpuidResponse => 2,
            MessageKind::KeyRequest => 3,
            MessageKind::KeyResponse => 4,
            MessageKind::ReportRequest => 5,
            MessageKind::ReportResponse => 6,
        }
    }

    /// The kind of this number.
    pub fn from_number(number: u8) -> Option<MessageKind> {
        MessageKind::ALL.into_iter().find(|kind| kind.number() == number)
    }
}

impl Header {
    /// From a page; nothing if a field has no value that it can have.
    pub fn read(page: &Page) -> Option<Header> {
        let fixed = page[0x30] == ALGORITHM && page[0x31] == VERSION && take_u16(page, 0x32) == 0x60;
        let reserved = [&page[0x10..0x20], &page[0x28..0x30], &page[0x38..0x3c], &page[0x3d..0x60]];
        let header = Header {
            tag: take(page, 0),
            sequence: take_u64(page, 0x20),
            kind: page[0x34],
            version: page[0x35],
            size: take_u16(page, 0x36),
            vmpck: page[0x3c],
        };
        let fits = header.length() <= MAX_PAYLOAD && header.vmpck < 4;
        (fixed && fits && reserved.into_iter().all(all_zero)).then_some(header)
    }

    /// Into a page.
    pub fn write(&self, page: &mut Page) {
        page[..HEADER_BYTES].fill(0);
        put(page, 0x00, &self.tag);
        put(page, 0x20, &self.sequence.to_le_bytes());
        put(page, 0x30, &[ALGORITHM, VERSION, 0x60, 0, self.kind, self.version]);
        put(page, 0x36, &self.size.to_le_bytes());
        put(page, 0x3c, &[self.vmpck]);
    }

    /// Bytes of the message.
    pub fn length(&self) -> usize {
        usize::from(self.size)
    }

    /// The initialisation vector: the number, and zeros.
    pub fn iv(&self) -> [u8; 12] {
        let mut iv = [0; 12];
        put(&mut iv, 0, &self.sequence.to_le_bytes());
        iv
    }
}
