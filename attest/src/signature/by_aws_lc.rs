//! By `aws-lc-rs`.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ParsedPublicKey, RSA_PSS_2048_8192_SHA384, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use rsa::RsaPublicKey;
use rsa::traits::PublicKeyParts as _;

/// With SHA-384 and as many bytes of salt, as AMD's authorities sign certificates and lists.
pub(crate) fn rsa_pss(key: &RsaPublicKey, bytes: &[u8], signature: &[u8]) -> bool {
    let key = RsaPublicKeyComponents { n: key.n().to_bytes_be(), e: key.e().to_bytes_be() };
    key.verify(&RSA_PSS_2048_8192_SHA384, bytes, signature).is_ok()
}

/// A key on P-256, ready for several signatures. One that AWS-LC refuses has signed nothing.
#[derive(Debug)]
pub(crate) struct P256Key(Option<ParsedPublicKey>);

impl From<p256::ecdsa::VerifyingKey> for P256Key {
    fn from(key: p256::ecdsa::VerifyingKey) -> Self {
        Self(ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key.to_sec1_point(false)).ok())
    }
}

/// With SHA-256, as Intel and its platforms sign everything.
pub(crate) fn ecdsa_p256(key: &P256Key, bytes: &[u8], signature: &p256::ecdsa::Signature) -> bool {
    key.0.as_ref().is_some_and(|key| key.verify_sig(bytes, signature.to_der().as_bytes()).is_ok())
}

/// With SHA-384, as AMD's chips sign reports.
pub(crate) fn ecdsa_p384(key: &p384::ecdsa::VerifyingKey, bytes: &[u8], signature: &p384::ecdsa::Signature) -> bool {
    let key = key.to_sec1_point(false);
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_ASN1, key.as_bytes()).verify(bytes, signature.to_der().as_bytes()).is_ok()
}
