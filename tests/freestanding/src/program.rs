//! What the program does: a real report and a real quote are verified, below the vendors' own roots.

use alloc::format;
use alloc::string::{String, ToString as _};
use alloc::vec;

use attest::UnixTime;
use attest::snp::{self, Endorsements, Policy, ReferenceValues};
use attest::tdx::{self, Collateral, SignedJson};
use tenure_freestanding::{Part, unpack};

/// What came of it.
pub(crate) fn verify(sent: &[u8]) -> Result<String, String> {
    let parts = unpack(sent).ok_or("the input has another form")?;
    let part = |which: Part| parts[which as usize];
    let now = |which| {
        let text = core::str::from_utf8(part(which)).unwrap_or_default();
        text.parse::<UnixTime>().map_err(|error| error.to_string())
    };

    let endorsements = Endorsements {
        vcek: Some(part(Part::Vcek)),
        intermediate: Some(part(Part::Ask)),
        crl: Some(part(Part::AmdCrl)),
        ..Endorsements::default()
    };
    let verified = snp::verify(part(Part::Report), &endorsements, &snp::Anchors::amd(), now(Part::SnpNow)?);
    let verified = verified.map_err(|rejected| rejected.to_string())?;
    let references =
        ReferenceValues { launch_digests: vec![*verified.evidence().measurement()], ..ReferenceValues::default() };
    let appraisal = snp::appraise(&verified, &Policy::default(), &references);

    let statement =
        |text, signature, chain| Some(SignedJson { text: part(text), signature: part(signature), chain: part(chain) });
    let collateral = Collateral {
        tcb_info: statement(Part::TcbInfo, Part::TcbInfoSignature, Part::TcbInfoChain),
        qe_identity: statement(Part::QeIdentity, Part::QeIdentitySignature, Part::QeIdentityChain),
        root_crl: Some(part(Part::RootCrl)),
        pck_crl: Some(part(Part::PckCrl)),
    };
    let quote = tdx::verify(part(Part::Quote), &collateral, &tdx::Anchors::intel(), now(Part::TdxNow)?);
    let quote = quote.map_err(|rejected| rejected.to_string())?;
    Ok(format!(
        "{}: {:?}\n{}: {}\n",
        verified.anchor(),
        appraisal.verdict(),
        quote.anchor(),
        quote.evidence().platform().status,
    ))
}
