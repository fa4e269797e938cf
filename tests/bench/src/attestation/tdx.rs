//! Quotes: from bytes and published statements to a verdict, ours against the crate `dcap-qvl`.

use anyhow::{Context, Result, anyhow, ensure};
use attest::UnixTime;
use attest::tdx::{Anchors, Collateral, Quote, SignedJson, verify};
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::config::Config;
use dcap_qvl::configs::{RingConfig, RustCryptoConfig};
use dcap_qvl::verify::QuoteVerifier;
use p256::ecdsa::signature::Verifier as _;
use serde_json::Value;

use crate::{ROUNDS, contender, goal, race, vector};

/// 2025-06-25: what is published about platforms ends after a month.
const NOW: UnixTime = UnixTime::from_secs(1_750_809_600);
/// Of the quote, its QE, the platform's and its issuer's certificates, two lists, and two statements, each with its
/// signer's certificate, which is the same for both.
const SIGNATURES: usize = 9;

pub(crate) fn compare() -> Result<()> {
    let quote = vector("tdx/attest/real/v4-uptodate-phala.quote")?;
    let collateral = read()?;
    let (whole, known) = (Anchors::intel(), Anchors::intel().with_known_intermediates());
    let same = QuoteVerifier::new_prod().with_config::<RustCryptoConfig>();
    let ring = QuoteVerifier::new_prod().with_config::<RingConfig>();
    let signature = Signature::of(&quote)?;
    let contenders = [
        contender("signatures alone, 9 by the crate p256", || signature.check(SIGNATURES)),
        contender("tenure over AWS-LC, whole chain and all checks", || ours(&quote, &collateral, &whole)),
        contender("tenure over AWS-LC, CA and signer pinned as constants", || ours(&quote, &collateral, &known)),
        contender("dcap-qvl 0.7.1 over p256, without its policy", || theirs(&quote, &collateral, &same)),
        contender("dcap-qvl 0.7.1 over ring, as it comes, likewise", || theirs(&quote, &collateral, &ring)),
    ];
    let title = "TDX quote of a real platform and what Intel publishes about that, parsed and verified";
    let times = race(title, ROUNDS, &contenders)?;
    let [_, whole, known, same, ring] = times[..] else { return Err(anyhow!("a contender is missing")) };
    goal("whole chain, dcap-qvl over p256", whole.against(same), 1.0);
    goal("CA and signer pinned, dcap-qvl over p256", known.against(same), 1.0);
    goal("whole chain, dcap-qvl over ring", whole.against(ring), 1.0);
    goal("CA and signer pinned, dcap-qvl over ring", known.against(ring), 1.0);
    Ok(())
}

fn ours(quote: &[u8], collateral: &QuoteCollateralV3, anchors: &Anchors) -> Result<()> {
    let QuoteCollateralV3 { tcb_info, tcb_info_signature, tcb_info_issuer_chain, .. } = collateral;
    let QuoteCollateralV3 { qe_identity, qe_identity_signature, qe_identity_issuer_chain, .. } = collateral;
    let collateral = Collateral {
        tcb_info: signed(tcb_info, tcb_info_signature, tcb_info_issuer_chain),
        qe_identity: signed(qe_identity, qe_identity_signature, qe_identity_issuer_chain),
        root_crl: Some(&collateral.root_ca_crl),
        pck_crl: Some(&collateral.pck_crl),
    };
    let verified = verify(quote, &collateral, anchors, NOW).map_err(|rejected| anyhow!("{rejected}"))?;
    ensure!(verified.anchor().is_hardware());
    Ok(())
}

fn theirs<C: Config>(quote: &[u8], collateral: &QuoteCollateralV3, verifier: &QuoteVerifier<C>) -> Result<()> {
    let report = verifier.verify(quote, collateral, NOW.as_secs()).map_err(|error| anyhow!("{error:#}"))?;
    ensure!(report.status == "UpToDate");
    Ok(())
}

fn signed<'a>(text: &'a str, signature: &'a [u8], chain: &'a str) -> Option<SignedJson<'a>> {
    Some(SignedJson { text: text.as_bytes(), signature, chain: chain.as_bytes() })
}

/// The statements, decoded: that is nobody's work.
fn read() -> Result<QuoteCollateralV3> {
    let file: Value = serde_json::from_slice(&vector("tdx/attest/real/v4-uptodate-phala.collateral.json")?)?;
    let text = |key: &str| Ok::<_, anyhow::Error>(file[key].as_str().with_context(|| key.to_owned())?.to_owned());
    let bytes = |key: &str| {
        let digits: Vec<_> = text(key)?.chars().filter_map(|digit| digit.to_digit(16)).collect();
        let pairs = digits.chunks_exact(2).map(|pair| u8::try_from(pair[0] << 4 | pair[1]));
        Ok::<Vec<u8>, anyhow::Error>(pairs.collect::<Result<_, _>>()?)
    };
    Ok(QuoteCollateralV3 {
        pck_crl_issuer_chain: text("pck_crl_issuer_chain")?,
        root_ca_crl: bytes("root_ca_crl")?,
        pck_crl: bytes("pck_crl")?,
        tcb_info_issuer_chain: text("tcb_info_issuer_chain")?,
        tcb_info: text("tcb_info")?,
        tcb_info_signature: bytes("tcb_info_signature")?,
        qe_identity_issuer_chain: text("qe_identity_issuer_chain")?,
        qe_identity: text("qe_identity")?,
        qe_identity_signature: bytes("qe_identity_signature")?,
        pck_certificate_chain: None,
    })
}

/// A signature on P-256, with everything else done before.
struct Signature {
    key: p256::ecdsa::VerifyingKey,
    signed: Vec<u8>,
    signature: p256::ecdsa::Signature,
}

impl Signature {
    fn of(quote: &[u8]) -> Result<Self> {
        let quote = Quote::parse(quote)?;
        let point = [&[4][..], quote.attestation_key()].concat();
        Ok(Self {
            key: p256::ecdsa::VerifyingKey::from_sec1_bytes(&point)?,
            signed: quote.signed_bytes().to_vec(),
            signature: p256::ecdsa::Signature::from_slice(quote.signature())?,
        })
    }

    fn check(&self, times: usize) -> Result<()> {
        for _ in 0..times {
            self.key.verify(&self.signed, &self.signature)?;
        }
        Ok(())
    }
}
