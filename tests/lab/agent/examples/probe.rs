//! A program for the lab's own tests to run on a lab host: does one thing, named by its argument.

use std::io::{self, Read, Write};
use std::process::{Command, ExitCode};
use std::time::Duration;

/// `KVM_CAP_VM_TYPES`; linux/kvm.h.
const CAP_VM_TYPES: u64 = 235;

#[expect(clippy::zombie_processes, reason = "making orphans is one of its purposes")]
fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match *args {
        ["exit", code] => return ExitCode::from(code.parse::<u8>().expect("a code")),
        ["abort"] => std::process::abort(),
        ["sleep"] => {
            println!("sleeping");
            sleep();
        }
        ["idle"] => sleep(),
        // Standard input goes to standard output, and every byte inverted to standard error.
        ["copy"] => {
            let mut data = Vec::new();
            io::stdin().read_to_end(&mut data).expect("standard input");
            let inverted: Vec<u8> = data.iter().map(|byte| !byte).collect();
            io::stdout().write_all(&data).expect("standard output");
            io::stderr().write_all(&inverted).expect("standard error");
        }
        ["surroundings", variable] => {
            let directory = std::env::current_dir().expect("a working directory");
            println!("{} {:?}", directory.display(), std::env::var(variable));
        }
        ["cgroup"] => print!("{}", std::fs::read_to_string("/proc/self/cgroup").expect("procfs")),
        // Ends at once, leaving a child that holds on to standard output.
        ["orphan"] => {
            let child = Command::new("/proc/self/exe").arg("idle").spawn().expect("a child");
            println!("{}", child.id());
        }
        ["kvm"] => {
            let kvm = kvm_ioctls::Kvm::new().expect("/dev/kvm");
            println!("{:#x}", kvm.check_extension_raw(CAP_VM_TYPES));
        }
        _ => {
            eprintln!("unknown request {args:?}");
            return ExitCode::from(100);
        }
    }
    ExitCode::SUCCESS
}

fn sleep() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}
