//! The host around the guests of a self-test: what they must give back.
//!
//! Owns what is looked at before and after, and what a difference means. Other guests on the same host come and go; a
//! difference that stays is reported with that said.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use gmem::ByteLen;

use super::results::Check;
use super::{ASID, FIRMWARE_GUESTS};
use crate::check::facts;

/// How long something that was closed may take to be free.
const PATIENCE: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What there is at a moment; what cannot be known is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// ASIDs that SEV-ES and SNP guests have, as the kernel's control groups count.
    pub asids_in_use: Option<u64>,
    /// Guests the secure processor has a context of.
    pub firmware_guests: Option<u32>,
    /// Memory that programs can have, as the kernel estimates.
    pub available: Option<ByteLen>,
}

impl Surroundings {
    /// Looks at the host whose file system begins at `root`, usually `/`.
    pub fn gather(root: &Path) -> Self {
        let facts::GuestCounts { asids_in_use, firmware_guests } = facts::GuestCounts::gather(root);
        Self { asids_in_use, firmware_guests, available: available(root) }
    }
}

fn available(root: &Path) -> Option<ByteLen> {
    let meminfo = std::fs::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024).map(ByteLen)
}

/// Whether guests gave their ASIDs and contexts back.
pub(super) fn asids_are_back(before: Surroundings, look: &dyn Fn() -> Surroundings) -> Vec<Check> {
    let begun = Instant::now();
    let mut after = look();
    while (after.asids_in_use > before.asids_in_use || after.firmware_guests > before.firmware_guests)
        && begun.elapsed() < PATIENCE
    {
        thread::sleep(LOOK_EVERY);
        after = look();
    }
    let compare = |id, what: &str, before: Option<u64>, after: Option<u64>, unknown: &str| match (before, after) {
        (Some(before), Some(after)) if after <= before => Check::passed(id, format!("{after} {what}, {before} before")),
        (Some(before), Some(after)) => {
            let seen = format!("{after} {what}, {before} before; unless somebody else has launched a guest meanwhile");
            Check::failed(id, seen)
        }
        _ => Check::not_run(id, unknown),
    };
    vec![
        compare(
            ASID,
            "ASIDs in use",
            before.asids_in_use,
            after.asids_in_use,
            "how many ASIDs are in use is not to be seen: there is no root control group with misc.current",
        ),
        compare(
            FIRMWARE_GUESTS,
            "guests known to the firmware",
            before.firmware_guests.map(u64::from),
            after.firmware_guests.map(u64::from),
            "the firmware does not say how many guests it has",
        ),
    ]
}

/// Whether the memory that guests had together is back. What other programs took meanwhile looks the same, so less than
/// half of it is no finding.
pub(super) fn memory_is_back(before: Surroundings, after: Surroundings, guests_had: ByteLen) -> Check {
    const ID: &str = "memory";
    let (Some(before), Some(after)) = (before.available, after.available) else {
        return Check::not_run(ID, "the kernel does not say how much memory is available");
    };
    let lost = ByteLen(before.0.saturating_sub(after.0));
    let seen = format!("{lost} less available than before, guests had {guests_had}");
    Check::that(ID, lost.0 <= guests_had.0 / 2, seen)
}
