//! The lab from a shell: make it ready, run a program in it, watch it.

use std::io::{self, BufRead, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use tenure_lab::progress::Plain;
use tenure_lab::{Bed, BootOptions, Clock, Command, DebianKernel, Host, Kernel, Lab, Lists, Options, Status, Stdin};

/// An emulated host with the real KVM, for programs that need VMs with private memory.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    provision: Provision,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Args)]
struct Provision {
    /// Which machine: amd (QEMU, the quick one) or intel (Bochs)
    #[arg(long, default_value_t, global = true)]
    bed: Bed,
    /// Build the host's kernel from this package instead of the newest, if need be of another suite (`sid/` for its newest)
    #[arg(long, value_name = "[SUITE/]linux-source-VERSION", global = true)]
    kernel: Option<String>,
    /// Read the package archive's lists anew, for newer packages
    #[arg(long, global = true)]
    refresh: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make everything ready and say where it is
    Provision,
    /// Fetch Debian's own cloud kernel and print its path
    Guest {
        /// A version, like 6.12; without it the newest
        version: Option<String>,
    },
    /// Boot a host, run a program, pass on its streams and its exit code (128 + N for signal N)
    Run {
        #[command(flatten)]
        machine: Machine,
        /// Files to fetch before the host ends, whatever the program's exit code
        #[arg(long, value_name = "THERE:HERE")]
        get: Vec<String>,
        /// Pass on standard input (else it is empty)
        #[arg(short, long)]
        interactive: bool,
        /// Seconds the program may take
        #[arg(long, default_value_t = 600)]
        timeout: u64,
        /// Program and arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Boot a host and show its console; lines typed are run as commands
    Console {
        #[command(flatten)]
        machine: Machine,
    },
}

#[derive(Debug, Args)]
struct Machine {
    /// Files to have on board
    #[arg(long, value_name = "HERE:THERE")]
    put: Vec<String>,
    /// Memory in MiB
    #[arg(long, default_value_t = 2048)]
    memory: u32,
    /// Processors [default: 2 of amd, 1 of intel]
    #[arg(long)]
    cpus: Option<u32>,
    /// Let time pass with instructions: one processor, repeatable counts
    #[arg(long)]
    icount: bool,
    /// Addition to the kernel's command line
    #[arg(long = "append", value_name = "ARG")]
    kernel_args: Vec<String>,
    /// Show the host's console on standard error when it ends
    #[arg(long)]
    show_console: bool,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("tenure-lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode> {
    let options = Options {
        bed: cli.provision.bed,
        kernel: cli.provision.kernel.map_or(Kernel::Newest, |name| Kernel::named(&name)),
        cache: None,
        lists: if cli.provision.refresh { Lists::Fresh } else { Lists::Kept },
    };
    let mut progress = Plain::new(io::stderr());
    let lab = Lab::provision(&options, &mut progress)?;
    match cli.verb {
        Verb::Provision => {
            println!("cache:  {}", lab.cache_dir().display());
            println!("kernel: {}", lab.kernel_image().display());
        }
        Verb::Guest { version } => {
            let kernel = version.map_or(DebianKernel::Newest, DebianKernel::Version);
            println!("{}", lab.debian_guest(&kernel, &mut progress)?.display());
        }
        Verb::Run { machine, get, interactive, timeout, command } => {
            let get: Vec<(String, String)> = get.iter().map(|pair| split(pair)).collect::<Result<_>>()?;
            let host = boot(&lab, &machine)?;
            let status = pass_through(&host, &command, interactive, Duration::from_secs(timeout));
            for (there, here) in get {
                std::fs::write(&here, host.get_file(&there)?).with_context(|| here.clone())?;
            }
            if machine.show_console {
                eprintln!("{}", host.console());
            }
            return Ok(exit_code(status?));
        }
        Verb::Console { machine } => console(&boot(&lab, &machine)?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn boot(lab: &Lab, machine: &Machine) -> Result<Host> {
    let extra_files = machine.put.iter().map(|pair| split(pair).map(|(here, there)| (PathBuf::from(here), there)));
    let defaults = BootOptions::for_bed(lab.bed());
    let options = BootOptions {
        memory_mib: machine.memory,
        cpus: if machine.icount { 1 } else { machine.cpus.unwrap_or(defaults.cpus) },
        clock: if machine.icount { Clock::Instructions } else { Clock::Host },
        extra_files: extra_files.collect::<Result<_>>()?,
        kernel_args: machine.kernel_args.clone(),
    };
    Ok(lab.boot(&options)?)
}

fn split(pair: &str) -> Result<(String, String)> {
    match pair.split_once(':') {
        Some((from, to)) if !from.is_empty() && !to.is_empty() => Ok((from.to_owned(), to.to_owned())),
        _ => bail!("{pair:?} is not FROM:TO"),
    }
}

fn pass_through(host: &Host, command: &[String], interactive: bool, deadline: Duration) -> Result<Status> {
    let (path, args) = command.split_first().context("no program is named")?;
    let stdin = if interactive { Stdin::Stream } else { Stdin::Empty };
    let mut child =
        host.spawn(Command::new(path.as_str()).args(args.iter().map(String::as_str)).stdin(stdin).deadline(deadline))?;
    if let Some(mut writer) = child.stdin.take() {
        // Left alone at the end: a blocked read of our input cannot be called back.
        thread::spawn(move || copy(&mut io::stdin(), &mut writer));
    }
    let status = thread::scope(|scope| {
        scope.spawn(|| copy(&mut child.stderr, &mut io::stderr()));
        copy(&mut child.stdout, &mut io::stdout())
    });
    status.context("standard output")?;
    Ok(child.wait()?)
}

/// Copies piece by piece, so that whoever talks to the program sees its prompts.
fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = [0; 32 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => {
                to.write_all(&buffer[..count])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // The program took too long; `wait` says so.
            Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn console(host: &Host) -> Result<()> {
    eprint!("{}", host.console());
    eprintln!("tenure-lab: type a program's path and arguments, or end the input to end the host");
    for line in io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        if words.is_empty() {
            continue;
        }
        let before = host.console().len();
        match pass_through(host, &words, false, Duration::from_secs(600)) {
            Ok(status) => eprintln!("tenure-lab: {status}"),
            Err(error) => eprintln!("tenure-lab: {error:#}"),
        }
        eprint!("{}", host.console().get(before..).unwrap_or_default());
    }
    Ok(())
}

fn exit_code(status: Status) -> ExitCode {
    let code = match status {
        Status::Exited(code) => code,
        Status::Signaled(signal) => 128 + signal,
    };
    ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))
}
