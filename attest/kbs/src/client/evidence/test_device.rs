//! Evidence of a guest in software: a device asks whoever signs for it.
//!
//! Owns what is said over it. The guest writes the 64 bytes; the answer is JSON in a [`frame`]: the report in base64, the table of certificates, and what was launched if that is known. What comes of it
//! rests on a test's root, and is labelled so by everybody.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use base64ct::{Base64, Encoding};
use kbs_types::Tee;
use serde::Deserialize;

use super::{EvidenceSource, SourceError};
use crate::client::frame;
use crate::client::tls::Stream;
use crate::protocol::evidence::Evidence;

/// A device, or a stream that is one.
pub struct TestDevice {
    stream: Box<dyn Stream>,
    name: PathBuf,
}

impl std::fmt::Debug for TestDevice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestDevice").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    attestation_report: String,
    certificates: String,
    #[serde(default)]
    launch_log: Option<String>,
}

impl TestDevice {
    /// The device of this name.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let opened = OpenOptions::new().read(true).write(true).open(path);
        let stream = opened.map_err(|source| SourceError::File { path: path.into(), source })?;
        Ok(Self::over(Box::new(stream), path))
    }

    /// One that is open already.
    #[must_use]
    pub fn over(stream: Box<dyn Stream>, name: &Path) -> Self {
        Self { stream, name: name.into() }
    }

    fn exchange(&mut self, report_data: &[u8; 64]) -> io::Result<Evidence> {
        self.stream.write_all(report_data)?;
        self.stream.flush()?;
        let answer: Answer = serde_json::from_slice(&frame::read(&mut *self.stream)?)?;
        let decoded =
            |text: &str| Base64::decode_vec(text).map_err(|_| io::Error::other("the answer has what is not base64"));
        Ok(Evidence::Snp {
            report: decoded(&answer.attestation_report)?,
            certificates: Some(decoded(&answer.certificates)?),
            launch_log: answer.launch_log.as_deref().map(decoded).transpose()?,
        })
    }
}

impl EvidenceSource for TestDevice {
    fn tee(&self) -> Tee {
        Tee::Snp
    }

    fn evidence(&mut self, report_data: &[u8; 64]) -> Result<Evidence, SourceError> {
        self.exchange(report_data).map_err(|source| SourceError::File { path: self.name.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::os::unix::net::UnixStream;
    use std::thread;

    fn answered(answer: Vec<u8>) -> Result<Evidence, SourceError> {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let device = thread::spawn(move || {
            let mut data = [0; 64];
            theirs.read_exact(&mut data).unwrap();
            assert_eq!(data, [9; 64]);
            theirs.write_all(&answer).unwrap();
        });
        let found = TestDevice::over(Box::new(ours), "device".as_ref()).evidence(&[9; 64]);
        device.join().unwrap();
        found
    }

    fn framed(text: &str) -> Vec<u8> {
        frame::framed(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_device_is_asked() {
        let found = answered(framed(r#"{"attestation_report":"AQI=","certificates":"Aw==","launch_log":"BA=="}"#));
        let expected = Evidence::Snp { report: vec![1, 2], certificates: Some(vec![3]), launch_log: Some(vec![4]) };
        assert_eq!(found.unwrap(), expected);
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
        ] {
            assert!(answered(answer).is_err());
        }
    }
}
