//! `tenure attest request`: the guest's side, which shows evidence and gets a secret.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use attest_kbs::client::evidence::launch_log::{self, Logged};
use attest_kbs::client::evidence::sev_guest::SevGuest;
use attest_kbs::client::evidence::test_device::{Technology, TestDevice};
use attest_kbs::client::evidence::tsm::{self, Tsm};
use attest_kbs::client::evidence::{self, EvidenceSource, SourceError};
use attest_kbs::client::http::Http;
use attest_kbs::client::port;
use attest_kbs::client::stream::{Stream, Timed};
use attest_kbs::client::tls::{self, ConnectError, Url};
use attest_kbs::client::{ClientError, Session};
use attest_kbs::protocol::resource::ResourceName;
use clap::Args;

use crate::cli::CliError;
use crate::exit::ExitCode;
use crate::output::{Output, OutputError};

/// What a relying party is called that is asked over a device.
const OVER_A_DEVICE: &str = "relying-party";

/// Why there is no secret.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The connection.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// Neither a network nor a device.
    #[error("give url or channel: there is no port of a virtio-console named {0}")]
    NoWay(&'static str),
    /// The device.
    #[error("channel `{}`: {source}", path.display())]
    Channel {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is nothing that gives evidence.
    #[error("--evidence {from}: {source}")]
    Evidence {
        /// Where it was to come from.
        from: EvidenceFrom,
        /// Why it does not.
        source: SourceError,
    },
    /// The way to the relying party: it ended, or nothing came over it in time.
    #[error("{way}: {source}")]
    Way {
        /// Host and port, or the device.
        way: String,
        /// Why.
        source: ClientError,
    },
    /// The flow.
    #[error(transparent)]
    Flow(ClientError),
    /// The secret's place.
    #[error("{}", .0.of("out"))]
    Out(OutputError),
}

impl RequestError {
    /// What a command's exit code is because of it. Whatever the relying party itself refuses is not what it wants; a
    /// device that is there and gives no evidence is like evidence that is none.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Flow(ClientError::Refused { .. }) => ExitCode::NOT_MET,
            Self::Flow(ClientError::Evidence(_)) => ExitCode::EVIDENCE_INVALID,
            Self::Connect(_)
            | Self::NoWay(_)
            | Self::Channel { .. }
            | Self::Evidence { .. }
            | Self::Way { .. }
            | Self::Flow(_)
            | Self::Out(_) => ExitCode::Usage,
        }
    }
}

/// Arguments of `tenure attest request`.
#[derive(Debug, Args)]
pub struct RequestArgs {
    /// The relying party: http://HOST:PORT or https://HOST:PORT
    #[arg(long, value_name = "URL")]
    pub url: Option<Url>,

    /// A device that leads to the relying party, like a virtio-console's: no network is needed [default, without --url: the
    /// port named tenure.relying-party, which `tenure run --relying-party` gives a guest]
    #[arg(long, value_name = "DEVICE", conflicts_with = "url")]
    pub channel: Option<PathBuf>,

    /// Certificates of the authority that vouches for the relying party, in PEM; https needs it
    #[arg(long, value_name = "FILE", requires = "url")]
    pub tls_ca: Option<PathBuf>,

    /// What to get
    #[arg(long, value_name = "REPOSITORY/TYPE/TAG")]
    pub resource: ResourceName,

    /// Where evidence comes from: tsm (Linux's configfs), sev-guest (/dev/sev-guest), test:DEVICE or test-tdx:DEVICE, which
    /// asks whoever signs reports or quotes for guests in software, or auto: what there is of these, the port named
    /// tenure.evidence last
    #[arg(long, value_name = "SOURCE", default_value = "auto")]
    pub evidence: EvidenceFrom,

    /// Where the secret goes; - is standard output. A file is for its owner alone
    #[arg(long, value_name = "FILE|-", default_value = "-")]
    pub out: Output,
}

/// Where evidence comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EvidenceFrom {
    /// What there is.
    Auto,
    /// Linux's configfs.
    Tsm,
    /// The device of SNP guests.
    SevGuest,
    /// Whoever signs for guests in software.
    Test(Technology, PathBuf),
}

impl FromStr for EvidenceFrom {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "tsm" => Self::Tsm,
            "sev-guest" => Self::SevGuest,
            _ => {
                let of_prefix =
                    |prefix, of| text.strip_prefix(prefix).filter(|path| !path.is_empty()).map(|path| (of, path));
                let test = of_prefix("test:", Technology::Snp).or_else(|| of_prefix("test-tdx:", Technology::Tdx));
                let (of, path) = test.ok_or("it is not auto, tsm, sev-guest, test:DEVICE or test-tdx:DEVICE")?;
                Self::Test(of, path.into())
            }
        })
    }
}

impl fmt::Display for EvidenceFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Tsm => f.write_str("tsm"),
            Self::SevGuest => f.write_str("sev-guest"),
            Self::Test(Technology::Snp, path) => write!(f, "test:{}", path.display()),
            Self::Test(Technology::Tdx, path) => write!(f, "test-tdx:{}", path.display()),
        }
    }
}

impl EvidenceFrom {
    fn open(&self) -> Result<Box<dyn EvidenceSource>, RequestError> {
        self.source().map_err(|source| RequestError::Evidence { from: self.clone(), source })
    }

    fn source(&self) -> Result<Box<dyn EvidenceSource>, SourceError> {
        Ok(match self {
            Self::Auto => evidence::of_this_guest()?,
            Self::Tsm => Box::new(Tsm::open(tsm::DIRECTORY.as_ref())?),
            Self::SevGuest => Box::new(SevGuest::open()?),
            Self::Test(of, path) => Box::new(TestDevice::open(path, *of)?),
        })
    }
}

pub(super) fn request(args: &RequestArgs) -> Result<ExitCode, CliError> {
    fetch(args).map_err(|error| CliError::Request(Box::new(error)))?;
    Ok(ExitCode::Success)
}

fn fetch(args: &RequestArgs) -> Result<(), RequestError> {
    args.out.has_a_place_for_a_secret().map_err(RequestError::Out)?;
    let mut source = with_log(args.evidence.open()?);
    let over =
        |path: &Path| Ok::<_, RequestError>((path.display().to_string(), Http::new(device(path)?, OVER_A_DEVICE)));
    let (way, http) = match (&args.url, &args.channel) {
        (Some(url), _) => {
            let authority = url.authority();
            let http = Http::new(tls::connect(url, args.tls_ca.as_deref())?, &authority);
            (authority, http)
        }
        (None, Some(path)) => over(path)?,
        (None, None) => over(&port::named(port::RELYING_PARTY).ok_or(RequestError::NoWay(port::RELYING_PARTY))?)?,
    };
    let failed = |source| match source {
        ClientError::Http(_) => RequestError::Way { way: way.clone(), source },
        other => RequestError::Flow(other),
    };
    let mut session = Session::attest(http, source.as_mut()).map_err(failed)?;
    // What a test's root vouches for is nothing; who gets a secret so should see it.
    if session.tier() != "hardware" {
        eprintln!("{}: the relying party took this guest's evidence as a test's", printable(session.tier()));
    }
    let secret = session.resource(&args.resource).map_err(failed)?;
    args.out.write_secret(&secret).map_err(RequestError::Out)
}

/// Who refuses can say what is wrong if it sees what was launched; who does not see it refuses no less.
fn with_log(source: Box<dyn EvidenceSource>) -> Box<dyn EvidenceSource> {
    let Some(device) = port::named(port::LAUNCH_LOG) else { return source };
    match launch_log::read(&device) {
        Ok(log) => Box::new(Logged::new(source, log)),
        Err(error) => {
            eprintln!("{}: {error}: the relying party is not told what was launched", device.display());
            source
        }
    }
}

fn device(path: &Path) -> Result<Box<dyn Stream>, RequestError> {
    let opened = Timed::open(path);
    Ok(Box::new(opened.map_err(|source| RequestError::Channel { path: path.into(), source })?))
}

fn printable(text: &str) -> String {
    text.chars().filter(|char| char.is_ascii_graphic()).take(32).collect()
}
