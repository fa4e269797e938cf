//! The kernel's own trace of what was freed when, and law *pages-before-key* read off it.
//!
//! Six probes. A guest_memfd holds a reference to its VM, so the kernel always calls its release before the VM's
//! destruction, whatever a VMM does: that alone proves nothing. Its pages are freed later, when its inode is evicted, and
//! that is the moment that must have passed before the destruction of the VM begins. Closed in the wrong order, release
//! destroys the VM and then frees the pages; a case of this program makes sure that this is noticed.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use tenure_lab::Host;

const TRACEFS: &str = "/sys/kernel/tracing";
/// Kilobytes for each processor: some hundred times what a run takes.
const BUFFER_KB: &str = "4096";

/// What is probed. `file->private_data` is the guest_memfd's `struct kvm_gmem` (`gmem_file` in later versions), which
/// begins with a pointer to its VM; were it elsewhere, a file of an unknown VM would be reported. Eviction is recorded
/// when it returns. A VM whose creation is given up, as by a signal, is only undone: there is no destruction.
const PROBES: [(&str, &str); 6] = [
    ("vm_created", "p:closing/vm_created kvm_arch_init_vm vm=$arg1:x64"),
    ("gmem_created", "p:closing/gmem_created kvm_gmem_create vm=$arg1:x64"),
    ("gmem_released", "p:closing/gmem_released kvm_gmem_release inode=$arg1:x64 vm=+0(+PRIVATE_DATA($arg2)):x64"),
    ("inode_evicted", "r:closing/inode_evicted evict inode=$arg1:x64"),
    ("vm_destroyed", "p:closing/vm_destroyed kvm_destroy_vm vm=$arg1:x64"),
    ("vm_undone", "p:closing/vm_undone kvm_arch_destroy_vm vm=$arg1:x64"),
];

/// Where `private_data` is in `struct file` (Linux `include/linux/fs.h`): the reference count stood before it up to 6.12.
fn offset_of_private_data(release: &str) -> Result<&'static str> {
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => Ok(if (major, minor) < (6, 13) { "32" } else { "24" }),
        _ => bail!("a kernel of version {release:?}"),
    }
}

/// The tracer of a lab host.
#[derive(Debug)]
pub(crate) struct Tracer;

/// A line of the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    VmCreated { vm: u64 },
    GmemCreated { vm: u64 },
    GmemReleased { vm: u64, inode: u64 },
    InodeEvicted { inode: u64 },
    VmDestroyed { vm: u64 },
    VmUndone { vm: u64 },
}

/// What the trace says of one VM.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Life {
    /// guest_memfds that were created.
    pub created: usize,
    /// guest_memfds that were released.
    pub released: usize,
    /// guest_memfds whose pages were freed.
    pub freed: usize,
    /// Whether the VM is gone.
    pub destroyed: bool,
    /// What was not as the law says.
    pub violations: Vec<String>,
}

/// What the trace says of all VMs since it was cleared, in the order of their creation.
#[derive(Debug, Default)]
pub(crate) struct Lives(pub Vec<Life>);

impl Tracer {
    /// Sets the probes and starts tracing.
    pub(crate) fn start(host: &Host) -> Result<Self> {
        let write = |file: &str, text: &str| {
            host.write(&format!("{TRACEFS}/{file}"), text).with_context(|| format!("tracing: {text:?} to {file}"))
        };
        // Every processor counts in the same order.
        write("trace_clock", "counter")?;
        write("buffer_size_kb", BUFFER_KB)?;
        let private_data = offset_of_private_data(&host.read_to_string("/proc/sys/kernel/osrelease")?)?;
        let probes = PROBES.map(|(_, probe)| probe.replace("PRIVATE_DATA", private_data));
        write("kprobe_events", &(probes.join("\n") + "\n"))?;
        for (name, _) in PROBES {
            write(&format!("events/closing/{name}/enable"), "1")?;
        }
        write("tracing_on", "1")?;
        let tracer = Self;
        tracer.clear(host)?;
        Ok(tracer)
    }

    /// Forgets everything so far.
    pub(crate) fn clear(&self, host: &Host) -> Result<()> {
        // Opening it for replacement is what clears it.
        Ok(host.write(&format!("{TRACEFS}/trace"), "")?)
    }

    /// Everything since the trace was cleared. An error if anything of it was lost.
    pub(crate) fn read(&self, host: &Host) -> Result<Lives> {
        let text = host.read_to_string(&format!("{TRACEFS}/trace"))?;
        let header = text.lines().find_map(|line| line.split_once("entries-in-buffer/entries-written: "));
        let (_, counts) = header.context("the trace does not say how much of it there is")?;
        let counts = counts.split_whitespace().next().and_then(|counts| counts.split_once('/'));
        ensure!(counts.is_some_and(|(kept, written)| kept == written), "the trace has lost entries: {counts:?}");
        let profile = host.read_to_string(&format!("{TRACEFS}/kprobe_profile"))?;
        for line in profile.lines() {
            let misses = line.split_whitespace().last();
            ensure!(misses == Some("0"), "a probe was missed: {line}");
        }
        let events: Vec<Event> = text.lines().map(parse).filter_map(Result::transpose).collect::<Result<_>>()?;
        lives(&events)
    }
}

/// One line; none for comments.
fn parse(line: &str) -> Result<Option<Event>> {
    if line.starts_with('#') || line.trim().is_empty() {
        return Ok(None);
    }
    let (name, rest) = PROBES
        .iter()
        .find_map(|(name, _)| Some((*name, line.split_once(&format!(" {name}: "))?.1)))
        .with_context(|| format!("a line of the trace that no probe wrote: {line}"))?;
    let field = |key: &str| {
        let value = rest.split_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix("=0x"));
        let value = value.with_context(|| format!("no {key} in {line}"))?;
        u64::from_str_radix(value, 16).with_context(|| format!("{key} in {line}"))
    };
    Ok(Some(match name {
        "vm_created" => Event::VmCreated { vm: field("vm")? },
        "gmem_created" => Event::GmemCreated { vm: field("vm")? },
        "gmem_released" => Event::GmemReleased { vm: field("vm")?, inode: field("inode")? },
        "inode_evicted" => Event::InodeEvicted { inode: field("inode")? },
        "vm_destroyed" => Event::VmDestroyed { vm: field("vm")? },
        _ => Event::VmUndone { vm: field("vm")? },
    }))
}

/// Follows every VM. An error if the events make no sense: an address is a VM's from its creation to its destruction.
fn lives(events: &[Event]) -> Result<Lives> {
    let mut lives = Vec::<Life>::new();
    let mut living = BTreeMap::<u64, usize>::new();
    // Released files whose pages are still there, and whose they are.
    let mut pages = BTreeMap::<u64, usize>::new();
    for event in events {
        match *event {
            Event::VmCreated { vm } => {
                ensure!(living.insert(vm, lives.len()).is_none(), "VM {vm:#x} is created twice: {events:?}");
                lives.push(Life::default());
            }
            Event::GmemCreated { vm } => {
                let Some(life) = living.get(&vm) else { bail!("a guest_memfd of an unknown VM {vm:#x}: {events:?}") };
                lives[*life].created += 1;
            }
            Event::GmemReleased { vm, inode } => {
                let Some(life) = living.get(&vm) else { bail!("an unknown VM {vm:#x} releases: {events:?}") };
                lives[*life].released += 1;
                pages.insert(inode, *life);
            }
            Event::InodeEvicted { inode } => {
                if let Some(life) = pages.remove(&inode).map(|life| &mut lives[life]) {
                    life.freed += 1;
                    if life.destroyed {
                        life.violations.push("pages were freed after the VM was destroyed".to_owned());
                    }
                }
            }
            Event::VmDestroyed { vm } => {
                let Some(life) = living.remove(&vm) else { bail!("an unknown VM {vm:#x} is destroyed: {events:?}") };
                let life = &mut lives[life];
                life.destroyed = true;
                if life.freed < life.created {
                    let left = life.created - life.freed;
                    life.violations.push(format!("the VM was destroyed while {left} guest_memfds had pages"));
                }
            }
            // The last part of a destruction, and all there is where the creation was given up.
            Event::VmUndone { vm } => {
                if let Some(life) = living.remove(&vm) {
                    ensure!(lives[life].created == 0, "VM {vm:#x} is undone and was not destroyed: {events:?}");
                    lives[life].destroyed = true;
                }
            }
        }
    }
    Ok(Lives(lives))
}

impl Lives {
    /// Asserts the law, and that nothing is left of any VM.
    pub(crate) fn check(&self) -> Result<()> {
        for life in &self.0 {
            ensure!(life.violations.is_empty(), "law pages-before-key is broken: {life:?}");
            ensure!(life.destroyed, "the host kernel still holds a VM: {life:?}");
            ensure!(
                life.freed == life.created && life.released == life.created,
                "the host kernel holds pages: {life:?}"
            );
        }
        Ok(())
    }

    /// How many guest_memfds there were.
    pub(crate) fn guest_memfds(&self) -> usize {
        self.0.iter().map(|life| life.created).sum()
    }
}
