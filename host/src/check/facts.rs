//! What can be seen of a host.
//!
//! Owns looking: `/proc`, `/sys`, `/boot`, the device nodes, and KVM itself and SNP's firmware through
//! `gmem_kvm::probe`. Read-only: nothing is created, loaded or changed. What cannot be read is simply not known; what follows from it is decided
//! elsewhere.
//!
//! Specification: `proc_cpuinfo(5)`; module parameters as in Linux 7.2 `arch/x86/kvm/{x86,svm/svm,svm/sev,vmx/vmx}.c`;
//! AMD APM volume 3, CPUID Fn8000_001F; Linux `Documentation/admin-guide/cgroup-v2.rst`, "Misc".

use gmem_kvm::probe::{self, KvmFacts, ProbeError, PspError};
use snp::platform::PlatformStatus;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Everything a [report](super::report) is made from.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// The running kernel.
    pub kernel: KernelFacts,
    /// The first CPU; all are alike.
    pub cpu: CpuFacts,
    /// KVM.
    pub kvm: KvmAccess,
    /// The node KVM is reached by.
    pub dev_kvm: Option<DeviceNode>,
    /// The node the AMD secure processor is reached by.
    pub dev_sev: DeviceAccess,
    /// What SNP's firmware says, or why it says nothing; none if it could not be asked.
    pub snp_status: Option<Result<PlatformStatus, String>>,
    /// What the CPU itself says of SEV, whatever the kernel makes of it.
    pub sev_cpuid: Option<SevCpuid>,
    /// ASIDs as control groups count them.
    pub asids: AsidUse,
    /// Modules of KVM that are loaded or built in, with their parameters.
    pub modules: BTreeMap<String, Parameters>,
    /// IOMMUs in use.
    pub iommus: Vec<String>,
    /// What the firmware shows of TDX, if anything.
    pub tdx_firmware: Vec<String>,
    /// The kind of container this is, if one was recognised.
    pub container: Option<String>,
    /// The user asking.
    pub uid: u32,
}

/// Parameters of a kernel module, as the kernel writes them.
pub type Parameters = BTreeMap<String, String>;

/// The running kernel.
#[derive(Debug, Clone, Default)]
pub struct KernelFacts {
    /// As in `uname -r`.
    pub release: String,
    /// Its command line.
    pub cmdline: String,
    /// `CONFIG_KVM_SW_PROTECTED_VM`, where its configuration could be read.
    pub sw_protected_vm: Option<bool>,
}

/// A CPU.
#[derive(Debug, Clone, Default)]
pub struct CpuFacts {
    /// As CPUID spells it: `AuthenticAMD`, `GenuineIntel`, …
    pub vendor: String,
    /// For people.
    pub model: String,
    /// Its family, by CPUID.
    pub family: u32,
    /// Its model's number, by CPUID.
    pub model_number: u32,
    /// Linux's names of its features, those of VMX included.
    pub flags: BTreeSet<String>,
}

/// What a CPU says of SEV: CPUID Fn8000_001F.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SevCpuid {
    /// It does SNP.
    pub snp: bool,
    /// Highest ASID that an encrypted guest can have; the lowest is 1.
    pub last_asid: u32,
    /// Lowest ASID of guests with SEV alone; those below are for SEV-ES and SNP.
    pub first_sev_asid: u32,
}

/// ASIDs by the control groups' names of them: `sev`, and `sev_es` for SEV-ES and SNP together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AsidUse {
    /// How many there are.
    pub capacity: BTreeMap<String, u64>,
    /// How many guests have.
    pub current: BTreeMap<String, u64>,
}

/// Whether KVM answers.
#[derive(Debug, Clone, Default)]
pub enum KvmAccess {
    /// It does.
    Usable(KvmFacts),
    /// There is no node.
    #[default]
    Absent,
    /// There is a node without driver.
    NoDriver,
    /// This user may not open it.
    Forbidden,
    /// Something else is wrong.
    Broken(String),
}

/// Whether a device can be opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum DeviceAccess {
    /// It can.
    Usable,
    /// There is no such node.
    #[default]
    Absent,
    /// This user may not.
    Forbidden,
}

/// Who may open a device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceNode {
    /// Permission bits.
    pub mode: u32,
    /// Its group's name or number.
    pub group: String,
}

impl CpuFacts {
    /// Looks at the host whose file system begins at `root`, usually `/`.
    pub fn gather(root: &Path) -> Self {
        cpu(&read(&root.join("proc/cpuinfo")))
    }

    /// Whether the CPU has this feature.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.contains(flag)
    }
}

impl Facts {
    /// What a module's parameter says, if there is such a thing: boolean parameters read as `Y` or `N`, old ones as
    /// numbers.
    pub fn parameter(&self, module: &str, name: &str) -> Option<bool> {
        match self.modules.get(module)?.get(name)?.as_str() {
            "Y" | "y" => Some(true),
            "N" | "n" => Some(false),
            number => number.parse::<i64>().ok().map(|number| number > 0),
        }
    }

    /// Looks at the host whose file system begins at `root`, usually `/`.
    pub fn gather(root: &Path) -> Self {
        let release = read(&root.join("proc/sys/kernel/osrelease")).trim().to_owned();
        let config = read(&root.join("boot").join(format!("config-{release}")));
        let dev_kvm = root.join("dev/kvm");
        let dev_sev = root.join("dev/sev");
        Self {
            kernel: KernelFacts {
                sw_protected_vm: (!config.is_empty())
                    .then(|| config.lines().any(|line| line == "CONFIG_KVM_SW_PROTECTED_VM=y")),
                cmdline: read(&root.join("proc/cmdline")).trim().to_owned(),
                release,
            },
            cpu: CpuFacts::gather(root),
            kvm: kvm(&dev_kvm),
            dev_kvm: node(&dev_kvm, &read(&root.join("etc/group"))),
            dev_sev: access(&dev_sev),
            snp_status: snp_status(&dev_sev),
            sev_cpuid: if root == Path::new("/") { sev_cpuid() } else { None },
            asids: asids(&root.join("sys/fs/cgroup")),
            modules: ["kvm", "kvm_amd", "kvm_intel", "kvm_pvm"]
                .into_iter()
                .filter_map(|name| Some((name.to_owned(), module(&root.join("sys/module").join(name))?)))
                .collect(),
            iommus: names(&root.join("sys/class/iommu")),
            tdx_firmware: names(&root.join("sys/firmware"))
                .into_iter()
                .filter(|name| name.starts_with("tdx"))
                .collect(),
            container: container(root),
            uid: rustix::process::getuid().as_raw(),
        }
    }
}

/// How many guests with keys of their own there are, as two parties count; who does not say is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GuestCounts {
    /// ASIDs that SEV-ES and SNP guests have: `misc.current` of the root control group.
    pub asids_in_use: Option<u64>,
    /// Guests that SNP's firmware has contexts of.
    pub firmware_guests: Option<u32>,
}

impl GuestCounts {
    /// Looks at the host whose file system begins at `root`, usually `/`, and at nothing else of it.
    pub fn gather(root: &Path) -> Self {
        let status = snp_status(&root.join("dev/sev")).and_then(Result::ok);
        Self {
            asids_in_use: asids(&root.join("sys/fs/cgroup")).current.get("sev_es").copied(),
            firmware_guests: status.map(|status| status.guests),
        }
    }
}

/// The text of a file, or nothing. No file of interest is anywhere near as long as the limit.
fn read(path: &Path) -> String {
    let mut bytes = Vec::new();
    match fs::File::open(path).and_then(|file| file.take(4 << 20).read_to_end(&mut bytes)) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn cpu(cpuinfo: &str) -> CpuFacts {
    let first = cpuinfo.split("\n\n").next().unwrap_or("");
    let mut cpu = CpuFacts::default();
    for (key, value) in first.lines().filter_map(|line| line.split_once(':')) {
        match key.trim() {
            "vendor_id" => cpu.vendor = value.trim().to_owned(),
            "model name" => cpu.model = value.trim().to_owned(),
            "cpu family" => cpu.family = value.trim().parse().unwrap_or(0),
            "model" => cpu.model_number = value.trim().parse().unwrap_or(0),
            "flags" | "vmx flags" => cpu.flags.extend(value.split_whitespace().map(str::to_owned)),
            _ => {}
        }
    }
    cpu
}

fn kvm(path: &Path) -> KvmAccess {
    match probe::probe(path) {
        Ok(facts) => KvmAccess::Usable(facts),
        Err(ProbeError::Absent { .. }) => KvmAccess::Absent,
        Err(ProbeError::NoDriver { .. }) => KvmAccess::NoDriver,
        Err(ProbeError::Forbidden { .. }) => KvmAccess::Forbidden,
        Err(error @ (ProbeError::Open { .. } | ProbeError::NotKvm { .. })) => KvmAccess::Broken(error.to_string()),
    }
}

fn node(path: &Path, groups: &str) -> Option<DeviceNode> {
    let metadata = fs::metadata(path).ok()?;
    let gid = metadata.gid().to_string();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == gid).then(|| name.to_owned())
    });
    Some(DeviceNode { mode: metadata.mode() & 0o777, group: name.unwrap_or(gid) })
}

fn access(path: &Path) -> DeviceAccess {
    match fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => DeviceAccess::Usable,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => DeviceAccess::Forbidden,
        Err(_) => DeviceAccess::Absent,
    }
}

/// Asks only what can be opened: that it cannot be is known already.
fn snp_status(path: &Path) -> Option<Result<PlatformStatus, String>> {
    match probe::snp_status(path) {
        Ok(bytes) => Some(Ok(PlatformStatus::from_bytes(&bytes))),
        Err(PspError::System { source, .. })
            if matches!(source.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied) =>
        {
            None
        }
        Err(error) => Some(Err(error.to_string())),
    }
}

/// An instruction, not a file: it is about the machine we run on. None if it is of another vendor, or does not say.
fn sev_cpuid() -> Option<SevCpuid> {
    const EXTENDED: u32 = 0x8000_0000;
    const SEV: u32 = 0x8000_001f;
    use std::arch::x86_64::__cpuid;
    let vendor = __cpuid(0);
    let amd = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"AuthenticAMD";
    if !amd || __cpuid(EXTENDED).eax < SEV {
        return None;
    }
    let leaf = __cpuid(SEV);
    Some(SevCpuid { snp: leaf.eax >> 4 & 1 != 0, last_asid: leaf.ecx, first_sev_asid: leaf.edx })
}

/// The root group has the counts of the whole host. Its place depends on how control groups are set up.
fn asids(groups: &Path) -> AsidUse {
    let counts = |path: &Path| -> BTreeMap<String, u64> {
        let text = read(path);
        let pairs = text.lines().filter_map(|line| line.split_once(' '));
        pairs.filter_map(|(name, count)| Some((name.to_owned(), count.trim().parse().ok()?))).collect()
    };
    let places = ["", "unified", "misc"].map(|place| groups.join(place));
    let place = places.iter().find(|place| place.join("misc.capacity").exists());
    place.map_or_else(AsidUse::default, |place| AsidUse {
        capacity: counts(&place.join("misc.capacity")),
        current: counts(&place.join("misc.current")),
    })
}

/// A module's parameters, if it is there. One that is built in without parameters cannot be told from a missing one.
fn module(path: &Path) -> Option<Parameters> {
    if !path.is_dir() {
        return None;
    }
    let parameters = path.join("parameters");
    let values = names(&parameters).into_iter().map(|name| {
        let value = read(&parameters.join(&name)).trim().to_owned();
        (name, value)
    });
    Some(values.collect())
}

fn container(root: &Path) -> Option<String> {
    let named = read(&root.join("run/systemd/container")).trim().to_owned();
    if !named.is_empty() {
        return Some(named);
    }
    let marks = [(".dockerenv", "docker"), ("run/.containerenv", "podman")];
    marks.into_iter().find(|(mark, _)| root.join(mark).exists()).map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(files: &[(&str, &str)]) -> (tempfile::TempDir, Facts) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let facts = Facts::gather(root.path());
        (root, facts)
    }

    #[test]
    fn a_host_is_read() {
        let (_root, facts) = host(&[
            ("proc/sys/kernel/osrelease", "6.12.1\n"),
            ("proc/cmdline", "quiet\n"),
            ("boot/config-6.12.1", "CONFIG_X=y\n# CONFIG_KVM_SW_PROTECTED_VM is not set\n"),
            (
                "proc/cpuinfo",
                "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: Xeon\nflags\t\t: vmx sse\nvmx flags\t: ept\n\n\
                 processor\t: 1\nvendor_id\t: other\n",
            ),
            ("sys/module/kvm_intel/parameters/ept", "Y\n"),
            ("sys/module/kvm_intel/parameters/tdx", "N\n"),
            ("sys/module/kvm_intel/parameters/nested", "0\n"),
            ("sys/class/iommu/dmar0", ""),
            ("run/systemd/container", "lxc\n"),
            ("dev/kvm", "not a device"),
            ("dev/sev", "not a device"),
            ("sys/fs/cgroup/unified/misc.capacity", "sev 410\nsev_es 99\nnonsense\nmore nonsense\n"),
            ("sys/fs/cgroup/unified/misc.current", "sev 0\nsev_es 3\n"),
        ]);
        assert_eq!((facts.kernel.release.as_str(), facts.kernel.cmdline.as_str()), ("6.12.1", "quiet"));
        assert_eq!(facts.kernel.sw_protected_vm, Some(false));
        assert_eq!((facts.cpu.vendor.as_str(), facts.cpu.model.as_str()), ("GenuineIntel", "Xeon"));
        assert!(facts.cpu.has("vmx") && facts.cpu.has("ept") && !facts.cpu.has("svm"));
        let parameters = ["ept", "tdx", "nested", "absent"].map(|name| facts.parameter("kvm_intel", name));
        assert_eq!(parameters, [Some(true), Some(false), Some(false), None]);
        assert!(facts.modules.contains_key("kvm_intel") && !facts.modules.contains_key("kvm_amd"));
        assert_eq!((facts.iommus.len(), facts.container.as_deref()), (1, Some("lxc")));
        assert!(matches!(&facts.kvm, KvmAccess::Broken(why) if why.contains("is not KVM")), "{:?}", facts.kvm);
        assert!(facts.dev_kvm.is_some());
        assert_eq!((facts.cpu.family, facts.cpu.model_number), (6, 207));
        assert!(matches!(&facts.snp_status, Some(Err(why)) if why.starts_with("SNP_PLATFORM_STATUS of ")));
        let count = |counts: &BTreeMap<String, u64>| {
            counts.iter().map(|(name, count)| format!("{name} {count}")).collect::<Vec<_>>()
        };
        assert_eq!(count(&facts.asids.capacity), ["sev 410", "sev_es 99"]);
        assert_eq!(count(&facts.asids.current), ["sev 0", "sev_es 3"]);
    }

    /// no-silent-trust: nothing is taken for granted of a host that shows nothing.
    #[test]
    fn no_silent_trust_an_empty_host() {
        let (_root, facts) = host(&[]);
        assert!(matches!(facts.kvm, KvmAccess::Absent));
        assert_eq!(facts.dev_sev, DeviceAccess::Absent);
        assert_eq!((facts.snp_status, facts.sev_cpuid, facts.asids), (None, None, AsidUse::default()));
        assert_eq!(facts.kernel.sw_protected_vm, None);
        assert!(facts.modules.is_empty() && facts.cpu.flags.is_empty() && facts.container.is_none());
    }
}
