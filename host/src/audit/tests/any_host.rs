//! Judging against a naive reading of the same facts, on any host.

use crate::audit::judge::Host;
use crate::audit::report::{Kind, State};
use crate::audit::seen::{Descriptor, FileId, Holder, How, Identity, Mapping, Seen, Vcpus, Who};
use gmem_kvm::evidence::Object;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What a process of a random host has.
#[derive(Debug, Clone)]
struct Plan {
    parent: usize,
    vms: BTreeSet<usize>,
    open: BTreeSet<u64>,
    mapped: BTreeSet<u64>,
    vcpu: bool,
    runs: bool,
    unknown: bool,
    leaks: bool,
}

fn plan() -> impl Strategy<Value = Plan> {
    let few = |max: u64| prop::collection::btree_set(0..max, 0..3);
    let flags = any::<(bool, bool, bool, bool)>();
    (0..8usize, prop::collection::btree_set(0..4usize, 0..3), few(5), few(5), flags).prop_map(
        |(parent, vms, open, mapped, (vcpu, runs, unknown, leaks))| Plan {
            parent,
            vms,
            open,
            mapped,
            vcpu,
            runs: vcpu && runs,
            unknown: vcpu && !runs && unknown,
            leaks,
        },
    )
}

fn file(inode: u64) -> FileId {
    FileId { device: 16, inode }
}

fn seen(plans: &[Plan]) -> Seen {
    let pid = |number: usize| u32::try_from(number + 10).unwrap();
    let who = |number: usize| Who { pid: pid(number), command: format!("process {number}") };
    let mut holders = BTreeMap::new();
    for (number, plan) in plans.iter().enumerate() {
        let mut descriptors = Vec::new();
        let mut add = |object, identity| {
            let fd = u32::try_from(descriptors.len()).unwrap();
            let (name, close_on_exec) = (format!("{object:?}"), Some(!plan.leaks));
            descriptors.push(Descriptor { fd, object, name, identity, bytes: Some(1), created: None, close_on_exec });
        };
        plan.vms.iter().for_each(|vm| add(Object::Vm, Identity::Compared(*vm)));
        plan.open.iter().for_each(|inode| add(Object::GuestMemfd, Identity::File(file(*inode))));
        if plan.vcpu {
            add(Object::Vcpu, Identity::Compared(1000 + number));
        }
        let map = |inode: &u64| Mapping {
            start: inode << 20,
            end: (inode << 20) + 4096,
            object: Object::GuestMemfd,
            name: "memory".into(),
            file: file(*inode),
            bytes: None,
            created: None,
        };
        // A parent is an older process, so that nobody descends from himself.
        let ancestors = (plan.parent < number).then(|| who(plan.parent)).into_iter().collect();
        let running = plan.runs.then_some((1, How::InGuestMode)).into_iter().collect();
        let holder = Holder {
            who: who(number),
            task: pid(number),
            command_line: None,
            uid: None,
            user: None,
            started_ticks: u64::try_from(number).unwrap(),
            started: None,
            ancestors,
            mappings: plan.mapped.iter().map(map).collect(),
            vcpus: Vcpus { running, unknown: plan.unknown.then(|| "unknown".into()), samples: 8 },
            descriptors,
        };
        if !holder.descriptors.is_empty() || !holder.mappings.is_empty() {
            holders.insert(pid(number), holder);
        }
    }
    Seen { looked_at: plans.len(), holders, vms: Some(Vec::new()), ..Seen::default() }
}

proptest! {
    #[test]
    fn findings_are_those_of_a_naive_reading(plans in prop::collection::vec(plan(), 0..8)) {
        let seen = seen(&plans);
        let host = Host::new(&seen);
        let findings = host.findings();
        let holds = |plan: &Plan, inode: u64| plan.open.contains(&inode) || plan.mapped.contains(&inode);
        let pid = |number: usize| u32::try_from(number + 10).unwrap();

        for inode in 0..5 {
            let holders: Vec<usize> = (0..plans.len()).filter(|number| holds(&plans[*number], inode)).collect();
            let Some(memory) = host.memories.get(&file(inode)) else {
                prop_assert!(holders.is_empty());
                continue;
            };
            let held_by: Vec<u32> = memory.held_by.iter().map(|holding| holding.pid).collect();
            prop_assert_eq!(&held_by, &holders.iter().map(|number| pid(*number)).collect::<Vec<_>>());
            // Not in use is only what nobody who holds it runs, or may run.
            let idle = holders.iter().all(|number| !plans[*number].runs && !plans[*number].unknown);
            prop_assert_eq!(memory.state == State::NotRunning, idle);
            let clear = |number: &usize| plans[*number].runs && plans[*number].vms.len() <= 1;
            prop_assert_eq!(memory.state == State::Running, holders.iter().any(clear));
            let pinned = findings.iter().filter(|finding| {
                finding.id == Kind::PinnedWithoutVcpu && finding.evidence[..].iter().any(|line| {
                    line.starts_with(&format!("guest_memfd {},", file(inode)))
                })
            });
            prop_assert_eq!(pinned.count(), usize::from(idle), "{:#?}", &findings);
        }

        // All but one of those who hold the same thing are heirs.
        let heirs: BTreeSet<u32> =
            findings.iter().filter(|finding| finding.id == Kind::Inherited).map(|finding| finding.ask[0].pid).collect();
        let check_heirs = |holders: Vec<usize>| {
            let owners = holders.iter().filter(|number| !heirs.contains(&pid(**number))).count();
            prop_assert!(holders.len() <= 1 || owners <= 1, "{holders:?} {heirs:?}");
            Ok(())
        };
        for inode in 0..5 {
            check_heirs((0..plans.len()).filter(|number| holds(&plans[*number], inode)).collect())?;
        }
        for vm in 0..4 {
            check_heirs((0..plans.len()).filter(|number| plans[*number].vms.contains(&vm)).collect())?;
        }
        // And nobody is who shares nothing.
        for (number, plan) in plans.iter().enumerate() {
            let shares = plans.iter().enumerate().any(|(other, theirs)| {
                other != number
                    && ((0..5).any(|inode| holds(plan, inode) && holds(theirs, inode))
                        || !plan.vms.is_disjoint(&theirs.vms))
            });
            prop_assert!(shares || !heirs.contains(&pid(number)));
        }

        for (number, plan) in plans.iter().enumerate() {
            let of = |kind| findings.iter().any(|finding| finding.id == kind && finding.ask[0].pid == pid(number));
            let memories = (0..5).filter(|inode| holds(plan, *inode)).count();
            if plan.vms.len() > 1 && memories > 1 {
                prop_assert!(of(Kind::SeveralVms));
            }
            if memories < 2 {
                prop_assert!(!of(Kind::SeveralVms));
            }
            let anything = !plan.vms.is_empty() || !plan.open.is_empty() || plan.vcpu;
            let leaks = plan.leaks && anything && !heirs.contains(&pid(number));
            prop_assert_eq!(of(Kind::NotCloseOnExec), leaks);
        }

        // The same host gives the same findings: what two looks are compared by.
        let subjects = |host: &Host<'_>| -> Vec<_> {
            host.findings().into_iter().map(|finding| (finding.id, finding.subject)).collect()
        };
        let distinct: BTreeSet<_> = subjects(&host).into_iter().collect();
        prop_assert_eq!(distinct.len(), findings.len());
        prop_assert_eq!(subjects(&host), subjects(&Host::new(&seen)));
    }
}
