//! The program `tenure`: its command line in, an exit code out.
//!
//! Start reading here, then go on with `cli` in the library.
#![forbid(unsafe_code)]

use clap::Parser;
use std::process::ExitCode;
use tenure::cli::{self, Cli};
use tenure::exit;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => cli::guarded(|| cli.execute()).into(),
        Err(error) => {
            // Help and version arrive here as well, and go to standard output.
            let _ = error.print();
            let code = if error.use_stderr() { exit::ExitCode::Usage } else { exit::ExitCode::Success };
            code.into()
        }
    }
}
