//! Texts of `/proc` and debugfs, read.
//!
//! Owns the formats and nothing else: no file is opened here. A line that is not as expected is `None`, never a panic:
//! parts of these texts are under the control of the processes they are about.
//!
//! Specification: `proc_pid_stat(5)`, `proc_pid_status(5)`, `proc_pid_fdinfo(5)`, `proc_pid_maps(5)`, `proc_mounts(5)`;
//! `/proc/PID/syscall` as in Linux `fs/proc/base.c`, `proc_pid_syscall`; debugfs as in `virt/kvm/kvm_main.c`,
//! `kvm_create_vm_debugfs`.

use super::seen::FileId;

/// `PF_VCPU` of `include/linux/sched.h`: the thread is in guest mode.
const PF_VCPU: u32 = 0x1;
/// `PF_IO_WORKER` and `PF_USER_WORKER`: the kernel's own threads in a process.
const PF_WORKERS: u32 = 0x10 | 0x4000;
/// `PF_KTHREAD`.
const PF_KTHREAD: u32 = 0x20_0000;
/// `O_CLOEXEC` on x86.
const O_CLOEXEC: u32 = 0o2_000_000;
/// `ioctl` among the system calls of x86-64.
const SYS_IOCTL: i64 = 16;
/// The request.
const KVM_RUN: u32 = 0xae80;

/// What is needed of `/proc/PID/stat`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stat {
    /// The command's name, at most 15 bytes.
    pub(super) command: String,
    /// The parent.
    pub(super) parent: u32,
    /// When it started, in clock ticks after boot.
    pub(super) started_ticks: u64,
    state: char,
    flags: u32,
}

impl Stat {
    /// Reads the file. The command may hold anything, brackets and line ends included.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(") ")?;
        let (_, command) = before.split_once(" (")?;
        let fields: Vec<&str> = after.split_ascii_whitespace().collect();
        // The first of them is the third of the file: the state.
        let field = |number: usize| fields.get(number - 3).copied();
        Some(Self {
            command: command.to_owned(),
            state: field(3)?.chars().next()?,
            parent: field(4)?.parse().ok()?,
            started_ticks: field(22)?.parse().ok()?,
            flags: field(9)?.parse().ok()?,
        })
    }

    /// Whether the thread has ended, and only its number is left.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }

    /// Whether the thread was in guest mode just then.
    pub(super) fn in_guest_mode(&self) -> bool {
        self.flags & PF_VCPU != 0
    }

    /// Whether it is a thread of the kernel, in no process: it has neither descriptors nor mappings.
    pub(super) fn is_kernel_thread(&self) -> bool {
        self.flags & PF_KTHREAD != 0
    }

    /// Whether it is the kernel's own in a process. Such a thread shows the registers its creator had: KVM's, made in a first
    /// `KVM_RUN`, shows that call for ever.
    pub(super) fn is_kernels_worker(&self) -> bool {
        self.flags & PF_WORKERS != 0
    }
}

/// The user of `/proc/PID/status`: the real one.
pub(super) fn uid(status: &str) -> Option<u32> {
    field(status, "Uid:")?.split_ascii_whitespace().next()?.parse().ok()
}

/// The process of a thread, from its `status`.
pub(super) fn process_of_thread(status: &str) -> Option<u32> {
    field(status, "Tgid:")?.parse().ok()
}

/// Whether a descriptor stays open over exec, from its `fdinfo`.
pub(super) fn close_on_exec(fdinfo: &str) -> Option<bool> {
    Some(u32::from_str_radix(field(fdinfo, "flags:")?, 8).ok()? & O_CLOEXEC != 0)
}

/// Seconds since 1970 at boot, from `/proc/stat`.
pub(super) fn boot_time(stat: &str) -> Option<u64> {
    field(stat, "btime ")?.parse().ok()
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// A line of `/proc/PID/maps` that has a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MapLine<'a> {
    /// Its first address.
    pub(super) start: u64,
    /// The address after its last.
    pub(super) end: u64,
    /// The file.
    pub(super) file: FileId,
    /// Its name.
    pub(super) name: &'a str,
}

impl<'a> MapLine<'a> {
    /// Reads one line.
    pub(super) fn parse(line: &'a str) -> Option<Self> {
        let mut rest = line;
        let mut next = || {
            let (word, after) = rest.split_once(' ')?;
            rest = after.trim_start();
            Some(word)
        };
        let (addresses, _access, _offset, device) = (next()?, next()?, next()?, next()?);
        // The inode is followed by spaces even where there is no name.
        let inode = next()?;
        let (start, end) = addresses.split_once('-')?;
        let (major, minor) = device.split_once(':')?;
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let small = |text: &str| u32::from_str_radix(text, 16).ok();
        let device = rustix::fs::makedev(small(major)?, small(minor)?);
        let (start, end) = (hex(start)?, hex(end)?);
        let file = FileId { device, inode: inode.parse().ok()? };
        (start < end && !rest.is_empty()).then_some(Self { start, end, file, name: rest })
    }
}

/// What a thread is doing, by `/proc/PID/task/TID/syscall`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// It is on a processor or waits for one: the kernel does not say where it is.
    Running,
    /// It waits in `KVM_RUN` on this descriptor.
    KvmRun {
        /// The vCPU's.
        fd: u32,
    },
    /// It waits for something else.
    Else,
}

impl Doing {
    /// Reads the file.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text == "running" {
            return Some(Self::Running);
        }
        let mut words = text.split_ascii_whitespace();
        let number: i64 = words.next()?.parse().ok()?;
        let words: Option<Vec<u64>> =
            words.map(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()).collect();
        let words = words?;
        // Six arguments, stack and instruction pointer; no arguments outside of a call. A thread that has never been in
        // user space has no instruction pointer: see [`Stat::is_kernels_worker`].
        match (number, &words[..]) {
            (SYS_IOCTL, [fd, request, _, _, _, _, _, pc]) if low(*request) == KVM_RUN && *pc != 0 => {
                Some(Self::KvmRun { fd: low(*fd) })
            }
            (-1.., [_, _, _, _, _, _, _, _]) | (-1, [_, _]) => Some(Self::Else),
            _ => None,
        }
    }
}

/// What the kernel takes of a register for an `unsigned int`.
fn low(register: u64) -> u32 {
    u32::try_from(register & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}

/// The creator of a VM in debugfs, from its directory's name: the thread, and the descriptor it got.
pub(super) fn vm_directory(name: &str) -> Option<(u32, u32)> {
    let (thread, fd) = name.split_once('-')?;
    let number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    Some((number(thread)?, number(fd)?))
}

/// Where debugfs is, from `/proc/self/mounts`.
pub(super) fn debugfs(mounts: &str) -> Option<String> {
    let mut lines = mounts.lines().map(|line| line.split(' '));
    let mount = lines.find_map(|mut words| {
        let (_, place, kind) = (words.next()?, words.next()?, words.next()?);
        (kind == "debugfs").then_some(place)
    });
    mount.and_then(unescape)
}

/// Undoes what `/proc` does to spaces and the like in paths.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(3)?;
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()?);
        rest = after;
    }
    String::from_utf8(bytes).ok()
}

/// A user's name, from `/etc/passwd`.
pub(super) fn user_name(passwd: &str, uid: u32) -> Option<&str> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _password, number) = (fields.next()?, fields.next()?, fields.next()?);
        (number.parse() == Ok(uid)).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_command_may_look_like_the_rest_of_the_line() {
        let text =
            "12306 (a) S (1\n) S 12237 12237 8587 0 -1 4210752 0 6552 0 0 0 0 5 3 20 0 3 0 39231 94273536 3581 1";
        let stat = Stat::parse(text).unwrap();
        assert_eq!((stat.command.as_str(), stat.parent, stat.started_ticks), ("a) S (1\n", 12237, 39231));
        assert!(stat.is_kernels_worker() && !stat.in_guest_mode());
        let guest = text.replace("4210752", "4194369");
        let stat = Stat::parse(&guest).unwrap();
        assert!(!stat.is_kernels_worker() && stat.in_guest_mode() && !stat.has_ended());
        assert!(Stat::parse(&text.replace(") S 12237", ") Z 12237")).unwrap().has_ended());
    }

    #[test]
    fn kvm_run_is_told_from_its_shadow() {
        let run = "16 0x9 0xae80 0x0 0x0 0x556b2814c040 0x7f286913e680 0x7f2800000000 0x7f2869000000\n";
        assert_eq!(Doing::parse(run), Some(Doing::KvmRun { fd: 9 }));
        // KVM's own thread, made by that very call.
        let shadow = "16 0x9 0xae80 0x0 0x0 0x556b2814c040 0x7f286913e680 0x0 0x0\n";
        assert_eq!(Doing::parse(shadow), Some(Doing::Else));
        assert_eq!(Doing::parse("running\n"), Some(Doing::Running));
        assert_eq!(Doing::parse("-1 0x7f 0x7f\n"), Some(Doing::Else));
        assert_eq!(Doing::parse("230 0x1 0x0 0x7 0x0 0x0 0x0 0x7f 0x7f\n"), Some(Doing::Else));
        for text in ["", "16", "16 0x9", "16 9 0xae80 0 0 0 0 0 0", "sleeping"] {
            assert_eq!(Doing::parse(text), None, "{text}");
        }
    }

    #[test]
    fn mappings_have_the_identity_stat_gives() {
        let line = "7f2868f19000-7f2869019000 rw-s 00000000 00:10 21711                      anon_inode:[kvm-gmem]";
        let map = MapLine::parse(line).unwrap();
        assert_eq!((map.start, map.end, map.name), (0x7f28_68f1_9000, 0x7f28_6901_9000, "anon_inode:[kvm-gmem]"));
        assert_eq!(map.file, FileId { device: 0x10, inode: 21711 });
        let name = MapLine::parse("1-2 r--p 0 08:01 7 /a file (deleted)").unwrap().name.to_owned();
        assert_eq!(name, "/a file (deleted)");
        assert_eq!(MapLine::parse("7ffe-7fff rw-p 00000000 00:00 0 "), None);
    }

    #[test]
    fn small_texts() {
        assert_eq!(close_on_exec("pos:\t0\nflags:\t02000002\nmnt_id:\t17\n"), Some(true));
        assert_eq!(close_on_exec("pos:\t0\nflags:\t0100002\nmnt_id:\t17\n"), Some(false));
        assert_eq!(uid("Name:\tx\nUid:\t1000\t0\t0\t0\n"), Some(1000));
        assert_eq!(process_of_thread("Name:\tx\nTgid:\t77\nPid:\t78\n"), Some(77));
        assert_eq!(boot_time("cpu 1 2\nbtime 1795000000\n"), Some(1_795_000_000));
        assert_eq!(vm_directory("20851-4"), Some((20851, 4)));
        assert_eq!(["blocking", "1-", "-1", "1-2-3", "+1-2"].map(vm_directory), [None; 5]);
        assert_eq!(user_name("root:x:0:0::/:/bin/sh\nvm:x:107:107::/:\n", 107), Some("vm"));
        let mounts = "proc /proc proc rw 0 0\nnone /sys/kernel/a\\040b debugfs rw 0 0\n";
        assert_eq!(debugfs(mounts).as_deref(), Some("/sys/kernel/a b"));
        assert_eq!(debugfs("none /x\\04 debugfs rw 0 0\n"), None);
    }

    proptest! {
        /// no-silent-trust: whatever a process makes of its name and its mappings' names, nothing panics.
        #[test]
        fn no_silent_trust_any_text(text in "\\PC*|[-0-9a-fx() :\\\\]{0,60}") {
            let _ = (Stat::parse(&text), uid(&text), process_of_thread(&text), close_on_exec(&text));
            let _ = (boot_time(&text), MapLine::parse(&text), Doing::parse(&text), vm_directory(&text));
            let _ = (debugfs(&format!("none {text} debugfs")), user_name(&text, 0));
        }

        /// Any command is read back, and the fields after it are where they should be.
        #[test]
        fn stat_is_read_back(command in "[ -~]{0,15}", parent: u32, started: u64, flags: u32) {
            let text = format!("7 ({command}) S {parent} 1 1 0 -1 {flags} 0 0 0 0 0 0 0 0 20 0 1 0 {started} 1 1 1");
            let stat = Stat::parse(&text).unwrap();
            prop_assert_eq!((stat.command, stat.parent, stat.started_ticks), (command, parent, started));
            prop_assert_eq!(stat.flags, flags);
        }
    }
}
