//! The kernel's own list of VMs.
//!
//! Owns debugfs: a directory for each VM, named by the thread that created it and the descriptor it got. It is there as
//! long as the VM, whoever holds it. Which memory is a VM's it does not say, nor who holds it now.
//!
//! Specification: Linux 7.2 `virt/kvm/kvm_main.c`, `kvm_create_vm_debugfs`, `kvm_create_vcpu_debugfs`; not an ABI.

use super::inspect::Inspect;
use super::look::{Look, SLACK, is_gone, text};
use super::proc;
use super::seen::{Creator, KernelVm, Moment, Seen, Unseen};
use gmem_kvm::evidence::{Object, recognise};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// VMs by name, with their count of exits.
pub(super) type Listed = BTreeMap<String, io::Result<u64>>;

impl<K: Inspect> Look<'_, K> {
    /// The names the kernel lists; the error is why not, and what helps.
    pub(super) fn list_vms(&self) -> Result<Listed, (String, Option<String>)> {
        let directory = self.debugfs()?;
        let entries = fs::read_dir(&directory).map_err(|error| self.no_debugfs(&directory, &error))?;
        let mut listed = Listed::new();
        for entry in entries.flatten() {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if proc::vm_directory(&name).is_some() {
                listed.insert(name, exits(&entry.path()));
            }
        }
        Ok(listed)
    }

    fn debugfs(&self) -> Result<PathBuf, (String, Option<String>)> {
        if !self.in_first_namespace() {
            return Err(("the process numbers in debugfs are not those of this container".into(), None));
        }
        let mounts = text(&self.proc("self/mounts")).unwrap_or_default();
        let mounted = proc::debugfs(&mounts).ok_or_else(|| {
            let remedy = "mount -t debugfs none /sys/kernel/debug".to_owned();
            ("debugfs is not mounted".to_owned(), Some(remedy))
        })?;
        Ok(self.root.join(mounted.trim_start_matches('/')).join("kvm"))
    }

    fn no_debugfs(&self, directory: &Path, error: &io::Error) -> (String, Option<String>) {
        let remedy = if is_gone(error) { "load KVM; nothing can be there without it" } else { "run it as root" };
        (format!("{}: {error}", directory.display()), Some(remedy.to_owned()))
    }

    /// Adds those VMs that were listed before the processes were looked at and still are.
    pub(super) fn kernel_vms(
        &self,
        seen: &mut Seen,
        before: Result<Listed, (String, Option<String>)>,
        boot: Option<u64>,
    ) {
        let lists = before.and_then(|before| Ok((before, self.list_vms()?, self.debugfs()?)));
        let (before, after, directory) = match lists {
            Ok(lists) => lists,
            Err((why, remedy)) => {
                let what = "the kernel's own list of VMs".to_owned();
                let so = "a VM that no process holds openly is not found, and running is judged by threads alone";
                seen.unseen.push(Unseen { what, why, so: so.into(), remedy });
                return;
            }
        };
        let (mut vms, mut uncounted) = (Vec::new(), None);
        for (name, then) in before {
            let (Some((thread, fd)), Some(now)) = (proc::vm_directory(&name), after.get(&name)) else { continue };
            let exits = match (then, now) {
                (Ok(then), Ok(now)) => Some(now.saturating_sub(then)),
                (Err(error), _) => {
                    uncounted = Some(error.to_string());
                    None
                }
                (Ok(_), Err(error)) => {
                    uncounted = Some(error.to_string());
                    None
                }
            };
            let directory = directory.join(&name);
            let created = created(&directory);
            vms.push(KernelVm {
                thread,
                fd,
                created,
                vcpus: vcpus(&directory),
                exits,
                creator: self.creator(thread, fd, created, boot),
                name,
            });
        }
        if let Some(why) = uncounted {
            seen.unseen.push(Unseen {
                what: "exits of VMs, in debugfs".into(),
                why,
                so: "whether a guest runs is judged by threads alone".into(),
                remedy: Some("a kernel in lockdown shows them to nobody; else run it as root".into()),
            });
        }
        adopt(&mut vms, seen);
        seen.vms = Some(vms);
    }

    fn creator(&self, thread: u32, fd: u32, created: Option<Moment>, boot: Option<u64>) -> Creator {
        let home = PathBuf::from(thread.to_string());
        let Ok(stat) = self.stat(&home) else { return Creator::Gone };
        if let (Some(Moment(started)), Some(Moment(created))) = (self.moment(stat.started_ticks, boot), created)
            && started > created + SLACK
        {
            return Creator::Gone;
        }
        let status = text(&self.proc(&home).join("status"));
        let Some(pid) = status.ok().and_then(|status| proc::process_of_thread(&status)) else { return Creator::Gone };
        match fs::read_link(self.proc(&home).join(format!("fd/{fd}"))) {
            Ok(link) if recognise(&link.to_string_lossy()) == Some(Object::Vm) => Creator::Holds { pid },
            Ok(_) => Creator::LetGo { pid },
            Err(error) if is_gone(&error) => Creator::LetGo { pid },
            Err(_) => Creator::Hidden { pid },
        }
    }
}

/// A thread may end before its process does: a VM whose creating thread is gone is that of a process which has a VM of
/// that number, if one is as old and no other entry explains it.
fn adopt(vms: &mut [KernelVm], seen: &Seen) {
    let mut explained: BTreeSet<(u32, u32)> = BTreeSet::new();
    for vm in &*vms {
        if let Creator::Holds { pid } = vm.creator {
            explained.insert((pid, vm.fd));
        }
    }
    for vm in vms.iter_mut().filter(|vm| vm.creator == Creator::Gone) {
        let heir = seen.holders.values().find(|holder| {
            let as_old = match (holder.started, vm.created) {
                (Some(Moment(started)), Some(Moment(created))) => started <= created + SLACK,
                _ => false,
            };
            let is_child_of_it = holder.ancestors.iter().any(|who| who.pid == vm.thread);
            as_old
                && !is_child_of_it
                && holder.of(Object::Vm).any(|one| one.fd == vm.fd)
                && !explained.contains(&(holder.who.pid, vm.fd))
        });
        if let Some(heir) = heir {
            let pid = heir.who.pid;
            explained.insert((pid, vm.fd));
            vm.creator = Creator::Holds { pid };
        }
    }
}

/// While the file is open the kernel holds the VM, as it does for everybody who reads it.
fn exits(directory: &Path) -> io::Result<u64> {
    let exits = text(&directory.join("exits"))?;
    exits.trim().parse().map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is no number"))
}

fn vcpus(directory: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(directory) else { return 0 };
    let names = entries.flatten().map(|entry| entry.file_name());
    names.filter(|name| name.to_str().is_some_and(is_vcpu)).map(|_| 1).sum()
}

fn is_vcpu(name: &str) -> bool {
    name.strip_prefix("vcpu").is_some_and(|number| number.parse::<u32>().is_ok())
}

/// Its files are as old as the VM; the directory itself changes with each vCPU.
fn created(directory: &Path) -> Option<Moment> {
    let stat = fs::metadata(directory.join("exits")).or_else(|_| fs::metadata(directory)).ok()?;
    u64::try_from(stat.mtime().min(stat.ctime())).ok().map(Moment)
}
