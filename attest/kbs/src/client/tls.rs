//! Connections to a relying party: with TLS below a named authority, or plain.
//!
//! Owns URLs and what a connection is checked against. Only the authority that the user names is trusted: a guest has
//! no list of others that would be worth anything. A secret is encrypted to the guest's key either way; without TLS
//! others see which one is asked for, and a guest does not know who answers.

use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, StreamOwned};

use super::stream::{PATIENCE, Stream, Timed};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Not a URL that is served.
    #[error("{0:?} is no URL like http://host:port or https://host:port")]
    Url(String),
    /// TLS without an authority.
    #[error("{0}: https needs the certificate of an authority that is trusted with it")]
    NoAuthority(String),
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
    /// A file of certificates or a key.
    #[error("{path}: {source}")]
    Pem {
        /// Which.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
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

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

impl Stream for StreamOwned<ClientConnection, Timed<TcpStream>> {
    // Below TLS: a record that never ends is read within one read of ours.
    fn ask_within(&mut self, limit: Duration) {
        self.sock.ask_within(limit);
    }
}

/// Connects, and with https makes sure of who is there.
pub fn connect(url: &Url, authority: Option<&Path>) -> Result<Box<dyn Stream>, ConnectError> {
    let config = match (url.scheme, authority) {
        (Scheme::Http, _) => None,
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
    Ok(Box::new(StreamOwned::new(connection, stream)))
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
    let wrong = |source| ConnectError::Tls { what: path.display().to_string(), source };
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(wrong)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(wrong)?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// What a service shows: its chain and its key, in PEM.
pub fn server_config(chain: &Path, key: &Path) -> Result<Arc<ServerConfig>, ConnectError> {
    let certificates = certificates(chain)?;
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|source| ConnectError::Pem { path: key.into(), source })?;
    let wrong = |source| ConnectError::Tls { what: chain.display().to_string(), source };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(wrong)?;
    Ok(Arc::new(builder.with_no_client_auth().with_single_cert(certificates, secret).map_err(wrong)?))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let wrong = |source| ConnectError::Pem { path: path.into(), source };
    CertificateDer::pem_file_iter(path).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)
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
