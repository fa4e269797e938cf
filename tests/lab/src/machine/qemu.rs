//! The AMD bed: QEMU's command line.
//!
//! Owns: what that machine consists of and how its time passes. Does not own: QEMU itself (`qemu`).

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use super::{BootOptions, CONSOLE, Clock, Error, Started};
use crate::tsc;
use lab_agent::proto::PORT_NAME;

/// An AMD processor with nested paging, less what the emulator lacks of that model: so that it
/// says something only when something is wrong.
const PROCESSOR: &str = "EPYC,+svm,+npt,+nrip-save,+decodeassists,-x2apic,-rdseed,-sha-ni,-fxsr-opt,\
                         -misalignsse,-3dnowprefetch,-osvw,-topoext,-xsavec";
/// `CONFIG_HZ` of the lab's kernel.
const KERNEL_HZ: u64 = 250;
/// QEMU's own messages, in the scratch directory.
pub(super) const LOG: &str = "qemu.log";

/// Whether there can be such a machine.
pub(super) fn check(options: &BootOptions) -> Result<(), Error> {
    match (options.clock, options.cpus) {
        (Clock::Instructions, 2..) => {
            let what = format!("cpus {}", options.cpus);
            Err(Error::Options { what, why: "instructions are counted on one processor only" })
        }
        _ => Ok(()),
    }
}

/// Starts it with this kernel, and what `prepare` makes of its scratch directory: the initramfs.
pub(super) fn start(
    qemu: &Path,
    kernel: &Path,
    options: &BootOptions,
    scratch: &Path,
    prepare: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<Started, Error> {
    let measured = match options.clock {
        Clock::Host => Some(thread::spawn(tsc::measure_khz)),
        Clock::Instructions => None,
    };
    let initramfs = scratch.join("initramfs");
    prepare(&initramfs)?;
    // QEMU gives the guest one counter tick per virtual nanosecond when it counts instructions.
    let tsc_khz = measured.and_then(|thread| thread.join().ok()).unwrap_or(1_000_000);

    let (ours, theirs) = UnixStream::pair().map_err(Error::Start)?;
    let log = File::create(scratch.join(LOG)).map_err(Error::Start)?;
    let mut command = Command::new(qemu.join("qemu-system-x86_64"));
    command.arg("-L").arg(qemu.join("share"));
    command.args(arguments(options));
    command.arg("-kernel").arg(kernel);
    command.arg("-initrd").arg(&initramfs);
    command.arg("-append").arg(command_line(options, tsc_khz));
    command.arg("-chardev").arg(format!("file,id=console,path={}", path_argument(&scratch.join(CONSOLE))));
    // The agent's port is QEMU's standard input: nothing to name, to connect to or to clean up.
    command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(log);
    let child = command.spawn().map_err(Error::Start)?;
    Ok(Started { child, link: OwnedFd::from(ours).into(), terminal: None })
}

fn arguments(options: &BootOptions) -> Vec<String> {
    let accelerator = match options.clock {
        Clock::Host => "tcg,thread=multi",
        Clock::Instructions => "tcg,thread=single",
    };
    let mut arguments: Vec<String> = [
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-machine",
        "q35,hpet=off",
        "-accel",
        accelerator,
        "-cpu",
        PROCESSOR,
        "-serial",
        "chardev:console",
        "-chardev",
        "socket,id=agent,fd=0",
        "-device",
        "virtio-serial-pci",
        "-device",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.push(format!("virtserialport,chardev=agent,name={PORT_NAME}"));
    arguments.extend(["-m".to_owned(), options.memory_mib.to_string()]);
    arguments.extend(["-smp".to_owned(), options.cpus.to_string()]);
    if options.clock == Clock::Instructions {
        arguments.extend(["-icount", "shift=0,sleep=off"].map(str::to_owned));
    }
    arguments
}

fn command_line(options: &BootOptions, tsc_khz: u64) -> String {
    // Nothing is to be calibrated or tested by emulated timers: on a busy machine they are late.
    let loops_per_tick = tsc_khz * 1000 / KERNEL_HZ;
    super::command_line(&format!("lpj={loops_per_tick} tsc_early_khz={tsc_khz}"), options)
}

/// QEMU doubles a comma that is no separator.
fn path_argument(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}
