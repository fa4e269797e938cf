//! Everything a chip keeps secret, derived from one seed: a platform made twice is the same platform.
//!
//! Owns derivation. Real chips derive by other functions (56860 does not publish them); only that different inputs give
//! unrelated keys matters here.

use sha2::{Digest as _, Sha256, Sha384};

/// The root of all of a platform's secrets.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) [u8; 32]);

/// Secrets that are never given out twice.
#[derive(Debug)]
pub(crate) struct Fresh {
    seed: Seed,
    count: u64,
}

impl Seed {
    /// A secret of its own for every label and every sequence of parts.
    pub(crate) fn derive(&self, label: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut hash = Sha256::new();
        for part in [&self.0[..], label.as_bytes()].iter().chain(parts) {
            // A length before each: else parts could be cut elsewhere and give the same secret.
            hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            hash.update(part);
        }
        hash.finalize().into()
    }

    /// A longer one.
    pub(crate) fn derive_48(&self, label: &str, parts: &[&[u8]]) -> [u8; 48] {
        Sha384::digest(self.derive(label, parts)).into()
    }
}

impl Fresh {
    pub(crate) fn new(seed: Seed) -> Fresh {
        Fresh { seed, count: 0 }
    }

    /// The next one.
    pub(crate) fn next(&mut self, label: &str) -> [u8; 32] {
        self.count += 1;
        self.seed.derive(label, &[b"fresh", &self.count.to_le_bytes()])
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
        let mut fresh = Fresh::new(seed);
        assert_ne!(fresh.next("key"), fresh.next("key"));
    }
}
