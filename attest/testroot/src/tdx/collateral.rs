//! What Intel would publish about the platform: TCB info, the quoting enclave's identity, and lists of revoked certificates.
//!
//! Owns the statements, signed as they are written, and the names of the files that they are in. Real ones are good for a
//! month and have to be fetched again; these are good for as long as the root's owner says.
//!
//! Specification: Intel SGX and TDX Provisioning Certification Service API, version 4, "TCB info" and "QE identity".

use std::time::Duration;

use super::chain::Authority;
use super::platform::{Platform, Versions};
use super::quote::{QE_ATTRIBUTES, QE_PRODUCT};
use crate::chain::ChainError;
use crate::root::about::{hex, moment};

/// From when to when something is good, since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dates {
    /// Its first moment.
    pub from: Duration,
    /// Its last moment.
    pub to: Duration,
}

/// All that is published about one platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collateral {
    /// TCB info with its signature.
    pub tcb_info: String,
    /// The quoting enclave's identity with its signature.
    pub qe_identity: String,
    /// The certificates of who signed both, in PEM.
    pub signing_chain: String,
    /// What the root has revoked, in DER.
    pub root_crl: Vec<u8>,
    /// Which platforms' certificates were revoked, in DER.
    pub pck_crl: Vec<u8>,
}

/// Files of the parts, in the order of [`Collateral::parts`].
pub const FILES: [&str; 5] =
    ["tcbInfo.json", "qeIdentity.json", "tcbSignChain.pem", "rootCaCrl.der", "intermediateCaCrl.der"];

/// Number of the evaluation that both statements are from: there has been one.
const EVALUATION: u32 = 1;
/// Bits of a quoting enclave's attributes that mean something to its identity: all but that of a kept key, and not XFRM.
const ATTRIBUTES_MASK: &str = "FBFFFFFFFFFFFFFF0000000000000000";

impl Collateral {
    /// What is published about this platform, good for so long.
    pub fn new(authority: &Authority, platform: &Platform, dates: Dates) -> Result<Collateral, ChainError> {
        let since = moment(authority.not_before());
        let signed =
            |name: &str, text: &str| format!("{{\"{name}\":{text},\"signature\":\"{}\"}}", hex(&authority.sign(text)));
        Ok(Collateral {
            tcb_info: signed("tcbInfo", &tcb_info(platform, dates, &since)),
            qe_identity: signed("enclaveIdentity", &qe_identity(platform, dates, &since)),
            signing_chain: authority.signing_chain()?,
            root_crl: authority.root_crl(dates)?,
            pck_crl: authority.pck_crl(dates)?,
        })
    }

    /// Its parts, each with its file's name.
    #[must_use]
    pub fn parts(&self) -> [(&'static str, &[u8]); FILES.len()] {
        let Collateral { tcb_info, qe_identity, signing_chain, root_crl, pck_crl } = self;
        let parts = [tcb_info.as_bytes(), qe_identity.as_bytes(), signing_chain.as_bytes(), root_crl, pck_crl];
        std::array::from_fn(|index| (FILES[index], parts[index]))
    }
}

/// A level that the platform is at, and one that it is above.
fn tcb_info(platform: &Platform, dates: Dates, since: &str) -> String {
    let Versions { components, pce, tee, .. } = platform.versions();
    let [minor, major, ..] = tee;
    let svns = |versions: [u8; 16]| versions.map(|svn| format!("{{\"svn\":{svn}}}")).join(",");
    let level = |sgx, pce: u16, tdx, status: &str| {
        format!(
            "{{\"tcb\":{{\"sgxtcbcomponents\":[{}],\"pcesvn\":{pce},\"tdxtcbcomponents\":[{}]}},\
             \"tcbDate\":\"{since}\",\"tcbStatus\":\"{status}\"}}",
            svns(sgx),
            svns(tdx),
        )
    };
    // Nobody but Intel signs modules, and Intel's is written as zeros.
    let module = format!(
        "\"mrsigner\":\"{}\",\"attributes\":\"0000000000000000\",\"attributesMask\":\"FFFFFFFFFFFFFFFF\"",
        hex(&[0; 48])
    );
    format!(
        "{{\"id\":\"TDX\",\"version\":3,{},\"fmspc\":\"{}\",\"pceId\":\"{}\",\"tcbType\":0,\
         \"tcbEvaluationDataNumber\":{EVALUATION},\"tdxModule\":{{{module}}},\"tdxModuleIdentities\":\
         [{{\"id\":\"TDX_{major:02X}\",{module},\"tcbLevels\":[{}]}}],\"tcbLevels\":[{},{}]}}",
        written(dates),
        hex(&platform.fmspc()).to_uppercase(),
        hex(&platform.pce_id()),
        levels(minor.into(), since),
        level(components, pce, tee, "UpToDate"),
        level([0; 16], 0, [0; 16], "OutOfDate"),
    )
}

fn qe_identity(platform: &Platform, dates: Dates, since: &str) -> String {
    format!(
        "{{\"id\":\"TD_QE\",\"version\":2,{},\"tcbEvaluationDataNumber\":{EVALUATION},\"miscselect\":\"00000000\",\
         \"miscselectMask\":\"FFFFFFFF\",\"attributes\":\"{}\",\"attributesMask\":\"{ATTRIBUTES_MASK}\",\
         \"mrsigner\":\"{}\",\"isvprodid\":{QE_PRODUCT},\"tcbLevels\":[{}]}}",
        written(dates),
        identity_attributes(),
        hex(&platform.qe_signer()).to_uppercase(),
        levels(platform.versions().qe, since),
    )
}

/// What the mask leaves of a quoting enclave's attributes.
fn identity_attributes() -> String {
    let mut attributes = [0; 16];
    attributes[0] = QE_ATTRIBUTES[0] & 0xfb;
    hex(&attributes)
}

fn levels(svn: u16, since: &str) -> String {
    let level =
        |svn, status| format!("{{\"tcb\":{{\"isvsvn\":{svn}}},\"tcbDate\":\"{since}\",\"tcbStatus\":\"{status}\"}}");
    [level(svn, "UpToDate"), level(0, "OutOfDate")].join(",")
}

fn written(Dates { from, to }: Dates) -> String {
    format!("\"issueDate\":\"{}\",\"nextUpdate\":\"{}\"", moment(from), moment(to))
}
