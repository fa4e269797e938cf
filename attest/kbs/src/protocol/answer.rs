//! An answer to a challenge, as the service reads it before it takes the challenge.
//!
//! Owns how little of it is read: a number and a key. Evidence stays the text that was sent, because trees made of text take a
//! hundred times its room, and who sent this has shown nothing yet. Init-data is not looked at. The form is that of
//! [`super::Attestation`], which guests write.

use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::TeePubKey;

/// More than any key that is taken.
const KEY_MOST: usize = 8 << 10;

/// What a guest sends.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Answer {
    /// Whose answer it is.
    pub runtime_data: Runtime,
    /// What is to be judged.
    pub tee_evidence: Sent,
}

/// What evidence is bound to.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Runtime {
    /// The number that the guest was asked with.
    pub nonce: String,
    /// The key that a secret is to be encrypted to.
    #[serde(deserialize_with = "key")]
    pub tee_pubkey: TeePubKey,
}

/// Evidence that nobody has read.
#[derive(Debug, Deserialize)]
pub struct Sent {
    /// The guest's, in JSON.
    pub primary_evidence: Box<RawValue>,
    /// That of other devices.
    pub additional_evidence: String,
}

fn key<'de, D: Deserializer<'de>>(from: D) -> Result<TeePubKey, D::Error> {
    let sent = Box::<RawValue>::deserialize(from)?;
    if sent.get().len() > KEY_MOST {
        return Err(D::Error::custom(format!("tee-pubkey has more than {KEY_MOST} bytes")));
    }
    serde_json::from_str(sent.get()).map_err(D::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{Attestation, CompositeEvidence, RuntimeData};
    use serde_json::{Value, json};

    fn sent(key: &Value) -> String {
        json!({
            "init-data": null,
            "runtime-data": { "nonce": "n", "tee-pubkey": key },
            "tee-evidence": { "primary_evidence": { "quote": "AAAA" }, "additional_evidence": "" },
        })
        .to_string()
    }

    /// What the crate `kbs-types` writes is read, with or without init-data.
    #[test]
    fn answers_are_those_of_the_protocol() {
        let tee_pubkey = TeePubKey::EC { crv: "c".into(), alg: "a".into(), x: "x".into(), y: "y".into() };
        let tee_evidence =
            CompositeEvidence { primary_evidence: json!({ "quote": "A B" }), additional_evidence: "{}".into() };
        let runtime_data = RuntimeData { nonce: "n".into(), tee_pubkey };
        let said = serde_json::to_string(&Attestation { init_data: None, runtime_data, tee_evidence }).unwrap();
        let Answer { runtime_data, tee_evidence } = serde_json::from_str(&said).unwrap();
        assert_eq!(runtime_data.nonce, "n");
        assert!(matches!(runtime_data.tee_pubkey, TeePubKey::EC { .. }));
        assert_eq!(tee_evidence.primary_evidence.get(), r#"{"quote":"A B"}"#);
        assert_eq!(tee_evidence.additional_evidence, "{}");
    }

    /// no-silent-trust: what stands for a key is one, and no larger than that.
    #[test]
    fn no_silent_trust_a_key_is_small() {
        let key = |x: usize| json!({ "kty": "EC", "crv": "c", "alg": "a", "x": "x".repeat(x), "y": "y" });
        assert!(serde_json::from_str::<Answer>(&sent(&key(1))).is_ok());
        let error = serde_json::from_str::<Answer>(&sent(&key(KEY_MOST))).unwrap_err();
        assert!(error.to_string().starts_with("tee-pubkey has more than 8192 bytes"), "{error}");
        for other in [json!(null), json!({ "kty": "oct", "k": "k" }), json!([])] {
            assert!(serde_json::from_str::<Answer>(&sent(&other)).is_err(), "{other}");
        }
    }
}
