//! The Intel bed: Bochs' configuration, the disc it boots from, the line to the agent.
//!
//! Owns: what that machine consists of. Does not own: Bochs itself (`crate::bochs`).
//!
//! Specification: `bochsrc(5)`; syslinux(1) for the disc; Bochs 3.0, `iodev/serial.cc` for the second serial port, whose
//! mode `socket-client` keeps what it has no room for in the socket and so loses nothing, where `term` would.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::{BootOptions, CONSOLE, Clock, Error, Started, read};
use crate::bochs::{self, PROCESSOR};
use crate::process::{self, background};
use lab_agent::proto::PORT_PARAMETER;

/// Ticks of the machine to a second of its devices (not of its processor, which counts 2.4 thousand million to what CPUID
/// says is a second): the fewer, the less there is to emulate while firmware and console wait for them. A boot took 25 s of
/// this side's processor time with five times as many, 11 s with half.
const TICKS_PER_SECOND: u32 = 20_000_000;
/// The longest command line, with room for what the boot loader adds; Linux takes 2047 bytes.
const COMMAND_LINE_MAX: usize = 1900;
/// Time for Bochs to call back, before its machine starts.
const CONNECTION: Duration = Duration::from_secs(120);
/// In the scratch directory: what Bochs says before it has read its configuration, and after.
const OUTPUT: &str = "bochs.out";
const LOG: &str = "bochs.log";
const DISC: &str = "disc.iso";
/// In the scratch directory, a link to the entry in the cache: no path in the configuration can hold a `,`.
const ENTRY: &str = "bochs";

/// Whether there can be such a machine.
pub(super) fn check(options: &BootOptions) -> Result<(), Error> {
    let refuse = |what: String, why| Err(Error::Options { what, why });
    if options.clock == Clock::Instructions {
        return refuse("clock Instructions".to_owned(), "the Intel bed has a clock of its own");
    }
    if options.cpus > 8 {
        return refuse(format!("cpus {}", options.cpus), "they run one after the other, and Bochs' firmware knows 8");
    }
    match options.kernel_args.iter().find(|arg| arg.contains(['\n', '\r', '\0'])) {
        Some(arg) => refuse(format!("kernel argument {arg:?}"), "the boot loader takes one line"),
        None if command_line(options).len() > COMMAND_LINE_MAX => {
            refuse("kernel_args".to_owned(), "they are longer than a command line can be")
        }
        None => Ok(()),
    }
}

/// Starts it with this kernel, and what `prepare` makes of its scratch directory: the initramfs.
pub(super) fn start(
    entry: &Path,
    kernel: &Path,
    options: &BootOptions,
    scratch: &Path,
    prepare: impl FnOnce(&Path) -> Result<(), Error>,
) -> Result<Started, Error> {
    symlink(entry, scratch.join(ENTRY)).map_err(Error::Start)?;
    let initramfs = scratch.join("initramfs");
    prepare(&initramfs)?;
    make_disc(kernel, options, scratch)?;
    fs::remove_file(&initramfs).map_err(Error::Start)?;

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::Start)?;
    let address = listener.local_addr().map_err(Error::Start)?;
    let file = "bochsrc";
    fs::write(scratch.join(file), configuration(options, address)).map_err(Error::Start)?;

    let (terminal, theirs) = terminal().map_err(Error::Start)?;
    let output = File::create(scratch.join(OUTPUT)).map_err(Error::Start)?;
    let machine = bochs::run(Path::new(ENTRY), "bochs-bin");
    // A session of its own with our end's terminal: when this process goes, whatever way, the terminal hangs up, and
    // that ends Bochs. Its display opens another terminal for itself, which nobody looks at.
    let mut command = Command::new("setsid");
    command.arg("--ctty").arg(machine.get_program()).args(machine.get_args());
    command.args(["-q", "-unlock", "-f", file]);
    command.envs(machine.get_envs().filter_map(|(name, value)| Some((name, value?)))).env("TERM", "vt100");
    command.current_dir(scratch).stdin(theirs);
    command.stdout(output.try_clone().map_err(Error::Start)?).stderr(output);
    let mut child = command.spawn().map_err(Error::Start)?;
    match connection(&listener, &mut child, scratch) {
        Ok(stream) => Ok(Started { child, link: OwnedFd::from(stream).into(), terminal: Some(terminal) }),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error)
        }
    }
}

/// What Bochs has to say of its own: only what it ends with. An orderly power-off is one, too.
pub(super) fn messages(scratch: &Path) -> String {
    let text = [OUTPUT, LOG].map(|name| read(&scratch.join(name))).concat();
    text.lines().filter(|line| line.contains(">>PANIC<<")).map(|line| format!("{line}\n")).collect()
}

fn command_line(options: &BootOptions) -> String {
    // Bochs 3.0 refuses the posted-interrupt descriptor where KVM puts it: it wants a whole page.
    super::command_line(&format!("kvm_intel.enable_apicv=0 {PORT_PARAMETER}=ttyS1"), options)
}

/// A disc with boot loader, kernel and initramfs.
fn make_disc(kernel: &Path, options: &BootOptions, scratch: &Path) -> Result<(), Error> {
    let loader = format!(
        "DEFAULT lab\nPROMPT 0\nTIMEOUT 0\nLABEL lab\n KERNEL linux\n INITRD initramfs\n APPEND {}\n",
        command_line(options)
    );
    fs::write(scratch.join("isolinux.cfg"), loader).map_err(Error::Start)?;
    symlink(kernel, scratch.join("linux")).map_err(Error::Start)?;
    let xorriso = bochs::run(Path::new(ENTRY), "xorriso");
    let mut command = background(xorriso.get_program());
    command.args(xorriso.get_args()).current_dir(scratch);
    // The first turns links into what they lead to.
    command.args(["-as", "mkisofs", "-f", "-quiet", "-o", DISC, "-b", "isolinux.bin", "-c", "boot.cat"]);
    command.args(["-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", "-graft-points"]);
    command
        .args([format!("isolinux.bin={ENTRY}/share/isolinux.bin"), format!("ldlinux.c32={ENTRY}/share/ldlinux.c32")]);
    command.args(["isolinux.cfg=isolinux.cfg", "linux=linux", "initramfs=initramfs"]);
    process::output(&mut command)?;
    Ok(())
}

fn configuration(options: &BootOptions, agent: SocketAddr) -> String {
    let BootOptions { memory_mib, cpus, .. } = options;
    [
        "plugin_ctrl: unmapped=1, biosdev=1, speaker=0, parallel=0, serial=1".to_owned(),
        "config_interface: textconfig".to_owned(),
        "display_library: term".to_owned(),
        format!("romimage: file={ENTRY}/share/BIOS, options=fastboot"),
        format!("vgaromimage: file={ENTRY}/share/VGABIOS"),
        // KVM looks for MSRs that the model lacks.
        format!(
            "cpu: model={PROCESSOR}, count={cpus}, ips={TICKS_PER_SECOND}, reset_on_triple_fault=0, ignore_bad_msrs=1"
        ),
        format!("memory: guest={memory_mib}, host={memory_mib}"),
        "pci: enabled=1, chipset=i440fx".to_owned(),
        "ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14".to_owned(),
        format!("ata0-master: type=cdrom, path={DISC}, status=inserted"),
        "boot: cdrom".to_owned(),
        "clock: sync=none, time0=utc".to_owned(),
        format!("com1: enabled=1, mode=file, dev={CONSOLE}"),
        format!("com2: enabled=1, mode=socket-client, dev={agent}"),
        format!("log: {LOG}"),
        // Errors are about each access to what the model lacks: a million lines in one guest.
        "panic: action=fatal\nerror: action=ignore\ninfo: action=ignore\ndebug: action=ignore\n".to_owned(),
    ]
    .join("\n")
}

/// A terminal for Bochs: our end and its.
fn terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let theirs = rustix::fs::open(name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    // Whenever its processor halts, Bochs waits up to a millisecond for input (`gui/term.cc`, `sim_is_idle`), and never
    // reads any: with something to read it does not wait.
    rustix::io::write(&ours, b"\n")?;
    Ok((ours, theirs))
}

/// The stream to the second serial port: Bochs calls, and nobody else is listened to.
fn connection(listener: &TcpListener, child: &mut Child, scratch: &Path) -> Result<TcpStream, Error> {
    listener.set_nonblocking(true).map_err(Error::Start)?;
    let start = Instant::now();
    loop {
        match listener.accept() {
            Ok((stream, peer)) if holds(child.id(), peer) => {
                stream.set_nonblocking(false).and_then(|()| stream.set_nodelay(true)).map_err(Error::Start)?;
                return Ok(stream);
            }
            Ok(_) => continue,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(Error::Start(error)),
        }
        if let Some(status) = child.try_wait().map_err(Error::Start)? {
            return Err(Error::Ended { status, said: last_words(scratch) });
        }
        if start.elapsed() > CONNECTION {
            let said = format!("Bochs did not open its second serial port; it says:\n{}", last_words(scratch));
            return Err(Error::Start(io::Error::new(io::ErrorKind::TimedOut, said)));
        }
        thread::sleep(Duration::from_millis(5));
    }
}

fn last_words(scratch: &Path) -> String {
    let said = messages(scratch);
    if said.is_empty() { read(&scratch.join(OUTPUT)) } else { said }
}

/// Whether the process has the socket with this address. Specification: proc_net_tcp in Linux' Documentation/networking,
/// proc_pid_fd(5).
fn holds(pid: u32, address: SocketAddr) -> bool {
    let table = read(Path::new("/proc/net/tcp"));
    let Some(inode) = inode_of(&table, address) else { return false };
    let socket = format!("socket:[{inode}]");
    let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files.filter_map(|file| fs::read_link(file.path()).ok()).any(|target| target.as_os_str() == socket.as_str())
}

/// The inode of the socket with this address of its own, in a table like `/proc/net/tcp`.
fn inode_of(table: &str, address: SocketAddr) -> Option<&str> {
    let SocketAddr::V4(address) = address else { return None };
    let wanted = format!("{:08X}:{:04X}", u32::from_le_bytes(address.ip().octets()), address.port());
    let columns = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    columns.filter(|columns| columns.get(1) == Some(&wanted.as_str())).find_map(|columns| columns.get(9).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stranger on this machine could call first; it must not be taken for the agent.
    #[test]
    fn only_the_holder_of_a_socket_is_listened_to() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let _ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_theirs, peer) = listener.accept().unwrap();
        assert!(holds(std::process::id(), peer));
        assert!(!holds(1, peer) || std::process::id() == 1);
        let nobody = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        assert!(!holds(std::process::id(), nobody));
    }

    #[test]
    fn the_machine_is_what_was_asked_for() {
        let options = BootOptions { memory_mib: 3000, cpus: 2, ..BootOptions::default() };
        let text = configuration(&options, SocketAddr::from((Ipv4Addr::LOCALHOST, 4711)));
        for line in ["memory: guest=3000, host=3000", "com2: enabled=1, mode=socket-client, dev=127.0.0.1:4711"] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
        assert!(text.contains("count=2,"), "{text}");
    }
}
