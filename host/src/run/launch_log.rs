//! What a guest is told of its own launch, for its relying party: channel [`LAUNCH_LOG`].
//!
//! Owns the log and who hands it out: a program in the guest opens the channel and reads it in a
//! [`frame`], as often as it likes. The log is what `tenure measure` predicts of the very launch that
//! is carried out, page by page. It is no secret, and nobody's word: who gets it compares with the digest that was
//! signed.

use std::io::{self, Write as _};

use attest_kbs::client::frame;
use attest_kbs::client::port::LAUNCH_LOG;

use super::ChannelServer;
use super::snp::SnpGuest;
use crate::config::RunConfig;
use crate::devices::virtio::channels::Session;
use crate::measure::{MeasureError, Prediction, ours};

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum LaunchLogError {
    /// Nothing could be measured.
    #[error("trace the launch: {0}")]
    Trace(#[from] Box<MeasureError>),
    /// It cannot be told.
    #[error("write the trace: {0}")]
    Write(#[from] serde_json::Error),
}

/// As it is written.
pub(super) fn written(launched: Result<Prediction, MeasureError>) -> Result<Vec<u8>, LaunchLogError> {
    Ok(serde_json::to_vec(&launched.map_err(Box::new)?)?)
}

/// Who tells an SNP guest of its launch.
pub(super) fn server(config: &RunConfig, guest: &SnpGuest) -> Result<ChannelServer, LaunchLogError> {
    let log = written(ours::of_snp(config, &guest.launch, guest.digest))?;
    let serve = move |session: &Session| {
        if let Err(error) = tell(session, &log) {
            tracing::debug!(%error, "a guest could not be told of its launch");
        }
    };
    Ok(ChannelServer { channel: LAUNCH_LOG, serve: Box::new(serve) })
}

fn tell(mut session: &Session, log: &[u8]) -> io::Result<()> {
    session.write_all(&frame::framed(log)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::inputs::Inputs;
    use crate::config::{Settings, Tee};
    use crate::firmware;
    use crate::measure::trace::{Source, Trace};
    use crate::run::Firmware;
    use crate::run::snp::Image;

    /// one-launch: what a guest is told comes to the digest that it has.
    #[test]
    fn one_launch_a_guest_is_told_what_it_was_launched_as() {
        let config = Settings { tee: Some(Tee::Snp), ..Settings::default() }.resolve().unwrap().run;
        let image = Image::new(&config, Firmware::Ours(firmware::image().unwrap()), None).unwrap();
        let guest = SnpGuest::new(&config, &Inputs::default(), &image, 48).unwrap();
        let mut server = server(&config, &guest).unwrap();
        assert_eq!(server.channel, "tenure.launch-log");
        for _ in 0..2 {
            let (session, mut reads, _) = Session::without_device();
            (server.serve)(&session);
            drop(session);
            let log = frame::read(&mut reads).unwrap();
            assert_eq!(reads.receive(&mut [0]), 0, "nothing comes after it");
            assert_eq!(Trace::parse(&Source::Evidence, &log).unwrap().launch_digest(), guest.digest);
        }
    }
}
