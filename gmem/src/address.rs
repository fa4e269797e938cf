//! Addresses, lengths and ranges of guest-physical memory, each a type of its own.
//!
//! Owns the arithmetic: every operation that can leave the 64-bit space or the page grid is checked and says what it
//! was given. Pages are 4 KiB, the unit of ownership everywhere (RMP, Secure EPT and guest_memfd in Linux 7.2 have no
//! larger one).

use std::fmt;

/// Bytes in a page.
pub const PAGE_SIZE: u64 = 4096;
const PAGE_SHIFT: u32 = PAGE_SIZE.trailing_zeros();

/// A guest-physical address in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gpa(pub u64);

/// A guest frame number: a guest-physical address in pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gfn(u64);

/// A number of pages.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PageCount(u64);

/// A length in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ByteLen(pub u64);

/// A non-empty run of pages that does not wrap: `start..end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct GfnRange {
    start: Gfn,
    pages: PageCount,
}

/// Why a number is not an address, a length or a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Not a multiple of [`PAGE_SIZE`].
    #[error("{what} {value:#x} is not a multiple of the page size 4096")]
    Misaligned {
        /// Which value.
        what: &'static str,
        /// The value.
        value: u64,
    },
    /// A range must hold at least one page.
    #[error("range at {start:#x} is empty")]
    Empty {
        /// Its first address in bytes.
        start: u64,
    },
    /// The range ends beyond the 64-bit address space.
    #[error("range of {pages} pages at {start:#x} ends beyond the 64-bit address space")]
    Overflow {
        /// Its first address in bytes.
        start: u64,
        /// Its length.
        pages: u64,
    },
}

/// Highest frame number plus one: 2^64 bytes in pages.
const GFN_LIMIT: u64 = 1 << (u64::BITS - PAGE_SHIFT);

impl Gpa {
    /// The frame this address lies in.
    pub const fn gfn(self) -> Gfn {
        Gfn(self.0 >> PAGE_SHIFT)
    }

    /// Whether the address is the first of a page.
    pub const fn is_page_aligned(self) -> bool {
        self.0.is_multiple_of(PAGE_SIZE)
    }

    /// The address `len` bytes further on, unless that leaves the address space.
    pub fn checked_add(self, len: ByteLen) -> Option<Gpa> {
        self.0.checked_add(len.0).map(Gpa)
    }
}

impl Gfn {
    /// A frame by number, if there is one: below 2^52.
    pub const fn new(number: u64) -> Option<Self> {
        if number < GFN_LIMIT { Some(Self(number)) } else { None }
    }

    /// The frame's number.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The frame's first address.
    pub const fn gpa(self) -> Gpa {
        Gpa(self.0 << PAGE_SHIFT)
    }
}

impl PageCount {
    /// So many pages.
    pub const fn new(pages: u64) -> Self {
        Self(pages)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// In bytes; `None` if that is more than 2^64 - 1.
    pub const fn bytes(self) -> Option<ByteLen> {
        match self.0.checked_mul(PAGE_SIZE) {
            Some(bytes) => Some(ByteLen(bytes)),
            None => None,
        }
    }
}

impl ByteLen {
    /// How many pages, if it is a whole number of them.
    pub const fn pages(self) -> Result<PageCount, AddressError> {
        if self.0.is_multiple_of(PAGE_SIZE) {
            Ok(PageCount(self.0 >> PAGE_SHIFT))
        } else {
            Err(AddressError::Misaligned { what: "length", value: self.0 })
        }
    }

    /// How many pages are needed to hold it.
    pub const fn pages_up(self) -> PageCount {
        PageCount(self.0.div_ceil(PAGE_SIZE))
    }
}

impl GfnRange {
    /// `pages` pages from `start`.
    pub fn new(start: Gfn, pages: PageCount) -> Result<Self, AddressError> {
        if pages.0 == 0 {
            return Err(AddressError::Empty { start: start.gpa().0 });
        }
        match start.0.checked_add(pages.0) {
            Some(end) if end <= GFN_LIMIT => Ok(Self { start, pages }),
            _ => Err(AddressError::Overflow { start: start.gpa().0, pages: pages.0 }),
        }
    }

    /// The range a guest or a file names in bytes and pages; every value is checked.
    pub fn from_request(gpa: Gpa, pages: PageCount) -> Result<Self, AddressError> {
        if !gpa.is_page_aligned() {
            return Err(AddressError::Misaligned { what: "address", value: gpa.0 });
        }
        Self::new(gpa.gfn(), pages)
    }

    /// `len` bytes from `gpa`; both must be multiples of the page size.
    pub fn from_bytes(gpa: Gpa, len: ByteLen) -> Result<Self, AddressError> {
        Self::from_request(gpa, len.pages()?)
    }

    /// The smallest range of whole pages that holds `len` bytes from `gpa`.
    pub fn covering(gpa: Gpa, len: ByteLen) -> Result<Self, AddressError> {
        if len.0 == 0 {
            return Err(AddressError::Empty { start: gpa.0 });
        }
        let last =
            gpa.0.checked_add(len.0 - 1).ok_or(AddressError::Overflow { start: gpa.0, pages: len.pages_up().0 })?;
        let (start, last) = (gpa.gfn(), Gpa(last).gfn());
        Self::new(start, PageCount(last.0 - start.0 + 1))
    }

    /// The first frame.
    pub const fn start(self) -> Gfn {
        self.start
    }

    /// How many pages.
    pub const fn pages(self) -> PageCount {
        self.pages
    }

    /// The number of the frame after the last one; may be 2^52, which is no frame.
    pub const fn end_number(self) -> u64 {
        self.start.0 + self.pages.0
    }

    /// The first address in bytes.
    pub const fn gpa(self) -> Gpa {
        self.start.gpa()
    }

    /// The length in bytes; `None` for the whole 64-bit space.
    pub const fn bytes(self) -> Option<ByteLen> {
        self.pages.bytes()
    }

    /// Whether `gfn` is one of the frames.
    pub const fn contains(self, gfn: Gfn) -> bool {
        gfn.0 >= self.start.0 && gfn.0 < self.end_number()
    }

    /// Whether every frame of `other` is one of ours.
    pub const fn contains_range(self, other: GfnRange) -> bool {
        other.start.0 >= self.start.0 && other.end_number() <= self.end_number()
    }

    /// The frames both have.
    pub fn intersection(self, other: GfnRange) -> Option<GfnRange> {
        let start = self.start.max(other.start);
        let end = self.end_number().min(other.end_number());
        (start.0 < end).then(|| GfnRange { start, pages: PageCount(end - start.0) })
    }

    /// Whether both have a frame in common.
    pub fn overlaps(self, other: GfnRange) -> bool {
        self.intersection(other).is_some()
    }

    /// The union, if `other` starts where this range ends.
    pub fn joined(self, other: GfnRange) -> Option<GfnRange> {
        (self.end_number() == other.start.0)
            .then(|| GfnRange { start: self.start, pages: PageCount(self.pages.0 + other.pages.0) })
    }

    /// The first `pages` pages and the rest; either may be nothing.
    pub fn split_at(self, pages: PageCount) -> (Option<GfnRange>, Option<GfnRange>) {
        let head = pages.0.min(self.pages.0);
        let part = |start, pages| (pages != 0).then_some(GfnRange { start: Gfn(start), pages: PageCount(pages) });
        (part(self.start.0, head), part(self.start.0 + head, self.pages.0 - head))
    }

    /// The smallest range that holds both.
    pub fn hull(self, other: GfnRange) -> GfnRange {
        let start = self.start.min(other.start);
        let end = self.end_number().max(other.end_number());
        GfnRange { start, pages: PageCount(end - start.0) }
    }

    /// The same pages in pieces of at most `max` pages (at least one), in order.
    pub fn pieces(self, max: PageCount) -> impl Iterator<Item = GfnRange> {
        let step = max.0.max(1);
        (0..self.pages.0.div_ceil(step)).map(move |i| GfnRange {
            start: Gfn(self.start.0 + i * step),
            pages: PageCount(step.min(self.pages.0 - i * step)),
        })
    }

    /// Every frame, in order.
    pub fn frames(self) -> impl DoubleEndedIterator<Item = Gfn> {
        (self.start.0..self.end_number()).map(Gfn)
    }
}

impl fmt::Display for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

impl fmt::Debug for Gpa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gpa({:#x})", self.0)
    }
}

impl fmt::Debug for Gfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gfn({:#x})", self.0)
    }
}

impl fmt::Debug for PageCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages", self.0)
    }
}

impl fmt::Display for PageCount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} pages", self.0)
    }
}

impl fmt::Debug for ByteLen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0)
    }
}

impl fmt::Display for ByteLen {
    /// In the largest binary unit that divides it: `512 MiB`, `4 KiB`, `17 bytes`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 != 0 && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{} {unit}", self.0 >> shift);
            }
        }
        write!(f, "{} bytes", self.0)
    }
}

impl fmt::Display for GfnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}+{} pages", self.gpa().0, self.pages.0)
    }
}

impl fmt::Debug for GfnRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GfnRange({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(start: u64, pages: u64) -> GfnRange {
        GfnRange::new(Gfn::new(start).unwrap(), PageCount::new(pages)).unwrap()
    }

    /// no-silent-trust: what a guest may ask for and what it may not.
    #[test]
    fn no_silent_trust_requests_are_checked() {
        use AddressError::*;
        let ask = |gpa, pages| GfnRange::from_request(Gpa(gpa), PageCount::new(pages));
        assert_eq!(ask(0x1001, 1), Err(Misaligned { what: "address", value: 0x1001 }));
        assert_eq!(ask(0x1000, 0), Err(Empty { start: 0x1000 }));
        assert_eq!(ask(0x1000, 1 << 63), Err(Overflow { start: 0x1000, pages: 1 << 63 }));
        assert_eq!(ask(0, 1 << 52).map(GfnRange::bytes), Ok(None));
        assert_eq!(ask(0xffff_ffff_ffff_f000, 1).map(GfnRange::end_number), Ok(1 << 52));
        assert!(ask(0xffff_ffff_ffff_f000, 2).is_err());
    }

    #[test]
    fn covering_counts_partial_pages() {
        let covering = |gpa, len| GfnRange::covering(Gpa(gpa), ByteLen(len));
        assert_eq!(covering(0xfff, 2), Ok(range(0, 2)));
        assert_eq!(covering(0x1000, 0x1000), Ok(range(1, 1)));
        assert!(covering(0, 0).is_err());
        assert!(covering(u64::MAX, 2).is_err());
    }

    #[test]
    fn lengths_print_in_the_largest_exact_unit() {
        assert_eq!(ByteLen(512 << 20).to_string(), "512 MiB");
        assert_eq!(ByteLen(4096).to_string(), "4 KiB");
        assert_eq!(ByteLen(4097).to_string(), "4097 bytes");
        assert_eq!(ByteLen(0).to_string(), "0 bytes");
    }

    proptest! {
        /// Pieces are in order, no larger than asked for, and join to the whole.
        #[test]
        fn pieces_join_to_the_whole(start in 0..1u64 << 40, pages in 1..5000u64, max in 0..600u64) {
            let whole = range(start, pages);
            let mut joined: Option<GfnRange> = None;
            for piece in whole.pieces(PageCount::new(max)) {
                prop_assert!(piece.pages().get() <= max.max(1));
                joined = Some(match joined {
                    None => piece,
                    Some(before) => before.joined(piece).expect("pieces are adjacent"),
                });
            }
            prop_assert_eq!(joined, Some(whole));
        }

        /// The intersection holds exactly the frames both hold.
        #[test]
        fn intersection_is_per_frame(a in 0..40u64, n in 1..20u64, b in 0..40u64, m in 1..20u64) {
            let (x, y) = (range(a, n), range(b, m));
            for frame in 0..80 {
                let gfn = Gfn::new(frame).unwrap();
                let both = x.intersection(y).is_some_and(|i| i.contains(gfn));
                prop_assert_eq!(both, x.contains(gfn) && y.contains(gfn));
            }
        }
    }
}
