//! What each technology needs of a host.
//!
//! Specification: Linux 7.2 `Documentation/virt/kvm/x86/amd-memory-encryption.rst`, `intel-tdx.rst` and
//! `arch/x86/kvm/Kconfig`. That test mode needs an instruction's length and bytes from the CPU follows from where KVM
//! fetches instructions it has to emulate: from shared memory, where a private guest's code is not.

use super::facts::{DeviceAccess, Facts, KvmAccess, SevCpuid};
use super::{Finding, GuiseReport, TeeReport};
use crate::config::Tee;
use gmem_kvm::probe::KvmFacts;
use snp::platform::LEAST_ABI;

/// `KVM_X86_SW_PROTECTED_VM`, `KVM_X86_SNP_VM`, `KVM_X86_TDX_VM`.
const VM_TYPE_SW_PROTECTED: u32 = 1;
const VM_TYPE_SNP: u32 = 4;
const VM_TYPE_TDX: u32 = 5;
/// `KVM_MEMORY_ATTRIBUTE_PRIVATE`.
const ATTRIBUTE_PRIVATE: u32 = 1 << 3;
/// `KVM_HC_MAP_GPA_RANGE` in `KVM_CAP_EXIT_HYPERCALL`.
const HYPERCALL_MAP_GPA_RANGE: u32 = 1 << 12;

/// Options of the kernel's command line with which IOMMUs do not translate.
const IOMMU_OFF: [&str; 5] = ["amd_iommu=off", "iommu=off", "iommu=soft", "iommu=pt", "iommu.passthrough=1"];

/// The finding that is about us, not about the host.
pub(super) const NOT_BUILT: &str = "not_built";

/// What this version launches.
const fn is_built(tee: Tee) -> bool {
    matches!(tee, Tee::Sw | Tee::None)
}

pub(super) fn judge(tee: Tee, facts: &Facts) -> TeeReport {
    let mut findings = match (kvm_access(facts), &facts.kvm) {
        (Some(_), _) => vec![Finding::new("kvm", "KVM cannot be used", "see kvm")],
        (None, KvmAccess::Usable(kvm)) => match tee {
            Tee::Snp => [snp(facts, kvm), interrupts(facts, kvm)].concat(),
            Tee::Tdx => tdx(facts, kvm),
            Tee::Sw => [sw(facts, kvm), interrupts(facts, kvm)].concat(),
            Tee::None => interrupts(facts, kvm),
            Tee::Auto => Vec::new(),
        },
        (None, _) => Vec::new(),
    };
    let host_ready = findings.is_empty();
    let built = is_built(tee);
    if !built {
        let missing = match tee {
            Tee::Snp => "a firmware that can start in an SNP guest, which it launches if asked by name",
            _ => "the launch of TDX guests (KVM_TDX_INIT_VM, _INIT_MEM_REGION and _FINALIZE_VM)",
        };
        let reason = format!("not built yet: this version of tenure lacks {missing}");
        findings.push(Finding::new(NOT_BUILT, reason, "use a later version, or sw for a test"));
    }
    TeeReport { usable: host_ready && built, host_ready, built, findings }
}

/// Why KVM does not answer, if it does not.
pub(super) fn kvm_access(facts: &Facts) -> Option<Finding> {
    let module = if is_amd(facts) { "kvm_amd" } else { "kvm_intel" };
    let cpu_can = facts.cpu.has("svm") || facts.cpu.has("vmx");
    let loaded = ["kvm_amd", "kvm_intel", "kvm_pvm"].iter().any(|name| facts.modules.contains_key(*name));
    let finding = match &facts.kvm {
        KvmAccess::Usable(_) => return None,
        KvmAccess::Broken(why) => Finding::new("kvm_broken", why.clone(), "remove what is there and load KVM"),
        KvmAccess::Forbidden => {
            let remedy = match &facts.dev_kvm {
                _ if facts.uid == 0 => {
                    "allow the device where this container or sandbox is set up (device cgroup, --device /dev/kvm)"
                        .into()
                }
                Some(node) if node.mode & 0o060 == 0o060 => {
                    format!("join the group {}: sudo usermod -aG {} $USER, then log in again", node.group, node.group)
                }
                _ => "give a group access: sudo chgrp kvm /dev/kvm && sudo chmod 660 /dev/kvm".into(),
            };
            Finding::new("kvm_forbidden", "/dev/kvm may not be opened by this user", remedy)
        }
        KvmAccess::Absent | KvmAccess::NoDriver if loaded => Finding::new(
            "kvm_no_device",
            match &facts.container {
                Some(container) => format!("KVM is loaded, but /dev/kvm is not in this container ({container})"),
                None => "KVM is loaded, but there is no /dev/kvm here".into(),
            },
            "pass the device on (--device /dev/kvm), or create it: sudo mknod /dev/kvm c 10 232",
        ),
        KvmAccess::Absent | KvmAccess::NoDriver if cpu_can => Finding::new(
            "kvm_not_loaded",
            "there is no /dev/kvm: the CPU can virtualize, but KVM is not loaded",
            format!("sudo modprobe {module}"),
        ),
        KvmAccess::Absent | KvmAccess::NoDriver if facts.cpu.has("hypervisor") => Finding::new(
            "kvm_not_nested",
            "there is no /dev/kvm: this is a virtual machine whose host does not pass virtualization on",
            "switch nested virtualization on for it, use a bare machine, or an emulated host (cargo xtask lab)",
        ),
        KvmAccess::Absent | KvmAccess::NoDriver => Finding::new(
            "kvm_no_virtualization",
            "there is no /dev/kvm: the CPU shows no virtualization (neither svm nor vmx)",
            "switch it on in the machine's firmware (AMD: SVM, Intel: VT-x), or use an emulated host (cargo xtask lab)",
        ),
    };
    Some(finding)
}

fn is_amd(facts: &Facts) -> bool {
    matches!(facts.cpu.vendor.as_str(), "AuthenticAMD" | "HygonGenuine")
}

fn has_type(kvm: &KvmFacts, number: u32) -> bool {
    kvm.vm_types >> number & 1 != 0
}

/// What every technology with private memory needs.
fn private_memory(facts: &Facts, kvm: &KvmFacts) -> Vec<Finding> {
    let kernel = &facts.kernel.release;
    let mut findings = Vec::new();
    if kvm.guest_memfd == 0 || kvm.user_memory2 == 0 {
        let reason = format!("the kernel {kernel} has no guest_memfd");
        findings.push(Finding::new("guest_memfd", reason, "boot Linux 6.8 or later"));
    }
    if kvm.memory_attributes & ATTRIBUTE_PRIVATE == 0 {
        let reason = format!("KVM cannot mark memory as private (memory attributes {:#x})", kvm.memory_attributes);
        let remedy = "boot a kernel with CONFIG_KVM_GENERIC_MEMORY_ATTRIBUTES, which each private VM type switches on";
        findings.push(Finding::new("memory_attributes", reason, remedy));
    }
    if kvm.exit_hypercall & HYPERCALL_MAP_GPA_RANGE == 0 {
        let reason = "KVM does not pass on a guest's requests to convert memory (KVM_HC_MAP_GPA_RANGE)";
        findings.push(Finding::new("exit_hypercall", reason, "boot Linux 6.8 or later"));
    }
    findings
}

/// A guest's interrupts are the kernel's work. TDX has only the part of it that every kernel has.
fn interrupts(facts: &Facts, kvm: &KvmFacts) -> Vec<Finding> {
    if kvm.irqchip != 0 {
        return Vec::new();
    }
    let reason = format!("KVM of the kernel {} has no I/O APIC (KVM_CAP_IRQCHIP)", facts.kernel.release);
    vec![Finding::new("irqchip", reason, "boot one with CONFIG_KVM_IOAPIC, an option since Linux 6.17")]
}

fn snp(facts: &Facts, kvm: &KvmFacts) -> Vec<Finding> {
    if !is_amd(facts) {
        let reason = format!("the CPU ({}) is not AMD's", facts.cpu.vendor);
        return vec![Finding::new("snp_cpu", reason, "use an AMD EPYC 7003 or later")];
    }
    if facts.modules.contains_key("kvm_pvm") {
        return vec![software_kvm()];
    }
    let mut findings = Vec::new();
    if !has_type(kvm, VM_TYPE_SNP) {
        findings.push(why_no_snp(facts));
    }
    match facts.dev_sev {
        DeviceAccess::Usable => {}
        DeviceAccess::Absent => findings.push(Finding::new(
            "sev_device",
            "there is no /dev/sev: the secure processor's driver is not there",
            "sudo modprobe ccp; in a container, pass the device on (--device /dev/sev)",
        )),
        DeviceAccess::Forbidden => findings.push(Finding::new(
            "sev_device",
            "/dev/sev may not be opened by this user",
            "give your group access by a udev rule: KERNEL==\"sev\", GROUP=\"kvm\", MODE=\"0660\"",
        )),
    }
    if has_type(kvm, VM_TYPE_SNP) {
        findings.extend(private_memory(facts, kvm));
    }
    findings
}

/// The first prerequisite that explains why KVM offers no SNP guests.
fn why_no_snp(facts: &Facts) -> Finding {
    let id = "snp_vm_type";
    if facts.cpu.has("hypervisor") {
        return Finding::new(id, "this is a virtual machine, and SNP does not nest", "use the bare machine");
    }
    // Without an IOMMU that translates, the kernel hides sev_snp, so this comes before the CPU's own flags.
    let mut options = facts.kernel.cmdline.split_whitespace();
    if let Some(option) = options.find(|option| IOMMU_OFF.contains(option)) {
        let reason = format!("the kernel's command line has {option}, and SNP needs an IOMMU that translates");
        return Finding::new(id, reason, format!("boot without {option}"));
    }
    if facts.iommus.is_empty() {
        let reason = "no IOMMU is in use, and SNP needs one that translates";
        return Finding::new(id, reason, "switch the IOMMU on in the machine's firmware, and boot with iommu=nopt");
    }
    if !facts.cpu.has("sev_snp") {
        return why_no_flag(facts, id);
    }
    if let Some(SevCpuid { last_asid: 1.., first_sev_asid: 0..=1, .. }) = facts.sev_cpuid {
        let reason = "the machine's firmware leaves no ASIDs to SEV-ES and SNP guests: SEV has them from 1 on";
        let remedy = "raise the minimum SEV non-ES ASID in the machine's firmware, to 100 for 99 such guests at once";
        return Finding::new(id, reason, remedy);
    }
    if let Some(Ok(status)) = &facts.snp_status
        && status.abi < LEAST_ABI
    {
        let ((major, minor), (least_major, least_minor)) = (status.abi, LEAST_ABI);
        let reason =
            format!("SNP's firmware is {major}.{minor}, and the kernel wants {least_major}.{least_minor} or later");
        let remedy = "update the machine's firmware, or install the secure processor's (amd_sev_*.sbin in \
                      /lib/firmware/amd) and boot again";
        return Finding::new(id, reason, remedy);
    }
    for parameter in ["sev", "sev_es", "sev_snp"] {
        if facts.parameter("kvm_amd", parameter) == Some(false) {
            let reason = format!("kvm_amd's parameter {parameter} is N");
            let remedy = "sudo modprobe -r kvm_amd && sudo modprobe kvm_amd sev=1 sev_es=1 sev_snp=1; if it stays N, the \
                          kernel's log has the reason (dmesg | grep -i -e sev -e snp)";
            return Finding::new(id, reason, remedy);
        }
    }
    let reason = format!("the kernel {} offers no SNP guests", facts.kernel.release);
    Finding::new(id, reason, "boot Linux 6.11 or later with CONFIG_KVM_AMD_SEV; see dmesg | grep -i -e sev -e snp")
}

/// Why the kernel does not show SNP among the CPU's features.
fn why_no_flag(facts: &Facts, id: &'static str) -> Finding {
    let log = "the kernel's log has the reason (dmesg | grep -i -e sev -e rmp)";
    match facts.sev_cpuid {
        Some(cpu) if cpu.snp && !facts.cpu.has("sev") => Finding::new(
            id,
            "the CPU can do SNP, but its memory encryption is off: the kernel shows not even sev",
            format!("switch SMEE and SNP on in the machine's firmware, and boot with CONFIG_KVM_AMD_SEV; {log}"),
        ),
        Some(cpu) if cpu.snp => Finding::new(
            id,
            "the CPU can do SNP, but the kernel does not show sev_snp: there is no RMP, or this kernel has no use for it",
            format!(
                "switch SNP memory (RMP) coverage on in the machine's firmware, and boot Linux 6.11 or later; {log}"
            ),
        ),
        _ => Finding::new(
            id,
            "the CPU does not show sev_snp",
            "use an AMD EPYC 7003 or later with SNP switched on in its firmware (SMEE, SNP memory coverage)",
        ),
    }
}

fn tdx(facts: &Facts, kvm: &KvmFacts) -> Vec<Finding> {
    let id = "tdx_vm_type";
    if facts.cpu.vendor != "GenuineIntel" {
        let reason = format!("the CPU ({}) is not Intel's", facts.cpu.vendor);
        return vec![Finding::new("tdx_cpu", reason, "use a 5th generation Xeon or later")];
    }
    if has_type(kvm, VM_TYPE_TDX) {
        return private_memory(facts, kvm);
    }
    let finding = if facts.modules.contains_key("kvm_pvm") {
        software_kvm()
    } else if facts.cpu.has("hypervisor") {
        Finding::new(id, "this is a virtual machine, and TDX does not nest", "use the bare machine")
    } else if !facts.cpu.has("tdx_host_platform") {
        let remedy = "use a 5th generation Xeon or later, switch TDX on in its firmware (TME-MT, TDX, SEAM loader), and \
                      boot Linux 6.16 or later with CONFIG_INTEL_TDX_HOST";
        Finding::new(id, "the CPU does not show tdx_host_platform", remedy)
    } else if facts.parameter("kvm_intel", "tdx") == Some(false) {
        let remedy = "boot with kvm_intel.tdx=1; if it stays N, the kernel's log has the reason (dmesg | grep -i tdx)";
        Finding::new(id, "kvm_intel's parameter tdx is N", remedy)
    } else {
        let reason = format!("the kernel {} offers no TDX guests", facts.kernel.release);
        Finding::new(id, reason, "boot Linux 6.16 or later with CONFIG_KVM_INTEL_TDX; see dmesg | grep -i tdx")
    };
    vec![finding]
}

fn sw(facts: &Facts, kvm: &KvmFacts) -> Vec<Finding> {
    if !has_type(kvm, VM_TYPE_SW_PROTECTED) {
        return vec![why_no_sw(facts, kvm)];
    }
    let mut findings = private_memory(facts, kvm);
    if is_amd(facts) {
        for (flag, what) in [
            ("npt", "nested paging"),
            ("nrip_save", "an instruction's length"),
            ("decodeassists", "an instruction's bytes"),
        ] {
            if !facts.cpu.has(flag) {
                let reason = format!("the CPU does not tell KVM {what} ({flag}), and KVM cannot read private memory");
                let remedy = match facts.cpu.has("hypervisor") {
                    true => format!("have this virtual machine's host pass {flag} on"),
                    false => "use an AMD CPU made after 2011".to_owned(),
                };
                let reason = if flag == "npt" { "the CPU has no nested paging (npt)".to_owned() } else { reason };
                findings.push(Finding::new("sw_cpu", reason, remedy));
            }
        }
        if facts.parameter("kvm_amd", "nrips") == Some(false) {
            let reason = "kvm_amd's parameter nrips is 0, and KVM cannot read instructions in private memory";
            findings.push(Finding::new("sw_nrips", reason, "load kvm_amd without nrips=0"));
        }
    } else if facts.parameter("kvm_intel", "unrestricted_guest") == Some(false) {
        let reason = "kvm_intel's parameter unrestricted_guest is N, so KVM would emulate code it cannot read";
        findings.push(Finding::new("sw_unrestricted_guest", reason, "load kvm_intel with unrestricted_guest=1"));
    }
    findings
}

/// The first prerequisite that explains why KVM offers no test mode.
fn why_no_sw(facts: &Facts, kvm: &KvmFacts) -> Finding {
    let id = "sw_vm_type";
    let emulated = "an emulated host has it: cargo xtask run";
    if facts.modules.contains_key("kvm_pvm") {
        return software_kvm();
    }
    for (module, parameter) in [("kvm_amd", "npt"), ("kvm_intel", "ept"), ("kvm", "tdp_mmu")] {
        if facts.parameter(module, parameter) == Some(false) {
            let reason = format!("{module}'s parameter {parameter} is N, without which there is no private memory");
            return Finding::new(id, reason, format!("load {module} with {parameter}=1, if the CPU has it"));
        }
    }
    let kernel = &facts.kernel.release;
    let (reason, remedy) = if facts.kernel.sw_protected_vm == Some(false) {
        (format!("the kernel {kernel} is built without CONFIG_KVM_SW_PROTECTED_VM"), "boot one that has it; ")
    } else if kvm.vm_types == 0 {
        (format!("the kernel {kernel} has no VM types"), "boot Linux 6.8 or later with CONFIG_KVM_SW_PROTECTED_VM; ")
    } else {
        (format!("the kernel {kernel} offers no software-protected VMs"), "boot one with CONFIG_KVM_SW_PROTECTED_VM; ")
    };
    Finding::new(id, reason, format!("{remedy}{emulated}"))
}

fn software_kvm() -> Finding {
    Finding::new(
        "kvm_pvm",
        "KVM here is kvm_pvm, in software and without private memory",
        "use a machine with hardware virtualization, or an emulated host: cargo xtask run",
    )
}

pub(super) fn judge_guise_sev(facts: &Facts, sw: &TeeReport) -> GuiseReport {
    let mut findings = Vec::new();
    if !sw.usable {
        findings.push(Finding::new("sw", "tee sw cannot be used", "see sw"));
    }
    if !is_amd(facts) {
        let reason = format!("the CPU ({}) is not of AMD's type: such guests call by VMMCALL", facts.cpu.vendor);
        findings.push(Finding::new("guise_cpu", reason, "use an AMD host"));
    }
    if let KvmAccess::Usable(kvm) = &facts.kvm
        && (kvm.user_space_msr == 0 || kvm.msr_filter == 0)
    {
        let reason = "KVM cannot pass on single MSRs (KVM_CAP_X86_USER_SPACE_MSR, KVM_CAP_X86_MSR_FILTER)";
        findings.push(Finding::new("guise_msr", reason, "boot Linux 5.10 or later"));
    }
    GuiseReport { usable: findings.is_empty(), findings }
}

/// What is worth knowing although nothing depends on it.
pub(super) fn notes(facts: &Facts) -> Vec<Finding> {
    let mut notes = Vec::new();
    if facts.modules.contains_key("kvm_pvm") {
        let reason = "kvm_pvm runs guest kernels by emulating each instruction: good for lifecycle tests only";
        notes.push(Finding::note("kvm_pvm", reason));
    }
    if facts.cpu.has("hypervisor") && matches!(facts.kvm, KvmAccess::Usable(_)) {
        let reason = "this host is a virtual machine: guests are nested, and their privacy depends on its host as well";
        notes.push(Finding::note("nested", reason));
    }
    for module in ["kvm_amd", "kvm_intel"] {
        if let Some(nested) = facts.parameter(module, "nested") {
            let can = if nested { "can" } else { "cannot" };
            let reason = format!("guests of ordinary VMs {can} have virtualization of their own ({module}.nested)");
            notes.push(Finding::note("nested_guests", reason));
        }
    }
    if let KvmAccess::Usable(kvm) = &facts.kvm {
        if kvm.guest_memfd != 0 && kvm.guest_memfd_flags & 3 != 3 {
            let reason = "guest_memfd cannot be mapped here: tee none uses plain memory instead";
            notes.push(Finding::new("guest_memfd_flags", reason, "boot Linux 6.18 or later"));
        }
        if kvm.pre_fault_memory == 0 {
            let reason = "KVM cannot map memory ahead of its use: guests start with more page faults";
            notes.push(Finding::new("pre_fault_memory", reason, "boot Linux 6.11 or later"));
        }
    }
    if !facts.tdx_firmware.is_empty() {
        notes.push(Finding::note("tdx_firmware", format!("the firmware shows {}", facts.tdx_firmware.join(", "))));
    }
    notes
}
