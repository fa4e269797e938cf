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
use test_guest::flow::{self, Other, Scene};
use test_guest::payload::KEY_BYTES;
use test_harness::Verdict;

use crate::common::bed::{self, Bed, DEBIAN_KERNEL, TENURE};
use crate::common::vmm::{Ended, Vmm};

const SCENE: Scene<'_> = Scene { dir: "/run/flow", kernel: DEBIAN_KERNEL, tenure: TENURE };

/// The expected guest gets its key and opens what is on board; guests of which one byte differs do not, and the relying
/// party names what differs.
pub(crate) fn a_secret_for_the_expected_guest_only(bed: &mut Bed) -> Result<Verdict> {
    let mut key = [0; KEY_BYTES];
    fs::File::open("/dev/urandom")?.read_exact(&mut key)?;
    let (init, tenure) = (fs::read(bed.init())?, fs::read(bed.tenure())?);
    let initrd = flow::initrd(&init, &tenure, &key)?;
    let scratch = tempfile::tempdir()?;
    let root = scratch.path().join("root");
    let made =
        Here::new(bed.tenure()).args(["attest", "testroot", "init", "--product", flow::PRODUCT]).arg(&root).output();
    let made = made.context("tenure attest testroot init")?;
    ensure!(made.status.success(), "tenure attest testroot init: {}", String::from_utf8_lossy(&made.stderr));

    let host = bed.host()?;
    for file in fs::read_dir(&root)? {
        let file = file?;
        let mode = file.metadata()?.permissions().mode() & 0o777;
        let there = SCENE.of_root(&file.file_name().to_string_lossy());
        host.put(&there, mode, &mut fs::File::open(file.path())?)?;
    }
    host.put(&SCENE.key(), 0o600, &mut &key[..])?;
    host.put(&SCENE.other_initrd(), 0o644, &mut &flow::changed_initrd(initrd.clone())?[..])?;
    host.put(&SCENE.other_tenure(), 0o755, &mut &flow::changed_firmware(tenure)?[..])?;
    host.put(&SCENE.initrd(), 0o644, &mut &initrd[..])?;
    drop(initrd);
    // What the relying party knows of the guest: it is predicted where no guest is.
    let predicted = bed::output(host, Command::new(TENURE).args(SCENE.predict()))?;
    host.write(&SCENE.expected(), predicted)?;
    let party = RelyingParty::start(host)?;

    let ended = boot(host, None)?;
    let opened = format!("guest: test attest ok payload {:?}", flow::TEXT);
    ensure!(ended.console.iter().any(|line| line.contains(&opened)), "{}", ended.tail());
    ended.check_clean(&GuestOutcome::PoweredOff)?;
    println!("  the expected guest opened its payload");
    for other in Other::ALL {
        let item = other.item();
        let ended = boot(host, Some(other))?;
        let refused = ended.console.iter().find(|line| line.contains("guest: test attest failed: "));
        let refused = refused.with_context(|| format!("another {item}: {}", ended.tail()))?;
        ensure!(refused.contains("refuses (") && refused.contains(&format!("launch: {item}")), "{refused}");
        ended.check_clean(&GuestOutcome::PoweredOff)?;
        println!("  a guest with another {item} was refused, by name");
    }
    party.end()?;
    Ok(Verdict::Passed)
}

fn boot(host: &Host, other: Option<Other>) -> Result<Ended> {
    let (tenure, arguments) = SCENE.run(other);
    Vmm::start_program(host, &tenure, &arguments, None)?.wait()
}

/// `tenure attest serve`.
struct RelyingParty {
    child: Child,
}

impl RelyingParty {
    fn start(host: &Host) -> Result<Self> {
        let mut child = host.spawn(Command::new(TENURE).args(SCENE.serve()))?;
        let mut said = Vec::new();
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
