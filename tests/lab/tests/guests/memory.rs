//! Memory is single: what a run takes of the host is what its guest touched, and not a copy more.

use anyhow::{Context, Result, ensure};
use tenure_lab::{Command, Host};

use crate::common::bed::{self, Bed, TENURE};
use crate::common::vmm::Vmm;
use crate::linux;
use crate::told::Trace;
use test_harness::Verdict;

const PAGE_SIZE: u64 = 4096;
/// What `tenure` and the kernel may need besides the guest's pages.
const OVERHEAD_MAX: u64 = 16 << 20;
/// What the guest touches at least, in MiB.
const TOUCHED_MIB: u64 = 64;

/// Memory control group of a run.
pub(crate) struct Cgroup<'a> {
    pub host: &'a Host,
    pub name: &'a str,
}

/// Runs Linux until it has touched its memory, and compares.
pub(crate) fn is_single(bed: &mut Bed, guise: &str) -> Result<Verdict> {
    let host = bed.host()?;
    let trace = Trace::start(host)?;
    // One of its own for every run.
    let name = format!("memory-is-single-{guise}");
    // What is measured does not depend on the number of vCPUs; boots with two have cases of their own.
    let arguments = linux::arguments(1, guise, &format!("memory:{TOUCHED_MIB},wait"));
    let mut vmm = Vmm::start(host, &arguments, Some(&name))?;
    vmm.wait_for(linux::WAITING, 1)?;
    let cgroup = Cgroup { host, name: &name };
    let taken = cgroup.number("memory.current")?;
    let peak = cgroup.number("memory.peak")?;
    // Pages of a guest_memfd are never reclaimed; nothing else of a run is unevictable.
    let breakdown = cgroup.read("memory.stat")?;
    let private = line(&breakdown, "unevictable")?;
    let alias = alias_resident(host, &vmm)? * PAGE_SIZE;
    vmm.press_enter()?;
    let ended = vmm.wait()?;
    linux::check_guest(&ended, 1)?;
    let told = trace.finish()?;

    let touched = told.touched.len() as u64 * PAGE_SIZE;
    ensure!(touched >= TOUCHED_MIB << 20, "the kernel's trace has {touched} bytes touched");
    // What the guest touched and then shared is private no more.
    ensure!(private <= touched, "{private} bytes are private memory, but the guest touched {touched}");
    let bound = private + alias + OVERHEAD_MAX;
    ensure!(taken <= bound, "{taken} bytes taken; {private} private, {alias} shared\n{breakdown}");
    let ram = ended.pages("")?;
    let (shared, private_pages) = (ended.pages("shared")?, ended.pages("private")?);
    ensure!(
        private_pages == told.private.len() as u64 && shared == ram - told.private.len() as u64,
        "the ledger has {private_pages} private and {shared} shared pages, the kernel was told {} of {ram} are private",
        told.private.len()
    );
    // With the same counts on both sides, that makes them the same pages.
    let events = linux::shared_pages(&ended.events);
    ensure!(events.is_disjoint(&told.private), "pages shared by the events are private to the kernel");
    ensure!(events.len() as u64 == shared, "{} pages are shared by the events, {shared} by the receipt", events.len());
    ensure!(alias <= shared * PAGE_SIZE, "{alias} bytes of the alias take memory, {shared} pages are shared");
    // What `tenure` tells of it, which the guest's last steps may have added to.
    let (counted, _) = ended.resident_pages()?;
    let counted = counted.context("tenure does not tell what private memory takes")? * PAGE_SIZE;
    ensure!((private..=touched).contains(&counted), "{counted} bytes by tenure, {private} before the guest's end");
    ensure!(told.idle_requests == 0, "{} of {} requests changed nothing", told.idle_requests, told.requests);
    println!(
        "  attempt 1 of 1: ok: KiB taken {} (at most {}), private {}, shared {} in use of {}, overhead {} \
         (anonymous {}, kernel {}); \
         the kernel was told of {} pages in {} requests",
        taken >> 10,
        peak >> 10,
        private >> 10,
        alias >> 10,
        (shared * PAGE_SIZE) >> 10,
        taken.saturating_sub(private + alias) >> 10,
        line(&breakdown, "anon")? >> 10,
        line(&breakdown, "kernel")? >> 10,
        told.to_private + told.to_shared,
        told.requests
    );
    Ok(Verdict::Passed)
}

/// Pages of the shared alias of RAM that take memory.
fn alias_resident(host: &Host, vmm: &Vmm) -> Result<u64> {
    let pid = vmm.pid().to_string();
    let proof = bed::output(host, Command::new(TENURE).args(["prove", "--json", "--pid", &pid]))?;
    let proof: serde_json::Value = serde_json::from_str(&proof).context("tenure prove")?;
    proof["alias_resident_pages"].as_u64().context("alias_resident_pages")
}

/// A line of `memory.stat`.
fn line(stat: &str, name: &str) -> Result<u64> {
    let value = stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.with_context(|| format!("no {name} in {stat}"))
}

impl Cgroup<'_> {
    /// A file that holds one number.
    pub(crate) fn number(&self, file: &str) -> Result<u64> {
        self.read(file)?.trim().parse().with_context(|| file.to_owned())
    }

    fn read(&self, file: &str) -> Result<String> {
        Ok(self.host.read_to_string(&format!("/sys/fs/cgroup/{}/{file}", self.name))?)
    }
}
