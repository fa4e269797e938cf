//! Where somebody listens whom a guest is connected to: a setting that names a port of a host, or a socket's path.

use super::values::ValueError;
use serde::Deserialize;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Longest path of a Unix socket: `sockaddr_un` has 108 bytes, one of them for the end (unix(7)).
const UNIX_PATH_MAX: usize = 107;

/// An address in the form `HOST:PORT` or `unix:PATH`. Whether there is such a host is not known yet.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Address {
    /// A port, by TCP.
    Tcp {
        /// A name or a number; one of IPv6 without its brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Unix(PathBuf),
}

impl TryFrom<String> for Address {
    type Error = ValueError;

    fn try_from(text: String) -> Result<Self, ValueError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let fits = !path.is_empty() && path.len() <= UNIX_PATH_MAX && !path.contains('\0');
            return if fits { Ok(Self::Unix(path.into())) } else { Err(ValueError::Address(text)) };
        }
        let parsed = text.rsplit_once(':').and_then(|(host, port)| {
            // A number of IPv6 has colons of its own.
            let (host, bracketed) = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
                Some(host) if host.contains(':') => (host, true),
                Some(_) => return None,
                None => (host, false),
            };
            let is_host = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c) || bracketed && ":%".contains(c);
            let digits = !port.is_empty() && port.chars().all(|c| c.is_ascii_digit());
            let port = port.parse().ok().filter(|port| *port != 0 && digits)?;
            (!host.is_empty() && host.chars().all(is_host)).then(|| Self::Tcp { host: host.to_owned(), port })
        });
        parsed.ok_or(ValueError::Address(text))
    }
}

impl FromStr for Address {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        text.to_owned().try_into()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn addresses_in_every_form() {
        let tcp = |host: &str, port| Ok(Address::Tcp { host: host.to_owned(), port });
        assert_eq!("127.0.0.1:8080".parse(), tcp("127.0.0.1", 8080));
        assert_eq!("[::1]:1".parse(), tcp("::1", 1));
        assert_eq!("rp-1.example.org:65535".parse(), tcp("rp-1.example.org", 65535));
        assert_eq!("unix:/run/rp".parse(), Ok(Address::Unix("/run/rp".into())));
    }

    #[test]
    fn no_silent_trust_addresses_name_their_value() {
        let long = format!("unix:{}", "x".repeat(UNIX_PATH_MAX + 1));
        let bad = [
            "",
            ":",
            "host",
            "host:",
            ":80",
            "host:0",
            "host:65536",
            "host:+80",
            "host:80 ",
            "a b:80",
            "::1:80",
            "[]:80",
            "[::1]",
            "http://host:80",
            "user@host:80",
            "host:80/path",
            "unix:",
            "unix:a\0b",
            &long,
        ];
        for text in bad {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert_eq!(error, format!("address `{text}` is neither HOST:PORT nor unix:PATH"));
        }
    }

    proptest! {
        /// no-silent-trust: whatever is typed is an address or an error, and an address is read as it is printed.
        #[test]
        fn any_text_is_an_address_or_an_error(text in "(unix:)?[\\[\\]a-z0-9.:%-]{0,12}(:[0-9]{1,5})?") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
            }
        }
    }
}
