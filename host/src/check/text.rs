//! The verdict for people: one line for everything, and one for each thing that is missing.

use super::{CheckReport, Finding};
use std::fmt;

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = &self.host;
        let mut place = vec![format!("Linux {}", host.kernel), host.cpu_model.clone()];
        place.extend(host.virtual_machine.then(|| "virtual machine".to_owned()));
        place.extend(host.container.as_ref().map(|container| format!("container ({container})")));
        writeln!(f, "tenure {} on {}\n", self.version, place.join(", "))?;

        verdict(f, "kvm", self.kvm.usable, &self.kvm_says())?;
        findings(f, &self.kvm.findings)?;
        for (name, tee, what) in [
            ("snp", &self.tees.snp, "AMD SEV-SNP"),
            ("tdx", &self.tees.tdx, "Intel TDX"),
            ("sw", &self.tees.sw, "test mode: private by attribute, neither encrypted nor attested"),
            ("none", &self.tees.none, "no privacy; only when asked for by name"),
        ] {
            let ready = if tee.host_ready && !tee.built { "; this host is ready for it" } else { "" };
            verdict(f, name, tee.usable, &format!("{what}{ready}"))?;
            findings(f, &tee.findings)?;
            if let ("snp", Some(platform)) = (name, &self.snp) {
                for (label, says) in platform.rows() {
                    writeln!(f, "           {label:<9}  {says}")?;
                }
                findings(f, &platform.findings)?;
            }
        }
        verdict(f, "guise sev", self.guises.sev.usable, "stock kernels convert memory themselves (with sw)")?;
        findings(f, &self.guises.sev.findings)?;

        if !self.notes.is_empty() {
            writeln!(f, "\nnotes")?;
            findings(f, &self.notes)?;
        }
        match self.auto {
            Some(tee) => write!(f, "\nCapable: --tee auto is {tee} here."),
            None => write!(f, "\nNot capable: none of snp, tdx and sw can be used here."),
        }
    }
}

impl CheckReport {
    fn kvm_says(&self) -> String {
        let kvm = &self.kvm;
        if !kvm.usable {
            return "/dev/kvm".to_owned();
        }
        let types: Vec<_> = kvm.vm_types.iter().map(u32::to_string).collect();
        let memfd = match (kvm.guest_memfd, kvm.guest_memfd_flags) {
            (false, _) => "no guest_memfd".to_owned(),
            (true, flags) => format!("guest_memfd (flags {flags:#x})"),
        };
        format!(
            "API {}, VM types {}, {memfd}, memory attributes {:#x}, up to {} vCPUs",
            kvm.api_version,
            if types.is_empty() { "unknown".to_owned() } else { types.join(" ") },
            kvm.memory_attributes,
            kvm.max_vcpus
        )
    }
}

fn verdict(f: &mut fmt::Formatter<'_>, name: &str, usable: bool, says: &str) -> fmt::Result {
    writeln!(f, "{name:<9}  {:<3}  {says}", if usable { "yes" } else { "no" })
}

fn findings(f: &mut fmt::Formatter<'_>, findings: &[Finding]) -> fmt::Result {
    for Finding { reason, remedy, .. } in findings {
        match remedy {
            Some(remedy) => writeln!(f, "           - {reason} -> {remedy}")?,
            None => writeln!(f, "           - {reason}")?,
        }
    }
    Ok(())
}
