//! The guest's side: evidence for a challenge, and the secret that it opens.
//!
//! Owns the flow over any stream of bytes, be it a connection or a character device, without an asynchronous runtime:
//! guests are small. The key is made for one session and never leaves it. What HTTP is needed is [`http`]'s, where
//! evidence comes from [`evidence`]'s, TLS [`tls`]'s, ways to the host [`port`]'s, what is said over them [`frame`]'s, how
//! long any of it is waited for [`stream`]'s.
//!
//! Specification: the KBS attestation protocol of confidential-containers/trustee, version 0.4.0.

pub mod evidence;
pub mod frame;
pub mod http;
pub mod port;
pub mod stream;
pub mod tls;

use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use crate::protocol::binding::{self, BindingError};
use crate::protocol::jwe::{GuestSecret, Jwe, JweError};
use crate::protocol::resource::ResourceName;
use crate::protocol::{self, Attestation, Challenge, CompositeEvidence, ErrorInformation, Request, RuntimeData, Token};
use evidence::{EvidenceSource, SourceError};
use http::{Http, HttpError, Reply};
use stream::Stream;

/// Why a guest gets nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The connection.
    #[error("the relying party cannot be asked: {0}")]
    Http(#[from] HttpError),
    /// It said no.
    #[error("the relying party refuses ({status}, {kind}): {detail}")]
    Refused {
        /// HTTP's status.
        status: u16,
        /// Its name for it.
        kind: String,
        /// Its words.
        detail: String,
    },
    /// It could not answer, whatever was asked.
    #[error("the relying party failed ({status}, {kind}): {detail}")]
    Failed {
        /// HTTP's status.
        status: u16,
        /// Its name for it.
        kind: String,
        /// Its words.
        detail: String,
    },
    /// It says something else than the protocol has.
    #[error("the relying party's answer to {path} is not of the protocol: {what}")]
    Answer {
        /// To what.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// No evidence.
    #[error(transparent)]
    Evidence(#[from] SourceError),
    /// Nothing to bind it to.
    #[error(transparent)]
    Binding(#[from] BindingError),
    /// The answer is not for this guest.
    #[error(transparent)]
    Jwe(#[from] JweError),
}

/// A guest that was found good.
#[derive(Debug)]
pub struct Session<S> {
    http: Http<S>,
    cookie: String,
    secret: GuestSecret,
    token: String,
    tier: String,
}

impl<S: Stream> Session<S> {
    /// Shows this evidence to the relying party at the other end.
    pub fn attest(mut http: Http<S>, source: &mut dyn EvidenceSource) -> Result<Self, ClientError> {
        let tee = source.tee();
        let request = Request { version: protocol::VERSION.into(), tee, extra_params: binding::request_params() };
        let (challenge, reply): (Challenge, _) = say(&mut http, protocol::AUTH, None, &request)?;
        let cookie = reply.cookie(protocol::COOKIE).ok_or_else(|| wrong(protocol::AUTH, "it sets no cookie"))?;

        let secret = GuestSecret::new()?;
        let runtime_data = RuntimeData { nonce: challenge.nonce, tee_pubkey: secret.public() };
        let algorithm = binding::selected(&challenge.extra_params)?;
        let data = binding::report_data(algorithm, &runtime_data.nonce, &runtime_data.tee_pubkey, "")?;
        let evidence = source.evidence(&data)?;
        let tee_evidence =
            CompositeEvidence { primary_evidence: evidence.to_json(), additional_evidence: String::new() };
        let attestation = Attestation { init_data: None, runtime_data, tee_evidence };
        let (Token { token }, reply) = say(&mut http, protocol::ATTEST, Some(&cookie), &attestation)?;
        let tier = reply.header(protocol::TIER_HEADER).unwrap_or("not said").to_owned();
        Ok(Self { http, cookie, secret, token, tier })
    }

    /// What the relying party says of this guest, for others.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// What vouches for it, in the relying party's word.
    pub fn tier(&self) -> &str {
        &self.tier
    }

    /// A secret, decrypted.
    pub fn resource(&mut self, name: &ResourceName) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        let path = format!("{}{name}", protocol::RESOURCE);
        let cookie = format!("{}={}", protocol::COOKIE, self.cookie);
        let reply = self.http.request("GET", &path, &[("Cookie", &cookie)], None)?;
        let jwe: Jwe = read(&path, &reply)?;
        Ok(self.secret.open(&jwe)?)
    }
}

fn say<S: Stream, T: DeserializeOwned>(
    http: &mut Http<S>,
    path: &str,
    cookie: Option<&str>,
    what: &impl Serialize,
) -> Result<(T, Reply), ClientError> {
    let body = serde_json::to_vec(what).map_err(|error| wrong(path, &error.to_string()))?;
    let cookie = cookie.map(|value| format!("{}={value}", protocol::COOKIE));
    let headers: Vec<_> = cookie.iter().map(|value| ("Cookie", value.as_str())).collect();
    let reply = http.request("POST", path, &headers, Some(&body))?;
    Ok((read(path, &reply)?, reply))
}

fn read<T: DeserializeOwned>(path: &str, reply: &Reply) -> Result<T, ClientError> {
    let status = reply.status;
    if status == 200 {
        return serde_json::from_slice(&reply.body).map_err(|error| wrong(path, &error.to_string()));
    }
    let said = serde_json::from_slice::<ErrorInformation>(&reply.body);
    let (kind, detail) =
        said.map_or_else(|_| ("unnamed".into(), "it does not say why".into()), |it| (it.error_type, it.detail));
    let (kind, detail) = (printable(&kind), printable(&detail));
    Err(match status {
        400..500 => ClientError::Refused { status, kind, detail },
        500..600 => ClientError::Failed { status, kind, detail },
        _ => wrong(path, &format!("its status is {status}")),
    })
}

/// What others say never reaches a terminal as commands to it.
fn printable(text: &str) -> String {
    text.chars().take(2000).map(|char| if char.is_control() { char::REPLACEMENT_CHARACTER } else { char }).collect()
}

fn wrong(path: &str, what: &str) -> ClientError {
    ClientError::Answer { path: path.into(), what: what.into() }
}
