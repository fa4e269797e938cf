//! Beginning, ending, and what the compiler and `alloc` expect of the outside.
#![expect(unsafe_code, reason = "there is no library below this")]

use core::alloc::{GlobalAlloc, Layout};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

global_asm!(
    ".globl _start",
    "_start:",
    "xor ebp, ebp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym main,
);

// What moves memory is the firmware's, which has no C library either.
global_asm!(
    include_str!("../../../guest-fw/src/memory/functions.S"),
    ".globl memcpy, memmove, memset, memcmp, bcmp",
    ".set memcpy, fw_memcpy",
    ".set memmove, fw_memmove",
    ".set memset, fw_memset",
    ".set memcmp, fw_memcmp",
    ".set bcmp, fw_memcmp",
);

const READ: usize = 0;
const WRITE: usize = 1;
const EXIT: usize = 60;
const PRCTL: usize = 157;
const SET_SECCOMP: usize = 22;
const STRICT: usize = 1;

const HEAP_BYTES: usize = 64 << 20;

extern "C" fn main() -> ! {
    let mut input = alloc::vec![0; 1 << 20];
    let mut length = 0;
    while let Some(room) = input.get_mut(length..).filter(|room| !room.is_empty()) {
        // SAFETY: the kernel writes into `room`, and no more than there is.
        let read = unsafe { call(READ, 0, room.as_mut_ptr().expose_provenance(), room.len()) };
        match usize::try_from(read) {
            Ok(0) | Err(_) => break,
            Ok(read) => length += read,
        }
    }
    // SAFETY: no memory is concerned.
    let strict = unsafe { call(PRCTL, SET_SECCOMP, STRICT, 0) };
    let said = match strict {
        0 => crate::program::verify(input.get(..length).unwrap_or_default()),
        error => Err(alloc::format!("there is no strict mode: {error}")),
    };
    let (text, code) = match said {
        Ok(text) => (text, 0),
        Err(text) => (text, 1),
    };
    write(text.as_bytes());
    exit(code)
}

fn write(text: &[u8]) {
    // SAFETY: the kernel reads `text`. What it could not write nobody misses: the test does.
    unsafe { call(WRITE, 1, text.as_ptr().expose_provenance(), text.len()) };
}

fn exit(code: usize) -> ! {
    // SAFETY: it does not return.
    unsafe { call(EXIT, code, 0, 0) };
    loop {
        core::hint::spin_loop();
    }
}

/// A system call.
///
/// # Safety
///
/// What it does to memory must be allowed.
unsafe fn call(number: usize, one: usize, two: usize, three: usize) -> isize {
    let answer;
    // SAFETY: the kernel keeps to its convention; the rest is the caller's to know.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => answer,
            in("rdi") one,
            in("rsi") two,
            in("rdx") three,
            in("r10") 0,
            in("r8") 0,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    answer
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    write(alloc::format!("{info}\n").as_bytes());
    exit(2)
}

/// Nothing unwinds here; the prebuilt `core` and `alloc` refer to both.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() -> ! {
    exit(3)
}

/// Memory that is given and never taken back.
struct Heap {
    bytes: UnsafeCell<[u8; HEAP_BYTES]>,
    used: AtomicUsize,
}

// SAFETY: no two allocations are given the same bytes, because `used` only grows.
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap { bytes: UnsafeCell::new([0; HEAP_BYTES]), used: AtomicUsize::new(0) };

// SAFETY: what is given is aligned, inside `bytes`, and given once.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let start = self.bytes.get().cast::<u8>();
        let place = |used: usize| {
            let address = start.addr().checked_add(used)?.checked_next_multiple_of(layout.align())?;
            let offset = address - start.addr();
            let end = offset.checked_add(layout.size()).filter(|end| *end <= HEAP_BYTES)?;
            Some((offset, end))
        };
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(place(used)?.1));
        match taken.ok().and_then(place) {
            Some((offset, _)) => start.wrapping_add(offset),
            None => core::ptr::null_mut(),
        }
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}
