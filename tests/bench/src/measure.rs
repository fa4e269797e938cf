//! What a prediction of a launch digest costs: `tenure measure snp` as a process, and the measuring of the largest
//! image there can be against SHA-384 of the same bytes, each on all cores, in turn.
//!
//! Expects the program `tenure` beside itself. `cargo xtask bench` builds both and runs this.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use anyhow::{Context, Result, ensure};
use sha2::{Digest as _, Sha384};
use snp::cpu::CpuModel;
use snp::measure::{Measured, regions};
use snp::ovmf::{MAX_IMAGE, Ovmf};
use snp::vmsa::{Role, SevFeatures, Vmm, Vmsa};

/// The least of so many times is what a machine can do that others use as well.
const ROUNDS: u32 = 30;
/// Most that predicting the kept image may take.
const GOAL: Duration = Duration::from_millis(10);
/// Least of the speed of SHA-384 alone.
const GOAL_SPEED: f64 = 0.8;
/// Bytes that are hashed as one.
const PIECE: usize = 64 << 10;
const OTHER: &str = "sev-snp-measure";

fn main() -> Result<()> {
    process()?;
    largest()
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors")
}

fn process() -> Result<()> {
    let mut image = Vec::new();
    let packed = File::open(vectors().join("firmware/OVMF.amdsev.fd.zst"))?;
    ruzstd::decoding::StreamingDecoder::new(packed)?.read_to_end(&mut image)?;
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(&image)?;
    let tenure = env::current_exe()?.with_file_name("tenure");
    let mut ours = Command::new(tenure);
    ours.args(["measure", "snp", "--firmware"]).arg(file.path());
    let (digest, took) = best_of(&mut ours, 2 * ROUNDS)?;
    println!("OVMF of {} MiB  {:>7.1} ms{}", image.len() >> 20, ms(took), past(took > GOAL, "10 ms"));

    let mut other = Command::new(OTHER);
    other.args(["--mode", "snp", "--vcpus", "1", "--vcpu-type", "EPYC-v4", "--ovmf"]).arg(file.path());
    match other.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => println!("{OTHER} is not here to compare with"),
        _ => {
            let (its, its_time) = best_of(&mut other, ROUNDS / 3)?;
            ensure!(its == digest, "{OTHER} says {its}, tenure {digest}");
            let ratio = its_time.as_secs_f64() / took.as_secs_f64();
            println!("{OTHER} {:>7.1} ms  {ratio:.1} times as long", ms(its_time));
        }
    }
    Ok(())
}

/// What the program prints, and the least time it took.
fn best_of(command: &mut Command, rounds: u32) -> Result<(String, Duration)> {
    let mut best: Option<(String, Duration)> = None;
    for _ in 0..rounds {
        let began = Instant::now();
        let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("{command:?}"))?;
        let took = began.elapsed();
        ensure!(output.status.success(), "{command:?}: {}", output.status);
        if best.as_ref().is_none_or(|(_, least)| took < *least) {
            best = Some((String::from_utf8(output.stdout)?.trim().to_owned(), took));
        }
    }
    best.context("no rounds")
}

/// Bytes that never repeat, in front of a page with an image's tables.
fn largest() -> Result<()> {
    let tables = fs::read(vectors().join("snp/measure/ovmf_AmdSev_suffix.bin"))?;
    let words = (0u64..).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let mut image: Vec<u8> = words.flat_map(u64::to_le_bytes).take(MAX_IMAGE - tables.len()).collect();
    image.extend(tables);
    let ovmf = Ovmf::parse(image)?;
    let regions = regions(&ovmf, Vmm::Qemu, None)?;
    let vmsa = |role| Vmsa::at_reset(Vmm::Qemu, CpuModel::Milan, SevFeatures::SNP, role);
    let (boot, application) = (vmsa(Role::Boot), vmsa(Role::Application { eip: ovmf.ap_eip }));
    let measure = || Measured::new(&regions, &boot, &application, |_| {}).digest(1, |_| {});

    let cores = thread::available_parallelism().map_or(1, usize::from);
    let (mut floor, mut took) = (Duration::MAX, Duration::MAX);
    // Work on all cores at once is disturbed more often than a process.
    for _ in 0..5 * ROUNDS {
        floor = floor.min(time(|| hash(ovmf.image.bytes(), cores)));
        took = took.min(time(measure));
    }
    let speed = floor.as_secs_f64() / took.as_secs_f64();
    let (size, wrong) = (MAX_IMAGE >> 20, past(speed < GOAL_SPEED, "0.8"));
    println!(
        "image of {size} MiB {:>7.1} ms, SHA-384 of it {:.1} ms, {cores} cores: {speed:.2} of that speed{wrong}",
        ms(took),
        ms(floor),
    );
    Ok(())
}

/// SHA-384 on each core of whatever piece is next: a core that others use as well gets fewer.
fn hash(bytes: &[u8], cores: usize) {
    let (pieces, next) = (bytes.chunks(PIECE).collect::<Vec<_>>(), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    std::hint::black_box(Sha384::digest(piece));
                }
            });
        }
    });
}

fn time<T>(work: impl FnOnce() -> T) -> Duration {
    let began = Instant::now();
    std::hint::black_box(work());
    began.elapsed()
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn past(is_past: bool, goal: &str) -> String {
    if is_past { format!("  past the goal of {goal}") } else { String::new() }
}
