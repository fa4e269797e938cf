//! The instructions Rust has no word for: ports, model-specific registers, control registers, hypercalls.
//!
//! Owns the wrapping, not the policy. Ports and MSRs are functions without `unsafe` for their callers: all of this
//! code runs alone on the machine it controls, and none of the registers used here touch memory by themselves.
//!
//! Specification: AMD64 APM vol. 2 and 3, Intel SDM vol. 2 and 3.
#![expect(unsafe_code, reason = "privileged instructions exist only as assembly")]

use core::arch::asm;
use core::arch::x86_64::{__cpuid, _rdtsc};
use x86::controlregs;
use x86::io;
use x86::msr;

/// Writes a byte to a port.
pub fn out8(port: u16, value: u8) {
    // SAFETY: port I/O reaches devices of the VMM, none of which masters the bus without memory it was given.
    unsafe { io::outb(port, value) }
}

/// Writes 16 bits to a port.
pub fn out16(port: u16, value: u16) {
    // SAFETY: as for out8.
    unsafe { io::outw(port, value) }
}

/// Writes 32 bits to a port.
pub fn out32(port: u16, value: u32) {
    // SAFETY: as for out8.
    unsafe { io::outl(port, value) }
}

/// What the CPU says it has. Each question is an exit, so ask once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features {
    /// x2APIC mode: the local APIC through MSRs.
    pub x2apic: bool,
    /// Pages can be marked as holding no code.
    pub no_execute: bool,
    /// Pages of 1 GiB.
    pub gib_pages: bool,
}

/// Asks the CPU what it has (CPUID 1 and 0x8000_0001; APM vol. 3 appendix E.3.2 and E.4.2).
pub fn features() -> Features {
    let basic = __cpuid(1);
    let extended = if __cpuid(0x8000_0000).eax >= 0x8000_0001 { __cpuid(0x8000_0001).edx } else { 0 };
    Features {
        x2apic: basic.ecx & 1 << 21 != 0,
        no_execute: extended & 1 << 20 != 0,
        gib_pages: extended & 1 << 26 != 0,
    }
}

/// Reads the time stamp counter.
pub fn timestamp() -> u64 {
    // SAFETY: RDTSC is allowed at this privilege level and touches nothing.
    unsafe { _rdtsc() }
}

/// Enables x2APIC mode on this processor. From a disabled APIC it goes through xAPIC mode, as it must (Intel SDM
/// vol. 3A §11.12.5).
pub fn enable_x2apic() {
    const ENABLE: u64 = 1 << 11;
    const EXTENDED: u64 = 1 << 10;
    // SAFETY: the register exists on every CPU with an APIC; nothing uses the xAPIC's page.
    let base = unsafe { msr::rdmsr(msr::IA32_APIC_BASE) };
    if base & ENABLE == 0 {
        // SAFETY: as above.
        unsafe { msr::wrmsr(msr::IA32_APIC_BASE, base | ENABLE) };
    }
    // SAFETY: the caller has seen in CPUID that x2APIC mode exists; the transition is a legal one.
    unsafe { msr::wrmsr(msr::IA32_APIC_BASE, base | ENABLE | EXTENDED) };
}

/// Lets page-table entries forbid execution, and read-only entries bind this code too.
pub fn enable_page_protection() {
    const NO_EXECUTE_ENABLE: u64 = 1 << 11;
    // SAFETY: the caller has seen in CPUID that no-execute exists.
    let efer = unsafe { msr::rdmsr(msr::IA32_EFER) };
    // SAFETY: as above; no entry in use has the bit set yet.
    unsafe { msr::wrmsr(msr::IA32_EFER, efer | NO_EXECUTE_ENABLE) };
    // SAFETY: reading CR0 is always allowed here.
    let cr0 = unsafe { controlregs::cr0() };
    // SAFETY: write protection only matters for read-only pages, which are meant to be so.
    unsafe { controlregs::cr0_write(cr0 | controlregs::Cr0::CR0_WRITE_PROTECT) };
}

/// Switches to other page tables.
///
/// # Safety
///
/// They map this code, its data and its stack where they are now.
pub unsafe fn load_page_tables(root: u64) {
    // SAFETY: the caller's promise.
    unsafe { controlregs::cr3_write(root) }
}

/// The address of the last page fault.
pub fn fault_address() -> u64 {
    // SAFETY: reading CR2 is always allowed here.
    unsafe { controlregs::cr2() as u64 }
}

/// Reads a byte from a port.
pub fn in8(port: u16) -> u8 {
    // SAFETY: as for out8.
    unsafe { io::inb(port) }
}

/// Reads 16 bits from a port.
pub fn in16(port: u16) -> u16 {
    // SAFETY: as for out8.
    unsafe { io::inw(port) }
}

/// Reads 32 bits from a port.
pub fn in32(port: u16) -> u32 {
    // SAFETY: as for out8.
    unsafe { io::inl(port) }
}

/// Sends an interprocessor interrupt through the x2APIC's interrupt command register (Intel SDM vol. 3A §11.12.9).
///
/// # Safety
///
/// This processor is in x2APIC mode, and what the command makes the other one do is sound.
pub unsafe fn send_ipi(x2apic_id: u32, command: u32) {
    const ICR: u32 = 0x830;
    // SAFETY: the caller's promise.
    unsafe { msr::wrmsr(ICR, u64::from(x2apic_id) << 32 | u64::from(command)) }
}

/// Lets this processor's APIC accept interrupts sent by others, and nothing from the PIC: a local vector table entry
/// that lets the PIC through is what the first processor starts with.
pub fn accept_interrupts(spurious_vector: u8) {
    const SPURIOUS: u32 = 0x80f;
    const ENABLE: u64 = 1 << 8;
    const LINT0: u32 = 0x835;
    const MASKED: u64 = 1 << 16;
    // SAFETY: x2APIC mode is on; interrupts stay off until someone asks for them.
    unsafe { msr::wrmsr(LINT0, MASKED) };
    // SAFETY: as above.
    unsafe { msr::wrmsr(SPURIOUS, ENABLE | u64::from(spurious_vector)) };
}

/// Sleeps until an interrupt. Interrupts are off before and after; one that comes between the caller's last look and
/// this does not get lost, since STI takes effect after the instruction that follows it.
///
/// # Safety
///
/// Every interrupt that can come has a gate.
pub unsafe fn sleep() {
    // SAFETY: the caller's promise. Not `nostack`: the interrupt uses a stack.
    unsafe { asm!("sti", "hlt", "cli") }
}

/// The instruction that calls KVM; the other vendor's is an invalid opcode in private memory, where KVM cannot patch
/// it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hypercall {
    /// AMD and compatible.
    Vmmcall,
    /// Intel.
    Vmcall,
}

impl Hypercall {
    /// The one of this CPU, by its vendor (CPUID 0).
    pub fn of_this_cpu() -> Self {
        let vendor = __cpuid(0);
        let intel = [*b"Genu", *b"ineI", *b"ntel"].map(u32::from_le_bytes);
        if [vendor.ebx, vendor.edx, vendor.ecx] == intel { Self::Vmcall } else { Self::Vmmcall }
    }

    /// Makes a hypercall with three arguments (Linux `Documentation/virt/kvm/x86/hypercalls.rst`): number in RAX,
    /// arguments in RBX, RCX, RDX, the answer in RAX, negative for errors.
    ///
    /// # Safety
    ///
    /// The answer is sound for whoever uses the memory it is about.
    pub unsafe fn call(self, number: u64, arguments: [u64; 3]) -> i64 {
        let answer;
        let [first, second, third] = arguments;
        // RBX is the compiler's: swap it in and out.
        match self {
            // SAFETY: the caller's promise; KVM changes no register but RAX.
            Self::Vmmcall => unsafe {
                asm!("xchg rbx, {}", "vmmcall", "xchg rbx, {0}", inout(reg) first => _, inout("rax") number => answer,
                    in("rcx") second, in("rdx") third, options(nostack))
            },
            // SAFETY: as above.
            Self::Vmcall => unsafe {
                asm!("xchg rbx, {}", "vmcall", "xchg rbx, {0}", inout(reg) first => _, inout("rax") number => answer,
                    in("rcx") second, in("rdx") third, options(nostack))
            },
        }
        answer
    }
}

/// Stops this processor for good.
pub fn halt() -> ! {
    loop {
        // SAFETY: with interrupts off, HLT waits for ever and touches nothing.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) }
    }
}

/// Enters Linux at its 64-bit entry point.
///
/// # Safety
///
/// A kernel that was loaded and checked has its entry there, the zero page is complete, and the page tables map both.
pub unsafe fn enter_linux(entry: u64, zero_page: u64) -> ! {
    // SAFETY: the caller's promise. Registers other than RSI carry no meaning (boot.rst) and leave nothing behind.
    unsafe {
        asm!(
            "xor ebp, ebp",
            "xor edi, edi",
            "xor ecx, ecx",
            "xor edx, edx",
            "jmp rax",
            in("rax") entry,
            in("rsi") zero_page,
            options(noreturn),
        )
    }
}
