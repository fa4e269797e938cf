//! Whether a process's vCPUs run.
//!
//! Owns looking at threads, several times: a vCPU leaves `KVM_RUN` for each exit that its VMM handles, and one look
//! would often miss it. What the kernel tells of a thread:
//!
//! - it waits: in which system call, with which arguments. A halted vCPU waits in `KVM_RUN`;
//! - it is on a processor or waits for one: not where. Guest mode itself sets a flag that everybody can see (`PF_VCPU`),
//!   but not on every kind of KVM, and not while KVM emulates. Then there is only the saved kernel stack, which root
//!   can read and which may be old.
//!
//! Specification: Linux `kernel/fork.c`, `lib/syscall.c`, `include/linux/context_tracking.h`; `KVM_RUN` in
//! Documentation/virt/kvm/api.rst, 4.10.

use super::inspect::Inspect;
use super::look::{Look, is_gone, text};
use super::proc::Doing;
use super::seen::{Holder, How, Identity, Vcpus};
use gmem_kvm::evidence::Object;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::path::PathBuf;

/// Where KVM runs a vCPU, on every architecture.
const STACK: &str = "kvm_arch_vcpu_ioctl_run";

/// What was seen of one process's threads that says nothing by itself.
#[derive(Debug, Default)]
struct Doubts {
    /// How often each thread was on a processor, without a sign of guest mode.
    on_processor: HashMap<u32, u32>,
    unreadable: Option<String>,
}

impl<K: Inspect> Look<'_, K> {
    /// Looks at the threads of all that have vCPUs, until each vCPU was seen to run or there were enough looks.
    pub(super) fn sample(&self, holders: &mut BTreeMap<u32, Holder>) {
        let mut doubts: HashMap<u32, Doubts> = HashMap::new();
        let mut open: Vec<&mut Holder> = holders.values_mut().filter(|holder| holder.has_vcpus()).collect();
        for round in 0..self.samples {
            open.retain(|holder| holder.vcpus.running.len() < vcpus(holder).max(1));
            if open.is_empty() {
                break;
            }
            if round != 0 {
                self.kernel.wait(self.interval);
            }
            for holder in &mut open {
                self.look_at_threads(holder, doubts.entry(holder.who.pid).or_default());
            }
        }
        for (pid, doubts) in doubts {
            if let Some(holder) = holders.get_mut(&pid) {
                settle(holder, doubts);
            }
        }
    }

    fn look_at_threads(&self, holder: &mut Holder, doubts: &mut Doubts) {
        holder.vcpus.samples += 1;
        let tasks = PathBuf::from(format!("{}/task", holder.who.pid));
        let threads = match fs::read_dir(self.proc(&tasks)) {
            Ok(threads) => threads,
            Err(error) => return doubt(doubts, &error),
        };
        for entry in threads.flatten() {
            let Some(thread) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let Ok(stat) = self.stat(tasks.join(entry.file_name())) else { continue };
            if stat.is_kernels_worker() {
                continue;
            }
            if stat.in_guest_mode() {
                holder.vcpus.running.insert(thread, How::InGuestMode);
                continue;
            }
            let path = entry.path().join("syscall");
            let doing = match text(&path) {
                Ok(text) => Doing::parse(&text),
                // A thread that has ended, unless it is only this file that is not there.
                Err(error) if is_gone(&error) && !entry.path().join("stat").exists() => continue,
                Err(error) => {
                    doubt(doubts, &error);
                    continue;
                }
            };
            match doing {
                Some(Doing::KvmRun { fd }) if holder.of(Object::Vcpu).any(|vcpu| vcpu.fd == fd) => {
                    holder.vcpus.running.insert(thread, How::InCall { fd });
                }
                Some(Doing::Running) => {
                    // Of a thread that runs the saved stack is not always one that can be walked: asked each time.
                    if text(&entry.path().join("stack")).is_ok_and(|stack| stack.contains(STACK)) {
                        holder.vcpus.running.entry(thread).or_insert(How::ByStack);
                    }
                    *doubts.on_processor.entry(thread).or_default() += 1;
                }
                Some(Doing::KvmRun { .. } | Doing::Else) => {}
                None => doubts.unreadable = Some("what its threads do cannot be understood".into()),
            }
        }
    }
}

/// A thread that was on a processor each time may have been in `KVM_RUN` all the time.
fn settle(holder: &mut Holder, doubts: Doubts) {
    let Vcpus { running, samples, .. } = &holder.vcpus;
    let unclear =
        |(thread, count): (u32, u32)| (count == *samples && !running.contains_key(&thread)).then(|| thread.to_string());
    let mut unclear: Vec<String> = doubts.on_processor.into_iter().filter_map(unclear).collect();
    unclear.sort_unstable();
    holder.vcpus.unknown = match (doubts.unreadable, unclear.is_empty()) {
        (Some(why), _) => Some(why),
        (None, true) => None,
        (None, false) => {
            let threads = unclear.join(", ");
            Some(format!("on a processor each time, and it cannot be seen whether in a guest: thread {threads}"))
        }
    };
}

fn doubt(doubts: &mut Doubts, error: &io::Error) {
    doubts.unreadable = Some(format!("what its threads do cannot be read: {error}"));
}

/// How many vCPUs a process has open.
pub(super) fn vcpus(holder: &Holder) -> usize {
    let (mut known, mut unknown) = (BTreeSet::new(), 0);
    for vcpu in holder.of(Object::Vcpu) {
        match vcpu.identity {
            Identity::Unknown => unknown += 1,
            identity => drop(known.insert(identity)),
        }
    }
    known.len() + unknown
}
