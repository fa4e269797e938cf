//! Connections to a relying party: with TLS below a named authority, or plain.
//!
//! Owns URLs and what a connection is checked against. Only the authority that the user names is trusted: a guest has
//! no list of others that would be worth anything. A secret is encrypted to the guest's key either way; without TLS
//! others see which one is asked for, and a guest does not know who answers. So who names an authority and no https is
//! not connected at all.
//!
//! Errors name files by the arguments that they are given with, and say what must be in them.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    CertificateError, ClientConfig, ClientConnection, InconsistentKeys, RootCertStore, ServerConfig, StreamOwned,
};

use super::stream::{PATIENCE, Stream, Timed};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not a URL that is served.
    #[error("{0:?} is no URL like http://host:port or https://host:port")]
    Url(String),
    /// TLS without an authority.
    #[error(
        "--url {0}: https needs --tls-ca FILE: the certificate, in PEM, of the authority that vouches for the relying party"
    )]
    NoAuthority(String),
    /// An authority without TLS.
    #[error(
        "--tls-ca {} is for https, and --url {url} is not: anybody could answer there; give a URL that begins with https, or \
         no --tls-ca",
        path.display()
    )]
    NotSecure {
        /// The authority's file.
        path: PathBuf,
        /// Where to.
        url: String,
    },
    /// The network.
    #[error("{host}: {source}")]
    Network {
        /// Who was to be reached.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// TLS.
    #[error("{what}: {source}")]
    Tls {
        /// What it is about.
        what: String,
        /// Why.
        source: rustls::Error,
    },
    /// A file of certificates or a key, which cannot be read.
    #[error("{of} {}: {source}", path.display())]
    Read {
        /// What it is given as.
        of: Given,
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It has something else in it, or nothing.
    #[error("{of} {}: {what}: it must have {}, in PEM", path.display(), of.must_have())]
    Contents {
        /// What it is given as.
        of: Given,
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// Certificate and key of different pairs.
    #[error("{} {} is not the key of the first certificate in {} {}", Given::Key, key.display(), Given::Chain, chain.display())]
    Pair {
        /// The key's file.
        key: PathBuf,
        /// The certificate's.
        chain: PathBuf,
    },
}

/// As what a file is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// A service's certificates.
    Chain,
    /// A service's key.
    Key,
    /// Whom a guest trusts.
    Authority,
}

impl Given {
    const fn must_have(self) -> &'static str {
        match self {
            Self::Chain => "the service's certificate, and then those between it and its authority",
            Self::Key => "the private key of the service's certificate, without a password",
            Self::Authority => "the authority's certificate",
        }
    }

    const fn item(self) -> &'static str {
        match self {
            Self::Chain | Self::Authority => "certificate",
            Self::Key => "private key",
        }
    }

    fn wrong(self, path: &Path, error: pem::Error) -> ConnectError {
        let path = path.to_owned();
        let what = match error {
            pem::Error::Io(source) => return ConnectError::Read { of: self, path, source },
            pem::Error::NoItemsFound => self.none(),
            other => other.to_string(),
        };
        ConnectError::Contents { of: self, path, what }
    }

    fn none(self) -> String {
        format!("there is no {} in it", self.item())
    }
}

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Chain => "--tls-cert",
            Self::Key => "--tls-key",
            Self::Authority => "--tls-ca",
        })
    }
}

/// Where a relying party is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url {
    scheme: Scheme,
    host: String,
    port: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
}

impl std::str::FromStr for Url {
    type Err = ConnectError;

    fn from_str(text: &str) -> Result<Self, ConnectError> {
        let wrong = || ConnectError::Url(text.into());
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let (scheme, usual) = match scheme {
            "http" => (Scheme::Http, 80),
            "https" => (Scheme::Https, 443),
            _ => return Err(wrong()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, port.parse().map_err(|_| wrong())?),
            _ => (authority, usual),
        };
        let host = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-.:".contains(&byte);
        if host.is_empty() || !host.bytes().all(is_host) {
            return Err(wrong());
        }
        Ok(Self { scheme, host: host.into(), port })
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            Scheme::Http => "http",
            Scheme::Https => "https",
        };
        write!(f, "{scheme}://{}", self.authority())
    }
}

impl Url {
    /// Host and port, as requests name them.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// A connection with TLS, which says in words why nobody is believed at its other end.
struct Secure(StreamOwned<ClientConnection, Timed<TcpStream>>);

impl Read for Secure {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        self.0.read(to).map_err(in_words)
    }
}

impl Write for Secure {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        self.0.write(from).map_err(in_words)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(in_words)
    }
}

impl Stream for Secure {
    // Below TLS: a record that never ends is read within one read of ours.
    fn ask_within(&mut self, limit: Duration) {
        self.0.sock.ask_within(limit);
    }
}

/// What is wrong with a server's certificate, and what would be right.
fn in_words(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(invalid)) = inner else { return error };
    let words = match invalid {
        CertificateError::UnknownIssuer => {
            "no authority in --tls-ca vouches for the server's certificate, or the server does not send the certificates between"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for another name than the host in --url (subjectAltName)"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate, or its authority's, has expired, or this guest's clock is wrong"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate, or its authority's, does not hold yet, or this guest's clock is wrong"
        }
        // The verifier's own error, which has no other name here.
        CertificateError::Other(other) if other.to_string() == "CaUsedAsEndEntity" => {
            "the server's certificate is itself an authority's (CA:TRUE), and those vouch for others only: the server needs one \
             of its own (CA:FALSE), signed by the authority in --tls-ca"
        }
        _ => return error,
    };
    io::Error::new(error.kind(), words)
}

/// Connects, and with https makes sure of who is there.
pub fn connect(url: &Url, authority: Option<&Path>) -> Result<Box<dyn Stream>, ConnectError> {
    let config = match (url.scheme, authority) {
        (Scheme::Http, None) => None,
        (Scheme::Http, Some(path)) => return Err(ConnectError::NotSecure { path: path.into(), url: url.to_string() }),
        (Scheme::Https, None) => return Err(ConnectError::NoAuthority(url.to_string())),
        (Scheme::Https, Some(path)) => Some(client_config(path)?),
    };
    let failed = |source| ConnectError::Network { host: url.authority(), source };
    let stream = reach(&url.host, url.port, PATIENCE).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let stream = Timed::new(stream).map_err(failed)?;
    let Some(config) = config else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(url.host.clone()).map_err(|_| ConnectError::Url(url.to_string()))?;
    let tls = |source| ConnectError::Tls { what: url.to_string(), source };
    let connection = ClientConnection::new(Arc::new(config), name).map_err(tls)?;
    Ok(Box::new(Secure(StreamOwned::new(connection, stream))))
}

/// The first of its addresses that answers in time. How long the search for them takes is for the system's settings to say.
fn reach(host: &str, port: u16, limit: Duration) -> io::Result<TcpStream> {
    let addresses: Vec<_> = (host, port).to_socket_addrs()?.collect();
    let began = Instant::now();
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for (address, others) in addresses.iter().zip((0..addresses.len()).rev()) {
        // One that is silent must leave some of the time to those after it.
        let left = limit.saturating_sub(began.elapsed()) / u32::try_from(others + 1).unwrap_or(u32::MAX);
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn client_config(path: &Path) -> Result<ClientConfig, ConnectError> {
    let mut roots = RootCertStore::empty();
    let of = Given::Authority;
    let wrong = |error: rustls::Error| ConnectError::Contents { of, path: path.into(), what: error.to_string() };
    for certificate in certificates(path, of)? {
        roots.add(certificate).map_err(wrong)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(wrong)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// What a service shows: its chain and its key, in PEM.
pub fn server_config(chain: &Path, key: &Path) -> Result<Arc<ServerConfig>, ConnectError> {
    let certificates = certificates(chain, Given::Chain)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| Given::Key.wrong(key, error))?;
    let wrong = |error: rustls::Error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            ConnectError::Pair { key: key.into(), chain: chain.into() }
        }
        error @ rustls::Error::InvalidCertificate(_) => {
            ConnectError::Contents { of: Given::Chain, path: chain.into(), what: error.to_string() }
        }
        other => ConnectError::Contents { of: Given::Key, path: key.into(), what: other.to_string() },
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(wrong)?;
    Ok(Arc::new(builder.with_no_client_auth().with_single_cert(certificates, secret).map_err(wrong)?))
}

/// At least one.
fn certificates(path: &Path, of: Given) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let all = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let all = all.map_err(|error| of.wrong(path, error))?;
    if all.is_empty() {
        return Err(ConnectError::Contents { of, path: path.into(), what: of.none() });
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
    use std::net::{SocketAddr, TcpListener};

    #[test]
    fn urls_that_are_served() {
        for (text, authority) in [
            ("http://127.0.0.1:8080", "127.0.0.1:8080"),
            ("https://kbs.example/", "kbs.example:443"),
            ("http://[::1]:9", "[::1]:9"),
            ("http://[::1]", "[::1]:80"),
        ] {
            let url: Url = text.parse().unwrap();
            assert_eq!(url.authority(), authority);
            assert_eq!(url.to_string().parse::<Url>().unwrap(), url);
        }
        for text in [
            "",
            "kbs",
            "ftp://x",
            "http://",
            "http://a/b",
            "http://u@h",
            "http://h:x",
            "http://h\r\n",
            "http://h:70000",
        ] {
            assert!(text.parse::<Url>().is_err(), "{text:?}");
        }
        assert!(matches!(connect(&"https://x".parse().unwrap(), None), Err(ConnectError::NoAuthority(_))));
        let plain = connect(&"http://x".parse().unwrap(), Some("ca.pem".as_ref()));
        assert!(matches!(plain, Err(ConnectError::NotSecure { .. })));
    }

    /// no-silent-trust: who never answers is not waited for.
    #[test]
    fn no_silent_trust_nobody_is_waited_for_long() {
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&listener, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        // Whoever comes after the first has to wait until that one is accepted, which it never is.
        listen(&listener, 0).unwrap();
        let port = TcpListener::from(listener.try_clone().unwrap()).local_addr().unwrap().port();
        let (began, short) = (Instant::now(), Duration::from_millis(300));
        let found: Vec<_> = (0..4).map(|_| reach("127.0.0.1", port, short)).collect();
        assert!(began.elapsed() < 20 * short, "{:?}", began.elapsed());
        let is_late = |it: &io::Result<_>| matches!(it, Err(error) if error.kind() == io::ErrorKind::TimedOut);
        assert!(found.iter().any(is_late), "{found:?}");
    }
}
