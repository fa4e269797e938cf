//! What the certificate of an endorsement key says of the platform.
//!
//! Owns AMD's extensions. A missing one is missing, never a default. Specification: AMD 57230, "X.509 extensions".

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use der::Decode as _;
use der::asn1::{Ia5StringRef, ObjectIdentifier, OctetStringRef};

use super::Product;
use crate::x509::Certificate;

const PRODUCT: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.2");
const HWID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");
const CSP_ID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.5");

/// Whose version an extension gives.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Part {
    BootLoader,
    Tee,
    Snp,
    Microcode,
    Fmc,
}

impl Part {
    const fn extension(self) -> ObjectIdentifier {
        match self {
            Self::BootLoader => ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1"),
            Self::Tee => ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2"),
            Self::Snp => ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3"),
            Self::Microcode => ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8"),
            Self::Fmc => ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9"),
        }
    }
}

/// Why there is no such statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsaid {
    #[error("not in the certificate")]
    Missing,
    #[error("malformed")]
    Malformed,
    #[error("{bytes} bytes long, as {}, not {} as a {wanted}'s", owners(*bytes), wanted.chip_id_bytes())]
    OtherChip { bytes: usize, wanted: Product },
}

/// Whose chips have identifiers of so many bytes, in words; nothing if nobody's.
fn owners(bytes: usize) -> String {
    let owners = Product::ALL.into_iter().filter(|product| product.chip_id_bytes() == bytes);
    owners.map(|product| format!("a {product}'s")).collect::<Vec<_>>().join(" or ")
}

/// The version of a part.
pub(crate) fn version(certificate: &Certificate<'_>, part: Part) -> Result<u8, Unsaid> {
    u8::from_der(said(certificate, part.extension())?).map_err(|_| Unsaid::Malformed)
}

/// The product, with its stepping in some certificates: `Milan-B0`.
pub(crate) fn product(certificate: &Certificate<'_>) -> Result<String, Unsaid> {
    let name = Ia5StringRef::from_der(said(certificate, PRODUCT)?).map_err(|_| Unsaid::Malformed)?;
    Ok(name.as_str().into())
}

/// The chip's identifier: as it is in some certificates, as an OCTET STRING in others.
pub(crate) fn chip<'c>(certificate: &'c Certificate<'_>, wanted: Product) -> Result<&'c [u8], Unsaid> {
    let contents = said(certificate, HWID)?;
    if contents.len() == wanted.chip_id_bytes() {
        return Ok(contents);
    }
    let chip = <&OctetStringRef>::from_der(contents).map_or(contents, OctetStringRef::as_bytes);
    match chip.len() {
        bytes if bytes == wanted.chip_id_bytes() => Ok(chip),
        bytes if owners(bytes).is_empty() => Err(Unsaid::Malformed),
        bytes => Err(Unsaid::OtherChip { bytes, wanted }),
    }
}

/// Whether it names a chip.
pub(crate) fn names_chip(certificate: &Certificate<'_>) -> bool {
    certificate.extension(HWID).is_some()
}

/// Whether it names a provider.
pub(crate) fn names_provider(certificate: &Certificate<'_>) -> bool {
    certificate.extension(CSP_ID).is_some()
}

/// Everything that is ever read of a certificate.
#[cfg(feature = "parsers")]
pub(crate) fn read_all(certificate: &Certificate<'_>) {
    let _ = (product(certificate), names_chip(certificate), names_provider(certificate));
    let _ = Product::ALL.map(|product| chip(certificate, product).is_ok());
    let _ = [Part::BootLoader, Part::Tee, Part::Snp, Part::Microcode, Part::Fmc].map(|part| version(certificate, part));
}

fn said<'c>(certificate: &'c Certificate<'_>, id: ObjectIdentifier) -> Result<&'c [u8], Unsaid> {
    certificate.extension(id).ok_or(Unsaid::Missing)
}
