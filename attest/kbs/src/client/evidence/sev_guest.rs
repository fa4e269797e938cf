//! Reports from `/dev/sev-guest`, on kernels without configfs-tsm.
//!
//! Owns nothing but the question: what is said to the device is the crate `sev`'s.
//!
//! Specification: Linux, Documentation/virt/coco/sev-guest.rst.

use std::path::PathBuf;

use kbs_types::Tee;
use sev::firmware::guest::Firmware;
use sev::firmware::host::CertType;

use super::{EvidenceSource, SourceError};
use crate::protocol::evidence::{Endorsing, Evidence, table};

/// The device.
pub const DEVICE: &str = "/dev/sev-guest";

/// Reports from there.
#[derive(Debug)]
pub struct SevGuest(Firmware);

impl SevGuest {
    /// Opens the device.
    pub fn open() -> Result<Self, SourceError> {
        Firmware::open().map(Self).map_err(|source| SourceError::File { path: DEVICE.into(), source })
    }
}

impl EvidenceSource for SevGuest {
    fn tee(&self) -> Tee {
        Tee::Snp
    }

    fn evidence(&mut self, report_data: &[u8; 64]) -> Result<Evidence, SourceError> {
        let platform = |what: String| SourceError::Platform { path: PathBuf::from(DEVICE), what };
        let (report, certificates) =
            self.0.get_ext_report(None, Some(*report_data), Some(0)).map_err(|error| platform(error.to_string()))?;
        let certificates = certificates.map(|list| {
            let known = list.iter().filter_map(|it| Some((endorsing(&it.cert_type)?, it.data.as_slice())));
            table(&known.collect::<Vec<_>>())
        });
        let certificates = certificates.transpose().map_err(|error| platform(error.to_string()))?;
        Ok(Evidence::Snp { report, certificates, launch_log: None })
    }
}

const fn endorsing(kind: &CertType) -> Option<Endorsing> {
    Some(match kind {
        CertType::ARK => Endorsing::Ark,
        CertType::ASK => Endorsing::Ask,
        CertType::VCEK => Endorsing::Vcek,
        CertType::VLEK => Endorsing::Vlek,
        CertType::CRL => Endorsing::Crl,
        CertType::Empty | CertType::OTHER(_) => return None,
    })
}
