//! Who uses which RAM during the self-test, and which pages of it are touched.

use super::options::Coverage;
use crate::abi::{FW_END, PAGE_SIZE};
use crate::range::GpaRange;
use crate::staging::Ram;

/// Memory of one processor: its fault stack, then its stack.
pub const CPU_AREA: u64 = 0x8000;
/// The fault stack's share of it.
pub const FAULT_STACK: u64 = 0x2000;
/// Pages for virtio rings and buffers.
pub const VIRTIO_PAGES: u64 = 19;
/// Slices of RAM are aligned to this, so that conversions of 2 MiB fit in.
pub const SLICE_ALIGN: u64 = 2 << 20;
/// Pages of a range a sample takes at most, besides its edges.
const SAMPLE_PAGES: u64 = 512;
/// Pages at each end of a range that every sample takes.
const EDGE_PAGES: u64 = 4;

/// All RAM above the firmware, by use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// [`CPU_AREA`] for each processor.
    pub cpus: GpaRange,
    /// Rings and buffers.
    pub virtio: GpaRange,
    /// What is tested: the rest of low RAM, and high RAM.
    pub tested: [GpaRange; 2],
}

impl Layout {
    /// Divides `ram` for `vcpus` processors; `None` if there is too little.
    pub fn new(ram: &Ram, vcpus: u32) -> Option<Self> {
        let cpus = GpaRange::new(FW_END, u64::from(vcpus) * CPU_AREA)?;
        let virtio = GpaRange::new(cpus.end(), VIRTIO_PAGES * PAGE_SIZE)?;
        let low = GpaRange::between(virtio.end(), ram.low.end());
        let enough = low.len() >= u64::from(vcpus) * PAGE_SIZE && virtio.end() <= ram.low.end();
        enough.then_some(Self { cpus, virtio, tested: [low, ram.high] })
    }

    /// The area of one processor.
    pub fn cpu(&self, id: u32) -> GpaRange {
        let start = self.cpus.start() + u64::from(id) * CPU_AREA;
        GpaRange::between(start, start + CPU_AREA)
    }
}

/// The `index`th of `count` disjoint slices of `range`. Cut at multiples of [`SLICE_ALIGN`] if every slice then has a
/// few of them, else at pages.
pub fn slice(range: GpaRange, index: u32, count: u32) -> GpaRange {
    let unit = if range.len() / u64::from(count) >= 4 * SLICE_ALIGN { SLICE_ALIGN } else { PAGE_SIZE };
    let cut = |index: u32| {
        let pages = range.len() / PAGE_SIZE;
        // At most 2^35 pages times 2^8 slices.
        let at = range.start() + pages * u64::from(index) / u64::from(count) * PAGE_SIZE;
        if index == 0 || index == count { at } else { at.next_multiple_of(unit) }
    };
    GpaRange::between(cut(index), cut(index + 1))
}

/// The pages of `range` to touch, ascending.
pub fn pages(range: GpaRange, coverage: Coverage) -> impl Iterator<Item = u64> + Clone {
    let pages = range.len() / PAGE_SIZE;
    let step = match coverage {
        Coverage::All => 1,
        // Odd, so that the positions within 2 MiB differ.
        Coverage::Sample => (pages / SAMPLE_PAGES) | 1,
    };
    let edge = EDGE_PAGES.min(pages / 2);
    let inner = (edge..pages - edge).step_by(usize::try_from(step).unwrap_or(usize::MAX));
    (0..edge).chain(inner).chain(pages - edge..pages).map(move |page| range.start() + page * PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ram() -> impl Strategy<Value = Ram> {
        (4096u64..0x8_0000, 0u64..0x40_0000).prop_map(|(low, high)| Ram {
            low: GpaRange::between(0, low * PAGE_SIZE),
            high: GpaRange::between(1 << 32, (1 << 32) + high * PAGE_SIZE),
        })
    }

    proptest! {
        /// Nothing overlaps, everything is RAM, nothing is the firmware's.
        #[test]
        fn uses_are_disjoint_and_in_ram(ram in ram(), vcpus in 1u32..=255) {
            let layout = Layout::new(&ram, vcpus).unwrap();
            let uses = [GpaRange::between(0, FW_END), layout.cpus, layout.virtio, layout.tested[0], layout.tested[1]];
            for (index, range) in uses.iter().enumerate() {
                prop_assert!(ram.contains(*range));
                prop_assert!(uses[index + 1..].iter().all(|other| !range.overlaps(*other)));
            }
            prop_assert!(layout.cpus.contains(layout.cpu(vcpus - 1)));
        }

        /// Slices are a partition, whatever the count.
        #[test]
        fn slices_partition(ram in ram(), count in 1u32..=255) {
            for range in ram.ranges() {
                let mut next = range.start();
                for index in 0..count {
                    let slice = slice(range, index, count);
                    prop_assert_eq!(slice.start(), next);
                    prop_assert!(slice.start().is_multiple_of(PAGE_SIZE));
                    next = slice.end();
                }
                prop_assert_eq!(next, range.end());
            }
        }

        /// Samples ascend, stay inside, take both edges, and stay small; everything means everything.
        #[test]
        fn pages_ascend_within(len in 0u64..0x10_0000) {
            let range = GpaRange::new(1 << 32, len * PAGE_SIZE).unwrap();
            prop_assert_eq!(pages(range, Coverage::All).count() as u64, len);
            let sample: Vec<u64> = pages(range, Coverage::Sample).collect();
            prop_assert!(sample.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(sample.len() as u64 <= 2 * (SAMPLE_PAGES + EDGE_PAGES));
            if len > 0 {
                prop_assert_eq!(sample.first(), Some(&range.start()));
                prop_assert_eq!(sample.last(), Some(&(range.end() - PAGE_SIZE)));
            }
        }
    }
}
