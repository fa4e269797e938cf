//! What Intel publishes about platforms, in files.
//!
//! Owns their forms: one file of JSON with everything, as the crate `dcap-qvl` has it, or a file for each part as
//! Intel's service and its caches serve them, which may lie in a directory. Statements are taken as they are written: they
//! are signed like that. What is missing is missing; that is for a verdict to say.
//!
//! Specification: Intel SGX and TDX Provisioning Certification Service API, version 4.

use std::path::Path;

use attest::tdx::{Collateral, SignedJson};
use percent_encoding::percent_decode;
use serde::Deserialize;
use serde_json::value::RawValue;
use snp::hex::{self, HexError};

use crate::evidence::lists::{self, ListFileError};
use crate::idblock::{IdBlockError, Source};

/// More than any list of revoked certificates.
const MOST: u64 = 1 << 24;

/// Where the parts are in a directory, by the names of Intel's own sample; of lists one may be there.
const TCB_INFO: [&str; 1] = ["tcbInfo.json"];
const QE_IDENTITY: [&str; 1] = ["qeIdentity.json"];
const CHAIN: [&str; 1] = ["tcbSignChain.pem"];
const ROOT_CRL: [&str; 3] = ["rootCaCrl.der", "rootCaCrl.pem", "rootCaCrl.hex"];
const PCK_CRL: [&str; 3] = ["intermediateCaCrl.der", "intermediateCaCrl.pem", "intermediateCaCrl.hex"];

/// Why there is no collateral.
#[derive(Debug, thiserror::Error)]
pub enum CollateralFileError {
    /// A file.
    #[error(transparent)]
    Read(#[from] IdBlockError),
    /// It isn't text.
    #[error("{what} {from} is not UTF-8")]
    NotText {
        /// The setting.
        what: &'static str,
        /// Where it was read.
        from: Source,
    },
    /// Not JSON, or of something else.
    #[error("{what} {from} is not JSON of that: {source}")]
    Json {
        /// The setting.
        what: &'static str,
        /// Where it was read.
        from: Source,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A list of revoked certificates.
    #[error(transparent)]
    List(#[from] Box<ListFileError>),
    /// A directory of something else.
    #[error("collateral {from} has no {}, {}, {}, {} or {} in it", TCB_INFO[0], QE_IDENTITY[0], CHAIN[0], ROOT_CRL[0], PCK_CRL[0])]
    Empty {
        /// The directory.
        from: Source,
    },
}

/// Files that each have a part.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct CollateralSources {
    /// TCB info with its signature.
    pub tcb_info: Option<Source>,
    /// The quoting enclave's identity with its signature.
    pub qe_identity: Option<Source>,
    /// The certificates of who signed both.
    pub chain: Option<Source>,
    /// What the root has revoked.
    pub root_crl: Option<Source>,
    /// Which platforms' certificates were revoked.
    pub pck_crl: Option<Source>,
}

/// Where what Intel publishes is, to be read whenever it is needed.
#[derive(Debug, PartialEq, Eq)]
pub enum CollateralPlace {
    /// One file with all of it, or a directory with a file for each part.
    Whole(Source),
    /// A file for each part.
    Parts(CollateralSources),
}

impl CollateralPlace {
    /// Reads what is there now.
    pub fn read(&self) -> Result<CollateralFiles, CollateralFileError> {
        match self {
            Self::Whole(from) => CollateralFiles::read(from),
            Self::Parts(sources) => CollateralFiles::read_parts(sources),
        }
    }
}

/// What Intel publishes, as it was read.
#[derive(Debug, Default)]
pub struct CollateralFiles {
    tcb_info: Option<Statement>,
    qe_identity: Option<Statement>,
    root_crl: Option<Vec<u8>>,
    pck_crl: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Statement {
    text: String,
    signature: Vec<u8>,
    chain: Vec<u8>,
}

/// All in one file. Of what is there nothing is passed over but certificates that a quote brings along itself.
#[derive(Deserialize)]
#[serde(expecting = "an object with tcb_info, qe_identity, root_ca_crl, pck_crl and what goes with them")]
struct Bundle {
    tcb_info: Option<String>,
    tcb_info_signature: Option<Bytes>,
    tcb_info_issuer_chain: Option<String>,
    qe_identity: Option<String>,
    qe_identity_signature: Option<Bytes>,
    qe_identity_issuer_chain: Option<String>,
    root_ca_crl: Option<Bytes>,
    pck_crl: Option<Bytes>,
}

/// A statement as it is served: exactly its text is signed.
#[derive(Deserialize)]
#[serde(expecting = "an object with tcbInfo or enclaveIdentity, and signature")]
struct Served<'a> {
    #[serde(borrow, rename = "tcbInfo", alias = "enclaveIdentity")]
    statement: &'a RawValue,
    signature: Bytes,
}

/// Bytes in hexadecimal.
#[derive(Default, Deserialize)]
#[serde(try_from = "String")]
struct Bytes(Vec<u8>);

impl TryFrom<String> for Bytes {
    type Error = HexError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        hex::parse_up_to(&text, text.len()).map(Self)
    }
}

impl CollateralFiles {
    /// Reads all of it from one file, or from a directory with a file for each part.
    pub fn read(from: &Source) -> Result<Self, CollateralFileError> {
        match from.path().filter(|path| path.is_dir()) {
            Some(directory) => match CollateralSources::in_directory(directory) {
                sources if sources == CollateralSources::default() => {
                    Err(CollateralFileError::Empty { from: from.clone() })
                }
                sources => Self::read_parts(&sources),
            },
            None => Self::parse(&text("collateral", from)?, from),
        }
    }

    /// Reads the parts that there are.
    pub fn read_parts(sources: &CollateralSources) -> Result<Self, CollateralFileError> {
        let CollateralSources { tcb_info, qe_identity, chain, root_crl, pck_crl } = sources;
        let chain = chain.as_ref().map(|from| from.read("tcb-signing-chain", MOST)).transpose()?.unwrap_or_default();
        let chain = as_text(chain);
        let statement = |what, from: &Option<Source>| from.as_ref().map(|from| served(what, from, &chain)).transpose();
        let list = |what, from: &Option<Source>| {
            from.as_ref().map(|from| lists::read(what, from).map_err(Box::new)).transpose()
        };
        Ok(Self {
            tcb_info: statement("tcb-info", tcb_info)?,
            qe_identity: statement("qe-identity", qe_identity)?,
            root_crl: list("root-crl", root_crl)?,
            pck_crl: list("pck-crl", pck_crl)?,
        })
    }

    pub(crate) fn parse(text: &str, from: &Source) -> Result<Self, CollateralFileError> {
        let bundle: Bundle = serde_json::from_str(text).map_err(|source| CollateralFileError::Json {
            what: "collateral",
            from: from.clone(),
            source,
        })?;
        let statement = |text: Option<String>, signature: Option<Bytes>, chain: Option<String>| {
            Some(Statement {
                text: text?,
                signature: signature.unwrap_or_default().0,
                chain: chain.unwrap_or_default().into_bytes(),
            })
        };
        Ok(Self {
            tcb_info: statement(bundle.tcb_info, bundle.tcb_info_signature, bundle.tcb_info_issuer_chain),
            qe_identity: statement(bundle.qe_identity, bundle.qe_identity_signature, bundle.qe_identity_issuer_chain),
            root_crl: bundle.root_ca_crl.map(|Bytes(list)| list),
            pck_crl: bundle.pck_crl.map(|Bytes(list)| list),
        })
    }

    /// As verification wants it.
    pub fn borrowed(&self) -> Collateral<'_> {
        Collateral {
            tcb_info: self.tcb_info.as_ref().map(Statement::signed),
            qe_identity: self.qe_identity.as_ref().map(Statement::signed),
            root_crl: self.root_crl.as_deref(),
            pck_crl: self.pck_crl.as_deref(),
        }
    }
}

impl Statement {
    fn signed(&self) -> SignedJson<'_> {
        let Self { text, signature, chain } = self;
        SignedJson { text: text.as_bytes(), signature, chain }
    }
}

impl CollateralSources {
    fn in_directory(directory: &Path) -> Self {
        let first =
            |names: &[&str]| names.iter().map(|name| directory.join(name)).find(|path| path.exists()).map(Source::File);
        Self {
            tcb_info: first(&TCB_INFO),
            qe_identity: first(&QE_IDENTITY),
            chain: first(&CHAIN),
            root_crl: first(&ROOT_CRL),
            pck_crl: first(&PCK_CRL),
        }
    }
}

/// PEM, also as it stands in a header of Intel's service: there spaces and ends of lines have other signs.
fn as_text(chain: Vec<u8>) -> Vec<u8> {
    if chain.trim_ascii_start().starts_with(b"-----BEGIN%20") { percent_decode(&chain).collect() } else { chain }
}

fn text(what: &'static str, from: &Source) -> Result<String, CollateralFileError> {
    String::from_utf8(from.read(what, MOST)?).map_err(|_| CollateralFileError::NotText { what, from: from.clone() })
}

fn served(what: &'static str, from: &Source, chain: &[u8]) -> Result<Statement, CollateralFileError> {
    let text = text(what, from)?;
    let Served { statement, signature } =
        serde_json::from_str(&text).map_err(|source| CollateralFileError::Json { what, from: from.clone(), source })?;
    Ok(Statement { text: statement.get().to_owned(), signature: signature.0, chain: chain.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn chains_as_they_stand_in_headers() {
        let header = b"-----BEGIN%20CERTIFICATE-----%0AMIIC%2Fw%3D%3D%0A-----END%20CERTIFICATE-----%0A".to_vec();
        let pem = b"-----BEGIN CERTIFICATE-----\nMIIC/w==\n-----END CERTIFICATE-----\n";
        assert_eq!(as_text(header), pem);
        assert_eq!(as_text(pem.to_vec()), pem);
    }

    /// What is not of its form is called what it should be.
    #[test]
    fn what_is_no_collateral() {
        for (text, expected) in [
            ("preset = 1", "collateral on standard input is not JSON of that: expected value at line 1 column 1"),
            (
                "[]",
                "collateral on standard input is not JSON of that: invalid length 0, expected an object with tcb_info",
            ),
            (
                "7",
                "collateral on standard input is not JSON of that: invalid type: integer `7`, expected an object with",
            ),
        ] {
            let error = CollateralFiles::parse(text, &Source::Stdin).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    /// no-silent-trust: a statement is its text, byte for byte, and there once.
    #[test]
    fn no_silent_trust_statements_as_they_are_written() {
        let served = |text: &str| {
            let served: Result<Served<'_>, _> = serde_json::from_str(text);
            served.map(|it| it.statement.get().to_owned()).map_err(|error| error.to_string())
        };
        let good = r#"{"tcbInfo": { "a" :1,"b":[ ]} ,"signature":"00"}"#;
        assert_eq!(served(good).unwrap(), r#"{ "a" :1,"b":[ ]}"#);
        assert_eq!(served(&good.replace("tcbInfo", "enclaveIdentity")).unwrap(), r#"{ "a" :1,"b":[ ]}"#);
        for (text, expected) in [
            (r#"{"tcbInfo":{},"tcbInfo":{},"signature":""}"#, "duplicate field `tcbInfo`"),
            (r#"{"tcbInfo":{},"enclaveIdentity":{},"signature":""}"#, "duplicate field `tcbInfo`"),
            (r#"{"tcbInfo":{},"signature":"","signature":""}"#, "duplicate field `signature`"),
            (r#"{"tcbInfo":{}}"#, "missing field `signature`"),
            (r#"{"tcbInfo":{},"signature":"0"}"#, "it has 1 characters; 2 hexadecimal digits are wanted"),
        ] {
            let error = served(text).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    proptest! {
        /// no-silent-trust: JSON of any kind is read or refused.
        #[test]
        fn no_silent_trust_any_json(json in "\\{[\\PC]{0,60}") {
            let _ = CollateralFiles::parse(&json, &Source::Stdin);
        }
    }
}
