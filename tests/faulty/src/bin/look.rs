//! Lists directories, one entry a line, with where it leads to if it is a link: for a lab host, which has no shell.

use std::error::Error;
use std::io::{Write, stdout};

fn main() -> Result<(), Box<dyn Error>> {
    let mut out = stdout().lock();
    for directory in std::env::args_os().skip(1) {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            // What is no link, or is gone by now, has a name and nothing else.
            match std::fs::read_link(entry.path()) {
                Ok(target) => writeln!(out, "{} {}", name.display(), target.display())?,
                Err(_) => writeln!(out, "{}", name.display())?,
            }
        }
    }
    Ok(())
}
