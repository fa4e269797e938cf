//! What a verdict on evidence costs: ours, those of others on the same bytes, and the signatures alone, in turn.
//!
//! Owns the table. Each round runs every contender once, so that whatever disturbs the machine disturbs all of them, and in
//! another order, so that nobody always follows who has left code and keys of the same kind in the caches; least and median
//! are of as many rounds. Who checks what is said beside the figures: nobody here checks less than the signatures, and ours
//! checks everything that a verdict of `tenure attest verify` lists.
//!
//! Expects the programs `tenure` and `others` beside itself, and further ones in the directories that it is given. `cargo
//! xtask bench` builds them and runs this.

use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

mod process;
mod snp;
mod tdx;

/// How often everything is done.
const ROUNDS: usize = 200;
const PROCESS_ROUNDS: usize = 100;
/// What comes before it is thrown away: caches are cold, and processors slow.
const WARM_UP: usize = 5;

fn main() -> Result<()> {
    snp::compare()?;
    tdx::compare()?;
    process::compare(&env::args_os().skip(1).map(PathBuf::from).collect::<Vec<_>>())
}

/// A file of `tests/vectors`.
fn vector(name: &str) -> Result<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors").join(name);
    std::fs::read(&path).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
}

/// Something to measure.
struct Contender<'a> {
    name: &'a str,
    work: Box<dyn Fn() -> Result<()> + 'a>,
}

fn contender<'a>(name: &'a str, work: impl Fn() -> Result<()> + 'a) -> Contender<'a> {
    Contender { name, work: Box::new(work) }
}

/// What something takes.
#[derive(Clone, Copy)]
struct Times {
    least: Duration,
    median: Duration,
}

/// Runs everybody in turn, and prints what each takes, as multiples of the first too.
fn race(title: &str, rounds: usize, contenders: &[Contender<'_>]) -> Result<Vec<Times>> {
    let mut taken = vec![Vec::with_capacity(rounds); contenders.len()];
    let mut order: Vec<usize> = (0..contenders.len()).collect();
    let mut random = fastrand::Rng::with_seed(0);
    for round in 0..WARM_UP + rounds {
        random.shuffle(&mut order);
        for &index in &order {
            let began = Instant::now();
            (contenders[index].work)()?;
            if round >= WARM_UP {
                taken[index].push(began.elapsed());
            }
        }
    }
    let times: Vec<_> = taken.iter_mut().map(|taken| Times::of(taken)).collect();
    println!("{title}; {rounds} rounds");
    println!("    {:<58} {:>9} {:>9} {:>11}", "", "least", "median", "of the first");
    for (contender, time) in contenders.iter().zip(&times) {
        let ratio = time.median.as_secs_f64() / times[0].median.as_secs_f64();
        println!("    {:<58} {:>6.3} ms {:>6.3} ms {ratio:>11.2}", contender.name, ms(time.least), ms(time.median));
    }
    Ok(times)
}

impl Times {
    fn of(taken: &mut [Duration]) -> Self {
        taken.sort_unstable();
        let at = |index: usize| taken.get(index).copied().unwrap_or_default();
        Self { least: at(0), median: at(taken.len() / 2) }
    }

    /// How many times faster this is than another, by the median and by the least.
    fn against(self, other: Self) -> (f64, f64) {
        let ratio = |ours: Duration, theirs: Duration| theirs.as_secs_f64() / ours.as_secs_f64();
        (ratio(self.median, other.median), ratio(self.least, other.least))
    }
}

/// Says how many times faster something is, and whether that is the goal.
fn goal(what: &str, (median, least): (f64, f64), goal: f64) {
    let verdict = if median < goal { "  SHORT of the goal" } else { "" };
    println!(
        "    {what}: {median:.2} times as fast by the median, {least:.2} by the least; the goal is {goal:.0}{verdict}"
    );
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
