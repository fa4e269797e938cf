//! A kernel on a platform, and guests on it.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use gmem::launch::Launch;
use gmem::ledger::{Ledger, Owner, PageState};
use gmem::{ByteLen, GfnRange, Gpa, PageCount};
use gmem_kvm::port::{CertificateRequest, CpuidEntry, Exit, Kernel, KernelVcpu, KernelVm, VmType};
use gmem_kvm::vm::{Failed, LaunchError, Launching, Sealed, Vm, VmHandle};
use silicon_kvm::script::Script;
use silicon_kvm::{SiliconKernel, SiliconVm};
use snp::cpu::CpuModel;
use snp::id_block::{Identity, ReportKey};
use snp::launch::Certificates;
use snp::ovmf::Ovmf;
use snp::plan::{FlatImage, Guest};
use snp::policy::GuestPolicy;
use snp::vmsa::SevFeatures;
use tenure_silicon::config::Config;
use tenure_silicon::model::Model;
use tenure_silicon::platform::Platform;
use tenure_silicon::rmp::PageState as RmpState;

/// RAM of every guest here.
pub(crate) const MEMORY: ByteLen = ByteLen(64 << 20);

pub(crate) type Running<V> = (Vm<V, Sealed>, Vec<<V as KernelVm>::Vcpu>);
pub(crate) type Stopped<V> = (Box<Vm<V, Failed>>, Vec<<V as KernelVm>::Vcpu>);

pub(crate) fn kernel(model: Model) -> SiliconKernel {
    SiliconKernel::new(Arc::new(Platform::new(Config::new(model, [0x5e; 32])))).unwrap()
}

pub(crate) fn identity() -> Identity {
    Identity {
        policy: GuestPolicy::default(),
        features: SevFeatures::SNP,
        host_data: [0; 32],
        signed: None,
        report_key: ReportKey::Any,
    }
}

fn guest(vcpus: u32, identity: Identity) -> Guest {
    Guest { memory: MEMORY, vcpus, cpu: CpuModel::Milan, identity }
}

/// Debian's OVMF for SEV.
pub(crate) fn ovmf(vcpus: u32, identity: Identity) -> Launch<Identity> {
    static IMAGE: OnceLock<Ovmf> = OnceLock::new();
    let image = IMAGE.get_or_init(|| {
        let packed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../vectors/firmware/OVMF.amdsev.fd.zst");
        let mut bytes = Vec::new();
        let packed = fs::File::open(packed).unwrap();
        ruzstd::decoding::StreamingDecoder::new(packed).unwrap().read_to_end(&mut bytes).unwrap();
        Ovmf::parse(bytes).unwrap()
    });
    snp::plan::ovmf(image, guest(vcpus, identity), None).unwrap()
}

/// Where [`ovmf`] has its secrets page.
pub(crate) const OVMF_SECRETS: Gpa = Gpa(0x80_d000);

/// The firmware that `tenure` was built with.
pub(crate) fn ours(vcpus: u32, identity: Identity) -> Launch<Identity> {
    use guest_fw::abi::{FW_BASE, SNP_CPUID, SNP_PARAMETERS, SNP_SECRETS};
    let firmware = tenure::firmware::image().unwrap();
    let image = FlatImage {
        bytes: firmware.bytes(),
        base: Gpa(FW_BASE),
        memory: ByteLen(firmware.header().memory_len),
        entry: Gpa(FW_BASE + u64::from(firmware.header().entry_flat32)),
        secrets: Gpa(SNP_SECRETS),
        cpuid: Gpa(SNP_CPUID),
        parameters: (Gpa(SNP_PARAMETERS), b"parameters".to_vec()),
    };
    snp::plan::flat(image, guest(vcpus, identity)).unwrap()
}

/// Every step of a launch, as the host takes them.
pub(crate) fn launch<K: Kernel>(
    kernel: &K,
    launch: &Launch<Identity>,
    certificates: Certificates,
) -> Result<Running<K::Vm>, Stopped<K::Vm>> {
    let vm = Vm::create(kernel, VmType::Snp, *launch.plan.ram()).unwrap();
    launch_in(kernel, vm, launch, certificates)
}

/// The same in a VM that is there.
pub(crate) fn launch_in<K: Kernel>(
    kernel: &K,
    mut vm: Vm<K::Vm, Launching>,
    launch: &Launch<Identity>,
    certificates: Certificates,
) -> Result<Running<K::Vm>, Stopped<K::Vm>> {
    let mut vcpus = Vec::new();
    match steps(kernel, &mut vm, &mut vcpus, launch, certificates) {
        Err(error) => Err((Box::new(vm.fail(error)), vcpus)),
        Ok(()) => match snp::launch::finish(vm, &launch.identity) {
            Ok(vm) => Ok((vm, vcpus)),
            Err(failed) => Err((failed, vcpus)),
        },
    }
}

fn steps<K: Kernel>(
    kernel: &K,
    vm: &mut Vm<K::Vm, Launching>,
    vcpus: &mut Vec<<K::Vm as KernelVm>::Vcpu>,
    launch: &Launch<Identity>,
    certificates: Certificates,
) -> Result<(), LaunchError> {
    let step = |step| move |source| LaunchError::Kernel { step, source };
    let cpuid: Vec<CpuidEntry> = kernel.supported_cpuid().map_err(step("CPUID"))?;
    snp::launch::begin(vm, &launch.identity, certificates)?;
    vm.add_ram()?;
    vm.mark_ram_private()?;
    vm.enable_conversion_requests()?;
    snp::launch::populate(vm, &launch.plan, &cpuid, |_| {})?;
    vm.create_interrupt_controller()?;
    for id in 0..launch.plan.vcpus().count {
        let mut vcpu = vm.add_vcpu()?;
        let prepared = vcpu
            .set_cpuid(&cpuid)
            .and_then(|()| launch.plan.vcpus().state_of(id).map_or(Ok(()), |state| vcpu.set_initial_state(state)));
        vcpus.push(vcpu);
        prepared.map_err(step("vCPU"))?;
    }
    Ok(())
}

/// A guest that runs.
pub(crate) fn run(kernel: &SiliconKernel, plan: &Launch<Identity>) -> Running<SiliconVm> {
    launch(kernel, plan, Certificates::None).unwrap_or_else(|(failed, _)| panic!("{}", failed.why()))
}

/// How a vCPU's script ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum End {
    Done,
    Terminated(u64),
    Shutdown,
    NoRegisters,
    Refused(String),
    Failed(i32),
}

/// Runs a vCPU as the host does until its script ends, with an answer for who asks for certificates.
pub(crate) fn drive<V: KernelVm>(
    handle: &VmHandle<V>,
    vcpu: &mut V::Vcpu,
    mut certificates: impl FnMut(CertificateRequest<'_>),
) -> End {
    loop {
        let exit = match vcpu.run() {
            Ok(exit) => exit,
            Err(error) => return End::Failed(error.errno),
        };
        match exit {
            Exit::Hypercall(call) => {
                let [gpa, pages, attributes, ..] = call.arguments;
                let to = if attributes & 1 << 4 == 0 { Owner::Shared } else { Owner::Private };
                let range = GfnRange::from_request(Gpa(gpa), PageCount::new(pages)).unwrap();
                *call.answer = if handle.convert(range, to).is_ok() { 0 } else { 22 };
            }
            Exit::MemoryFault { wanted, gpa, size } => {
                let range = GfnRange::from_bytes(gpa, ByteLen(size)).unwrap();
                if let Err(error) = handle.convert(range, wanted) {
                    return End::Refused(error.to_string());
                }
            }
            Exit::SnpCertificates(request) => certificates(request),
            Exit::SystemEvent { kind: 6, data } => return End::Terminated(data[0]),
            Exit::FailEntry { reason: u64::MAX, .. } => return End::NoRegisters,
            Exit::Shutdown => return End::Shutdown,
            Exit::Interrupted => return End::Done,
            other => panic!("{other:?}"),
        }
    }
}

/// Without anybody who has certificates.
pub(crate) fn drive_all(kernel: &SiliconKernel, (vm, vcpus): &mut Running<SiliconVm>) -> Vec<End> {
    let handle = vm.handle();
    let ends = vcpus.iter_mut().map(|vcpu| drive(&handle, vcpu, |_| panic!("nobody asks for certificates")));
    let ends = ends.collect();
    assert_refines(kernel, vm.ledger());
    ends
}

/// A script for one vCPU.
pub(crate) fn script(kernel: &SiliconKernel, vcpu: u32, steps: impl Into<Script>) {
    kernel.script(vcpu, steps.into());
}

/// Law *known-owner*: what the hardware says of each page is one of what the ledger says it may be.
pub(crate) fn assert_refines(kernel: &SiliconKernel, ledger: &Ledger) {
    let vms = kernel.vms();
    let [vm] = vms[..] else { panic!("one VM, not {vms:?}") };
    let rmp = kernel.rmp_of(vm);
    for (range, state) in ledger.runs() {
        for gfn in range.frames() {
            let entry = rmp.get(&gfn.number());
            let may_be = match state {
                PageState::Shared | PageState::Freed => entry.is_none(),
                PageState::PrivateUntouched => {
                    matches!(entry, None | Some(RmpState::GuestInvalid | RmpState::GuestValid))
                }
                // Rescinded by the guest, perhaps; gone never.
                PageState::PrivatePopulated => matches!(entry, Some(RmpState::GuestValid | RmpState::GuestInvalid)),
                PageState::ConvertingToShared | PageState::ConvertingToPrivate | PageState::InDoubt => true,
            };
            assert!(may_be, "frame {:#x} is {state} in the ledger and {entry:?} in the RMP", gfn.number());
        }
    }
    let in_ram = |gfn: u64| gmem::Gfn::new(gfn).is_some_and(|gfn| ledger.state(gfn).is_some());
    assert!(rmp.keys().all(|gfn| in_ram(*gfn)), "the RMP names a frame that is no RAM");
}

/// Nothing of a guest is left, and nothing went wrong that nobody was told of.
pub(crate) fn assert_gone(kernel: &SiliconKernel) {
    assert_eq!(kernel.complaints(), []);
    assert_eq!(kernel.platform().violations(), []);
    assert_eq!(kernel.platform().statistics().pages_by_asid, []);
    assert_eq!(kernel.platform().statistics().guests, 0);
    assert!(kernel.is_empty(), "something is left: {:?}", kernel.platform().statistics());
}

/// Ends a guest, and looks for leftovers.
pub(crate) fn tear_down(kernel: &SiliconKernel, (vm, vcpus): Running<SiliconVm>) {
    let receipt = vm.teardown(vcpus);
    assert!(receipt.is_clean(), "{receipt:?}");
    assert!(receipt.pages_before_key(), "{receipt:?}");
    assert_gone(kernel);
}

/// Whole pages.
pub(crate) fn pages(gpa: u64, pages: u64) -> GfnRange {
    GfnRange::from_request(Gpa(gpa), PageCount::new(pages)).unwrap()
}
