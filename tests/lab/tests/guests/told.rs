//! What the lab host's kernel was told about its guests' pages: its own trace, independent of `tenure`'s ledger.
//!
//! Probes the kernel's entry for ioctls of a VM and reads the requests from the caller's memory, so it sees exactly
//! what was asked and what came of it.

use std::collections::{BTreeSet, HashMap};

use anyhow::{Context, Result, bail, ensure};
use tenure_lab::Host;

const TRACING: &str = "/sys/kernel/tracing";
/// `KVM_SET_MEMORY_ATTRIBUTES`: `_IOW(KVMIO, 0xd2, struct kvm_memory_attributes)`; linux/kvm.h.
const SET_MEMORY_ATTRIBUTES: u32 = 0x4020_aed2;
/// `KVM_MEMORY_ATTRIBUTE_PRIVATE`.
const PRIVATE: u64 = 1 << 3;
const PAGE_SIZE: u64 = 4096;
/// Room for the trace on each processor: no event may be lost.
const BUFFER_KIB: u32 = 32 << 10;

/// `struct kvm_memory_attributes` is address, size, attributes, flags, 8 bytes each; the kernel's entry has the
/// command in its second argument and the structure's address in its third.
fn probes() -> String {
    [
        "p:tenure/asked kvm_vm_ioctl command=%si:u32 address=+u0(%dx):u64 size=+u8(%dx):u64 attributes=+u16(%dx):u64",
        "r:tenure/answered kvm_vm_ioctl result=$retval:s64",
        "p:tenure/touched kvm_gmem_get_pfn gfn=%dx:u64",
    ]
    .join("\n")
}

/// A trace that is being taken.
pub(crate) struct Trace<'a> {
    host: &'a Host,
}

/// What a trace tells.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Pages that are private at the end.
    pub private: BTreeSet<u64>,
    /// Requests to change attributes.
    pub requests: u64,
    /// Requests that changed nothing.
    pub idle_requests: u64,
    /// Pages that became shared, counted each time.
    pub to_shared: u64,
    /// Pages that became private, counted each time.
    pub to_private: u64,
    /// Private pages the guest touched, whatever became of them.
    pub touched: BTreeSet<u64>,
}

impl<'a> Trace<'a> {
    /// Starts an empty trace.
    pub(crate) fn start(host: &'a Host) -> Result<Self> {
        let trace = Self { host };
        trace.write("tracing_on", "0")?;
        trace.write("buffer_size_kb", &BUFFER_KIB.to_string())?;
        trace.write("trace", "")?;
        let _ = trace.write("events/tenure/enable", "0");
        trace.write("kprobe_events", &probes())?;
        trace.write("events/tenure/asked/filter", &format!("command == {SET_MEMORY_ATTRIBUTES}"))?;
        trace.write("events/tenure/enable", "1")?;
        trace.write("tracing_on", "1")?;
        Ok(trace)
    }

    /// Ends it.
    pub(crate) fn finish(self) -> Result<Told> {
        self.write("tracing_on", "0")?;
        let text = self.host.read_to_string(&format!("{TRACING}/trace"))?;
        let profile = self.host.read_to_string(&format!("{TRACING}/kprobe_profile"))?;
        self.write("events/tenure/enable", "0")?;
        self.write("kprobe_events", "")?;
        self.write("trace", "")?;
        for line in profile.lines() {
            // Event, hits, misses.
            ensure!(line.split_whitespace().nth(2) == Some("0"), "the kernel's trace missed calls: {line}");
        }
        read(&text)
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        self.host.write(&format!("{TRACING}/{file}"), text).with_context(|| file.to_owned())
    }
}

/// Replays a trace.
fn read(text: &str) -> Result<Told> {
    let mut told = Told::default();
    let mut asked = HashMap::new();
    for line in text.lines() {
        // "# entries-in-buffer/entries-written: 12/12   #P:2": what is not in the buffer any more was lost.
        if let Some(counts) = line.strip_prefix("# entries-in-buffer/entries-written: ") {
            let counts = counts.split_whitespace().next().and_then(|counts| counts.split_once('/'));
            ensure!(counts.is_some_and(|(kept, written)| kept == written), "the trace is not whole: {line}");
        }
        ensure!(!line.contains("LOST"), "the trace is not whole: {line}");
        let Some(entry) = Entry::read(line) else { continue };
        match entry.event {
            "asked" => {
                let request = (entry.number("address")?, entry.number("size")?, entry.number("attributes")?);
                ensure!(asked.insert(entry.thread, request).is_none(), "a call within a call: {line}");
            }
            // Of another command, if none was noted.
            "answered" => {
                let Some(request) = asked.remove(entry.thread) else { continue };
                ensure!(entry.field("result") == Some("0"), "the kernel refused {request:x?}: {line}");
                told.apply(request);
            }
            "touched" => drop(told.touched.insert(entry.number("gfn")?)),
            other => bail!("unknown event {other}"),
        }
    }
    ensure!(asked.is_empty(), "no answer to {asked:x?}");
    Ok(told)
}

impl Told {
    fn apply(&mut self, (address, size, attributes): (u64, u64, u64)) {
        let pages = address / PAGE_SIZE..(address + size) / PAGE_SIZE;
        let private = attributes & PRIVATE != 0;
        let mut changed = 0;
        for page in pages {
            changed += u64::from(if private { self.private.insert(page) } else { self.private.remove(&page) });
        }
        self.requests += 1;
        self.idle_requests += u64::from(changed == 0);
        *if private { &mut self.to_private } else { &mut self.to_shared } += changed;
    }
}

/// A line of the trace: `NAME-THREAD [CPU] FLAGS TIME: EVENT: (PLACE) FIELD=VALUE ...`.
struct Entry<'a> {
    thread: &'a str,
    event: &'a str,
    fields: &'a str,
}

impl<'a> Entry<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let (task, rest) = line.split_once(" [").filter(|_| !line.starts_with('#'))?;
        let thread = task.trim().rsplit('-').next()?;
        let (_, rest) = rest.split_once(": ")?;
        let (event, fields) = rest.split_once(": ")?;
        Some(Self { thread, event, fields })
    }

    fn field(&self, name: &str) -> Option<&'a str> {
        self.fields.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
    }

    fn number(&self, name: &str) -> Result<u64> {
        let value = self.field(name).and_then(|value| value.parse().ok());
        value.with_context(|| format!("no {name} in {} {}", self.event, self.fields))
    }
}
