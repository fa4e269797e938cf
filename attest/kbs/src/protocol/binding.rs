//! What ties evidence to a challenge and to a key: the 64 bytes that hardware signs for the guest.
//!
//! Owns how they are computed: the hash of what the guest says of itself, as canonical JSON (RFC 8785), followed by
//! zeros. SNP and TDX are alike in that. Both sides compute it; the service never takes it from a guest.

use kbs_types::{HashAlgorithm, TeePubKey};
use serde::Serialize;
use serde_json::Value;

/// What a guest asks for in its first message.
const SUPPORTED: &str = "supported-hash-algorithms";
/// What it is told.
const SELECTED: &str = "selected-hash-algorithm";

/// Best first. SHA-384 is what clients take who are told nothing.
const ALGORITHMS: [HashAlgorithm; 3] = [HashAlgorithm::Sha384, HashAlgorithm::Sha512, HashAlgorithm::Sha256];

/// Why there is no binding.
#[derive(Debug, thiserror::Error)]
pub enum BindingError {
    /// Nothing in common.
    #[error("{SUPPORTED} has none of sha384, sha512, sha256")]
    NoAlgorithm,
    /// Something else than a name.
    #[error("{SELECTED} is not one of sha384, sha512, sha256")]
    Selected,
    /// A key of a kind that we do not know.
    #[error("tee-pubkey has a kty that is not EC or RSA")]
    Key,
    /// It cannot be written as JSON.
    #[error("the runtime data cannot be written: {0}")]
    Json(#[from] serde_json::Error),
}

/// Members in the order that canonical JSON wants.
#[derive(Serialize)]
struct Bound<'a> {
    #[serde(rename = "additional-evidence")]
    additional_evidence: &'a str,
    nonce: &'a str,
    #[serde(rename = "tee-pubkey")]
    tee_pubkey: Key<'a>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Key<'a> {
    Ec { alg: &'a str, crv: &'a str, kty: &'a str, x: &'a str, y: &'a str },
    Rsa { alg: &'a str, e: &'a str, kty: &'a str, n: &'a str },
}

/// The bytes that evidence must have in it.
pub fn report_data(
    algorithm: HashAlgorithm,
    nonce: &str,
    key: &TeePubKey,
    additional_evidence: &str,
) -> Result<[u8; 64], BindingError> {
    let tee_pubkey = match key {
        TeePubKey::EC { crv, alg, x, y } => Key::Ec { alg, crv, kty: "EC", x, y },
        TeePubKey::RSA { alg, k_mod, k_exp } => Key::Rsa { alg, e: k_exp, kty: "RSA", n: k_mod },
        TeePubKey::AKP { .. } => return Err(BindingError::Key),
    };
    let said = serde_json::to_vec(&Bound { additional_evidence, nonce, tee_pubkey })?;
    let mut data = [0; 64];
    for (to, from) in data.iter_mut().zip(algorithm.digest(&said)) {
        *to = from;
    }
    Ok(data)
}

/// The algorithm for a guest that says this of itself.
pub fn select(request_params: &Value) -> Result<HashAlgorithm, BindingError> {
    let Some(supported) = request_params.get(SUPPORTED) else { return Ok(ALGORITHMS[0]) };
    let is_named = |algorithm: &HashAlgorithm| {
        let names = supported.as_array().into_iter().flatten().filter_map(Value::as_str);
        names.into_iter().any(|name| name.eq_ignore_ascii_case(algorithm.as_ref()))
    };
    ALGORITHMS.into_iter().find(is_named).ok_or(BindingError::NoAlgorithm)
}

/// What our own guests say of themselves.
#[must_use]
pub fn request_params() -> Value {
    serde_json::json!({ SUPPORTED: ALGORITHMS })
}

/// What a guest is told.
#[must_use]
pub fn challenge_params(algorithm: HashAlgorithm) -> Value {
    serde_json::json!({ SELECTED: algorithm })
}

/// What a guest was told.
pub fn selected(challenge_params: &Value) -> Result<HashAlgorithm, BindingError> {
    let Some(name) = challenge_params.get(SELECTED) else { return Ok(ALGORITHMS[0]) };
    let name = name.as_str().unwrap_or_default();
    let named = ALGORITHMS.into_iter().find(|algorithm| name.eq_ignore_ascii_case(algorithm.as_ref()));
    named.ok_or(BindingError::Selected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn keys() -> impl Strategy<Value = TeePubKey> {
        let text = "(.|\n){0,12}";
        prop_oneof![
            (text, text, text, text).prop_map(|(crv, alg, x, y)| TeePubKey::EC { crv, alg, x, y }),
            (text, text, text).prop_map(|(alg, k_mod, k_exp)| TeePubKey::RSA { alg, k_mod, k_exp }),
        ]
    }

    proptest! {
        /// What the clients of confidential-containers compute, with the canonicaliser that they use.
        #[test]
        fn binding_is_that_of_others(key in keys(), nonce in "(.|\n){0,40}", additional in "(.|\n){0,20}") {
            let theirs = json!({ "tee-pubkey": key, "nonce": nonce, "additional-evidence": additional });
            let canonical = serde_json_canonicalizer::to_vec(&theirs).unwrap();
            for algorithm in ALGORITHMS {
                let mut expected = algorithm.digest(&canonical);
                expected.resize(64, 0);
                prop_assert_eq!(&report_data(algorithm, &nonce, &key, &additional).unwrap()[..], &expected[..]);
            }
        }
    }

    #[test]
    fn algorithms_are_agreed_upon() {
        for (said, expected) in [
            (json!(""), Some(HashAlgorithm::Sha384)),
            (json!({ SUPPORTED: HashAlgorithm::list_all() }), Some(HashAlgorithm::Sha384)),
            (json!({ SUPPORTED: ["sm3", "SHA256"] }), Some(HashAlgorithm::Sha256)),
            (json!({ SUPPORTED: ["sm3"] }), None),
            (json!({ SUPPORTED: 7 }), None),
        ] {
            assert_eq!(select(&said).ok(), expected, "{said}");
        }
        for algorithm in ALGORITHMS {
            assert_eq!(selected(&challenge_params(algorithm)).unwrap(), algorithm);
        }
        assert_eq!(selected(&json!("")).unwrap(), HashAlgorithm::Sha384);
        assert!(selected(&json!({ SELECTED: "sm3" })).is_err());
    }
}
