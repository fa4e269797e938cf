//! What this host can be asked, and on which kind of VM.

use std::path::Path;

use gmem::{GfnRange, Gpa, PageCount};
use gmem_kvm::kvm::{KvmGmem, KvmKernel, KvmVm};
use gmem_kvm::port::{GmemUse, Kernel, KernelGmem, KernelVm, VmType};
use gmem_kvm::probe::{self, DEV_KVM, KvmFacts};
use rustix::io::Errno;

use crate::harness::Skip;
use crate::rules::Asked;

/// A kind of VM that can have guest_memfd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Type 0, with files that the host can map: Linux 6.18.
    Mappable,
    /// Type 1, with memory attributes.
    Private,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mappable => "mappable",
            Self::Private => "private",
        }
    }
}

/// The machine's kernel, for cases of one kind.
pub(crate) struct Host {
    pub(crate) kernel: KvmKernel,
    pub(crate) kind: Kind,
}

impl Host {
    pub(crate) fn probe(kind: Kind) -> Result<Self, Skip> {
        let facts = probe::probe(Path::new(DEV_KVM)).map_err(|error| Skip(error.to_string()))?;
        if let Some(reason) = missing(&facts, kind) {
            return Err(Skip(reason));
        }
        let kernel = KvmKernel::open(Path::new(DEV_KVM)).map_err(|error| Skip(error.to_string()))?;
        Ok(Self { kernel, kind })
    }

    pub(crate) fn vm_type(&self) -> VmType {
        match self.kind {
            Kind::Mappable => VmType::Default,
            Kind::Private => VmType::SwProtected,
        }
    }

    pub(crate) fn gmem_use(&self) -> GmemUse {
        match self.kind {
            Kind::Mappable => GmemUse::HostShared,
            Kind::Private => GmemUse::Private,
        }
    }

    /// For the rules.
    pub(crate) fn asked(&self) -> Asked<'_, KvmKernel> {
        Asked { kernel: &self.kernel, vm_type: self.vm_type(), gmem_use: self.gmem_use() }
    }

    pub(crate) fn vm(&self) -> KvmVm {
        self.kernel.create_vm(self.vm_type()).unwrap()
    }

    pub(crate) fn gmem(&self, vm: &KvmVm, pages: u64) -> KvmGmem {
        vm.create_gmem(PageCount::new(pages), self.gmem_use()).unwrap()
    }
}

fn missing(facts: &KvmFacts, kind: Kind) -> Option<String> {
    if facts.guest_memfd == 0 || facts.user_memory2 == 0 {
        return Some("this KVM has no guest_memfd (KVM_CAP_GUEST_MEMFD)".to_owned());
    }
    match kind {
        Kind::Mappable if facts.guest_memfd_flags & 3 != 3 => {
            Some("guest_memfd of a type 0 VM cannot be mapped here (KVM_CAP_GUEST_MEMFD_FLAGS, Linux 6.18)".to_owned())
        }
        Kind::Private if facts.vm_types & 1 << VmType::SwProtected.raw() == 0 => {
            Some("no VM type 1 (CONFIG_KVM_SW_PROTECTED_VM)".to_owned())
        }
        Kind::Private if facts.memory_attributes == 0 => {
            Some("no memory attributes (KVM_CAP_MEMORY_ATTRIBUTES)".to_owned())
        }
        _ => None,
    }
}

/// Pages a file has allocated, where the kernel tells.
pub(crate) fn allocated(gmem: &impl KernelGmem) -> Result<u64, Skip> {
    match gmem.allocated() {
        Ok(pages) => Ok(pages.get()),
        Err(error) if error.errno == Errno::NOSYS.raw_os_error() => Err(Skip(error.to_string())),
        Err(error) => panic!("{error}"),
    }
}

/// `pages` frames from `gpa`.
pub(crate) fn range(gpa: u64, pages: u64) -> GfnRange {
    GfnRange::from_request(Gpa(gpa), PageCount::new(pages)).unwrap()
}
