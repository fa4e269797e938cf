//! What this host can do, and for everything it cannot, why and what helps.
//!
//! Owns the verdict. Looking ([`facts`]) and judging ([`report`]) are apart: judging is a pure function, so that hosts
//! nobody has at hand can be tested as tables. What a host can do and what this version of `tenure` can do are told
//! apart too; a technology is usable only if both can. What is under SNP guests is shown besides ([`platform`]).
//!
//! Specification: named in the module `tees`, which has each technology's prerequisites.

pub mod facts;
pub mod platform;
mod tees;
mod text;

use crate::config::{Guise, Tee};
use facts::{Facts, KvmAccess};
use gmem_kvm::probe::KvmFacts;
use serde::Serialize;

/// The verdict. As JSON its keys are only ever added to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Version of `tenure`.
    pub version: &'static str,
    /// Whether at least one of snp, tdx and sw is usable.
    pub capable: bool,
    /// What `--tee auto` stands for here.
    pub auto: Option<Tee>,
    /// What kind of host this is.
    pub host: HostReport,
    /// What KVM says of itself.
    pub kvm: KvmReport,
    /// Each technology.
    pub tees: TeeReports,
    /// The platform under SNP guests; none where there is no sign of one.
    pub snp: Option<platform::SnpPlatform>,
    /// Guises besides none.
    pub guises: GuiseReports,
    /// What else is worth knowing.
    pub notes: Vec<Finding>,
}

/// What kind of host this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostReport {
    /// Its kernel's release.
    pub kernel: String,
    /// Its CPU's vendor.
    pub cpu_vendor: String,
    /// Its CPU's model.
    pub cpu_model: String,
    /// Whether it is a virtual machine itself.
    pub virtual_machine: bool,
    /// The kind of container we are in, if one was recognised.
    pub container: Option<String>,
    /// KVM's modules.
    pub kvm_modules: Vec<String>,
}

/// What KVM says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KvmReport {
    /// Whether it answers.
    pub usable: bool,
    /// Why it does not.
    pub findings: Vec<Finding>,
    /// Its answers, all 0 if there are none.
    pub api_version: u32,
    /// Numbers of the types a VM can have.
    pub vm_types: Vec<u32>,
    /// See [`KvmFacts`].
    pub guest_memfd: bool,
    /// See [`KvmFacts`].
    pub guest_memfd_flags: u32,
    /// See [`KvmFacts`].
    pub memory_attributes: u32,
    /// See [`KvmFacts`].
    pub user_memory2: bool,
    /// See [`KvmFacts`].
    pub memory_fault_info: bool,
    /// See [`KvmFacts`].
    pub exit_hypercall: u32,
    /// See [`KvmFacts`].
    pub pre_fault_memory: bool,
    /// See [`KvmFacts`].
    pub max_vcpus: u32,
    /// See [`KvmFacts`].
    pub memory_slots: u32,
}

/// Every technology's verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TeeReports {
    /// AMD SEV-SNP.
    pub snp: TeeReport,
    /// Intel TDX.
    pub tdx: TeeReport,
    /// Test mode.
    pub sw: TeeReport,
    /// No privacy.
    pub none: TeeReport,
}

/// One technology's verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TeeReport {
    /// Whether a guest can run with it.
    pub usable: bool,
    /// Whether this host has everything it needs.
    pub host_ready: bool,
    /// Whether this version of `tenure` can launch it.
    pub built: bool,
    /// What is missing.
    pub findings: Vec<Finding>,
}

/// Guises besides none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuiseReports {
    /// A plain SEV guest.
    pub sev: GuiseReport,
}

/// One guise's verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuiseReport {
    /// Whether a guest in test mode can have it.
    pub usable: bool,
    /// What is missing.
    pub findings: Vec<Finding>,
}

/// One thing that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A name that does not change.
    pub id: &'static str,
    /// What it is.
    pub reason: String,
    /// What helps, if anything does.
    pub remedy: Option<String>,
}

impl Finding {
    fn new(id: &'static str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { id, reason: reason.into(), remedy: Some(remedy.into()) }
    }

    fn note(id: &'static str, reason: impl Into<String>) -> Self {
        Self { id, reason: reason.into(), remedy: None }
    }
}

/// What a run is to use, after a look at the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// Never [`Tee::Auto`].
    pub tee: Tee,
    /// What people should know about it.
    pub warnings: Vec<String>,
}

/// Why a run cannot be what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} cannot be used here: {} (`tenure check` says what helps)", reasons.join("; "))]
pub struct NotCapable {
    /// What was asked for.
    pub what: String,
    /// What is missing.
    pub reasons: Vec<String>,
}

/// Judges a host.
pub fn report(facts: &Facts) -> CheckReport {
    let kvm = kvm_report(facts);
    let judge = |tee| tees::judge(tee, facts);
    let tees = TeeReports { snp: judge(Tee::Snp), tdx: judge(Tee::Tdx), sw: judge(Tee::Sw), none: judge(Tee::None) };
    let auto = [(Tee::Snp, &tees.snp), (Tee::Tdx, &tees.tdx), (Tee::Sw, &tees.sw)]
        .into_iter()
        .find_map(|(tee, report)| report.usable.then_some(tee));
    CheckReport {
        version: env!("CARGO_PKG_VERSION"),
        capable: auto.is_some(),
        auto,
        host: HostReport {
            kernel: facts.kernel.release.clone(),
            cpu_vendor: facts.cpu.vendor.clone(),
            cpu_model: facts.cpu.model.clone(),
            virtual_machine: facts.cpu.has("hypervisor"),
            container: facts.container.clone(),
            kvm_modules: facts.modules.keys().cloned().collect(),
        },
        kvm,
        snp: platform::report(facts),
        guises: GuiseReports { sev: tees::judge_guise_sev(facts, &tees.sw) },
        tees,
        notes: tees::notes(facts),
    }
}

fn kvm_report(facts: &Facts) -> KvmReport {
    let answers = match facts.kvm {
        KvmAccess::Usable(answers) => Some(answers),
        _ => None,
    };
    let kvm: KvmFacts = answers.unwrap_or_default();
    KvmReport {
        usable: answers.is_some(),
        findings: tees::kvm_access(facts).into_iter().collect(),
        api_version: kvm.api_version,
        vm_types: (0..u32::BITS).filter(|number| kvm.vm_types >> number & 1 != 0).collect(),
        guest_memfd: kvm.guest_memfd != 0,
        guest_memfd_flags: kvm.guest_memfd_flags,
        memory_attributes: kvm.memory_attributes,
        user_memory2: kvm.user_memory2 != 0,
        memory_fault_info: kvm.memory_fault_info != 0,
        exit_hypercall: kvm.exit_hypercall,
        pre_fault_memory: kvm.pre_fault_memory != 0,
        max_vcpus: kvm.max_vcpus,
        memory_slots: kvm.memory_slots,
    }
}

impl CheckReport {
    /// The verdict on one technology; none for [`Tee::Auto`], which is not one.
    pub fn tee(&self, tee: Tee) -> Option<&TeeReport> {
        match tee {
            Tee::Auto => None,
            Tee::Snp => Some(&self.tees.snp),
            Tee::Tdx => Some(&self.tees.tdx),
            Tee::Sw => Some(&self.tees.sw),
            Tee::None => Some(&self.tees.none),
        }
    }

    /// What a run asked for as `tee` and `guise` is to use.
    pub fn choose(&self, tee: Tee, guise: Guise) -> Result<Choice, NotCapable> {
        // The guise is a test of test mode: nothing else will do for it.
        let wanted = if guise == Guise::Sev && tee == Tee::Auto { Tee::Sw } else { tee };
        let choice = match self.tee(wanted) {
            Some(report) if report.usable => wanted,
            // Asked for by name, and all of it can be done but booting: people are warned.
            Some(report) if wanted == Tee::Snp && report.host_ready => wanted,
            Some(report) => {
                // What no host helps against comes first.
                let (ours, hosts): (Vec<_>, Vec<_>) =
                    report.findings.iter().cloned().partition(|finding| finding.id == tees::NOT_BUILT);
                let reasons = reasons(&[ours, hosts].concat());
                return Err(NotCapable { what: format!("tee {wanted}"), reasons });
            }
            None => self.auto.ok_or_else(|| self.nothing_usable())?,
        };
        if guise == Guise::Sev && !self.guises.sev.usable {
            return Err(NotCapable { what: "guise sev".into(), reasons: reasons(&self.guises.sev.findings) });
        }
        Ok(Choice { tee: choice, warnings: self.warnings(tee, choice) })
    }

    /// Whether a guest can be launched here with `tee`, however far it comes then.
    pub fn launches(&self, tee: Tee) -> Result<Choice, NotCapable> {
        match self.tee(tee) {
            Some(report) if !report.usable && !report.host_ready => {
                let hosts = report.findings.iter().filter(|finding| finding.id != tees::NOT_BUILT);
                let reasons = hosts.map(|finding| finding.reason.clone()).collect();
                Err(NotCapable { what: format!("tee {tee}"), reasons })
            }
            _ => self.choose(tee, Guise::None),
        }
    }

    /// Whether a VM here can have so many vCPUs.
    pub fn allows_vcpus(&self, vcpus: u32) -> Result<(), NotCapable> {
        let most = self.kvm.max_vcpus;
        if vcpus <= most {
            return Ok(());
        }
        let reasons = vec![format!("this host's KVM allows at most {most} in a VM")];
        Err(NotCapable { what: format!("vcpus {vcpus}"), reasons })
    }

    fn nothing_usable(&self) -> NotCapable {
        // Without KVM there is one reason for everything.
        let reasons = if self.kvm.usable {
            [Tee::Snp, Tee::Tdx, Tee::Sw]
                .into_iter()
                .filter_map(|tee| Some(format!("{tee}: {}", self.tee(tee)?.findings.first()?.reason)))
                .collect()
        } else {
            reasons(&self.kvm.findings)
        };
        NotCapable { what: "tee auto (snp, tdx or sw)".into(), reasons }
    }

    fn warnings(&self, asked: Tee, choice: Tee) -> Vec<String> {
        let mut warnings = Vec::new();
        match choice {
            Tee::Sw => warnings.push(
                "tee sw is a test mode: memory is private by attribute, but neither encrypted nor attested".to_owned(),
            ),
            Tee::None => warnings.push("tee none: nothing of this guest is private".to_owned()),
            Tee::Snp => warnings.push(
                "tee snp: the guest is launched, but this version's firmware cannot start in it and asks to be terminated"
                    .to_owned(),
            ),
            Tee::Auto | Tee::Tdx => {}
        }
        for stronger in [Tee::Snp, Tee::Tdx] {
            if asked == Tee::Auto && choice == Tee::Sw && self.tee(stronger).is_some_and(|report| report.host_ready) {
                warnings.push(format!("this host can do {stronger}, but this version of tenure cannot"));
            }
        }
        warnings
    }
}

fn reasons(findings: &[Finding]) -> Vec<String> {
    findings.iter().map(|finding| finding.reason.clone()).collect()
}

#[cfg(test)]
mod tests;
