//! Evidence of a guest in software: a device asks whoever signs for it.
//!
//! Owns what is said over it. The guest writes the 64 bytes; the answer is JSON in a [`frame`]. Of an SNP guest: the report
//! in base64, the table of certificates, and what was launched if that is known; of a TDX guest: the quote, and its event
//! log if there is one. Which of both it is, its user has to know: the relying party wants to be told first. What comes of
//! it rests on a test's root, and is labelled so by everybody.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64ct::{Base64, Encoding};
use kbs_types::Tee;
use serde::Deserialize;

use super::{EvidenceSource, SourceError};
use crate::client::frame;
use crate::client::stream::{PATIENCE, Stream, Timed};
use crate::protocol::evidence::Evidence;

/// A device, or a stream that is one.
pub struct TestDevice {
    stream: Box<dyn Stream>,
    name: PathBuf,
    of: Technology,
    patience: Duration,
}

/// Whose evidence a device gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Technology {
    /// An SNP guest's.
    Snp,
    /// A TDX guest's.
    Tdx,
}

impl std::fmt::Debug for TestDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestDevice").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SnpAnswer {
    attestation_report: String,
    certificates: String,
    #[serde(default)]
    launch_log: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TdxAnswer {
    quote: String,
    #[serde(default)]
    cc_eventlog: Option<String>,
}

impl TestDevice {
    /// The device of this name.
    pub fn open(path: &Path, of: Technology) -> Result<Self, SourceError> {
        let stream = Timed::open(path).map_err(|source| SourceError::File { path: path.into(), source })?;
        Ok(Self::over(Box::new(stream), path, of))
    }

    /// One that is open already. It has [`PATIENCE`] for each answer.
    #[must_use]
    pub fn over(stream: Box<dyn Stream>, name: &Path, of: Technology) -> Self {
        Self { stream, name: name.into(), of, patience: PATIENCE }
    }

    fn exchange(&mut self, report_data: &[u8; 64]) -> io::Result<Evidence> {
        self.stream.ask_within(self.patience);
        self.stream.write_all(report_data)?;
        self.stream.flush()?;
        let answer = frame::read(&mut *self.stream)?;
        let decoded =
            |text: &str| Base64::decode_vec(text).map_err(|_| io::Error::other("the answer has what is not base64"));
        Ok(match self.of {
            Technology::Snp => {
                let SnpAnswer { attestation_report, certificates, launch_log } = serde_json::from_slice(&answer)?;
                Evidence::Snp {
                    report: decoded(&attestation_report)?,
                    certificates: Some(decoded(&certificates)?),
                    launch_log: launch_log.as_deref().map(decoded).transpose()?,
                }
            }
            Technology::Tdx => {
                let TdxAnswer { quote, cc_eventlog } = serde_json::from_slice(&answer)?;
                Evidence::Tdx { quote: decoded(&quote)?, event_log: cc_eventlog.as_deref().map(decoded).transpose()? }
            }
        })
    }
}

impl EvidenceSource for TestDevice {
    fn tee(&self) -> Tee {
        match self.of {
            Technology::Snp => Tee::Snp,
            Technology::Tdx => Tee::Tdx,
        }
    }

    fn evidence(&mut self, report_data: &[u8; 64]) -> Result<Evidence, SourceError> {
        self.exchange(report_data).map_err(|source| SourceError::File { path: self.name.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;
    use std::thread;

    fn answered(of: Technology, answer: Vec<u8>) -> Result<Evidence, SourceError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let device = thread::spawn(move || {
            let mut data = [0; 64];
            theirs.read_exact(&mut data).unwrap();
            assert_eq!(data, [9; 64]);
            theirs.write_all(&answer).unwrap();
        });
        let found = TestDevice::over(Box::new(Timed::new(ours).unwrap()), "device".as_ref(), of).evidence(&[9; 64]);
        device.join().unwrap();
        found
    }

    fn framed(text: &str) -> Vec<u8> {
        frame::framed(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_device_is_asked() {
        let found = answered(
            Technology::Snp,
            framed(r#"{"attestation_report":"AQI=","certificates":"Aw==","launch_log":"BA=="}"#),
        );
        let expected = Evidence::Snp { report: vec![1, 2], certificates: Some(vec![3]), launch_log: Some(vec![4]) };
        assert_eq!(found.unwrap(), expected);
        let found = answered(Technology::Tdx, framed(r#"{"quote":"AQI=","cc_eventlog":"BA=="}"#));
        assert_eq!(found.unwrap(), Evidence::Tdx { quote: vec![1, 2], event_log: Some(vec![4]) });
        let found = answered(Technology::Tdx, framed(r#"{"quote":"AQI="}"#));
        assert_eq!(found.unwrap(), Evidence::Tdx { quote: vec![1, 2], event_log: None });
    }

    /// no-silent-trust: a device says anything.
    #[test]
    fn no_silent_trust_devices() {
        for answer in [
            vec![],
            vec![1, 0],
            u32::MAX.to_le_bytes().to_vec(),
            framed("{}"),
            framed(r#"{"attestation_report":"A","certificates":""}"#),
            framed(r#"{"attestation_report":"","certificates":"","more":1}"#),
            framed(r#"{"quote":"A"}"#),
            framed(r#"{"quote":"","certificates":""}"#),
        ] {
            assert!([Technology::Snp, Technology::Tdx].into_iter().all(|of| answered(of, answer.clone()).is_err()));
        }
    }

    /// no-silent-trust: nor does it keep anybody waiting, and who waited learns for whom.
    #[test]
    fn no_silent_trust_silent_devices() {
        let (ours, _theirs) = UnixStream::pair().unwrap();
        let mut device = TestDevice::over(Box::new(Timed::new(ours).unwrap()), "/dev/it".as_ref(), Technology::Snp);
        device.patience = Duration::from_millis(200);
        let error = device.evidence(&[9; 64]).unwrap_err();
        assert_eq!(error.to_string(), "/dev/it: no whole answer within 200ms");
    }
}
