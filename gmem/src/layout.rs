//! Where things are in a guest: RAM, the hole below 4 GiB, staging, and the I/O ports every technology shares.
//!
//! Owns every guest-physical address and port the VMM chooses, as documented constants; what the firmware puts inside
//! private RAM is in `guest_fw::abi`. The split of RAM is the one QEMU's q35 machine uses, which predictors of launch
//! measurements assume.

use crate::address::{AddressError, ByteLen, Gfn, GfnRange, Gpa, PAGE_SIZE, PageCount};

/// First address above the 32-bit hole.
pub const FOUR_GIB: u64 = 1 << 32;
/// RAM from this size on is split, as on q35: 2.75 GiB.
pub const SPLIT_FROM: u64 = 0xb000_0000;
/// RAM below the hole once it is split: 2 GiB.
pub const LOW_RAM_WHEN_SPLIT: u64 = 0x8000_0000;
/// The local APIC's page. Never RAM: the guests use x2APIC and nothing is mapped here.
pub const LOCAL_APIC: u64 = 0xfee0_0000;
/// The page the reset vector lies in, [4 GiB - 4 KiB, 4 GiB). Never RAM; the last page of a firmware that starts there.
pub const RESET_PAGE: u64 = FOUR_GIB - PAGE_SIZE;
/// The most memory a firmware that starts at the reset vector has: below it are the interrupt controllers' registers.
pub const MAX_FIRMWARE: u64 = 16 << 20;
/// Staging starts above the end of RAM at a multiple of this, so that one page-table page maps much of it.
pub const STAGING_ALIGN: u64 = 1 << 30;
/// Least RAM a guest can have: the firmware's home and a little room.
pub const MIN_RAM: u64 = 16 << 20;
/// Most RAM a guest can have. The guest's own page tables and KVM's memory attributes cost by the page; beyond this
/// nothing was ever tried.
pub const MAX_RAM: u64 = 1 << 42;

/// First port of the serial console, a 16550 (COM1).
pub const SERIAL_PORT: u16 = 0x3f8;
/// Interrupt line of the serial console.
pub const SERIAL_GSI: u32 = 4;
/// The doorbell a guest rings for the VMM (`guest_fw::abi::Doorbell`). Deliberately not 0x510, which is fw_cfg.
pub const DOORBELL_PORT: u16 = 0x0d80;
/// i8042 command port: only the pulse of the reset line (0xfe) is there.
pub const I8042_COMMAND_PORT: u16 = 0x64;
/// First of the two ports of the real-time clock (MC146818): index, then data.
pub const RTC_PORT: u16 = 0x70;
/// Reset control register, named by the FADT's RESET_REG; bit 2 resets.
pub const RESET_PORT: u16 = 0xcf9;
/// ACPI PM1a event block, 4 bytes: status and enable.
pub const PM1A_EVENT_PORT: u16 = 0x600;
/// ACPI PM1a control block, 2 bytes: SLP_EN (bit 13) powers off.
pub const PM1A_CONTROL_PORT: u16 = 0x604;
/// ACPI system control interrupt.
pub const SCI_GSI: u32 = 9;
/// PCI configuration address, 4 bytes; the data window follows at 0xcfc.
pub const PCI_ADDRESS_PORT: u16 = 0xcf8;
/// PCI configuration data, 4 bytes.
pub const PCI_DATA_PORT: u16 = 0xcfc;
/// First port of the window PCI I/O BARs live in.
pub const PCI_IO_BASE: u16 = 0xc000;
/// Ports in that window.
pub const PCI_IO_LEN: u16 = 0x1000;
/// Interrupt line of every PCI INTx pin.
pub const PCI_GSI: u32 = 10;

/// Where a guest's own memory is: RAM from 0, and from 4 GiB if it was split; and, if it has one there, its firmware
/// right below 4 GiB. The firmware's memory is owned and accounted for as RAM is; only who lists RAM for a guest
/// leaves it out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RamLayout {
    low: GfnRange,
    firmware: Option<GfnRange>,
    high: Option<GfnRange>,
}

/// Why a size of RAM cannot be laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// Not whole pages.
    #[error("memory size {0} bytes is not a multiple of the page size 4096")]
    Misaligned(u64),
    /// Too little for the firmware.
    #[error("memory size {} is below the minimum of {}", ByteLen(*.0), ByteLen(MIN_RAM))]
    TooSmall(u64),
    /// More than was ever tried.
    #[error("memory size {} is above the maximum of {}", ByteLen(*.0), ByteLen(MAX_RAM))]
    TooLarge(u64),
    /// The guest's physical addresses do not reach that far.
    #[error(
        "memory of {} and its staging area end at {end:#x}, beyond the {bits} bits of a guest-physical \
         address",
        ByteLen(*.ram)
    )]
    BeyondAddressWidth {
        /// RAM in bytes.
        ram: u64,
        /// First address after everything.
        end: u64,
        /// Width of a guest-physical address.
        bits: u32,
    },
    /// A firmware that is none, or too much.
    #[error(
        "a firmware of {} cannot lie below 4 GiB; at most {} can, in whole pages",
        ByteLen(*.0), ByteLen(MAX_FIRMWARE)
    )]
    Firmware(u64),
    /// Address arithmetic failed.
    #[error(transparent)]
    Address(#[from] AddressError),
}

impl RamLayout {
    /// Lays out `ram` bytes.
    pub fn new(ram: ByteLen) -> Result<Self, LayoutError> {
        if !ram.0.is_multiple_of(PAGE_SIZE) {
            return Err(LayoutError::Misaligned(ram.0));
        }
        if ram.0 < MIN_RAM {
            return Err(LayoutError::TooSmall(ram.0));
        }
        if ram.0 > MAX_RAM {
            return Err(LayoutError::TooLarge(ram.0));
        }
        let low = if ram.0 < SPLIT_FROM { ram.0 } else { LOW_RAM_WHEN_SPLIT };
        let high = match ram.0 - low {
            0 => None,
            rest => Some(GfnRange::from_bytes(Gpa(FOUR_GIB), ByteLen(rest))?),
        };
        Ok(Self { low: GfnRange::from_bytes(Gpa(0), ByteLen(low))?, firmware: None, high })
    }

    /// The same with memory for a firmware that ends at 4 GiB.
    pub fn with_firmware(self, size: ByteLen) -> Result<Self, LayoutError> {
        if size.0 == 0 || size.0 > MAX_FIRMWARE || !size.0.is_multiple_of(PAGE_SIZE) {
            return Err(LayoutError::Firmware(size.0));
        }
        Ok(Self { firmware: Some(GfnRange::from_bytes(Gpa(FOUR_GIB - size.0), size)?), ..self })
    }

    /// RAM from address 0.
    pub const fn low(&self) -> GfnRange {
        self.low
    }

    /// Memory of a firmware below 4 GiB.
    pub const fn firmware(&self) -> Option<GfnRange> {
        self.firmware
    }

    /// RAM from 4 GiB.
    pub const fn high(&self) -> Option<GfnRange> {
        self.high
    }

    /// Every run of memory, ascending.
    pub fn ranges(&self) -> impl Iterator<Item = GfnRange> + Clone {
        std::iter::once(self.low).chain(self.firmware).chain(self.high)
    }

    /// All memory.
    pub fn pages(&self) -> PageCount {
        PageCount::new(self.ranges().map(|range| range.pages().get()).sum())
    }

    /// Whether every page of `range` is RAM.
    pub fn contains_range(&self, range: GfnRange) -> bool {
        self.position_of(range).is_some()
    }

    /// Position of the first page of `range` among all RAM pages; the others follow it. `None` if not all of it is RAM.
    #[inline]
    pub fn position_of(&self, range: GfnRange) -> Option<u64> {
        if self.low.contains_range(range) {
            return Some(range.start().number() - self.low.start().number());
        }
        // Pages are as far apart in memory as by position unless there is a hole between them.
        let first = self.index_of(range.start())?;
        let last = self.index_of(Gfn::new(range.end_number() - 1)?)?;
        (last.checked_sub(first)? + 1 == range.pages().get()).then_some(first)
    }

    /// Position of `gfn` among all RAM pages, which is also its page in a backing file; `None` outside RAM.
    pub fn index_of(&self, gfn: Gfn) -> Option<u64> {
        let mut before = 0;
        for ram in self.ranges() {
            if ram.contains(gfn) {
                return Some(before + gfn.number() - ram.start().number());
            }
            before += ram.pages().get();
        }
        None
    }

    /// The frame at position `index` among all RAM pages; the inverse of [`Self::index_of`].
    pub fn frame_at(&self, index: u64) -> Option<Gfn> {
        let mut before = 0;
        for ram in self.ranges() {
            if index - before < ram.pages().get() {
                return Gfn::new(ram.start().number() + (index - before));
            }
            before += ram.pages().get();
        }
        None
    }

    /// Where a staging area of `pages` goes, given that the guest's physical addresses have `address_bits` bits.
    pub fn staging(&self, pages: PageCount, address_bits: u32) -> Result<GfnRange, LayoutError> {
        let end_of_ram = self.high.unwrap_or(self.low).end_number() * PAGE_SIZE;
        let base = end_of_ram.max(FOUR_GIB).next_multiple_of(STAGING_ALIGN);
        let staging = GfnRange::from_request(Gpa(base), pages)?;
        let limit = 1u64.checked_shl(address_bits).unwrap_or(u64::MAX);
        let end = base.saturating_add(pages.bytes().map_or(u64::MAX, |len| len.0));
        if end > limit {
            let ram = self.pages().bytes().map_or(u64::MAX, |len| len.0);
            return Err(LayoutError::BeyondAddressWidth { ram, end, bits: address_bits });
        }
        Ok(staging)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn layout(mib: u64) -> RamLayout {
        RamLayout::new(ByteLen(mib * MIB)).unwrap()
    }

    #[test]
    fn split_is_q35s() {
        assert_eq!(layout(2815).high(), None);
        let split = layout(2816);
        assert_eq!(split.low().bytes(), Some(ByteLen(2048 * MIB)));
        assert_eq!(split.high().unwrap().gpa(), Gpa(FOUR_GIB));
        assert_eq!(split.high().unwrap().bytes(), Some(ByteLen(768 * MIB)));
    }

    /// no-silent-trust: memory sizes come from people and files.
    #[test]
    fn no_silent_trust_memory_sizes() {
        let size = |len| RamLayout::new(ByteLen(len)).unwrap_err().to_string();
        assert_eq!(size(0), "memory size 0 bytes is below the minimum of 16 MiB");
        assert_eq!(size(64 * MIB + 1), "memory size 67108865 bytes is not a multiple of the page size 4096");
        assert_eq!(size(1 << 62), "memory size 4194304 TiB is above the maximum of 4 TiB");
        for firmware in [0, 4095, MAX_FIRMWARE + PAGE_SIZE] {
            let error = layout(64).with_firmware(ByteLen(firmware)).unwrap_err();
            assert_eq!(error, LayoutError::Firmware(firmware));
        }
        let error = layout(6144).staging(PageCount::new(1), 32).unwrap_err();
        assert!(error.to_string().contains("32 bits"), "{error}");
    }

    proptest! {
        /// No RAM at the local APIC or under the reset page, staging never overlaps RAM, and page positions are a
        /// bijection, for every size.
        #[test]
        fn ram_keeps_clear_and_indexes_every_page(
            mib in 16u64..9000,
            firmware in prop::option::of(1u64..=MAX_FIRMWARE / PAGE_SIZE),
            probe in any::<prop::sample::Index>(),
        ) {
            let mut ram = layout(mib);
            if let Some(pages) = firmware {
                ram = ram.with_firmware(ByteLen(pages * PAGE_SIZE)).unwrap();
            }
            prop_assert_eq!(ram.index_of(Gpa(LOCAL_APIC).gfn()), None);
            prop_assert_eq!(ram.index_of(Gpa(RESET_PAGE).gfn()).is_some(), firmware.is_some());
            let mut pairs = ram.ranges().zip(ram.ranges().skip(1));
            prop_assert!(pairs.all(|(one, next)| one.end_number() <= next.start().number()));
            let staging = ram.staging(PageCount::new(1000), 52).unwrap();
            prop_assert!(ram.ranges().all(|range| !range.overlaps(staging)));
            prop_assert_eq!(ram.pages().bytes(), Some(ByteLen(mib * MIB + firmware.unwrap_or(0) * PAGE_SIZE)));
            let index = probe.index(usize::try_from(ram.pages().get()).unwrap()) as u64;
            prop_assert_eq!(ram.frame_at(index).and_then(|gfn| ram.index_of(gfn)), Some(index));
            let from = |pages| ram.frame_at(index).and_then(|gfn| GfnRange::new(gfn, PageCount::new(pages)).ok());
            for pages in [1, 2, 600, MAX_FIRMWARE / PAGE_SIZE] {
                let all_is_ram = from(pages).filter(|range| range.frames().all(|gfn| ram.index_of(gfn).is_some()));
                let position = from(pages).and_then(|range| ram.position_of(range));
                prop_assert_eq!(position, all_is_ram.map(|_| index), "{} pages", pages);
            }
            prop_assert_eq!(ram.frame_at(ram.pages().get()), None);
        }
    }
}
