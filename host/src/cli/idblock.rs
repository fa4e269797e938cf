//! `tenure idblock`: what the owner of an SNP guest signs.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::Path;

use clap::{Args, Subcommand, ValueEnum};
use snp::id_block::{IdBlock, ImageIdentity};
use snp::policy::GuestPolicy;
use zerocopy::IntoBytes;

use super::measure::VCPUS_MAX;
use super::{CliError, Deferred};
use crate::exit::ExitCode;
use crate::idblock::{self, DigestSource, Form, IdBlockError, IdReport, OwnerId, Report, SignatureReport, Source};
use crate::output::Output;
use crate::paint::{GREEN, Paint, RED, YELLOW};

/// What can be done with ID blocks.
#[derive(Debug, Subcommand)]
#[command(after_long_help = super::help(EXAMPLES))]
pub enum IdBlockCommand {
    /// Makes an ID block: for which launch digest and policy, and by which names
    ///
    /// It is not secret, and nothing is signed yet: that is tenure idblock sign. What was written is shown, unless it was
    /// written to standard output.
    #[command(after_long_help = super::help(
        "tenure measure snp --firmware OVMF.amdsev.fd --vcpus 4 --json | tenure idblock create --launch-digest - --out block\n\
         tenure idblock create --launch-digest digests.json --vcpus 2 --policy smt,abi=1.55 --out block\n\
         tenure idblock create --launch-digest digests.json --family-id text:web --image-id text:web-2026.11 --guest-svn 3 --out block"
    ))]
    Create(Deferred<CreateArgs>),

    /// Signs an ID block: makes the ID authentication that goes with it
    ///
    /// The signature is ECDSA on P-384 with SHA-384, the only one the firmware takes. An author's key, if there is one,
    /// signs the public half of the ID key, so that an owner of many images needs to be known by one key only. What was
    /// signed is checked as the firmware will check it before it is written. Then it is shown, with the digests of the keys
    /// as they stand in attestation reports, unless it was written to standard output.
    ///
    /// Keys are PEM files without a password: "EC PRIVATE KEY" or "PRIVATE KEY". Whoever can read such a file can sign as
    /// you, so keep it readable by yourself only (chmod 600), or encrypted, and decrypt it into a pipe.
    #[command(after_long_help = super::help(
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out id.pem\n\
         tenure idblock sign --block block --id-key id.pem --out auth\n\
         openssl pkey -in encrypted.pem | tenure idblock sign --block block --id-key - --author-key author.pem --out auth"
    ))]
    Sign(Deferred<SignArgs>),

    /// Shows an ID block, and checks who signed it and for which launch
    ///
    /// A signature that does not hold and a block for another launch are findings: exit code 10.
    #[command(after_long_help = super::help(
        "tenure idblock inspect --block block\n\
         tenure idblock inspect --block block --auth auth --json | jq -r .signature.id_key_digest\n\
         tenure measure snp --firmware OVMF.amdsev.fd --vcpus 4 --json | tenure idblock inspect --block block --auth auth --launch-digest -"
    ))]
    Inspect(Deferred<InspectArgs>),
}

/// From a firmware to a guest of QEMU's.
const EXAMPLES: &str = "\
tenure measure snp --firmware OVMF.amdsev.fd --vcpus 4 --json > digests.json
tenure idblock create --launch-digest digests.json --policy smt --format base64 --out block
tenure idblock sign --block block --id-key id.pem --format base64 --out auth
tenure idblock inspect --block block --auth auth --launch-digest digests.json
qemu-system-x86_64 … -object sev-snp-guest,…,policy=0x30000,id-block=$(cat block),id-auth=$(cat auth)";

/// Arguments of `tenure idblock create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// The launch digest: 96 hexadecimal digits, or a file or standard input (-) with what tenure measure snp printed, with
    /// --json or without; a file's name has a . or / in it
    #[arg(long, value_name = "HEX|FILE|-")]
    pub launch_digest: DigestSource,

    /// Of launch digests for several numbers of vCPUs, takes that for so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=VCPUS_MAX))]
    pub vcpus: Option<u32>,

    /// The policy the guest must be launched with: names with commas between them, and abi=MAJOR.MINOR, or a number
    ///
    /// What is not named is not allowed. Names: smt, migrate, debug, single-socket, cxl, aes-256-xts, rapl-off,
    /// ciphertext-hiding, page-swap-off. migrate and debug, which open the guest to its host, are taken by name only.
    #[arg(long, value_name = "POLICY", default_value_t)]
    pub policy: GuestPolicy,

    /// Your name for a family of images: 32 hexadecimal digits, or text: and a text of at most 16 bytes, which zeros follow
    #[arg(long, value_name = "HEX|text:TEXT")]
    pub family_id: Option<OwnerId>,

    /// Your name for this image, written like --family-id
    #[arg(long, value_name = "HEX|text:TEXT")]
    pub image_id: Option<OwnerId>,

    /// Your security version of the image: to be raised when an older one must not be trusted any more
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub guest_svn: u32,

    /// Where the block goes; - is standard output
    #[arg(long, value_name = "FILE|-")]
    pub out: Output,

    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,

    /// Shows the block as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `tenure idblock sign`.
#[derive(Debug, Args)]
pub struct SignArgs {
    /// The ID block, binary or base64; - is standard input
    #[arg(long, value_name = "FILE|-")]
    pub block: Source,

    /// The private key to sign the block with, on P-384; - is standard input
    #[arg(long, value_name = "PEM|-")]
    pub id_key: Source,

    /// The author's private key, on P-384, to sign the ID key with; QEMU then wants author-key-enabled=on
    #[arg(long, value_name = "PEM|-")]
    pub author_key: Option<Source>,

    /// Where the ID authentication goes; - is standard output
    #[arg(long, value_name = "FILE|-")]
    pub out: Output,

    /// How it is written
    #[arg(long, value_enum, default_value_t)]
    pub format: Format,

    /// Shows block and signature as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,
}

/// Arguments of `tenure idblock inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The ID block, binary or base64; - is standard input
    #[arg(long, value_name = "FILE|-")]
    pub block: Source,

    /// Its ID authentication, binary or base64: also checks the signatures
    #[arg(long, value_name = "FILE|-")]
    pub auth: Option<Source>,

    /// Also checks that the block is for this launch digest: 96 hexadecimal digits, or a file or standard input (-) with
    /// what tenure measure snp printed, with --json or without; a file's name has a . or / in it
    #[arg(long, value_name = "HEX|FILE|-")]
    pub launch_digest: Option<DigestSource>,

    /// Of launch digests for several numbers of vCPUs, takes that for so many
    #[arg(long, value_name = "N", requires = "launch_digest",
        value_parser = clap::value_parser!(u32).range(1..=VCPUS_MAX))]
    pub vcpus: Option<u32>,

    /// Prints everything as JSON; its keys do not change
    #[arg(long)]
    pub json: bool,
}

/// How a block or its authentication is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Format {
    /// As the firmware has it
    #[default]
    Binary,
    /// A line of text, as QEMU takes it
    Base64,
}

impl From<Format> for Form {
    fn from(format: Format) -> Self {
        match format {
            Format::Binary => Self::Binary,
            Format::Base64 => Self::Base64,
        }
    }
}

pub(super) fn idblock(command: IdBlockCommand) -> Result<ExitCode, CliError> {
    match command {
        IdBlockCommand::Create(args) => create(&args),
        IdBlockCommand::Sign(args) => sign(&args),
        IdBlockCommand::Inspect(args) => inspect(&args),
    }
}

fn create(args: &CreateArgs) -> Result<ExitCode, CliError> {
    let input = args.launch_digest.source().and_then(Source::path).map(|path| ("launch-digest", path));
    expect_place(&args.out, args.json, input)?;
    let digest = args.launch_digest.read(args.vcpus)?;
    let image = ImageIdentity {
        family_id: args.family_id.unwrap_or_default().0,
        image_id: args.image_id.unwrap_or_default().0,
        guest_svn: args.guest_svn,
    };
    let block = IdBlock::new(digest, args.policy, image);
    idblock::write(block.as_bytes(), args.format.into(), &args.out).map_err(IdBlockError::from)?;
    let unsigned = "none yet: tenure idblock sign makes it";
    show_written(&args.out, args.json, &Report::of(&block, None, None)?, unsigned)
}

fn sign(args: &SignArgs) -> Result<ExitCode, CliError> {
    let author = args.author_key.as_ref().map(|key| ("author-key", key));
    let sources = || [("block", &args.block), ("id-key", &args.id_key)].into_iter().chain(author);
    idblock::one_stdin(sources())?;
    expect_place(&args.out, args.json, sources().filter_map(|(what, source)| Some((what, source.path()?))))?;
    let block = idblock::block(&args.block)?;
    let id_key = idblock::key("id-key", &args.id_key)?;
    let author_key = author.map(|(what, source)| idblock::key(what, source)).transpose()?;
    let auth = idblock::sign(&block, &id_key, author_key.as_ref())?;
    idblock::write(auth.as_bytes(), args.format.into(), &args.out).map_err(IdBlockError::from)?;
    show_written(&args.out, args.json, &Report::of(&block, Some(&auth), None)?, "")
}

fn inspect(args: &InspectArgs) -> Result<ExitCode, CliError> {
    let auth = args.auth.as_ref().map(|source| ("auth", source));
    let digest = args.launch_digest.as_ref().and_then(|digest| Some(("launch-digest", digest.source()?)));
    idblock::one_stdin([("block", &args.block)].into_iter().chain(auth).chain(digest))?;
    let block = idblock::block(&args.block)?;
    let auth = args.auth.as_ref().map(idblock::auth).transpose()?;
    let launch = args.launch_digest.as_ref().map(|digest| digest.read(args.vcpus)).transpose()?;
    let report = Report::of(&block, auth.as_ref(), launch)?;
    show(args.json, &report, "not looked at: it is in the ID authentication, --auth FILE")?;
    Ok(if report.holds() { ExitCode::Success } else { ExitCode::Findings })
}

/// Nothing is read for an output that cannot be.
fn expect_place<'a>(
    out: &Output,
    json: bool,
    inputs: impl IntoIterator<Item = (&'static str, &'a Path)>,
) -> Result<(), IdBlockError> {
    if json && *out == Output::Stdout {
        return Err(IdBlockError::OneOutput);
    }
    Ok(out.spares(inputs)?)
}

/// Shows what was written, where that doesn't get in its way.
fn show_written(out: &Output, json: bool, report: &Report, unsigned: &str) -> Result<ExitCode, CliError> {
    if *out != Output::Stdout {
        show(json, report, unsigned)?;
    }
    Ok(ExitCode::Success)
}

/// Shows a report; `unsigned` is what people are told of a signature that isn't in it.
fn show(json: bool, report: &Report, unsigned: &str) -> Result<(), CliError> {
    let text = if json {
        serde_json::to_string_pretty(report).map_err(|error| CliError::Output(error.into()))? + "\n"
    } else {
        in_words(report, unsigned, Paint::on_stdout())
    };
    io::stdout().write_all(text.as_bytes()).map_err(CliError::Output)
}

/// A line for every field, and for every flag of the policy.
fn in_words(report: &Report, unsigned: &str, paint: Paint) -> String {
    let mut text = String::new();
    let mut line = |label: &str, words: &str| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{label:<17} {words}");
    };
    line("launch digest", &report.launch_digest);
    line("family ID", &id(&report.family_id));
    line("image ID", &id(&report.image_id));
    line("guest SVN", &report.guest_svn.to_string());
    let policy = &report.policy;
    line("policy", &format!("{} ({})", policy.value, policy.names));
    line("", &format!("abi={}: the firmware's ABI is at least that", policy.abi));
    for flag in &policy.flags {
        // What nobody gets by a number is not to be overlooked here either.
        let name =
            if matches!(flag.name, "debug" | "migrate") { paint.on(flag.name, YELLOW) } else { flag.name.to_owned() };
        line("", &format!("{name}: {}", flag.means));
    }
    match &report.signature {
        None => line("signature", unsigned),
        Some(SignatureReport { wrong: Some(wrong), .. }) => {
            line("signature", &paint.on(&format!("does not hold: {wrong}"), RED));
        }
        Some(SignatureReport { id_key_digest, author_key_digest, .. }) => {
            line("signature", &paint.on("holds", GREEN));
            line("ID_KEY_DIGEST", id_key_digest.as_deref().unwrap_or_default());
            line("AUTHOR_KEY_DIGEST", author_key_digest.as_deref().unwrap_or("zeros: there is no author key"));
        }
    }
    match &report.launch {
        Some(launch) if launch.matches => line("launch", &paint.on("the block is for it", GREEN)),
        Some(launch) => {
            line("launch", &paint.on(&format!("the block is for another; it is {}", launch.launch_digest), RED));
        }
        None => {}
    }
    text
}

fn id(id: &IdReport) -> String {
    match &id.text {
        Some(text) => format!("{} ({text:?})", id.hex),
        None => id.hex.clone(),
    }
}
