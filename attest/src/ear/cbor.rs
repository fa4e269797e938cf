//! Claims in CBOR: the same as in JSON, with numbers for names.
//!
//! Owns which number stands for which name, and the one way of writing: every number as short as it can be, keys in the
//! order of their bytes, nothing of unknown length. What was read is written again and must be the same bytes, so that
//! nothing can be said in two ways. Does not own what claims mean: they are read as those in JSON are.
//!
//! Specifications: RFC 8949 4.2.1 (deterministic encoding), RFC 8392 (CWT), RFC 9711 (EAT), draft-ietf-rats-ear-04.
//! Claims that only we have are numbered below -65536, which is nobody's.

use alloc::string::String;
use alloc::vec::Vec;
use core::convert::Infallible;

use base64ct::{Base64UrlUnpadded, Encoding};
use minicbor::data::Type;
use minicbor::encode::Error;
use minicbor::{Decoder, Encoder};
use serde_json::{Map, Value};

/// Levels of lists and maps in claims.
const DEPTH_MOST: u32 = 16;
/// Bytes of a nonce.
const NONCE: core::ops::RangeInclusive<usize> = 8..=64;

/// Where in the claims something stands, which says how names and values are written there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The whole.
    Ear,
    Verifier,
    /// Attesters, by names of their own.
    Submodules,
    Submodule,
    Vector,
    /// A tier of trustworthiness, which is a number.
    Status,
    /// Bytes, in JSON as base64url.
    Nonce,
    /// As it is, with text for keys.
    Plain,
}

use Place::{Ear, Nonce, Plain, Status, Submodule, Submodules, Vector, Verifier};

type Key = (&'static str, i64, Place);

const EAR: [Key; 8] = [
    ("exp", 4, Plain),
    ("iat", 6, Plain),
    ("eat_nonce", 10, Nonce),
    ("eat_profile", 265, Plain),
    ("submods", 266, Submodules),
    ("ear_verifier_id", 1004, Verifier),
    ("tee-pubkey", -80_001, Plain),
    ("tenure_resources", -80_002, Plain),
];
const VERIFIER: [Key; 2] = [("developer", 0, Plain), ("build", 1, Plain)];
const SUBMODULE: [Key; 5] = [
    ("ear_status", 1000, Status),
    ("ear_trustworthiness_vector", 1001, Vector),
    ("ear_appraisal_policy_ids", 1003, Plain),
    ("ear_attester_claims", 1005, Plain),
    ("tenure_tier", -80_003, Plain),
];
const VECTOR: [Key; 8] = [
    ("instance-identity", 0, Plain),
    ("configuration", 1, Plain),
    ("executables", 2, Plain),
    ("file-system", 3, Plain),
    ("hardware", 4, Plain),
    ("runtime-opaque", 5, Plain),
    ("storage-opaque", 6, Plain),
    ("sourced-data", 7, Plain),
];
const STATUS: [(&str, i64); 4] = [("none", 0), ("affirming", 2), ("warning", 32), ("contraindicated", 96)];

impl Place {
    const fn keys(self) -> &'static [Key] {
        match self {
            Ear => &EAR,
            Verifier => &VERIFIER,
            Submodule => &SUBMODULE,
            Vector => &VECTOR,
            Submodules | Status | Nonce | Plain => &[],
        }
    }

    /// Whether keys are text here, and what their values are.
    const fn named(self) -> Option<Place> {
        match self {
            Submodules => Some(Submodule),
            Plain => Some(Plain),
            _ => None,
        }
    }
}

/// Writes claims.
pub(super) fn write(value: &Value, place: Place) -> Result<Vec<u8>, &'static str> {
    let mut encoder = Encoder::new(Vec::new());
    let done = |done: Result<&mut Encoder<Vec<u8>>, Error<Infallible>>| {
        done.map(|_| ()).map_err(|_| "memory does not take what is written")
    };
    match (place, value) {
        (Nonce, Value::String(text)) => done(encoder.bytes(&nonce(text)?)),
        (Status, Value::String(name)) => {
            let found = STATUS.iter().find(|(known, _)| known == name);
            done(encoder.i64(found.ok_or("a status has no number")?.1))
        }
        (Nonce | Status, _) => Err("a nonce or a status is no text"),
        (_, Value::Null) => done(encoder.null()),
        (_, Value::Bool(is_so)) => done(encoder.bool(*is_so)),
        (_, Value::String(text)) => done(encoder.str(text)),
        (_, Value::Number(number)) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => done(encoder.u64(number)),
            (None, Some(number)) => done(encoder.i64(number)),
            (None, None) => Err("a number is none of 64 bits"),
        },
        (_, Value::Array(values)) => {
            done(encoder.array(values.len() as u64))?;
            values.iter().try_for_each(|value| write(value, Plain).map(|bytes| encoder.writer_mut().extend(bytes)))
        }
        (_, Value::Object(members)) => {
            let mut entries = members.iter().map(|it| entry(it, place)).collect::<Result<Vec<_>, _>>()?;
            entries.sort();
            done(encoder.map(entries.len() as u64))?;
            entries.into_iter().flat_map(|(key, value)| [key, value]).for_each(|it| encoder.writer_mut().extend(it));
            Ok(())
        }
    }?;
    Ok(encoder.into_writer())
}

/// A key and its value, written.
fn entry((name, value): (&String, &Value), place: Place) -> Result<(Vec<u8>, Vec<u8>), &'static str> {
    let mut encoder = Encoder::new(Vec::new());
    let (written, of) = match (place.named(), place.keys().iter().find(|(known, ..)| known == name)) {
        (Some(of), _) => (encoder.str(name).is_ok(), of),
        (None, Some((_, number, of))) => (encoder.i64(*number).is_ok(), *of),
        (None, None) => return Err("a claim has no number"),
    };
    if !written {
        return Err("memory does not take what is written");
    }
    Ok((encoder.into_writer(), write(value, of)?))
}

fn nonce(text: &str) -> Result<Vec<u8>, &'static str> {
    let bytes = Base64UrlUnpadded::decode_vec(text).map_err(|_| "the nonce is not base64url")?;
    if NONCE.contains(&bytes.len()) { Ok(bytes) } else { Err("the nonce has not 8 to 64 bytes") }
}

/// Reads claims that are written in the one way.
pub(super) fn read(bytes: &[u8]) -> Result<Value, &'static str> {
    let mut decoder = Decoder::new(bytes);
    let value = value(&mut decoder, Ear, DEPTH_MOST)?;
    if decoder.position() != bytes.len() {
        return Err("something follows the claims");
    }
    if write(&value, Ear)? != bytes {
        return Err("claims are written in another way than the deterministic one");
    }
    Ok(value)
}

fn value(decoder: &mut Decoder<'_>, place: Place, depth: u32) -> Result<Value, &'static str> {
    const MALFORMED: &str = "claims are not well-formed";
    let depth = depth.checked_sub(1).ok_or("claims are too deep")?;
    let kind = decoder.datatype().map_err(|_| MALFORMED)?;
    Ok(match (place, kind) {
        (Nonce, Type::Bytes) => Base64UrlUnpadded::encode_string(decoder.bytes().map_err(|_| MALFORMED)?).into(),
        (Status, _) => {
            let number = decoder.i64().map_err(|_| "a status is no number")?;
            STATUS.iter().find(|(_, known)| *known == number).ok_or("a status is unknown")?.0.into()
        }
        (_, Type::Null) => decoder.null().map(|()| Value::Null).map_err(|_| MALFORMED)?,
        (_, Type::Bool) => decoder.bool().map_err(|_| MALFORMED)?.into(),
        (_, Type::String) => decoder.str().map_err(|_| MALFORMED)?.into(),
        (_, Type::U8 | Type::U16 | Type::U32 | Type::U64) => decoder.u64().map_err(|_| MALFORMED)?.into(),
        (_, Type::I8 | Type::I16 | Type::I32 | Type::I64) => decoder.i64().map_err(|_| MALFORMED)?.into(),
        (_, Type::Array) => {
            let count = decoder.array().ok().flatten().ok_or(MALFORMED)?;
            // Nothing is reserved by a count: every member is at least a byte.
            let members = (0..count).map(|_| value(decoder, Plain, depth));
            Value::Array(members.collect::<Result<_, _>>()?)
        }
        (_, Type::Map) => {
            let count = decoder.map().ok().flatten().ok_or(MALFORMED)?;
            let mut members = Map::new();
            for _ in 0..count {
                let (name, of) = key(decoder, place)?;
                members.insert(name, value(decoder, of, depth)?);
            }
            Value::Object(members)
        }
        _ => return Err("claims have something in them that JSON has not"),
    })
}

fn key(decoder: &mut Decoder<'_>, place: Place) -> Result<(String, Place), &'static str> {
    if let Some(of) = place.named() {
        return decoder.str().map(|name| (name.into(), of)).map_err(|_| "a key is no text");
    }
    let number = decoder.i64().map_err(|_| "a key is no number")?;
    let known = place.keys().iter().find(|(_, known, _)| *known == number);
    known.map(|(name, _, of)| ((*name).into(), *of)).ok_or("a claim is unknown")
}
