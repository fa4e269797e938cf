//! The table of hashes by which firmware recognises kernel, initial RAM disk and command line: it is measured, and so
//! they are.
//!
//! Owns the table and its page. Where it goes is the firmware's to say ([`crate::ovmf`]).
//!
//! Specification: edk2 `OvmfPkg/AmdSev/BlobVerifierLibSevHashes`, QEMU `docs/system/i386/amd-memory-encryption.rst`.

use sha2::{Digest as _, Sha256};

use crate::guid::Guid;

const TABLE: Guid = Guid::new(0x9438_d606, 0x4f22, 0x4cc9, *b"\xb4\x79\xa7\x93\xd4\x11\xfd\x21");
const CMDLINE: Guid = Guid::new(0x97d0_2dd8, 0xbd20, 0x4c94, *b"\xaa\x78\xe7\x71\x4d\x36\xab\x2a");
const INITRD: Guid = Guid::new(0x44ba_f731, 0x3a2f, 0x4bd7, *b"\x9a\xf1\x41\xe2\x91\x69\x78\x1d");
const KERNEL: Guid = Guid::new(0x4de7_9437, 0xabd2, 0x427f, *b"\xb8\x35\xd5\xb1\x72\xd2\x04\x5b");

/// A GUID, a length of two bytes, and SHA-256.
const ENTRY_BYTES: u16 = 16 + 2 + 32;
/// A GUID, a length of two bytes, and three entries.
const TABLE_BYTES: u16 = 16 + 2 + 3 * ENTRY_BYTES;

/// Bytes the table takes, which are a multiple of 16.
pub const PADDED_BYTES: usize = TABLE_BYTES.next_multiple_of(16) as usize;

/// SHA-256 of what is booted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KernelHashes {
    kernel: [u8; 32],
    initrd: [u8; 32],
    cmdline: [u8; 32],
}

impl KernelHashes {
    /// Of these. No RAM disk is an empty one; the command line is hashed with the zero that ends it.
    #[must_use]
    pub fn of(kernel: &[u8], initrd: &[u8], cmdline: &str) -> Self {
        Self::of_sums(Sha256::digest(kernel).into(), Sha256::digest(initrd).into(), cmdline)
    }

    /// The same by the files' SHA-256 sums, for files that one would rather not have in memory.
    #[must_use]
    pub fn of_sums(kernel: [u8; 32], initrd: [u8; 32], cmdline: &str) -> Self {
        let cmdline = Sha256::new().chain_update(cmdline).chain_update([0]).finalize().into();
        Self { kernel, initrd, cmdline }
    }

    /// The table, padded.
    #[must_use]
    pub fn table(&self) -> [u8; PADDED_BYTES] {
        let mut bytes = Vec::with_capacity(PADDED_BYTES);
        bytes.extend(TABLE.to_bytes());
        bytes.extend(TABLE_BYTES.to_le_bytes());
        for (guid, hash) in [(CMDLINE, self.cmdline), (INITRD, self.initrd), (KERNEL, self.kernel)] {
            bytes.extend(guid.to_bytes());
            bytes.extend(ENTRY_BYTES.to_le_bytes());
            bytes.extend(hash);
        }
        let mut table = [0; PADDED_BYTES];
        table[..bytes.len()].copy_from_slice(&bytes);
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_in_the_order_firmware_expects() {
        let table = KernelHashes::of(b"kernel", b"", "quiet").table();
        assert_eq!((PADDED_BYTES, table[16], table[34]), (176, 168, 50));
        assert_eq!(table[..4], [0x06, 0xd6, 0x38, 0x94]);
        assert_eq!(table[36..68], Sha256::digest(b"quiet\0")[..]);
        assert_eq!(table[86..118], Sha256::digest(b"")[..]);
        assert_eq!(table[136..168], Sha256::digest(b"kernel")[..]);
        assert_eq!(table[168..], [0; 8]);
    }
}
