//! The lab host all cases of a bed share, with `tenure` and the guests on board.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tenure_lab::progress::Plain;
use tenure_lab::{Bed as LabBed, BootOptions, Command, DebianKernel, Host, Kernel, Lab, Options, Target};

/// `tenure` on the lab host.
pub(crate) const TENURE: &str = "/bin/tenure";
/// The host's side of the protocol of virtio-console.
pub(crate) const PEER: &str = "/bin/virtio-peer";
/// The host's side of tests over a channel.
pub(crate) const CHANNEL_PEER: &str = "/bin/channel-peer";
/// Runs a program on processor 0 while processor 1 restores FPU state all the time.
pub(crate) const FPU_RESTORES: &str = "/bin/fpu-restores";
/// Debian's own cloud kernel, unmodified.
pub(crate) const DEBIAN_KERNEL: &str = "/guest/vmlinuz";
/// An initial RAM disk with the test userland.
pub(crate) const INITRD: &str = "/guest/initrd";

/// Debian's kernel the tests are about.
const DEBIAN_VERSION: &str = "6.12";
/// Memory of the AMD bed's host: the largest guest has 6 GiB, of which it touches a sample, but the host must believe in
/// it. Guests of the Intel bed are small.
const HOST_MEMORY_MIB: u32 = 8192;

/// The lab, and a host of it once somebody needs one.
pub(crate) struct Bed {
    lab: Lab,
    options: BootOptions,
    host: Option<Host>,
    tenure: PathBuf,
    init: PathBuf,
    /// Holds the initial RAM disk until the last host is booted.
    _scratch: TempDir,
}

impl Bed {
    /// Makes everything ready that goes on board.
    pub(crate) fn prepare(bed: LabBed) -> Result<Self> {
        let mut progress = Plain::new(std::io::stderr());
        let kernel = Kernel::of_environment().unwrap_or_default();
        let lab = Lab::provision(&Options { bed, kernel, ..Options::default() }, &mut progress)?;
        let mut build = |package, target| lab.build_static(package, &target, &mut progress);
        let tenure = build("tenure", Target::Bin("tenure".to_owned()))?;
        let init = build("test-guest", Target::Bin("test-guest".to_owned()))?;
        let mut files = vec![(tenure.clone(), TENURE)];
        let mut options = BootOptions::for_bed(bed);
        if bed == LabBed::Amd {
            files.push((build("test-guest", Target::Example("virtio-peer".to_owned()))?, PEER));
            files.push((build("test-guest", Target::Example("channel-peer".to_owned()))?, CHANNEL_PEER));
            files.push((build("lab-agent", Target::Example("fpu_restores".to_owned()))?, FPU_RESTORES));
            options.memory_mib = HOST_MEMORY_MIB;
        }
        let kernel = lab.debian_guest(&DebianKernel::Version(DEBIAN_VERSION.to_owned()), &mut progress)?;
        let scratch = tempfile::tempdir()?;
        let initrd = scratch.path().join("initrd");
        fs::write(&initrd, test_guest::initrd(&fs::read(&init)?)?)?;
        files.extend([(kernel, DEBIAN_KERNEL), (initrd, INITRD)]);
        options.extra_files = files.into_iter().map(|(here, there)| (here, there.to_owned())).collect();
        Ok(Self { lab, options, host: None, tenure, init, _scratch: scratch })
    }

    /// The host; boots one if there is none.
    pub(crate) fn host(&mut self) -> Result<&Host> {
        let host = match self.host.take() {
            Some(host) => host,
            None => self.lab.boot(&self.options).context("cannot boot a lab host")?,
        };
        Ok(self.host.insert(host))
    }

    /// `tenure` here, the same that is on board.
    pub(crate) fn tenure(&self) -> &Path {
        &self.tenure
    }

    /// `/init` of guests here.
    pub(crate) fn init(&self) -> &Path {
        &self.init
    }

    /// Ends the host: after a failure nobody knows in what state it is.
    pub(crate) fn discard_host(&mut self) {
        self.host = None;
    }
}

/// Runs a command that must succeed and returns its standard output.
pub(crate) fn output(host: &Host, command: Command) -> Result<String> {
    let output = host.run(command)?;
    let text = output.stdout_text();
    anyhow::ensure!(output.status.success(), "{}: {text}{}", output.status, output.stderr_text());
    Ok(text)
}
