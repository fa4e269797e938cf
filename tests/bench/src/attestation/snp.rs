//! Reports: from bytes to a verdict, ours against the crate `sev`.

use anyhow::{Context, Result, anyhow, ensure};
use attest::UnixTime;
use attest::snp::{Anchors, Endorsements, verify};
use p384::ecdsa::signature::Verifier as _;
use rsa::pkcs8::DecodePublicKey as _;
use rsa::{Pss, RsaPublicKey};
use sev::certs::snp::{Certificate, Chain, Verifiable, builtin, ca};
use sev::firmware::guest::AttestationReport;
use sev::parser::ByteParser;
use sha2::{Digest as _, Sha384};
use x509_cert::der::{Decode as _, Encode as _};

use crate::{ROUNDS, contender, goal, race, vector};

/// 2026-06-01.
const NOW: UnixTime = UnixTime::from_secs(1_780_272_000);
const SIGNED: usize = 0x2a0;

struct Files {
    report: Vec<u8>,
    vek: Vec<u8>,
    ask: Vec<u8>,
}

pub(crate) fn compare() -> Result<()> {
    for (product, report, ark) in [
        ("Milan", "milan-v3-ms", builtin::milan::ark as fn() -> std::io::Result<Certificate>),
        ("Genoa", "genoa-v3-ms", builtin::genoa::ark),
        ("Turin", "turin-v5-ms", builtin::turin::ark),
    ] {
        let files = Files {
            report: vector(&format!("snp/attest/real/{report}.report"))?,
            vek: vector(&format!("snp/attest/real/{report}.vek.der"))?,
            ask: vector(&format!("snp/attest/amd/ask-{}.der", product.to_lowercase()))?,
        };
        of(product, &files, ark)?;
    }
    Ok(())
}

fn of(product: &str, files: &Files, ark: fn() -> std::io::Result<Certificate>) -> Result<()> {
    let (whole, known) = (Anchors::amd(), Anchors::amd().with_known_intermediates());
    let signatures = Signatures::of(files, ark)?;
    let contenders = [
        contender("signatures alone, by the crates rsa and p384", || signatures.check(2)),
        contender("tenure, whole chain and all checks", || ours(files, &whole)),
        contender("tenure, ASK pinned as a constant, all checks", || ours(files, &known)),
        contender("sev 8.0.0, the same three signatures", || theirs(files, ark, Sev::SameSignatures)),
        contender("sev 8.0.0 as documented: also the root's of itself", || theirs(files, ark, Sev::AsDocumented)),
    ];
    let title = format!("SNP report of a real {product}, its VCEK's certificate and the ASK's, parsed and verified");
    let times = race(&title, ROUNDS, &contenders)?;
    let [_, whole, known, same, documented] = times[..] else { return Err(anyhow!("a contender is missing")) };
    goal("whole chain, the same signatures as sev", whole.against(same), 1.0);
    goal("whole chain, sev as documented", whole.against(documented), 1.0);
    goal("ASK pinned, sev as documented", known.against(documented), 2.0);
    goal("ASK pinned, sev's same signatures", known.against(same), 2.0);
    Ok(())
}

fn ours(files: &Files, anchors: &Anchors) -> Result<()> {
    let endorsements =
        Endorsements { vcek: Some(&files.vek), intermediate: Some(&files.ask), ..Endorsements::default() };
    let verified = verify(&files.report, &endorsements, anchors, NOW).map_err(|rejected| anyhow!("{rejected}"))?;
    ensure!(verified.anchor().is_hardware());
    Ok(())
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sev {
    SameSignatures,
    AsDocumented,
}

fn theirs(files: &Files, ark: fn() -> std::io::Result<Certificate>, how: Sev) -> Result<()> {
    let report = AttestationReport::from_bytes(&files.report[..])?;
    let (vek, ask) = (Certificate::from_der(&files.vek)?, Certificate::from_der(&files.ask)?);
    let ark = ark()?;
    if how == Sev::AsDocumented {
        let chain = Chain { ca: ca::Chain { ark, ask }, vek };
        return Ok((&chain, &report).verify()?);
    }
    (&ark, &ask).verify()?;
    (&ask, &vek).verify()?;
    (&vek, &report).verify()?;
    Ok(())
}

/// What has to be computed, with everything else done before.
struct Signatures {
    authority: (RsaPublicKey, Vec<u8>, Vec<u8>),
    key: p384::ecdsa::VerifyingKey,
    signed: Vec<u8>,
    signature: p384::ecdsa::Signature,
}

impl Signatures {
    fn of(files: &Files, ark: fn() -> std::io::Result<Certificate>) -> Result<Self> {
        let certificate = |der: &[u8]| x509_cert::Certificate::from_der(der);
        let root = certificate(&ark()?.to_der()?)?;
        let (ask, vek) = (certificate(&files.ask)?, certificate(&files.vek)?);
        let spki = root.tbs_certificate().subject_public_key_info().to_der()?;
        let key = vek.tbs_certificate().subject_public_key_info().subject_public_key.as_bytes().context("a key")?;
        let signature = ask.signature().as_bytes().context("a signature")?.to_vec();
        let number = |at: usize| -> Result<[u8; 48]> {
            let mut bytes: [u8; 48] = files.report.get(at..at + 48).context("a report")?.try_into()?;
            bytes.reverse();
            Ok(bytes)
        };
        Ok(Self {
            authority: (RsaPublicKey::from_public_key_der(&spki)?, ask.tbs_certificate().to_der()?, signature),
            key: p384::ecdsa::VerifyingKey::from_sec1_bytes(key)?,
            signed: files.report[..SIGNED].to_vec(),
            signature: p384::ecdsa::Signature::from_scalars(number(SIGNED)?, number(SIGNED + 72)?)?,
        })
    }

    /// One certificate's signature so many times, and the report's.
    fn check(&self, certificates: usize) -> Result<()> {
        let (key, signed, signature) = &self.authority;
        for _ in 0..certificates {
            key.verify(Pss::new_with_salt::<rsa::sha2::Sha384>(48), &Sha384::digest(signed), signature)?;
        }
        Ok(self.key.verify(&self.signed, &self.signature)?)
    }
}
