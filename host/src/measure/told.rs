//! What our firmware is told of its machine and of what it copies, read from the page that is measured.
//!
//! Owns the reading; `guest_fw::abi` is the format. Whoever has a trace has that page's hash, so what stands in it can
//! be shown to have been measured, which the name of a page cannot.

use guest_fw::abi::{self, Piece, PieceKind, StagingHeader};
use snp::hex;
use zerocopy::FromBytes;

use crate::run::predict::label;

/// What a firmware of ours is told, as far as guests differ in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// RAM.
    pub memory_bytes: u64,
    /// vCPUs.
    pub vcpus: u32,
    /// Frequency of the TSC, or 0 where it may not be measured.
    pub tsc_khz: u32,
    /// Of each piece, what it is and its SHA-256.
    pub pieces: Vec<(String, String)>,
}

impl Told {
    /// Reads the page, which begins with a header; `None` if it does not.
    pub fn read(page: &[u8]) -> Option<Self> {
        let (header, _) = StagingHeader::read_from_prefix(page).ok()?;
        if header.magic != abi::STAGING_MAGIC || header.version != abi::ABI_VERSION {
            return None;
        }
        let table = page.get(usize::try_from(header.pieces_offset).ok()?..)?;
        let count = usize::try_from(header.piece_count.min(abi::PIECES_MAX)).ok()?;
        let table = table.get(..count * size_of::<Piece>())?;
        let piece = |bytes: &[u8]| {
            let piece = Piece::read_from_bytes(bytes).ok()?;
            let kind = PieceKind::from_raw(piece.kind);
            let name = kind.map_or_else(|| format!("piece of kind {}", piece.kind), |kind| label(kind).to_owned());
            Some((name, hex::text(&piece.sha256)))
        };
        Some(Self {
            memory_bytes: header.ram_low_len.saturating_add(header.ram_high_len),
            vcpus: header.vcpus,
            tsc_khz: header.tsc_khz,
            pieces: table.chunks_exact(size_of::<Piece>()).filter_map(piece).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// no-silent-trust: a page of anything is read or refused, and never more of it than there is.
        #[test]
        fn no_silent_trust_any_page(mut page in prop::collection::vec(any::<u8>(), 0..4097), offset: u64, count: u32) {
            let _ = Told::read(&page);
            if page.len() >= size_of::<StagingHeader>() {
                page[..8].copy_from_slice(&abi::STAGING_MAGIC.to_le_bytes());
                page[8..12].copy_from_slice(&abi::ABI_VERSION.to_le_bytes());
                let _ = Told::read(&page);
                page[56..64].copy_from_slice(&(offset % 5000).to_le_bytes());
                page[64..68].copy_from_slice(&count.to_le_bytes());
                let told = Told::read(&page);
                prop_assert!(told.is_none_or(|told| told.pieces.len() <= abi::PIECES_MAX as usize));
            }
        }
    }
}
