//! Hosts as tables: what each can do, and what it is told.

mod platform;

use super::facts::{CpuFacts, DeviceAccess, DeviceNode, KernelFacts, Parameters, SevCpuid};
use super::*;
use gmem_kvm::probe::SevFacts;
use platform::{snp_genoa, status};
use proptest::prelude::*;

const TYPE_0: u32 = 1 << 0;
const TYPE_SW: u32 = 1 << 1;
const TYPE_SNP: u32 = 1 << 4;
const TYPE_TDX: u32 = 1 << 5;

fn kvm(vm_types: u32) -> KvmFacts {
    KvmFacts {
        api_version: 12,
        vm_types,
        guest_memfd: 1,
        guest_memfd_flags: 3,
        memory_attributes: if vm_types & !TYPE_0 == 0 { 0 } else { 8 },
        user_memory2: 1,
        memory_fault_info: 1,
        exit_hypercall: 1 << 12,
        pre_fault_memory: 1,
        irqchip: 1,
        user_space_msr: 1,
        msr_filter: 1,
        max_vcpus: 1024,
        memory_slots: 32764,
        sev: SevFacts::default(),
    }
}

fn parameters(values: &[(&str, &str)]) -> Parameters {
    values.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn host(vendor: &str, flags: &str, module: &str, values: &[(&str, &str)], vm_types: u32) -> Facts {
    Facts {
        kernel: KernelFacts { release: "7.2.13".into(), cmdline: "quiet".into(), sw_protected_vm: None },
        cpu: CpuFacts {
            vendor: vendor.into(),
            model: "CPU".into(),
            flags: flags.split_whitespace().map(str::to_owned).collect(),
            ..CpuFacts::default()
        },
        kvm: KvmAccess::Usable(kvm(vm_types)),
        dev_kvm: Some(DeviceNode { mode: 0o660, group: "kvm".into() }),
        modules: [("kvm".to_owned(), parameters(&[("tdp_mmu", "Y")])), (module.to_owned(), parameters(values))].into(),
        uid: 1000,
        ..Facts::default()
    }
}

fn snp_epyc() -> Facts {
    let values = [("sev", "Y"), ("sev_es", "Y"), ("sev_snp", "Y"), ("npt", "Y"), ("nrips", "1"), ("nested", "1")];
    Facts {
        dev_sev: DeviceAccess::Usable,
        iommus: vec!["ivhd0".into()],
        ..host(
            "AuthenticAMD",
            "svm npt nrip_save decodeassists sev sev_es sev_snp",
            "kvm_amd",
            &values,
            TYPE_0 | 0b1100 | TYPE_SNP,
        )
    }
}

fn tdx_xeon() -> Facts {
    let values = [("tdx", "Y"), ("ept", "Y"), ("unrestricted_guest", "Y")];
    host("GenuineIntel", "vmx ept tdx_host_platform", "kvm_intel", &values, TYPE_0 | TYPE_TDX)
}

/// A desktop with a kernel built for test mode.
fn amd_desktop() -> Facts {
    let values = [("sev", "N"), ("npt", "Y"), ("nrips", "1"), ("nested", "1")];
    host("AuthenticAMD", "svm npt nrip_save decodeassists", "kvm_amd", &values, TYPE_0 | TYPE_SW)
}

fn intel_laptop() -> Facts {
    let values = [("ept", "Y"), ("unrestricted_guest", "Y")];
    host("GenuineIntel", "vmx ept", "kvm_intel", &values, TYPE_0 | TYPE_SW)
}

fn pvm() -> Facts {
    Facts {
        modules: [("kvm_pvm".to_owned(), Parameters::new())].into(),
        uid: 0,
        ..host("AuthenticAMD", "hypervisor", "kvm_pvm", &[], TYPE_0)
    }
}

fn without_kvm(access: KvmAccess, flags: &str) -> Facts {
    Facts { kvm: access, dev_kvm: None, modules: Default::default(), ..host("AuthenticAMD", flags, "kvm_amd", &[], 0) }
}

/// Usable technologies, and whether the host is ready for the two that are not built.
fn verdicts(facts: &Facts) -> (Vec<Tee>, [bool; 2]) {
    let report = report(facts);
    let tees = [Tee::Snp, Tee::Tdx, Tee::Sw, Tee::None];
    let usable = tees.into_iter().filter(|tee| report.tee(*tee).unwrap().usable).collect();
    (usable, [report.tees.snp.host_ready, report.tees.tdx.host_ready])
}

#[test]
fn what_each_host_can_do() {
    let broken = KvmAccess::Broken("not KVM".into());
    let hosts = [
        (snp_epyc(), vec![Tee::None], [true, false]),
        (tdx_xeon(), vec![Tee::None], [false, true]),
        (amd_desktop(), vec![Tee::Sw, Tee::None], [false, false]),
        (intel_laptop(), vec![Tee::Sw, Tee::None], [false, false]),
        (pvm(), vec![Tee::None], [false, false]),
        (without_kvm(KvmAccess::Absent, "svm"), vec![], [false, false]),
        (without_kvm(KvmAccess::Forbidden, "svm"), vec![], [false, false]),
        (without_kvm(broken, "svm"), vec![], [false, false]),
        (Facts::default(), vec![], [false, false]),
    ];
    for (facts, usable, ready) in hosts {
        assert_eq!(verdicts(&facts), (usable.clone(), ready), "{:?}", facts.cpu);
        let report = report(&facts);
        // none does not count.
        assert_eq!(report.capable, usable.contains(&Tee::Sw));
        assert_eq!(report.auto, usable.contains(&Tee::Sw).then_some(Tee::Sw));
    }
}

/// The one thing wrong with each host, as its reason and remedy say it.
#[test]
fn what_is_missing_has_a_reason_and_a_remedy() {
    type Case = (&'static str, fn() -> Facts, Tee, fn(&mut Facts), &'static str, &'static str);
    let cases: [Case; 23] = [
        (
            "kernel",
            amd_desktop,
            Tee::Sw,
            |f| {
                f.kvm = KvmAccess::Usable(kvm(TYPE_0));
                f.kernel.sw_protected_vm = Some(false);
            },
            "is built without CONFIG_KVM_SW_PROTECTED_VM",
            "cargo xtask run",
        ),
        (
            "no interrupt controller",
            amd_desktop,
            Tee::Sw,
            |f| f.kvm = KvmAccess::Usable(KvmFacts { irqchip: 0, ..kvm(TYPE_0 | TYPE_SW) }),
            "KVM_CAP_IRQCHIP",
            "CONFIG_KVM_IOAPIC",
        ),
        ("old kernel", amd_desktop, Tee::Sw, |f| f.kvm = KvmAccess::Usable(kvm(0)), "has no VM types", "Linux 6.8"),
        (
            "npt off",
            amd_desktop,
            Tee::Sw,
            |f| {
                f.kvm = KvmAccess::Usable(kvm(TYPE_0));
                f.modules.insert("kvm_amd".into(), parameters(&[("npt", "N")]));
            },
            "kvm_amd's parameter npt is N",
            "npt=1",
        ),
        (
            "no nrips",
            amd_desktop,
            Tee::Sw,
            |f| {
                f.cpu.flags.remove("nrip_save");
            },
            "an instruction's length (nrip_save)",
            "after 2011",
        ),
        (
            "no decode",
            amd_desktop,
            Tee::Sw,
            |f| {
                f.cpu.flags.remove("decodeassists");
                f.cpu.flags.insert("hypervisor".into());
            },
            "an instruction's bytes (decodeassists)",
            "host pass decodeassists on",
        ),
        (
            "nrips off",
            amd_desktop,
            Tee::Sw,
            |f| {
                f.modules.insert("kvm_amd".into(), parameters(&[("nrips", "0")]));
            },
            "nrips is 0",
            "without nrips=0",
        ),
        (
            "no EPT",
            intel_laptop,
            Tee::Sw,
            |f| {
                f.kvm = KvmAccess::Usable(kvm(TYPE_0));
                f.modules.insert("kvm_intel".into(), parameters(&[("ept", "N")]));
            },
            "kvm_intel's parameter ept is N",
            "ept=1",
        ),
        (
            "restricted",
            intel_laptop,
            Tee::Sw,
            |f| {
                f.modules.insert("kvm_intel".into(), parameters(&[("unrestricted_guest", "N")]));
            },
            "unrestricted_guest is N",
            "unrestricted_guest=1",
        ),
        ("pvm", pvm, Tee::Sw, |_| {}, "kvm_pvm, in software", "cargo xtask run"),
        (
            "attributes",
            amd_desktop,
            Tee::Sw,
            |f| {
                f.kvm = KvmAccess::Usable(KvmFacts { memory_attributes: 0, ..kvm(TYPE_SW) });
            },
            "cannot mark memory as private (memory attributes 0x0)",
            "CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES",
        ),
        (
            "hypercall",
            amd_desktop,
            Tee::Sw,
            |f| {
                f.kvm = KvmAccess::Usable(KvmFacts { exit_hypercall: 0, ..kvm(TYPE_SW) });
            },
            "KVM_HC_MAP_GPA_RANGE",
            "6.8",
        ),
        (
            "memfd",
            amd_desktop,
            Tee::Sw,
            |f| {
                f.kvm = KvmAccess::Usable(KvmFacts { guest_memfd: 0, ..kvm(TYPE_SW) });
            },
            "has no guest_memfd",
            "6.8",
        ),
        (
            "sev_snp=N",
            snp_epyc,
            Tee::Snp,
            |f| {
                f.kvm = KvmAccess::Usable(kvm(TYPE_0));
                f.modules.insert("kvm_amd".into(), parameters(&[("sev", "Y"), ("sev_es", "Y"), ("sev_snp", "N")]));
            },
            "parameter sev_snp is N",
            "sev_snp=1",
        ),
        (
            "no /dev/sev",
            snp_epyc,
            Tee::Snp,
            |f| f.dev_sev = DeviceAccess::Absent,
            "there is no /dev/sev",
            "modprobe ccp",
        ),
        ("/dev/sev", snp_epyc, Tee::Snp, |f| f.dev_sev = DeviceAccess::Forbidden, "/dev/sev may not be opened", "udev"),
        (
            "iommu",
            snp_epyc,
            Tee::Snp,
            |f| {
                f.kvm = KvmAccess::Usable(kvm(TYPE_0));
                f.cpu.flags.remove("sev_snp");
                f.kernel.cmdline = "quiet iommu=pt".into();
            },
            "command line has iommu=pt",
            "boot without iommu=pt",
        ),
        (
            "memory encryption off",
            snp_genoa,
            Tee::Snp,
            |f| {
                f.kvm = KvmAccess::Usable(kvm(TYPE_0));
                f.cpu.flags.retain(|flag| !flag.starts_with("sev"));
            },
            "shows not even sev",
            "SMEE",
        ),
        (
            "no RMP",
            snp_genoa,
            Tee::Snp,
            |f| {
                f.kvm = KvmAccess::Usable(kvm(TYPE_0 | 0b1100));
                f.cpu.flags.remove("sev_snp");
            },
            "there is no RMP",
            "(RMP) coverage",
        ),
        (
            "no ASIDs",
            snp_genoa,
            Tee::Snp,
            |f| {
                f.kvm = KvmAccess::Usable(kvm(TYPE_0));
                f.sev_cpuid = Some(SevCpuid { snp: true, last_asid: 1006, first_sev_asid: 1 });
            },
            "leaves no ASIDs to SEV-ES and SNP",
            "minimum SEV non-ES ASID",
        ),
        (
            "old firmware",
            snp_genoa,
            Tee::Snp,
            |f| {
                f.kvm = KvmAccess::Usable(kvm(TYPE_0));
                status(f).abi = (1, 49);
            },
            "SNP's firmware is 1.49, and the kernel wants 1.51",
            "/lib/firmware/amd",
        ),
        (
            "tdx=N",
            tdx_xeon,
            Tee::Tdx,
            |f| {
                f.kvm = KvmAccess::Usable(kvm(TYPE_0));
                f.modules.insert("kvm_intel".into(), parameters(&[("tdx", "N")]));
            },
            "parameter tdx is N",
            "kvm_intel.tdx=1",
        ),
        ("no TDX", intel_laptop, Tee::Tdx, |_| {}, "does not show tdx_host_platform", "5th generation"),
    ];
    for (name, facts, tee, spoil, reason, remedy) in cases {
        let mut facts = facts();
        spoil(&mut facts);
        let report = report(&facts);
        let verdict = report.tee(tee).unwrap();
        assert!(!verdict.host_ready, "{name}");
        let found = verdict.findings.iter().find(|finding| finding.reason.contains(reason));
        let found = found.unwrap_or_else(|| panic!("{name}: {:?}", verdict.findings));
        assert!(found.remedy.as_ref().unwrap().contains(remedy), "{name}: {found:?}");
    }
}

#[test]
fn why_there_is_no_kvm() {
    let container = Facts {
        container: Some("docker".into()),
        modules: [("kvm_amd".to_owned(), Parameters::new())].into(),
        ..without_kvm(KvmAccess::Absent, "svm")
    };
    let group = Facts {
        dev_kvm: Some(DeviceNode { mode: 0o660, group: "kvm".into() }),
        ..without_kvm(KvmAccess::Forbidden, "svm")
    };
    let root = Facts { uid: 0, ..group.clone() };
    let closed = Facts { dev_kvm: Some(DeviceNode { mode: 0o600, group: "root".into() }), ..group.clone() };
    let cases = [
        (without_kvm(KvmAccess::Absent, "svm"), "kvm_not_loaded", "sudo modprobe kvm_amd"),
        (without_kvm(KvmAccess::NoDriver, "svm"), "kvm_not_loaded", "sudo modprobe kvm_amd"),
        (without_kvm(KvmAccess::Absent, ""), "kvm_no_virtualization", "firmware"),
        (without_kvm(KvmAccess::Absent, "hypervisor"), "kvm_not_nested", "nested virtualization"),
        (container, "kvm_no_device", "--device /dev/kvm"),
        (group, "kvm_forbidden", "usermod -aG kvm"),
        (closed, "kvm_forbidden", "chgrp kvm"),
        (root, "kvm_forbidden", "device cgroup"),
    ];
    for (facts, id, remedy) in cases {
        let report = report(&facts);
        assert_eq!(report.kvm.findings.len(), 1);
        let finding = &report.kvm.findings[0];
        assert_eq!(finding.id, id);
        assert!(finding.remedy.as_ref().unwrap().contains(remedy), "{finding:?}");
        let error = report.choose(Tee::Auto, Guise::None).unwrap_err().to_string();
        assert!(error.starts_with("tee auto (snp, tdx or sw) cannot be used here: "), "{error}");
        assert!(error.contains(&finding.reason), "{error}");
    }
}

/// no-silent-trust: losing privacy is never automatic, and what was asked for by name is used or refused.
#[test]
fn no_silent_trust_auto_is_never_none() {
    for facts in [pvm(), tdx_xeon(), snp_epyc(), Facts::default()] {
        let error = report(&facts).choose(Tee::Auto, Guise::None).unwrap_err();
        assert!(!error.reasons.is_empty(), "{error}");
    }
    let report = report(&pvm());
    let choice = report.choose(Tee::None, Guise::None).unwrap();
    assert_eq!((choice.tee, choice.warnings.len()), (Tee::None, 1));
    for tee in [Tee::Snp, Tee::Tdx] {
        let error = report.choose(tee, Guise::None).unwrap_err().to_string();
        assert!(error.starts_with(&format!("tee {tee} cannot be used here: not built yet: ")), "{error}");
    }
}

/// no-silent-trust: what cannot boot is never chosen for anybody, and whoever names it is warned.
#[test]
fn no_silent_trust_snp_is_launched_by_name_only() {
    let report = report(&snp_epyc());
    let choice = report.choose(Tee::Snp, Guise::None).unwrap();
    assert_eq!((choice.tee, choice.warnings.len()), (Tee::Snp, 1));
    assert!(choice.warnings[0].contains("asks to be terminated"), "{choice:?}");
    assert!(report.choose(Tee::Auto, Guise::None).is_err());
}

#[test]
fn auto_says_so_when_the_host_could_do_better() {
    let mut facts = snp_epyc();
    facts.kvm = KvmAccess::Usable(kvm(TYPE_0 | TYPE_SW | TYPE_SNP));
    let choice = report(&facts).choose(Tee::Auto, Guise::None).unwrap();
    assert_eq!(choice.tee, Tee::Sw);
    assert!(choice.warnings.iter().any(|warning| warning.contains("this host can do snp")), "{choice:?}");
    assert_eq!(report(&facts).choose(Tee::Sw, Guise::None).unwrap().warnings.len(), 1);
}

#[test]
fn guise_sev_needs_test_mode_on_amd() {
    assert_eq!(report(&amd_desktop()).choose(Tee::Auto, Guise::Sev).unwrap().tee, Tee::Sw);
    let error = report(&intel_laptop()).choose(Tee::Sw, Guise::Sev).unwrap_err().to_string();
    assert!(error.starts_with("guise sev cannot be used here: the CPU (GenuineIntel) is not of AMD's type"), "{error}");
    let mut facts = amd_desktop();
    facts.kvm = KvmAccess::Usable(KvmFacts { msr_filter: 0, ..kvm(TYPE_SW) });
    assert!(report(&facts).choose(Tee::Sw, Guise::Sev).unwrap_err().to_string().contains("MSR"));
}

#[test]
fn text_gives_each_missing_thing_one_line() {
    let text = report(&pvm()).to_string();
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines[0], "tenure 0.1.0 on Linux 7.2.13, CPU, virtual machine");
    assert!(lines[2].starts_with("kvm        yes  API 12, VM types 0, guest_memfd (flags 0x3)"), "{text}");
    assert!(text.contains("\nsw         no   test mode"), "{text}");
    assert!(text.ends_with("\nNot capable: none of snp, tdx and sw can be used here."), "{text}");
    assert!(report(&amd_desktop()).to_string().ends_with("Capable: --tee auto is sw here."));
}

#[test]
fn json_keys_are_stable() {
    let json = serde_json::to_value(report(&amd_desktop())).unwrap();
    let keys = |value: &serde_json::Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(keys(&json), "auto capable guises host kvm notes snp tees version");
    assert_eq!(json["snp"], serde_json::Value::Null);
    assert_eq!(keys(&json["tees"]), "none snp sw tdx");
    assert_eq!(keys(&json["tees"]["sw"]), "built findings host_ready usable");
    assert_eq!(keys(&json["tees"]["snp"]["findings"][0]), "id reason remedy");
    assert_eq!(json["kvm"]["vm_types"], serde_json::json!([0, 1]));
    assert_eq!((&json["auto"], &json["capable"]), (&"sw".into(), &true.into()));
}

proptest! {
    /// Whatever a host shows, everything that cannot be used has a reason, and what is usable has none.
    #[test]
    fn no_silent_trust_every_refusal_has_a_reason(
        vendor in prop::sample::select(vec!["AuthenticAMD", "GenuineIntel", "HygonGenuine", ""]),
        flags in prop::sample::subsequence(
            vec!["svm", "vmx", "npt", "ept", "nrip_save", "decodeassists", "sev_snp", "tdx_host_platform", "hypervisor"], 0..=9),
        vm_types: u32, attributes: u32, hypercalls: u32, module in prop::sample::select(vec!["kvm_amd", "kvm_intel", "kvm_pvm"]),
        setting in prop::sample::select(vec!["Y", "N", "1", "0", "-1", "", "garbage"]),
        there in any::<bool>(),
    ) {
        let values = ["npt", "ept", "tdx", "sev_snp", "nrips", "unrestricted_guest"].map(|name| (name, setting));
        let mut facts = host(vendor, &flags.join(" "), module, &values, vm_types);
        facts.kvm = if there {
            KvmAccess::Usable(KvmFacts { memory_attributes: attributes, exit_hypercall: hypercalls, ..kvm(vm_types) })
        } else {
            KvmAccess::Forbidden
        };
        let report = report(&facts);
        for tee in [Tee::Snp, Tee::Tdx, Tee::Sw, Tee::None] {
            let verdict = report.tee(tee).unwrap();
            prop_assert_eq!(verdict.usable, verdict.findings.is_empty());
        }
        prop_assert_eq!(report.guises.sev.usable, report.guises.sev.findings.is_empty());
        prop_assert_eq!(report.capable, report.choose(Tee::Auto, Guise::None).is_ok());
        prop_assert!(report.to_string().lines().all(|line| !line.is_empty() || !line.contains("  -  ")));
    }
}

/// no-silent-trust: the number of vCPUs is checked against the host before anything is asked of it.
#[test]
fn no_silent_trust_more_vcpus_than_the_host_allows() {
    let mut facts = snp_epyc();
    facts.kvm = KvmAccess::Usable(KvmFacts { max_vcpus: 32, ..kvm(TYPE_0 | TYPE_SW) });
    let report = report(&facts);
    assert_eq!(report.allows_vcpus(32), Ok(()));
    let error = report.allows_vcpus(33).unwrap_err().to_string();
    assert!(error.starts_with("vcpus 33 cannot be used here: this host's KVM allows at most 32"), "{error}");
}
