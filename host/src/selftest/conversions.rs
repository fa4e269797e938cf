//! Conversions that the host carries out by itself, in a guest that is launched and never entered.
//!
//! What a guest asks for goes the same way; that it need not be asked is what makes this a test of the host alone: RMP
//! entries are made, given back and made again, and pages are left in either state for teardown.

use gmem::ledger::Owner;
use gmem::{ByteLen, GfnRange, Gpa, PAGE_SIZE, PageCount};
use gmem_kvm::port::{KernelVcpu, KernelVm};
use gmem_kvm::vm::VmHandle;
use rustix::io::Errno;
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};

use super::results::Check;

/// Private RAM that no launch puts anything into, two large pages of it.
const START: Gpa = Gpa(0x80_0000);
const LARGE: u64 = 2 << 20;
/// What is shared: all of the first large page, and some of the second.
const SHARED: [(u64, u64); 2] = [(0, LARGE / PAGE_SIZE), (LARGE / PAGE_SIZE + 3, 5)];
/// The part of it that is still shared when the guest is torn down.
const LEFT: (u64, u64) = (LARGE / PAGE_SIZE + 3, 5);

/// What was looked at, and how much memory the guest had by that.
pub(super) struct Converted {
    pub checks: Vec<Check>,
    pub touched: ByteLen,
}

/// Converts to and fro.
pub(super) fn convert<V: KernelVm>(vm: &VmHandle<V>, vcpu: Option<&mut V::Vcpu>, ram: ByteLen) -> Converted {
    let mut checks = Vec::new();
    let whole = |start: Gpa, bytes: u64| GfnRange::covering(start, ByteLen(bytes));
    let (Some(vcpu), Ok(all), true) = (vcpu, whole(START, ram.0.saturating_sub(START.0)), ram.0 >= START.0 + 2 * LARGE)
    else {
        checks.push(Check::not_run("map-ahead", "there is too little RAM, or no vCPU"));
        return Converted { checks, touched: ByteLen(0) };
    };
    let (ahead, touched) = map_ahead("map-ahead", vcpu, all);
    checks.push(ahead);
    let ranges: Vec<_> = SHARED.iter().filter_map(range).collect();
    checks.push(each("to-shared", &ranges, |range| to(vm, range, Owner::Shared)));
    checks.push(each("shared-memory", &ranges, |range| shared_memory(vm, range)));
    let back: Vec<_> = SHARED.iter().filter(|part| **part != LEFT).filter_map(range).collect();
    checks.push(each("to-private", &back, |range| to(vm, range, Owner::Private)));
    checks.push(each("private-memory", &back, |range| out_of_reach(vm, range)));
    for range in back {
        checks.push(map_ahead("map-again", vcpu, range).0);
    }
    Converted { checks, touched }
}

fn range((page, pages): &(u64, u64)) -> Option<GfnRange> {
    GfnRange::from_request(Gpa(START.0 + page * PAGE_SIZE), PageCount::new(*pages)).ok()
}

fn each(id: &'static str, ranges: &[GfnRange], what: impl Fn(GfnRange) -> Result<(), String>) -> Check {
    let wrong = ranges.iter().find_map(|range| what(*range).err());
    let list = || ranges.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    wrong.map_or_else(|| Check::passed(id, list()), |wrong| Check::failed(id, wrong))
}

/// Maps private pages before anybody uses them, as much as the kernel does.
fn map_ahead<C: KernelVcpu>(id: &'static str, vcpu: &mut C, range: GfnRange) -> (Check, ByteLen) {
    let mut mapped = PageCount::default();
    for piece in range.pieces(PageCount::new(LARGE / PAGE_SIZE)) {
        match vcpu.prefault(piece) {
            Ok(done) => mapped = PageCount::new(mapped.get() + done.get()),
            Err(error) if error.errno == Errno::OPNOTSUPP.raw_os_error() => {
                return (Check::not_run(id, format!("this host cannot: {error}")), ByteLen(0));
            }
            Err(error) => return (Check::failed(id, format!("{piece}: {error}")), ByteLen(0)),
        }
    }
    let touched = mapped.bytes().unwrap_or_default();
    (Check::that(id, mapped == range.pages(), format!("{} of {}", mapped.get(), range.pages())), touched)
}

fn to<V: KernelVm>(vm: &VmHandle<V>, range: GfnRange, owner: Owner) -> Result<(), String> {
    let converted = vm.convert(range, owner).map_err(|error| format!("{range}: {error}"))?;
    if converted.changed != range.pages() || converted.owed.get() != 0 {
        let (changed, owed) = (converted.changed, converted.owed);
        return Err(format!("{range}: {changed} were changed, {owed} still have another copy"));
    }
    Ok(())
}

/// no-stale-copy: what was private is zeros for the host, and what the host writes stays.
fn shared_memory<V: KernelVm>(vm: &VmHandle<V>, range: GfnRange) -> Result<(), String> {
    let mut bytes = vec![0; usize::try_from(PAGE_SIZE).unwrap_or(0)];
    let guard = vm.shared().enter();
    for gfn in range.frames() {
        let at = GuestAddress(gfn.gpa().0);
        guard.read_slice(&mut bytes, at).map_err(|error| format!("{}: {error}", gfn.gpa()))?;
        if bytes.iter().any(|byte| *byte != 0) {
            return Err(format!("{} has contents for the host right after it was private", gfn.gpa()));
        }
        let number = gfn.number() ^ 0x7465_6e75_7265;
        let written = guard.write_obj(number, at).and_then(|()| guard.read_obj::<u64>(at));
        match written {
            Ok(read) if read == number => {}
            Ok(read) => return Err(format!("{} holds {read:#x}, and not {number:#x}, which was written", gfn.gpa())),
            Err(error) => return Err(format!("{}: {error}", gfn.gpa())),
        }
    }
    Ok(())
}

/// shared-only: no page of it can be reached.
fn out_of_reach<V: KernelVm>(vm: &VmHandle<V>, range: GfnRange) -> Result<(), String> {
    let guard = vm.shared().enter();
    let reached = range.frames().find(|gfn| guard.check_range(GuestAddress(gfn.gpa().0), 1, Permissions::Read));
    reached.map_or(Ok(()), |gfn| Err(format!("{} is private, and can be reached", gfn.gpa())))
}
