//! What a run is made of: flags, the configuration file, and defaults, brought together and checked.
//!
//! Owns the settings of `tenure run` ([`Settings`], which are flags and configuration keys at once), their defaults,
//! and the checked result ([`Config`]). Everything that can be checked without opening a guest's files or asking the
//! host is checked here; [`inputs`] opens the files. Not owned: whether the host can do what is asked (`check`).
//!
//! Specification: law *no-silent-trust* of `ARCHITECTURE.md`; the format is our own.

pub mod address;
pub mod file;
pub mod inputs;
pub mod snp;
pub mod values;

use ::snp::cpu::CpuModel;
use ::snp::policy::GuestPolicy;
use address::Address;
use clap::ValueEnum;
use gmem::ByteLen;
use serde::{Deserialize, Serialize};
use snp::{HostData, SnpConfig, Text};
use std::fmt;
use std::path::PathBuf;
use values::{Cmdline, MemorySize, VcpuCount, VirtioConsole};

/// What keeps the guest's memory private.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tee {
    /// The strongest of snp, tdx and sw that this host can do; never none
    #[default]
    Auto,
    /// AMD SEV-SNP
    Snp,
    /// Intel TDX
    Tdx,
    /// Test mode: private to the guest by attribute, neither encrypted nor attested
    Sw,
    /// No privacy at all
    None,
}

/// What the guest is told it runs on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Guise {
    /// What is there
    #[default]
    None,
    /// A plain AMD SEV guest, so that a stock kernel itself converts what it must share (test mode sw only)
    Sev,
}

/// How much is logged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Nothing
    Off,
    /// What made something fail
    Error,
    /// What looks wrong
    #[default]
    Warn,
    /// The main steps
    Info,
    /// Every step
    Debug,
    /// Every exit
    Trace,
}

impl fmt::Display for Tee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Snp => "snp",
            Self::Tdx => "tdx",
            Self::Sw => "sw",
            Self::None => "none",
        })
    }
}

impl fmt::Display for Guise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Sev => "sev",
        })
    }
}

/// RAM of a guest nobody gave a size.
pub const DEFAULT_MEMORY: ByteLen = ByteLen(512 << 20);

/// Command line of a kernel nobody gave one: console on the serial port, and an end instead of a hang after a panic.
pub const DEFAULT_CMDLINE: &str = "console=ttyS0 reboot=k panic=-1";

/// Everything `tenure run` can be told, by flag or by configuration key of the same name; what is absent has a default.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// What keeps the guest's memory private [default: auto]
    #[arg(long, value_enum, value_name = "TEE")]
    pub tee: Option<Tee>,

    /// What the guest is told it runs on [default: none]
    #[arg(long, value_enum, value_name = "GUISE")]
    pub guise: Option<Guise>,

    /// Linux kernel to boot, a bzImage; without one the firmware runs its self-test
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// Initial RAM disk of that kernel
    #[arg(long, value_name = "FILE")]
    pub initrd: Option<PathBuf>,

    /// The kernel's command line, at most 2047 bytes [default: "console=ttyS0 reboot=k panic=-1"]
    ///
    /// What the platform needs besides (noapic, and the TSC's frequency) is put in front of it, unless it says
    /// otherwise itself. Without a kernel it holds options of the self-test.
    #[arg(long, value_name = "STRING", allow_hyphen_values = true)]
    pub cmdline: Option<Cmdline>,

    /// The guest's RAM: whole pages from 16M to 4T, like 512M, 6G, 512MiB, 0x20000000 [default: 512M]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    pub memory: Option<MemorySize>,

    /// Number of virtual CPUs, 1 to 255 and what the host allows [default: 1]
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub vcpus: Option<VcpuCount>,

    /// What the guest's virtio-console is connected to: none, stdio, unix:PATH, or a file for its output [default: none]
    ///
    /// It is reached only through memory the guest has shared. With `stdio` the serial console has no input; with
    /// `unix:PATH` a socket is made there that takes one client at a time.
    #[arg(long, value_name = "END")]
    pub virtio_console: Option<VirtioConsole>,

    /// Where the guest's channel `tenure.relying-party` leads: HOST:PORT or unix:PATH; without it there is no such channel
    ///
    /// In the guest it is a port of virtio-console (Linux: /dev/vport*, with this name in /sys/class/virtio-ports/*/name).
    /// Each time a program opens it and writes, a connection is made, which lasts until one side closes. It is reached
    /// only through memory the guest has shared. A host's name is looked up once, when the run begins. With tee snp
    /// another port, tenure.launch-log, tells the guest what it was launched as, so that who refuses it can say why.
    #[arg(long, value_name = "ADDRESS")]
    pub relying_party: Option<Address>,

    /// A test's root, as `tenure attest testroot init` makes it: signs reports of a guest with tee sw
    ///
    /// Nobody vouches for what it signs: it is for testing attestation flows without hardware. The guest finds a channel
    /// named tenure.evidence and asks there; what is signed as its launch digest is what `tenure measure sw` predicts.
    #[arg(long, value_name = "DIR")]
    pub test_root: Option<PathBuf>,

    /// OVMF image for an SNP guest, instead of our firmware; it can boot nothing here
    ///
    /// It is launched and measured as `tenure measure snp` says, but finds none of the devices it asks what to boot.
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,

    /// What the owner of an SNP guest allows, as names with commas between them or as a number [default: smt]
    ///
    /// Names: smt, single-socket, aes-256-xts, rapl-off, ciphertext-hiding, page-swap-off, cxl, debug, migrate, and
    /// abi=MAJOR.MINOR. What is not named is not allowed.
    #[arg(long, value_name = "POLICY")]
    pub snp_policy: Option<Text<GuestPolicy>>,

    /// 64 hexadecimal digits that stand in every report of an SNP guest [default: zeros]
    #[arg(long, value_name = "HEX")]
    pub snp_host_data: Option<Text<HostData>>,

    /// ID block of an SNP guest, as `tenure idblock create` writes it; refused if it is for another launch
    #[arg(long, value_name = "FILE")]
    pub snp_id_block: Option<PathBuf>,

    /// Who signed the ID block, as `tenure idblock sign` writes it
    #[arg(long, value_name = "FILE")]
    pub snp_id_auth: Option<PathBuf>,

    /// Reports of an SNP guest are never signed by the chip's own key [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub snp_vlek_only: Option<bool>,

    /// Certificates an SNP guest gets with its reports: the table of an extended guest request, at most 64 KiB
    ///
    /// It is read for every request, under a shared lock (flock) that is held until the firmware was asked. Who changes
    /// it does so in place, under an exclusive lock.
    #[arg(long, value_name = "FILE")]
    pub snp_certificates: Option<PathBuf>,

    /// How often an SNP guest may reset itself: it is torn down, and launched again as before; 0 ends the run instead
    /// [default: as often as it likes]
    #[arg(long, value_name = "NUMBER")]
    pub snp_resets: Option<u32>,

    /// The processor that an SNP guest's vCPUs say they are, which is measured; as for `tenure measure snp` [default: EPYC]
    #[arg(long, value_name = "TYPE")]
    pub vcpu_type: Option<Text<CpuModel>>,

    /// Writes events (launch steps, conversions, exit counts, teardown receipt) to this file, one JSON object a line
    #[arg(long, value_name = "FILE.jsonl")]
    pub events: Option<PathBuf>,

    /// Shows one screen at the end, for people [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub summary: Option<bool>,

    /// How much is logged on standard error [default: warn]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub log: Option<LogLevel>,
}

/// What is to be run, checked for everything that needs neither files nor host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunConfig {
    /// What keeps memory private.
    pub tee: Tee,
    /// What the guest is told it runs on.
    pub guise: Guise,
    /// Kernel to boot; none means the firmware's self-test.
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk; only with a kernel.
    pub initrd: Option<PathBuf>,
    /// The kernel's command line, or the self-test's options: no control characters, at most
    /// [`guest_fw::abi::CMDLINE_MAX`] bytes.
    pub cmdline: String,
    /// RAM; [`gmem::layout::RamLayout::new`] accepts it.
    pub memory: ByteLen,
    /// vCPUs, 1 to [`guest_fw::abi::VCPUS_MAX`].
    pub vcpus: u32,
    /// Host's end of the virtio-console.
    pub virtio_console: VirtioConsole,
    /// Where the channel to a relying party leads, if there is one.
    pub relying_party: Option<Address>,
    /// Who signs reports of a guest with tee sw, if anybody.
    pub test_root: Option<PathBuf>,
    /// What only an SNP guest has.
    pub snp: SnpConfig,
}

/// What a run tells people and programs about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputConfig {
    /// Where events go.
    pub events: Option<PathBuf>,
    /// Whether there is a screen at the end.
    pub summary: Summary,
    /// How much is logged.
    pub log: LogLevel,
}

/// Whether there is a screen at the end of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Summary {
    /// There is.
    Shown,
    /// There is not.
    Hidden,
}

/// Everything `tenure run` needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The guest.
    pub run: RunConfig,
    /// What is told about it.
    pub output: OutputConfig,
}

/// Why settings are refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file.
    #[error(transparent)]
    File(#[from] file::FileError),
    /// A test's root must not sign what hardware could.
    #[error("test-root needs tee sw (or auto), but tee is {tee}")]
    TestRootNeedsSw {
        /// Which.
        tee: Tee,
    },
    /// The guise is a test of conversions in test mode.
    #[error("guise sev needs tee sw (or auto), but tee is {tee}")]
    GuiseNeedsSw {
        /// What was asked for.
        tee: Tee,
    },
    /// A setting that means nothing to other guests, where somebody counts on it.
    #[error("{setting} needs tee snp, but tee is {tee}")]
    NeedsSnp {
        /// The setting.
        setting: &'static str,
        /// What was asked for.
        tee: Tee,
    },
    /// One of two settings that go together.
    #[error("{given} needs {missing}, which is not given")]
    Half {
        /// The one that is there.
        given: &'static str,
        /// The one that isn't.
        missing: &'static str,
    },
    /// A RAM disk without anything to use it.
    #[error("initrd `{}` needs a kernel, but none is given", initrd.display())]
    InitrdWithoutKernel {
        /// The RAM disk.
        initrd: PathBuf,
    },
}

impl Settings {
    /// These settings, with what they leave open taken from `base`.
    pub fn over(self, base: Self) -> Self {
        Self {
            tee: self.tee.or(base.tee),
            guise: self.guise.or(base.guise),
            kernel: self.kernel.or(base.kernel),
            initrd: self.initrd.or(base.initrd),
            cmdline: self.cmdline.or(base.cmdline),
            memory: self.memory.or(base.memory),
            vcpus: self.vcpus.or(base.vcpus),
            virtio_console: self.virtio_console.or(base.virtio_console),
            relying_party: self.relying_party.or(base.relying_party),
            firmware: self.firmware.or(base.firmware),
            test_root: self.test_root.or(base.test_root),
            snp_policy: self.snp_policy.or(base.snp_policy),
            snp_host_data: self.snp_host_data.or(base.snp_host_data),
            snp_id_block: self.snp_id_block.or(base.snp_id_block),
            snp_id_auth: self.snp_id_auth.or(base.snp_id_auth),
            snp_vlek_only: self.snp_vlek_only.or(base.snp_vlek_only),
            snp_certificates: self.snp_certificates.or(base.snp_certificates),
            snp_resets: self.snp_resets.or(base.snp_resets),
            vcpu_type: self.vcpu_type.or(base.vcpu_type),
            events: self.events.or(base.events),
            summary: self.summary.or(base.summary),
            log: self.log.or(base.log),
        }
    }

    /// Fills in defaults and checks what concerns more than one setting.
    pub fn resolve(mut self) -> Result<Config, ConfigError> {
        let tee = self.tee.unwrap_or_default();
        let guise = self.guise.unwrap_or_default();
        if guise == Guise::Sev && !matches!(tee, Tee::Auto | Tee::Sw) {
            return Err(ConfigError::GuiseNeedsSw { tee });
        }
        if self.test_root.is_some() && !matches!(tee, Tee::Auto | Tee::Sw) {
            return Err(ConfigError::TestRootNeedsSw { tee });
        }
        if let (None, Some(initrd)) = (&self.kernel, &self.initrd) {
            return Err(ConfigError::InitrdWithoutKernel { initrd: initrd.clone() });
        }
        let snp = SnpConfig::resolve(&mut self, tee)?;
        let cmdline = match self.cmdline {
            Some(line) => line.into_string(),
            None if self.kernel.is_some() => DEFAULT_CMDLINE.to_owned(),
            None => String::new(),
        };
        Ok(Config {
            run: RunConfig {
                tee,
                guise,
                kernel: self.kernel,
                initrd: self.initrd,
                cmdline,
                memory: self.memory.map_or(DEFAULT_MEMORY, MemorySize::get),
                vcpus: self.vcpus.unwrap_or(VcpuCount::ONE).get(),
                virtio_console: self.virtio_console.unwrap_or_default(),
                relying_party: self.relying_party,
                test_root: self.test_root,
                snp,
            },
            output: OutputConfig {
                events: self.events,
                summary: if self.summary.unwrap_or(false) { Summary::Shown } else { Summary::Hidden },
                log: self.log.unwrap_or_default(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Settings {
        file::parse(text, "test.toml".as_ref()).unwrap()
    }

    #[test]
    fn defaults() {
        let config = Settings::default().resolve().unwrap();
        assert_eq!(config.run.tee, Tee::Auto);
        assert_eq!(config.run.guise, Guise::None);
        assert_eq!(config.run.memory, ByteLen(512 << 20));
        assert_eq!(config.run.vcpus, 1);
        assert_eq!(config.run.cmdline, "");
        assert_eq!(config.run.virtio_console, VirtioConsole::None);
        assert_eq!(config.run.relying_party, None);
        assert_eq!(config.output, OutputConfig { events: None, summary: Summary::Hidden, log: LogLevel::Warn });
    }

    #[test]
    fn help_tells_the_defaults() {
        let mut help = <crate::cli::Cli as clap::CommandFactory>::command();
        help.build();
        let run = help.find_subcommand("run").unwrap();
        let help_of =
            |name: &str| run.get_arguments().find(|arg| arg.get_id() == name).unwrap().get_help().unwrap().to_string();
        let Config { run: config, output } = Settings::default().resolve().unwrap();
        let memory = format!("{}M", config.memory.0 >> 20);
        let log = format!("{:?}", output.log).to_lowercase();
        let defaults = [
            ("tee", config.tee.to_string()),
            ("guise", config.guise.to_string()),
            ("cmdline", format!("\"{DEFAULT_CMDLINE}\"")),
            ("memory", memory),
            ("vcpus", config.vcpus.to_string()),
            ("virtio_console", "none".to_owned()),
            ("snp_policy", "smt".to_owned()),
            ("snp_resets", config.snp.resets.map_or("as often as it likes".to_owned(), |most| most.to_string())),
            ("vcpu_type", config.snp.vcpu_type.to_string()),
            ("summary", "false".to_owned()),
            ("log", log),
        ];
        for (name, default) in defaults {
            let help = help_of(name);
            assert!(help.ends_with(&format!("[default: {default}]")), "{name}: {help}");
        }
    }

    #[test]
    fn a_kernel_without_command_line_gets_the_default_one() {
        let with_kernel = Settings { kernel: Some("bzImage".into()), ..Settings::default() };
        assert_eq!(with_kernel.clone().resolve().unwrap().run.cmdline, DEFAULT_CMDLINE);
        let empty = Settings { cmdline: Some("".parse().unwrap()), ..with_kernel };
        assert_eq!(empty.resolve().unwrap().run.cmdline, "");
    }

    #[test]
    fn flags_win_over_the_file() {
        let base = file("tee = \"sw\"\nmemory = \"6G\"\nvcpus = 2\nsummary = true\nlog = \"debug\"");
        let flags = Settings { memory: Some("1G".parse().unwrap()), summary: Some(false), ..Settings::default() };
        let config = flags.over(base).resolve().unwrap();
        assert_eq!(config.run.memory, ByteLen(1 << 30));
        assert_eq!((config.run.tee, config.run.vcpus), (Tee::Sw, 2));
        assert_eq!((config.output.summary, config.output.log), (Summary::Hidden, LogLevel::Debug));
    }

    #[test]
    fn no_silent_trust_settings_that_contradict_each_other() {
        for tee in [Tee::Snp, Tee::Tdx, Tee::None] {
            let settings = Settings { tee: Some(tee), guise: Some(Guise::Sev), ..Settings::default() };
            let error = settings.resolve().unwrap_err().to_string();
            assert_eq!(error, format!("guise sev needs tee sw (or auto), but tee is {tee}"));
        }
        let error = Settings { initrd: Some("rd.img".into()), ..Settings::default() }.resolve().unwrap_err();
        assert_eq!(error.to_string(), "initrd `rd.img` needs a kernel, but none is given");
    }
}
