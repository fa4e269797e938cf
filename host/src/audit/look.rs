//! One look at a host: every process once, then only those that hold something.
//!
//! Owns reading `/proc`. Processes come and go meanwhile: one that is gone is left out, one that cannot be read is
//! counted. Looking is not free of effect, and nothing that looks can be: the kernel itself holds a file for the
//! microseconds in which it tells its name, as it does for `ls -l /proc/PID/fd`.
//!
//! Not seen, because `/proc` does not show it: descriptors on their way through a socket, files registered with io_uring,
//! and a descriptor table that a thread has to itself. A VM that only those hold is in debugfs (`vms`).
//!
//! Specification: `proc(5)`, `kcmp(2)`.

use super::AuditError;
use super::inspect::Inspect;
use super::proc::{self, MapLine, Stat};
use super::seen::{Descriptor, Holder, Identity, Mapping, Moment, Seen, Unseen, Vcpus, Who};
use gmem_kvm::evidence::{Object, recognise};
use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Clock times are coarse, and a process's start is derived from two of them.
pub(super) const SLACK: u64 = 2;
/// Nobody's family is older; ends the walk if numbers are reused meanwhile.
const GENERATIONS: usize = 64;
/// More of a command line helps nobody.
const COMMAND_LINE: u64 = 4096;

/// How a host is looked at.
#[derive(Debug)]
pub(super) struct Look<'a, K> {
    pub(super) root: &'a Path,
    pub(super) kernel: &'a K,
    /// How often threads are looked at, at most.
    pub(super) samples: u32,
    /// How long between.
    pub(super) interval: Duration,
    pub(super) ticks_per_second: u64,
}

/// A file's text; bytes that are none are replaced.
pub(super) fn text(path: &Path) -> io::Result<String> {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
}

/// Whether what was to be read is gone, rather than kept from us.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

impl<K: Inspect> Look<'_, K> {
    pub(super) fn look(&self) -> Result<Seen, AuditError> {
        let mut seen = Seen::default();
        let first_vms = self.list_vms();
        let pids = self.pids()?;
        let mut hidden: BTreeMap<String, Vec<u32>> = BTreeMap::new();
        let users = text(&self.root.join("etc/passwd")).unwrap_or_default();
        let boot = text(&self.proc("stat")).ok().and_then(|stat| proc::boot_time(&stat));
        for &pid in &pids {
            match self.process(pid, boot, &users) {
                Ok(None) => seen.looked_at += 1,
                Ok(Some(holder)) => {
                    seen.looked_at += 1;
                    seen.holders.insert(pid, holder);
                }
                Err(error) if is_gone(&error) => {}
                Err(error) => hidden.entry(error.to_string()).or_default().push(pid),
            }
        }
        self.note_hidden(&mut seen, hidden);
        self.note_place(&mut seen, &pids);
        self.identify(&mut seen);
        self.families(&mut seen);
        self.sample(&mut seen.holders);
        // A number that was given to another process meanwhile would make one of two.
        seen.holders.retain(|&pid, holder| self.started(pid) == Some(holder.started_ticks));
        self.kernel_vms(&mut seen, first_vms, boot);
        Ok(seen)
    }

    pub(super) fn proc(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join("proc").join(path)
    }

    pub(super) fn stat(&self, task: impl AsRef<Path>) -> io::Result<Stat> {
        let text = text(&self.proc(task).join("stat"))?;
        Stat::parse(&text).ok_or_else(|| io::Error::new(ErrorKind::InvalidData, "its stat cannot be understood"))
    }

    fn started(&self, pid: u32) -> Option<u64> {
        self.stat(pid.to_string()).ok().map(|stat| stat.started_ticks)
    }

    /// Ticks after boot on the calendar.
    pub(super) fn moment(&self, ticks: u64, boot: Option<u64>) -> Option<Moment> {
        boot?.checked_add(ticks.checked_div(self.ticks_per_second)?).map(Moment)
    }

    fn pids(&self) -> Result<Vec<u32>, AuditError> {
        let path = self.proc("");
        let failed = |source| AuditError::Proc { path: path.clone(), source };
        let mut pids = Vec::new();
        for entry in fs::read_dir(&path).map_err(failed)? {
            pids.extend(entry.map_err(failed)?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
        }
        if pids.is_empty() {
            return Err(AuditError::NoProcesses { path });
        }
        pids.sort_unstable();
        Ok(pids)
    }

    /// A process, if it holds anything.
    fn process(&self, pid: u32, boot: Option<u64>, users: &str) -> io::Result<Option<Holder>> {
        let home = PathBuf::from(pid.to_string());
        let stat = self.stat(&home)?;
        if stat.is_kernel_thread() {
            return Ok(None);
        }
        let task = if stat.has_ended() { self.living_thread(pid)? } else { pid };
        let descriptors = self.descriptors(task)?;
        let mappings = self.mappings(task)?;
        if descriptors.is_empty() && mappings.is_empty() {
            return Ok(None);
        }
        let uid = text(&self.proc(&home).join("status")).ok().and_then(|status| proc::uid(&status));
        Ok(Some(Holder {
            who: Who { pid, command: stat.command },
            task,
            command_line: self.command_line(pid),
            uid,
            user: uid.and_then(|uid| proc::user_name(users, uid)).map(str::to_owned),
            started_ticks: stat.started_ticks,
            started: self.moment(stat.started_ticks, boot),
            ancestors: Vec::new(),
            descriptors,
            mappings,
            vcpus: Vcpus::default(),
        }))
    }

    /// A process whose first thread has ended lives on in the others. None of them: it waits for its parent, and holds
    /// nothing.
    fn living_thread(&self, pid: u32) -> io::Result<u32> {
        for entry in fs::read_dir(self.proc(format!("{pid}/task")))? {
            let Some(thread) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if self.stat(format!("{pid}/task/{thread}")).is_ok_and(|stat| !stat.has_ended()) {
                return Ok(thread);
            }
        }
        Err(ErrorKind::NotFound.into())
    }

    fn descriptors(&self, pid: u32) -> io::Result<Vec<Descriptor>> {
        let mut found = Vec::new();
        let home = self.proc(pid.to_string());
        for entry in fs::read_dir(home.join("fd"))? {
            let entry = entry?;
            let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let link = entry.path();
            let name = match fs::read_link(&link) {
                Ok(name) => name.to_string_lossy().into_owned(),
                Err(error) if is_gone(&error) => continue,
                Err(error) => return Err(error),
            };
            let Some(object) = recognise(&name) else { continue };
            let mut descriptor = Descriptor {
                fd,
                object,
                name,
                identity: Identity::Unknown,
                bytes: None,
                created: None,
                close_on_exec: text(&home.join(format!("fdinfo/{fd}")))
                    .ok()
                    .and_then(|info| proc::close_on_exec(&info)),
            };
            if object == Object::GuestMemfd {
                match self.kernel.stat(&link) {
                    Ok(facts) => {
                        descriptor.identity = Identity::File(facts.id);
                        descriptor.bytes = Some(facts.bytes);
                        descriptor.created = facts.created;
                    }
                    Err(error) if is_gone(&error) => continue,
                    Err(error) => return Err(error),
                }
            }
            found.push(descriptor);
        }
        found.sort_by_key(|descriptor| descriptor.fd);
        Ok(found)
    }

    /// Line by line: a process may have very many.
    fn mappings(&self, pid: u32) -> io::Result<Vec<Mapping>> {
        let mut found = Vec::new();
        let mut maps = BufReader::new(File::open(self.proc(format!("{pid}/maps")))?);
        let mut line = Vec::new();
        while maps.read_until(b'\n', &mut line)? != 0 {
            let text = String::from_utf8_lossy(&line);
            let map = MapLine::parse(text.trim_end());
            found.extend(map.and_then(|map| self.mapping(pid, &map)));
            line.clear();
        }
        Ok(found)
    }

    fn mapping(&self, pid: u32, map: &MapLine<'_>) -> Option<Mapping> {
        let &MapLine { start, end, file, name } = map;
        let object = recognise(name)?;
        // These links are for root only, and a mapping is found without.
        let link = self.proc(format!("{pid}/map_files/{start:x}-{end:x}"));
        let facts = (object == Object::GuestMemfd).then(|| self.kernel.stat(&link).ok()).flatten();
        let facts = facts.filter(|facts| facts.id == file);
        let (bytes, created) = (facts.map(|facts| facts.bytes), facts.and_then(|facts| facts.created));
        Some(Mapping { start, end, object, name: name.to_owned(), file, bytes, created })
    }

    fn command_line(&self, pid: u32) -> Option<String> {
        let mut bytes = Vec::new();
        let file = File::open(self.proc(format!("{pid}/cmdline"))).ok()?;
        file.take(COMMAND_LINE).read_to_end(&mut bytes).ok()?;
        let words: Vec<_> = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        Some(words.join(" ").trim_end().to_owned()).filter(|line| !line.is_empty())
    }

    /// Finds out which descriptors of VMs, vCPUs and their kin are the same open file: `stat` does not tell.
    fn identify(&self, seen: &mut Seen) {
        let mut known: HashMap<String, Vec<(u32, u32, usize)>> = HashMap::new();
        let (mut next, mut refused) = (0, None);
        for holder in seen.holders.values_mut() {
            let pid = holder.task;
            for descriptor in holder.descriptors.iter_mut().filter(|other| other.object != Object::GuestMemfd) {
                let same_name = known.entry(descriptor.name.clone()).or_default();
                match self.find(same_name, (pid, descriptor.fd)) {
                    Ok(Ok(number)) => descriptor.identity = Identity::Compared(number),
                    Ok(Err(place)) => {
                        same_name.insert(place, (pid, descriptor.fd, next));
                        descriptor.identity = Identity::Compared(next);
                        next += 1;
                    }
                    Err(error) if is_gone(&error) => {}
                    Err(error) => refused = Some(error),
                }
            }
        }
        if let Some(error) = refused {
            seen.unseen.push(Unseen {
                what: "which descriptors of VMs and vCPUs are the same one".into(),
                why: format!("kcmp: {error}"),
                so: "VMs are counted by their descriptors, and copies of these count again".into(),
                remedy: Some("run it as root; the kernel needs CONFIG_KCMP".into()),
            });
        }
    }

    /// The number of the same file among those that are known, in order, or else where it belongs.
    fn find(&self, known: &[(u32, u32, usize)], place: (u32, u32)) -> io::Result<Result<usize, usize>> {
        let (mut low, mut high) = (0, known.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let (pid, fd, number) = known[middle];
            match self.kernel.compare(place, (pid, fd))? {
                Some(Ordering::Equal) => return Ok(Ok(number)),
                Some(Ordering::Less) => high = middle,
                // Without an order it only matters that it is another one.
                Some(Ordering::Greater) | None => low = middle + 1,
            }
        }
        Ok(Err(low))
    }

    fn families(&self, seen: &mut Seen) {
        let mut known: HashMap<u32, Option<(Who, u32)>> = HashMap::new();
        for holder in seen.holders.values_mut() {
            let mut next = self.stat(holder.who.pid.to_string()).ok().map(|stat| stat.parent);
            while let Some(pid) = next.filter(|pid| *pid != 0 && holder.ancestors.len() < GENERATIONS) {
                let parent = known.entry(pid).or_insert_with(|| {
                    let stat = self.stat(pid.to_string()).ok()?;
                    Some((Who { pid, command: stat.command }, stat.parent))
                });
                next = parent.as_ref().map(|(_, parent)| *parent);
                holder.ancestors.extend(parent.as_ref().map(|(who, _)| who.clone()));
            }
        }
    }

    fn note_hidden(&self, seen: &mut Seen, hidden: BTreeMap<String, Vec<u32>>) {
        for (why, pids) in hidden {
            seen.hidden += pids.len();
            let some: Vec<_> = pids.iter().take(5).map(u32::to_string).collect();
            let more = if pids.len() > some.len() { ", ..." } else { "" };
            let who = if pids.len() == 1 { "process" } else { "processes" };
            seen.unseen.push(Unseen {
                what: format!("descriptors and mappings of {} {who}: {}{more}", pids.len(), some.join(", ")),
                why,
                so: "they may hold private memory that is not listed here".into(),
                remedy: Some(
                    "run it as root, with CAP_SYS_PTRACE and no fewer capabilities than these processes".into(),
                ),
            });
        }
    }

    /// Says if `/proc` shows only some of the host's processes.
    fn note_place(&self, seen: &mut Seen, pids: &[u32]) {
        if pids.first() != Some(&1) {
            seen.unseen.push(Unseen {
                what: "processes of other users".into(),
                why: "/proc does not show process 1: it is mounted with hidepid".into(),
                so: "they may hold private memory that is not listed here".into(),
                remedy: Some("run it as root".into()),
            });
        }
        if !self.in_first_namespace() {
            seen.unseen.push(Unseen {
                what: "processes outside of this container".into(),
                why: "this is not, or not known to be, the first pid namespace".into(),
                so: "they may hold private memory that is not listed here".into(),
                remedy: Some("run it on the host itself".into()),
            });
        }
    }

    /// Whether process numbers here are those the kernel itself uses. The first namespace has a fixed number
    /// (`PROC_PID_INIT_INO` in Linux `include/linux/proc_ns.h`), and a kernel without `CONFIG_PID_NS` has no other.
    pub(super) fn in_first_namespace(&self) -> bool {
        match fs::read_link(self.proc("self/ns/pid")) {
            Ok(link) => link.as_os_str() == "pid:[4026531836]",
            Err(error) => error.kind() == ErrorKind::NotFound,
        }
    }
}
