//! What Intel publishes about platforms: TCB info and the quoting enclave's identity, in JSON, and lists of revoked
//! certificates.
//!
//! Owns reading both statements and what their forms must be. They are signed as they are written, so who wants to
//! verify a signature needs the text as it was received: [`SignedJson`]. Does not own who signed, nor what follows for
//! a platform: see [`mod@crate::tdx::verify`] and [`mod@crate::tdx::tcb`].
//!
//! Fields that are not known here are passed over: Intel adds some. Those that are must be there, once.
//! Specification: Intel SGX and TDX Provisioning Certification Service API, version 4, "TCB info" and "QE identity".

use alloc::string::String;
use alloc::vec::Vec;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::tcb::TcbStatus;
use crate::UnixTime;

mod fields;

use fields::{bytes, component_status, moment, platform_status};

/// A statement in JSON with what is to show that Intel made it. All of it may be anybody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignedJson<'a> {
    /// The statement's text, exactly as it was signed: from its first brace to its last.
    pub text: &'a [u8],
    /// Its signature: r and s, big-endian.
    pub signature: &'a [u8],
    /// The certificates of who signed, in PEM: its own first, then the root.
    pub chain: &'a [u8],
}

/// What Intel publishes, as far as it concerns one quote. What is missing fails a verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collateral<'a> {
    /// TCB info of the platform's kind.
    pub tcb_info: Option<SignedJson<'a>>,
    /// Identity of the quoting enclave.
    pub qe_identity: Option<SignedJson<'a>>,
    /// What the root has revoked, in DER.
    pub root_crl: Option<&'a [u8]>,
    /// What has revoked who issued the platform's certificate, in DER.
    pub pck_crl: Option<&'a [u8]>,
}

/// Why a text is no such statement.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum CollateralError {
    #[error("malformed: {0}")]
    Form(String),
    #[error("{id:?} of version {version}, not {wanted}")]
    Kind { id: String, version: u32, wanted: &'static str },
    #[error("of TCB type {0}, which is unknown")]
    TcbType(u32),
}

impl From<serde_json::Error> for CollateralError {
    fn from(error: serde_json::Error) -> Self {
        Self::Form(alloc::string::ToString::to_string(&error))
    }
}

/// What a statement is, whatever else it says.
#[derive(Deserialize)]
struct Kind {
    #[serde(default)]
    id: String,
    version: u32,
}

/// TCB info.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TcbInfo {
    #[serde(default)]
    id: String,
    version: u32,
    #[serde(deserialize_with = "moment")]
    pub(crate) issue_date: UnixTime,
    #[serde(deserialize_with = "moment")]
    pub(crate) next_update: UnixTime,
    #[serde(deserialize_with = "bytes")]
    pub(crate) fmspc: [u8; 6],
    #[serde(deserialize_with = "bytes")]
    pub(crate) pce_id: [u8; 2],
    tcb_type: u32,
    pub(crate) tcb_evaluation_data_number: u32,
    /// The module of TDX 1.0, which has no versions of its own.
    pub(crate) tdx_module: Module,
    /// Those since, by major version.
    #[serde(default)]
    pub(crate) tdx_module_identities: Vec<ModuleIdentity>,
    /// The best first.
    pub(crate) tcb_levels: Vec<Level>,
}

/// Who signed a TDX module, and which attributes it has.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Module {
    #[serde(rename = "mrsigner", deserialize_with = "bytes")]
    pub(crate) mr_signer: [u8; 48],
    #[serde(deserialize_with = "bytes")]
    pub(crate) attributes: [u8; 8],
    #[serde(deserialize_with = "bytes")]
    pub(crate) attributes_mask: [u8; 8],
}

/// A major version of the module, with what its minor ones are worth.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ModuleIdentity {
    pub(crate) id: String,
    #[serde(rename = "mrsigner", deserialize_with = "bytes")]
    mr_signer: [u8; 48],
    #[serde(deserialize_with = "bytes")]
    attributes: [u8; 8],
    #[serde(deserialize_with = "bytes")]
    attributes_mask: [u8; 8],
    pub(crate) tcb_levels: Vec<ComponentLevel>,
}

/// What a platform is worth that has at least these versions.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Level {
    pub(crate) tcb: Versions,
    #[serde(deserialize_with = "moment")]
    pub(crate) tcb_date: UnixTime,
    #[serde(deserialize_with = "platform_status")]
    pub(crate) tcb_status: TcbStatus,
    #[serde(default, rename = "advisoryIDs")]
    pub(crate) advisories: Vec<String>,
}

/// Versions of a platform's components. Their order here is that of levels, too, as Intel's library has it.
#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Versions {
    #[serde(rename = "sgxtcbcomponents")]
    pub(crate) sgx: [Component; 16],
    #[serde(rename = "pcesvn")]
    pub(crate) pce_svn: u16,
    #[serde(rename = "tdxtcbcomponents")]
    pub(crate) tdx: [Component; 16],
}

/// A component's version.
#[derive(Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Component {
    pub(crate) svn: u8,
}

/// What a component with a version of its own is worth, from this version on.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ComponentLevel {
    pub(crate) tcb: ComponentVersion,
    #[serde(deserialize_with = "moment")]
    pub(crate) tcb_date: UnixTime,
    #[serde(deserialize_with = "component_status")]
    pub(crate) tcb_status: TcbStatus,
    #[serde(default, rename = "advisoryIDs")]
    pub(crate) advisories: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ComponentVersion {
    pub(crate) isvsvn: u16,
}

/// Identity of the quoting enclave.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct QeIdentity {
    #[serde(default)]
    id: String,
    version: u32,
    #[serde(deserialize_with = "moment")]
    pub(crate) issue_date: UnixTime,
    #[serde(deserialize_with = "moment")]
    pub(crate) next_update: UnixTime,
    pub(crate) tcb_evaluation_data_number: u32,
    #[serde(rename = "miscselect", deserialize_with = "bytes")]
    pub(crate) misc_select: [u8; 4],
    #[serde(rename = "miscselectMask", deserialize_with = "bytes")]
    pub(crate) misc_select_mask: [u8; 4],
    #[serde(deserialize_with = "bytes")]
    pub(crate) attributes: [u8; 16],
    #[serde(deserialize_with = "bytes")]
    pub(crate) attributes_mask: [u8; 16],
    #[serde(rename = "mrsigner", deserialize_with = "bytes")]
    pub(crate) mr_signer: [u8; 32],
    #[serde(rename = "isvprodid")]
    pub(crate) product: u16,
    pub(crate) tcb_levels: Vec<ComponentLevel>,
}

impl TcbInfo {
    pub(crate) fn parse(text: &[u8]) -> Result<Self, CollateralError> {
        let wanted = Wanted { id: "TDX", versions: &[3], name: "TCB info \"TDX\" of version 3" };
        let mut info: Self = wanted.read(text, |info: &Self| (&info.id, info.version))?;
        if info.tcb_type != 0 {
            return Err(CollateralError::TcbType(info.tcb_type));
        }
        info.tcb_levels.sort_by(|one, other| other.tcb.cmp(&one.tcb));
        Ok(info)
    }
}

impl QeIdentity {
    pub(crate) fn parse(text: &[u8]) -> Result<Self, CollateralError> {
        let wanted = Wanted { id: "TD_QE", versions: &[2, 3], name: "an identity \"TD_QE\" of version 2 or 3" };
        let mut identity: Self = wanted.read(text, |identity: &Self| (&identity.id, identity.version))?;
        identity.tcb_levels.sort_by_key(|level| core::cmp::Reverse(level.tcb.isvsvn));
        Ok(identity)
    }
}

impl ModuleIdentity {
    pub(crate) fn module(&self) -> Module {
        let Self { mr_signer, attributes, attributes_mask, .. } = *self;
        Module { mr_signer, attributes, attributes_mask }
    }
}

/// Which statements are read.
struct Wanted {
    id: &'static str,
    versions: &'static [u32],
    name: &'static str,
}

impl Wanted {
    fn read<T: DeserializeOwned>(&self, text: &[u8], kind: fn(&T) -> (&str, u32)) -> Result<T, CollateralError> {
        let statement: T = serde_json::from_slice(text).or_else(|error| {
            // That it is another kind of statement says more than which of its fields is not like ours.
            let Kind { id, version } = serde_json::from_slice(text)?;
            self.check(&id, version)?;
            Err::<_, CollateralError>(error.into())
        })?;
        let (id, version) = kind(&statement);
        self.check(id, version)?;
        Ok(statement)
    }

    fn check(&self, id: &str, version: u32) -> Result<(), CollateralError> {
        if id == self.id && self.versions.contains(&version) {
            return Ok(());
        }
        Err(CollateralError::Kind { id: id.into(), version, wanted: self.name })
    }
}

#[cfg(test)]
mod tests;
