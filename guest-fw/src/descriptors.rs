//! Segments, task state and interrupt gates of one processor.
//!
//! The selectors are the ones Linux expects at its 64-bit entry (boot.rst: `__BOOT_CS` 0x10, `__BOOT_DS` 0x18), so
//! that these tables can stay loaded when the kernel is entered.
//!
//! Specification: AMD64 APM vol. 2 §4.8 (descriptors), §8.9.4 (interrupt stack table), §12.2.5 (64-bit TSS).
#![expect(unsafe_code, reason = "loading descriptor tables changes what every later instruction means")]

use core::mem::{offset_of, size_of};
use x86::bits64::segmentation::{Descriptor64, load_cs};
use x86::bits64::task::TaskStateSegment;
use x86::dtables::{DescriptorTablePointer, lgdt, lidt};
use x86::segmentation::{
    BuildDescriptor, CodeSegmentType, DataSegmentType, Descriptor, DescriptorBuilder, GateDescriptorBuilder,
    SegmentDescriptorBuilder, SegmentSelector, load_ds, load_es, load_ss,
};
use x86::task::load_tr;

/// Exceptions the CPU knows: vectors below 32.
pub const EXCEPTIONS: usize = 32;
/// The vector after the exceptions: an interrupt that only ends a HLT.
pub const WAKE_VECTOR: u8 = 32;
/// Gates there are.
pub const GATES: usize = EXCEPTIONS + 1;
/// 64-bit code, `__BOOT_CS`.
const CODE: SegmentSelector = SegmentSelector::from_raw(0x10);
/// Data, `__BOOT_DS`.
const DATA: SegmentSelector = SegmentSelector::from_raw(0x18);
/// Task state.
const TASK: SegmentSelector = SegmentSelector::from_raw(0x20);
/// The interrupt stack every gate switches to: the one in use may be what is broken.
const FAULT_STACK: u8 = 1;

#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Gdt {
    unused: [Descriptor; 2],
    code: Descriptor,
    data: Descriptor,
    task: Descriptor64,
}
const _: () = assert!(offset_of!(Gdt, code) == 0x10);
const _: () = assert!(offset_of!(Gdt, data) == 0x18);
const _: () = assert!(offset_of!(Gdt, task) == 0x20);
const _: () = assert!(size_of::<Gdt>() == 0x30);
const _: () = assert!(size_of::<TaskStateSegment>() == 0x68);

/// What one processor needs of its own.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
pub struct CpuTables {
    gdt: Gdt,
    task: TaskStateSegment,
}

/// Gates of all exceptions and of [`WAKE_VECTOR`], shared by all processors.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(16))]
pub struct Idt([Descriptor64; GATES]);
const _: () = assert!(size_of::<Idt>() == GATES * 16);
const _: () = assert!(WAKE_VECTOR as usize == EXCEPTIONS);

impl Idt {
    /// Gates to handlers at these addresses.
    pub fn new(handlers: &[u64; GATES]) -> Self {
        Self(handlers.map(|handler| {
            <DescriptorBuilder as GateDescriptorBuilder<u64>>::interrupt_descriptor(CODE, handler)
                .present()
                .ist(FAULT_STACK)
                .finish()
        }))
    }
}

impl CpuTables {
    /// Tables for a processor whose faults are handled on the stack that ends at `fault_stack_top`. They refer to
    /// themselves only once loaded.
    pub fn new(fault_stack_top: u64) -> Self {
        let mut task = TaskStateSegment::new();
        task.set_ist(usize::from(FAULT_STACK) - 1, fault_stack_top);
        // Beyond the limit: no I/O permission map.
        task.iomap_base = TASK_LEN;
        let flat = u32::MAX >> 12;
        let code = DescriptorBuilder::code_descriptor(0, flat, CodeSegmentType::ExecuteReadAccessed)
            .present()
            .limit_granularity_4kb()
            .l()
            .finish();
        let data = DescriptorBuilder::data_descriptor(0, flat, DataSegmentType::ReadWriteAccessed)
            .present()
            .limit_granularity_4kb()
            .db()
            .finish();
        Self { gdt: Gdt { unused: [Descriptor::NULL; 2], code, data, task: Descriptor64::NULL }, task }
    }

    /// Loads these tables and the gates on the processor that runs this.
    ///
    /// # Safety
    ///
    /// All handlers in `idt` are code, and the fault stack is memory nobody else uses. No other processor has loaded
    /// these tables.
    pub unsafe fn load(&'static mut self, idt: &'static Idt) {
        let base = (&raw const self.task).expose_provenance() as u64;
        self.gdt.task =
            <DescriptorBuilder as GateDescriptorBuilder<u64>>::tss_descriptor(base, u64::from(TASK_LEN) - 1, true)
                .present()
                .finish();
        let gdt = DescriptorTablePointer::new(&self.gdt);
        let idt = DescriptorTablePointer::new(idt);
        // SAFETY: the table lives for ever and holds the selectors loaded below.
        unsafe { lgdt(&gdt) };
        // SAFETY: a 64-bit code segment, like the one in use.
        unsafe { load_cs(CODE) };
        // SAFETY: flat data segments; 64-bit code ignores them.
        unsafe { load_ss(DATA) };
        // SAFETY: as above.
        unsafe { load_ds(DATA) };
        // SAFETY: as above.
        unsafe { load_es(DATA) };
        // SAFETY: the descriptor was written above and is not busy.
        unsafe { load_tr(TASK) };
        // SAFETY: the caller vouches for the handlers.
        unsafe { lidt(&idt) };
    }
}

/// Bytes in a 64-bit TSS.
const TASK_LEN: u16 = 0x68;

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<T, const LEN: usize>(value: &T) -> [u8; LEN] {
        assert_eq!(size_of::<T>(), LEN);
        // SAFETY: LEN bytes of a plain structure without padding, checked above.
        unsafe { core::mem::transmute_copy(value) }
    }

    #[test]
    fn segments_are_linuxs_boot_segments() {
        let tables = CpuTables::new(0x1234_5000);
        // APM vol. 2 figures 4-14 and 4-20: base 0, limit 4 GiB, present, accessed.
        assert_eq!(tables.gdt.code.as_u64(), 0x00af_9b00_0000_ffff);
        assert_eq!(tables.gdt.data.as_u64(), 0x00cf_9300_0000_ffff);
        let ist1 = bytes::<_, 0x68>(&tables.task)[0x24..0x2c].try_into().unwrap();
        assert_eq!(u64::from_le_bytes(ist1), 0x1234_5000);
    }

    #[test]
    fn gates_hold_the_whole_address_and_the_fault_stack() {
        let idt = Idt::new(&core::array::from_fn(|vector| 0x0123_4567_89ab_c000 + vector as u64));
        let raw: [u8; GATES * 16] = bytes(&idt);
        let gate = &raw[14 * 16..15 * 16];
        let offset = [gate[0], gate[1], gate[6], gate[7], gate[8], gate[9], gate[10], gate[11]];
        assert_eq!(u64::from_le_bytes(offset), 0x0123_4567_89ab_c00e);
        // Selector 0x10, stack 1, present interrupt gate.
        assert_eq!(gate[2..6], [0x10, 0, 1, 0x8e]);
        assert_eq!(gate[12..16], [0; 4]);
    }
}
