//! Results as CBOR Web Tokens, signed with ECDSA on P-384 (ES384) as COSE_Sign1.
//!
//! Owns form and signature; claims are `cbor`'s. As with [`super::jwt`], a token is read back with the key that its
//! reader has: headers decide nothing. The algorithm must stand in the protected header, what must be understood is
//! refused, and signatures are checked over received bytes.
//!
//! Specifications: RFC 9052 (COSE), RFC 9053 2.1 (ES384), RFC 8392 (CWT).

use alloc::format;
use alloc::string::ToString;
use alloc::vec::Vec;

use minicbor::data::{Tag, Type};
use minicbor::{Decoder, Encoder};
use p384::ecdsa::Signature;
use p384::ecdsa::signature::{Signer, Verifier as _};

use super::Ear;
use super::cbor::{self, Place};
use super::jwt::{MOST, TokenError, TokenKey, TokenSigner};
use crate::UnixTime;

/// A message with one signature, and that it is one.
const COSE_SIGN1: u64 = 18;
const CONTEXT: &str = "Signature1";
/// Header: the algorithm.
const ALG: i64 = 1;
/// Header: what must be understood.
const CRIT: i64 = 2;
const ES384: i64 = -35;

impl TokenSigner {
    /// The result as a token in CBOR. Its nonce must be 8 to 64 bytes in base64url. What would not be read is not signed.
    pub fn sign_cwt(&self, ear: &Ear) -> Result<Vec<u8>, TokenError> {
        let claims = serde_json::to_value(ear).map_err(TokenError::Claims)?;
        let claims = cbor::write(&claims, Place::Ear).map_err(TokenError::Cwt)?;
        let token = self.seal(&claims).ok_or(TokenError::Cwt("memory does not take what is written"))?;
        if token.len() > MOST { Err(TokenError::TooLong(token.len())) } else { Ok(token) }
    }

    fn seal(&self, claims: &[u8]) -> Option<Vec<u8>> {
        let protected = Encoder::new(Vec::new()).map(1).ok()?.i64(ALG).ok()?.i64(ES384).ok()?.writer().clone();
        let signature: Signature = self.0.sign(&signed(&protected, claims)?);
        let mut message = Encoder::new(Vec::new());
        message.tag(Tag::new(COSE_SIGN1)).ok()?.array(4).ok()?.bytes(&protected).ok()?.map(0).ok()?;
        message.bytes(claims).ok()?.bytes(&signature.to_bytes()).ok()?;
        Some(message.into_writer())
    }
}

impl TokenKey {
    /// The result in a token in CBOR, if this key's owner signed it and it holds at this moment.
    pub fn read_cwt(&self, token: &[u8], now: UnixTime) -> Result<Ear, TokenError> {
        if token.len() > MOST {
            return Err(TokenError::Cwt("it is too long"));
        }
        let Message { protected, claims, signature } = message(token)?;
        let signature = Signature::from_slice(signature).map_err(|_| TokenError::Signature)?;
        let signed = signed(protected, claims).ok_or(TokenError::Signature)?;
        self.0.verify(&signed, &signature).map_err(|_| TokenError::Signature)?;
        claims_of(claims, now)
    }
}

/// The result in claims that are signed.
pub(crate) fn claims_of(claims: &[u8], now: UnixTime) -> Result<Ear, TokenError> {
    let claims = cbor::read(claims).map_err(TokenError::Cwt)?;
    let ear: Ear = serde_json::from_value(claims).map_err(TokenError::Claims)?;
    ear.check(now)?;
    Ok(ear)
}

struct Message<'a> {
    protected: &'a [u8],
    claims: &'a [u8],
    signature: &'a [u8],
}

fn message(token: &[u8]) -> Result<Message<'_>, TokenError> {
    let form = |_| TokenError::Cwt("it is no COSE_Sign1 of four parts");
    let mut decoder = Decoder::new(token);
    let tag = decoder.tag().map_err(form)?;
    if tag != Tag::new(COSE_SIGN1) || decoder.array().map_err(form)? != Some(4) {
        return Err(TokenError::Cwt("it is no COSE_Sign1 of four parts"));
    }
    let protected = decoder.bytes().map_err(form)?;
    let mut inner = Decoder::new(protected);
    let algorithm = header(&mut inner)?;
    if inner.position() != protected.len() {
        return Err(TokenError::Cwt("something follows the protected header"));
    }
    if algorithm != Some(ES384) {
        let found = algorithm.map_or_else(|| "nothing".to_string(), |number| format!("COSE algorithm {number}"));
        return Err(TokenError::Algorithm { found });
    }
    if header(&mut decoder)?.is_some() {
        return Err(TokenError::Cwt("it names an algorithm where nobody signed it"));
    }
    let (claims, signature) = (decoder.bytes().map_err(form)?, decoder.bytes().map_err(form)?);
    if decoder.position() != token.len() {
        return Err(TokenError::Cwt("something follows it"));
    }
    Ok(Message { protected, claims, signature })
}

/// The algorithm that a header names. What else it has is passed over, unless it must be understood.
fn header(decoder: &mut Decoder<'_>) -> Result<Option<i64>, TokenError> {
    let form = |_| TokenError::Cwt("a header is malformed");
    let count = decoder.map().map_err(form)?.ok_or(TokenError::Cwt("a header is malformed"))?;
    let mut algorithm = None;
    for _ in 0..count {
        if decoder.datatype().map_err(form)? == Type::String {
            decoder.skip().map_err(form)?;
            decoder.skip().map_err(form)?;
            continue;
        }
        match decoder.i64().map_err(form)? {
            ALG if algorithm.is_some() => return Err(TokenError::Cwt("a header names two algorithms")),
            ALG => algorithm = Some(decoder.i64().map_err(form)?),
            CRIT => return Err(TokenError::Cwt("a header has something that must be understood")),
            _ => decoder.skip().map_err(form)?,
        }
    }
    Ok(algorithm)
}

/// What is signed: both, and that it is for one signature.
fn signed(protected: &[u8], claims: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = Encoder::new(Vec::new());
    encoder.array(4).ok()?.str(CONTEXT).ok()?.bytes(protected).ok()?.bytes(&[]).ok()?.bytes(claims).ok()?;
    Some(encoder.into_writer())
}

#[cfg(test)]
mod tests;
