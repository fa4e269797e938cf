//! Holds a VM, or part of it, in ways that an audit should notice, and in those that it should not.
//!
//! Says `ready`, with its child's number if it has one, once everything is as asked for, and holds it until its standard
//! input ends. A child is this program again, as a program that knows nothing of VMs: it waits for the same end.
#![expect(unsafe_code, reason = "one memory mapping that no library makes without keeping the descriptor")]

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use clap::{Parser, ValueEnum};
use gmem::vcpu::VcpuState;
use gmem::{GfnRange, Gpa, PageCount};
use gmem_kvm::backing::Region;
use gmem_kvm::evidence::{Object, recognise};
use gmem_kvm::kvm::{KvmGmem, KvmKernel, KvmVcpu, KvmVm};
use gmem_kvm::port::{GmemUse, Kernel, KernelVcpu, KernelVm, Slot, SlotId, VmType};
use gmem_kvm::probe::{self, DEV_KVM};
use rustix::io::FdFlags;
use rustix::mm::{MapFlags, ProtFlags, mmap};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};

/// Said, with the reason, where this host's KVM cannot do what is asked for.
const CANNOT: &str = "cannot";
/// Where the guest's code is.
const CODE: u64 = 0x10_0000;

/// Holds a VM
#[derive(Debug, Parser)]
struct Cli {
    /// Only waits
    #[arg(long)]
    wait: bool,

    /// VMs, with memory each
    #[arg(long, default_value_t = 1)]
    vms: u32,

    /// MiB of memory each
    #[arg(long, default_value_t = 4)]
    mib: u64,

    /// What the vCPU of the first VM does
    #[arg(long, value_enum, default_value_t = Vcpu::None)]
    vcpu: Vcpu,

    /// Has a second descriptor of the first VM's memory, without close-on-exec, as KVM makes them
    #[arg(long)]
    leak: bool,

    /// Has a child that inherits what it can
    #[arg(long)]
    child: bool,

    /// Maps the first VM's memory
    #[arg(long)]
    map: bool,

    /// Closes the VMs, and the vCPU
    #[arg(long)]
    close_vm: bool,

    /// Closes the memory
    #[arg(long)]
    close_memory: bool,

    /// Ends as soon as it has a child
    #[arg(long)]
    leave: bool,
}

/// What a vCPU does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Vcpu {
    /// There is none.
    None,
    /// It never runs.
    Stopped,
    /// It has halted, and waits for an interrupt.
    Halted,
    /// It goes round in a circle.
    Busy,
}

fn main() -> Result<(), Box<dyn Error>> {
    let cli = Cli::parse();
    if cli.wait {
        return wait();
    }
    let (vm_type, purpose) = match kind() {
        Ok(kind) => kind,
        Err(reason) => return say(&format!("{CANNOT}: {reason}")),
    };
    let kernel = KvmKernel::open(Path::new(DEV_KVM))?;
    let mut held: Vec<(KvmVm, KvmGmem)> = Vec::new();
    for _ in 0..cli.vms {
        let vm = kernel.create_vm(vm_type)?;
        let memory = vm.create_gmem(PageCount::new(cli.mib << 8), purpose)?;
        held.push((vm, memory));
    }
    let (first, _) = held.first().ok_or("no VM")?;
    let copy = copy_of_first_memory()?;
    if cli.leak {
        rustix::io::fcntl_setfd(&copy, FdFlags::empty())?;
    }
    let vcpu = (cli.vcpu != Vcpu::None).then(|| vcpu(&kernel, first, cli.vcpu)).transpose()?;
    let mut vcpu_at_rest = None;
    match (vcpu, cli.vcpu) {
        (Some(vcpu), Vcpu::Stopped) => vcpu_at_rest = Some(vcpu),
        (Some(vcpu), _) => run(vcpu),
        (None, _) => {}
    }
    if cli.map
        && let Err(reason) = map(&copy, cli.mib << 20)
    {
        return say(&format!("{CANNOT}: map guest_memfd: {reason}"));
    }
    let child = cli.child.then(child).transpose()?;
    let (vms, memories): (Vec<_>, Vec<_>) = held.into_iter().unzip();
    let vms = (!cli.close_vm).then_some((vms, vcpu_at_rest));
    let memories = (!cli.close_memory).then_some((memories, cli.leak.then_some(copy)));
    say(&format!("ready {}", child.as_ref().map_or(0, Child::id)))?;
    if !cli.leave {
        wait()?;
    }
    drop((memories, vms));
    if let Some(mut child) = child.filter(|_| !cli.leave) {
        child.wait()?;
    }
    Ok(())
}

fn say(line: &str) -> Result<(), Box<dyn Error>> {
    let mut out = io::stdout();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

fn wait() -> Result<(), Box<dyn Error>> {
    io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}

/// The kind of VM that can have memory of its own here.
fn kind() -> Result<(VmType, GmemUse), String> {
    let facts = probe::probe(Path::new(DEV_KVM)).map_err(|error| error.to_string())?;
    if facts.guest_memfd == 0 {
        return Err("this KVM has no guest_memfd (KVM_CAP_GUEST_MEMFD)".to_owned());
    }
    if facts.vm_types & 1 << VmType::SwProtected.raw() != 0 {
        return Ok((VmType::SwProtected, GmemUse::Private));
    }
    if facts.guest_memfd_flags & 3 != 3 {
        return Err("neither VM type 1 nor guest_memfd that can be mapped".to_owned());
    }
    Ok((VmType::Default, GmemUse::HostShared))
}

/// A second descriptor of the memory that was created first: the port does not hand its own out.
fn copy_of_first_memory() -> Result<OwnedFd, Box<dyn Error>> {
    let number = descriptor(|link| recognise(link) == Some(Object::GuestMemfd))?;
    let this = pidfd_open(getpid(), PidfdFlags::empty())?;
    Ok(pidfd_getfd(&this, number, PidfdGetfdFlags::empty())?)
}

/// The lowest of this process's descriptors with such a link.
fn descriptor(wanted: impl Fn(&str) -> bool) -> Result<i32, Box<dyn Error>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        if wanted(&link.to_string_lossy()) {
            numbers.push(entry.file_name().to_string_lossy().parse::<i32>()?);
        }
    }
    Ok(numbers.into_iter().min().ok_or("no such descriptor")?)
}

/// Maps a file, for as long as this process lives.
fn map(file: &OwnedFd, bytes: u64) -> Result<(), Box<dyn Error>> {
    let (len, access) = (usize::try_from(bytes)?, ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: a new mapping at an address the kernel chooses, which nothing here refers to.
    unsafe { mmap(std::ptr::null_mut(), len, access, MapFlags::SHARED, file, 0) }?;
    Ok(())
}

fn child() -> Result<Child, io::Error> {
    Command::new(std::env::current_exe()?).arg("--wait").stdin(Stdio::inherit()).stdout(Stdio::null()).spawn()
}

/// A vCPU that is ready to execute two instructions.
fn vcpu(kernel: &KvmKernel, vm: &KvmVm, what: Vcpu) -> Result<KvmVcpu, Box<dyn Error>> {
    const CODE_NAME: &str = "hold-code";
    const PAGES: u64 = 4;
    let range = GfnRange::from_request(Gpa(CODE), PageCount::new(PAGES))?;
    let region = Region::new(CODE_NAME, range)?;
    let number = descriptor(|link| link.contains(CODE_NAME))?;
    File::options().write(true).open(format!("/proc/self/fd/{number}"))?.write_all_at(&image(what), 0)?;
    vm.create_slot(Slot { id: SlotId(0), range, shared: Arc::new(region), private: None })?;
    if what == Vcpu::Halted {
        // Without one, a vCPU that halts comes back from KVM_RUN.
        vm.create_interrupt_controller()?;
    }
    let mut vcpu = vm.create_vcpu(0)?;
    vcpu.set_cpuid(&kernel.supported_cpuid()?)?;
    let cr3 = Gpa(CODE + 0x1000);
    let long_mode = VcpuState { cr0: 0x8005_0033, cr4: 0x20, efer: 0x500, ..VcpuState::LONG_MODE };
    vcpu.set_initial_state(&VcpuState { rip: CODE, cr3, ..long_mode })?;
    Ok(vcpu)
}

/// Code, and page tables for the first gigabyte, one to one.
fn image(what: Vcpu) -> Vec<u8> {
    const PRESENT: u64 = 0b11;
    const LARGE: u64 = 0x80;
    let mut words = vec![0u64; 4 * 512];
    // `hlt; jmp $-1` or `jmp $`; interrupts are off.
    words[0] = if what == Vcpu::Halted { 0x00fd_ebf4 } else { 0xfeeb };
    words[512] = (CODE + 0x2000) | PRESENT;
    words[2 * 512] = (CODE + 0x3000) | PRESENT;
    for (number, entry) in (0u64..).zip(&mut words[3 * 512..]) {
        *entry = (number << 21) | LARGE | PRESENT;
    }
    words.into_iter().flat_map(u64::to_le_bytes).collect()
}

/// Runs the guest until this process ends.
fn run(mut vcpu: KvmVcpu) {
    thread::spawn(move || while vcpu.run().is_ok() {});
}
