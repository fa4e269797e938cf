//! Where a guest's evidence comes from.
//!
//! Owns the sources: Linux's configfs ([`tsm`]) and, for guests of the software platform, a device that asks its root
//! ([`test_device`]), and what was launched, if the host tells ([`launch_log`]). What comes from there is not believed, only handed on.

pub mod launch_log;
pub mod sev_guest;
pub mod test_device;
pub mod tsm;

use std::io;
use std::path::PathBuf;

use kbs_types::Tee;

use super::port;
use crate::protocol::evidence::Evidence;
use test_device::{Technology, TestDevice};

/// Why a guest has no evidence.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// A file or device.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It gives evidence of something else.
    #[error("{path}: {what}")]
    Unknown {
        /// Which.
        path: PathBuf,
        /// What it gives.
        what: String,
    },
    /// The platform says no.
    #[error("{path}: the platform gives no report: {what}")]
    Platform {
        /// Which device.
        path: PathBuf,
        /// What it says.
        what: String,
    },
    /// Nothing gives any.
    #[error("this is not a guest that can give evidence: there is neither {tsm} nor {sev_guest}, nor a \
             channel {test}", test = port::TEST_EVIDENCE)]
    None {
        /// Where the kernel's interface would be.
        tsm: PathBuf,
        /// And the device.
        sev_guest: PathBuf,
    },
}

/// Gives evidence.
pub trait EvidenceSource {
    /// Of which technology it is.
    fn tee(&self) -> Tee;

    /// Evidence with these bytes in it.
    fn evidence(&mut self, report_data: &[u8; 64]) -> Result<Evidence, SourceError>;
}

/// What there is: Linux' interface for all technologies before the device of one, and whoever signs for guests in software
/// if there is no hardware that does.
pub fn of_this_guest() -> Result<Box<dyn EvidenceSource>, SourceError> {
    if std::path::Path::new(tsm::DIRECTORY).is_dir() {
        return Ok(Box::new(tsm::Tsm::open(tsm::DIRECTORY.as_ref())?));
    }
    if std::path::Path::new(sev_guest::DEVICE).exists() {
        return Ok(Box::new(sev_guest::SevGuest::open()?));
    }
    match port::named(port::TEST_EVIDENCE) {
        Some(device) => Ok(Box::new(TestDevice::open(&device, Technology::Snp)?)),
        None => Err(SourceError::None { tsm: tsm::DIRECTORY.into(), sev_guest: sev_guest::DEVICE.into() }),
    }
}
