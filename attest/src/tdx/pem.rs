//! Chains of certificates in PEM.
//!
//! Owns taking one apart: certificates and nothing else, of a number that is known. Does not own their order or who
//! signed whom. Specification: RFC 7468, strict form.

use alloc::vec::Vec;

const LABEL: &str = "CERTIFICATE";
const END: &[u8] = b"-----END CERTIFICATE-----";

/// Why bytes are no such chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PemError {
    #[error("malformed: certificate {0} is none in PEM")]
    Form(usize),
    #[error("one of {found} certificates, not of {wanted}")]
    Count { found: usize, wanted: usize },
}

/// The certificates of a chain of this many, in DER. Zeros may follow: the text may be one of C's.
pub(crate) fn chain<const COUNT: usize>(pem: &[u8]) -> Result<[Vec<u8>; COUNT], PemError> {
    let mut rest = trim(pem);
    let mut chain = Vec::with_capacity(COUNT);
    while !rest.is_empty() {
        let number = chain.len() + 1;
        if number > COUNT {
            return Err(PemError::Count { found: number, wanted: COUNT });
        }
        let end = rest.windows(END.len()).position(|window| window == END).ok_or(PemError::Form(number))? + END.len();
        let (block, after) = rest.split_at(end);
        match der::pem::decode_vec(block) {
            Ok((LABEL, certificate)) => chain.push(certificate),
            _ => return Err(PemError::Form(number)),
        }
        rest = after.trim_ascii_start();
    }
    let found = chain.len();
    chain.try_into().map_err(|_| PemError::Count { found, wanted: COUNT })
}

fn trim(pem: &[u8]) -> &[u8] {
    let end = pem.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    pem[..end].trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::{String, ToString};
    use alloc::vec;

    const ONE: &str = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";

    fn two(pem: &str) -> Result<[Vec<u8>; 2], String> {
        chain(pem.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn chains_are_taken_apart_whether_zeros_follow_or_not() {
        let bytes = [vec![1, 2, 3], vec![1, 2, 3]];
        assert_eq!(two(&[ONE, ONE].concat()).unwrap(), bytes);
        assert_eq!(two(&[ONE, "\n", ONE, "\0\0"].concat()).unwrap(), bytes);
    }

    /// no-silent-trust: a chain has what it should have and nothing else.
    #[test]
    fn no_silent_trust_chains_that_are_none() {
        let key = "-----BEGIN PUBLIC KEY-----\nAQID\n-----END PUBLIC KEY-----\n";
        for (pem, expected) in [
            ("".into(), "one of 0 certificates, not of 2"),
            (ONE.into(), "one of 1 certificates, not of 2"),
            ([ONE, ONE, ONE].concat(), "one of 3 certificates, not of 2"),
            ([ONE, key].concat(), "malformed: certificate 2 is none in PEM"),
            ([key, ONE].concat(), "malformed: certificate 1 is none in PEM"),
            ([ONE, "\0", ONE].concat(), "malformed: certificate 2 is none in PEM"),
            ([ONE, ONE, "more"].concat(), "one of 3 certificates, not of 2"),
            (ONE.replace("AQID", "AQI"), "malformed: certificate 1 is none in PEM"),
        ] {
            assert_eq!(two(&pem).unwrap_err(), expected);
        }
    }
}
