//! `tenure measure`: what a launch will be measured as.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use gmem_kvm::kvm::KvmKernel;
use gmem_kvm::port::{Kernel as _, KernelVm as _, VmType};
use gmem_kvm::probe::DEV_KVM;
use serde::Serialize;
use snp::cpu::CpuModel;
use snp::vmsa::{SevFeatures, Vmm};

use super::{CliError, Deferred};
use crate::config::Guise;
use crate::config::snp::DEFAULT_VCPU_TYPE;
use crate::config::values::{Cmdline, MemorySize, ValueError, VcpuCount};
use crate::exit::ExitCode;
use crate::measure::diff::{Comparison, Setting, Side};
use crate::measure::ours::{OurGuest, TestMode};
use crate::measure::trace::{Source, Trace, TraceError};
use crate::measure::{self, Details, DirectBoot, MeasureError, Prediction, SnpGuest};

/// Most vCPUs Linux can be built for, `KVM_MAX_VCPUS`.
pub(super) const VCPUS_MAX: i64 = 4096;

/// What can be measured.
#[derive(Debug, Subcommand)]
pub enum Measure {
    /// Predicts the launch digest of an SNP guest: MEASUREMENT in its attestation reports
    ///
    /// Without --firmware it is that of what `tenure run --tee snp` launches with the same settings: tenure's own
    /// firmware, which is told what the machine has and the SHA-256 of kernel, RAM disk and command line, all measured.
    #[command(after_long_help = super::help(
        "tenure measure snp --kernel bzImage --initrd initrd.img --memory 2G --vcpus 2\n\
         tenure measure snp --firmware OVMF.amdsev.fd --vcpus 4 --vcpu-type EPYC-Milan\n\
         tenure measure snp --firmware OVMF.amdsev.fd --kernel bzImage --initrd initrd.img --cmdline 'console=ttyS0' --vcpus 1,2,4\n\
         tenure measure snp --firmware OVMF.amdsev.fd --trace | less"
    ))]
    Snp(Deferred<MeasureSnpArgs>),

    /// Predicts what a test's root says of a guest in test mode (`tenure run --tee sw --test-root`)
    ///
    /// No hardware measures such a guest, and nobody but a test's root signs for it. The digest is made as SNP's is, of
    /// what the guest's first code believes: what it is told of the machine, the SHA-256 of kernel, RAM disk and command
    /// line, itself, and the registers it starts with. It depends on the frequency of the host's TSC, which is told to
    /// the guest: KVM is asked for it, unless --tsc-khz says it.
    #[command(after_long_help = super::help(
        "tenure measure sw --kernel bzImage --initrd initrd.img --memory 2G --vcpus 2\n\
         tenure measure sw --kernel bzImage --initrd initrd.img --tsc-khz 2596100 --trace --json > expected.json"
    ))]
    Sw(Deferred<MeasureSwArgs>),

    /// Finds the page at which two predictions part
    ///
    /// Both are what `tenure measure snp --trace --json` writes. Says how many pages are the same, what both have after
    /// them, what kind of difference that is, and which settings differ; with tenure's own firmware also whether
    /// kernel, RAM disk or command line do. The exit code is 0 if they are the same launch, and 10 if not.
    #[command(after_long_help = super::help(
        "tenure measure snp --firmware OVMF.amdsev.fd --trace --json > expected.json\n\
         tenure measure snp --firmware OVMF.fd --vmm ec2 --trace --json | tenure measure diff expected.json -"
    ))]
    Diff(Deferred<MeasureDiffArgs>),
}

/// Arguments of `tenure measure snp`.
#[derive(Debug, Args)]
pub struct MeasureSnpArgs {
    /// The firmware: an OVMF image that is built for SEV; without one, tenure's own, as `tenure run` launches it
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,

    /// A kernel that is started directly; an OVMF image must know where its hashes are
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// The kernel's initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,

    /// The kernel's command line [default: as for `tenure run`; with OVMF, none]
    ///
    /// To tenure's own firmware, what the platform needs besides (noapic) is given in front of it, as in a run. Without
    /// a kernel it holds options of that firmware's self-test.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub cmdline: Option<String>,

    /// The guest's RAM, as for `tenure run`; only of a guest without OVMF [default: 512M]
    ///
    /// It is part of what tenure's own firmware is told, and measured with that. OVMF asks its host, and its digest
    /// says nothing about RAM: so that nobody counts on it, the two cannot be given together.
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory: Option<MemorySize>,

    /// Numbers of vCPUs, 1 to 4096 each, to 255 without OVMF; there is a digest for each
    #[arg(long, value_name = "N,N…", default_value = "1", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=VCPUS_MAX))]
    pub vcpus: Vec<u32>,

    /// The processor that the guest is shown, as QEMU names it: EPYC, EPYC-Rome, EPYC-Milan, EPYC-Genoa, EPYC-Turin, each
    /// also with a version
    #[arg(long, value_name = "TYPE", default_value_t = DEFAULT_VCPU_TYPE)]
    pub vcpu_type: CpuModel,

    /// Who launches the guest
    #[arg(long, value_enum, default_value_t = MeasureVmm::Tenure)]
    pub vmm: MeasureVmm,

    /// SEV_FEATURES of the guest, in hexadecimal: 0x1 is SNP and nothing more, 0x21 has DebugSwap, the default of Linux 6.9
    /// and 6.10
    #[arg(long, value_name = "BITS", default_value = "0x1", value_parser = features)]
    pub guest_features: SevFeatures,

    /// Shows every page and the digest after it
    #[arg(long)]
    pub trace: bool,

    /// Prints everything as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `tenure measure sw`.
#[derive(Debug, Args)]
pub struct MeasureSwArgs {
    /// A kernel for the firmware to start; without one it runs its self-test
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// The kernel's initial RAM disk
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,

    /// The kernel's command line, or the self-test's options [default: as for `tenure run`]
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub cmdline: Option<String>,

    /// The guest's RAM, as for `tenure run` [default: 512M]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory: Option<MemorySize>,

    /// Numbers of vCPUs, 1 to 255 each; there is a digest for each
    #[arg(long, value_name = "N,N…", default_value = "1", value_delimiter = ',',
        value_parser = clap::value_parser!(u32).range(1..=VCPUS_MAX))]
    pub vcpus: Vec<u32>,

    /// What the guest is told to be, as for `tenure run`: the platform's part of the command line depends on it
    #[arg(long, value_name = "GUISE")]
    pub guise: Option<Guise>,

    /// Frequency of the guest's TSC in kHz [default: this host's, as KVM says it]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub tsc_khz: Option<u32>,

    /// Shows every page and the digest after it
    #[arg(long)]
    pub trace: bool,

    /// Prints everything as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `tenure measure diff`.
#[derive(Debug, Args)]
pub struct MeasureDiffArgs {
    /// A prediction with its trace; - is standard input
    #[arg(value_name = "A")]
    pub a: PathBuf,

    /// Another; - is standard input
    #[arg(value_name = "B")]
    pub b: PathBuf,

    /// Prints everything as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,
}

/// VMMs, which differ in what they add in which order and in the vCPUs' first registers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum MeasureVmm {
    /// tenure: its own firmware, or OVMF as QEMU launches it
    Tenure,
    /// QEMU, on Linux' KVM
    Qemu,
    /// Amazon EC2
    Ec2,
    /// Google Compute Engine
    Gce,
}

fn features(text: &str) -> Result<SevFeatures, String> {
    let digits = text.strip_prefix("0x").unwrap_or(text);
    let bits =
        u64::from_str_radix(digits, 16).map_err(|_| "not a hexadecimal number of 64 bits, like 0x1".to_owned())?;
    if bits & SevFeatures::SNP.0 == 0 {
        return Err("bit 0 must be set: without it the guest is no SNP guest".to_owned());
    }
    Ok(SevFeatures(bits))
}

pub(super) fn measure(what: Measure) -> Result<ExitCode, CliError> {
    match what {
        Measure::Snp(args) => {
            let in_json = args.json;
            print(&predict(args.into_inner())?, in_json)
        }
        Measure::Sw(args) => {
            let in_json = args.json;
            print(&sw(args.into_inner())?, in_json)
        }
        Measure::Diff(args) => diff(&args),
    }
}

fn print(prediction: &Prediction, in_json: bool) -> Result<ExitCode, CliError> {
    let text = if in_json { json(prediction)? } else { in_words(prediction) };
    io::stdout().write_all(text.as_bytes()).map_err(CliError::Output)?;
    Ok(ExitCode::Success)
}

fn predict(args: MeasureSnpArgs) -> Result<Prediction, MeasureError> {
    let details = Details { sha256: args.json, pages: args.trace };
    let vmm = match args.vmm {
        MeasureVmm::Tenure | MeasureVmm::Qemu => Vmm::Qemu,
        MeasureVmm::Ec2 => Vmm::Ec2,
        MeasureVmm::Gce => Vmm::Gce,
    };
    match args.firmware.clone() {
        Some(firmware) => ovmf(args, firmware, vmm, details),
        None if args.vmm == MeasureVmm::Tenure => ours(args, details),
        None => Err(MeasureError::NeedsFirmware(measure::name_of(vmm))),
    }
}

fn ours(args: MeasureSnpArgs, details: Details) -> Result<Prediction, MeasureError> {
    if args.guest_features != SevFeatures::SNP {
        return Err(MeasureError::FeaturesOfOurs(args.guest_features.0));
    }
    let guest = OurGuest {
        kernel: args.kernel,
        initrd: args.initrd,
        cmdline: args.cmdline.map(Cmdline::try_from).transpose()?,
        memory: args.memory,
    };
    measure::ours::snp(guest, Some(args.vcpu_type), &counts(&args.vcpus)?, details)
}

fn sw(args: MeasureSwArgs) -> Result<Prediction, MeasureError> {
    let details = Details { sha256: args.json, pages: args.trace };
    let guest = OurGuest {
        kernel: args.kernel,
        initrd: args.initrd,
        cmdline: args.cmdline.map(Cmdline::try_from).transpose()?,
        memory: args.memory,
    };
    let tsc_khz = args.tsc_khz.map_or_else(host_tsc_khz, Ok)?;
    measure::ours::sw(guest, TestMode { tsc_khz, guise: args.guise }, &counts(&args.vcpus)?, details)
}

fn counts(vcpus: &[u32]) -> Result<Vec<VcpuCount>, ValueError> {
    vcpus.iter().map(|&vcpus| i64::from(vcpus).try_into()).collect()
}

/// What a guest on this host would be told.
fn host_tsc_khz() -> Result<u32, MeasureError> {
    let unknown = |error: &dyn std::error::Error| MeasureError::TscUnknown(error.to_string());
    let kernel = KvmKernel::open(Path::new(DEV_KVM)).map_err(|error| unknown(&error))?;
    let vm = kernel.create_vm(VmType::Default).map_err(|error| unknown(&error))?;
    vm.tsc_khz().map_err(|error| unknown(&error))
}

fn ovmf(args: MeasureSnpArgs, firmware: PathBuf, vmm: Vmm, details: Details) -> Result<Prediction, MeasureError> {
    if args.memory.is_some() {
        return Err(MeasureError::MemoryOfOvmf);
    }
    if args.cmdline.is_some() && args.kernel.is_none() {
        return Err(MeasureError::CmdlineOfOvmf);
    }
    let boot =
        args.kernel.map(|kernel| DirectBoot { kernel, initrd: args.initrd, cmdline: args.cmdline.unwrap_or_default() });
    let guest = SnpGuest { firmware, boot, vmm, cpu: args.vcpu_type, features: args.guest_features };
    measure::snp(&guest, &args.vcpus, details)
}

fn diff(args: &MeasureDiffArgs) -> Result<ExitCode, CliError> {
    let [a, b] = [&args.a, &args.b].map(|path| Source::named(path));
    if a == Source::StandardInput && b == Source::StandardInput {
        return Err(MeasureError::from(TraceError::BothStandardInput).into());
    }
    let read = |source| Trace::read(source).map_err(MeasureError::from);
    let found = measure::diff::diff(&read(&a)?, &read(&b)?);
    let text = if args.json { json(&found)? } else { difference_in_words(&found) };
    io::stdout().write_all(text.as_bytes()).map_err(CliError::Output)?;
    Ok(if found.difference.is_none() { ExitCode::Success } else { ExitCode::Findings })
}

fn json(value: &impl Serialize) -> Result<String, CliError> {
    Ok(serde_json::to_string_pretty(value).map_err(|error| CliError::Output(error.into()))? + "\n")
}

/// What is equal, then what is not: of each side the page, or how it ends.
fn difference_in_words(found: &Comparison) -> String {
    let pages = |count| if count == 1 { "1 page".to_owned() } else { format!("{count} pages") };
    let Some(kind) = found.difference else {
        return format!("the same launch: {} in the same order\n", pages(found.equal_pages));
    };
    let mut text = format!("{} the same, {}\n", pages(found.equal_pages), kind.in_words());
    for (name, side) in [("A", &found.a), ("B", &found.b)] {
        let Side { pages: count, vcpus, next } = side;
        let _ = match next {
            Some(page) => {
                let measure::Page { gpa, page_type, label, contents, .. } = page;
                let contents = if contents.bytes().all(|digit| digit == b'0') { "not measured" } else { contents };
                writeln!(text, "{name}  {gpa}  {page_type:<10}  {label}\n   contents {contents}")
            }
            None => writeln!(text, "{name}  ends: {}, {vcpus} of them vCPUs", pages(*count)),
        };
    }
    for Setting { name, a, b } in &found.settings {
        let _ = writeln!(text, "{name}: {a} in A, {b} in B");
    }
    text
}

/// Pages if there are any, then the digest; with several numbers of vCPUs, each in front of its own.
fn in_words(prediction: &Prediction) -> String {
    let mut text = String::new();
    for page in prediction.pages.iter().flatten() {
        let contents = page.contents.get(..16).unwrap_or_default();
        let _ =
            writeln!(text, "{}  {:<10}  {contents}…  {}  {}", page.gpa, page.page_type, page.launch_digest, page.label);
    }
    match prediction.digests.as_slice() {
        [one] => text.extend([one.launch_digest.as_str(), "\n"]),
        several => {
            for digest in several {
                let _ = writeln!(text, "{:>4}  {}", digest.vcpus, digest.launch_digest);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// no-silent-trust: what cannot be an SNP guest's features is refused.
    #[test]
    fn no_silent_trust_features() {
        assert_eq!(features("0x21"), Ok(SevFeatures(0x21)));
        assert_eq!(features("1"), Ok(SevFeatures::SNP));
        assert!(features("0x20").unwrap_err().contains("bit 0"));
        for text in ["", "0x", "0xg", "-1", "0x10000000000000000"] {
            assert!(features(text).unwrap_err().contains("hexadecimal"), "{text}");
        }
    }
}
