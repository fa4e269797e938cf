//! The guest: converts the same pages to and fro, touches one after each conversion, and reports what it took.
//!
//! Machine code, because it must be the same on both VMMs and start without any memory of its own. Interrupts are off.
//! Specification of the hypercall: Linux `Documentation/virt/kvm/x86/hypercalls.rst`, `KVM_HC_MAP_GPA_RANGE`; of the
//! instructions: AMD APM volume 3.

use gmem::layout;
use guest_fw::abi::{self, ABI_VERSION, Doorbell, IMAGE_MAGIC, ImageHeader};
use zerocopy::IntoBytes;

/// What is to be measured.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Work {
    pub pages: u32,
    pub rounds: u32,
}

/// Round trips before the clock is read: what is allocated once is there then.
const WARM_UP: u32 = 20;
/// The pages that are converted: far from everything else, at a multiple of 2 MiB.
pub(crate) const GPA: u32 = 32 << 20;
/// Bytes of the report: the counter's difference, least significant first, on the serial port.
pub(crate) const REPORT_BYTES: usize = 8;

/// The guest's code. Position independent.
pub(crate) fn code(work: Work) -> Vec<u8> {
    let mut code = Vec::new();
    rounds(&mut code, work.pages, WARM_UP);
    counter(&mut code);
    code.extend([0x49, 0x89, 0xc7]); // mov r15, rax
    rounds(&mut code, work.pages, work.rounds);
    counter(&mut code);
    code.extend([0x4c, 0x29, 0xf8]); // sub rax, r15
    out_port(&mut code, layout::SERIAL_PORT);
    for _ in 0..REPORT_BYTES {
        code.push(0xee); // out dx, al
        code.extend([0x48, 0xc1, 0xe8, 8]); // shr rax, 8
    }
    out_port(&mut code, layout::DOORBELL_PORT);
    load(&mut code, 0xb8, Doorbell::SelfTestDone.to_raw(0)); // mov eax, imm32
    code.push(0xef); // out dx, eax
    code.extend([0xeb, 0xfe]); // jmp to itself
    code
}

/// So many round trips.
fn rounds(code: &mut Vec<u8>, pages: u32, count: u32) {
    code.push(0x41);
    load(code, 0xbe, count); // mov r14d, imm32
    let start = code.len();
    for attributes in [0, 1 << 4] {
        load(code, 0xb8, 12); // mov eax, KVM_HC_MAP_GPA_RANGE
        load(code, 0xbb, GPA); // mov ebx, imm32
        load(code, 0xb9, pages); // mov ecx, imm32
        load(code, 0xba, attributes); // mov edx, imm32
        code.extend([0x0f, 0x01, 0xd9]); // vmmcall
        code.extend([0x88, 0x03]); // mov [rbx], al
    }
    code.extend([0x41, 0xff, 0xce]); // dec r14d
    let back = code.len() + 2 - start;
    code.extend([0x75, u8::try_from(back).expect("a short loop").wrapping_neg()]); // jnz start
}

/// `mov reg, imm32`.
fn load(code: &mut Vec<u8>, opcode: u8, value: u32) {
    code.push(opcode);
    code.extend(value.to_le_bytes());
}

/// Reads the time stamp counter into rax.
fn counter(code: &mut Vec<u8>) {
    code.extend([0x0f, 0x31]); // rdtsc
    code.extend([0x48, 0xc1, 0xe2, 32]); // shl rdx, 32
    code.extend([0x48, 0x09, 0xd0]); // or rax, rdx
}

/// `mov dx, imm16`.
fn out_port(code: &mut Vec<u8>, port: u16) {
    code.extend([0x66, 0xba]);
    code.extend(port.to_le_bytes());
}

/// The same as an image that `tenure` starts like its own firmware.
pub(crate) fn image(work: Work) -> Vec<u8> {
    let code = code(work);
    let entry = size_of::<ImageHeader>();
    let image_len = (entry + code.len()) as u64;
    let header = ImageHeader {
        magic: IMAGE_MAGIC,
        version: ABI_VERSION,
        entry_staged64: u32::try_from(entry).expect("a small header"),
        entry_flat32: 0,
        reserved: 0,
        image_len,
        memory_len: image_len.next_multiple_of(abi::PAGE_SIZE),
    };
    [header.as_bytes(), &code].concat()
}
