//! What the guest sees of itself.

use super::kernel_log;
use super::report::say;
use std::fs::read_to_string;

/// Processor flags worth a line.
const FLAGS: [&str; 12] = [
    "hypervisor",
    "x2apic",
    "tsc_deadline_timer",
    "constant_tsc",
    "nonstop_tsc",
    "pcid",
    "sme",
    "sev",
    "sev_es",
    "sev_snp",
    "tdx_guest",
    "avx2",
];
/// Parts of kernel messages worth a line.
const MESSAGES: [&str; 4] = ["Memory Encryption Features", "software IO TLB", "Hypervisor detected", "x2apic"];
/// Interrupts worth a line, by a part of their name.
const INTERRUPTS: [&str; 6] = ["timer", "ttyS", "serial", "virtio", "acpi", "LOC:"];

/// Reports all facts that do not change.
pub(super) fn report() {
    let uname = rustix::system::uname();
    fact("kernel", uname.release().to_string_lossy());
    fact("uptime_seconds", first_word("/proc/uptime"));
    fact("cpus_online", first_word("/sys/devices/system/cpu/online"));
    for (key, value) in memory_kib() {
        fact(&key, value);
    }
    fact("clocksource", first_word("/sys/devices/system/clocksource/clocksource0/current_clocksource"));
    fact("cpu_flags", cpu_flags().join(" "));
    let log = kernel_log::lines();
    fact("kernel_log_lines", log.len());
    for line in log.iter().filter(|line| MESSAGES.iter().any(|part| line.contains(part))) {
        fact("kernel_log", line);
    }
}

/// Reports the interrupts of interest with their counts on all CPUs; worth something after the tests.
pub(super) fn interrupts() {
    for line in read_to_string("/proc/interrupts").unwrap_or_default().lines().skip(1) {
        if INTERRUPTS.iter().any(|part| line.contains(part)) {
            fact("interrupt", line.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
}

/// CPUs online, as numbers.
pub(super) fn cpus() -> Vec<usize> {
    let online = first_word("/sys/devices/system/cpu/online");
    let mut cpus = Vec::new();
    for range in online.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse()) {
            cpus.extend(first..=last);
        }
    }
    if cpus.is_empty() { vec![0] } else { cpus }
}

/// Memory the kernel says is available, in KiB.
pub(super) fn memory_available_kib() -> u64 {
    memory_kib().find(|(key, _)| key == "memory_available_kib").map_or(0, |(_, value)| value)
}

fn fact(name: &str, value: impl std::fmt::Display) {
    say(&format!("fact {name} {value}"));
}

fn memory_kib() -> impl Iterator<Item = (String, u64)> {
    let names = [("MemTotal", "total"), ("MemFree", "free"), ("MemAvailable", "available")];
    let text = read_to_string("/proc/meminfo").unwrap_or_default();
    names.into_iter().filter_map(move |(key, name)| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        Some((format!("memory_{name}_kib"), line.split_whitespace().next()?.parse().ok()?))
    })
}

fn cpu_flags() -> Vec<&'static str> {
    let text = read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("flags")).unwrap_or_default();
    let has = |flag: &&str| line.split_whitespace().any(|word| word == *flag);
    FLAGS.into_iter().filter(has).collect()
}

fn first_word(path: &str) -> String {
    let text = read_to_string(path).unwrap_or_default();
    text.split_whitespace().next().unwrap_or("unknown").to_owned()
}
