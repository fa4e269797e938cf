//! What `tenure measure snp` says of a guest whose firmware is ours, and what a run with the same arguments is measured
//! as.

use std::fs;
use std::path::Path;
use std::process::Command;

use clap::Parser as _;
use guest_fw::bzimage::{SETUP_HEADER_OFFSET, SetupHeader};
use serde_json::Value;
use silicon_kvm::script::Step;
use snp::digest::Digest;
use tempfile::TempDir;
use tenure::cli::{self, Cli};
use tenure::config::snp::IdBlockCheck;
use tenure::report::GuestOutcome;
use zerocopy::{FromZeros as _, IntoBytes as _};

use crate::bed::{Bed, NOT_BUILT, Ran, predicted, report};

const ID_KEY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/snp/idblock/id_key_test.pem");

/// What `tenure` says to this command line, which is right.
pub(crate) fn tenure(words: &[&str]) -> Vec<u8> {
    let output = Command::new(env!("CARGO_BIN_EXE_tenure")).args(words).output().unwrap();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// A run with these arguments, as its command line has them.
pub(crate) fn run_with(words: &[&str]) -> Bed {
    let cli = Cli::try_parse_from([&["tenure", "run", "--tee", "snp"], words].concat()).unwrap();
    let cli::Command::Run(args) = cli.command else { panic!("{words:?}") };
    let bed = Bed::with(args.into_inner().settings);
    bed.script(0, [report(0, None), Step::Terminate(NOT_BUILT)]);
    bed
}

/// The least that is accepted as a kernel, and a RAM disk.
pub(crate) fn linux(dir: &Path) -> [String; 2] {
    const SECTORS: u8 = 4;
    let mut header = SetupHeader::new_zeroed();
    header.setup_sects = SECTORS;
    header.boot_flag = 0xaa55.into();
    // What it jumps over is the rest of the header.
    header.jump = [0xeb, 0x6a];
    header.header = u32::from_le_bytes(*b"HdrS").into();
    header.version = 0x020f.into();
    header.loadflags = 1;
    header.xloadflags = 3.into();
    header.initrd_addr_max = 0x7fff_ffff.into();
    header.kernel_alignment = 0x20_0000.into();
    header.relocatable_kernel = 1;
    header.cmdline_size = 2047.into();
    header.pref_address = (16u64 << 20).into();
    header.init_size = (1u32 << 20).into();
    let payload = vec![0x90; 3 * 4096];
    header.syssize = u32::try_from(payload.len() / 16).unwrap().into();
    let mut kernel = vec![0; (usize::from(SECTORS) + 1) * 512];
    kernel[SETUP_HEADER_OFFSET..][..size_of::<SetupHeader>()].copy_from_slice(header.as_bytes());
    kernel.extend(payload);
    [("bzImage", kernel), ("initrd.img", vec![7; 5000])].map(|(name, bytes)| {
        let path = dir.join(name);
        fs::write(&path, bytes).unwrap();
        path.into_os_string().into_string().unwrap()
    })
}

/// The digests that are told beforehand, each for so many vCPUs.
fn digests(words: &[&str]) -> Vec<(u64, Digest)> {
    let told: Value = serde_json::from_slice(&tenure(&[&["measure", "snp", "--json"], words].concat())).unwrap();
    let digest = |told: &Value| told["launch_digest"].as_str().unwrap().parse().unwrap();
    told["digests"].as_array().unwrap().iter().map(|told| (told["vcpus"].as_u64().unwrap(), digest(told))).collect()
}

/// one-launch: the same arguments have the same digest, in a prediction, in a run and in the guest's own report.
#[test]
fn one_launch_is_predicted_by_command() {
    let dir = TempDir::new().unwrap();
    let [kernel, initrd] = linux(dir.path());
    let mut seen = Vec::new();
    for guest in [
        &["--memory", "16M"][..],
        &["--memory", "64M", "--kernel", &kernel],
        &["--memory", "3G", "--kernel", &kernel, "--initrd", &initrd, "--cmdline", "-q x=\"1 2\""],
        &["--memory", "16M", "--cmdline", "quick", "--vcpu-type", "EPYC-Genoa"],
    ] {
        let told = digests(&[guest, &["--vcpus", "1,2,64"]].concat());
        assert_eq!(told.iter().map(|(vcpus, _)| *vcpus).collect::<Vec<_>>(), [1, 2, 64]);
        for (vcpus, digest) in told {
            let bed = run_with(&[guest, &["--vcpus", &vcpus.to_string()]].concat());
            let Ran { report, events } = bed.run();
            assert!(matches!(report.outcome, GuestOutcome::Terminated { set: 0xf, .. }), "{:?}", report.outcome);
            assert_eq!((predicted(&events), bed.measured()), (digest, vec![digest]), "{guest:?} {vcpus}");
            assert!(!seen.contains(&digest), "{guest:?} {vcpus}");
            seen.push(digest);
        }
    }
}

/// one-launch: what nobody says is the same for both.
#[test]
fn one_launch_defaults_are_those_of_a_run() {
    let dir = TempDir::new().unwrap();
    let [kernel, _] = linux(dir.path());
    for guest in [&[][..], &["--kernel", &kernel]] {
        let bed = run_with(guest);
        bed.run();
        let said = tenure(&[&["measure", "snp"], guest].concat());
        assert_eq!(String::from_utf8_lossy(&said), format!("{}\n", bed.measured()[0]));
    }
}

/// one-launch: whatever the guest is made from, other contents have another digest. Names are no contents.
#[test]
fn one_launch_every_input_is_measured() {
    let dir = TempDir::new().unwrap();
    let [kernel, initrd] = linux(dir.path());
    let digest = |memory: &str, kernel: &str, initrd: &str, cmdline: &str, vcpu_type: &str| {
        let guest = ["--memory", memory, "--kernel", kernel, "--initrd", initrd, "--cmdline", cmdline];
        digests(&[&guest[..], &["--vcpu-type", vcpu_type]].concat())[0].1
    };
    let copy = |of: &str, change: Option<usize>| {
        let mut bytes = fs::read(of).unwrap();
        if let Some(at) = change {
            bytes[at] ^= 1;
        }
        let path = format!("{of}.{change:?}");
        fs::write(&path, bytes).unwrap();
        path
    };
    let base = digest("64M", &kernel, &initrd, "quiet", "EPYC");
    assert_eq!(digest("65536K", &copy(&kernel, None), &copy(&initrd, None), "quiet", "EPYC-v4"), base);
    // The boot sector, and the last byte.
    for at in [0, 5 * 512 + 3 * 4096 - 1] {
        assert_ne!(digest("64M", &copy(&kernel, Some(at)), &initrd, "quiet", "EPYC"), base, "{at}");
    }
    assert_ne!(digest("64M", &kernel, &copy(&initrd, Some(4999)), "quiet", "EPYC"), base);
    assert_ne!(digest("64M", &kernel, &initrd, "quieu", "EPYC"), base);
    assert_ne!(digest("65M", &kernel, &initrd, "quiet", "EPYC"), base);
    assert_ne!(digest("64M", &kernel, &initrd, "quiet", "EPYC-Milan"), base);
}

/// sealed-is-sealed: an owner signs what `tenure measure snp` says, and a host can launch just that.
#[test]
fn sealed_is_sealed_a_predicted_launch_can_be_signed() {
    let dir = TempDir::new().unwrap();
    let [kernel, initrd] = linux(dir.path());
    let path = |name: &str| dir.path().join(name).into_os_string().into_string().unwrap();
    let (told, block, auth) = (path("digests.json"), path("block"), path("auth"));
    let guest = ["--memory", "64M", "--kernel", &kernel, "--initrd", &initrd];
    let predict = ["measure", "snp", "--json", "--trace", "--vcpus", "1,2"];
    fs::write(&told, tenure(&[&predict[..], &guest].concat())).unwrap();
    tenure(&["idblock", "create", "--launch-digest", &told, "--vcpus", "2", "--out", &block]);
    tenure(&["idblock", "sign", "--block", &block, "--id-key", ID_KEY, "--out", &auth]);
    let signed = ["--snp-id-block", &block, "--snp-id-auth", &auth];
    for check in [IdBlockCheck::BeforeLaunch, IdBlockCheck::ByFirmware] {
        let mut bed = run_with(&[&guest[..], &signed, &["--vcpus", "2"]].concat());
        bed.config.snp.id_block_check = check;
        assert!(matches!(bed.run().report.outcome, GuestOutcome::Terminated { .. }), "{check:?}");
        assert_eq!(bed.measured().len(), 1);

        let mut bed = run_with(&[&guest[..], &signed, &["--vcpus", "1"]].concat());
        bed.config.snp.id_block_check = check;
        let (report, _) = bed.try_run();
        let started = report.is_ok_and(|report| !matches!(report.outcome, GuestOutcome::NotStarted { .. }));
        assert!(!started && bed.measured().is_empty(), "{check:?}");
    }
}
