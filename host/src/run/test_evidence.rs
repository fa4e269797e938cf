//! Evidence of a guest in test mode, signed by a test's root while it runs.
//!
//! Owns what is signed, which is that this launch is carried out ([`super::measured`]) and what the guest wants to have
//! beside it, and the answers on channel [`TEST_EVIDENCE`]: a program in the guest writes the 64 bytes of REPORT_DATA and reads
//! JSON ([`Evidence::to_json`]) in a [`frame`], as often as it likes. Does not own the
//! signing: that is [`test_root`]'s. Nobody vouches for any of it (law *no-silent-trust*): a relying party has to be told
//! to accept this root, and says so in all it says.

use std::io::{self, Read as _, Write as _};
use std::sync::{Arc, OnceLock};

use attest_kbs::client::frame;
use attest_kbs::client::port::TEST_EVIDENCE;
use attest_kbs::protocol::evidence::Evidence;
use gmem::launch::{Launch, Unsigned};
use test_root::{Statement, TestRoot};

use super::launch_log::{self, LaunchLogError};
use super::{ChannelServer, measured};
use crate::config::RunConfig;
use crate::devices::virtio::channels::Session;
use crate::measure::ours;

/// Bytes of a request.
const REPORT_DATA_BYTES: usize = 64;

/// What is signed of a guest whenever it asks, once it is launched.
#[derive(Debug)]
pub(super) struct TestEvidence {
    root: Arc<TestRoot>,
    launched: OnceLock<Launched>,
}

/// A launch that was planned, and is carried out.
#[derive(Debug)]
struct Launched {
    measurement: [u8; 48],
    /// Page by page: a relying party that wanted another one finds in it what differs.
    log: Vec<u8>,
}

/// Why there is no such evidence.
#[derive(Debug, thiserror::Error)]
pub(super) enum TestEvidenceError {
    #[error("measure the launch: {0}")]
    Measure(#[from] ::snp::measure::MeasureError),
    #[error(transparent)]
    Log(#[from] LaunchLogError),
}

impl TestEvidence {
    /// Below this root.
    pub(super) fn below(root: Arc<TestRoot>) -> Arc<Self> {
        Arc::new(Self { root, launched: OnceLock::new() })
    }

    /// That this is what is launched. Returns what is signed as its launch digest, in hexadecimal.
    pub(super) fn launching(
        &self,
        config: &RunConfig,
        launch: &Launch<Unsigned>,
        tsc_khz: u32,
    ) -> Result<String, TestEvidenceError> {
        let digest = measured::traced(launch, |_| {})?;
        let log = launch_log::written(ours::of_sw(config, launch, digest, tsc_khz))?;
        // A guest in test mode is launched once.
        let _ = self.launched.set(Launched { measurement: digest.0, log });
        Ok(digest.to_string())
    }

    /// Who answers the guest.
    pub(super) fn server(self: &Arc<Self>) -> ChannelServer {
        let evidence = Arc::clone(self);
        let serve = move |session: &Session| {
            if let Err(error) = evidence.serve(session) {
                tracing::debug!(%error, "a guest's request for evidence came to nothing");
            }
        };
        ChannelServer { channel: TEST_EVIDENCE, serve: Box::new(serve) }
    }

    fn serve(&self, mut session: &Session) -> io::Result<()> {
        let mut report_data = [0; REPORT_DATA_BYTES];
        loop {
            match session.read_exact(&mut report_data) {
                // It closed the channel; half a request is none.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                read => read?,
            }
            // Who can ask was launched.
            let Some(launched) = self.launched.get() else { return Ok(()) };
            session.write_all(&self.answer(launched, report_data)?)?;
        }
    }

    fn answer(&self, launched: &Launched, report_data: [u8; REPORT_DATA_BYTES]) -> io::Result<Vec<u8>> {
        let report = self.root.sign(&Statement { report_data, ..Statement::new(launched.measurement) });
        let evidence = Evidence::Snp {
            report,
            certificates: Some(self.root.certificates().to_vec()),
            launch_log: Some(launched.log.clone()),
        };
        frame::framed(&serde_json::to_vec(&evidence.to_json())?)
    }
}
