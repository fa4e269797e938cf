//! `tenure run` on the machine's KVM, with calls of the kernel port that fail, or panic, where a test wants it.
//!
//! Owns nothing but the options: the faults and the kernel that has them are `gmem-kvm`'s, everything else is `tenure`'s
//! own code, so that what is seen of its end is what `tenure` would do. Never part of what is shipped.
#![forbid(unsafe_code)]

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use gmem_kvm::kvm::KvmKernel;
use gmem_kvm::testing::fault::{Failure, Faults, Moment};
use gmem_kvm::testing::faulty::Faulty;
use tenure::cli::{self, RunArgs};
use tenure::exit;

/// `tenure run` on a kernel with faults
#[derive(Debug, Parser)]
struct Cli {
    /// Answers the Nth call of a kind with an error instead of making it
    #[arg(long, value_name = "CALL[:N]=ERRNO")]
    fail: Vec<Failure>,

    /// Panics instead of making the Nth call of a kind
    #[arg(long, value_name = "CALL[:N]")]
    panic: Vec<Moment>,

    #[command(flatten)]
    run: RunArgs,
}

fn main() -> ExitCode {
    let Cli { fail, panic, run } = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let code = if error.use_stderr() { exit::ExitCode::Usage } else { exit::ExitCode::Success };
            return code.into();
        }
    };
    let faults = Arc::new(Faults::new(fail, panic));
    let open = |device: &std::path::Path| Ok(Faulty::new(KvmKernel::open(device)?, faults));
    cli::guarded(AssertUnwindSafe(|| cli::run::run_on(run, open))).into()
}
