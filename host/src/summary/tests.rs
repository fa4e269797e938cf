use super::*;
use crate::config::Tee;
use crate::report::{ClosingStep, DeviceReport, Evidence, PagesInState, Place, Timing};
use crate::stop::StopReason;
use std::collections::BTreeMap;

fn report() -> RunReport {
    let exits = |io| BTreeMap::from([("io".into(), io), ("hlt".into(), 20), ("hypercall".into(), 643)]);
    RunReport {
        place: Place {
            host_kernel: "Linux 7.2.13".into(),
            cpu: "AMD EPYC".into(),
            tee: Tee::Sw,
            guise: Guise::Sev,
            vm_type: 1,
        },
        timing: Timing {
            launch: Duration::from_millis(310),
            guest: Duration::from_secs(5),
            teardown: Duration::from_micros(2500),
        },
        memory: MemoryReport {
            ram: PageCount::new(131_072),
            private: PageCount::new(114_622),
            shared: PageCount::new(16_450),
            in_doubt: PageCount::new(0),
            private_resident: Some(PageCount::new(25_000)),
            shared_resident: PageCount::new(66),
            to_shared: ConversionCounts { requests: 642, pages: 17_000, refused: 1 },
            to_private: ConversionCounts { requests: 3, pages: 509, refused: 0 },
        },
        exits: vec![exits(105_000), exits(1_200)],
        devices: vec![DeviceReport { name: "serial".into(), counters: vec![("bytes out".into(), 45_000)] }],
        firmware_status: None,
        handed: Vec::new(),
        outcome: GuestOutcome::PoweredOff,
        teardown: TeardownReport {
            pages: vec![PagesInState { state: "freed".into(), pages: 131_072 }],
            steps: vec![ClosingStep {
                what: "guest_memfd closed".into(),
                done_us: 1200,
                error: None,
                severity: Severity::Fault,
            }],
            evidence: vec![Evidence { what: "nothing held".into(), verdict: Verdict::Holds }],
            ..TeardownReport::default()
        },
        warnings: vec!["tee sw is a test mode".into()],
    }
}

#[test]
fn plain_screen() {
    let expected = "\
-- where -------------------------------------------------------------------------------------------
  host        Linux 7.2.13, AMD EPYC
  guest       tee sw (VM type 1), guise sev
  time        launch 310.0 ms, guest 5.00 s, teardown 2.5 ms
-- memory ------------------------------------------------------------------------------------------
  RAM           512 MiB  [#######---------------------------sssss] # private  - untouched  s shared
  private     447.7 MiB  97.6 MiB of it touched and paid for by the host
  shared       64.2 MiB  264 KiB of it touched and paid for by the host
  to shared    66.4 MiB  17,000 pages in 642 requests, 1 refused
  to private    1.9 MiB  509 pages in 3 requests
-- vCPUs -------------------------------------------------------------------------------------------
  number      2
  exits       107,526: io 106,200, hypercall 1,286, hlt 40
  each        105,663, 1,863
-- devices -----------------------------------------------------------------------------------------
  serial      bytes out 45,000
-- end ---------------------------------------------------------------------------------------------
  guest       switched itself off
  teardown    clean
  pages       freed 131,072
  closed      1.   1.2 ms  guest_memfd closed
  evidence    yes nothing held
  warning     tee sw is a test mode
----------------------------------------------------------------------------------------------------
";
    let screen = render(&report(), Style::Plain);
    assert!(screen.is_ascii());
    assert_eq!(screen, expected, "\n{screen}");
}

#[test]
fn a_screen_is_one_screen() {
    for style in [Style::Boxes, Style::Plain] {
        let mut report = report();
        report.warnings = vec!["word ".repeat(60), "x".repeat(250)];
        let screen = render(&report, style);
        assert!(screen.lines().all(|line| line.chars().count() <= WIDTH), "{screen}");
        assert!(screen.lines().count() <= 40);
        assert_eq!(screen.contains('┌'), style == Style::Boxes);
    }
}

/// Nothing that went wrong looks like something that went right.
#[test]
fn trouble_is_loud() {
    let mut bad = report();
    bad.teardown.debts.push("shared copy of 0x1000+1 pages: EIO".into());
    bad.teardown.in_doubt_pages = 2;
    bad.teardown.doubts.push("0x2000+2 pages, was to become shared: EINTR".into());
    bad.teardown.steps[0].error = Some("EBUSY".into());
    bad.teardown.evidence[0].verdict = Verdict::Fails { seen: "kvm-vm at fd 9".into() };
    bad.memory.in_doubt = PageCount::new(2);
    bad.outcome = GuestOutcome::Crashed { reason: "triple fault on vCPU 1".into() };
    let screen = render(&bad, Style::Plain);
    for words in [
        "teardown    NOT CLEAN",
        "debt        shared copy of 0x1000+1 pages: EIO",
        "in doubt    0x2000+2 pages, was to become shared: EINTR",
        "guest_memfd closed FAILED: EBUSY",
        "NO nothing held: kvm-vm at fd 9",
        "in doubt        8 KiB",
        "CRASHED: triple fault on vCPU 1",
    ] {
        assert!(screen.contains(words), "{words}\n{screen}");
    }
    bad.outcome = GuestOutcome::Stopped { by: StopReason::Terminate };
    assert!(render(&bad, Style::Plain).contains("stopped by SIGTERM"));
}

#[test]
fn a_run_that_counted_nothing_has_a_screen() {
    let mut empty = report();
    empty.memory = MemoryReport::default();
    empty.exits.clear();
    empty.teardown = TeardownReport::default();
    assert!(render(&empty, Style::Plain).contains("[] # private"));
}

#[test]
fn numbers() {
    assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    let sizes = [0, 1, 256, 384, 131_072, 1 << 30].map(|pages| size(PageCount::new(pages)));
    assert_eq!(sizes, ["0 KiB", "4 KiB", "1 MiB", "1.5 MiB", "512 MiB", "4 TiB"]);
    assert_eq!(size(PageCount::new(u64::MAX)), "18446744073709551615 pages");
}
