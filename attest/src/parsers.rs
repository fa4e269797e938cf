//! Parsers that nothing outside needs by themselves: for fuzzing, which goes further without signatures in the way.
//!
//! Owns calling each with everything that follows from what it read. Only with the feature `parsers`, which nothing but
//! `tests/fuzz` asks for; it is no part of the interface.

use alloc::string::{String, ToString as _};

use crate::UnixTime;
use crate::ear::{self, Ear};
use crate::pem;
use crate::snp::vek;
use crate::tdx::collateral::{QeIdentity, TcbInfo};
use crate::tdx::pck::Pck;
use crate::tdx::tcb;
use crate::x509::Certificate;
use crate::x509::crl::Crl;

/// Whether it is a certificate, after everything that is ever asked of one but its signature was.
#[must_use]
pub fn certificate(der: &[u8]) -> bool {
    let Ok(certificate) = Certificate::parse(der) else { return false };
    let _ = (certificate.subject().to_string(), certificate.issuer().to_string(), certificate.serial().to_string());
    let _ = (certificate.common_name(), certificate.validity(), certificate.authority());
    let _ = (certificate.p256_key(), certificate.p384_key(), certificate.rsa_key());
    let _ = Pck::of(&certificate);
    vek::read_all(&certificate);
    true
}

/// Whether it is a list of revoked certificates, after it was asked for one.
#[must_use]
pub fn revocation_list(der: &[u8], certificate: &[u8]) -> bool {
    let Ok(list) = Crl::parse(der) else { return false };
    let _ = (list.to_string(), list.issuer().to_string(), list.validity());
    let _ = Certificate::parse(certificate).map(|certificate| list.has(&certificate));
    true
}

/// How many bytes of certificates there are in a chain of three, or of two.
#[must_use]
pub fn pem_chain(text: &[u8]) -> Option<usize> {
    let three = pem::chain::<3>(text).map(|chain| chain.iter().map(alloc::vec::Vec::len).sum());
    let two = pem::chain::<2>(text).map(|chain| chain.iter().map(alloc::vec::Vec::len).sum());
    three.or(two).ok()
}

/// Whether these are the contents of a platform's extension.
#[must_use]
pub fn pck_extension(contents: &[u8]) -> bool {
    Pck::read(contents).is_ok()
}

/// Whether it is an identity of a quoting enclave, after its levels were looked at.
#[must_use]
pub fn qe_identity(text: &[u8]) -> bool {
    let Ok(identity) = QeIdentity::parse(text) else { return false };
    for svn in [0, 1, u16::MAX] {
        let _ = tcb::qe_level(&identity, svn);
    }
    true
}

/// The result in these claims of a token, as if they were signed: with what holds of all that are read.
#[must_use]
pub fn ear_claims(claims: &[u8], now: UnixTime) -> Option<Ear> {
    let ear: Ear = serde_json::from_slice(claims).ok()?;
    ear.check(now).ok().map(|()| ear)
}

/// The same of claims in CBOR.
#[must_use]
pub fn cwt_claims(claims: &[u8], now: UnixTime) -> Option<Ear> {
    ear::cwt::claims_of(claims, now).ok()
}

/// What this TCB info says of a platform with these versions: nothing if it is none.
#[must_use]
pub fn tcb_status(info: &[u8], identity: &[u8], certificate: &[u8], svn: &[u8; 16], qe: u16) -> Option<String> {
    let info = TcbInfo::parse(info).ok()?;
    let identity = QeIdentity::parse(identity).ok()?;
    let pck = Certificate::parse(certificate).ok().and_then(|certificate| Pck::of(&certificate).ok())?;
    let evaluated = tcb::qe_level(&identity, qe).and_then(|level| tcb::evaluate(&info, &pck, svn, level));
    Some(match evaluated {
        Ok(evaluation) => evaluation.status.to_string(),
        Err(error) => error.to_string(),
    })
}
