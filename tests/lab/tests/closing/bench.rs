//! The lab host all cases share: programs and guests on board, its tracer, and what it had before.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;
use tenure_lab::progress::Plain;
use tenure_lab::{BootOptions, Command, Host, Kernel, Lab, Options, Target};

use crate::lifecycle;
use crate::memory::Memory;
use crate::trace::{Lives, Tracer};
use crate::vmm::{Ended, Program, Vmm};

/// Kernel and RAM disk of the default guest, on the lab host.
pub(crate) const KERNEL: &str = "/guest/kernel";
pub(crate) const INITRD: &str = "/guest/initrd";
/// The case in `gmem/kvm`'s lifecycle tests, on the lab host.
pub(crate) const LIFECYCLE: &str = "/bin/lifecycle";
/// A process that holds VMs in ways an audit should find, on the lab host.
pub(crate) const HOLD: &str = "/bin/hold";

/// A lab host with everything on board.
pub(crate) struct Bench {
    pub host: Host,
    pub tracer: Tracer,
    /// Its memory before the first case.
    pub memory_before: Memory,
    lab: Lab,
    files: Vec<(PathBuf, String)>,
    _scratch: TempDir,
}

impl Bench {
    /// Builds what goes on board and boots a host of this kernel.
    pub(crate) fn prepare(kernel: Kernel) -> Result<Self> {
        let mut progress = Plain::new(std::io::stderr());
        let lab = Lab::provision(&Options { kernel, ..Options::default() }, &mut progress)?;
        let mut build = |package, name: &str| lab.build_static(package, &Target::Bin(name.to_owned()), &mut progress);
        let tenure = build("tenure", "tenure")?;
        let faulty = build("tenure-faulty", "tenure-faulty")?;
        let look = build("tenure-faulty", "look")?;
        let hold = build("tenure-faulty", "hold")?;
        let init = build("test-guest", "test-guest")?;
        let lifecycle = lifecycle::build(&tenure)?;
        let scratch = tempfile::tempdir()?;
        let initrd = scratch.path().join("initrd");
        fs::write(&initrd, test_guest::initrd(&fs::read(init)?)?)?;
        let on_board = |here: &Path, there: &str| (here.to_owned(), there.to_owned());
        let files = vec![
            on_board(&tenure, "/bin/tenure"),
            on_board(&faulty, "/bin/tenure-faulty"),
            on_board(&look, "/bin/look"),
            on_board(&hold, HOLD),
            on_board(&lifecycle, LIFECYCLE),
            on_board(&lab.kernel_image(), KERNEL),
            on_board(&initrd, INITRD),
        ];
        let (host, tracer) = boot(&lab, &files)?;
        let mut bench = Self { host, tracer, memory_before: Memory::default(), lab, files, _scratch: scratch };
        bench.warm_up()?;
        println!("the host is Linux {}", bench.host.read_to_string("/proc/sys/kernel/osrelease")?.trim());
        Ok(bench)
    }

    /// A new host, after a case that failed left the old one in a state nobody knows.
    pub(crate) fn recover(&mut self) {
        match boot(&self.lab, &self.files) {
            Ok((host, tracer)) => {
                (self.host, self.tracer) = (host, tracer);
                if let Err(error) = self.warm_up() {
                    eprintln!("the new lab host is no good: {error:#}");
                }
            }
            Err(error) => eprintln!("no new lab host: {error:#}"),
        }
    }

    /// What the first guest makes the host's kernel allocate for good must not count as a leak.
    fn warm_up(&mut self) -> Result<()> {
        self.run(Program::Tenure, &self_test())?.check_code(0)?;
        self.memory_before = Memory::of(&self.host)?;
        Ok(())
    }

    /// The default guest's kernel, on this side.
    pub(crate) fn kernel_here(&self) -> PathBuf {
        self.lab.kernel_image()
    }

    /// Starts a run, with a trace that begins here.
    pub(crate) fn start(&self, program: Program, arguments: &[&str]) -> Result<Vmm> {
        self.tracer.clear(&self.host)?;
        Vmm::start(&self.host, program, arguments)
    }

    /// Waits for the end of a run; asserts the law by the trace and that the host holds no VM.
    pub(crate) fn finish(&self, vmm: Vmm) -> Result<(Ended, Lives)> {
        let ended = vmm.wait(&self.host)?;
        let lives = self.check_closed().with_context(|| ended.said())?;
        Ok((ended, lives))
    }

    /// Starts a run and waits for its end.
    pub(crate) fn run(&self, program: Program, arguments: &[&str]) -> Result<Ended> {
        Ok(self.finish(self.start(program, arguments)?)?.0)
    }

    /// Asserts, by the trace and by debugfs, that every VM since the trace began was closed in order and is gone.
    pub(crate) fn check_closed(&self) -> Result<Lives> {
        let lives = self.tracer.read(&self.host)?;
        lives.check()?;
        // A directory for each VM, named by process and descriptor.
        let debugfs = self.look("/sys/kernel/debug/kvm")?;
        let vms: Vec<&str> = debugfs.lines().filter(|name| name.contains('-')).collect();
        ensure!(vms.is_empty(), "the host kernel still has VMs: {vms:?}");
        Ok(lives)
    }

    /// Entries of a directory on the host, one a line, with where they lead.
    pub(crate) fn look(&self, directory: &str) -> Result<String> {
        let output = self.host.run(Command::new("/bin/look").arg(directory))?;
        ensure!(output.status.success(), "{directory}: {}", output.stderr_text());
        Ok(output.stdout_text())
    }
}

fn boot(lab: &Lab, files: &[(PathBuf, String)]) -> Result<(Host, Tracer)> {
    let options = BootOptions { extra_files: files.to_vec(), ..BootOptions::default() };
    let host = lab.boot(&options).context("cannot boot a lab host")?;
    let tracer = Tracer::start(&host)?;
    Ok((host, tracer))
}

/// Arguments for the firmware's self-test: the shortest guest there is.
pub(crate) fn self_test() -> [&'static str; 6] {
    ["--tee", "sw", "--memory", "64M", "--vcpus", "2"]
}

/// Arguments for the default guest with this addition to its command line.
pub(crate) fn linux(cmdline: &str) -> Vec<String> {
    let cmdline = format!("console=ttyS0 quiet panic=-1 {cmdline}");
    let arguments =
        ["--tee", "sw", "--memory", "128M", "--vcpus", "2", "--kernel", KERNEL, "--initrd", INITRD, "--cmdline"];
    arguments.iter().map(|argument| (*argument).to_owned()).chain([cmdline]).collect()
}
