//! `cargo xtask fuzz`: everything that reads what anybody may send, guided by coverage, for as long as one likes.
//!
//! Owns building the targets of `tests/fuzz` with what counts coverage, dividing the time among them, and the table at the
//! end. The corpus is kept below the target directory, so that hours add up; so is an input that was too much. Needs a
//! C++ compiler for libFuzzer, and no other toolchain than the usual one.

use std::collections::VecDeque;
use std::fs;
use std::io::{BufRead, BufReader, IsTerminal, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Args;
use tenure_lab::progress::Progress as _;

use crate::place::target;
use crate::progress::{Shown, shown};
use crate::test::cargo;

const TRIPLE: &str = "x86_64-unknown-linux-gnu";
/// What counts coverage, and tells libFuzzer what was compared with what.
const FLAGS: [&str; 5] = [
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// Crates of which nothing is to be found out: numbers, curves, hashes and their encodings, what signs for tests, and what
/// only runs, stores or logs things. Counting every step of a signature would take hundreds of times as long as the
/// signature, and who is guided by a database's pages is led nowhere. What panics there is noticed all the same.
const UNCOUNTED: [&str; 63] = [
    "aead",
    "aes",
    "aes_gcm",
    "aes_kw",
    "aws_lc_rs",
    "aws_lc_sys",
    "base16ct",
    "base64",
    "base64ct",
    "block_buffer",
    "cipher",
    "cmov",
    "const_oid",
    "crypto_bigint",
    "crypto_common",
    "ctr",
    "ctutils",
    "digest",
    "ecdsa",
    "elliptic_curve",
    "ff",
    "generic_array",
    "ghash",
    "group",
    "hkdf",
    "hmac",
    "hybrid_array",
    "inout",
    "libm",
    "mio",
    "num_bigint_dig",
    "num_integer",
    "num_iter",
    "num_traits",
    "opaque_debug",
    "p256",
    "p384",
    "pem_rfc7468",
    "polyval",
    "primefield",
    "primeorder",
    "redb",
    "rfc6979",
    "rsa",
    "rustix",
    "rustls",
    "sha2",
    "sharded_slab",
    "signature",
    "sm3",
    "socket2",
    "subtle",
    "tenure_silicon",
    "test_root",
    "tokio",
    "tracing",
    "tracing_core",
    "tracing_subscriber",
    "typenum",
    "universal_hash",
    "webpki",
    "wnaf",
    "zeroize",
];
/// Says that this program was started as the compiler.
const COMPILES: &str = "TENURE_XTASK_COMPILES";
/// Longest that one input may take.
const SECONDS_AN_INPUT: u32 = 10;
/// Most memory that a target may have, corpus and libFuzzer's own included. What an input may need is the target's to
/// check.
const MOST_MIB: u32 = 1024;

/// Options of `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Only these; all without
    targets: Vec<String>,
    /// Minutes in all, on all cores
    #[arg(long, default_value_t = 10, conflicts_with = "seconds")]
    minutes: u64,
    /// Seconds in all, on all cores
    #[arg(long)]
    seconds: Option<u64>,
    /// Runs one target with this input and nothing else
    #[arg(long, value_name = "FILE", conflicts_with_all = ["minutes", "seconds"])]
    input: Option<PathBuf>,
}

/// A target, and the longest input that is worth trying.
#[derive(Clone, Debug)]
struct Target {
    name: String,
    longest: String,
}

/// What came of a target's time.
#[derive(Debug, Default)]
struct Outcome {
    executions: u64,
    edges: u64,
    corpus: u64,
    peak_mib: u64,
    seconds: f64,
    /// What it said when it ended, if it did not end well.
    failure: Option<String>,
    kept: Vec<PathBuf>,
}

/// Builds, fuzzes and shows.
pub(crate) fn fuzz(options: &Options) -> Result<ExitCode> {
    // Beside what is built without coverage.
    let place = target().join("fuzz");
    let program = build(&place)?;
    let targets = chosen(&program, &options.targets)?;
    if let Some(input) = &options.input {
        let [target] = &targets[..] else { return Err(anyhow!("--input needs one target")) };
        let status = Command::new(&program).args(["run", &target.name]).arg(input).status()?;
        return Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let total = Duration::from_secs(options.seconds.unwrap_or(60 * options.minutes));
    let rounds = u32::try_from(targets.len().div_ceil(cores))?;
    // libFuzzer counts whole seconds.
    let each = (total / rounds).max(Duration::from_secs(1)).as_secs();
    let began = Instant::now();
    let outcomes = run_all(&program, &place, &targets, each, cores)?;
    show(&targets, &outcomes);
    let failed = outcomes.iter().filter(|outcome| outcome.failure.is_some()).count();
    let seconds = began.elapsed().as_secs();
    println!("{} targets, {each} s each on {cores} cores, {seconds} s in all: {failed} with findings", targets.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn build(place: &Path) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--locked", "--package", "tenure-fuzz", "--features", "libfuzzer", "--profile", "fuzz"]);
    // With an explicit target the flags stay away from build scripts and procedural macros.
    build.args(["--target", TRIPLE, "--target-dir"]).arg(place).env("CARGO_ENCODED_RUSTFLAGS", FLAGS.join("\x1f"));
    build.env("RUSTC_WRAPPER", std::env::current_exe()?).env(COMPILES, "1");
    if std::io::stderr().is_terminal() {
        eprintln!("The first time everything is built once more, with coverage: about 3 minutes on two cores.");
    } else {
        build.arg("--quiet");
    }
    let status = build.status().context("cannot run cargo")?;
    ensure!(status.success(), "building the targets failed: {status}");
    Ok(place.join(TRIPLE).join("fuzz/tenure-fuzz"))
}

/// Whether cargo started this as the compiler.
pub(crate) fn is_compiler() -> bool {
    std::env::var_os(COMPILES).is_some()
}

/// Compiles a crate as cargo wants it, without counting if it is one of [`UNCOUNTED`].
pub(crate) fn compile() -> Result<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let compiler = arguments.next().context("there is no compiler")?;
    let arguments: Vec<_> = arguments.collect();
    let name = arguments.iter().skip_while(|argument| *argument != "--crate-name").nth(1);
    let is_uncounted = name.is_some_and(|name| UNCOUNTED.iter().any(|uncounted| name == uncounted));
    let is_wanted = |argument: &&std::ffi::OsString| !is_uncounted || FLAGS.iter().all(|flag| **argument != *flag);
    let status = Command::new(compiler).args(arguments.iter().filter(is_wanted)).status()?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}

fn chosen(program: &Path, names: &[String]) -> Result<Vec<Target>> {
    let output = Command::new(program).arg("list").output().with_context(|| program.display().to_string())?;
    ensure!(output.status.success(), "{} list: {}", program.display(), output.status);
    let text = String::from_utf8(output.stdout)?;
    let all = text.lines().filter_map(|line| line.split_once(' '));
    let all: Vec<_> =
        all.map(|(name, longest)| Target { name: name.to_owned(), longest: longest.to_owned() }).collect();
    if names.is_empty() {
        return Ok(all);
    }
    let known = all.iter().map(|target| target.name.as_str()).collect::<Vec<_>>().join(", ");
    let named = |name: &String| {
        let found = all.iter().find(|target| target.name == *name).cloned();
        found.ok_or_else(|| anyhow!("there is no target {name:?}; there are {known}"))
    };
    names.iter().map(named).collect()
}

/// Gives each target its seconds, as many at once as there are cores.
fn run_all(program: &Path, place: &Path, targets: &[Target], each: u64, cores: usize) -> Result<Vec<Outcome>> {
    let mut bar = std::io::stderr().is_terminal().then(shown);
    let rounds = targets.len().div_ceil(cores) as u64;
    let expected = Duration::from_secs(each * rounds);
    match &mut bar {
        Some(bar) => bar.begin("fuzzing", expected),
        None => eprintln!("fuzzing {} targets (about {} s)", targets.len(), expected.as_secs()),
    }
    let waiting: Mutex<VecDeque<usize>> = Mutex::new((0..targets.len()).collect());
    let (tell, told) = mpsc::channel();
    let outcomes = thread::scope(|scope| {
        let workers: Vec<_> = (0..cores)
            .map(|_| {
                let (waiting, tell) = (&waiting, tell.clone());
                scope.spawn(move || {
                    let mut done = Vec::new();
                    while let Some(index) = waiting.lock().ok().and_then(|mut waiting| waiting.pop_front()) {
                        done.push((index, run(program, place, &targets[index], each, &tell)));
                    }
                    done
                })
            })
            .collect();
        drop(tell);
        follow(&mut bar, &told, targets.len());
        let done = workers.into_iter().map(|worker| worker.join().map_err(|_| anyhow!("a worker panicked")));
        done.collect::<Result<Vec<_>>>()
    });
    if let Some(bar) = &mut bar {
        bar.end();
    }
    let mut outcomes: Vec<_> = outcomes?.into_iter().flatten().collect();
    outcomes.sort_by_key(|(index, _)| *index);
    outcomes.into_iter().map(|(_, outcome)| outcome).collect()
}

/// Something that a target's run has to say.
enum News {
    Line(String),
    Done(String),
}

fn follow(bar: &mut Option<Shown>, told: &mpsc::Receiver<News>, targets: usize) {
    let mut done = 0;
    for news in told {
        match (news, bar.as_mut()) {
            (News::Line(line), Some(bar)) => bar.line(&line),
            (News::Line(_), None) => {}
            (News::Done(line), bar) => {
                done += 1;
                match bar {
                    Some(bar) => bar.note(&format!("{line} ({done} of {targets})")),
                    None => eprintln!("{line} ({done} of {targets})"),
                }
            }
        }
    }
}

fn run(program: &Path, place: &Path, target: &Target, seconds: u64, tell: &Sender<News>) -> Result<Outcome> {
    let Target { name, longest } = target;
    let corpus = place.join("corpus").join(name);
    let findings = place.join("findings").join(name);
    fs::create_dir_all(&findings)?;
    let seeded = Command::new(program).args(["seeds", name]).arg(&corpus).status()?;
    ensure!(seeded.success(), "{name}: writing seeds: {seeded}");
    let before = files(&findings)?;
    let began = Instant::now();
    let mut child = Command::new(program)
        .args(["run", name])
        .arg(&corpus)
        .args([
            format!("-max_total_time={seconds}"),
            format!("-max_len={longest}"),
            format!("-timeout={SECONDS_AN_INPUT}"),
            format!("-rss_limit_mb={MOST_MIB}"),
            format!("-artifact_prefix={}/", findings.display()),
            format!("-dict={}", corpus.with_extension("dict").display()),
            "-use_value_profile=1".to_owned(),
            "-print_final_stats=1".to_owned(),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| program.display().to_string())?;
    let stderr = child.stderr.take().context("the program has no standard error")?;
    let mut outcome = Outcome::default();
    let mut last = VecDeque::new();
    read(stderr, |line| {
        outcome.note(line);
        if line.starts_with('#') {
            let _ = tell.send(News::Line(format!("{name} {line}")));
        }
        last.push_back(line.to_owned());
        if last.len() > 40 {
            last.pop_front();
        }
    });
    let status = child.wait()?;
    outcome.seconds = began.elapsed().as_secs_f64();
    outcome.kept = files(&findings)?.into_iter().filter(|file| !before.contains(file)).collect();
    if !status.success() {
        let said = last.make_contiguous().join("\n");
        outcome.failure = Some(format!("{status}\n{said}"));
    }
    let verdict = if outcome.failure.is_some() { "FOUND something" } else { "nothing found" };
    let _ = tell.send(News::Done(format!("{name}: {} executions, {verdict}", outcome.executions)));
    Ok(outcome)
}

fn read(stderr: impl Read, mut each: impl FnMut(&str)) {
    for line in BufReader::new(stderr).split(b'\n').map_while(std::result::Result::ok) {
        each(&String::from_utf8_lossy(&line));
    }
}

fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    Ok(fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<_>>()?)
}

impl Outcome {
    /// Takes what a line of libFuzzer's says: `#512 NEW cov: 80 ft: 91 corp: 12/3Kb …` or `stat::name: number`.
    fn note(&mut self, line: &str) {
        if let Some((name, number)) = line.strip_prefix("stat::").and_then(|stat| stat.split_once(':')) {
            let number = number.trim().parse().unwrap_or_default();
            match name {
                "number_of_executed_units" => self.executions = number,
                "peak_rss_mb" => self.peak_mib = number,
                _ => {}
            }
        } else if line.starts_with('#') {
            let mut words = line.split_whitespace();
            while let Some(word) = words.next() {
                let mut number = || words.next().and_then(|word| word.split('/').next()?.parse().ok());
                match word {
                    "cov:" => self.edges = number().unwrap_or(self.edges),
                    "corp:" => self.corpus = number().unwrap_or(self.corpus),
                    _ => {}
                }
            }
        }
    }
}

fn show(targets: &[Target], outcomes: &[Outcome]) {
    let [name, executions, rate, edges, corpus, memory] =
        ["target", "executions", "a second", "edges", "corpus", "MiB"];
    println!("{name:<16} {executions:>12} {rate:>9} {edges:>7} {corpus:>7} {memory:>5}");
    for (target, outcome) in targets.iter().zip(outcomes) {
        let Outcome { executions, edges, corpus, peak_mib, seconds, failure, kept } = outcome;
        let rate = *executions as f64 / seconds.max(1.0);
        let end = if failure.is_some() { "  FOUND something" } else { "" };
        println!("{:<16} {executions:>12} {rate:>9.0} {edges:>7} {corpus:>7} {peak_mib:>5}{end}", target.name);
        if let Some(failure) = failure {
            println!("{failure}");
            for input in kept {
                println!("again: cargo xtask fuzz {} --input {}", target.name, input.display());
            }
        }
    }
}
