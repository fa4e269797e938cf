//! The log of a launch that comes with evidence, and what it explains: which item of a launch is not the expected one.
//!
//! Owns when a log is believed: its pages must come to the launch digest of a report that was verified. Then it is as
//! good as the report, as far as it was measured; nothing else it says counts. It changes no verdict: without a log a
//! wrong digest is as wrong, but nobody knows why.
//!
//! The log is what `tenure measure --trace --json` writes, of the launch that was carried out; it may come from whoever
//! is interested in telling another story.

use std::path::Path;

use crate::measure::diff::items;
use crate::measure::trace::{Source, Trace, TraceError};
use snp::digest::Digest;

/// Why a log explains nothing.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It is none.
    #[error(transparent)]
    Trace(#[from] TraceError),
    /// It is of another launch.
    #[error("the log comes to launch digest {log}, but the report's is {report}")]
    OfAnother {
        /// What its pages come to.
        log: Digest,
        /// What was signed.
        report: Digest,
    },
}

/// The expected launch in a file with a prediction, if that has its pages.
pub fn expected(path: &Path) -> Result<Option<Trace>, LogError> {
    let from = Source::named(path);
    // What is read a second time must be there a second time.
    if !path.is_file() {
        return Ok(None);
    }
    let bytes = from.read().map_err(LogError::Trace)?;
    let has_pages = serde_json::from_slice::<serde_json::Value>(&bytes).is_ok_and(|json| json.get("pages").is_some());
    has_pages.then(|| Trace::parse(&from, &bytes)).transpose().map_err(LogError::Trace)
}

/// What differs between a launch that has this log, and whose digest was signed, and the expected launch that is most
/// like it: items by name, none if there is no expected launch, or if nothing differs.
pub fn explain(log: &[u8], signed: Digest, expected: &[Trace]) -> Result<Vec<String>, LogError> {
    let log = Trace::parse(&Source::Evidence, log)?;
    let digest = log.launch_digest();
    if digest != signed {
        return Err(LogError::OfAnother { log: digest, report: signed });
    }
    Ok(expected.iter().map(|expected| items(expected, &log)).min_by_key(Vec::len).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::Details;
    use crate::measure::ours::{OurGuest, TestMode, sw};

    fn traced(cmdline: &str) -> Vec<u8> {
        let guest = OurGuest { cmdline: Some(cmdline.parse().unwrap()), ..OurGuest::default() };
        let mode = TestMode { tsc_khz: 1_000_000, guise: None };
        let details = Details { sha256: true, pages: true };
        serde_json::to_vec(&sw(guest, mode, &[crate::config::values::VcpuCount::ONE], details).unwrap()).unwrap()
    }

    fn trace(log: &[u8]) -> Trace {
        Trace::parse(&Source::Evidence, log).unwrap()
    }

    /// no-silent-trust: a log is believed if the report's digest follows from it, and says what differs in what was
    /// measured, whatever else stands in it.
    #[test]
    fn no_silent_trust_a_log_is_believed_if_it_was_signed() {
        let (expected, other) = (traced("quick"), traced("quack"));
        let signed = trace(&other).launch_digest();
        assert_eq!(explain(&other, signed, &[trace(&expected)]).unwrap(), ["command line"]);
        assert_eq!(explain(&other, signed, &[trace(&expected), trace(&other)]).unwrap(), [""; 0]);
        assert!(matches!(explain(&expected, signed, &[trace(&expected)]), Err(LogError::OfAnother { .. })));

        // Words beside what was measured: settings, pieces, labels.
        let told = String::from_utf8(other).unwrap();
        let lied = told.replace("\"memory_bytes\":536870912", "\"memory_bytes\":1").replace("command line", "kernel");
        let lied = lied.replace("page tables", "a kernel");
        assert_ne!(told, lied);
        assert_eq!(explain(lied.as_bytes(), signed, &[trace(&expected)]).unwrap(), ["command line"]);

        let error = explain(b"{}", signed, &[]).unwrap_err().to_string();
        assert!(error.starts_with("trace in the evidence: field pages: "), "{error}");
    }
}
