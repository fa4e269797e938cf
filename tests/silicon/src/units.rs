//! Addresses, identifiers and sizes, each a type of its own.

use std::fmt;

pub use test_root::report::Vmpl;

/// Bytes of a 4 KiB page.
pub const PAGE_BYTES: usize = 4096;
/// 4 KiB pages in a 2 MiB page.
pub const PAGES_PER_2M: u64 = 512;

/// One page's contents.
pub type Page = [u8; PAGE_BYTES];

/// Number of a 4 KiB page of system-physical memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pfn(pub u64);

/// Guest-physical address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Gpa(pub u64);

/// Address-space identifier: the number under which the memory controller knows a guest's key. 0 is the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Asid(pub u32);

/// Size of a page as the RMP knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PageSize {
    /// 4 KiB.
    #[default]
    Size4K,
    /// 2 MiB.
    Size2M,
}

impl Asid {
    /// Memory that no guest owns.
    pub const HOST: Asid = Asid(0);
}

impl PageSize {
    /// 4 KiB pages in it.
    pub fn pages(self) -> u64 {
        match self {
            PageSize::Size4K => 1,
            PageSize::Size2M => PAGES_PER_2M,
        }
    }

    /// Bytes in it.
    pub fn bytes(self) -> u64 {
        self.pages() << 12
    }
}

impl Pfn {
    /// The first page of the 2 MiB that this page lies in.
    pub fn base_2m(self) -> Pfn {
        Pfn(self.0 & !(PAGES_PER_2M - 1))
    }

    /// Whether a page of this size can begin here.
    pub fn is_aligned(self, size: PageSize) -> bool {
        self.0.is_multiple_of(size.pages())
    }

    /// The pages from here on.
    pub fn range(self, size: PageSize) -> impl Iterator<Item = Pfn> {
        (self.0..self.0.saturating_add(size.pages())).map(Pfn)
    }
}

impl Gpa {
    /// Whether a page of this size can begin here.
    pub fn is_aligned(self, size: PageSize) -> bool {
        self.0.is_multiple_of(size.bytes())
    }

    /// The address so many 4 KiB pages on.
    pub fn plus_pages(self, pages: u64) -> Gpa {
        Gpa(self.0.wrapping_add(pages << 12))
    }
}

impl fmt::Display for Pfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pfn {:#x}", self.0)
    }
}

impl fmt::Display for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gpa {:#x}", self.0)
    }
}

impl fmt::Display for Asid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ASID {}", self.0)
    }
}
