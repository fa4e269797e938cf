//! The payload that needs no kernel: tests memory, conversions, all processors, and, if asked, a device.
//!
//! Owns the order of tests and the report; each test is a module. [`options`] says what can be asked for. All
//! processors go through the same phases, each on its own slice of RAM, with a barrier between phases that depend on
//! each other. The report ends with a line `self-test: N vcpus, N checks, N failed` on the serial port and
//! [`Doorbell::SelfTestDone`]; then the guest powers off.
#![expect(unsafe_code, reason = "hands out RAM and starts processors")]

pub mod checks;
pub mod convert;
pub mod layout;
pub mod memory;
pub mod options;
pub mod owned;
pub mod pci;
pub mod smp;
pub mod virtio;

use crate::abi::{Doorbell, FirmwareFault, PAGE_SIZE, PM1A_CONTROL_PORT, POWER_OFF, TEE_SW};
use crate::boot::{Image, Machine};
use crate::cpu::{self, Hypercall};
use crate::descriptors::{CpuTables, WAKE_VECTOR};
use crate::fault::{self, die};
use crate::range::GpaRange;
use crate::serial::{announce, say};
use alloc::boxed::Box;
use alloc::vec::Vec;
use checks::Checks;
use convert::ConvertFailure;
use core::ptr::null_mut;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};
use layout::{FAULT_STACK, Layout, slice};
use options::Options;
use owned::Owned;
use smp::Barrier;

/// Most of a slice that conversions happen in: enough for every kind of range.
const CONVERTED_LEN: u64 = 8 << 20;

/// What all processors share.
#[derive(Debug)]
struct SelfTest {
    machine: Machine,
    options: Options,
    layout: Layout,
    /// How to ask for conversions; nothing if memory is not private.
    convert: Option<Hypercall>,
    checks: Checks,
    /// Processors that take part: known once all have checked in.
    present: AtomicU32,
    seen: [AtomicBool; 256],
    begin: AtomicBool,
    barrier: Barrier,
}

/// For the processors that start later.
static SELF_TEST: AtomicPtr<SelfTest> = AtomicPtr::new(null_mut());

/// Runs the self-test with these options and powers off.
pub fn run(image: &Image, machine: Machine, cmdline: &[u8]) -> ! {
    let options = Options::parse(cmdline, machine.header.vcpus)
        .unwrap_or_else(|error| die(FirmwareFault::BadStaging, format_args!("{error}")));
    let layout = Layout::new(&machine.ram, machine.header.vcpus)
        .unwrap_or_else(|| die(FirmwareFault::BadStaging, format_args!("too little RAM for the self-test")));
    let test: &'static SelfTest = Box::leak(Box::new(SelfTest {
        machine,
        options,
        layout,
        convert: (machine.header.tee == TEE_SW).then(Hypercall::of_this_cpu),
        checks: Checks::new(),
        present: AtomicU32::new(0),
        seen: [const { AtomicBool::new(false) }; 256],
        begin: AtomicBool::new(false),
        barrier: Barrier::new(),
    }));
    SELF_TEST.store(core::ptr::from_ref(test).cast_mut(), Ordering::Release);
    test.seen[0].store(true, Ordering::Release);
    cpu::accept_interrupts(WAKE_VECTOR);
    say(format_args!("self-test: {options}"));
    if test.convert.is_none() {
        say(format_args!("self-test: conversions: skipped: no memory is private"));
    }
    // SAFETY: the layout's areas are RAM nobody else uses, and the trampoline is the image's.
    unsafe { smp::start_all(&machine, &layout, options.vcpus, image.trampoline, image.ap_entry) };
    test.gather();
    test.refusals();
    test.begin.store(true, Ordering::Release);
    smp::wake_others(0, test.present.load(Ordering::Acquire));
    test.phases(0);
    test.report()
}

/// Where the trampoline leads: the rest of a processor's life.
///
/// # Safety
///
/// Called once on each processor but the first, by the trampoline, with its x2APIC id and on its own stack.
pub unsafe fn processor(x2apic_id: u32) -> ! {
    // SAFETY: set before the first processor was started, and never changed.
    let Some(test) = (unsafe { SELF_TEST.load(Ordering::Acquire).as_ref() }) else { cpu::halt() };
    let fault_stack_top = test.layout.cpu(x2apic_id).start() + FAULT_STACK;
    let tables = Box::leak(Box::new(CpuTables::new(fault_stack_top)));
    // SAFETY: the gates are the first processor's; the fault stack is part of this processor's own area.
    unsafe { tables.load(test.machine.idt) };
    cpu::accept_interrupts(WAKE_VECTOR);
    let Some(seen) = usize::try_from(x2apic_id).ok().and_then(|id| test.seen.get(id)) else { cpu::halt() };
    seen.store(true, Ordering::Release);
    while !test.begin.load(Ordering::Acquire) {
        sleep();
    }
    // Whoever came too late is not counted, and would keep the others waiting.
    if x2apic_id < test.present.load(Ordering::Acquire) {
        test.phases(x2apic_id);
    }
    cpu::halt()
}

/// Sleeps until another processor has news. Asleep rather than spinning: there may be fewer real processors.
fn sleep() {
    // SAFETY: exceptions and the wake-up vector have gates, and no other interrupt is let through.
    unsafe { cpu::sleep() }
}

impl SelfTest {
    /// Waits until all processors have checked in with ids of their own.
    fn gather(&self) {
        let wanted = self.options.vcpus;
        let arrived = |id: u32| self.seen[id as usize].load(Ordering::Acquire);
        smp::wait_for(self.machine.header.tsc_khz, || (0..wanted).all(arrived));
        let mut present = 0;
        for id in 0..wanted {
            let here = arrived(id);
            // Slices are numbered, so nobody above a missing processor can take part.
            present += u32::from(here && present == id);
            let result = if here { Ok(()) } else { Err("did not check in") };
            self.checks.check(result, format_args!("vcpu {id}"));
        }
        self.present.store(present, Ordering::Release);
        say(format_args!("self-test: {present} vcpus checked in"));
    }

    /// What one processor does.
    fn phases(&self, id: u32) {
        let count = self.present.load(Ordering::Acquire);
        let neighbour = (id + 1) % count;
        for memory in self.slices(id, count) {
            let untouched = memory::check_untouched(&memory, self.options.memory);
            self.checks.check(untouched, format_args!("vcpu {id}: untouched memory {}", memory.range()));
        }
        // A neighbour may look at this slice only after that.
        self.meet(id, count);
        for mut memory in self.slices(id, count) {
            memory::write(&mut memory, self.options.memory);
        }
        self.meet(id, count);
        for memory in self.slices(neighbour, count) {
            let result = memory::verify(&memory, self.options.memory);
            self.checks.check(result, format_args!("vcpu {id}: patterns of vcpu {neighbour} in {}", memory.range()));
        }
        self.meet(id, count);
        if id == 0 {
            say(format_args!("self-test: memory patterns done"));
            self.device();
        }
        self.conversions(id, count);
        self.meet(id, count);
    }

    /// Waits for all processors.
    fn meet(&self, id: u32, count: u32) {
        self.barrier.wait(count, sleep, || smp::wake_others(id, count));
    }

    /// A processor's slices of RAM.
    fn slices(&self, id: u32, count: u32) -> impl Iterator<Item = Owned> {
        let tested = self.layout.tested.into_iter().filter(|range| !range.is_empty());
        // SAFETY: slices are disjoint, no Rust value lies in tested RAM, and each is reached by one processor at a
        // time: barriers separate the phases in which it is reached by different ones.
        tested.map(move |range| unsafe { Owned::new(slice(range, id, count)) })
    }

    /// Converts to and fro, in low and in high RAM by turns.
    fn conversions(&self, id: u32, count: u32) {
        let Some(call) = self.convert else { return };
        let mut parts: Vec<(Owned, Result<(), ConvertFailure>)> = Vec::with_capacity(self.layout.tested.len());
        for slice in self.slices(id, count) {
            let range = slice.range();
            let end = range.end().min(range.start() + CONVERTED_LEN);
            // SAFETY: a part of a slice that is not used otherwise from here on.
            parts.push((unsafe { Owned::new(GpaRange::between(range.start(), end)) }, Ok(())));
        }
        let turns = parts.len();
        for round in 0..self.options.rounds {
            let (part, result) = &mut parts[round as usize % turns];
            if result.is_ok() {
                *result = convert::round(call, part, convert::random(id, round));
            }
        }
        for (mut part, result) in parts {
            self.checks.check(result, format_args!("vcpu {id}: conversions in {}", part.range()));
            let result = convert::check_private(call, &mut part);
            self.checks.check(result, format_args!("vcpu {id}: private again: {}", part.range()));
        }
    }

    /// Requests that must be refused. The other processors have not begun yet.
    fn refusals(&self) {
        let Some(call) = self.convert else { return };
        // The last page of each run of RAM, which some of the requests reach.
        for range in self.layout.tested.into_iter().filter(|range| !range.is_empty()) {
            let last = GpaRange::between(range.end() - PAGE_SIZE, range.end());
            // SAFETY: tested RAM, which no processor uses before all are told to begin.
            let mut memory = unsafe { Owned::new(last) };
            for request in convert::refusals(&self.machine.ram) {
                let result = convert::refused(call, &mut memory, request);
                self.checks.check(result, format_args!("conversion of {}", request.0));
            }
            // As nobody touched it.
            memory.clear(last.start());
        }
        say(format_args!("self-test: refusals done"));
    }

    /// Sends buffers while the other processors convert.
    fn device(&self) {
        let buffers = self.options.virtio_buffers;
        if buffers == 0 {
            return;
        }
        // SAFETY: the layout keeps this RAM for this purpose, and only one processor comes here.
        let mut memory = unsafe { Owned::new(self.layout.virtio) };
        let result = virtio::send(&self.machine.header, &mut memory, buffers, self.convert);
        self.checks.check(result, format_args!("{buffers} buffers over virtio-console"));
    }

    /// Says how it went and powers off.
    fn report(&self) -> ! {
        let (made, failed) = (self.checks.made(), self.checks.failed());
        announce(format_args!("self-test: {} vcpus, {made} checks, {failed} failed", self.options.vcpus));
        fault::ring(Doorbell::SelfTestDone, failed);
        cpu::out16(PM1A_CONTROL_PORT, POWER_OFF);
        cpu::halt()
    }
}
