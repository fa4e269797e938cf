use super::TcbStatus::*;
use super::*;
use crate::tdx::collateral::ComponentVersion;
use alloc::string::ToString;
use alloc::vec;

const PLATFORM: [TcbStatus; 7] = [
    UpToDate,
    SwHardeningNeeded,
    ConfigurationNeeded,
    ConfigurationAndSwHardeningNeeded,
    OutOfDate,
    OutOfDateConfigurationNeeded,
    Revoked,
];

#[test]
fn a_component_makes_a_platform_worse_and_never_better() {
    for status in PLATFORM {
        assert_eq!(status.with(UpToDate), status);
        assert_eq!(status.with(Revoked), Revoked);
    }
    let outdated = PLATFORM.map(|status| status.with(OutOfDate));
    let needs = OutOfDateConfigurationNeeded;
    assert_eq!(outdated, [OutOfDate, OutOfDate, needs, needs, OutOfDate, needs, Revoked]);
}

#[test]
fn a_guest_should_be_launched_again_if_the_platform_was_updated_since() {
    let since = |launch: TcbStatus| PLATFORM.map(|current| launch.since(current));
    let (again, configured) = (TdRelaunchAdvised, TdRelaunchAdvisedConfigurationNeeded);
    let [same, both] = [OutOfDate, OutOfDateConfigurationNeeded];
    assert_eq!(since(OutOfDate), [again, again, configured, configured, same, same, same]);
    assert_eq!(since(both), [configured, configured, configured, configured, both, both, both]);
    for launch in [UpToDate, SwHardeningNeeded, ConfigurationNeeded, ConfigurationAndSwHardeningNeeded, Revoked] {
        assert_eq!(since(launch), [launch; 7], "what the guest was launched on stands");
    }
}

fn level(svn: u8, tcb_status: TcbStatus, advisory: &str) -> Level {
    let sixteen = || core::array::from_fn(|_| Component { svn });
    Level {
        tcb: crate::tdx::collateral::Versions { sgx: sixteen(), tdx: sixteen(), pce_svn: svn.into() },
        tcb_date: UnixTime::from_secs(svn.into()),
        tcb_status,
        advisories: vec![advisory.into()],
    }
}

fn component(isvsvn: u16, tcb_status: TcbStatus, advisory: &str) -> ComponentLevel {
    ComponentLevel {
        tcb: ComponentVersion { isvsvn },
        tcb_date: UnixTime::from_secs(isvsvn.into()),
        tcb_status,
        advisories: vec![advisory.into()],
    }
}

fn info() -> TcbInfo {
    let json = include_str!("../../../../tests/vectors/tdx/attest/synthetic/good-v4.collateral.json");
    let collateral: serde_json::Value = serde_json::from_str(json).unwrap();
    let mut info = TcbInfo::parse(collateral["tcb_info"].as_str().unwrap().as_bytes()).unwrap();
    info.tcb_levels = vec![level(9, UpToDate, "b"), level(7, SwHardeningNeeded, "a"), level(5, OutOfDate, "c")];
    info.tdx_module_identities.truncate(1);
    info.tdx_module_identities[0].tcb_levels = vec![component(1, OutOfDate, "a"), component(3, UpToDate, "d")];
    info
}

fn pck(svn: u8) -> Pck {
    Pck { fmspc: [0; 6], pce_id: [0; 2], components: [svn; 16], pce_svn: svn.into() }
}

/// A quoting enclave at a level.
const fn at(level: &ComponentLevel) -> Reached<'_> {
    Reached { level, shortfall: None }
}

fn evaluated(pck: &Pck, svn: &[u8; 16]) -> Result<(TcbStatus, u64, Vec<String>), String> {
    let evaluation = evaluate(&info(), pck, svn, at(&component(100, UpToDate, "b")));
    let evaluation = evaluation.map_err(|error| error.to_string())?;
    Ok((evaluation.status, evaluation.date.as_secs(), evaluation.advisories))
}

/// A level is reached with every component, or it isn't.
#[test]
fn the_best_level_that_every_component_reaches_counts() {
    let module0 = |svn| core::array::from_fn(|index| if index == 1 { 0 } else { svn });
    assert_eq!(evaluated(&pck(9), &[1, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9]).unwrap().0, OutOfDate);
    for index in 0..16 {
        let mut one_below = pck(9);
        one_below.components[index] = 8;
        let svn = core::array::from_fn(|index| if index == 1 { 1 } else { 9 });
        assert_eq!(evaluated(&one_below, &svn).unwrap().0, SwHardeningNeeded);
        one_below.components[index] = 4;
        let expected =
            alloc::format!("below every level: SGX component {index} has version 4, and the lowest level needs 5");
        assert_eq!(evaluated(&one_below, &svn).unwrap_err(), expected);
    }
    let one_below = Pck { pce_svn: 6, ..pck(9) };
    let svn = core::array::from_fn(|index| if index == 1 { 1 } else { 9 });
    assert_eq!(evaluated(&one_below, &svn).unwrap(), (OutOfDate, 3, vec!["b".into(), "c".into(), "d".into()]));
    let expected = "below every level: TDX component 1 has version 0, and the lowest level needs 5";
    assert_eq!(evaluated(&pck(9), &module0(9)).unwrap_err(), expected);
}

/// The module's own versions count among its own levels only, its major one by name.
#[test]
fn a_module_with_a_major_version_has_levels_of_its_own() {
    let svn = |minor, major| core::array::from_fn(|index| [minor, major].get(index).copied().unwrap_or(9));
    assert_eq!(evaluated(&pck(9), &svn(3, 1)).unwrap(), (UpToDate, 3, vec!["b".into(), "d".into()]));
    assert_eq!(evaluated(&pck(9), &svn(2, 1)).unwrap(), (OutOfDate, 1, vec!["a".into(), "b".into()]));
    let below = "below every level: the TDX module has version 0, and the lowest level needs 1";
    assert_eq!(evaluated(&pck(9), &svn(0, 1)).unwrap_err(), below);
    assert_eq!(evaluated(&pck(9), &svn(9, 2)).unwrap_err(), "unknown: TCB info has no TDX module of major version 2");
}

/// Whoever is to mend a platform needs to know what of it. A module's levels count wherever they stand in the list.
#[test]
fn what_keeps_a_platform_from_being_up_to_date_is_named() {
    let said = |pck: &Pck, minor, qe: Reached<'_>| {
        let svn = core::array::from_fn(|index| [minor, 1].get(index).copied().unwrap_or(9));
        let shortfalls = evaluate(&info(), pck, &svn, qe).unwrap().shortfalls;
        shortfalls.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    let good = component(8, UpToDate, "b");
    assert_eq!(said(&pck(9), 3, at(&good)), [""; 0]);
    assert_eq!(said(&pck(9), 2, at(&good)), ["tdx module svn 2 < 3"]);
    let old = Pck { pce_svn: 8, ..pck(9) };
    assert_eq!(said(&old, 3, at(&good)), ["pce svn 8 < 9"]);
    let mut old = pck(9);
    old.components[3] = 7;
    let levels = [good, component(6, OutOfDate, "b")];
    let qe = reached(Part::Qe, &levels, 7).unwrap();
    assert_eq!(said(&old, 2, qe), ["sgx component 3 svn 7 < 9", "tdx module svn 2 < 3", "qe svn 7 < 8"]);
    let error = reached(Part::Qe, &levels, 5).unwrap_err();
    assert_eq!(error.to_string(), "below every level: the QE has version 5, and the lowest level needs 6");
    assert_eq!(error.shortfall().unwrap().to_string(), "qe svn 5 < 6");
    assert_eq!(reached(Part::Qe, &[], 5).unwrap_err(), TcbError::NoLevels(Part::Qe));
}
