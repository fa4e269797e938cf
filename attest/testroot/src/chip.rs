//! Everything a chip keeps secret, derived from one seed: a chip made twice is the same chip.
//!
//! Owns derivation, the chip's identifier and its endorsement keys. Real chips derive by other functions (56860 does not
//! publish them); only that different inputs give unrelated keys matters here.

use sha2::{Digest as _, Sha256, Sha384};

use crate::bytes::put;
use crate::model::{Model, Tcb};
use crate::signing::KeyPair;

/// Bytes of a chip's identifier in reports.
pub const CHIP_ID_BYTES: usize = 64;

/// The root of all of a chip's secrets, or of some of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Seed(pub [u8; 32]);

impl Seed {
    /// A secret of its own for every label and every sequence of parts.
    pub fn derive(&self, label: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [&self.0[..], label.as_bytes()].iter().chain(parts) {
            // A length before each: else parts could be cut elsewhere and give the same secret.
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    /// A longer one.
    pub fn derive_48(&self, label: &str, parts: &[&[u8]]) -> [u8; 48] {
        Sha384::digest(self.derive(label, parts)).into()
    }

    /// The identifier of the chip that has this seed, as reports have it: 8 bytes and zeros on Turin.
    pub fn chip_id(&self, model: Model) -> [u8; CHIP_ID_BYTES] {
        let mut id = [0; CHIP_ID_BYTES];
        let whole = [&self.derive("chip ID", &[b"0"])[..], &self.derive("chip ID", &[b"1"])].concat();
        put(&mut id, 0, &whole[..model.chip_id_bytes()]);
        id
    }

    /// The chip's endorsement key at these versions.
    pub fn vcek(&self, model: Model, tcb: Tcb) -> KeyPair {
        KeyPair::derive(self, "VCEK", &[&tcb.to_bytes(model)])
    }

    /// A provider's at these versions, if this seed is a provider's.
    pub fn vlek(&self, model: Model, tcb: Tcb) -> KeyPair {
        KeyPair::derive(self, "VLEK", &[&tcb.to_bytes(model)])
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_depend_on_label_parts_and_where_parts_end() {
        let seed = Seed([7; 32]);
        let base = seed.derive("a", &[b"bc"]);
        assert_eq!(base, seed.derive("a", &[b"bc"]));
        for other in [seed.derive("ab", &[b"c"]), seed.derive("a", &[b"b", b"c"]), Seed([8; 32]).derive("a", &[b"bc"])]
        {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_key_is_of_one_chip_and_its_versions() {
        let (seed, tcb) = (Seed([7; 32]), Tcb::usual(Model::Genoa));
        let key = seed.vcek(Model::Genoa, tcb).public_point();
        assert_eq!(key, seed.vcek(Model::Genoa, tcb).public_point());
        assert_ne!(key, Seed([8; 32]).vcek(Model::Genoa, tcb).public_point());
        assert_ne!(key, seed.vcek(Model::Genoa, Tcb { snp: tcb.snp + 1, ..tcb }).public_point());
        assert_ne!(key, seed.vlek(Model::Genoa, tcb).public_point());
    }
}
