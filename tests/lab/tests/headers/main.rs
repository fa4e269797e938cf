//! What we believe of the kernel's structures and numbers (`gmem_kvm::testing::abi`), against what a C compiler makes
//! of the kernel's own headers: those installed here, those of Debian's suites with Linux 6.12 and 7.2, which are
//! fetched as the lab fetches its kernels, and those in the directory that `TENURE_KERNEL_HEADERS` names.
//!
//! What headers do not have is never passed: if their Linux is older than what is asked about, the case says so and
//! counts as skipped; if it is not, the case fails. No lab host is booted.

mod compiler;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};
use gmem_kvm::testing::abi::{self, Subject};
use tenure_lab::progress::Plain;
use test_harness::{Case, Verdict};

use compiler::{Headers, Item};

/// The environment's variable with a directory for `-isystem`.
const GIVEN: &str = "TENURE_KERNEL_HEADERS";

/// Whose headers.
#[derive(Clone, Copy)]
enum Whose {
    Installed,
    /// Of Debian 13, which has Linux 6.12.
    Trixie,
    /// Of Debian unstable, which has Linux 7.2 or later.
    Sid,
    Given,
}

/// One case for each subject that a kernel has as a whole or not at all.
macro_rules! cases {
    ($($name:ident, $whose:ident, $subject:expr;)*) => {
        [$(Case { name: stringify!($name), run: |_| compare(Whose::$whose, $subject) },)*
         Case { name: "a_wrong_belief_is_found", run: |_| wrong_beliefs_are_found() }]
    };
}

const CASES: [Case<()>; 17] = cases! {
    installed_vms, Installed, Some(Subject::Vms);
    installed_private_memory, Installed, Some(Subject::PrivateMemory);
    installed_snp, Installed, Some(Subject::Snp);
    installed_mappable_memory, Installed, Some(Subject::MappableMemory);
    installed_certificates, Installed, Some(Subject::Certificates);
    trixie_vms, Trixie, Some(Subject::Vms);
    trixie_private_memory, Trixie, Some(Subject::PrivateMemory);
    trixie_snp, Trixie, Some(Subject::Snp);
    trixie_mappable_memory, Trixie, Some(Subject::MappableMemory);
    trixie_certificates, Trixie, Some(Subject::Certificates);
    sid_vms, Sid, Some(Subject::Vms);
    sid_private_memory, Sid, Some(Subject::PrivateMemory);
    sid_snp, Sid, Some(Subject::Snp);
    sid_mappable_memory, Sid, Some(Subject::MappableMemory);
    sid_certificates, Sid, Some(Subject::Certificates);
    given_headers, Given, None;
};

fn main() -> ExitCode {
    test_harness::main(&CASES, || Ok(()), |()| ())
}

/// Compares what we believe about `subject`, or about everything.
fn compare(whose: Whose, subject: Option<Subject>) -> Result<Verdict> {
    let headers = match open(whose)? {
        Ok(headers) => headers,
        Err(reason) => return Ok(Verdict::Skipped { reason }),
    };
    let beliefs = beliefs(subject);
    let asked = beliefs.len();
    let (present, lacking) = headers.divide(beliefs)?;
    let wrong = headers.differences(&present)?;
    if !wrong.is_empty() {
        bail!("headers of Linux {} say otherwise:\n{}", headers.version, wrong.join("\n"));
    }
    if lacking.is_empty() {
        return Ok(Verdict::Passed);
    }
    let mut names = String::new();
    for since in lacking.iter().map(|item| item.since).collect::<BTreeSet<_>>() {
        let of: Vec<_> = lacking.iter().filter(|item| item.since == since).map(|item| item.name.as_str()).collect();
        names.push_str(&format!("; of {}: {}", compiler::release(since), of.join(", ")));
    }
    let reason = format!("not in headers of Linux {}: {} of {}{names}", headers.version, lacking.len(), asked);
    Ok(Verdict::Skipped { reason })
}

/// The headers, or why there are none.
fn open(whose: Whose) -> Result<Result<Headers, String>> {
    let fetch = |suite| tenure_lab::kernel_headers(None, suite, &mut Plain::new(std::io::stderr()));
    let directory = match whose {
        Whose::Installed => None,
        Whose::Trixie => Some(fetch("trixie")?),
        Whose::Sid => Some(fetch("sid")?),
        Whose::Given => match std::env::var_os(GIVEN).filter(|value| !value.is_empty()) {
            Some(directory) => Some(PathBuf::from(directory)),
            None => return Ok(Err(format!("{GIVEN} names no directory with headers"))),
        },
    };
    Headers::open(directory)
}

/// The table's part, each entry as C expressions with the values they should have.
fn beliefs(subject: Option<Subject>) -> Vec<Item> {
    let wanted = |of: Subject| subject.is_none_or(|subject| subject == of);
    let structures = abi::structures().into_iter().filter(|belief| wanted(belief.subject)).map(Item::from);
    let numbers = abi::numbers().into_iter().filter(|belief| wanted(belief.subject)).map(Item::from);
    structures.chain(numbers).collect()
}

/// The comparison itself: nothing is believed that is not so.
fn wrong_beliefs_are_found() -> Result<Verdict> {
    let headers = match open(Whose::Installed)? {
        Ok(headers) => headers,
        Err(reason) => return Ok(Verdict::Skipped { reason }),
    };
    let of = |name: &str, expressions: &[(&str, u64)]| Item {
        name: name.to_owned(),
        since: (2, 6),
        expressions: expressions.iter().map(|(text, value)| ((*text).to_owned(), *value)).collect(),
    };
    let wrong = of("size", &[("sizeof(struct kvm_enable_cap)", 100), ("KVM_EXIT_IO", 2)]);
    let found = headers.differences(&[wrong])?;
    anyhow::ensure!(found == ["sizeof(struct kvm_enable_cap) is 104, not 100"], "{found:?}");
    let renamed = of("renamed", &[("sizeof(struct kvm_enable_cap_of_nobody)", 104)]);
    let Err(error) = headers.divide(vec![renamed]) else { bail!("a structure that is nowhere was found") };
    anyhow::ensure!(error.to_string().contains("should have renamed"), "{error:#}");
    let later = Item { since: (99, 0), ..of("later", &[("KVM_EXIT_OF_NOBODY", 1)]) };
    let (present, lacking) = headers.divide(vec![later])?;
    anyhow::ensure!(present.is_empty() && lacking.len() == 1);
    Ok(Verdict::Passed)
}
