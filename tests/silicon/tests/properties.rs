//! Random sequences of operations: the table's structure always holds, a kernel that keeps order breaks nothing, and one
//! that does not is found out, exactly when it matters.

#![expect(clippy::unwrap_used, reason = "bodies of tests")]

use std::collections::BTreeMap;

use proptest::prelude::*;

use tenure_silicon::asid::GuestKind;
use tenure_silicon::config::Config;
use tenure_silicon::model::Model;
use tenure_silicon::platform::{Platform, mapping};
use tenure_silicon::psp::{Policy, Status};
use tenure_silicon::rmp::{Access, Assignment, Mapping, PageState, Permissions, Validation, Validity};
use tenure_silicon::units::{Asid, Gpa, PAGE_BYTES, Page, PageSize, Pfn, Vmpl};
use tenure_silicon::violation::Violation;

fn platform() -> Platform {
    let platform = Platform::new(Config { pages: 1024, ..Config::new(Model::Genoa, [3; 32]) });
    platform.snp_init().unwrap();
    platform
}

fn private(asid: Asid) -> Access {
    Access { asid, vmpl: Vmpl::Vmpl0, private: true, needs: Permissions(0) }
}

/// One instruction, with operands that often collide.
#[derive(Clone, Copy, Debug)]
enum Instruction {
    Rmpupdate(Pfn, Assignment),
    Psmash(Pfn),
    Pvalidate(Asid, Mapping, Validity),
    Reclaim(Pfn, PageSize),
}

fn instructions() -> impl Strategy<Value = Instruction> {
    let pfn = prop_oneof![(0..6u64), (510..518u64), Just(512), Just(1023), Just(1024)].prop_map(Pfn);
    let gpa = prop_oneof![(0..4u64), (510..514u64)].prop_map(|page| Gpa(page << 12));
    let asid = (0..4u32).prop_map(Asid);
    let size = prop_oneof![3 => Just(PageSize::Size4K), 1 => Just(PageSize::Size2M)];
    let validity = prop_oneof![3 => Just(Validity::Validate), 1 => Just(Validity::Rescind)];
    (0..8u8, pfn, gpa, asid, size, validity, any::<bool>(), any::<bool>()).prop_map(
        |(which, pfn, gpa, asid, size, validity, assigned, immutable)| match which {
            0..4 => Instruction::Rmpupdate(pfn, Assignment { assigned, asid, gpa, size, immutable }),
            4 => Instruction::Psmash(pfn),
            5 | 6 => Instruction::Pvalidate(asid, Mapping { gpa, pfn, size }, validity),
            _ => Instruction::Reclaim(pfn, size),
        },
    )
}

/// What must hold whatever anyone does.
fn check_structure(platform: &Platform) {
    let named = platform.inspect(|hw, _| {
        let mut end = 0;
        for (pfn, entry) in hw.rmp.entries() {
            assert!(pfn.0 >= end, "entries overlap at {pfn}");
            assert!(pfn.is_aligned(entry.size), "{pfn} is not aligned");
            assert!(!entry.validated || entry.asid != Asid::HOST, "{pfn} is validated and nobody's");
            assert!(entry.assigned, "{pfn} takes memory and says nothing");
            end = pfn.0 + entry.size.pages();
        }
        let mut named = BTreeMap::new();
        for pfn in (0..hw.rmp.pages()).map(Pfn) {
            let entry = hw.rmp.entry(pfn).unwrap();
            if entry.is_guests() {
                *named.entry(entry.asid).or_insert(0) += 1;
                assert_eq!(entry.validated, hw.rmp.validated_places(entry.asid, entry.gpa).contains(&pfn));
            }
        }
        named
    });
    assert_eq!(platform.statistics().pages_by_asid, named.into_iter().collect::<Vec<_>>());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_tables_structure_survives_any_instructions(steps in prop::collection::vec(instructions(), 1..60)) {
        let platform = platform();
        for step in steps {
            let (Instruction::Rmpupdate(pfn, _) | Instruction::Psmash(pfn) | Instruction::Reclaim(pfn, _)) = step else {
                let Instruction::Pvalidate(asid, at, validity) = step else { unreachable!() };
                let before = platform.rmp_entry(at.pfn);
                if let Ok(Validation::Unchanged) | Err(_) = platform.pvalidate(asid, at, validity) {
                    prop_assert_eq!(platform.rmp_entry(at.pfn), before);
                }
                continue;
            };
            let before = platform.rmp_entry(pfn);
            let (changed, by_software) = match step {
                Instruction::Rmpupdate(_, new) => (platform.rmpupdate(pfn, new).is_ok(), true),
                Instruction::Psmash(_) => (platform.psmash(pfn).is_ok(), true),
                Instruction::Reclaim(_, size) => (platform.snp_page_reclaim(pfn, size).is_ok(), false),
                Instruction::Pvalidate(..) => unreachable!(),
            };
            let was_immutable = before.is_some_and(|entry| entry.immutable);
            prop_assert!(!(changed && by_software && was_immutable), "an immutable entry changed: {:?}", step);
            if !changed {
                prop_assert_eq!(platform.rmp_entry(pfn), before, "a failed operation changed something");
            }
            check_structure(&platform);
        }
    }
}

/// What happens to VMs. The number picks among those that exist.
#[derive(Clone, Copy, Debug)]
enum Doing {
    Create,
    Fault(usize),
    Convert(usize),
    Destroy(usize, Order),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Order {
    PagesFirst,
    KeyFirst,
}

fn doings(wrong: u32) -> impl Strategy<Value = Doing> {
    let order = prop_oneof![3 => Just(Order::PagesFirst), wrong => Just(Order::KeyFirst)];
    prop_oneof![
        2 => Just(Doing::Create),
        6 => any::<usize>().prop_map(Doing::Fault),
        2 => any::<usize>().prop_map(Doing::Convert),
        1 => (any::<usize>(), order).prop_map(|(vm, order)| Doing::Destroy(vm, order)),
    ]
}

struct Vm {
    asid: Asid,
    context: Pfn,
    pages: Vec<(Gpa, Pfn)>,
    secret: Page,
}

/// The least kernel that runs guests: finds pages, keeps order or not.
struct Kernel {
    platform: Platform,
    free: Vec<Pfn>,
    vms: Vec<Vm>,
    /// Pages that were never taken back from guests that are gone.
    stray: BTreeMap<Asid, Vec<Pfn>>,
    created: u8,
    next_gpa: u64,
}

const HOSTS: Assignment =
    Assignment { assigned: false, asid: Asid::HOST, gpa: Gpa(0), size: PageSize::Size4K, immutable: false };

impl Kernel {
    fn new() -> Kernel {
        let free = (0..400).map(Pfn).collect();
        Kernel { platform: platform(), free, vms: Vec::new(), stray: BTreeMap::new(), created: 0, next_gpa: 0 }
    }

    fn carry_out(&mut self, doing: Doing) {
        let chosen = |number: usize| (!self.vms.is_empty()).then(|| number % self.vms.len());
        match doing {
            Doing::Create => self.create(),
            Doing::Fault(number) => chosen(number).into_iter().for_each(|vm| self.fault(vm)),
            Doing::Convert(number) => chosen(number).into_iter().for_each(|vm| self.convert(vm)),
            Doing::Destroy(number, order) => chosen(number).into_iter().for_each(|vm| self.destroy(vm, order)),
        }
    }

    fn create(&mut self) {
        let Some(asid) = self.allocate() else { return };
        let context = self.free.pop().unwrap();
        let p = &self.platform;
        p.rmpupdate(context, Assignment { assigned: true, immutable: true, ..HOSTS }).unwrap();
        p.snp_gctx_create(context).unwrap();
        p.snp_launch_start(context, Policy::usual(), [0; 16]).unwrap();
        p.snp_activate(context, asid).unwrap();
        self.created = self.created.wrapping_add(1);
        self.vms.push(Vm { asid, context, pages: Vec::new(), secret: [self.created | 1; PAGE_BYTES] });
    }

    fn allocate(&mut self) -> Option<Asid> {
        if let Ok(asid) = self.platform.allocate_asid(GuestKind::Snp) {
            return Some(asid);
        }
        self.platform.wbinvd_all();
        self.platform.snp_df_flush().unwrap();
        let seen = self.platform.violations().len();
        for asid in self.platform.recycle_asids().unwrap() {
            // Nobody ever takes them back, so the ASID's next owner leaves them behind, too.
            let left = self.stray.get(&asid).map_or(0, Vec::len);
            let told = |v: &Violation| matches!(v, Violation::PagesBeforeKey { asid: of, .. } if *of == asid);
            assert_eq!(left > 0, self.platform.violations()[seen..].iter().any(told), "{asid}: {left} pages");
        }
        self.platform.allocate_asid(GuestKind::Snp).ok()
    }

    fn fault(&mut self, vm: usize) {
        let Some(pfn) = self.free.pop() else { return };
        let (p, vm) = (&self.platform, &mut self.vms[vm]);
        self.next_gpa += 1;
        let gpa = Gpa(self.next_gpa << 12);
        p.rmpupdate(pfn, Assignment { assigned: true, asid: vm.asid, gpa, ..HOSTS }).unwrap();
        assert_eq!(p.pvalidate(vm.asid, mapping(gpa, pfn), Validity::Validate), Ok(Validation::Changed));
        p.guest_write(private(vm.asid), mapping(gpa, pfn), &vm.secret).unwrap();
        vm.pages.push((gpa, pfn));
    }

    fn convert(&mut self, vm: usize) {
        let (p, vm) = (&self.platform, &mut self.vms[vm]);
        let Some((gpa, pfn)) = vm.pages.pop() else { return };
        p.pvalidate(vm.asid, mapping(gpa, pfn), Validity::Rescind).unwrap();
        p.rmpupdate(pfn, HOSTS).unwrap();
        p.host_write(pfn, &[0; PAGE_BYTES]).unwrap();
        self.free.push(pfn);
    }

    fn destroy(&mut self, vm: usize, order: Order) {
        let vm = self.vms.swap_remove(vm);
        let p = &self.platform;
        for (_, pfn) in &vm.pages {
            match order {
                Order::PagesFirst => {
                    p.rmpupdate(*pfn, HOSTS).unwrap();
                    self.free.push(*pfn);
                }
                Order::KeyFirst => self.stray.entry(vm.asid).or_default().push(*pfn),
            }
        }
        p.snp_decommission(vm.context).unwrap();
        assert_eq!(p.snp_guest_status(vm.context), Err(Status::InvalidGuest));
        p.snp_page_reclaim(vm.context, PageSize::Size4K).unwrap();
        p.rmpupdate(vm.context, HOSTS).unwrap();
        self.free.push(vm.context);
        p.release_asid(vm.asid).unwrap();
    }

    /// Every guest reads its own secret, and nobody reads another's.
    fn check_secrets(&self) {
        let mostly = |page: &Page, secret: &Page| page.iter().zip(secret).filter(|(a, b)| a == b).count() > 64;
        for vm in &self.vms {
            for (gpa, pfn) in &vm.pages {
                let at = mapping(*gpa, *pfn);
                assert_eq!(self.platform.guest_read(private(vm.asid), at).unwrap(), vm.secret);
                assert!(!mostly(&self.platform.host_read(*pfn), &vm.secret), "the host reads {pfn}");
                assert_eq!(self.platform.rmp_entry(*pfn).unwrap().state(), PageState::GuestValid);
                for other in self.vms.iter().filter(|other| other.asid != vm.asid) {
                    assert!(self.platform.guest_read(private(other.asid), at).is_err());
                }
            }
        }
        for pfn in &self.free {
            let page = self.platform.host_read(*pfn);
            assert!(self.vms.iter().all(|vm| !mostly(&page, &vm.secret)), "plaintext came back with {pfn}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_kernel_that_keeps_order_breaks_nothing(steps in prop::collection::vec(doings(0), 1..120)) {
        let mut kernel = Kernel::new();
        for step in steps {
            kernel.carry_out(step);
        }
        kernel.check_secrets();
        prop_assert_eq!(kernel.platform.violations(), []);
        while !kernel.vms.is_empty() {
            kernel.destroy(0, Order::PagesFirst);
        }
        prop_assert_eq!(kernel.platform.statistics().pages_by_state, BTreeMap::new());
    }

    #[test]
    fn pages_before_key_is_told_of_exactly_the_asids_it_is_broken_for(
        steps in prop::collection::vec(doings(2), 1..300),
    ) {
        let mut kernel = Kernel::new();
        for step in steps {
            kernel.carry_out(step);
        }
        let only = |v: &Violation| matches!(v, Violation::PagesBeforeKey { .. });
        prop_assert!(kernel.platform.violations().iter().all(only));
    }
}
