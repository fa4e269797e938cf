//! From a launch to a secret: a guest asks its relying party for the key of its disk, and gets it if it is the guest that
//! was expected.
//!
//! Everything is on the lab host but the making of the test's root: the relying party, which knows what is predicted of
//! the launch and nothing else of the guest; `tenure run`, which signs under the root; and the guest, which has no network
//! and asks over virtio-console with the very program that its users would have on board.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command as Here;

use anyhow::{Context, Result, ensure};
use tenure::report::GuestOutcome;
use tenure_lab::{Child, Command, Host};
use test_guest::flow;
use test_guest::payload::{KEY_BYTES, RESOURCE};
use test_harness::Verdict;

use crate::common::bed::{self, Bed, DEBIAN_KERNEL, TENURE};
use crate::common::vmm::{Ended, Vmm};

const ROOT: &str = "/run/flow/root";
const RESOURCES: &str = "/run/flow/resources";
const STATE: &str = "/run/flow/state";
const EXPECTED: &str = "/run/flow/expected.json";
const INITRD: &str = "/run/flow/initrd";
const CHANGED_INITRD: &str = "/run/flow/initrd-changed";
const CHANGED_TENURE: &str = "/run/flow/tenure-changed";
const RELYING_PARTY: &str = "127.0.0.1:8080";
const PRODUCT: &str = "genoa";
const CMDLINE: &str = "console=ttyS0 reboot=k panic=-1 tenure.test=attest";

/// The expected guest gets its key and opens what is on board; guests of which one byte differs do not, and the relying
/// party names what differs.
pub(crate) fn a_secret_for_the_expected_guest_only(bed: &mut Bed) -> Result<Verdict> {
    let mut key = [0; KEY_BYTES];
    fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    let (init, tenure) = (fs::read(bed.init())?, fs::read(bed.tenure())?);
    let initrd = flow::initrd(&init, &tenure, &key)?;
    let root = tempfile::tempdir()?;
    let root_here = root.path().join("root");
    let made =
        Here::new(bed.tenure()).args(["attest", "testroot", "init", "--product", PRODUCT]).arg(&root_here).output();
    let made = made.context("tenure attest testroot init")?;
    ensure!(made.status.success(), "tenure attest testroot init: {}", String::from_utf8_lossy(&made.stderr));

    let host = bed.host()?;
    for file in fs::read_dir(&root_here)? {
        let file = file?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        let there = format!("{ROOT}/{}", file.file_name().to_string_lossy());
        host.put(&there, mode, &mut fs::File::open(file.path())?)?;
    }
    host.put(&format!("{RESOURCES}/{RESOURCE}"), 0o600, &mut &key[..])?;
    host.put(CHANGED_INITRD, 0o644, &mut &flow::changed_initrd(initrd.clone())?[..])?;
    host.put(CHANGED_TENURE, 0o755, &mut &flow::changed_firmware(tenure)?[..])?;
    host.put(INITRD, 0o644, &mut &initrd[..])?;
    drop(initrd);
    predict(host)?;
    let party = RelyingParty::start(host)?;

    let ended = boot(host, TENURE, INITRD, CMDLINE)?;
    let opened = format!("guest: test attest ok payload {:?}", flow::TEXT);
    ensure!(ended.console.iter().any(|line| line.contains(&opened)), "{}", ended.tail());
    ended.check_clean(&GuestOutcome::PoweredOff)?;
    println!("  the expected guest opened its payload");

    let other_cmdline = format!("{CMDLINE} x");
    for (item, tenure, initrd, cmdline) in [
        ("initrd", TENURE, CHANGED_INITRD, CMDLINE),
        ("command line", TENURE, INITRD, other_cmdline.as_str()),
        ("firmware", CHANGED_TENURE, INITRD, CMDLINE),
    ] {
        let ended = boot(host, tenure, initrd, cmdline)?;
        let refused = ended.console.iter().find(|line| line.contains("guest: test attest failed: "));
        let refused = refused.with_context(|| format!("another {item}: {}", ended.tail()))?;
        ensure!(refused.contains("refuses (") && refused.contains(&format!("launch: {item}")), "{refused}");
        ended.check_clean(&GuestOutcome::PoweredOff)?;
        println!("  a guest with another {item} was refused, by name");
    }
    party.end()?;
    Ok(Verdict::Passed)
}

/// What the relying party knows of the guest: it is predicted where no guest is.
fn predict(host: &Host) -> Result<()> {
    let predicted = Command::new(TENURE).args([
        "measure",
        "sw",
        "--guise",
        "sev",
        "--kernel",
        DEBIAN_KERNEL,
        "--initrd",
        INITRD,
        "--cmdline",
        CMDLINE,
        "--trace",
        "--json",
    ]);
    let predicted = bed::output(host, predicted)?;
    Ok(host.write(EXPECTED, predicted)?)
}

fn boot(host: &Host, tenure: &str, initrd: &str, cmdline: &str) -> Result<Ended> {
    let mut arguments =
        ["--tee", "sw", "--guise", "sev", "--kernel", DEBIAN_KERNEL, "--initrd", initrd].map(str::to_owned).to_vec();
    arguments.push(format!("--cmdline={cmdline}"));
    arguments.push(format!("--test-root={ROOT}"));
    arguments.push(format!("--relying-party={RELYING_PARTY}"));
    Vmm::start_program(host, tenure, &arguments, None)?.wait()
}

/// `tenure attest serve`.
struct RelyingParty {
    child: Child,
}

impl RelyingParty {
    fn start(host: &Host) -> Result<Self> {
        let anchor = format!("{ROOT}/ark.der");
        let arguments = [
            ["--listen", RELYING_PARTY],
            ["--resources", RESOURCES],
            ["--state", STATE],
            ["--launch-digest", EXPECTED],
            ["--test-root", &anchor],
            ["--allow-test-root", PRODUCT],
        ];
        let command = Command::new(TENURE).args(["attest", "serve"]).args(arguments.concat());
        let mut child = host.spawn(command)?;
        let mut said = Vec::new();
        // It says where it listens once it does.
        while !said.ends_with(b"\n") {
            let mut byte = [0];
            ensure!(child.stdout.read(&mut byte)? == 1, "tenure attest serve ended");
            said.push(byte[0]);
        }
        Ok(Self { child })
    }

    fn end(mut self) -> Result<()> {
        const SIGTERM: u32 = 15;
        self.child.kill(SIGTERM)?;
        let status = self.child.wait()?;
        ensure!(status.success(), "tenure attest serve: {status}");
        Ok(())
    }
}
