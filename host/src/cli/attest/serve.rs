//! `tenure attest serve`: a relying party that guests ask for secrets.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use attest::snp::{self, ListError, Product, expect_list};
use attest::tdx;
use attest_kbs::appraiser::Release;
use attest_kbs::client::tls::{self, ConnectError};
use attest_kbs::protocol::resource::ResourceName;
use attest_kbs::resources::Resources;
use attest_kbs::server::config::{Config, Limits};
use attest_kbs::server::{Parts, Server};
use attest_kbs::state::{StateDirectory, StateError};
use attest_kbs::store::{Store, StoreError};
use attest_kbs::token::{KeyFileError, Tokens};
use clap::Args;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::references::{CollateralArgs, QuoteReferenceArgs, ReferenceArgs};
use super::verify::RootName;
use super::{PresetName, print};
use crate::cli::{CliError, log};
use crate::config::LogLevel;
use crate::evidence::tdx::{self as quotes, QuoteFileError};
use crate::evidence::{self, EvidenceError, lists, policy};
use crate::exit::ExitCode;
use crate::idblock::{Source, one_stdin};
use crate::relying_party::RelyingParty;
use crate::relying_party::quote::TdxWishes;
use crate::relying_party::report::{SnpWishes, TestRoot};
use crate::stop::StopSignal;

mod apart;

/// Why nobody is served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address.
    #[error("listen {address}: {source}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The directory of the state.
    #[error("state: {0}")]
    State(#[from] StateError),
    /// Sessions.
    #[error("state: {0}")]
    Store(#[from] StoreError),
    /// The key.
    #[error("state: {0}")]
    Key(#[from] KeyFileError),
    /// Resources.
    #[error("resources `{}`: {source}", path.display())]
    Resources {
        /// Their directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The directory of the state, once it is there.
    #[error("state `{}`: {source}", path.display())]
    StatePath {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A guest could fetch the key of tokens.
    #[error(
        "--state {} and --resources {} are one directory, or one is inside of the other: guests are given what is below \
         --resources, and what signs tokens is in --state; give two that are apart",
        state.display(), resources.display()
    )]
    NotApart {
        /// What is released.
        resources: PathBuf,
        /// What is not.
        state: PathBuf,
    },
    /// A list of revoked certificates that is none.
    #[error("--crl {from} must be a list of revoked certificates, and is not: {source}")]
    List {
        /// Where it was read.
        from: Source,
        /// What is wrong with it.
        source: ListError,
    },
    /// Certificate and key.
    #[error(transparent)]
    Tls(#[from] ConnectError),
    /// Test roots and what they stand in for.
    #[error("{roots} of test-root and {names} of allow-test-root: give one for each")]
    TestRoots {
        /// Of the one.
        roots: usize,
        /// Of the other.
        names: usize,
    },
    /// More than one of a kind.
    #[error("test-root: give one in place of a product's and one in place of intel's, no more")]
    TestRootTwice,
    /// Quotes that nobody can judge.
    #[error("quotes are judged only with what Intel publishes: give collateral, too")]
    NoCollateral,
    /// Something that cannot be read again.
    #[error("collateral is read again whenever a quote is judged: give files, not standard input")]
    CollateralFromStdin,
    /// While it ran.
    #[error("the service cannot go on: {0}")]
    Run(io::Error),
}

/// Arguments of `tenure attest serve`.
#[derive(Debug, Args)]
pub struct ServeArgs {
    /// What is released: files DIR/repository/type/tag
    #[arg(long, value_name = "DIR")]
    pub resources: PathBuf,

    /// Where sessions and the key of tokens are kept; made if it is not there. Nobody else may write into it
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,

    /// Where to listen; port 0 is any that is free
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080", value_parser = address)]
    pub listen: SocketAddr,

    /// The service's certificates, in PEM, its own first; without them it is plain HTTP
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of the first of them, in PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// The policy, TOML or JSON; - is standard input
    #[arg(long, value_name = "FILE|-", conflicts_with = "preset")]
    pub policy: Option<Source>,

    /// A policy by name
    #[arg(long, value_enum, value_name = "NAME", default_value_t = PresetName::Strict)]
    pub preset: PresetName,

    /// A root for tests, in DER: whatever rests on it is software-test, and nobody vouches for it. One in place of a
    /// product's and one in place of Intel's if given twice
    #[arg(long = "test-root", value_name = "FILE|-", requires = "allow_test_roots")]
    pub test_roots: Vec<Source>,

    /// Accepts the test root in place of this one; given twice, the second test root in place of the second
    #[arg(long = "allow-test-root", value_enum, value_name = "ROOT", requires = "test_roots")]
    pub allow_test_roots: Vec<RootName>,

    /// Releases only this resource, several if given several times [default: all there are]
    #[arg(long = "release", value_name = "REPOSITORY/TYPE/TAG")]
    pub releases: Vec<ResourceName>,

    /// How long a challenge waits for evidence
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub challenge_time: u64,

    /// How long a token holds, and the session in which it was given
    #[arg(long, value_name = "SECONDS", default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub token_time: u64,

    /// How long headers may take, and a body
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub patience: u64,

    /// How many bytes a request may have, from 4096
    #[arg(long, value_name = "BYTES", default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(4096..))]
    pub max_body: u32,

    /// How many sessions there may be at once; one address has at most a quarter of them
    #[arg(long, value_name = "NUMBER", default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_sessions: u64,

    /// How many connections there may be at once; one address has at most a quarter of them
    #[arg(long, value_name = "NUMBER", default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(4..=65_536))]
    pub max_connections: u32,

    /// How many requests one address may make in a second, on average; ten times as many at once
    #[arg(long, value_name = "NUMBER", default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rate: u32,

    /// How much is logged on standard error
    #[arg(long, value_enum, value_name = "LEVEL", default_value_t = LogLevel::Info)]
    pub log: LogLevel,

    /// What SNP guests are expected to be.
    #[command(flatten, next_help_heading = "Reports (SNP)")]
    pub references: ReferenceArgs,

    /// What only reports have.
    #[command(flatten, next_help_heading = "Reports (SNP)")]
    pub of_reports: ListArgs,

    /// What Intel publishes about the platforms of TDX guests: without it there is nothing for them.
    #[command(flatten, next_help_heading = "Quotes (TDX)")]
    pub of_platforms: CollateralArgs,

    /// What TDX guests are expected to be.
    #[command(flatten, next_help_heading = "Quotes (TDX)")]
    pub of_quotes: QuoteReferenceArgs,
}

/// Which issuers of certificates were revoked.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// A list of revoked certificates in DER, PEM or hexadecimal digits, signed by the product's root; it counts before
    /// one that a guest sends
    #[arg(long, value_name = "FILE|-")]
    pub crl: Option<Source>,
}

/// Names are not looked up: which of its addresses would be meant?
fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(|_| "it is no address with a port, like 127.0.0.1:8080, [::1]:8080 or, for all, 0.0.0.0:8080")
}

pub(super) fn serve(args: &ServeArgs) -> Result<ExitCode, CliError> {
    let optional = [("policy", &args.policy), ("crl", &args.of_reports.crl)];
    let optional = optional.into_iter().filter_map(|(what, source)| Some((what, source.as_ref()?)));
    let roots = args.test_roots.iter().map(|source| ("test-root", source));
    one_stdin(optional.chain(roots).chain(args.references.sources())).map_err(EvidenceError::from)?;
    log::start_dated(args.log);
    let appraiser = relying_party(args)?;
    appraiser.warn_of_wishes_that_nobody_meets();

    let stop = StopSignal::new().map_err(CliError::Signals)?;
    stop.catch_signals().map_err(CliError::Signals)?;
    let server = server(args, appraiser)?;
    let scheme = if args.tls_cert.is_some() { "https" } else { "http" };
    print(&format!("{scheme}://{}\n", server.address()))?;
    if !args.test_roots.is_empty() {
        tracing::warn!("software-test: a test root is allowed; no hardware vouches for guests that rest on it");
    }
    let stopper = server.stopper();
    thread::Builder::new()
        .name("stop".into())
        .spawn(move || {
            // An interrupted wait begins anew.
            while stop.reason().is_none() {
                let _ = poll(&mut [PollFd::new(&stop, PollFlags::IN)], None);
            }
            stopper.stop();
        })
        .map_err(CliError::Signals)?;
    server.run().map_err(ServeError::Run)?;
    Ok(ExitCode::Success)
}

fn relying_party(args: &ServeArgs) -> Result<RelyingParty, CliError> {
    let (of_reports, of_quotes) = match &args.policy {
        Some(file) => policy::read_both(file).map_err(EvidenceError::from)?,
        None => (args.preset.into(), tdx::Policy::preset(args.preset.into())),
    };
    let Named { of_product, of_intel } = test_roots(args)?;
    let release = match &args.releases[..] {
        [] => Release::All,
        names => Release::Only(names.iter().map(ToString::to_string).collect()),
    };
    Ok(RelyingParty::new(snp_wishes(args, of_reports, of_product)?, tdx_wishes(args, of_quotes, of_intel)?, release))
}

/// Test roots, by what they stand in for.
#[derive(Default)]
struct Named<'a> {
    of_product: Option<(&'a Source, Product)>,
    of_intel: Option<&'a Source>,
}

fn test_roots(args: &ServeArgs) -> Result<Named<'_>, ServeError> {
    let mut named = Named::default();
    let counts = (args.test_roots.len(), args.allow_test_roots.len());
    if counts.0 != counts.1 {
        return Err(ServeError::TestRoots { roots: counts.0, names: counts.1 });
    }
    for (root, name) in args.test_roots.iter().zip(&args.allow_test_roots) {
        let before = match name.product() {
            Ok(product) => named.of_product.replace((root, Product::from(product))).is_some(),
            Err(_) => named.of_intel.replace(root).is_some(),
        };
        if before {
            return Err(ServeError::TestRootTwice);
        }
    }
    Ok(named)
}

fn snp_wishes(args: &ServeArgs, policy: snp::Policy, root: Option<(&Source, Product)>) -> Result<SnpWishes, CliError> {
    let (anchors, certificate) = evidence::anchors_and_root(root)?;
    let test = root.zip(certificate).map(|((_, product), certificate)| TestRoot { product, certificate });
    let crl = args.of_reports.crl.as_ref().map(list).transpose()?;
    let (references, expected) = (args.references.values()?, args.references.traces()?);
    Ok(SnpWishes { anchors, test, policy, references, crl, expected })
}

/// One that is none would refuse every guest.
fn list(from: &Source) -> Result<Vec<u8>, CliError> {
    let list = lists::read("crl", from).map_err(EvidenceError::from)?;
    expect_list(&list).map_err(|source| ServeError::List { from: from.clone(), source })?;
    Ok(list)
}

/// Without collateral there are none: no quote could be judged.
fn tdx_wishes(args: &ServeArgs, policy: tdx::Policy, root: Option<&Source>) -> Result<Option<TdxWishes>, CliError> {
    if !args.of_platforms.are_given() {
        if args.of_quotes.are_given() || root.is_some() {
            return Err(ServeError::NoCollateral.into());
        }
        return Ok(None);
    }
    if args.of_platforms.sources().any(|(_, source)| *source == Source::Stdin) {
        return Err(ServeError::CollateralFromStdin.into());
    }
    let (anchors, test) = quotes::anchors_and_root(root)?;
    let collateral = args.of_platforms.place();
    let at_first = collateral.read().map_err(QuoteFileError::from).map_err(EvidenceError::from)?;
    let references = args.of_quotes.values();
    Ok(Some(TdxWishes { anchors, test, policy, references, collateral, at_first }))
}

fn server(args: &ServeArgs, appraiser: RelyingParty) -> Result<Server, ServeError> {
    let connections = args.max_connections as usize;
    let patience = Duration::from_secs(args.patience);
    let limits = Limits {
        body_bytes: args.max_body as usize,
        header_time: patience,
        body_time: patience,
        connections,
        connections_of_peer: connections / 4,
        rate: args.rate,
        burst: args.rate.saturating_mul(10),
        sessions: args.max_sessions,
        sessions_of_peer: args.max_sessions.div_ceil(4),
        ..Limits::default()
    };
    let token = Duration::from_secs(args.token_time);
    let config = Config { challenge: Duration::from_secs(args.challenge_time), token, limits };
    allow_descriptors(args.max_connections);
    // Before anything in it is believed.
    let state = StateDirectory::make(&args.state)?;
    apart::expect_apart(&args.resources, &args.state)?;
    let resources = Resources::open(&args.resources, limits.resource_bytes);
    let resources = resources.map_err(|source| ServeError::Resources { path: args.resources.clone(), source })?;
    let tls = args.tls_cert.as_ref().zip(args.tls_key.as_ref());
    let parts = Parts {
        appraiser: Box::new(appraiser),
        store: Store::open(&state, limits.most_sessions())?,
        tokens: Tokens::open(&state, token)?,
        resources,
        tls: tls.map(|(certificates, key)| tls::server_config(certificates, key)).transpose()?,
    };
    Server::bind(args.listen, config, parts).map_err(|source| ServeError::Listen { address: args.listen, source })
}

/// Lets so many connections be open at once, and what is read for them.
fn allow_descriptors(connections: u32) {
    let limit = getrlimit(Resource::Nofile);
    // Few things are read at once, however many wait for them.
    let wanted = u64::from(connections) + 64;
    if limit.current.is_none_or(|current| current >= wanted) {
        return;
    }
    let current = limit.maximum.map_or(wanted, |most| wanted.min(most));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: limit.maximum });
    if current < wanted || raised.is_err() {
        tracing::warn!(
            limit = limit.maximum.unwrap_or(current),
            wanted,
            "the limit on open files may be too low for --max-connections"
        );
    }
}
