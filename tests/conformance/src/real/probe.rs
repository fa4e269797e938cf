//! What the kernel says of itself.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;

use super::{DEBUGFS, Error, own};
use crate::kernel::{CAPABILITIES, Features, Identity, Kernel, TypeFeatures};
use crate::op::{Op, Vm};
use crate::real::Real;
use crate::sys;

/// No guest can have more; what one machine's processor has is less, but is nothing to test with a program that must run
/// on all of them.
const LAST_GPA: u64 = (1 << 52) - 1;
/// VM types this program knows how to use.
const TYPES: [u32; 2] = [0, 1];
const VM_TYPES: u32 = 235;

/// Asks the kernel who it is and what it can.
pub fn probe(bed: &str) -> Result<Kernel, Error> {
    let mut real = Real::open()?;
    let kvm = real.kvm.try_clone().map_err(|_| own("/dev/kvm")(crate::outcome::Errno::BADF))?;
    let all = |fd: BorrowedFd<'_>| {
        let answers = CAPABILITIES
            .iter()
            .map(|(number, _)| (*number, sys::check_extension(fd.as_raw_fd(), *number).unwrap_or(0)));
        answers.collect::<std::collections::BTreeMap<_, _>>()
    };
    let mut features = Features { last_gpa: LAST_GPA, capabilities: all(kvm.as_fd()), ..Features::default() };
    let said = |of: &std::collections::BTreeMap<u32, u64>, number: u32| of.get(&number).copied().unwrap_or(0);
    for vm_type in TYPES {
        // Kernels before the capability have type 0.
        if vm_type != 0 && said(&features.capabilities, VM_TYPES) >> vm_type & 1 == 0 {
            continue;
        }
        let Ok(vm) = sys::create_vm(kvm.as_fd(), vm_type) else { continue };
        let vm_says = all(vm.as_fd());
        let of_type = TypeFeatures {
            gmem: said(&vm_says, 234) != 0,
            gmem_flags: said(&vm_says, 244),
            attributes: said(&vm_says, 233),
            address_spaces: u32::try_from(said(&vm_says, 118)).unwrap_or(1).max(1),
        };
        if said(&features.capabilities, 234) != 0 && !features.cachestat {
            let file = sys::create_guest_memfd(vm.as_raw_fd(), crate::op::PAGE, 0);
            features.cachestat = file.is_ok_and(|file| sys::cachestat(file.as_raw_fd()) == Ok(0));
        }
        features.types.insert(vm_type, of_type);
        features.vm_capabilities.insert(vm_type, vm_says);
    }
    features.attributes_ioctl = said(&features.capabilities, 233) != 0;
    features.prefault = said(&features.capabilities, 236) != 0;
    features.debugfs = shows_vms(&mut real);
    Ok(Kernel::new(identity(bed), features))
}

/// Whether debugfs shows a VM, and stops to.
fn shows_vms(real: &mut Real) -> bool {
    use crate::outcome::Outcome::Value;
    let Some(vm) = Vm::new(0) else { return false };
    let created = real.apply(&Op::CreateVm { vm, vm_type: 0 });
    let shown = real.apply(&Op::Alive(vm));
    let closed = real.apply(&Op::CloseVm(vm));
    let gone = real.apply(&Op::Alive(vm));
    created == closed && shown == Some(Value(1)) && gone == Some(Value(0)) && real.reset().is_ok()
}

fn identity(bed: &str) -> Identity {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let loaded = |name: &&str| Path::new("/sys/module").join(name).is_dir();
    let module = ["kvm_amd", "kvm_intel", "kvm_pvm"].iter().find(|name| loaded(name) && in_use(name));
    let module = module.map_or_else(|| "unknown".to_owned(), |name| (*name).to_owned());
    debug_assert!(Path::new(DEBUGFS).is_absolute());
    Identity { release, module, bed: bed.to_owned() }
}

/// A vendor module that is built in shows up even on the other vendor's processor; it has parameters then, too, so the
/// processor decides.
fn in_use(module: &str) -> bool {
    let flags = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let has = |flag: &str| {
        flags
            .lines()
            .find(|line| line.starts_with("flags"))
            .is_some_and(|line| line.split(' ').any(|word| word == flag))
    };
    match module {
        "kvm_amd" => has("svm"),
        "kvm_intel" => has("vmx"),
        _ => true,
    }
}
