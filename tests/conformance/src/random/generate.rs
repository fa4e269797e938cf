//! What is asked, and in which order: random, but such that things meet.
//!
//! There are few registers, few slots and few pages, so that ranges touch, overlap and come back; the model of what there
//! is so far is consulted, so that most operations are about something; and one in ten is spoiled in one of its numbers.

use fastrand::Rng;

use super::SEQUENCE;
use crate::kernel::Kernel;
use crate::model::Model;
use crate::op::{
    Advice, Call, Cpu, Descriptor, File, GUEST_MEMFD, INIT_SHARED, KEEP_SIZE, LOG_DIRTY, MMAP, Map, Op, PAGE, PRIVATE,
    PUNCH_HOLE, Place, Plain, Protection, READONLY, Sharing, Slot, Vm,
};

/// Where most slots are.
const BASE: u64 = 0x4000_0000;
/// Pages from there on that matter.
const PAGES: u64 = 20;
/// A second place, such that a range from it crosses the border of a large page.
const BORDER: u64 = BASE + (2 << 20) - 4 * PAGE;
const SLOTS: u32 = 5;
const CALLS: [Call; 10] = [
    Call::Read,
    Call::Write,
    Call::Pread,
    Call::Pwrite,
    Call::Lseek,
    Call::Truncate,
    Call::Chmod,
    Call::Reopen,
    Call::Size,
    Call::BlockSize,
];

/// The sequence of a seed.
#[must_use]
pub fn sequence(seed: u64, kernel: &Kernel) -> Vec<Op> {
    let mut generator = Generator { random: Rng::with_seed(seed), model: Model::new(kernel.clone()) };
    let mut ops = Vec::with_capacity(SEQUENCE);
    let length = generator.random.usize(SEQUENCE / 3..=SEQUENCE);
    let mut attempts = 0;
    while ops.len() < length && attempts < 50 * SEQUENCE {
        attempts += 1;
        let op = generator.op(ops.len());
        // What is known to hang is a named case; here it would only take long.
        if generator.model.applicable(&op) && !generator.model.hangs(&op) {
            generator.model.apply(&op);
            ops.push(op);
        }
    }
    ops
}

struct Generator {
    random: Rng,
    model: Model,
}

impl Generator {
    fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.random.usize(..choices.len())]
    }

    fn one_in(&mut self, count: u32) -> bool {
        self.random.u32(..count) == 0
    }

    fn register<T>(&mut self, count: u8, new: impl Fn(u8) -> Option<T>, is_there: impl Fn(&Model, &T) -> bool) -> T {
        loop {
            let Some(register) = new(self.random.u8(..count)) else { continue };
            // Now and then one that is closed.
            if is_there(&self.model, &register) || self.one_in(20) {
                return register;
            }
        }
    }

    fn vm(&mut self) -> Vm {
        self.register(Vm::COUNT, Vm::new, |model, vm| model.is_open_vm(*vm))
    }

    fn file(&mut self) -> File {
        let any = Vm::new(0);
        self.register(File::COUNT, File::new, |model, file| any.and_then(|vm| model.file_of(*file, vm)).is_some())
    }

    /// A file of this VM, if it comes to that.
    fn file_of(&mut self, vm: Vm) -> File {
        if self.one_in(8) {
            return self.file();
        }
        self.register(File::COUNT, File::new, |model, file| model.file_of(*file, vm).is_some_and(|(_, its)| its))
    }

    fn cpu(&mut self) -> Cpu {
        self.register(Cpu::COUNT, Cpu::new, |model, cpu| model.is_open_cpu(*cpu))
    }

    fn window(&mut self) -> Map {
        self.register(Map::COUNT, Map::new, |model, map| model.is_mapped(*map))
    }

    fn any<T>(&mut self, count: u8, new: impl Fn(u8) -> Option<T>) -> T {
        loop {
            if let Some(register) = new(self.random.u8(..count)) {
                return register;
            }
        }
    }

    /// A few pages, in bytes.
    fn bytes(&mut self) -> u64 {
        match self.random.u32(..20) {
            0 => (2 << 20) + 4 * PAGE,
            1 => 2 << 20,
            _ => self.random.u64(1..=8) * PAGE,
        }
    }

    fn file_offset(&mut self) -> u64 {
        if self.one_in(2) { 0 } else { self.random.u64(..10) * PAGE }
    }

    fn gpa(&mut self) -> u64 {
        if self.one_in(10) { BORDER + self.random.u64(..8) * PAGE } else { BASE + self.random.u64(..PAGES) * PAGE }
    }

    /// An address that most often some slot of the guest's has.
    fn gpa_of(&mut self, cpu: Cpu) -> u64 {
        let slots = self.model.slots_of_cpu(cpu);
        if slots.is_empty() || self.one_in(8) {
            return self.gpa();
        }
        let (_, first, last) = self.one_of(&slots);
        // Few pages, so that they are met again.
        let pages = ((last - first) / PAGE + 1).min(6);
        let page = first + self.random.u64(..pages) * PAGE;
        if page < BASE { self.gpa() } else { page }
    }

    /// Where attributes matter.
    fn gpa_in(&mut self, vm: Vm) -> u64 {
        let slots = self.model.slots_of(vm);
        if slots.is_empty() || self.one_in(3) {
            return self.gpa();
        }
        let (_, first, last) = self.one_of(&slots);
        first + self.random.u64(..((last - first) / PAGE + 1).min(6)) * PAGE
    }

    fn byte_of_page(&mut self) -> u64 {
        self.one_of(&[0, 0, 0, 0x7ff, PAGE - 1])
    }

    fn place(&mut self) -> Place {
        let offset = self.random.u64(..PAGES) * PAGE;
        match self.random.u32(..20) {
            0 => Place::Raw(0),
            1..=7 => Place::Map(self.window(), self.random.u64(..6) * PAGE),
            _ => Place::Plain(self.any(Plain::COUNT, Plain::new), offset),
        }
    }

    /// A number that is mostly wrong.
    fn spoiled(&mut self, value: u64) -> u64 {
        let choices = [
            0,
            1,
            PAGE - 1,
            value.wrapping_add(1),
            value ^ 0x800,
            value.wrapping_sub(PAGE),
            1 << 52,
            1 << 63,
            (1 << 63) - PAGE,
            u64::MAX,
            u64::MAX - PAGE + 1,
        ];
        self.one_of(&choices)
    }

    fn op(&mut self, position: usize) -> Op {
        let op = if position < 6 { self.beginning(position) } else { self.anything() };
        if position > 0 && self.one_in(10) { self.spoil(op) } else { op }
    }

    /// Most sequences begin with what all others need.
    fn beginning(&mut self, position: usize) -> Op {
        match position {
            0 => self.create_vm(),
            1 | 2 => self.create_file(),
            3 | 4 => self.set_slot(),
            _ => Op::CreateCpu { cpu: self.any(Cpu::COUNT, Cpu::new), vm: self.vm() },
        }
    }

    fn anything(&mut self) -> Op {
        match self.random.u32(..126) {
            0..4 => self.create_vm(),
            4..6 => Op::CloseVm(self.vm()),
            6..12 => self.create_file(),
            12..14 => Op::Dup { from: self.file(), to: self.any(File::COUNT, File::new) },
            14..18 => Op::CloseFile(self.file()),
            18..22 => Op::CreateCpu { cpu: self.any(Cpu::COUNT, Cpu::new), vm: self.vm() },
            22..23 => Op::CloseCpu(self.cpu()),
            23..38 => self.set_slot(),
            38..44 => self.delete_slot(),
            44..45 => match self.set_slot() {
                Op::SetSlot { vm, slot } => Op::SetSlotV1 { vm, slot },
                other => other,
            },
            45..57 => self.set_attributes(),
            57..62 => {
                let (file, offset, len) = (self.file(), self.file_offset(), self.bytes());
                Op::Fallocate { file, mode: KEEP_SIZE, offset, len }
            }
            62..68 => {
                let (file, offset, len) = (self.file(), self.file_offset(), self.bytes());
                Op::Fallocate { file, mode: KEEP_SIZE | PUNCH_HOLE, offset, len }
            }
            68..74 => self.map(),
            74..76 => Op::Unmap(self.window()),
            76..78 => Op::Advise {
                map: self.window(),
                advice: self.one_of(&[Advice::DontNeed, Advice::Remove, Advice::Remove, Advice::Collapse]),
            },
            78..82 => {
                let offset = self.byte_of_page();
                Op::HostRead(self.place().plus(offset))
            }
            82..88 => {
                let offset = self.byte_of_page();
                Op::HostWrite(self.place().plus(offset), self.random.u8(1..))
            }
            88..100 => {
                let cpu = self.cpu();
                Op::GuestRead(cpu, self.gpa_of(cpu) + self.byte_of_page())
            }
            100..112 => {
                let cpu = self.cpu();
                Op::GuestWrite(cpu, self.gpa_of(cpu) + self.byte_of_page(), self.random.u8(1..))
            }
            112..117 => {
                let cpu = self.cpu();
                Op::Prefault { cpu, gpa: self.gpa_of(cpu), size: self.bytes(), flags: 0 }
            }
            117..122 => Op::Pages(self.file()),
            122..124 => Op::Alive(self.any(Vm::COUNT, Vm::new)),
            _ => Op::Try(self.file(), self.one_of(&CALLS)),
        }
    }

    fn create_vm(&mut self) -> Op {
        let features = &self.model.kernel().features;
        let vm_type = match (features.of_type(0), features.of_type(1)) {
            (_, None) => 0,
            // Little can be asked of it.
            (Some(plain), _) if !plain.gmem => u32::from(!self.one_in(8)),
            _ => u32::from(!self.one_in(3)),
        };
        Op::CreateVm { vm: self.any(Vm::COUNT, Vm::new), vm_type }
    }

    fn create_file(&mut self) -> Op {
        let (file, vm) = (self.any(File::COUNT, File::new), self.vm());
        let size = if self.one_in(12) { (2 << 20) + 8 * PAGE } else { self.random.u64(1..=12) * PAGE };
        let flags = self.one_of(&[0, 0, MMAP, MMAP | INIT_SHARED, MMAP | INIT_SHARED, INIT_SHARED]);
        // Where there are no flags, none is the rule.
        let known = self.model.kernel().features.types.values().fold(0, |all, of_type| all | of_type.gmem_flags);
        let flags = if self.one_in(10) { flags } else { flags & known };
        Op::CreateFile { file, vm, size, flags }
    }

    fn set_slot(&mut self) -> Op {
        let vm = self.vm();
        let mut id = self.random.u32(..SLOTS);
        if self.one_in(30) {
            id |= 1 << 16;
        }
        let with_gmem = self.random.u32(..4) != 0;
        let (mut gmem, mut offset, mut flags, mut size) = (Descriptor::Bad, 0, 0, self.bytes());
        if with_gmem {
            gmem = match self.random.u32(..40) {
                0 => Descriptor::Bad,
                1 => Descriptor::Null,
                2 => Descriptor::Kvm,
                3 => Descriptor::Vm(self.vm()),
                _ => Descriptor::File(self.file_of(vm)),
            };
            (offset, flags) = (self.file_offset(), GUEST_MEMFD);
            if let Descriptor::File(file) = gmem
                && let Some((pages, _)) = self.model.file_of(file, vm)
                && !self.one_in(5)
            {
                // Such that it fits.
                let first = self.random.u64(..pages);
                (offset, size) = (first * PAGE, self.random.u64(1..=(pages - first).min(8)) * PAGE);
            }
            if self.one_in(40) {
                flags |= self.one_of(&[LOG_DIRTY, READONLY]);
            }
        } else if self.one_in(3) {
            flags = self.one_of(&[LOG_DIRTY, READONLY, READONLY, LOG_DIRTY | READONLY]);
        }
        let slot = Slot { id, flags, gpa: self.gpa(), size, hva: self.place(), gmem, offset };
        Op::SetSlot { vm, slot }
    }

    fn delete_slot(&mut self) -> Op {
        let vm = self.vm();
        let mut id = self.random.u32(..SLOTS);
        let slots = self.model.slots_of(vm);
        if !slots.is_empty() && !self.one_in(3) {
            id = self.one_of(&slots).0;
        }
        let slot = Slot { id, flags: 0, gpa: 0, size: 0, hva: Place::Raw(0), gmem: Descriptor::Bad, offset: 0 };
        Op::SetSlot { vm, slot }
    }

    fn set_attributes(&mut self) -> Op {
        let vm = self.vm();
        let (gpa, size) = (self.gpa_in(vm), self.bytes());
        let attributes = self.one_of(&[PRIVATE, PRIVATE, 0]);
        Op::SetAttributes { vm, gpa, size, attributes, flags: 0 }
    }

    fn map(&mut self) -> Op {
        let known = self.model.kernel().features.types.values().fold(0, |all, of_type| all | of_type.gmem_flags);
        if known & MMAP == 0 && !self.one_in(8) {
            // Where nothing can be mapped, it is refused often enough.
            return self.set_attributes();
        }
        let (map, file) = (self.any(Map::COUNT, Map::new), self.file());
        let offset = if self.one_in(3) { self.file_offset() } else { 0 };
        let sharing = if self.one_in(10) { Sharing::Private } else { Sharing::Shared };
        let protection = match self.random.u32(..12) {
            0 => Protection::Exec,
            1 => Protection::Read,
            _ => Protection::ReadWrite,
        };
        Op::Map { map, file, offset, len: self.random.u64(1..=8) * PAGE, sharing, protection }
    }

    /// The same with a number, a flag or a descriptor that is mostly wrong.
    fn spoil(&mut self, op: Op) -> Op {
        match op {
            Op::CreateVm { vm, .. } => Op::CreateVm { vm, vm_type: self.one_of(&[0, 1, 7, 31, 32, u32::MAX >> 1]) },
            Op::CreateFile { file, vm, size, flags } => match self.random.u32(..2) {
                0 => Op::CreateFile { file, vm, size: self.spoiled(size), flags },
                _ => Op::CreateFile { file, vm, size, flags: flags | 1 << self.random.u32(..64) },
            },
            Op::SetSlot { vm, slot } => Op::SetSlot { vm, slot: self.spoil_slot(slot) },
            Op::SetSlotV1 { vm, slot } => Op::SetSlotV1 { vm, slot: self.spoil_slot(slot) },
            Op::SetAttributes { vm, gpa, size, attributes, flags } => match self.random.u32(..4) {
                0 => Op::SetAttributes { vm, gpa: self.spoiled(gpa), size, attributes, flags },
                1 => Op::SetAttributes { vm, gpa, size: self.spoiled(size), attributes, flags },
                2 => Op::SetAttributes { vm, gpa, size, attributes: attributes | 1 << self.random.u32(..64), flags },
                _ => Op::SetAttributes { vm, gpa, size, attributes, flags: 1 << self.random.u32(..64) },
            },
            Op::Fallocate { file, mode, offset, len } => match self.random.u32(..3) {
                0 => Op::Fallocate { file, mode: mode ^ 1 << self.random.u32(..9), offset, len },
                1 => Op::Fallocate { file, mode, offset: self.spoiled(offset), len },
                _ => Op::Fallocate { file, mode, offset, len: self.spoiled(len) },
            },
            Op::Map { map, file, offset, len, sharing, protection } => match self.random.u32(..2) {
                0 => Op::Map { map, file, offset: self.spoiled(offset), len, sharing, protection },
                _ => Op::Map { map, file, offset, len: self.spoiled(len), sharing, protection },
            },
            Op::Prefault { cpu, gpa, size, flags } => match self.random.u32(..3) {
                0 => Op::Prefault { cpu, gpa: self.spoiled(gpa), size, flags },
                1 => Op::Prefault { cpu, gpa, size: self.spoiled(size), flags },
                _ => Op::Prefault { cpu, gpa, size, flags: 1 << self.random.u32(..64) },
            },
            other => other,
        }
    }

    fn spoil_slot(&mut self, slot: Slot) -> Slot {
        match self.random.u32(..6) {
            0 => Slot { id: self.one_of(&[32763, 32764, 0x7fff, 0xffff, 0x2_0000, u32::MAX]), ..slot },
            1 => Slot { flags: slot.flags ^ 1 << self.random.u32(..32), gmem: Descriptor::Bad, offset: 0, ..slot },
            2 => Slot { gpa: self.spoiled(slot.gpa), ..slot },
            3 => Slot { size: self.spoiled(slot.size), ..slot },
            4 => Slot { hva: self.one_of(&[Place::Raw(1), Place::Raw(1 << 63), Place::Raw(u64::MAX - 0xfff)]), ..slot },
            _ if slot.flags & GUEST_MEMFD != 0 => Slot { offset: self.spoiled(slot.offset), ..slot },
            _ => slot,
        }
    }
}
