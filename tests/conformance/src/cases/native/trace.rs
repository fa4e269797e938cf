//! Cases that are decided by the kernel's own trace: in which order it released what a process had.
//!
//! A trace instance of our own is made, filtered to a few functions and one process, and removed.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Failure, Outcome, ensure, failed, set_up};
use crate::cases::Kind;
use crate::kernel::Kernel;
use crate::real::Real;
use crate::sys;

const TRACEFS: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];
const RELEASE_FILE: &str = "kvm_gmem_release";
const RELEASE_VM: &str = "kvm_vm_release";
const RELEASE_VCPU: &str = "kvm_vcpu_release";
const DESTROY_VM: &str = "kvm_destroy_vm";
const FREE_PAGES: &str = "delete_from_page_cache_batch";

/// tracefs' directory, if functions can be traced.
fn tracefs() -> Option<PathBuf> {
    let place = TRACEFS.iter().map(Path::new).find(|place| place.join("instances").is_dir())?;
    let known = fs::read_to_string(place.join("available_filter_functions")).ok()?;
    let all = [RELEASE_FILE, RELEASE_VM, RELEASE_VCPU, DESTROY_VM, FREE_PAGES];
    let is_known = |function: &&str| known.lines().any(|line| line.split(' ').next() == Some(function));
    all.iter().all(is_known).then(|| place.to_owned())
}

/// Whether functions can be traced.
#[must_use]
pub fn is_there() -> bool {
    tracefs().is_some()
}

struct Instance(PathBuf);

impl Instance {
    fn new() -> std::io::Result<Self> {
        let place = tracefs().ok_or(std::io::ErrorKind::NotFound)?;
        let path = place.join("instances").join(format!("conformance-{}", std::process::id()));
        fs::create_dir(&path)?;
        let instance = Self(path);
        let functions = [RELEASE_FILE, RELEASE_VM, RELEASE_VCPU, DESTROY_VM, FREE_PAGES].join(" ");
        instance.write("set_ftrace_filter", &functions)?;
        instance.write("options/function-fork", "1")?;
        instance.write("set_ftrace_pid", &std::process::id().to_string())?;
        instance.write("current_tracer", "function")?;
        Ok(instance)
    }

    fn write(&self, name: &str, text: &str) -> std::io::Result<()> {
        fs::write(self.0.join(name), text)
    }

    /// The functions in the order in which they were called.
    fn functions(&self) -> std::io::Result<Vec<String>> {
        let text = fs::read_to_string(self.0.join("trace"))?;
        let called = |line: &str| Some(line.split_once(" <-")?.0.rsplit(' ').next()?.to_owned());
        Ok(text.lines().filter(|line| !line.starts_with('#')).filter_map(called).collect())
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // What is left of a trace is no reason to fail.
        let _ = self.write("current_tracer", "nop");
        let _ = fs::remove_dir(&self.0);
    }
}

/// What the kernel called while a child did `what` and died by its own hand.
fn traced(kind: Kind, lines: &str) -> Result<Vec<String>, Failure> {
    let instance = Instance::new().map_err(|error| Failure::Skipped(format!("tracefs: {error}")))?;
    let ending = sys::in_child(|| {
        let Ok(mut real) = Real::open() else { return 1 };
        if set_up(&mut real, kind, lines).is_err() {
            return 2;
        }
        sys::die()
    });
    let ending = ending.map_err(|errno| Failure::Failed(format!("no process: {errno}")))?;
    ensure(ending == sys::Ending::Killed(libc::SIGKILL), || format!("the traced process: {ending:?}"))?;
    instance.functions().map_err(|error| Failure::Failed(format!("tracefs: {error}")))
}

const MADE: &str = "vm v0 type=$T
gmem f0 v0 size=0x4000 flags=$F
fallocate f0 mode=KEEP_SIZE offset=0 len=0x4000
slot v0 id=0 gpa=0x40000000 size=0x4000 hva=p0+0x0 flags=GUEST_MEMFD gmem=f0 offset=0
vcpu c0 v0
";

/// Fails unless these were called, in this order.
fn in_order(called: &[String], wanted: &[&str]) -> Outcome {
    let mut rest = called.iter();
    for function in wanted {
        if !rest.any(|other| other == function) {
            return failed(format!("not in the order {}: {}", wanted.join(", "), called.join(", ")));
        }
    }
    Ok(())
}

pub(super) fn pages_after_their_vm(_: &Kernel, kind: Kind) -> Outcome {
    let called = traced(kind, &format!("{MADE}close v0\nclose c0\nclose f0\n"))?;
    in_order(&called, &[RELEASE_VM, RELEASE_VCPU, RELEASE_FILE, DESTROY_VM, FREE_PAGES])
}

pub(super) fn death_closes_the_newest_first(_: &Kernel, kind: Kind) -> Outcome {
    let called = traced(kind, MADE)?;
    in_order(&called, &[RELEASE_VCPU, RELEASE_FILE, RELEASE_VM])
}
