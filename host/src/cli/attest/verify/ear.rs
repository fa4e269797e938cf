//! `tenure attest verify --ear`: what came of it, for others, as a signed token.
//!
//! Owns for whom and for how long it holds; what is claimed of evidence that passed is [`crate::evidence::trust`]'s. Nothing
//! is signed of evidence that did not: the exit code says that. Claims and forms are [`attest::ear`]'s.
//!
//! Law no-silent-trust: below a test's root nothing is claimed of hardware, and a result of before is never taken for
//! this one's, because none is written over.

use std::fmt::Debug;
use std::time::Duration;

use attest::UnixTime;
use attest::anchors::Root;
use attest::appraisal::{Appraisal, Verdict};
use attest::ear::{Ear, Subject, Submodule, TokenError, TokenSigner, TrustVector, Verifier};
use base64ct::{Base64UrlUnpadded, Encoding as _};
use clap::{Args, ValueEnum};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use snp::hex;

use crate::evidence::verdict::Said;
use crate::idblock::{IdBlockError, Source};
use crate::output::{Output, OutputError};

/// Longest that a result holds, if what it rests on does.
const LIFETIME: Duration = Duration::from_secs(3600);
/// More than any key.
const KEY_MOST: u64 = 1 << 16;

/// Where a result for others goes.
#[derive(Debug, Args)]
pub struct EarArgs {
    /// Writes a result for others as a signed token (EAR), if everything passed; a file must not be there yet; with - it
    /// is standard output, and the verdict goes to standard error
    #[arg(long, value_name = "FILE|-", requires_all = ["ear_key", "report_data"])]
    pub ear: Option<Output>,

    /// The private key that signs it, on P-384, in PEM; - is standard input
    #[arg(long, value_name = "FILE|-", requires = "ear")]
    pub ear_key: Option<Source>,

    /// Its form
    #[arg(long, value_enum, value_name = "FORM", default_value_t = EarFormat::Jwt, requires = "ear")]
    pub ear_format: EarFormat,
}

/// Forms of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EarFormat {
    /// JSON Web Token
    Jwt,
    /// CBOR Web Token
    Cwt,
}

/// Why there is no result for others.
#[derive(Debug, thiserror::Error)]
pub enum EarError {
    /// The key's file.
    #[error(transparent)]
    KeyFile(#[from] IdBlockError),
    /// The key.
    #[error("ear key {from}: {source}")]
    Key {
        /// Where it is.
        from: Source,
        /// Why it is none.
        source: TokenError,
    },
    /// It cannot be signed.
    #[error("ear: {0}")]
    Token(TokenError),
    /// It cannot be written.
    #[error("{}", .0.of("ear"))]
    Output(OutputError),
    /// Claims that are no JSON.
    #[error("ear: {0}")]
    Claims(serde_json::Error),
}

/// What is needed to sign a result.
pub(super) struct Signing<'a> {
    signer: TokenSigner,
    to: &'a Output,
    format: EarFormat,
    report_data: [u8; 64],
}

impl EarArgs {
    pub(super) fn sources(&self) -> impl Iterator<Item = (&'static str, &Source)> {
        self.ear_key.iter().map(|source| ("ear-key", source))
    }

    /// Whether standard output is the result's.
    pub(super) fn is_stdout(&self) -> bool {
        self.ear == Some(Output::Stdout)
    }

    /// Reads the key, before anything is judged.
    pub(super) fn signing(&self, report_data: Option<[u8; 64]>) -> Result<Option<Signing<'_>>, EarError> {
        let (Some(to), Some(from), Some(report_data)) = (&self.ear, &self.ear_key, report_data) else {
            return Ok(None);
        };
        to.is_new().map_err(EarError::Output)?;
        let pem = from.read("ear-key", KEY_MOST)?;
        let signer = TokenSigner::from_pem(&String::from_utf8_lossy(&pem));
        let signer = signer.map_err(|source| EarError::Key { from: from.clone(), source })?;
        Ok(Some(Signing { signer, to, format: self.ear_format, report_data }))
    }
}

/// What is claimed beside the verdict.
pub(super) struct Claimed {
    /// Of reports `snp`, of quotes `tdx`.
    pub(super) tee: &'static str,
    /// What the evidence is trusted in.
    pub(super) vector: TrustVector,
    /// Names policy and reference values.
    pub(super) policy: String,
}

impl Signing<'_> {
    /// Signs and writes what came of it, if everything passed.
    pub(super) fn write<A: Root>(
        &self,
        appraisal: &Appraisal<A>,
        claimed: Claimed,
        said: &Said,
        now: UnixTime,
    ) -> Result<(), EarError> {
        if appraisal.verdict() == Verdict::NotMet {
            return Ok(());
        }
        // What a log says is the guest's word, and long.
        let said = match said {
            Said::Report { report } => serde_json::to_value(report),
            Said::Quote { quote, .. } => serde_json::to_value(quote),
        };
        let claims = serde_json::json!({ "tee": claimed.tee, "claims": said.map_err(EarError::Claims)? });
        let subject = Subject {
            nonce: Base64UrlUnpadded::encode_string(&self.report_data),
            tee_pubkey: Value::Null,
            resources: Value::Null,
        };
        let verifier = Verifier { developer: "tenure".into(), build: env!("CARGO_PKG_VERSION").into() };
        let cpu = Submodule::new(appraisal.tier(), claimed.vector, &claimed.policy, claims);
        // It ends with the verdict at the latest, whose last moment is one on which it holds.
        let left = (appraisal.valid_until().as_secs() + 1).saturating_sub(now.as_secs());
        let ear = Ear::new(verifier, subject, cpu, now, LIFETIME.min(Duration::from_secs(left)));
        match self.format {
            EarFormat::Jwt => {
                let token = self.signer.sign(&ear).map_err(EarError::Token)?;
                self.to.write_text(&(token + "\n")).map_err(EarError::Output)
            }
            EarFormat::Cwt => {
                let token = self.signer.sign_cwt(&ear).map_err(EarError::Token)?;
                self.to.write_binary(&token).map_err(EarError::Output)
            }
        }
    }
}

/// Names what the verdict depends on but the day, roots and what makes the evidence fresh, field by field: whoever asks twice
/// and alike finds one name. Reference values are without their REPORT_DATA, therefore, which is the nonce.
pub(super) fn policy_id(policy: &impl Debug, references: &impl Debug) -> String {
    let mut hash = Sha256::new();
    for part in [format!("{policy:?}"), format!("{references:?}")] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    format!("tenure:sha256:{}", hex::text(&hash.finalize()))
}
