//! What is known of a certificate is who signed it, and nothing else. Intel has revoked none of those that are part of this
//! crate, so a root of this test's own is put in place of a synthetic case's, and revokes what that one had signed.

extern crate std;

use std::format;
use std::vec;

use der::asn1::{Any, BitString};
use der::{Decode as _, Encode as _, Sequence};
use p256::ecdsa::SigningKey;
use p256::ecdsa::signature::Signer as _;
use serde_json::Value;
use x509_cert::crl::{RevokedCert, TbsCertList};
use x509_cert::spki::AlgorithmIdentifierOwned;

use super::*;
use crate::anchors::KNOWN;
use crate::check::Fault;
use crate::tdx::SignedJson;

/// What is signed, how, and the signature: of certificates and lists alike.
#[derive(Sequence)]
struct Outer {
    signed: Any,
    algorithm: AlgorithmIdentifierOwned,
    signature: BitString,
}

/// A synthetic case whose root has another key.
struct Case {
    key: SigningKey,
    root: Vec<u8>,
    ca: &'static [u8],
    signer: &'static [u8],
    quote: Vec<u8>,
    files: Value,
}

impl Case {
    fn new() -> Self {
        let key = SigningKey::from_slice(&[7; 32]).unwrap();
        let quote = vector("../synthetic/good-v4.quote");
        let files: Value = serde_json::from_slice(&vector("../synthetic/good-v4.collateral.json")).unwrap();
        let text = std::str::from_utf8(Quote::parse(&quote).unwrap().pck_chain()).unwrap().to_string();
        let [_, ca, old] = pem::chain::<3>(text.as_bytes()).unwrap();
        let [signer, _] = pem::chain::<2>(files["tcb_info_issuer_chain"].as_str().unwrap().as_bytes()).unwrap();

        let point = point(&old).to_sec1_point(false);
        let at = old.windows(65).position(|window| window == point.as_bytes()).unwrap();
        let mut root = old.clone();
        root[at..at + 65].copy_from_slice(key.verifying_key().to_sec1_point(false).as_bytes());
        // It is as long in PEM as the old one: nothing else of the quote changes.
        let written = |der: &[u8]| der::pem::encode_string(pem::CERTIFICATE, der::pem::LineEnding::LF, der).unwrap();
        let (from, to) = (written(&old), written(&root));
        let at = quote.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        let quote = [&quote[..at], to.as_bytes(), &quote[at + from.len()..]].concat();
        Self { root: signed(&key, &root, |_| ()), key, ca: ca.leak(), signer: signer.leak(), quote, files }
    }

    /// The verdict at this moment if the root has revoked these; that it signed the two certificates is known.
    fn verdict(&self, revoked: &[&[u8]], now: &str) -> Result<Verified<Endorsed<'_>>, Rejected> {
        let text = |name: &str| self.files[name].as_str().unwrap();
        let lists = ["root_ca_crl", "pck_crl"].map(|name| unhex(&self.files[name]));
        let signatures = ["tcb_info", "qe_identity"].map(|name| unhex(&self.files[format!("{name}_signature")]));
        let statement = |name: &str, signature| {
            let chain = text(&format!("{name}_issuer_chain"));
            Some(SignedJson { text: text(name).as_bytes(), signature, chain: chain.as_bytes() })
        };
        let root_crl = signed(&self.key, &lists[0], |list| {
            let mut fields: TbsCertList = list.decode_as().unwrap();
            let revoked = revoked.iter().map(|certificate| RevokedCert {
                serial_number: Certificate::parse(certificate).unwrap().serial().clone(),
                revocation_date: fields.this_update,
                crl_entry_extensions: None,
            });
            fields.revoked_certificates = Some(revoked.collect()).filter(|all: &Vec<_>| !all.is_empty());
            *list = Any::encode_from(&fields).unwrap();
        });
        let collateral = Collateral {
            tcb_info: statement("tcb_info", &signatures[0]),
            qe_identity: statement("qe_identity", &signatures[1]),
            root_crl: Some(&root_crl),
            pck_crl: Some(&lists[1]),
        };
        let anchors = Anchors::none().with_test_root(&self.root).unwrap();
        let anchors = anchors.with_known([self.ca, self.signer].map(|certificate| (Anchor::Test, certificate)));
        verify(&self.quote, &collateral, &anchors, now.parse().unwrap())
    }

    fn failed(&self, revoked: &[&[u8]], now: &str) -> (Vec<&'static str>, Fault) {
        let rejected = self.verdict(revoked, now).unwrap_err();
        for name in ["chain.intermediate.signature", "tcb-info.signer.signature", "qe-identity.signer.signature"] {
            assert_eq!(rejected.checks().named(name).unwrap().actual, KNOWN, "it is known all the same");
        }
        (rejected.checks().failed().map(|check| check.id.name()).collect(), rejected.fault())
    }
}

/// The same, changed in what is signed, and signed by this key.
fn signed(key: &SigningKey, der: &[u8], change: impl FnOnce(&mut Any)) -> Vec<u8> {
    let mut outer = Outer::from_der(der).unwrap();
    change(&mut outer.signed);
    let signature: Signature = key.sign(&outer.signed.to_der().unwrap());
    outer.signature = BitString::from_bytes(signature.to_der().as_bytes()).unwrap();
    outer.to_der().unwrap()
}

#[test]
fn no_silent_trust_known_certificates_can_be_revoked_and_end() {
    let (case, now) = (Case::new(), "2026-06-01T00:00:00Z");
    let verified = case.verdict(&[], now).unwrap();
    assert_eq!(verified.checks().named("chain.intermediate.signature").unwrap().actual, KNOWN);
    assert_eq!(case.failed(&[case.ca], now), (vec!["chain.intermediate.revocation"], Fault::Revoked));
    let of_signer = vec!["tcb-info.signer.revocation", "qe-identity.signer.revocation"];
    assert_eq!(case.failed(&[case.signer], now), (of_signer, Fault::Revoked));
    let (late, fault) = case.failed(&[], "2100-01-01T00:00:00Z");
    for name in ["chain.intermediate.validity", "tcb-info.signer.validity", "qe-identity.signer.validity"] {
        assert!(late.contains(&name), "{late:?}");
    }
    assert_eq!(fault, Fault::Collateral);
}
