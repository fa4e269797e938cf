//! What is said of an ID block, to people and as JSON.
//!
//! Owns the words and keys. Whether signatures hold is [`snp::id_block`]'s to say.

use serde::Serialize;
use snp::digest::Digest;
use snp::hex;
use snp::id_block::{IdAuth, IdBlock};
use snp::policy::GuestPolicy;

use super::{IdBlockError, OwnerId};

/// What there is to say of an ID block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// `LD`, 96 hexadecimal digits.
    pub launch_digest: String,
    /// `FAMILY_ID`.
    pub family_id: IdReport,
    /// `IMAGE_ID`.
    pub image_id: IdReport,
    /// `GUEST_SVN`.
    pub guest_svn: u32,
    /// `POLICY`.
    pub policy: PolicyReport,
    /// What its authentication says, if it was looked at.
    pub signature: Option<SignatureReport>,
    /// Whether it is for a launch, if that was asked.
    pub launch: Option<LaunchReport>,
}

/// An owner's ID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IdReport {
    /// 32 hexadecimal digits.
    pub hex: String,
    /// As text, if it is one.
    pub text: Option<String>,
}

/// A guest policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PolicyReport {
    /// As the firmware has it, in hexadecimal.
    pub value: String,
    /// By names, as `--policy` takes it.
    pub names: String,
    /// Least version of the firmware's ABI.
    pub abi: String,
    /// Its flags.
    pub flags: Vec<FlagReport>,
}

/// A flag of a policy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FlagReport {
    /// Its name.
    pub name: &'static str,
    /// What it does.
    pub means: &'static str,
}

/// Signatures of an ID block.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignatureReport {
    /// Whether all of them hold.
    pub holds: bool,
    /// What does not.
    pub wrong: Option<String>,
    /// `ID_KEY_DIGEST` of the guest's reports.
    pub id_key_digest: Option<String>,
    /// `AUTHOR_KEY_DIGEST` of the guest's reports, with an author's key.
    pub author_key_digest: Option<String>,
}

/// A launch that a block may be for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LaunchReport {
    /// Its digest.
    pub launch_digest: String,
    /// Whether the block is for it.
    pub matches: bool,
}

impl Report {
    /// Of a block, and of what is known besides.
    pub fn of(block: &IdBlock, auth: Option<&IdAuth>, launch: Option<Digest>) -> Result<Self, IdBlockError> {
        Ok(Self {
            launch_digest: Digest(block.launch_digest).to_string(),
            family_id: OwnerId(block.family_id).into(),
            image_id: OwnerId(block.image_id).into(),
            guest_svn: block.guest_svn(),
            policy: block.policy().map_err(|error| IdBlockError::Block(error.into()))?.into(),
            signature: auth.map(|auth| SignatureReport::of(block, auth)),
            launch: launch.map(|launch| LaunchReport {
                launch_digest: launch.to_string(),
                matches: launch == Digest(block.launch_digest),
            }),
        })
    }

    /// Whether nothing was found that does not hold.
    pub fn holds(&self) -> bool {
        self.signature.as_ref().is_none_or(|signature| signature.holds)
            && self.launch.as_ref().is_none_or(|launch| launch.matches)
    }
}

impl SignatureReport {
    fn of(block: &IdBlock, auth: &IdAuth) -> Self {
        match auth.verify(block) {
            Ok(keys) => Self {
                holds: true,
                wrong: None,
                id_key_digest: Some(keys.id_key.to_string()),
                author_key_digest: keys.author_key.map(|key| key.to_string()),
            },
            Err(error) => {
                Self { holds: false, wrong: Some(error.to_string()), id_key_digest: None, author_key_digest: None }
            }
        }
    }
}

impl From<OwnerId> for IdReport {
    fn from(id: OwnerId) -> Self {
        Self { hex: hex::text(&id.0), text: id.text().map(str::to_owned) }
    }
}

impl From<GuestPolicy> for PolicyReport {
    fn from(policy: GuestPolicy) -> Self {
        Self {
            value: format!("{:#x}", policy.to_raw()),
            names: policy.to_string(),
            abi: format!("{}.{}", policy.abi_major, policy.abi_minor),
            flags: policy.described().map(|(name, means)| FlagReport { name, means }).collect(),
        }
    }
}
