//! Quotes with their collateral, as others keep them.

use std::path::Path;

use attest::tdx::{Anchors, Collateral, Endorsed, SignedJson, verify};
use attest::{Rejected, UnixTime, Verified};
use serde::Deserialize;

/// A file of `tests/vectors/tdx/attest`.
#[expect(clippy::panic, reason = "a test without its vectors has failed")]
pub fn vector(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/tdx/attest").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A moment as in RFC 3339.
pub fn moment(text: &str) -> UnixTime {
    let date: der::DateTime = text.parse().unwrap();
    UnixTime::from_secs(date.unix_duration().as_secs())
}

/// The names of what failed.
pub fn failed(rejected: &Rejected) -> Vec<&'static str> {
    rejected.checks().failed().map(|check| check.id.name()).collect()
}

/// Collateral, with binary parts in hexadecimal.
#[derive(Clone, Deserialize)]
pub struct Files {
    pub root_ca_crl: String,
    pub pck_crl: String,
    pub pck_crl_issuer_chain: String,
    pub tcb_info: String,
    pub tcb_info_signature: String,
    pub tcb_info_issuer_chain: String,
    pub qe_identity: String,
    pub qe_identity_signature: String,
    pub qe_identity_issuer_chain: String,
}

/// A statement, with its signature as bytes.
#[derive(Clone)]
pub struct Statement {
    pub text: Vec<u8>,
    pub signature: Vec<u8>,
    pub chain: Vec<u8>,
}

/// `{file}.collateral.json`.
pub fn files(file: &str) -> Files {
    serde_json::from_slice(&vector(&format!("{file}.collateral.json"))).unwrap()
}

/// Everything that a verdict is about.
#[derive(Clone)]
pub struct Evidence {
    pub quote: Vec<u8>,
    pub tcb_info: Statement,
    pub qe_identity: Statement,
    pub root_crl: Vec<u8>,
    pub pck_crl: Vec<u8>,
    pub now: UnixTime,
    pub anchors: Anchors,
}

pub fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|digit| digit.to_digit(16).unwrap().try_into().unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

impl Statement {
    fn signed(&self) -> Option<SignedJson<'_>> {
        let Self { text, signature, chain } = self;
        Some(SignedJson { text, signature, chain })
    }
}

impl Evidence {
    /// These two files, at this moment, below these roots.
    pub fn new(quote: &str, collateral: &str, now: &str, anchors: Anchors) -> Evidence {
        let files = files(collateral);
        let statement = |text: String, signature: String, chain: String| Statement {
            text: text.into(),
            signature: unhex(&signature),
            chain: chain.into(),
        };
        Evidence {
            quote: vector(&format!("{quote}.quote")),
            tcb_info: statement(files.tcb_info, files.tcb_info_signature, files.tcb_info_issuer_chain),
            qe_identity: statement(files.qe_identity, files.qe_identity_signature, files.qe_identity_issuer_chain),
            root_crl: unhex(&files.root_ca_crl),
            pck_crl: unhex(&files.pck_crl),
            now: moment(now),
            anchors,
        }
    }

    /// A case of `synthetic`, below its root.
    pub fn synthetic(name: &str, now: &str) -> Evidence {
        let anchors = Anchors::none().with_test_root(&vector("synthetic/root.der")).unwrap();
        let file = format!("synthetic/{name}");
        Evidence::new(&file, &file, now, anchors)
    }

    pub fn collateral(&self) -> Collateral<'_> {
        Collateral {
            tcb_info: self.tcb_info.signed(),
            qe_identity: self.qe_identity.signed(),
            root_crl: Some(&self.root_crl),
            pck_crl: Some(&self.pck_crl),
        }
    }

    pub fn verdict(&self) -> Result<Verified<Endorsed<'_>>, Rejected> {
        verify(&self.quote, &self.collateral(), &self.anchors, self.now)
    }

    /// What fails of it.
    pub fn rejected(&self) -> Vec<&'static str> {
        failed(&self.verdict().unwrap_err())
    }
}
