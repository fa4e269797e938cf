//! Secrets that are never given out twice, and still the same whenever the same platform does the same.

use test_root::chip::Seed;

/// Where they come from.
#[derive(Debug)]
pub(crate) struct Fresh {
    seed: Seed,
    count: u64,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_given_out_twice() {
        let mut fresh = Fresh::new(Seed([7; 32]));
        assert_ne!(fresh.next("key"), fresh.next("key"));
    }
}
