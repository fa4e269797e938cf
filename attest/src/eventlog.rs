//! Event logs: what a guest's firmware says it measured into RTMRs, one after the other.
//!
//! Owns reading the log that ACPI's CCEL table points to, what its digests come to ([`EventLog::replay`]), and whether
//! that is what a verified quote says ([`check()`]). A log by itself proves nothing: anybody can write one. With
//! RTMRs that are a quote's, its digests are what was measured; what it says of them beside is only true where a digest
//! is one of these very data, which is checked where it is defined so.
//!
//! Does not own which events there should be: whoever has expectations compares RTMRs.
//!
//! Specification: TCG PC Client Platform Firmware Profile, "Event Logging", crypto-agile form; UEFI, "Confidential
//! Computing", for which register is which.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use sha2::{Digest as _, Sha384};

use crate::check::{CheckId, Checks};
use crate::hex::Hex;
use crate::tdx::Endorsed;
use crate::verified::Verified;

mod event;
mod parse;

pub use event::{DataDigest, Event, EventType};
pub use parse::EventLogError;

/// A digest by SHA-384.
pub type Digest = [u8; 48];

const RTMRS: [CheckId; 4] = [
    CheckId::where_possible("log.rtmr0", "what the event log comes to in RTMR0"),
    CheckId::where_possible("log.rtmr1", "what the event log comes to in RTMR1"),
    CheckId::where_possible("log.rtmr2", "what the event log comes to in RTMR2"),
    CheckId::where_possible("log.rtmr3", "what the event log comes to in RTMR3"),
];
const FORM: CheckId = CheckId::where_possible("log.form", "the event log");
const DATA: CheckId =
    CheckId::where_possible("log.data", "the set of events whose digest must be of their own data, and is of other");

const ABOUT_TEXTS: &str = "of events whose digest need not be of their data, what the log says they are is the guest's \
    word: the digests were measured, the words were not";

/// A log, well-formed and not compared with anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventLog<'a>(Vec<Event<'a>>);

impl<'a> EventLog<'a> {
    /// Reads a log. It ends where its area does, or where nothing but 0xff or nothing but zeros follows.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, EventLogError> {
        parse::events(bytes).map(Self)
    }

    /// Its events, in their order.
    #[must_use]
    pub fn events(&self) -> &[Event<'a>] {
        &self.0
    }

    /// RTMR0 to RTMR3, if these events and no others were measured.
    #[must_use]
    pub fn replay(&self) -> [Digest; 4] {
        let mut rtmrs = [[0; 48]; 4];
        for event in self.0.iter().filter(|event| event.event_type != EventType::NO_ACTION) {
            if let Some(rtmr) = rtmrs.get_mut(usize::from(event.rtmr)) {
                *rtmr = Sha384::new().chain_update(*rtmr).chain_update(event.digest).finalize().into();
            }
        }
        rtmrs
    }
}

/// Whether a log is that of the guest with this quote, and says of its data what it measured. Without a log nothing is
/// compared, and that is said; something else in place of one is a failure.
#[must_use]
pub fn check(log: Option<Result<&EventLog<'_>, EventLogError>>, verified: &Verified<Endorsed<'_>>) -> Checks {
    let mut checks = Checks::default();
    let skip_all = |mut checks: Checks, why: &str| {
        RTMRS.into_iter().chain([DATA]).for_each(|id| checks.skip(id, why));
        checks
    };
    let log = match log {
        Some(Ok(log)) => log,
        Some(Err(error)) => {
            checks.require(FORM, false, "one", format!("malformed: {error}"));
            return skip_all(checks, "the event log cannot be read");
        }
        None => return skip_all(checks, "there is no event log"),
    };
    let replayed = log.replay();
    for ((id, found), rtmr) in RTMRS.into_iter().zip(&replayed).zip(verified.evidence().quote().rtmrs()) {
        checks.require(id, found == rtmr, format!("the quote's: {}", Hex(rtmr)), Hex(found));
    }
    let of = |digest: DataDigest| (1..).zip(&log.0).filter(move |(_, event)| event.data_digest() == digest);
    let wrong = of(DataDigest::Another);
    let names: Vec<String> = wrong.map(|(number, event)| format!("event {number} ({})", event.event_type)).collect();
    let found = if names.is_empty() { "empty".into() } else { names.join(", ") };
    checks.require(DATA, names.is_empty(), "empty", found);
    if of(DataDigest::Elsewhere).next().is_some() {
        checks.advise(ABOUT_TEXTS);
    }
    checks
}

#[cfg(test)]
mod tests;
