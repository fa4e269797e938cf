//! The platform under SNP guests: its firmware, what KVM accepts of a guest, and ASIDs.
//!
//! Owns what is shown of it, and what of that people should act on or know. Nothing here decides whether SNP can be
//! used: that is the module `tees`'. Pure, like it.
//!
//! Specification: SEV-SNP Firmware ABI (56860), 8.3; AMD APM volume 3, CPUID Fn8000_001F; APM volume 2, `SEV_FEATURES`
//! in the VMSA's table (appendix B); Linux 7.2 `arch/x86/kvm/svm/sev.c` for who gets which ASID.

use super::Finding;
use super::facts::{Facts, KvmAccess};
use attest::snp::{PackedTcb, Product};
use serde::Serialize;
use snp::platform::{PlatformState, PlatformStatus};
use snp::policy::{GuestPolicy, PolicyFlags};

/// Features of a vCPU by their bits, as far as KVM offers any.
const VMSA_FEATURES: [(u32, &str); 4] =
    [(3, "restricted-injection"), (4, "alternate-injection"), (5, "debug-swap"), (9, "secure-tsc")];
/// Bits of a policy that are a version of the firmware's ABI.
const POLICY_ABI: u64 = 0xffff;

/// The platform under SNP guests. What is not known is none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnpPlatform {
    /// The processor: `Milan`, `Genoa`, `Turin`.
    pub product: Option<String>,
    /// What the secure processor says.
    pub firmware: Option<Firmware>,
    /// Whether the kernel shows `sev_snp` among the CPU's features: it has the RMP and an IOMMU that translates.
    pub kernel: bool,
    /// `kvm_amd`'s parameter `sev_snp`.
    pub kvm: Option<bool>,
    /// Bits that KVM accepts in a guest's policy.
    pub policy_bits: Option<u64>,
    /// Those that have a name, by it.
    pub policy: Vec<&'static str>,
    /// Features that vCPUs can have, besides SNP itself: bits of `SEV_FEATURES`.
    pub vmsa_features: Option<u64>,
    /// Whether guests' requests for certificates can be passed on.
    pub certificate_requests: Option<bool>,
    /// ASIDs.
    pub asids: Option<Asids>,
    /// What is worth knowing or mending.
    pub findings: Vec<Finding>,
}

/// What the secure processor says of SNP's firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Firmware {
    /// Version of its ABI.
    pub abi: String,
    /// Build.
    pub build: u32,
    /// `uninitialized`, `initialized` or `unknown`.
    pub state: &'static str,
    /// Whether it has taken the RMP into use.
    pub rmp_initialized: bool,
    /// Whether it has found that no two addresses are the same memory.
    pub alias_check_complete: bool,
    /// Whether reports leave out which chip they are of.
    pub mask_chip_id: bool,
    /// Whether reports are left unsigned.
    pub mask_chip_key: bool,
    /// Whether a cloud provider's key is loaded.
    pub vlek_loaded: bool,
    /// Whether power measurement is off.
    pub rapl_disabled: bool,
    /// Whether ciphertext can be hidden from the host.
    pub ciphertext_hiding_capable: bool,
    /// Whether it is.
    pub ciphertext_hiding_enabled: bool,
    /// Guests it has.
    pub guests: u32,
    /// Versions that run.
    pub current_tcb: TcbVersion,
    /// Versions that reports tell.
    pub reported_tcb: TcbVersion,
}

/// Versions of what a guest's security rests on. Parts are none if the processor is not known: they lie elsewhere on
/// each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TcbVersion {
    /// All of it, as reports have it.
    pub raw: String,
    /// Of the FMC, if there is one.
    pub fmc: Option<u8>,
    /// Of the secure processor's boot loader.
    pub boot_loader: Option<u8>,
    /// Of its operating system.
    pub tee: Option<u8>,
    /// Of SNP's firmware.
    pub snp: Option<u8>,
    /// Least patch level of all cores.
    pub microcode: Option<u8>,
    #[serde(skip)]
    text: String,
}

/// Who can have which ASIDs: first and last, none if there are none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Asids {
    /// SNP guests.
    pub snp: Option<[u32; 2]>,
    /// SEV-ES guests: the same ones as SNP guests, unless ciphertext is hidden.
    pub sev_es: Option<[u32; 2]>,
    /// SEV guests.
    pub sev: Option<[u32; 2]>,
    /// How many SEV-ES and SNP guests can have together, as the kernel counts.
    pub capacity: Option<u64>,
    /// How many they have.
    pub in_use: Option<u64>,
}

/// What is known of the platform; none if this host shows no sign of SNP.
pub(super) fn report(facts: &Facts) -> Option<SnpPlatform> {
    let cpu = facts.sev_cpuid.filter(|cpu| cpu.snp);
    let kernel = facts.cpu.has("sev_snp");
    // What a virtual machine shows of it is its host's.
    if facts.cpu.has("hypervisor") {
        return None;
    }
    if cpu.is_none() && !kernel && !matches!(facts.snp_status, Some(Ok(_))) {
        return None;
    }
    let (family, model) = (u8::try_from(facts.cpu.family), u8::try_from(facts.cpu.model_number));
    let product = family.ok().zip(model.ok()).and_then(|(family, model)| Product::from_family_model(family, model));
    let status = facts.snp_status.as_ref().and_then(|status| status.as_ref().ok());
    let sev = match &facts.kvm {
        KvmAccess::Usable(kvm) => kvm.sev,
        _ => Default::default(),
    };
    let named = sev.policy_bits.map(PolicyFlags::from_bits_truncate).unwrap_or(PolicyFlags::empty());
    let mut platform = SnpPlatform {
        product: product.map(|product| product.to_string()),
        firmware: status.map(|status| firmware(status, product)),
        kernel,
        kvm: facts.parameter("kvm_amd", "sev_snp"),
        policy_bits: sev.policy_bits,
        policy: GuestPolicy::new(named).described().map(|(name, _)| name).collect(),
        vmsa_features: sev.vmsa_features,
        certificate_requests: sev.certificate_requests.map(|answer| answer != 0),
        asids: asids(facts, status),
        findings: Vec::new(),
    };
    platform.findings = findings(facts, &platform, status);
    Some(platform)
}

fn firmware(status: &PlatformStatus, product: Option<Product>) -> Firmware {
    Firmware {
        abi: format!("{}.{}", status.abi.0, status.abi.1),
        build: status.build,
        state: status.state.name(),
        rmp_initialized: status.rmp_initialized,
        alias_check_complete: status.alias_check_complete,
        mask_chip_id: status.mask_chip_id,
        mask_chip_key: status.mask_chip_key,
        vlek_loaded: status.vlek_loaded,
        rapl_disabled: status.rapl_disabled,
        ciphertext_hiding_capable: status.ciphertext_hiding_capable,
        ciphertext_hiding_enabled: status.ciphertext_hiding_enabled,
        guests: status.guests,
        current_tcb: tcb(status.current_tcb, product),
        reported_tcb: tcb(status.reported_tcb, product),
    }
}

fn tcb(raw: u64, product: Option<Product>) -> TcbVersion {
    let parts = product.and_then(|product| PackedTcb(raw.to_le_bytes()).unpack(product).ok());
    let hex = format!("{raw:#018x}");
    TcbVersion {
        fmc: parts.and_then(|parts| parts.fmc),
        boot_loader: parts.map(|parts| parts.boot_loader),
        tee: parts.map(|parts| parts.tee),
        snp: parts.map(|parts| parts.snp),
        microcode: parts.map(|parts| parts.microcode),
        text: parts.map_or_else(|| hex.clone(), |parts| format!("{parts} ({hex})")),
        raw: hex,
    }
}

fn asids(facts: &Facts, status: Option<&PlatformStatus>) -> Option<Asids> {
    let cpu = facts.sev_cpuid?;
    let range = |first: u32, last: u32| (1 <= first && first <= last).then_some([first, last]);
    // Those below the first of SEV's are for SEV-ES and SNP alike, unless ciphertext hiding parts them.
    let last = cpu.first_sev_asid.saturating_sub(1).min(cpu.last_asid);
    let hiding = status.is_none_or(|status| status.ciphertext_hiding_enabled);
    let parted = facts.modules.get("kvm_amd").and_then(|parameters| parameters.get("ciphertext_hiding_asids"));
    let parted = parted.and_then(|number| number.parse::<u32>().ok()).filter(|number| hiding && *number != 0);
    let (snp, sev_es) = match parted {
        Some(number) => (range(1, number.min(last)), range(number.saturating_add(1), last)),
        None => (range(1, last), range(1, last)),
    };
    Some(Asids {
        snp,
        sev_es,
        sev: range(cpu.first_sev_asid, cpu.last_asid),
        capacity: facts.asids.capacity.get("sev_es").copied(),
        in_use: facts.asids.current.get("sev_es").copied(),
    })
}

fn findings(facts: &Facts, platform: &SnpPlatform, status: Option<&PlatformStatus>) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(Err(why)) = &facts.snp_status {
        let remedy = "see what the kernel logged about it: dmesg | grep -i -e ccp -e sev";
        findings.push(Finding::new("snp_status", format!("SNP's firmware says nothing of itself: {why}"), remedy));
    }
    if let Some(status) = status {
        findings.extend(firmware_findings(status));
        if platform.product.is_none() {
            let (family, model) = (facts.cpu.family, facts.cpu.model_number);
            let reason = format!(
                "the parts of a TCB version are not known for this processor (family {family:#x}, model {model:#x})"
            );
            findings.push(Finding::new("snp_product", reason, "use a later version of tenure"));
        }
    }
    if matches!(facts.kvm, KvmAccess::Usable(_)) && platform.kvm == Some(true) {
        if platform.policy_bits.is_none() {
            let reason = "KVM does not say what it accepts in a guest's policy";
            findings.push(Finding::new("snp_policy_bits", reason, "boot Linux 6.19 or later"));
        }
        if platform.certificate_requests != Some(true) {
            let reason = "KVM does not pass on guests' requests for certificates: they get reports without";
            findings.push(Finding::new("snp_certificates", reason, "boot Linux 7.0 or later"));
        }
    }
    match platform.asids.as_ref().map(|asids| (asids.capacity, asids.in_use)) {
        Some((Some(capacity), Some(in_use))) if in_use >= capacity => {
            let reason = "every ASID for SEV-ES and SNP guests is in use: no other one can be launched";
            findings.push(Finding::new("snp_asids_in_use", reason, "end one of these guests first"));
        }
        Some((_, None)) => {
            let reason =
                "how many ASIDs are in use is not to be seen: there is no root control group with misc.current";
            let remedy = "look outside of containers, on a kernel with CONFIG_CGROUP_MISC";
            findings.push(Finding::new("snp_asids_in_use", reason, remedy));
        }
        _ => {}
    }
    findings
}

fn firmware_findings(status: &PlatformStatus) -> Vec<Finding> {
    let mut findings = Vec::new();
    if status.state != PlatformState::Initialized {
        let reason = "SNP's firmware is not initialized yet";
        let remedy = "sudo modprobe kvm_amd sev_snp=1 initializes it; if not, see dmesg | grep -i -e ccp -e sev";
        findings.push(Finding::new("snp_state", reason, remedy));
    } else if !status.rmp_initialized {
        let reason = "SNP's firmware has not taken the RMP into use";
        let remedy = "switch SNP memory (RMP) coverage for all memory on in the machine's firmware";
        findings.push(Finding::new("snp_rmp", reason, remedy));
    }
    if status.mask_chip_key {
        let reason = "guests' reports are not signed with the chip's key (MASK_CHIP_KEY)";
        findings.push(Finding::new("snp_mask_chip_key", reason, "configure the platform without it (SNP_CONFIG)"));
    }
    if status.mask_chip_id {
        let reason = "guests' reports do not say which chip they are of (MASK_CHIP_ID)";
        findings.push(Finding::new("snp_mask_chip_id", reason, "configure the platform without it (SNP_CONFIG)"));
    }
    if !status.alias_check_complete {
        let reason = "the firmware does not say that no two addresses are the same memory (CVE-2024-21944, BadRAM)";
        findings.push(Finding::new("snp_alias_check", reason, "update the machine's firmware"));
    }
    if status.current_tcb != status.reported_tcb {
        let reason = "guests' reports tell another TCB than the one that runs";
        let remedy = "commit what runs (SNP_COMMIT) once it is to stay, and report no older one (SNP_CONFIG)";
        findings.push(Finding::new("snp_reported_tcb", reason, remedy));
    }
    findings
}

impl SnpPlatform {
    /// For people: what is known, a line each.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = Vec::new();
        let says = |what: bool| if what { "yes" } else { "no" };
        let kvm = self.kvm.map(|kvm| format!("; kvm_amd uses it: {}", says(kvm))).unwrap_or_default();
        rows.push(("kernel", format!("sees a CPU with SNP and its RMP: {}{kvm}", says(self.kernel))));
        if let Some(firmware) = &self.firmware {
            let Firmware { abi, build, state, guests, .. } = firmware;
            let rmp = if firmware.rmp_initialized { "initialized" } else { "not initialized" };
            let hiding = match (firmware.ciphertext_hiding_capable, firmware.ciphertext_hiding_enabled) {
                (_, true) => ", ciphertext hidden",
                (true, false) => ", ciphertext could be hidden",
                (false, false) => "",
            };
            let vlek = if firmware.vlek_loaded { ", VLEK loaded" } else { "" };
            let product = self.product.as_ref().map(|product| format!("{product}, ")).unwrap_or_default();
            let text = format!("{product}ABI {abi} build {build}, {state}, RMP {rmp}, guests: {guests}{hiding}{vlek}");
            rows.push(("firmware", text));
            rows.push(("TCB", format!("runs: {}", firmware.current_tcb.text)));
            rows.push(("", format!("reported: {}", firmware.reported_tcb.text)));
            rows.push(("", "committed: only guests' reports tell".to_owned()));
        }
        if let Some(bits) = self.policy_bits {
            rows.push(("policy", format!("guests may have {} ({bits:#x})", self.policy_text(bits))));
        }
        if let Some(features) = self.vmsa_features {
            let names = features_text(features);
            rows.push(("vCPUs", format!("features besides SNP: {names} ({features:#x})")));
        }
        rows.extend(self.asids.as_ref().map(|asids| ("ASIDs", asids.text())));
        rows
    }

    fn policy_text(&self, bits: u64) -> String {
        let unknown = bits & !POLICY_ABI & !PolicyFlags::all().bits();
        let mut names: Vec<_> = self.policy.iter().map(|name| (*name).to_owned()).collect();
        names.extend((unknown != 0).then(|| format!("others {unknown:#x}")));
        if names.is_empty() { "nothing that has a name".to_owned() } else { names.join(", ") }
    }
}

fn features_text(features: u64) -> String {
    let known = VMSA_FEATURES.iter().fold(0, |known, (bit, _)| known | 1u64 << bit);
    let named = VMSA_FEATURES.iter().filter(|(bit, _)| features >> bit & 1 != 0).map(|(_, name)| (*name).to_owned());
    let others = features & !known;
    let names: Vec<_> = named.chain((others != 0).then(|| format!("others {others:#x}"))).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

impl Asids {
    fn text(&self) -> String {
        let range = |range: Option<[u32; 2]>| match range {
            Some([first, last]) => format!("{first} to {last}"),
            None => "none".to_owned(),
        };
        let parts = if self.snp == self.sev_es {
            format!("SNP and SEV-ES {}", range(self.snp))
        } else {
            format!("SNP {}, SEV-ES {}", range(self.snp), range(self.sev_es))
        };
        let used = match (self.in_use, self.capacity) {
            (Some(in_use), Some(capacity)) => format!("; {in_use} of {capacity} for SNP and SEV-ES in use"),
            _ => String::new(),
        };
        format!("{parts}, SEV {}{used}", range(self.sev))
    }
}
