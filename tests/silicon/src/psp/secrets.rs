//! The secrets page: the keys with which a guest talks to the PSP.
//!
//! Specification: 56860, SNP_LAUNCH_UPDATE, "secrets page".

use crate::bytes::put;
use crate::units::{PAGE_BYTES, Page};

/// A key for messages between one privilege level and the PSP.
pub type Vmpck = [u8; 32];

/// The page's version.
const VERSION: u32 = 3;

/// Builds the page.
pub(crate) fn page(fms: u32, gosvw: &[u8; 16], vmpcks: &[Vmpck; 4], imi: bool) -> Page {
    let mut page = [0; PAGE_BYTES];
    put(&mut page, 0x00, &VERSION.to_le_bytes());
    put(&mut page, 0x04, &u32::from(imi).to_le_bytes());
    put(&mut page, 0x08, &fms.to_le_bytes());
    put(&mut page, 0x10, gosvw);
    put(&mut page, 0x20, &vmpcks.concat());
    page
}

/// The keys in a page, as a guest finds them.
pub fn vmpcks(page: &Page) -> [Vmpck; 4] {
    [0x20, 0x40, 0x60, 0x80].map(|at| crate::bytes::take(page, at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bytes::{take, take_u32};

    #[test]
    fn every_secret_is_where_a_guest_looks_for_it() {
        let keys = [[1; 32], [2; 32], [3; 32], [4; 32]];
        let page = page(0x00a0_0f11, &[5; 16], &keys, false);
        assert_eq!([0, 4, 8, 12].map(|at| take_u32(&page, at)), [VERSION, 0, 0x00a0_0f11, 0]);
        assert_eq!(take::<16>(&page, 0x10), [5; 16]);
        assert_eq!(vmpcks(&page), keys);
        assert!(page[0xa0..].iter().all(|byte| *byte == 0), "the rest is the guest's own");
    }
}
