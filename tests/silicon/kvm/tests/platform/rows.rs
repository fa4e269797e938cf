//! Every refusal the kernel of the platform knows is met once, and counted by who says that Linux answers so.

use std::collections::BTreeMap;
use std::sync::Arc;

use gmem::PageCount;
use gmem::ledger::Owner;
use gmem::vcpu::VcpuState;
use gmem_kvm::backing::Region;
use gmem_kvm::port::snp::{SnpCommand, SnpFinish, SnpPageType, SnpUpdate, SourcePage, Vcek};
use gmem_kvm::port::{Exit, GmemUse, Kernel, KernelVcpu, KernelVm, Slot, SlotId, VmType};
use silicon_kvm::rows::{NOT_ASKED, Provenance, Row};
use silicon_kvm::script::{Step, Way};
use silicon_kvm::{SiliconGmem, SiliconKernel, SiliconVm};
use tenure_silicon::asid::AsidConfig;
use tenure_silicon::config::Config;
use tenure_silicon::model::Model;
use tenure_silicon::platform::{Fault, Platform};
use tenure_silicon::psp::{Command, Status};

use crate::bed::{kernel, pages};

const POLICY: u64 = 0x30000;

/// A VM that has come some way.
struct Way2 {
    vm: SiliconVm,
    gmem: SiliconGmem,
}

fn init(vm: &SiliconVm) {
    vm.snp(SnpCommand::Init { vmsa_features: 0 }).unwrap();
}

fn started(kernel: &SiliconKernel) -> Way2 {
    let vm = kernel.create_vm(VmType::Snp).unwrap();
    init(&vm);
    vm.snp(SnpCommand::LaunchStart { policy: POLICY }).unwrap();
    let range = pages(0, 16);
    let gmem = vm.create_gmem(range.pages(), GmemUse::Private).unwrap();
    let shared = Arc::new(Region::new("test", range).unwrap());
    vm.create_slot(Slot { id: SlotId(0), range, shared, private: Some((&gmem, PageCount::new(0))) }).unwrap();
    vm.set_owner(range, Owner::Private).unwrap();
    Way2 { vm, gmem }
}

fn update(vm: &SiliconVm, gpa: u64, page_type: SnpPageType) -> Result<(), i32> {
    let mut source = [SourcePage::ZERO];
    let (range, done) = (pages(gpa, 1), PageCount::default());
    let result = vm.snp_launch_update(&mut SnpUpdate { range, page_type, source: &mut source, done });
    result.map_err(|error| error.errno)
}

fn finish(vm: &SiliconVm) -> Result<(), i32> {
    let finish = SnpFinish { signed: None, host_data: [0; 32], vcek: Vcek::Allowed };
    vm.snp(SnpCommand::LaunchFinish(&finish)).map_err(|error| error.errno)
}

fn plant(kernel: &SiliconKernel, command: Command) {
    kernel.platform().plant(Fault::Command { command: Some(command), nth: 1, status: Status::ResourceLimit });
}

/// Asks for a refusal, and says what came.
fn provoke(row: Row, kernel: &SiliconKernel) -> i32 {
    let create = || kernel.create_vm(VmType::Snp).unwrap();
    let snp = |vm: &SiliconVm, command| vm.snp(command).unwrap_err().errno;
    let start = |policy| SnpCommand::LaunchStart { policy };
    let (certificates, init_command) = (SnpCommand::EnableCertificateRequests, SnpCommand::Init { vmsa_features: 0 });
    match row {
        Row::NotSnp => snp(&kernel.create_vm(VmType::SwProtected).unwrap(), init_command),
        Row::InitAgain => {
            let vm = create();
            init(&vm);
            snp(&vm, init_command)
        }
        Row::InitAfterVcpu => {
            let vm = create();
            let _vcpu = vm.create_vcpu(0).unwrap();
            snp(&vm, init_command)
        }
        Row::InitFeatures => snp(&create(), SnpCommand::Init { vmsa_features: 1 << 40 }),
        Row::InitRangeEmpty | Row::InitNoAsid | Row::InitFirmware => {
            if row == Row::InitFirmware {
                plant(kernel, Command::SnpPlatformStatus);
            }
            // With no ASID but one, that one is taken.
            let _other = (row == Row::InitNoAsid).then(|| {
                let vm = create();
                init(&vm);
                vm
            });
            snp(&create(), init_command)
        }
        Row::CertificatesAfterVcpu => {
            let vm = create();
            init(&vm);
            let _vcpu = vm.create_vcpu(0).unwrap();
            snp(&vm, certificates)
        }
        Row::StartBeforeInit => snp(&create(), start(POLICY)),
        Row::StartContext | Row::StartPolicy | Row::StartMustBeOne | Row::StartFirmware => {
            let vm = create();
            init(&vm);
            match row {
                Row::StartContext => plant(kernel, Command::SnpGctxCreate),
                Row::StartFirmware => plant(kernel, Command::SnpLaunchStart),
                _ => {}
            }
            snp(
                &vm,
                start(match row {
                    Row::StartPolicy => POLICY | 1 << 18,
                    Row::StartMustBeOne => 1 << 16,
                    _ => POLICY,
                }),
            )
        }
        Row::StartAgain => snp(&started(kernel).vm, start(POLICY)),
        Row::UpdateBeforeStart => update(&create(), 0, SnpPageType::Normal).unwrap_err(),
        Row::UpdateNoGmem => update(&started(kernel).vm, 0x10_0000, SnpPageType::Normal).unwrap_err(),
        Row::UpdateInterrupted => {
            let way = started(kernel);
            kernel.interrupt_next_update();
            update(&way.vm, 0, SnpPageType::Normal).unwrap_err()
        }
        Row::UpdateNotPrivate => {
            let way = started(kernel);
            way.vm.set_owner(pages(0, 1), Owner::Shared).unwrap();
            update(&way.vm, 0, SnpPageType::Normal).unwrap_err()
        }
        Row::UpdateAssigned => {
            let way = started(kernel);
            update(&way.vm, 0, SnpPageType::Zero).unwrap();
            update(&way.vm, 0, SnpPageType::Zero).unwrap_err()
        }
        Row::UpdateClosed => {
            let Way2 { vm, gmem } = started(kernel);
            drop(gmem);
            update(&vm, 0, SnpPageType::Normal).unwrap_err()
        }
        Row::UpdateFirmware => {
            let way = started(kernel);
            plant(kernel, Command::SnpLaunchUpdate);
            update(&way.vm, 0, SnpPageType::Normal).unwrap_err()
        }
        Row::UpdateAfterFinish => {
            let way = started(kernel);
            finish(&way.vm).unwrap();
            update(&way.vm, 0, SnpPageType::Normal).unwrap_err()
        }
        Row::VcpuBeforeInit => create().create_vcpu(0).unwrap().run().unwrap_err().errno,
        Row::FinishBeforeStart => finish(&create()).unwrap_err(),
        Row::FinishAgain => {
            let way = started(kernel);
            let _vcpu = way.vm.create_vcpu(0).unwrap();
            plant(kernel, Command::SnpLaunchFinish);
            finish(&way.vm).unwrap_err();
            finish(&way.vm).unwrap_err()
        }
        Row::FinishFirmware => {
            plant(kernel, Command::SnpLaunchFinish);
            finish(&started(kernel).vm).unwrap_err()
        }
        Row::RegistersAfterFinish => {
            let way = started(kernel);
            let mut vcpu = way.vm.create_vcpu(0).unwrap();
            finish(&way.vm).unwrap();
            vcpu.set_initial_state(&VcpuState::RESET).unwrap_err().errno
        }
        Row::PrefaultBeforeFinish | Row::PrefaultNoSlot | Row::PrefaultNoGmem => {
            let Way2 { vm, gmem } = started(kernel);
            let mut vcpu = vm.create_vcpu(0).unwrap();
            if row != Row::PrefaultBeforeFinish {
                finish(&vm).unwrap();
                assert_eq!(vcpu.prefault(pages(0x4000, 4)).unwrap(), PageCount::new(4));
            }
            let gpa = if row == Row::PrefaultNoSlot { 0x10_0000 } else { 0 };
            if row == Row::PrefaultNoGmem {
                drop(gmem);
            }
            vcpu.prefault(pages(gpa, 1)).unwrap_err().errno
        }
        Row::HypercallAnswer | Row::CertificatesAnswer => {
            let (secrets, range) = (gmem::Gpa(0), pages(0x8000, 1));
            let step = match row {
                Row::HypercallAnswer => Step::PageState { range, to: Owner::Shared, way: Way::Msr, works: true },
                _ => Step::Report { secrets, data: [0; 64], certificates: Some(range) },
            };
            kernel.script(0, [step].into());
            let vm = create();
            init(&vm);
            vm.snp(certificates).unwrap();
            vm.snp(start(POLICY)).unwrap();
            let mut vcpu = vm.create_vcpu(0).unwrap();
            finish(&vm).unwrap();
            match vcpu.run().unwrap() {
                Exit::Hypercall(call) => *call.answer = 1,
                Exit::SnpCertificates(request) => *request.answer = 22,
                other => panic!("{other:?}"),
            }
            vcpu.run().unwrap_err().errno
        }
        Row::DeadVm => {
            let way = started(kernel);
            kernel.kill(way.vm.id());
            update(&way.vm, 0, SnpPageType::Normal).unwrap_err()
        }
    }
}

fn few_asids(asids: AsidConfig) -> SiliconKernel {
    SiliconKernel::new(Arc::new(Platform::new(Config { asids, ..Config::new(Model::Milan, [7; 32]) }))).unwrap()
}

#[test]
fn every_row_is_met() {
    let mut met: BTreeMap<Provenance, u32> = BTreeMap::new();
    for row in Row::ALL {
        let one = AsidConfig { max: 4, min_sev: 2, ciphertext_hiding: None, cpus: 1 };
        let kernel = match row {
            Row::InitRangeEmpty => few_asids(AsidConfig { min_sev: 1, ..one }),
            Row::InitNoAsid => few_asids(one),
            _ => kernel(Model::Milan),
        };
        let errno = provoke(*row, &kernel);
        assert_eq!(errno, row.errno().raw_os_error(), "{row:?}: {}", row.text());
        assert!(kernel.met().contains_key(row), "{row:?} was not the reason");
        assert_eq!(kernel.platform().violations(), [], "{row:?}");
        *met.entry(row.provenance()).or_default() += 1;
    }
    println!("refusals of an SNP host's kernel, each met by our code once, by who says that Linux answers so:");
    for (provenance, count) in &met {
        println!("  {count:>3}  {provenance:?}");
    }
    println!("  what the port cannot ask for:");
    NOT_ASKED.iter().for_each(|row| println!("       {row}"));
    println!("  this is no conformance test: no SNP host was asked");
}
