//! Debian's own cloud kernel, unmodified, with the test userland.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use tenure::events::{ConversionResult, Event, Owner, TimedEvent};
use tenure::report::{ConversionCounts, GuestOutcome};
use tenure_lab::{Bed as LabBed, Command, Host};

use crate::common::bed::{self, Bed, DEBIAN_KERNEL, INITRD, PEER, TENURE};
use crate::common::vmm::{Ended, Vmm};
use test_harness::{Verdict, long};

/// Boots in a row of each kind when the long counts are asked for.
const LONG_ATTEMPTS: u32 = 20;
/// What a kernel under the guise converts at least, in pages: its bounce buffers and the paravirtual clock.
const CONVERTED_PAGES_MIN: u64 = 200;
/// What virtio-console carries each way.
const EXCHANGED_BYTES: u64 = 1 << 20;
const PAGE_SIZE: u64 = 4096;
/// Where the virtio-console is.
const SOCKET: &str = "/run/virtio-console";
/// What the guest says when it waits for a line.
pub(crate) const WAITING: &str = "guest: fact waiting";

/// Memory stays private from beginning to end.
pub(crate) fn all_private(bed: &mut Bed, vcpus: u32) -> Result<Verdict> {
    attempts(bed, |host| boot_all_private(host, vcpus))
}

/// A boot with one vCPU, of which one with two does all and more: a minute that only long runs have.
pub(crate) fn on_one_vcpu(bed: &mut Bed, boot: fn(&mut Bed, u32) -> Result<Verdict>) -> Result<Verdict> {
    if !long() {
        return Ok(Verdict::Skipped { reason: "part of the long tests; the boot with two vCPUs is not".to_owned() });
    }
    boot(bed, 1)
}

/// The kernel believes it runs under SEV, shares what devices must reach, and leaves the rest private.
pub(crate) fn converts_by_itself(bed: &mut Bed, vcpus: u32) -> Result<Verdict> {
    attempts(bed, |host| boot_sev_guise(host, vcpus))
}

/// Makes all attempts, whatever becomes of each, and tells each.
fn attempts(bed: &mut Bed, attempt: impl Fn(&Host) -> Result<String>) -> Result<Verdict> {
    let count = if long() { LONG_ATTEMPTS } else { 1 };
    let mut failed = 0;
    for number in 1..=count {
        match attempt(bed.host()?) {
            Ok(figures) => println!("  attempt {number} of {count}: ok: {figures}"),
            Err(error) => {
                println!("  attempt {number} of {count}: FAILED: {error:#}");
                failed += 1;
                bed.discard_host();
            }
        }
    }
    ensure!(failed == 0, "{failed} of {count} attempts failed");
    Ok(Verdict::Passed)
}

fn boot_all_private(host: &Host, vcpus: u32) -> Result<String> {
    let arguments = match host.bed() {
        LabBed::Amd => arguments(vcpus, "none", "memory,sleep,dmesg"),
        // Slower: each character on the console is two exits, and an exit is tens of thousands of instructions to emulate.
        LabBed::Intel => arguments(vcpus, "none", "memory:8,sleep,dmesg quiet"),
    };
    let vmm = Vmm::start(host, &arguments, None)?;
    let ended = vmm.wait()?;
    check_guest(&ended, vcpus)?;
    let (to_shared, to_private) = conversions(&ended)?;
    ensure!(to_shared == ConversionCounts::default(), "converted to shared: {to_shared:?}");
    ensure!(to_private == ConversionCounts::default(), "converted to private: {to_private:?}");
    ensure!(ended.pages("shared")? == 0, "{:?}", ended.receipt()?.pages);
    let (_, alias) = ended.resident_pages()?;
    ensure!(alias == 0, "{alias} pages of the shared alias take memory, and none is shared");
    Ok(times(&ended))
}

fn boot_sev_guise(host: &Host, vcpus: u32) -> Result<String> {
    let mut arguments = arguments(vcpus, "sev", "memory,virtio,sleep,dmesg,wait");
    arguments.push(format!("--virtio-console=unix:{SOCKET}"));
    let mut vmm = Vmm::start(host, &arguments, None)?;
    let mut peer = host.spawn(Command::new(PEER).arg(SOCKET))?;
    vmm.wait_for(WAITING, 1)?;
    let residents = check_alias(host, &vmm)?;
    vmm.press_enter()?;
    let ended = vmm.wait()?;
    check_guest(&ended, vcpus)?;

    let mut said = String::new();
    std::io::Read::read_to_string(&mut peer.stdout, &mut said)?;
    ensure!(peer.wait()?.success(), "the peer of virtio-console failed: {said}");
    ensure!(said.trim() == format!("{EXCHANGED_BYTES} bytes each way"), "{said}");
    for direction in ["bytes out", "bytes in"] {
        let bytes = ended.device("virtio-console", direction)?;
        ensure!(bytes >= EXCHANGED_BYTES, "{bytes} {direction} over virtio-console");
    }
    // A kernel that knows what it shared offers nothing else.
    for counter in ["refused", "broken rings"] {
        let count = ended.device("virtio-console", counter)?;
        ensure!(count == 0, "virtio-console counts {count} {counter}");
    }
    let clock = ended.fact("clocksource");
    ensure!(clock == Some("kvm-clock"), "the guest's clock is {clock:?}");
    let (to_shared, to_private) = conversions(&ended)?;
    ensure!(to_shared.pages >= CONVERTED_PAGES_MIN, "{to_shared:?}");
    ensure!(to_shared.refused + to_private.refused == 0, "{to_shared:?} {to_private:?}");
    let shared = ended.pages("shared")?;
    let converted = shared_pages(&ended.events).len() as u64;
    ensure!(shared == converted, "{shared} pages are shared by the receipt, {converted} by the events");
    Ok(format!(
        "{}, {} pages in {} requests to shared, {} in {} back, {shared} shared at the end, {residents} of them in use",
        times(&ended),
        to_shared.pages,
        to_shared.requests,
        to_private.pages,
        to_private.requests
    ))
}

/// No access of a device landed in a private page: it would have brought back its page of the alias. Returns how many
/// pages of the alias take memory.
fn check_alias(host: &Host, vmm: &Vmm) -> Result<u64> {
    let pid = vmm.pid().to_string();
    let proof = bed::output(host, Command::new(TENURE).args(["prove", "--json", "--pid", &pid]))?;
    let proof: serde_json::Value = serde_json::from_str(&proof).context("tenure prove")?;
    let resident = proof["alias_resident_pages"].as_u64().context("alias_resident_pages")?;
    let shared = shared_pages(&vmm.events()?).len() as u64;
    ensure!(resident <= shared, "{resident} pages of the alias take memory, but only {shared} are shared");
    ensure!(proof["private_mappings"].as_array().is_some_and(Vec::is_empty), "{proof}");
    ensure!(proof["sampled_nonzero_pages"] == 0, "{proof}");
    Ok(resident)
}

/// The pages that are shared after these conversions, all having been private before.
pub(crate) fn shared_pages(events: &[TimedEvent]) -> BTreeSet<u64> {
    let mut shared = BTreeSet::new();
    for timed in events {
        let Event::Conversion { to, gpa, pages, result: ConversionResult::Done, .. } = timed.event else { continue };
        let pages = gpa / PAGE_SIZE..gpa / PAGE_SIZE + pages;
        match to {
            Owner::Shared => shared.extend(pages),
            Owner::Private => shared.retain(|page| !pages.contains(page)),
        }
    }
    shared
}

/// Arguments of `tenure run` for Debian's kernel and the test userland; what follows a blank in `tests` is for the kernel.
pub(crate) fn arguments(vcpus: u32, guise: &str, tests: &str) -> Vec<String> {
    let mut arguments =
        ["--tee", "sw", "--guise", guise, "--kernel", DEBIAN_KERNEL, "--initrd", INITRD].map(str::to_owned).to_vec();
    arguments.push(format!("--vcpus={vcpus}"));
    arguments.push(format!("--cmdline=console=ttyS0 reboot=k panic=-1 tenure.test={tests}"));
    arguments
}

/// What every boot must come to.
pub(crate) fn check_guest(ended: &Ended, vcpus: u32) -> Result<()> {
    ended.check_clean(&GuestOutcome::PoweredOff)?;
    ensure!(ended.console.iter().any(|line| line.contains("guest: done ok")), "{}", ended.tail());
    let online = if vcpus == 1 { "0".to_owned() } else { format!("0-{}", vcpus - 1) };
    ensure!(ended.fact("cpus_online") == Some(&online), "vCPUs online: {:?}", ended.fact("cpus_online"));
    let release = ended.fact("kernel").context("the guest did not name its kernel")?;
    ensure!(release.contains("cloud-amd64"), "the guest's kernel is {release}");
    Ok(())
}

/// How often the guest had pages converted, each way.
pub(crate) fn conversions(ended: &Ended) -> Result<(ConversionCounts, ConversionCounts)> {
    let find = |event: &Event| match event {
        Event::Conversions { to_shared, to_private } => Some((*to_shared, *to_private)),
        _ => None,
    };
    ended.events.iter().find_map(|timed| find(&timed.event)).context("no event sums up the conversions")
}

fn times(ended: &Ended) -> String {
    let user_space = ended.user_space_ms().map_or("no mark".to_owned(), |ms| format!("{:.1} s", ms / 1000.0));
    format!("user space after {user_space}, everything after {:.1} s", ended.total_ms() / 1000.0)
}
