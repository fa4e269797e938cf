//! The platform under SNP guests: how it is shown, and what is worth knowing of it.

use snp::platform::{PlatformState, PlatformStatus};

use super::*;
use crate::check::facts::{AsidUse, SevCpuid};

/// One that has been asked everything, and answers as a new kernel on a Genoa does.
pub(super) fn snp_genoa() -> Facts {
    let mut facts = snp_epyc();
    (facts.cpu.family, facts.cpu.model_number) = (0x19, 0x11);
    facts.sev_cpuid = Some(SevCpuid { snp: true, last_asid: 1006, first_sev_asid: 100 });
    let counts = |sev, sev_es| [("sev".to_owned(), sev), ("sev_es".to_owned(), sev_es)].into();
    facts.asids = AsidUse { capacity: counts(907, 99), current: counts(0, 2) };
    let tcb = 0x4817_0000_0000_0009;
    facts.snp_status = Some(Ok(PlatformStatus {
        abi: (1, 55),
        build: 40,
        state: PlatformState::Initialized,
        rmp_initialized: true,
        alias_check_complete: true,
        mask_chip_id: false,
        mask_chip_key: false,
        vlek_loaded: false,
        rapl_disabled: false,
        ciphertext_hiding_capable: false,
        ciphertext_hiding_enabled: false,
        guests: 2,
        current_tcb: tcb,
        reported_tcb: tcb,
    }));
    let sev = SevFacts {
        vmsa_features: Some(1 << 5 | 1 << 9),
        policy_bits: Some(0x3ff_ffff & !(1 << 18)),
        certificate_requests: Some(1),
    };
    facts.kvm = KvmAccess::Usable(KvmFacts { sev, ..kvm(TYPE_0 | 0b1100 | TYPE_SNP) });
    facts
}

/// Its firmware.
pub(super) fn status(facts: &mut Facts) -> &mut PlatformStatus {
    facts.snp_status.as_mut().unwrap().as_mut().unwrap()
}

#[test]
fn the_platform_under_snp_is_shown() {
    let text = report(&snp_genoa()).to_string();
    let shown: Vec<_> =
        text.lines().skip_while(|line| !line.starts_with("snp")).take_while(|line| !line.starts_with("tdx")).collect();
    let expected = [
        "kernel     sees a CPU with SNP and its RMP: yes; kvm_amd uses it: yes",
        "firmware   Genoa, ABI 1.55 build 40, initialized, RMP initialized, guests: 2",
        "TCB        runs: boot loader 9, TEE 0, SNP 23, microcode 72 (0x4817000000000009)",
        "           reported: boot loader 9, TEE 0, SNP 23, microcode 72 (0x4817000000000009)",
        "           committed: only guests' reports tell",
        "policy     guests may have smt, debug, single-socket, cxl, aes-256-xts, rapl-off, ciphertext-hiding, page-swap-off (0x3fbffff)",
        "vCPUs      features besides SNP: debug-swap, secure-tsc (0x220)",
        "ASIDs      SNP and SEV-ES 1 to 99, SEV 100 to 1006; 2 of 99 for SNP and SEV-ES in use",
    ];
    // The first two lines are the verdict and that a launch is not built yet.
    assert_eq!(
        shown[2..].iter().map(|line| line.trim_start_matches("           ").to_owned()).collect::<Vec<_>>(),
        expected.map(|line| line.trim_start_matches("           ").to_owned()),
        "{text}"
    );
    let json = serde_json::to_value(report(&snp_genoa())).unwrap();
    assert_eq!(json["snp"]["firmware"]["current_tcb"]["snp"], 23);
    assert_eq!(json["snp"]["asids"]["snp"], serde_json::json!([1, 99]));
    assert_eq!(json["snp"]["findings"], serde_json::json!([]));
    let mut guest = snp_genoa();
    guest.cpu.flags.insert("hypervisor".into());
    for facts in [pvm(), tdx_xeon(), amd_desktop(), guest, Facts::default()] {
        assert_eq!(report(&facts).snp, None);
    }
}

#[test]
fn what_is_wrong_with_a_platform_is_said() {
    type Case = (&'static str, fn(&mut Facts), &'static str);
    let cases: [Case; 12] = [
        ("snp_state", |f| status(f).state = PlatformState::Uninitialized, "modprobe kvm_amd"),
        ("snp_rmp", |f| status(f).rmp_initialized = false, "coverage"),
        ("snp_mask_chip_key", |f| status(f).mask_chip_key = true, "SNP_CONFIG"),
        ("snp_mask_chip_id", |f| status(f).mask_chip_id = true, "SNP_CONFIG"),
        ("snp_alias_check", |f| status(f).alias_check_complete = false, "update"),
        ("snp_reported_tcb", |f| status(f).reported_tcb = 1, "SNP_COMMIT"),
        ("snp_product", |f| f.cpu.model_number = 0x77, "later version"),
        ("snp_status", |f| f.snp_status = Some(Err("no".into())), "ccp"),
        (
            "snp_policy_bits",
            |f| {
                f.kvm = KvmAccess::Usable(KvmFacts {
                    sev: SevFacts { certificate_requests: Some(1), ..SevFacts::default() },
                    ..kvm(TYPE_SNP)
                })
            },
            "6.19",
        ),
        (
            "snp_certificates",
            |f| {
                f.kvm = KvmAccess::Usable(KvmFacts {
                    sev: SevFacts { policy_bits: Some(0), ..SevFacts::default() },
                    ..kvm(TYPE_SNP)
                })
            },
            "7.0",
        ),
        ("snp_asids_in_use", |f| f.asids.current = [("sev_es".into(), 99)].into(), "end one"),
        ("snp_asids_in_use", |f| f.asids = AsidUse::default(), "CONFIG_CGROUP_MISC"),
    ];
    for (id, spoil, remedy) in cases {
        let mut facts = snp_genoa();
        spoil(&mut facts);
        let report = report(&facts);
        let findings = report.snp.as_ref().unwrap().findings.as_slice();
        assert!(
            matches!(findings, [one] if one.id == id && one.remedy.as_ref().unwrap().contains(remedy)),
            "{findings:?}"
        );
        assert!(report.tees.snp.host_ready, "{id} is worth knowing, and no more");
    }
}

/// As `arch/x86/kvm/svm/sev.c` parts them.
#[test]
fn who_can_have_which_asids() {
    let cases = [
        (Some((100, 1006)), None, "SNP and SEV-ES 1 to 99, SEV 100 to 1006"),
        (Some((100, 1006)), Some("0"), "SNP and SEV-ES 1 to 99, SEV 100 to 1006"),
        (Some((100, 1006)), Some("50"), "SNP 1 to 50, SEV-ES 51 to 99, SEV 100 to 1006"),
        (Some((100, 1006)), Some("99"), "SNP 1 to 99, SEV-ES none, SEV 100 to 1006"),
        (Some((100, 1006)), Some("4294967295"), "SNP 1 to 99, SEV-ES none, SEV 100 to 1006"),
        (Some((1, 1006)), None, "SNP and SEV-ES none, SEV 1 to 1006"),
        (Some((1007, 1006)), None, "SNP and SEV-ES 1 to 1006, SEV none"),
        (Some((0, 0)), None, "SNP and SEV-ES none, SEV none"),
    ];
    for (cpuid, hidden, expected) in cases {
        let mut facts = snp_genoa();
        status(&mut facts).ciphertext_hiding_enabled = true;
        facts.asids = AsidUse::default();
        facts.sev_cpuid = cpuid.map(|(first_sev_asid, last_asid)| SevCpuid { snp: true, last_asid, first_sev_asid });
        let values = hidden.map(|number| ("ciphertext_hiding_asids".to_owned(), number.to_owned()));
        facts.modules.get_mut("kvm_amd").unwrap().extend(values);
        let rows = report(&facts).snp.unwrap().rows();
        assert_eq!(rows.last().unwrap(), &("ASIDs", expected.to_owned()));
    }
}

proptest! {
    /// Whatever firmware, CPU and KVM answer, it is shown, a line each.
    #[test]
    fn no_silent_trust_any_platform(
        bytes: [u8; 32], last_asid: u32, first_sev_asid: u32, features: u64, policy: u64, hidden: u32, family: u32, model: u32,
    ) {
        let mut facts = snp_genoa();
        facts.snp_status = Some(Ok(PlatformStatus::from_bytes(&bytes)));
        facts.sev_cpuid = Some(SevCpuid { snp: true, last_asid, first_sev_asid });
        facts.modules.get_mut("kvm_amd").unwrap().insert("ciphertext_hiding_asids".into(), hidden.to_string());
        (facts.cpu.family, facts.cpu.model_number) = (family, model);
        let sev = SevFacts { vmsa_features: Some(features), policy_bits: Some(policy), certificate_requests: Some(0) };
        facts.kvm = KvmAccess::Usable(KvmFacts { sev, ..kvm(TYPE_SNP) });
        let report = report(&facts);
        let rows = report.snp.as_ref().unwrap().rows();
        prop_assert!(rows.len() == 8 && rows.iter().all(|(_, says)| !says.is_empty() && !says.contains('\n')), "{rows:?}");
        prop_assert!(serde_json::to_value(&report).is_ok());
    }
}
