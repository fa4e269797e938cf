//! A guest of eight bytes: it counts in a byte of memory and tells the count on a port.

use gmem::Gpa;
use gmem::ledger::Owner;
use gmem::vcpu::VcpuState;
use gmem_kvm::kvm::{KvmVcpu, KvmVm};
use gmem_kvm::port::{Exit, Kernel, KernelVcpu, KernelVm};

use crate::host::{Host, range};
use crate::raw::{self, Memory, RawSlot};

/// The page it counts in.
pub(crate) const DATA: u64 = 0x20_0000;
/// Where its code and page tables are, in a plain slot of shared memory.
const CODE: u64 = 0x100_0000;
const CODE_SLOT: u32 = 100;

/// `again: inc byte [rdi]; mov al, [rdi]; out 0x80, al; jmp again`
const PROGRAM: [u8; 8] = [0xfe, 0x07, 0x8a, 0x07, 0xe6, 0x80, 0xeb, 0xf8];
const PAGE: usize = 4096;

/// What the guest did.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Did {
    /// It counted this far.
    Counted(u8),
    /// It touched memory that it may not or cannot have.
    MemoryFault { wanted: Owner, gpa: u64 },
    /// It, or the kernel, gave up some other way.
    Died(String),
}

/// Code and page tables for `gpa`: the gigabyte they are in and the first one, one to one.
pub(crate) fn image(gpa: u64) -> Vec<u8> {
    const PRESENT: u64 = 0b11;
    const LARGE: u64 = 0x80;
    let gigabyte = gpa >> 30;
    let mut tables = vec![0u64; 5 * PAGE / 8];
    let table = |number: u64| gpa + number * PAGE as u64;
    tables[512] = table(2) | PRESENT;
    tables[2 * 512] = table(3) | PRESENT;
    tables[2 * 512 + usize::try_from(gigabyte).unwrap()] = table(if gigabyte == 0 { 3 } else { 4 }) | PRESENT;
    for entry in 0..512 {
        tables[3 * 512 + entry] = ((entry as u64) << 21) | LARGE | PRESENT;
        tables[4 * 512 + entry] = (gigabyte << 30) | ((entry as u64) << 21) | LARGE | PRESENT;
    }
    let mut bytes: Vec<u8> = tables.into_iter().flat_map(u64::to_le_bytes).collect();
    bytes[..PROGRAM.len()].copy_from_slice(&PROGRAM);
    bytes
}

/// The state a vCPU starts [`image`] with.
pub(crate) fn entry(gpa: u64) -> VcpuState {
    VcpuState {
        rip: gpa,
        rdi: DATA,
        cr3: Gpa(gpa + 0x1000),
        cr0: 0x8005_0033,
        cr4: 0x20,
        efer: 0x500,
        ..VcpuState::LONG_MODE
    }
}

pub(crate) struct Guest {
    vcpu: KvmVcpu,
    // Dropped after the vCPU.
    _code: Option<Memory>,
}

impl Guest {
    /// A guest in `vm`, the one that was created last, with its code in a slot of its own.
    pub(crate) fn new(host: &Host, vm: &KvmVm) -> Self {
        let code = Memory::anonymous(5);
        code.write(0, &image(CODE));
        RawSlot::plain(CODE_SLOT, range(CODE, 5), &code).set(raw::newest_vm()).unwrap();
        let guest = Self::on(vm.create_vcpu(0).unwrap(), host, CODE);
        Self { _code: Some(code), ..guest }
    }

    /// A guest on `vcpu` whose code somebody has put at `gpa`.
    pub(crate) fn on(mut vcpu: KvmVcpu, host: &Host, gpa: u64) -> Self {
        vcpu.set_cpuid(&host.kernel.supported_cpuid().unwrap()).unwrap();
        vcpu.set_initial_state(&entry(gpa)).unwrap();
        Self { vcpu, _code: None }
    }

    /// Runs until it has counted once more, or something else happens.
    pub(crate) fn step(&mut self) -> Did {
        for _ in 0..1000 {
            match self.vcpu.run() {
                Ok(Exit::Port(access)) => return Did::Counted(access.data[0]),
                Ok(Exit::MemoryFault { wanted, gpa, .. }) => return Did::MemoryFault { wanted, gpa: gpa.0 },
                Ok(Exit::Interrupted) => {}
                Ok(other) => return Did::Died(format!("{other:?}")),
                Err(error) => return Did::Died(error.to_string()),
            }
        }
        Did::Died("1000 interruptions".to_owned())
    }

    /// Gives the vCPU back.
    pub(crate) fn into_vcpu(self) -> KvmVcpu {
        self.vcpu
    }
}
