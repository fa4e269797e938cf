//! Law no-silent-trust: every target over its seeds, over what was once too much for it, and over a few thousand changes
//! that are the same in every run. Guided by coverage, and for hours, `cargo xtask fuzz` does it.
#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;

use fastrand::Rng;
use tenure_fuzz::{Cost, TARGETS, Target};

/// Inputs of each target, made of its seeds.
const CHEAP: usize = 4000;
const DEAR: usize = 60;

/// Runs it; an input that is too much is kept, and named.
fn check(target: &Target, input: &[u8], what: &str) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| target.check(input))) {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.input", target.name));
        std::fs::write(&kept, input).unwrap();
        eprintln!("{what} is too much for {}; it is kept in {}", target.name, kept.display());
        resume_unwind(panic);
    }
}

fn changed(seeds: &[Vec<u8>], random: &mut Rng) -> Vec<u8> {
    let mut input = seeds[random.usize(..seeds.len())].clone();
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..=input.len());
        let end = input.len().min(at + random.usize(..40));
        match random.u8(..7) {
            0 | 1 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.u8(..8)),
            2 => input.iter_mut().skip(at).take(1).for_each(|byte| *byte = random.u8(..)),
            3 => input.truncate(at),
            4 => drop(input.drain(at..end)),
            5 => {
                let again = input[at..end].to_vec();
                drop(input.splice(at..at, again));
            }
            _ => input.splice(at..at, (0..random.usize(..20)).map(|_| random.u8(..))).for_each(drop),
        }
    }
    input
}

fn exercise(target: &Target) {
    target.warm_up();
    let seeds = (target.seeds)();
    assert!(!seeds.is_empty(), "{} has no seeds", target.name);
    for (number, seed) in seeds.iter().enumerate() {
        check(target, seed, &format!("seed {number}"));
    }
    for (path, input) in target.regressions() {
        check(target, &input, &path.display().to_string());
    }
    check(target, &[], "nothing");
    let mut random = Rng::with_seed(5);
    let rounds = if target.cost == Cost::Reading { CHEAP } else { DEAR };
    for round in 0..rounds {
        check(target, &changed(&seeds, &mut random), &format!("the input of round {round}"));
    }
}

fn with_cost(cost: Cost) {
    for target in TARGETS.iter().filter(|target| target.cost == cost) {
        exercise(target);
    }
}

#[test]
fn no_silent_trust_what_is_only_read() {
    with_cost(Cost::Reading);
}

#[test]
fn no_silent_trust_what_is_signed() {
    with_cost(Cost::Signatures);
}

/// The bound of memory would be noticed, and so would a panic.
#[test]
fn a_target_that_breaks_its_promises_is_found_out() {
    let greedy = Target { run: |input| drop(vec![0u8; 1 << (10 + input.len())]), ..TARGETS[0] };
    greedy.check(&[0; 2]);
    assert!(catch_unwind(|| greedy.check(&[0; 20])).is_err(), "a mebibyte for twenty bytes");
    let rash = Target { run: |input| assert!(input.len() < 3), ..TARGETS[0] };
    assert!(catch_unwind(|| rash.check(&[0; 4])).is_err());
}

#[test]
fn targets_have_names_of_their_own() {
    for (index, target) in TARGETS.iter().enumerate() {
        assert!(TARGETS[..index].iter().all(|other| other.name != target.name), "{}", target.name);
        let is_plain = target.name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-');
        assert!(is_plain, "{}", target.name);
        assert_eq!(Target::named(target.name).map(|it| it.name), Some(target.name));
    }
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    for entry in std::fs::read_dir(kept).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name == "README.md" || Target::named(&name).is_some(), "regressions of {name}, which is no target");
    }
}
