//! Law *bound-at-birth*: a guest_memfd is one VM's, and its descriptor nobody else's.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::process::Command;

use gmem_kvm::port::KernelVm;
use rustix::fs::FallocateFlags;
use rustix::io::{Errno, FdFlags};
use rustix::mm::MapFlags;

use crate::harness::{LIST_DESCRIPTORS, Outcome};
use crate::host::{Host, Kind};
use crate::raw::{self, Memory};

/// A child that is executed while a VM exists gets none of its descriptors. The kernel's own guest_memfd descriptor it
/// would get: what this proves is ours.
pub(crate) fn close_on_exec(host: &Host) -> Outcome {
    let vm = host.vm();
    let _gmem = host.gmem(&vm, 4);
    let _vcpu = vm.create_vcpu(0).unwrap();
    assert_eq!(kvm_descriptors_of_a_child(), 0, "a child inherits what pins the VM");
    let flags = if host.kind == Kind::Mappable { 3 } else { 0 };
    let as_installed = raw::create_gmem(raw::newest_vm(), 4096, flags).unwrap();
    if rustix::io::fcntl_getfd(&as_installed).unwrap().contains(FdFlags::CLOEXEC) {
        return Ok(());
    }
    assert_eq!(kvm_descriptors_of_a_child(), 1, "the control found nothing, so neither did the case");
    Ok(())
}

fn kvm_descriptors_of_a_child() -> usize {
    let output = Command::new("/proc/self/exe").arg(LIST_DESCRIPTORS).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("pipe:"), "no list of descriptors: {text}");
    text.lines().filter(|name| name.contains("kvm") || name.contains("guest_memfd")).count()
}

/// The child's part: says what it has.
pub(crate) fn list_descriptors() {
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        if let Ok(name) = std::fs::read_link(entry.unwrap().path()) {
            println!("{}", name.display());
        }
    }
}

/// The number is above the VM's even where the kernel would have given a lower one, so that a dying process releases
/// pages before the key.
pub(crate) fn number_above_the_vms(host: &Host) -> Outcome {
    let low: Vec<OwnedFd> = (0..4).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect();
    let vm = host.vm();
    let number = raw::newest_vm();
    assert!(low.iter().all(|fd| fd.as_raw_fd() < number));
    drop(low);
    let _gmem = host.gmem(&vm, 1);
    let files = raw::gmem_descriptors();
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(files[0] > number, "guest_memfd {} is below VM {number}", files[0]);
    Ok(())
}

/// One file has one descriptor, and dropping it closes it.
pub(crate) fn one_descriptor(host: &Host) -> Outcome {
    let vm = host.vm();
    let (one, other) = (host.gmem(&vm, 1), host.gmem(&vm, 2));
    assert_eq!(raw::gmem_descriptors().len(), 2);
    drop(one);
    assert_eq!(raw::gmem_descriptors().len(), 1);
    drop(other);
    assert!(raw::gmem_descriptors().is_empty());
    drop(vm);
    assert!(raw::descriptors("kvm-vm").is_empty());
    Ok(())
}

pub(crate) fn sizes_and_flags(host: &Host) -> Outcome {
    host.asked().sizes();
    let _vm = host.vm();
    let (fd, flags) = (raw::newest_vm(), if host.kind == Kind::Mappable { 3 } else { 0 });
    for (size, flags) in [(1, flags), (4095, flags), (4097, flags), (4096, 1 << 40), (4096, 1 << 63)] {
        assert_eq!(raw::errno(raw::create_gmem(fd, size, flags)), Errno::INVAL.raw_os_error(), "{size} {flags:#x}");
    }
    assert!(raw::gmem_descriptors().is_empty(), "a refused file left a descriptor");
    Ok(())
}

/// It is no ordinary file: nothing gets in or out of it, and its size stays.
pub(crate) fn no_reading_or_writing(host: &Host) -> Outcome {
    let vm = host.vm();
    let _gmem = host.gmem(&vm, 4);
    let fd = raw::borrow(raw::gmem_descriptors()[0]);
    let mut byte = [0];
    rustix::io::read(fd, &mut byte).unwrap_err();
    rustix::io::pread(fd, &mut byte, 0).unwrap_err();
    rustix::io::write(fd, &byte).unwrap_err();
    assert_eq!(rustix::fs::ftruncate(fd, 8192), Err(Errno::INVAL));
    assert_eq!(rustix::fs::fallocate(fd, FallocateFlags::empty(), 0, 4096), Err(Errno::OPNOTSUPP));
    let keep = FallocateFlags::KEEP_SIZE;
    assert_eq!(rustix::fs::fallocate(fd, keep, 1, 4096), Err(Errno::INVAL));
    assert_eq!(rustix::fs::fallocate(fd, keep, 4 * 4096, 4096), Err(Errno::INVAL));
    assert_eq!(rustix::fs::fallocate(fd, keep | FallocateFlags::PUNCH_HOLE, 100 * 4096, 4096), Ok(()));
    assert_eq!(rustix::fs::fstat(fd).unwrap().st_size, 4 * 4096);
    Ok(())
}

/// No process can map private memory.
pub(crate) fn cannot_be_mapped(host: &Host) -> Outcome {
    let vm = host.vm();
    let _gmem = host.gmem(&vm, 4);
    let file = raw::borrow(raw::gmem_descriptors()[0]);
    for flags in [MapFlags::SHARED, MapFlags::PRIVATE] {
        assert_eq!(Memory::of_file(file.as_fd(), 1, flags).unwrap_err(), Errno::NODEV);
    }
    Ok(())
}
