//! What a conversion costs that a guest asks for: there and back again, by the guest's own clock.
//!
//! One guest ([`stub`]), a dozen instructions, on two VMMs: the least there can be ([`floor`]: KVM's primitives and
//! nothing else), and `tenure` as it runs any guest ([`whole`]). The guest reads its time stamp counter, which in the
//! lab with `Clock::Instructions` counts the instructions the emulated host executes, so the figures repeat.
//!
//! Prints one number: ticks for one round trip, two conversions with a page touched after each. `cargo xtask bench`
//! runs it and shows the ratios.
#![deny(unsafe_code)]

mod floor;
mod stub;
mod whole;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use stub::Work;

/// Ticks of one conversion round trip, by the guest's own clock
#[derive(Debug, Parser)]
struct Cli {
    /// Which VMM
    #[arg(value_enum)]
    vmm: Vmm,
    /// Pages of 4 KiB to convert at once
    #[arg(long, default_value_t = 1)]
    pages: u32,
    /// Round trips that are measured
    #[arg(long, default_value_t = 400)]
    rounds: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Vmm {
    /// KVM's primitives and nothing else
    Floor,
    /// The whole of tenure
    Tenure,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    let work = Work { pages: cli.pages, rounds: cli.rounds };
    let ticks = match cli.vmm {
        Vmm::Floor => floor::run(work)?,
        Vmm::Tenure => whole::run(work)?,
    };
    println!("{}", ticks / u64::from(cli.rounds));
    Ok(())
}
