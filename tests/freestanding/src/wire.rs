//! How evidence comes to a program that can only read its standard input.
//!
//! Owns the form: parts, each after its length. Both sides are ours, so that a form that is none is a mistake of a test.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;

/// Parts, in the order in which they are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Part {
    /// An SNP report.
    Report,
    /// The certificate of the key that signed it, a VCEK's.
    Vcek,
    /// Who issued that.
    Ask,
    /// A list of AMD's.
    AmdCrl,
    /// A TDX quote.
    Quote,
    /// TCB info: its text, signature and chain follow each other, as the next two do.
    TcbInfo,
    /// Its signature.
    TcbInfoSignature,
    /// Its chain.
    TcbInfoChain,
    /// Identity of the quoting enclave.
    QeIdentity,
    /// Its signature.
    QeIdentitySignature,
    /// Its chain.
    QeIdentityChain,
    /// The root's list.
    RootCrl,
    /// The list of who issued the platform's certificate.
    PckCrl,
    /// The moment for the report, in RFC 3339.
    SnpNow,
    /// The moment for the quote.
    TdxNow,
}

/// How many there are.
pub const PARTS: usize = Part::TdxNow as usize + 1;

/// Parts as they are sent.
#[must_use]
pub fn pack(parts: &[Vec<u8>; PARTS]) -> Vec<u8> {
    let mut sent = Vec::new();
    for part in parts {
        sent.extend((part.len() as u64).to_le_bytes());
        sent.extend(part);
    }
    sent
}

/// Parts as they were sent.
#[must_use]
pub fn unpack(mut sent: &[u8]) -> Option<[&[u8]; PARTS]> {
    let mut parts = [&[][..]; PARTS];
    for part in &mut parts {
        let (length, rest) = sent.split_first_chunk()?;
        (*part, sent) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    }
    sent.is_empty().then_some(parts)
}
