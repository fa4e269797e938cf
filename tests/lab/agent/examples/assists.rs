//! A guest in private memory that uses, one after the other, every kind of instruction that KVM
//! can only step over or emulate with the processor's help: it cannot read the guest's code.
//!
//! Prints what the guest reported at each step; exits with 1 at the first that is wrong. Proves the
//! corrections in `../qemu/` (AMD64 APM volume 2, 15.7.1 and 15.8), on any host that runs it.
#![expect(unsafe_code, reason = "KVM is given an address range")]

use std::error::Error;
use std::process::ExitCode;

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, KVM_MEM_GUEST_MEMFD, KVM_MEMORY_ATTRIBUTE_PRIVATE, KVM_X86_SW_PROTECTED_VM,
    kvm_create_guest_memfd, kvm_memory_attributes, kvm_regs, kvm_segment, kvm_userspace_memory_region2,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const MIB: u64 = 1 << 20;
/// Slot and address of private memory, and behind it of the shared memory in which the guest starts.
const PRIVATE: (u32, u64) = (0, 0);
const SHARED: (u32, u64) = (1, MIB);
/// Where page tables and code lie in shared memory, and then in private memory.
const TABLES: u64 = 0x1000;
const CODE: u64 = 0x1_0000;
/// Where the steps begin within the code.
const STEPS_OFFSET: usize = 0x100;
/// The tables it starts with.
const START_TABLES: u64 = 0x9000;
const REPORT_PORT: u16 = 0xe9;
const DEVICE_ANSWER: u32 = 0x55aa_55aa;
/// `out %eax,$0xe9`
const REPORT: &[u8] = &[0xe7, 0xe9];

/// Copies code and tables to private memory, switches over, jumps to the first step.
const MOVE: &[u8] = &[
    0xbe, 0x00, 0x00, 0x11, 0x00, // mov $0x110000,%esi
    0xbf, 0x00, 0x00, 0x01, 0x00, // mov $0x10000,%edi
    0xb9, 0x00, 0x40, 0x00, 0x00, // mov $0x4000,%ecx
    0xf3, 0xa4, // rep movsb
    0xbe, 0x00, 0x10, 0x10, 0x00, // mov $0x101000,%esi
    0xbf, 0x00, 0x10, 0x00, 0x00, // mov $0x1000,%edi
    0xb9, 0x00, 0x40, 0x00, 0x00, // mov $0x4000,%ecx
    0xf3, 0xa4, // rep movsb
    0xb8, 0x00, 0x10, 0x00, 0x00, // mov $0x1000,%eax
    0x0f, 0x22, 0xd8, // mov %rax,%cr3
    0xb8, 0x00, 0x01, 0x01, 0x00, // mov $0x10100,%eax
    0xff, 0xe0, // jmp *%rax
];

/// `mov 0xfed00000,%eax`, where a device answers.
const READ_DEVICE: &[u8] = &[0xa1, 0x00, 0x00, 0xd0, 0xfe, 0x00, 0x00, 0x00, 0x00];

/// What is tried, the instructions, and what EAX must hold after them.
const STEPS: &[(&str, &[u8], u32)] = &[
    ("code in private memory", &[0xb8, 0x50, 0x00, 0x00, 0x00], 0x50),
    (
        "CPUID, with prefixes too",
        &[
            0x0f, 0xa2, // cpuid
            0x66, 0x2e, 0x0f, 0xa2, // data16 cs cpuid
            0x3e, 0x48, 0x0f, 0xa2, // ds rex.W cpuid
            0xb8, 0x01, 0x00, 0x00, 0x00, // mov $1,%eax
        ],
        1,
    ),
    (
        "MOV to CR4 from R11",
        &[
            0x41, 0x0f, 0x20, 0xe3, // mov %cr4,%r11
            0x49, 0x81, 0xcb, 0x00, 0x06, 0x04, 0x00, // or $0x40600,%r11: OSXSAVE, SSE
            0x41, 0x0f, 0x22, 0xe3, // mov %r11,%cr4
            0x0f, 0x20, 0xe0, // mov %cr4,%rax
        ],
        0x4_0620,
    ),
    (
        "MOV to CR0 from R13",
        &[
            0x41, 0x0f, 0x20, 0xc5, // mov %cr0,%r13
            0x49, 0x81, 0xf5, 0x00, 0x00, 0x01, 0x00, // xor $0x10000,%r13: WP
            0x41, 0x0f, 0x22, 0xc5, // mov %r13,%cr0
            0x0f, 0x20, 0xc0, // mov %cr0,%rax
        ],
        0x8000_0033,
    ),
    (
        "MOV to and from DR1",
        &[
            0x41, 0xbe, 0x56, 0x34, 0x12, 0x00, // mov $0x123456,%r14d
            0x41, 0x0f, 0x23, 0xce, // mov %r14,%dr1
            0x0f, 0x21, 0xc8, // mov %dr1,%rax
        ],
        0x12_3456,
    ),
    (
        "MOV to and from CR8",
        &[
            0x41, 0xb9, 0x05, 0x00, 0x00, 0x00, // mov $5,%r9d
            0x45, 0x0f, 0x22, 0xc1, // mov %r9,%cr8
            0x44, 0x0f, 0x20, 0xc0, // mov %cr8,%rax
        ],
        5,
    ),
    (
        "XSETBV",
        &[
            0x31, 0xc9, // xor %ecx,%ecx
            0xb8, 0x07, 0x00, 0x00, 0x00, // mov $7,%eax: x87, SSE, AVX
            0x31, 0xd2, // xor %edx,%edx
            0x0f, 0x01, 0xd1, // xsetbv
            0xb8, 0x0d, 0x00, 0x00, 0x00, // mov $13,%eax
            0x0f, 0xa2, // cpuid
            0x89, 0xd8, // mov %ebx,%eax
        ],
        // The size of their area, 576 bytes without AVX: KVM has seen which are enabled.
        832,
    ),
    (
        "RDMSR, WRMSR with a prefix, WBINVD",
        &[
            0xb9, 0x1b, 0x00, 0x00, 0x00, // mov $0x1b,%ecx
            0x0f, 0x32, // rdmsr
            0x66, 0x0f, 0x30, // data16 wrmsr
            0x0f, 0x09, // wbinvd
            0xb8, 0x02, 0x00, 0x00, 0x00, // mov $2,%eax
        ],
        2,
    ),
    (
        "VMMCALL of no known number",
        &[
            0xb8, 0x63, 0x00, 0x00, 0x00, // mov $99,%eax
            0x0f, 0x01, 0xd9, // vmmcall
        ],
        1000u32.wrapping_neg(), // -KVM_ENOSYS
    ),
    ("read from a device", READ_DEVICE, DEVICE_ANSWER),
    (
        "flags after CMPXCHG16B",
        &[
            0xbc, 0x00, 0x80, 0x00, 0x00, // mov $0x8000,%esp
            0x9c, // pushf
            0x9d, // popf
            0xb9, 0x00, 0x44, 0x00, 0x00, // mov $0x4400,%ecx
            0x48, 0x29, 0xca, // sub %rcx,%rdx
            0xf0, 0x48, 0x0f, 0xc7, 0x0c, 0x25, 0x00, 0x05, 0x00, 0x00, // lock cmpxchg16b 0x500
            0x9c, // pushf
            0x58, // pop %rax
            0x25, 0x2a, 0xf7, 0xff, 0xff, // and $0xfffff72a,%eax: all but the arithmetic flags
        ],
        2,
    ),
];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm_with_type(u64::from(KVM_X86_SW_PROTECTED_VM))?;
    // The shared half of private memory is there as an address only: nothing is ever put there.
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 2 << 20)])?;
    let mut expected: Vec<(&str, u32)> = STEPS.iter().map(|step| (step.0, step.2)).collect();
    expected.push(("read from a device by an instruction on two pages", DEVICE_ANSWER));
    write_guest(&memory)?;
    let guest_memfd = vm.create_guest_memfd(kvm_create_guest_memfd { size: MIB, ..Default::default() })?;
    set_slot(&vm, &memory, PRIVATE, MIB, Some(guest_memfd))?;
    set_slot(&vm, &memory, SHARED, MIB, None)?;
    vm.set_memory_attributes(kvm_memory_attributes {
        address: 0,
        size: MIB,
        attributes: u64::from(KVM_MEMORY_ATTRIBUTE_PRIVATE),
        flags: 0,
    })?;
    let mut vcpu = start_vcpu(&kvm, &vm)?;

    let mut steps = expected.into_iter();
    loop {
        match vcpu.run()? {
            VcpuExit::IoOut(REPORT_PORT, data) => {
                let found = u32::from_le_bytes(data.try_into()?);
                let Some((name, wanted)) = steps.next() else {
                    println!("one report too many: {found:#x}");
                    return Ok(ExitCode::FAILURE);
                };
                println!("{name}: {found:#x}");
                if found != wanted {
                    println!("... but it should be {wanted:#x}");
                    return Ok(ExitCode::FAILURE);
                }
                // From the first report on the guest needs nothing shared any more.
                if steps.len() == STEPS.len() {
                    set_slot(&vm, &memory, SHARED, 0, None)?;
                }
            }
            VcpuExit::MmioRead(_, data) => data.copy_from_slice(&DEVICE_ANSWER.to_le_bytes()[..data.len()]),
            VcpuExit::Hlt if steps.len() == 0 => return Ok(ExitCode::SUCCESS),
            exit => {
                println!("{exit:?} instead of {:?}", steps.next());
                return Ok(ExitCode::FAILURE);
            }
        }
    }
}

/// Writes code and tables to where the guest starts, in shared memory.
fn write_guest(memory: &GuestMemoryMmap) -> Result<(), Box<dyn Error>> {
    write_tables(memory, MIB + TABLES, TABLES)?; // to be copied to private memory
    write_tables(memory, MIB + START_TABLES, MIB + START_TABLES)?;
    let mut code = MOVE.to_vec();
    code.resize(STEPS_OFFSET, 0xcc);
    for (_, instructions, _) in STEPS {
        code.extend_from_slice(instructions);
        code.extend_from_slice(REPORT);
    }
    // The last step's instruction has its first bytes on one page and the rest on the next.
    code.resize(code.len().next_multiple_of(0x1000) - 3, 0x90);
    code.extend_from_slice(READ_DEVICE);
    code.extend_from_slice(REPORT);
    code.push(0xf4); // hlt
    memory.write_slice(&code, GuestAddress(MIB + CODE))?;
    Ok(())
}

/// Page tables that map the lowest 2 MiB and the device, as seen at `place`.
fn write_tables(memory: &GuestMemoryMmap, to: u64, place: u64) -> Result<(), Box<dyn Error>> {
    let table = |number: u64| (place + number * 0x1000) | 0b11;
    let entries = [(0, 0, table(1)), (1, 0, table(2)), (1, 3, table(3)), (2, 0, 0x83), (3, 0x1f6, 0xfec0_0083)];
    for (number, index, entry) in entries {
        memory.write_obj::<u64>(entry, GuestAddress(to + number * 0x1000 + index * 8))?;
    }
    Ok(())
}

/// Makes, or with size 0 deletes, a memory slot.
fn set_slot(
    vm: &VmFd,
    memory: &GuestMemoryMmap,
    (slot, address): (u32, u64),
    size: u64,
    guest_memfd: Option<i32>,
) -> Result<(), Box<dyn Error>> {
    let region = kvm_userspace_memory_region2 {
        slot,
        flags: guest_memfd.map_or(0, |_| KVM_MEM_GUEST_MEMFD),
        guest_phys_addr: address,
        memory_size: size,
        userspace_addr: memory.get_host_address(GuestAddress(address))? as u64,
        guest_memfd: guest_memfd.map_or(Ok(0), u32::try_from)?,
        ..Default::default()
    };
    // SAFETY: the range lies within `memory`, which outlives the VM, and is used by nothing else
    // while the guest runs.
    unsafe { vm.set_user_memory_region2(region)? };
    Ok(())
}

/// One processor in 64-bit mode at the start of the code.
fn start_vcpu(kvm: &Kvm, vm: &VmFd) -> Result<VcpuFd, Box<dyn Error>> {
    let vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    let mut sregs = vcpu.get_sregs()?;
    let data =
        kvm_segment { limit: u32::MAX, selector: 16, type_: 3, present: 1, db: 1, s: 1, g: 1, ..Default::default() };
    sregs.cs = kvm_segment { selector: 8, type_: 11, db: 0, l: 1, ..data };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.cr0 = 0x8001_0033; // paging, write protection, protected mode
    sregs.cr3 = MIB + START_TABLES;
    sregs.cr4 = 0x20; // physical address extension
    sregs.efer = 0x500; // long mode
    vcpu.set_sregs(&sregs)?;
    vcpu.set_regs(&kvm_regs { rip: MIB + CODE, rflags: 2, ..Default::default() })?;
    Ok(vcpu)
}
