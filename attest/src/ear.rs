//! What an appraisal found, for others: EAR, the attestation results of RATS, as a signed token.
//!
//! Owns the claims of a result, the trustworthiness vector and its tiers, and how a result is signed and read back, in
//! JSON (`jwt`) or in CBOR (`cwt`). Does not own what evidence is worth ([`crate::snp::appraise()`]), and has no clock: moments are
//! arguments.
//!
//! Law no-silent-trust: a result that rests on a test's root says so, and its vector cannot affirm hardware: whatever
//! it was built with, and whatever a token says that is read back.
//!
//! Specifications: draft-ietf-rats-ear-04 (claims), draft-ietf-rats-ar4si (values of the vector), RFC 9711 (EAT).

mod cbor;
pub(crate) mod cwt;
mod jwt;

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::time::Duration;

use serde::{Deserialize, Serialize};

pub use jwt::{TokenError, TokenKey, TokenSigner};

use crate::UnixTime;
use crate::snp::Tier;

/// Names the draft that these claims are as in.
const PROFILE: &str = "tag:ietf.org,2026:rats/ear#04";

/// What a part of the vector says. Nothing is claimed where it is [`TrustClaim::NONE`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TrustClaim(i8);

impl TrustClaim {
    /// Nothing is claimed.
    pub const NONE: Self = Self(0);
    /// Recognised, and as it should be.
    pub const AFFIRMED: Self = Self(2);
    /// Of executables: what was loaded at boot is recognised, and what runs later was not looked at.
    pub const BOOT_RECOGNISED: Self = Self(3);
    /// Of hardware: it is recognised, and known to have flaws.
    pub const VULNERABLE: Self = Self(32);
    /// Of hardware: it is not recognised.
    pub const UNRECOGNISED: Self = Self(97);
    /// Of what is to be hidden at run time: it can be read from outside.
    pub const VISIBLE: Self = Self(96);

    /// The tier that the value is of. What no draft gives a meaning is worth nothing.
    #[must_use]
    pub const fn status(self) -> Status {
        match self.0 {
            -1..=1 => Status::None,
            2..=31 => Status::Affirming,
            32..=95 => Status::Warning,
            _ => Status::Contraindicated,
        }
    }

    const fn is_none(&self) -> bool {
        self.0 == 0
    }
}

/// A tier of trustworthiness, from what says nothing to what speaks against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Nothing is claimed.
    None,
    /// All is well.
    Affirming,
    /// Something is doubtful.
    Warning,
    /// Something is wrong.
    Contraindicated,
}

/// What is claimed of each side of an attester.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct TrustVector {
    /// That it is one that is known.
    #[serde(skip_serializing_if = "TrustClaim::is_none")]
    pub instance_identity: TrustClaim,
    /// How it is set up.
    #[serde(skip_serializing_if = "TrustClaim::is_none")]
    pub configuration: TrustClaim,
    /// What it loaded.
    #[serde(skip_serializing_if = "TrustClaim::is_none")]
    pub executables: TrustClaim,
    /// What is in its files.
    #[serde(skip_serializing_if = "TrustClaim::is_none")]
    pub file_system: TrustClaim,
    /// What it runs on.
    #[serde(skip_serializing_if = "TrustClaim::is_none")]
    pub hardware: TrustClaim,
    /// Whether its memory is hidden from others.
    #[serde(skip_serializing_if = "TrustClaim::is_none")]
    pub runtime_opaque: TrustClaim,
    /// Whether what it stores is.
    #[serde(skip_serializing_if = "TrustClaim::is_none")]
    pub storage_opaque: TrustClaim,
    /// What it gets from elsewhere.
    #[serde(skip_serializing_if = "TrustClaim::is_none")]
    pub sourced_data: TrustClaim,
}

impl TrustVector {
    /// The worst of its tiers.
    #[must_use]
    pub fn status(&self) -> Status {
        let all = [
            self.instance_identity,
            self.configuration,
            self.executables,
            self.file_system,
            self.hardware,
            self.runtime_opaque,
            self.storage_opaque,
            self.sourced_data,
        ];
        all.into_iter().map(TrustClaim::status).max().unwrap_or(Status::None)
    }

    /// The same, with nothing in it that only hardware could vouch for.
    const fn of_no_hardware(self) -> Self {
        Self {
            hardware: TrustClaim::UNRECOGNISED,
            runtime_opaque: TrustClaim::VISIBLE,
            instance_identity: TrustClaim::NONE,
            ..self
        }
    }
}

/// What was found of one attester.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Submodule {
    ear_status: Status,
    ear_trustworthiness_vector: TrustVector,
    ear_appraisal_policy_ids: Vec<String>,
    ear_attester_claims: serde_json::Value,
    #[serde(rename = "tenure_tier")]
    tier: String,
}

impl Submodule {
    /// What was found, under this policy. Of a test's root no more than that is said of hardware.
    #[must_use]
    pub fn new(tier: Tier, vector: TrustVector, policy: &str, claims: serde_json::Value) -> Self {
        let vector = match tier {
            Tier::Hardware => vector,
            Tier::SoftwareTest => vector.of_no_hardware(),
        };
        Self {
            ear_status: vector.status(),
            ear_trustworthiness_vector: vector,
            ear_appraisal_policy_ids: [policy.to_string()].into(),
            ear_attester_claims: claims,
            tier: tier.to_string(),
        }
    }

    /// What vouches for it: hardware only if it says so in this very word.
    #[must_use]
    pub fn tier(&self) -> Tier {
        if self.tier == Tier::Hardware.to_string() { Tier::Hardware } else { Tier::SoftwareTest }
    }

    /// The worst tier of the vector.
    #[must_use]
    pub const fn status(&self) -> Status {
        self.ear_status
    }

    /// The vector.
    #[must_use]
    pub const fn vector(&self) -> &TrustVector {
        &self.ear_trustworthiness_vector
    }

    /// What the evidence says.
    #[must_use]
    pub const fn claims(&self) -> &serde_json::Value {
        &self.ear_attester_claims
    }

    /// Whether this policy judged it, and no other.
    #[must_use]
    pub fn is_by_policy(&self, policy: &str) -> bool {
        matches!(&self.ear_appraisal_policy_ids[..], [only] if only == policy)
    }

    /// Whether it says what [`Submodule::new`] could have made it say.
    fn is_consistent(&self) -> bool {
        let vector = self.ear_trustworthiness_vector;
        self.ear_status == vector.status()
            && (self.tier() == Tier::Hardware || vector == vector.of_no_hardware())
            && [Tier::Hardware, Tier::SoftwareTest].iter().any(|tier| tier.to_string() == self.tier)
    }
}

/// Who says so.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Verifier {
    /// Who made it.
    pub developer: String,
    /// Which version of it.
    pub build: String,
}

/// The result of an appraisal, bound to the key of the guest that it is about, if that is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ear {
    eat_profile: String,
    iat: u64,
    exp: u64,
    eat_nonce: String,
    ear_verifier_id: Verifier,
    #[serde(rename = "tee-pubkey", default, skip_serializing_if = "serde_json::Value::is_null")]
    tee_pubkey: serde_json::Value,
    submods: BTreeMap<String, Submodule>,
    #[serde(rename = "tenure_resources", default, skip_serializing_if = "serde_json::Value::is_null")]
    resources: serde_json::Value,
}

/// What a result is about.
#[derive(Clone, Debug)]
pub struct Subject {
    /// The number that makes the evidence fresh.
    pub nonce: String,
    /// The guest's key, as JWK; null if it is not known.
    pub tee_pubkey: serde_json::Value,
    /// What may be released to that key, in the words of whoever releases it; null if nobody does.
    pub resources: serde_json::Value,
}

/// The name of the one attester: the processor that the guest runs on.
pub const CPU: &str = "cpu0";

impl Ear {
    /// A result that holds from this moment on for so long.
    #[must_use]
    pub fn new(verifier: Verifier, subject: Subject, cpu: Submodule, now: UnixTime, lifetime: Duration) -> Self {
        Self {
            eat_profile: PROFILE.to_string(),
            iat: now.as_secs(),
            exp: now.as_secs().saturating_add(lifetime.as_secs()),
            eat_nonce: subject.nonce,
            ear_verifier_id: verifier,
            tee_pubkey: subject.tee_pubkey,
            submods: BTreeMap::from([(CPU.to_string(), cpu)]),
            resources: subject.resources,
        }
    }

    /// The number that makes the evidence fresh, as it was given to [`Subject`]: whoever chose one compares it.
    #[must_use]
    pub fn nonce(&self) -> &str {
        &self.eat_nonce
    }

    /// The guest's key, as JWK; null if nobody said so.
    #[must_use]
    pub const fn tee_pubkey(&self) -> &serde_json::Value {
        &self.tee_pubkey
    }

    /// What may be released to that key.
    #[must_use]
    pub const fn resources(&self) -> &serde_json::Value {
        &self.resources
    }

    /// What was found of the processor.
    #[must_use]
    pub fn cpu(&self) -> Option<&Submodule> {
        self.submods.get(CPU)
    }

    /// From when on it does not hold any more.
    #[must_use]
    pub const fn expires(&self) -> UnixTime {
        UnixTime::from_secs(self.exp)
    }

    /// Whether it is of this form and holds at this moment.
    pub(crate) fn check(&self, now: UnixTime) -> Result<(), TokenError> {
        if self.eat_profile != PROFILE || self.submods.len() != 1 || self.cpu().is_none() {
            return Err(TokenError::Profile);
        }
        if !self.submods.values().all(Submodule::is_consistent) {
            return Err(TokenError::Inconsistent);
        }
        if now.as_secs() < self.iat || now >= self.expires() {
            return Err(TokenError::Expired { from: UnixTime::from_secs(self.iat), to: self.expires(), now });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// no-silent-trust: whatever a vector was to say, of a test's root it affirms no hardware.
    #[test]
    fn no_silent_trust_a_test_root_affirms_no_hardware() {
        let all = TrustVector {
            instance_identity: TrustClaim::AFFIRMED,
            configuration: TrustClaim::AFFIRMED,
            executables: TrustClaim::BOOT_RECOGNISED,
            hardware: TrustClaim::AFFIRMED,
            runtime_opaque: TrustClaim::AFFIRMED,
            ..TrustVector::default()
        };
        let real = Submodule::new(Tier::Hardware, all, "p", serde_json::Value::Null);
        assert_eq!((real.status(), real.tier()), (Status::Affirming, Tier::Hardware));
        let test = Submodule::new(Tier::SoftwareTest, all, "p", serde_json::Value::Null);
        assert_eq!((test.status(), test.tier()), (Status::Contraindicated, Tier::SoftwareTest));
        assert_eq!(test.vector().hardware.status(), Status::Contraindicated);
        assert!(test.is_consistent() && real.is_consistent());
        // Nor if somebody says otherwise.
        for change in [
            |it: &mut Submodule| it.ear_trustworthiness_vector.hardware = TrustClaim::AFFIRMED,
            |it: &mut Submodule| it.ear_status = Status::Affirming,
            |it: &mut Submodule| it.tier = "Hardware".into(),
        ] {
            let mut changed = test.clone();
            change(&mut changed);
            assert!(!changed.is_consistent());
            assert_eq!(changed.tier(), Tier::SoftwareTest);
        }
    }

    /// AR4SI's ranges.
    #[test]
    fn tiers_of_values() {
        for (value, status) in [
            (-128, Status::Contraindicated),
            (-1, Status::None),
            (1, Status::None),
            (2, Status::Affirming),
            (31, Status::Affirming),
            (32, Status::Warning),
            (95, Status::Warning),
            (96, Status::Contraindicated),
            (127, Status::Contraindicated),
        ] {
            assert_eq!(TrustClaim(value).status(), status, "{value}");
        }
    }
}
