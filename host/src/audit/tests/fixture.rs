//! A host made of files, with the kernel's answers beside them.

use crate::audit::inspect::{FileFacts, Inspect, Place};
use crate::audit::report::AuditReport;
use crate::audit::seen::{FileId, Moment};
use crate::audit::{AuditError, Measure, audit_of};
use gmem::ByteLen;
use rustix::io::Errno;
use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub(super) const MEMFD: &str = "anon_inode:[kvm-gmem]";
pub(super) const VM: &str = "anon_inode:kvm-vm";
pub(super) const VCPU: &str = "anon_inode:kvm-vcpu:0";
pub(super) const MIB: u64 = 1 << 20;
/// Of `/proc/stat`; processes start this many ticks of 1/100 s later.
const BOOT: u64 = 1_700_000_000;
const DEVICE: u64 = 0x10;

type Event = Box<dyn FnOnce(&Path)>;

/// A host.
pub(super) struct Fixture {
    pub(super) root: tempfile::TempDir,
    files: HashMap<PathBuf, FileFacts>,
    open: HashMap<Place, u32>,
    pub(super) kcmp: bool,
    /// What happens while the audit waits: each once, in order.
    events: RefCell<Vec<Event>>,
}

impl Fixture {
    /// A host with its first process, and an empty list of VMs.
    pub(super) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let host = Self { root, files: HashMap::new(), open: HashMap::new(), kcmp: true, events: RefCell::default() };
        host.write("proc/stat", &format!("cpu 1 2 3\nbtime {BOOT}\n"));
        host.write("proc/sys/kernel/osrelease", "6.12.1\n");
        host.write("proc/self/mounts", "none /sys/kernel/debug debugfs rw 0 0\n");
        host.write("etc/passwd", "root:x:0:0::/:/bin/sh\nvmm:x:107:107::/:/bin/sh\n");
        host.write("sys/kernel/debug/kvm/exits", "0\n");
        host.link("proc/self/ns/pid", "pid:[4026531836]");
        host.process(1, 0, "init");
        host
    }

    pub(super) fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(super) fn link(&self, path: &str, target: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&path);
        symlink(target, path).unwrap();
    }

    /// A process that holds nothing, of user 107; it started `pid` seconds after boot.
    pub(super) fn process(&self, pid: u32, parent: u32, command: &str) {
        let home = format!("proc/{pid}");
        self.write(&format!("{home}/stat"), &stat(pid, parent, command, 0x40_0000));
        self.write(&format!("{home}/status"), &format!("Name:\t{command}\nTgid:\t{pid}\nUid:\t107\t107\t107\t107\n"));
        self.write(&format!("{home}/cmdline"), &format!("/bin/{command}\0--flag\0"));
        self.write(
            &format!("{home}/maps"),
            "00400000-00401000 r-xp 00000000 08:01 12    /bin/true\n1000-2000 rw-p 0 00:00 0 \n",
        );
        fs::create_dir_all(self.root.path().join(&home).join("fd")).unwrap();
        self.link(&format!("{home}/fd/0"), "/dev/null");
        self.link(&format!("{home}/fd/1"), "socket:[77]");
        self.thread(pid, pid, "0 0x1 0x0 0x0 0x0 0x0 0x0 0x7ff 0x7ff");
    }

    /// A thread with what `/proc` says of its system call.
    pub(super) fn thread(&self, pid: u32, thread: u32, syscall: &str) {
        self.thread_with_flags(pid, thread, syscall, 0x40_0000);
    }

    pub(super) fn thread_with_flags(&self, pid: u32, thread: u32, syscall: &str, flags: u32) {
        let home = format!("proc/{pid}/task/{thread}");
        self.write(&format!("{home}/stat"), &stat(thread, 1, "CPU 0/KVM", flags));
        self.write(&format!("{home}/syscall"), &format!("{syscall}\n"));
    }

    /// A descriptor of the open file `open`, close-on-exec.
    pub(super) fn fd(&mut self, pid: u32, fd: u32, name: &str, open: u32) {
        self.fd_with_flags(pid, fd, name, open, 0o2_000_002);
    }

    pub(super) fn fd_with_flags(&mut self, pid: u32, fd: u32, name: &str, open: u32, flags: u32) {
        self.link(&format!("proc/{pid}/fd/{fd}"), name);
        self.write(&format!("proc/{pid}/fdinfo/{fd}"), &format!("pos:\t0\nflags:\t{flags:o}\nmnt_id:\t17\n"));
        self.open.insert((pid, fd), open);
    }

    /// A descriptor of guest_memfd `inode`, of as many MiB as its number.
    pub(super) fn memory(&mut self, pid: u32, fd: u32, inode: u32) {
        self.fd(pid, fd, MEMFD, inode);
        self.facts(&format!("proc/{pid}/fd/{fd}"), inode);
    }

    /// The same without close-on-exec, as KVM makes it.
    pub(super) fn leaky_memory(&mut self, pid: u32, fd: u32, inode: u32) {
        self.memory(pid, fd, inode);
        self.fd_with_flags(pid, fd, MEMFD, inode, 0o100_002);
    }

    fn facts(&mut self, path: &str, inode: u32) {
        let id = FileId { device: DEVICE, inode: inode.into() };
        let created = Some(Moment(BOOT + u64::from(inode)));
        let facts = FileFacts { id, bytes: u64::from(inode) * MIB, created };
        self.files.insert(self.root.path().join(path), facts);
    }

    /// A mapping of `inode` at this address; `name` says what it is.
    pub(super) fn map(&mut self, pid: u32, start: u64, name: &str, inode: u32) {
        let end = start + 0x1000;
        let path = self.root.path().join(format!("proc/{pid}/maps"));
        let maps = fs::read_to_string(&path).unwrap()
            + &format!("{start:08x}-{end:08x} rw-s 00000000 00:10 {inode}    {name}\n");
        fs::write(path, maps).unwrap();
        if name == MEMFD {
            self.facts(&format!("proc/{pid}/map_files/{start:x}-{end:x}"), inode);
        }
    }

    /// A VM in debugfs.
    pub(super) fn kernel_vm(&self, name: &str, vcpus: u32) {
        self.write(&format!("sys/kernel/debug/kvm/{name}/exits"), "100\n");
        for number in 0..vcpus {
            self.write(&format!("sys/kernel/debug/kvm/{name}/vcpu{number}/pid"), "0\n");
        }
    }

    /// A whole guest: VM 4, vCPU 5, memory 6 of that inode, its vCPU halted, and its entry in debugfs.
    pub(super) fn guest(&mut self, pid: u32, inode: u32) {
        self.idle_guest(pid, inode);
        self.thread(pid, pid + 1, "16 0x5 0xae80 0x0 0x0 0x0 0x0 0x7ff 0x7ff");
    }

    /// The same, with no thread in `KVM_RUN`.
    pub(super) fn idle_guest(&mut self, pid: u32, inode: u32) {
        self.fd(pid, 4, VM, pid);
        self.fd(pid, 5, VCPU, pid + 100_000);
        self.memory(pid, 6, inode);
        self.map(pid, 0x70_0000, VCPU, 1044);
        self.kernel_vm(&format!("{pid}-4"), 1);
        self.thread(pid, pid + 1, "202 0x5 0x80 0x0 0x0 0x0 0x0 0x7ff 0x7ff");
    }

    /// What happens the next time that nothing has happened yet while the audit waits.
    pub(super) fn meanwhile(&self, event: impl FnOnce(&Path) + 'static) {
        self.events.borrow_mut().push(Box::new(event));
    }

    pub(super) fn try_audit(&self) -> Result<AuditReport, AuditError> {
        audit_of(self.root.path(), self, 100, Measure::Nothing)
    }

    pub(super) fn audit(&self) -> AuditReport {
        self.try_audit().unwrap()
    }

    pub(super) fn measure(&self) -> AuditReport {
        audit_of(self.root.path(), self, 100, Measure::Allocated).unwrap()
    }
}

impl Inspect for Fixture {
    fn stat(&self, link: &Path) -> io::Result<FileFacts> {
        self.files.get(link).copied().ok_or_else(|| Errno::NOENT.into())
    }

    fn compare(&self, one: Place, other: Place) -> io::Result<Option<Ordering>> {
        if !self.kcmp {
            return Err(Errno::PERM.into());
        }
        Ok(Some(self.open[&one].cmp(&self.open[&other])))
    }

    fn allocated(&self, (pid, fd): Place, file: FileId) -> io::Result<ByteLen> {
        match self.files.get(&self.root.path().join(format!("proc/{pid}/fd/{fd}"))) {
            Some(facts) if facts.id == file => Ok(ByteLen(facts.bytes / 2)),
            _ => Err(Errno::BADF.into()),
        }
    }

    fn wait(&self, _time: Duration) {
        let mut events = self.events.borrow_mut();
        if !events.is_empty() {
            let event = events.remove(0);
            drop(events);
            event(self.root.path());
        }
    }
}

fn stat(pid: u32, parent: u32, command: &str, flags: u32) -> String {
    let started = u64::from(pid) * 100;
    format!("{pid} ({command}) S {parent} 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 {started} 1000 1 1\n")
}
