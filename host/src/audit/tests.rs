//! An audit of hosts made of files.

mod any_host;
mod fixture;

use super::report::{AuditReport, Confidence, Finding, Kind, State};
use super::{AuditError, Paint};
use crate::cli::CliError;
use crate::exit::ExitCode;
use fixture::{Fixture, MEMFD, MIB, VCPU, VM};
use std::fs;

fn kinds(report: &AuditReport) -> Vec<Kind> {
    report.findings.iter().map(|finding| finding.id).collect()
}

fn only(report: &AuditReport) -> &Finding {
    assert_eq!(report.findings.len(), 1, "{:#?}", report.findings);
    &report.findings[0]
}

fn asked(finding: &Finding) -> Vec<u32> {
    finding.ask.iter().map(|ask| ask.pid).collect()
}

#[test]
fn a_host_without_guests() {
    let report = Fixture::new().audit();
    assert!(report.complete && report.holders.is_empty() && report.findings.is_empty(), "{report:#?}");
    assert_eq!((report.processes_looked_at, report.exit_code()), (1, ExitCode::Success));
    assert!(report.render(Paint::Plain).ends_with("\n\nNothing found."));
}

/// Running guests are listed, and are no finding.
#[test]
fn running_guests_are_no_finding() {
    let mut host = Fixture::new();
    for (pid, inode) in [(100, 512), (200, 1024)] {
        host.process(pid, 1, "tenure");
        host.guest(pid, inode);
    }
    let report = host.audit();
    assert!(report.complete && report.findings.is_empty(), "{report:#?}");
    let holder = &report.holders[0];
    assert_eq!((holder.pid, holder.vms, holder.vcpus, holder.running[0].thread), (100, 1, 1, 101));
    assert_eq!((holder.user.as_deref(), holder.uid), (Some("vmm"), Some(107)));
    assert_eq!(holder.since.unwrap().to_string(), "2023-11-14T22:15:00Z");
    assert_eq!(holder.command_line.as_deref(), Some("/bin/tenure --flag"));
    assert_eq!(holder.parent.as_ref().unwrap().command, "init");
    let memory = &report.memories[0];
    assert_eq!((memory.state, memory.bytes, memory.held_by[0].pid), (State::Running, Some(512 * MIB), 100));
    let vm = &report.vms.as_ref().unwrap()[0];
    assert_eq!((vm.name.as_str(), vm.vcpus, vm.creator, vm.creator_holds), ("100-4", 1, Some(100), Some(true)));
    let row = "100  vmm   tenure   2023-11-14T22:15:00Z    1  1, 1 running  512 MiB (file 16:512)  in use\n";
    assert!(report.render(Paint::Plain).contains(row), "{}", report.render(Paint::Plain));
}

/// A vCPU on a processor shows no system call: guest mode, its VM's exits or its stack tell.
#[test]
fn a_busy_vcpu_is_seen_to_run() {
    let start = || {
        let mut host = Fixture::new();
        host.process(100, 1, "tenure");
        host.idle_guest(100, 512);
        host.thread(100, 101, "running");
        host
    };
    let unknown = start().audit();
    assert!(unknown.findings.is_empty() && unknown.memories[0].state == State::Unknown, "{unknown:#?}");

    let in_guest_mode = start();
    in_guest_mode.thread_with_flags(100, 101, "running", 0x40_0001);
    assert_eq!(in_guest_mode.audit().memories[0].state, State::Running);

    let by_stack = start();
    by_stack.write("proc/100/task/101/stack", "[<0>] kvm_arch_vcpu_ioctl_run+0xda4/0x1d50\n");
    assert_eq!(by_stack.audit().memories[0].state, State::Running);

    let exits = start();
    exits.meanwhile(|root| fs::write(root.join("sys/kernel/debug/kvm/100-4/exits"), "107\n").unwrap());
    let exits = exits.audit();
    assert_eq!((exits.memories[0].state, exits.vms.unwrap()[0].exits), (State::Running, Some(7)));
}

/// It handles an exit at first, and is back in `KVM_RUN` then.
#[test]
fn one_look_at_a_vcpu_is_not_enough() {
    let mut host = Fixture::new();
    host.process(100, 1, "tenure");
    host.idle_guest(100, 512);
    host.meanwhile(|_| ());
    host.meanwhile(|root| {
        fs::write(root.join("proc/100/task/101/syscall"), "16 0x5 0xae80 0x0 0x0 0x0 0x0 0x7ff 0x7ff\n").unwrap();
    });
    assert_eq!(host.audit().memories[0].state, State::Running);
}

#[test]
fn a_guest_that_does_not_run_is_a_likely_finding() {
    let mut host = Fixture::new();
    host.process(100, 1, "tenure");
    host.idle_guest(100, 512);
    // KVM's own thread shows the call that made it, for ever; another waits in a call of the same number elsewhere.
    host.thread_with_flags(100, 102, "16 0x5 0xae80 0x0 0x0 0x0 0x0 0x0 0x0", 0x40_4040);
    host.thread_with_flags(100, 103, "16 0x5 0xae80 0x0 0x0 0x0 0x0 0x7ff 0x7ff", 0x40_4040);
    host.thread(100, 104, "16 0x9 0xae80 0x0 0x0 0x0 0x0 0x7ff 0x7ff");
    let report = host.audit();
    let finding = only(&report);
    assert_eq!((finding.id, finding.confidence), (Kind::PinnedWithoutVcpu, Confidence::Likely));
    assert_eq!((finding.bytes, asked(finding)), (Some(512 * MIB), vec![100]));
    let evidence = finding.evidence.join("\n");
    assert!(evidence.contains("no thread of 100 (tenure), which has vCPUs, was in KVM_RUN in 8 looks"), "{evidence}");
    assert!(evidence.contains("VM 100-4 of 100 (tenure) had no exit meanwhile"), "{evidence}");
    assert_eq!(report.exit_code(), ExitCode::Findings);
}

#[test]
fn memory_without_any_vcpu_is_a_certain_finding() {
    let mut open = Fixture::new();
    open.process(100, 1, "keeper");
    open.memory(100, 6, 512);
    let mut mapped = Fixture::new();
    mapped.process(100, 1, "keeper");
    mapped.map(100, 0x7000, MEMFD, 512);
    for (host, held) in [(open, "holds it as descriptor 6"), (mapped, "maps it at 7000-8000")] {
        let report = host.audit();
        let finding = only(&report);
        assert_eq!((finding.id, finding.confidence), (Kind::PinnedWithoutVcpu, Confidence::Certain));
        assert_eq!((finding.bytes, asked(finding)), (Some(512 * MIB), vec![100]));
        assert!(finding.evidence.contains(&format!("100 (keeper) {held}")), "{:#?}", finding.evidence);
    }
}

/// The owner of a running guest may have closed the file, which the guest then still uses.
#[test]
fn another_explanation_makes_it_less_than_certain() {
    for (owner, expected) in [(50, Confidence::Likely), (900, Confidence::Certain)] {
        let mut host = Fixture::new();
        host.process(100, 1, "keeper");
        host.memory(100, 6, 512);
        host.process(owner, 1, "vmm");
        host.guest(owner, 1);
        fs::remove_file(host.root.path().join(format!("proc/{owner}/fd/6"))).unwrap();
        // A process that is younger than the memory did not make it.
        assert_eq!(only(&host.audit()).confidence, expected, "{owner}");
    }
}

#[test]
fn what_a_child_inherits_is_found_with_its_parent() {
    let mut host = Fixture::new();
    host.process(100, 1, "tenure");
    host.guest(100, 512);
    host.process(150, 100, "helper");
    host.fd(150, 4, VM, 100);
    host.memory(150, 6, 512);
    host.process(160, 150, "mapper");
    host.map(160, 0x9000, MEMFD, 512);
    host.map(160, 0x70_0000, VCPU, 1044);
    let report = host.audit();
    assert_eq!(kinds(&report), [Kind::Inherited, Kind::Inherited], "{:#?}", report.findings);
    for (finding, heir) in report.findings.iter().zip([150, 160]) {
        assert_eq!((finding.confidence, finding.bytes), (Confidence::Certain, Some(512 * MIB)));
        assert_eq!(asked(finding), [heir, 100]);
    }
    let [child, grandchild] = [0, 1].map(|number| report.findings[number].evidence.join("\n"));
    assert!(
        child.contains("it has anon_inode:kvm-vm as descriptor 4: the same file as descriptor 4 of process 100"),
        "{child}"
    );
    assert!(child.contains("100 (tenure) is the parent of 150 (helper)"), "{child}");
    assert!(grandchild.contains("it maps guest_memfd 16:512, which process 100 holds, at 9000-a000"), "{grandchild}");
    assert!(grandchild.contains("100 (tenure) is an ancestor of 160 (mapper)"), "{grandchild}");
    // The memory itself is in use.
    assert_eq!(report.memories[0].state, State::Running);
}

#[test]
fn a_vcpu_mapping_alone_is_a_likely_inheritance() {
    let mut host = Fixture::new();
    host.process(100, 1, "tenure");
    host.guest(100, 512);
    host.process(150, 100, "helper");
    host.map(150, 0x70_0000, VCPU, 1044);
    let report = host.audit();
    assert_eq!((only(&report).id, only(&report).confidence), (Kind::Inherited, Confidence::Likely));
}

#[test]
fn what_is_handed_over_through_a_socket_is_found_too() {
    let mut host = Fixture::new();
    host.process(300, 1, "tenure");
    host.guest(300, 512);
    host.process(200, 1, "backend");
    host.memory(200, 9, 512);
    let report = host.audit();
    assert_eq!(asked(only(&report)), [200, 300]);
    let evidence = only(&report).evidence.join("\n");
    assert!(evidence.contains("200 (backend) does not descend from 300 (tenure)"), "{evidence}");
}

#[test]
fn a_process_with_several_vms_is_found_and_copies_of_a_descriptor_are_not() {
    let mut several = Fixture::new();
    several.process(100, 1, "farm");
    several.guest(100, 512);
    several.fd(100, 7, VM, 7);
    several.memory(100, 8, 1024);
    let report = several.audit();
    let finding = only(&report);
    assert_eq!((finding.id, finding.confidence), (Kind::SeveralVms, Confidence::Likely));
    assert_eq!((finding.bytes, asked(finding)), (Some(1536 * MIB), vec![100]));
    assert_eq!(report.memories[0].state, State::Unknown);

    let mut copies = Fixture::new();
    copies.process(100, 1, "tenure");
    copies.guest(100, 512);
    copies.fd(100, 7, VM, 100);
    copies.memory(100, 8, 1024);
    assert!(copies.audit().findings.is_empty());

    // Where they cannot be compared, that is said.
    copies.kcmp = false;
    let report = copies.audit();
    assert_eq!((only(&report).id, only(&report).confidence), (Kind::SeveralVms, Confidence::Possible));
    assert!(!report.complete && report.unseen[0].why.starts_with("kcmp: "), "{:#?}", report.unseen);
}

#[test]
fn a_process_that_collects_memory_of_others_is_found() {
    let mut host = Fixture::new();
    for (pid, inode) in [(100, 512), (200, 1024)] {
        host.process(pid, 1, "tenure");
        host.guest(pid, inode);
    }
    host.process(300, 1, "monitor");
    host.memory(300, 3, 512);
    host.memory(300, 4, 1024);
    let report = host.audit();
    assert_eq!(kinds(&report), [Kind::Inherited, Kind::SeveralVms]);
    assert_eq!(asked(&report.findings[0]), [300, 100, 200]);
}

#[test]
fn a_vm_without_its_creator_is_found() {
    let mut host = Fixture::new();
    host.kernel_vm("100-4", 2);
    host.process(150, 1, "heir");
    host.memory(150, 6, 512);
    host.process(300, 1, "tenure");
    host.guest(300, 1024);
    let report = host.audit();
    assert_eq!(kinds(&report), [Kind::PinnedWithoutVcpu, Kind::OrphanVm], "{:#?}", report.findings);
    let orphan = &report.findings[1];
    assert_eq!((orphan.confidence, orphan.bytes, asked(orphan)), (Confidence::Certain, Some(512 * MIB), vec![150]));

    // Nobody at all: descriptors on their way, or io_uring.
    let host = Fixture::new();
    host.kernel_vm("100-4", 2);
    let report = host.audit();
    assert_eq!((only(&report).id, asked(only(&report)), only(&report).bytes), (Kind::OrphanVm, vec![], None));
}

#[test]
fn a_number_that_is_another_process_now_is_no_creator() {
    let mut host = Fixture::new();
    // Files of the fixture are made now, long after its boot: the process must be younger still.
    host.write("proc/stat", "btime 4000000000\n");
    host.kernel_vm("100-4", 2);
    host.process(100, 1, "shell");
    host.fd(100, 4, VM, 1);
    let report = host.audit();
    assert_eq!(only(&report).id, Kind::OrphanVm);
    assert_eq!(report.vms.unwrap()[0].creator, None);
}

#[test]
fn a_thread_that_ended_took_no_vm_with_it() {
    let mut host = Fixture::new();
    host.process(100, 1, "tenure");
    host.guest(100, 512);
    // Created by thread 107, which is gone.
    fs::rename(
        host.root.path().join("sys/kernel/debug/kvm/100-4"),
        host.root.path().join("sys/kernel/debug/kvm/107-4"),
    )
    .unwrap();
    let report = host.audit();
    assert!(report.findings.is_empty(), "{:#?}", report.findings);
    assert_eq!(report.vms.unwrap()[0].creator, Some(100));
}

#[test]
fn a_vm_kept_by_its_vcpus_or_under_another_number_is_no_orphan() {
    let mut host = Fixture::new();
    host.process(100, 1, "tenure");
    host.guest(100, 512);
    fs::remove_file(host.root.path().join("proc/100/fd/4")).unwrap();
    assert!(host.audit().findings.is_empty());
    host.fd(100, 40, VM, 100);
    assert!(host.audit().findings.is_empty());
}

#[test]
fn descriptors_that_exec_would_pass_on_are_found() {
    let mut host = Fixture::new();
    host.process(100, 1, "qemu");
    host.guest(100, 512);
    host.leaky_memory(100, 6, 512);
    let report = host.audit();
    let finding = only(&report);
    assert_eq!((finding.id, finding.confidence), (Kind::NotCloseOnExec, Confidence::Certain));
    assert_eq!((finding.bytes, finding.evidence.len()), (Some(512 * MIB), 1));
}

/// A finding is what two looks agree on.
#[test]
fn what_is_over_in_a_moment_is_no_finding() {
    let mut host = Fixture::new();
    host.process(100, 1, "tenure");
    host.guest(100, 512);
    host.process(150, 100, "between fork and exec");
    host.memory(150, 6, 512);
    host.meanwhile(|root| fs::remove_file(root.join("proc/150/fd/6")).unwrap());
    assert!(host.audit().findings.is_empty());

    // What has just begun may be over as soon.
    let mut host = Fixture::new();
    host.process(100, 1, "keeper");
    host.memory(100, 6, 512);
    host.process(150, 1, "beginner");
    host.memory(150, 6, 1024);
    let link = host.root.path().join("proc/150/fd/6");
    fs::remove_file(&link).unwrap();
    host.meanwhile(move |_| std::os::unix::fs::symlink(MEMFD, link).unwrap());
    let report = host.audit();
    assert_eq!((asked(only(&report)), report.holders.len()), (vec![100], 2));

    let mut host = Fixture::new();
    host.process(100, 1, "dying");
    host.memory(100, 6, 512);
    host.meanwhile(|root| fs::remove_dir_all(root.join("proc/100")).unwrap());
    let report = host.audit();
    assert!(report.findings.is_empty() && report.holders.is_empty() && report.complete, "{report:#?}");
}

/// What a process has is shown by any of its threads that is left.
#[test]
fn a_process_without_its_first_thread_still_holds() {
    let mut host = Fixture::new();
    host.process(100, 1, "vmm");
    let stat = "proc/100/stat";
    let ended = fs::read_to_string(host.root.path().join(stat)).unwrap().replace(") S ", ") Z ");
    host.write(stat, &ended);
    host.write("proc/100/task/100/stat", &ended);
    host.process(107, 1, "vmm");
    host.memory(107, 6, 512);
    host.thread(100, 107, "202 0x5 0x80 0x0 0x0 0x0 0x0 0x7ff 0x7ff");
    // A thread has a directory, but is not listed: 100 is, and it is 100 whom to ask.
    fs::rename(host.root.path().join("proc/107/stat"), host.root.path().join("proc/107/hidden")).unwrap();
    let report = host.audit();
    assert_eq!(asked(only(&report)), [100], "{report:#?}");

    // Nobody is left of this one: it holds nothing.
    host.write("proc/100/task/107/stat", &ended);
    assert!(host.audit().findings.is_empty());
}

/// no-silent-trust: what was not seen is said, and nothing found is not nothing there.
#[test]
fn no_silent_trust_what_was_not_seen_is_said() {
    let mut host = Fixture::new();
    host.process(100, 1, "secret");
    fs::remove_dir_all(host.root.path().join("proc/100/fd")).unwrap();
    host.write("proc/100/fd", "not a directory");
    host.write("proc/self/mounts", "proc /proc proc rw 0 0\n");
    let report = host.audit();
    assert_eq!((report.processes_hidden, report.complete, report.findings.len()), (1, false, 0));
    assert!(report.unseen[0].what.ends_with("1 process: 100") && report.unseen[1].why.contains("not mounted"));
    assert!(report.render(Paint::Plain).ends_with("\n\nNothing found in what could be seen."));

    // And makes what is found less than certain.
    host.process(200, 1, "keeper");
    host.memory(200, 6, 512);
    assert_eq!(only(&host.audit()).confidence, Confidence::Likely);

    let container = Fixture::new();
    container.link("proc/self/ns/pid", "pid:[4026532201]");
    container.kernel_vm("7-4", 1);
    let report = container.audit();
    assert!(report.vms.is_none() && report.findings.is_empty() && report.unseen.len() == 2, "{report:#?}");
    // A kernel without such namespaces has one, and no link.
    fs::remove_file(container.root.path().join("proc/self/ns/pid")).unwrap();
    let report = container.audit();
    assert!(report.complete && report.vms.is_some(), "{report:#?}");
}

#[test]
fn a_thread_that_cannot_be_read_leaves_it_open() {
    let mut host = Fixture::new();
    host.process(100, 1, "tenure");
    host.idle_guest(100, 512);
    fs::remove_file(host.root.path().join("proc/100/task/101/syscall")).unwrap();
    let report = host.audit();
    assert!(report.findings.is_empty() && report.memories[0].state == State::Unknown, "{report:#?}");
    assert!(report.holders[0].running_unknown.as_ref().unwrap().contains("cannot be read"));
}

#[test]
fn without_proc_the_host_is_not_capable() {
    let root = Fixture::new();
    fs::remove_dir_all(root.root.path().join("proc")).unwrap();
    let error = root.try_audit().unwrap_err();
    assert!(matches!(error, AuditError::Proc { .. }), "{error}");
    assert_eq!(CliError::from(error).exit_code(), ExitCode::NotCapable);
    fs::create_dir(root.root.path().join("proc")).unwrap();
    assert!(matches!(root.try_audit().unwrap_err(), AuditError::NoProcesses { .. }));
}

#[test]
fn measuring_asks_a_descriptor_and_says_where_there_is_none() {
    let mut host = Fixture::new();
    host.process(100, 1, "tenure");
    host.guest(100, 512);
    host.process(150, 1, "mapper");
    host.map(150, 0x9000, MEMFD, 8);
    let report = host.measure();
    let allocated: Vec<_> = report.memories.iter().map(|memory| memory.allocated_bytes).collect();
    assert_eq!(allocated, [None, Some(256 * MIB)]);
    assert!(!report.complete && report.unseen[0].why.starts_with("it is only mapped"), "{:#?}", report.unseen);
    assert!(report.render(Paint::Plain).contains("512 MiB, 256 MiB allocated (file 16:512)"));
}

/// no-silent-trust: a process's name reaches the terminal as text.
#[test]
fn no_silent_trust_names_are_not_obeyed() {
    let mut host = Fixture::new();
    host.process(100, 1, "\x1b[2J\u{202e}evil\n");
    host.memory(100, 6, 512);
    let report = host.audit();
    let text = report.render(Paint::Plain);
    assert!(text.chars().all(|char| char == '\n' || !char.is_control()), "{text:?}");
    assert!(text.contains("\\u{1b}[2J\\u{202e}evil\\n"), "{text}");
    assert!(report.render(Paint::Colours).contains("\x1b[31;1mpinned-without-vcpu\x1b[0m"));
    let json = serde_json::to_string(&report).unwrap();
    assert!(json.contains("\\u001b[2J") && json.contains("\"id\":\"pinned-without-vcpu\""), "{json}");
}

#[test]
fn the_kernels_newer_name_for_memory_is_known() {
    let mut host = Fixture::new();
    host.process(100, 1, "keeper");
    host.memory(100, 6, 512);
    host.fd(100, 6, "/[guest_memfd]", 512);
    assert_eq!(only(&host.audit()).id, Kind::PinnedWithoutVcpu);
}
