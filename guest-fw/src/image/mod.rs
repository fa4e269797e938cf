//! What exists only in the image.
#![expect(unsafe_code, reason = "the linker's symbols and the entry code are outside what Rust can check")]

mod heap;

use core::arch::global_asm;
use core::mem::offset_of;
use core::panic::PanicInfo;
use core::ptr::addr_of;
use guest_fw::abi::{ABI_VERSION, AP_TRAMPOLINE, FW_BASE, FirmwareFault, IMAGE_MAGIC};
use guest_fw::abi::{TERMINATION_NOT_BUILT, TERMINATION_SET};
use guest_fw::boot::{self, Image};
use guest_fw::descriptors::{EXCEPTIONS, GATES};
use guest_fw::fault::{self, ExceptionFrame};
use guest_fw::memory::bytes;
use guest_fw::range::GpaRange;
use guest_fw::selftest;
use guest_fw::selftest::smp::{PARAMETERS, Parameters};

global_asm!(
    include_str!("entry.S"),
    image_magic = const IMAGE_MAGIC,
    abi_version = const ABI_VERSION,
    fw_base = const FW_BASE,
    exceptions = const EXCEPTIONS,
    // Request in bits 11:0, code set in 15:12, code in 23:16.
    termination = const 0x100 | (TERMINATION_SET as u32) << 12 | (TERMINATION_NOT_BUILT as u32) << 16,
);
global_asm!(
    include_str!("../memory/functions.S"),
    ".globl memcpy, memmove, memset, memcmp, bcmp",
    ".set memcpy, fw_memcpy",
    ".set memmove, fw_memmove",
    ".set memset, fw_memset",
    ".set memcmp, fw_memcmp",
    ".set bcmp, fw_memcmp",
);
global_asm!(
    include_str!("trampoline.S"),
    trampoline = const AP_TRAMPOLINE,
    parameters = const PARAMETERS,
    page_tables = const offset_of!(Parameters, page_tables),
    areas = const offset_of!(Parameters, areas),
    area_len = const offset_of!(Parameters, area_len),
    vcpus = const offset_of!(Parameters, vcpus),
    entry = const offset_of!(Parameters, entry),
);

unsafe extern "C" {
    static fw_start: u8;
    static fw_text_end: u8;
    static fw_rodata_end: u8;
    static fw_image_end: u8;
    static fw_stack_guard: u8;
    static fw_stack_bottom: u8;
    static fw_fault_stack_top: u8;
    static fw_memory_end: u8;
    static fw_trampoline: u8;
    static fw_trampoline_end: u8;
    static fw_gate_handlers: [u64; GATES];
}

/// Address of a linker symbol.
macro_rules! address {
    ($symbol:ident) => {
        addr_of!($symbol).expose_provenance() as u64
    };
}

/// First Rust code, called by the entry code with the entry register.
#[unsafe(no_mangle)]
extern "C" fn fw_main(staging_gpa: u64) -> ! {
    let start = address!(fw_start);
    let text_end = address!(fw_text_end);
    let rodata_end = address!(fw_rodata_end);
    let trampoline = GpaRange::between(address!(fw_trampoline), address!(fw_trampoline_end));
    let image = Image {
        len: address!(fw_image_end) - start,
        text: GpaRange::between(start, text_end),
        rodata: GpaRange::between(text_end, rodata_end),
        data: GpaRange::between(rodata_end, address!(fw_stack_guard)),
        stacks: GpaRange::between(address!(fw_stack_bottom), address!(fw_memory_end)),
        fault_stack_top: address!(fw_fault_stack_top),
        // SAFETY: the entry code defines this table, and nothing writes to it.
        handlers: unsafe { fw_gate_handlers },
        // SAFETY: constants of the image, between these symbols.
        trampoline: unsafe { bytes(trampoline) },
        ap_entry: (fw_ap_main as extern "C" fn(u32) -> !) as usize as u64,
    };
    // SAFETY: called once, by the entry code; the linker script's symbols say where the image is.
    unsafe { boot::run(&image, staging_gpa) }
}

/// First Rust code of the other processors, called by the trampoline.
extern "C" fn fw_ap_main(x2apic_id: u32) -> ! {
    // SAFETY: the trampoline brings each processor here once, on its own stack.
    unsafe { selftest::processor(x2apic_id) }
}

/// Called by the exception stubs.
#[unsafe(no_mangle)]
extern "C" fn fw_exception(frame: &ExceptionFrame) -> ! {
    fault::exception(frame)
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    fault::die(FirmwareFault::Crash, format_args!("{info}"))
}
