//! What a launch will be measured as, before there is one.
//!
//! Owns reading an OVMF guest's files and putting the prediction together; `snp` knows how an SNP launch is measured.
//! [`ours`] predicts what `tenure run` launches, [`told`] reads what its firmware is told, [`trace`] reads a prediction back, [`diff`] finds where two of them
//! part.

pub mod diff;
pub mod ours;
pub mod told;
pub mod trace;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use snp::cpu::CpuModel;
use snp::hashes::KernelHashes;
use snp::hex;
use snp::measure::{Measured, Step, regions};
use snp::ovmf::{MAX_IMAGE, Ovmf, OvmfError};
use snp::vmsa::{Role, SevFeatures, Vmm, Vmsa};

use crate::config::ConfigError;
use crate::config::inputs::{Input, InputError};
use crate::config::values::ValueError;
use crate::run::RunError;

/// A guest that is to be launched under SNP with a firmware that several VMMs can launch.
#[derive(Debug, Clone)]
pub struct SnpGuest {
    /// OVMF, built for SEV.
    pub firmware: PathBuf,
    /// What is started directly, if anything.
    pub boot: Option<DirectBoot>,
    /// Who launches it.
    pub vmm: Vmm,
    /// Its processor.
    pub cpu: CpuModel,
    /// What of SEV it has.
    pub features: SevFeatures,
}

/// A kernel that the firmware is given to start.
#[derive(Debug, Clone)]
pub struct DirectBoot {
    /// The kernel.
    pub kernel: PathBuf,
    /// Its RAM disk.
    pub initrd: Option<PathBuf>,
    /// Its command line.
    pub cmdline: String,
}

/// Launch digests, and what they are of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Prediction {
    /// Who launches it.
    pub vmm: &'static str,
    /// `tenure` if the firmware is ours; there is no such key for others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<&'static str>,
    /// RAM, if it is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Frequency of the TSC, if it is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tsc_khz: Option<u32>,
    /// Its processor, if it is measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpu_type: Option<String>,
    /// `SEV_FEATURES`, in hexadecimal, of an SNP guest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guest_features: Option<String>,
    /// SHA-256 of the firmware's image, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware_sha256: Option<String>,
    /// What the firmware copies from shared memory and knows by what was measured of it: if it does, and if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pieces: Option<Vec<Piece>>,
    /// One for each number of vCPUs.
    pub digests: Vec<DigestFor>,
    /// The page of them with what our firmware is told, in hexadecimal, without the zeros it ends in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameters: Option<String>,
    /// Every page with the digest after it, if asked for, with the largest number of vCPUs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pages: Option<Vec<Page>>,
}

/// A launch digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DigestFor {
    /// With so many vCPUs.
    pub vcpus: u32,
    /// 96 hexadecimal digits.
    pub launch_digest: String,
}

/// Something that is not measured itself: its SHA-256 is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// What it is.
    pub label: String,
    /// Where it goes.
    pub gpa: String,
    /// How long it is.
    pub bytes: usize,
    /// 64 hexadecimal digits.
    pub sha256: String,
}

/// A page that is given to the PSP.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Page {
    /// Where.
    pub gpa: String,
    /// As what.
    pub page_type: String,
    /// What it belongs to.
    pub label: String,
    /// SHA-384 of its contents, or zeros where they do not count.
    pub contents: String,
    /// The launch digest after it.
    pub launch_digest: String,
}

/// Why nothing can be predicted.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// A file.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The firmware.
    #[error("firmware `{}`: {source}", path.display())]
    Firmware {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: OvmfError,
    },
    /// The launch.
    #[error(transparent)]
    Launch(#[from] snp::measure::MeasureError),
    /// A guest of `tenure run`, by its settings.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// One of these settings.
    #[error(transparent)]
    Value(#[from] ValueError),
    /// A guest of `tenure run`, by what is in its files.
    #[error(transparent)]
    Run(#[from] Box<RunError>),
    /// Our firmware somewhere else.
    #[error("vmm {0} needs a firmware, an OVMF image: tenure's own firmware is launched by tenure only")]
    NeedsFirmware(&'static str),
    /// How fast the guest's TSC would be.
    #[error("tsc-khz must be given where KVM cannot be asked: {0}")]
    TscUnknown(String),
    /// What `tenure run` would not do.
    #[error("guest-features is {0:#x}, but tenure launches its own firmware with 0x1 only")]
    FeaturesOfOurs(u64),
    /// A digest that was to say what it cannot say.
    #[error("memory is no part of an OVMF guest's measurement: leave it out, the digest is the same for every size")]
    MemoryOfOvmf,
    /// Nobody would get it.
    #[error("cmdline is given, but no kernel: OVMF would not get to see it")]
    CmdlineOfOvmf,
    /// A prediction that was to be read back.
    #[error(transparent)]
    Trace(#[from] trace::TraceError),
}

/// What to say besides the digests. It takes longer than they do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Details {
    /// SHA-256 of the firmware, and of what it copies.
    pub sha256: bool,
    /// Every page.
    pub pages: bool,
}

/// The digests of an OVMF `guest` with each of these numbers of vCPUs.
pub fn snp(guest: &SnpGuest, vcpus: &[u32], details: Details) -> Result<Prediction, MeasureError> {
    let ovmf = ovmf(&guest.firmware)?;
    let hashes = guest.boot.as_ref().map(hashes).transpose()?;
    let regions = regions(&ovmf, guest.vmm, hashes.as_ref())?;
    let vmsa = |role| Vmsa::at_reset(guest.vmm, guest.cpu, guest.features, role);
    let mut pages = Vec::new();
    let mut note = |step: &Step<'_>| {
        if details.pages {
            pages.push(Page::from(step));
        }
    };
    let application = vmsa(Role::Application { eip: ovmf.ap_eip });
    let measured = Measured::new(&regions, &vmsa(Role::Boot), &application, &mut note);
    let mut digests = Vec::new();
    for &vcpus in vcpus {
        let launch_digest = measured.digest(vcpus, |_| {})?.to_string();
        digests.push(DigestFor { vcpus, launch_digest });
    }
    if let Some(most) = vcpus.iter().copied().max().filter(|_| details.pages) {
        measured.digest(most, &mut note)?;
    }
    Ok(Prediction {
        vmm: name_of(guest.vmm),
        firmware: None,
        memory_bytes: None,
        tsc_khz: None,
        vcpu_type: Some(guest.cpu.to_string()),
        guest_features: Some(format!("{:#x}", guest.features.0)),
        firmware_sha256: details.sha256.then(|| hex::text(&Sha256::digest(ovmf.image.bytes()))),
        pieces: None,
        parameters: None,
        digests,
        pages: details.pages.then_some(pages),
    })
}

/// What a prediction calls who launches a guest.
pub fn name_of(vmm: Vmm) -> &'static str {
    match vmm {
        Vmm::Qemu => "qemu",
        Vmm::Ec2 => "ec2",
        Vmm::Gce => "gce",
    }
}

impl From<&Step<'_>> for Page {
    fn from(step: &Step<'_>) -> Self {
        Self {
            gpa: format!("{:#014x}", step.gpa.0),
            page_type: step.page_type.to_string(),
            label: step.label.to_owned(),
            contents: step.contents.to_string(),
            launch_digest: step.digest.to_string(),
        }
    }
}

/// Reads an OVMF image.
pub fn ovmf(path: &Path) -> Result<Ovmf, MeasureError> {
    Ovmf::parse(firmware(path)?).map_err(|source| MeasureError::Firmware { path: path.to_owned(), source })
}

/// The image's bytes; of one that is too large, enough to see that it is.
fn firmware(path: &Path) -> Result<Vec<u8>, MeasureError> {
    let input = Input::open("firmware", path)?;
    let most = MAX_IMAGE as u64 + 1;
    let mut image = Vec::with_capacity(usize::try_from(input.len.min(most)).unwrap_or(0));
    input.file.take(most).read_to_end(&mut image).map_err(|source| unreadable("firmware", path, source))?;
    Ok(image)
}

fn hashes(boot: &DirectBoot) -> Result<KernelHashes, MeasureError> {
    let sum = |what, path: &Path| -> Result<[u8; 32], MeasureError> {
        let Input { file, .. } = Input::open(what, path)?;
        sha256(file).map_err(|source| unreadable(what, path, source))
    };
    let kernel = sum("kernel", &boot.kernel)?;
    let initrd = match &boot.initrd {
        Some(path) => sum("initrd", path)?,
        None => Sha256::digest([]).into(),
    };
    Ok(KernelHashes::of_sums(kernel, initrd, &boot.cmdline))
}

fn unreadable(what: &'static str, path: &Path, source: io::Error) -> MeasureError {
    InputError::Read { what, path: path.to_owned(), source }.into()
}

fn sha256(mut file: File) -> io::Result<[u8; 32]> {
    let (mut hash, mut piece) = (Sha256::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut piece)? {
            0 => return Ok(hash.finalize().into()),
            count => hash.update(&piece[..count]),
        }
    }
}
