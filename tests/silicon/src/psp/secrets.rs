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
