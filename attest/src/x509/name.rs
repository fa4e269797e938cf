//! Names of subjects and issuers, in words.
//!
//! Owns writing the attributes that nearly every certificate has. The crate `x509-cert` looks for what an attribute is called
//! among all that there are, which takes about as long as reading the certificate; it still writes every name that has
//! something else in it, and the same text. Specification: RFC 4514, section 3.

use alloc::string::{String, ToString as _};
use alloc::vec::Vec;

use der::asn1::ObjectIdentifier;
use der::{Tag, Tagged as _};
use x509_cert::attr::AttributeTypeAndValue;
use x509_cert::name::{Name, RelativeDistinguishedName};

/// What attributes are called, by their identifiers.
const CALLED: [(ObjectIdentifier, &str); 6] = [
    (ObjectIdentifier::new_unwrap("2.5.4.3"), "CN="),
    (ObjectIdentifier::new_unwrap("2.5.4.6"), "C="),
    (ObjectIdentifier::new_unwrap("2.5.4.7"), "L="),
    (ObjectIdentifier::new_unwrap("2.5.4.8"), "ST="),
    (ObjectIdentifier::new_unwrap("2.5.4.10"), "O="),
    (ObjectIdentifier::new_unwrap("2.5.4.11"), "OU="),
];

/// A name as people read it, the last part first.
pub(super) fn words(name: &Name) -> String {
    let Some(mut parts) = name.iter_rdn().map(plain).collect::<Option<Vec<String>>>() else { return name.to_string() };
    parts.reverse();
    parts.join(",")
}

/// A part of one attribute that is known, none of whose characters mean anything.
fn plain(part: &RelativeDistinguishedName) -> Option<String> {
    let mut attributes = part.iter();
    let AttributeTypeAndValue { oid, value } = attributes.next().filter(|_| attributes.next().is_none())?;
    let (_, called) = CALLED.iter().find(|(known, _)| known == oid)?;
    let text = Some(value).filter(|value| [Tag::PrintableString, Tag::Utf8String].contains(&value.tag()))?;
    let text = core::str::from_utf8(text.value()).ok()?;
    let is_plain = |character: char| character.is_ascii_alphanumeric() || " .-".contains(character);
    let is_text = text.chars().all(is_plain) && !text.starts_with(' ') && !text.ends_with(' ');
    is_text.then(|| [*called, text].concat())
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::str::FromStr as _;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// no-silent-trust: what is looked up here reads as if it had been looked up there.
        #[test]
        fn no_silent_trust_names_read_the_same(
            kinds in prop::collection::vec(prop::sample::select(&["CN", "C", "L", "ST", "O", "OU", "SERIALNUMBER", "DC"][..]), 0..4),
            texts in prop::collection::vec("[ -~]{0,12}|[A-Za-z .-]{1,20}", 4),
            together in any::<bool>(),
        ) {
            let parts: Vec<_> = kinds.iter().zip(&texts).map(|(kind, text)| {
                let escaped: String = text.chars().flat_map(|it| ['\\', it]).collect();
                std::format!("{kind}={escaped}")
            }).collect();
            let Ok(name) = Name::from_str(&parts.join(if together { "+" } else { "," })) else { return Ok(()) };
            prop_assert_eq!(words(&name), name.to_string());
        }
    }

    #[test]
    fn names_of_real_certificates_are_known() {
        for text in [
            "CN=Intel SGX Root CA,O=Intel Corporation,L=Santa Clara,ST=CA,C=US",
            "CN=ARK-Milan,O=Advanced Micro Devices",
        ] {
            let name = Name::from_str(text).unwrap();
            assert!(name.iter_rdn().all(|part| plain(part).is_some()), "{text}");
            assert_eq!(words(&name), text);
        }
    }
}
