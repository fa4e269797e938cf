//! What is in memory, and under which key it was written.
//!
//! Owns the bytes of every page. A page is kept as the memory chips would hold it: written under a key it is no longer
//! what was written, and read under any other key, or none, it stays unreadable. Untouched pages are zeros and take no
//! memory. Does not own who may touch a page: that is the table's ([`crate::rmp`]).
//!
//! The cipher is a stand-in: a stream that depends on key and page, added to the contents. Like the real one (APM volume
//! 2, 7.10 and 15.34.2) it is bound to the page's system-physical address, so moved ciphertext does not decrypt. Unlike
//! it, it hides nothing from who knows a page's earlier contents.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use crate::units::{PAGE_BYTES, Page, Pfn};

/// A memory encryption key: a guest's, in the memory controller's slot for its ASID.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Key([u8; 32]);

/// Contents of all pages.
#[derive(Debug, Default)]
pub struct Memory {
    pages: HashMap<Pfn, Box<Page>>,
}

impl Key {
    /// A key with these bytes.
    pub fn new(bytes: [u8; 32]) -> Key {
        Key(bytes)
    }

    /// Adds the key's stream for this page; a second time takes it away again.
    fn apply(&self, pfn: Pfn, page: &mut Page) {
        let seed = Sha256::new().chain_update(self.0).chain_update(pfn.0.to_le_bytes()).finalize();
        let mut state = seed.iter().take(8).fold(0u64, |state, byte| state << 8 | u64::from(*byte));
        for chunk in page.chunks_exact_mut(8) {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            for (byte, noise) in chunk.iter_mut().zip(mix(state).to_le_bytes()) {
                *byte ^= noise;
            }
        }
    }
}

/// The finalizer of SplitMix64: every bit of the state changes about half of the result's.
fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Memory {
    /// What a page reads as under a key, or without one.
    pub fn read(&self, pfn: Pfn, key: Option<&Key>) -> Page {
        let mut page = self.pages.get(&pfn).map_or([0; PAGE_BYTES], |page| **page);
        if let Some(key) = key {
            key.apply(pfn, &mut page);
        }
        page
    }

    /// Writes a page under a key, or without one.
    pub fn write(&mut self, pfn: Pfn, key: Option<&Key>, contents: &Page) {
        let mut page = Box::new(*contents);
        if let Some(key) = key {
            key.apply(pfn, &mut page);
        }
        if page.iter().all(|byte| *byte == 0) {
            self.pages.remove(&pfn);
        } else {
            self.pages.insert(pfn, page);
        }
    }

    /// Makes plaintext at a page what it is under a key, as the PSP does with a page that it adds to a guest.
    pub fn encrypt_in_place(&mut self, pfn: Pfn, key: &Key) {
        let plain = self.read(pfn, None);
        self.write(pfn, Some(key), &plain);
    }

    /// Pages that take memory here.
    pub fn resident_pages(&self) -> usize {
        self.pages.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: Pfn = Pfn(7);

    fn keys() -> (Key, Key) {
        (Key::new([1; 32]), Key::new([2; 32]))
    }

    #[test]
    fn untouched_pages_are_zeros_and_take_no_memory() {
        let memory = Memory::default();
        assert_eq!(memory.read(PAGE, None), [0; PAGE_BYTES]);
        assert_eq!(memory.resident_pages(), 0);
    }

    #[test]
    fn plaintext_shows_under_its_key_only() {
        let (mine, other) = keys();
        let mut memory = Memory::default();
        let secret = [0x5a; PAGE_BYTES];
        memory.write(PAGE, Some(&mine), &secret);
        assert_eq!(memory.read(PAGE, Some(&mine)), secret);
        for seen in [memory.read(PAGE, None), memory.read(PAGE, Some(&other))] {
            // 4096 bytes of noise agree with any text in about 16 places.
            let same = seen.iter().zip(secret).filter(|(a, b)| **a == *b).count();
            assert!(same < 64, "{same} bytes of plaintext show");
        }
    }

    #[test]
    fn ciphertext_that_is_moved_does_not_decrypt() {
        let (key, _) = keys();
        let mut memory = Memory::default();
        memory.write(PAGE, Some(&key), &[0x5a; PAGE_BYTES]);
        let ciphertext = memory.read(PAGE, None);
        memory.write(Pfn(8), None, &ciphertext);
        assert_ne!(memory.read(Pfn(8), Some(&key)), [0x5a; PAGE_BYTES]);
    }
}
