//! Whether a quote is what it says: signed by a key that a quoting enclave of Intel's vouches for, on a platform whose
//! certificate leads to a root that may be relied on, and what Intel says of that platform at this moment.
//!
//! Owns every check and their order. All are made, so that a verdict names everything that is wrong; what cannot be
//! looked at because something before is missing is skipped, which is no better. That goes for what Intel publishes,
//! too: without TCB info and identity anybody's enclave on any platform could have written the quote, and without the
//! lists of revoked certificates any stolen key.
//!
//! Does not own what a guest should be like: a quote that is verified may be of a guest that its host can debug. Nor
//! which status of a platform is good enough: whoever has a verified quote finds it in [`Platform::status`]. Only
//! [`TcbStatus::Revoked`] is rejected here.
//!
//! Specification: Intel TDX DCAP Quoting Library API, appendix A, for what signs what; Intel's quote verification
//! library for what is compared.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use p256::ecdsa::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha256};

use super::pck::Pck;
use super::tcb::Shortfall;
use super::{Anchor, Anchors, Collateral, Quote, TcbStatus};
use crate::UnixTime;
use crate::check::{CheckId, Checks, Horizon};
use crate::hex::Hex;
use crate::signature::{self, P256Key};
use crate::verified::{Evidence, Rejected, Verified};
use crate::x509::Certificate;

use chain::Chain;
use statements::{By, Chains};

mod chain;
mod statements;

const FORM: CheckId = CheckId::required("quote.form", "the quote");
const ATTRIBUTES: CheckId = CheckId::required("quote.attributes", "the set of reserved bits of TDATTRIBUTES");
const SIGNATURE: CheckId = CheckId::required("quote.signature", "the quote's signature");
const QE_BINDING: CheckId = CheckId::required("qe.binding", "the attestation key that the QE vouches for");
const QE_SIGNATURE: CheckId = CheckId::required("qe.signature", "the signature of the QE's report");
const PCK: CheckId = CheckId::required("key.platform", "the platform that the key belongs to");

/// A quote with what Intel says of the platform that it is from.
#[derive(Clone, Debug)]
pub struct Endorsed<'q> {
    quote: Quote<'q>,
    platform: Platform,
}

impl Evidence for Endorsed<'_> {
    type Anchor = Anchor;
}

impl<'q> Endorsed<'q> {
    /// The quote.
    #[must_use]
    pub const fn quote(&self) -> &Quote<'q> {
        &self.quote
    }

    /// As if it had been verified, on a platform that is as it should be.
    #[cfg(test)]
    pub(crate) fn assumed_verified(quote: Quote<'q>) -> Verified<Self> {
        let platform = Platform {
            status: TcbStatus::UpToDate,
            advisories: Vec::new(),
            shortfalls: Vec::new(),
            tcb_date: UnixTime::from_secs(0),
            evaluation: 17,
            fmspc: [1; 6],
            pce_id: [0; 2],
        };
        let mut horizon = Horizon::at(UnixTime::from_secs(0));
        horizon.until = UnixTime::from_secs(9);
        let verified = Verified::judge(Self { quote, platform }, Some(Anchor::Intel), horizon, Checks::default());
        verified.unwrap_or_else(|_| unreachable!("nothing failed"))
    }

    /// The platform.
    #[must_use]
    pub const fn platform(&self) -> &Platform {
        &self.platform
    }
}

/// What Intel says of a platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// What its versions are worth, with those of its TDX module and quoting enclave: never [`TcbStatus::Revoked`].
    pub status: TcbStatus,
    /// Security advisories that concern these versions, by name, in order, each once.
    pub advisories: Vec<String>,
    /// Components that keep it from being up to date, with the versions that they would need.
    pub shortfalls: Vec<Shortfall>,
    /// All of the platform was good at this moment, as far as was known then.
    pub tcb_date: UnixTime,
    /// Number of the evaluation that the status is from: the lower one of TCB info and QE identity.
    pub evaluation: u32,
    /// The platform's kind.
    pub fmspc: [u8; 6],
    /// Its provisioning certification enclave.
    pub pce_id: [u8; 2],
}

/// Verifies a quote with everything it needs, at this moment. Neither quote nor collateral can be the anchor: that must
/// be among `anchors`.
pub fn verify<'q>(
    quote: &'q [u8],
    collateral: &Collateral<'_>,
    anchors: &Anchors,
    now: UnixTime,
) -> Result<Verified<Endorsed<'q>>, Rejected> {
    let mut checks = Checks::default();
    let form = "a quote of version 4 or 5";
    let quote = match Quote::parse(quote) {
        Ok(quote) => {
            checks.add(FORM, form, Ok::<_, String>(alloc::format!("one of version {}", quote.version())));
            quote
        }
        Err(error) => {
            checks.add(FORM, form, Err::<String, _>(alloc::format!("malformed: {error}")));
            return Err(Rejected::new(checks));
        }
    };
    let mut judge = Judge { checks, horizon: Horizon::at(now), anchors, by_root: None };
    judge.quote(&quote);
    let decoded = judge.decode(quote.pck_chain());
    let certificates = decoded.as_ref().map(|chain| judge.chain(chain));
    let none = Chain::default();
    let chain = certificates.as_ref().unwrap_or(&none);
    judge.qe(&quote, chain.key.as_ref());
    let pck = judge.pck(chain.key.as_ref());
    let revoked = judge.revocation(collateral, chain);
    let chains = Chains::of(collateral);
    let signers = chains.signers();
    let by = |signer| By { signer, root: chain.root(), revoked: revoked.as_ref() };
    let info = judge.tcb_info(collateral.tcb_info, by(signers.of_info()), pck.as_ref());
    let identity = judge.qe_identity(collateral.qe_identity, by(signers.of_identity()), quote.qe_report());
    let evaluation = judge.tcb(&quote, pck.as_ref(), info.as_ref(), identity.as_ref());
    let Judge { checks, horizon, .. } = judge;
    let (Some(pck), Some(info), Some(identity), Some(evaluation)) = (pck, info, identity, evaluation) else {
        return Err(Rejected::new(checks));
    };
    let platform = Platform {
        status: evaluation.status,
        advisories: evaluation.advisories,
        tcb_date: evaluation.date,
        shortfalls: evaluation.shortfalls,
        evaluation: info.tcb_evaluation_data_number.min(identity.tcb_evaluation_data_number),
        fmspc: pck.fmspc,
        pce_id: pck.pce_id,
    };
    Verified::judge(Endorsed { quote, platform }, chain.anchor(), horizon, checks)
}

/// Makes checks and notes them.
struct Judge<'a> {
    checks: Checks,
    horizon: Horizon,
    anchors: &'a Anchors,
    /// The certificate, in DER, that was last found to be signed by the root.
    by_root: Option<Vec<u8>>,
}

impl Judge<'_> {
    /// What the quote itself can show: that the attestation key signed it.
    fn quote(&mut self, quote: &Quote<'_>) {
        let reserved = quote.td_attributes().reserved();
        let found = alloc::format!("{reserved:#x}");
        self.checks.add(ATTRIBUTES, "0x0", if reserved == 0 { Ok(found) } else { Err(found) });
        let found = if is_by_attestation_key(quote) {
            Ok("by it")
        } else {
            Err("not by it, or something of the quote was changed")
        };
        self.checks.add(SIGNATURE, "by the attestation key", found);
    }

    /// That the quoting enclave vouches for the attestation key, and the platform's key for the quoting enclave.
    fn qe(&mut self, quote: &Quote<'_>, key: Option<&Certificate<'_>>) {
        let found = if is_vouched_for(quote) { Ok("that one") } else { Err("another, or other data with it") };
        self.checks.add(QE_BINDING, "the one that signed the quote", found);
        let Some(key) = key else {
            return self.checks.skip(QE_SIGNATURE, "there is no certificate of the key");
        };
        let found = match key.p256_key() {
            Ok(key) if is_signed(key, quote.qe_report_bytes(), quote.qe_signature()) => Ok("by it"),
            Ok(_) => Err("not by it, or something of the report was changed".to_string()),
            Err(error) => Err(alloc::format!("by {error}")),
        };
        self.checks.add(QE_SIGNATURE, "by the platform's key", found);
    }

    fn pck(&mut self, key: Option<&Certificate<'_>>) -> Option<Pck> {
        let Some(key) = key else {
            self.checks.skip(PCK, "there is no certificate of the key");
            return None;
        };
        let pck = Pck::of(key);
        let found = pck.as_ref().map(|pck| alloc::format!("{}, PCE {}", Hex(&pck.fmspc), Hex(&pck.pce_id)));
        self.checks.add(PCK, "named with its versions", found);
        pck.ok()
    }

    fn span(&mut self, id: CheckId, span: (UnixTime, UnixTime)) {
        self.horizon.span(&mut self.checks, id, span);
    }

    fn skip_all(&mut self, ids: impl IntoIterator<Item = CheckId>, why: &str) {
        ids.into_iter().for_each(|id| self.checks.skip(id, why));
    }
}

/// Whether its attestation key signed the quote, over the bytes that were received.
fn is_by_attestation_key(quote: &Quote<'_>) -> bool {
    let mut point = [4; 65];
    point[1..].copy_from_slice(quote.attestation_key());
    let key = VerifyingKey::from_sec1_bytes(&point);
    key.is_ok_and(|key| is_signed(&key.into(), quote.signed_bytes(), quote.signature()))
}

/// Whether the QE's report is about this attestation key and the data that came with it.
fn is_vouched_for(quote: &Quote<'_>) -> bool {
    let (said, zeros) = quote.qe_report().report_data.split_at(32);
    let digest = Sha256::new().chain_update(quote.attestation_key()).chain_update(quote.authenticated_data());
    digest.finalize().as_slice() == said && zeros.iter().all(|byte| *byte == 0)
}

/// Whether this key signed these bytes; r and s are big-endian.
fn is_signed(key: &P256Key, bytes: &[u8], signature: &[u8]) -> bool {
    Signature::from_slice(signature).is_ok_and(|signature| signature::ecdsa_p256(key, bytes, &signature))
}

#[cfg(test)]
mod tests;
