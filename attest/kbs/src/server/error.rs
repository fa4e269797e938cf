//! What is answered when nothing is granted.
//!
//! Owns status, kind and words of every refusal. The words name what is wrong with a request; they repeat nothing of it
//! that could be secret.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};

use crate::appraiser::Refused;
use crate::protocol::ErrorInformation;
use crate::protocol::binding::BindingError;
use crate::protocol::evidence::EvidenceError;
use crate::protocol::key::KeyError;
use crate::protocol::resource::ResourceName;
use crate::resources::ResourcesError;
use crate::store::SessionError;
use crate::token::ClaimsError;

/// Kinds are names below this.
const KINDS: &str = "urn:tenure:kbs:";

/// Why nothing is granted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("there is nothing at this path")]
    Path,
    #[error("this path does not know this method")]
    Method,
    #[error("the body has more than {0} bytes")]
    Size(usize),
    #[error("the body did not arrive in time, or broke off")]
    Body,
    /// Without what it says: that is nobody's business but its sender's.
    #[error("the body is not the message that belongs here, from line {}, column {} on", .0.line(), .0.column())]
    Message(serde_json::Error),
    #[error("too many requests from this address")]
    Rate,
    #[error("protocol version {0:?} is not spoken here, only 0.4.x")]
    Version(String),
    #[error("{0} is not judged here")]
    Tee(crate::protocol::Tee),
    #[error("there is no {} cookie", crate::protocol::COOKIE)]
    Cookie,
    #[error("there is neither a session cookie nor a token")]
    Credentials,
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Binding(#[from] BindingError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    #[error("{}the evidence is {verdict}: {}", label(.refused), .refused.failed.join(", "))]
    Appraisal { verdict: &'static str, refused: Refused },
    #[error(transparent)]
    Token(#[from] ClaimsError),
    #[error("this token does not open resource {0}")]
    Forbidden(ResourceName),
    #[error(transparent)]
    Resource(#[from] ResourcesError),
    #[error("an answer cannot be made")]
    Internal,
}

fn label(refused: &Refused) -> String {
    refused.label.map(|label| format!("({label}) ")).unwrap_or_default()
}

impl Refusal {
    /// What is wrong inside of the service is said in its log.
    pub(super) fn internal(error: impl std::fmt::Display) -> Self {
        tracing::error!(%error, "an answer cannot be made");
        Self::Internal
    }

    pub(super) const fn status(&self) -> StatusCode {
        match self {
            Self::Path | Self::Resource(ResourcesError::NotFound(_)) => StatusCode::NOT_FOUND,
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            Self::Size(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body => StatusCode::REQUEST_TIMEOUT,
            Self::Message(_) => StatusCode::BAD_REQUEST,
            Self::Rate | Self::Session(SessionError::Share { .. }) => StatusCode::TOO_MANY_REQUESTS,
            Self::Session(SessionError::Full { .. } | SessionError::Storage) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Forbidden(_) => StatusCode::FORBIDDEN,
            Self::Resource(_) | Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Version(_)
            | Self::Tee(_)
            | Self::Cookie
            | Self::Credentials
            | Self::Session(_)
            | Self::Binding(_)
            | Self::Key(_)
            | Self::Evidence(_)
            | Self::Appraisal { .. }
            | Self::Token(_) => StatusCode::UNAUTHORIZED,
        }
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Method => "method",
            Self::Size(_) => "size",
            Self::Body => "body",
            Self::Message(_) => "message",
            Self::Rate => "rate",
            Self::Version(_) => "version",
            Self::Tee(_) => "tee",
            Self::Cookie | Self::Credentials => "credentials",
            Self::Session(_) => "session",
            Self::Binding(_) => "binding",
            Self::Key(_) => "key",
            Self::Evidence(_) => "evidence",
            Self::Appraisal { .. } => "appraisal",
            Self::Token(_) => "token",
            Self::Forbidden(_) => "forbidden",
            Self::Resource(_) => "resource",
            Self::Internal => "internal",
        }
    }

    /// What whoever asked is told.
    pub(super) fn response(&self) -> Response<Full<Bytes>> {
        // What a resource's file is like is nobody's business outside.
        let detail = match self {
            Self::Resource(error @ ResourcesError::NotFound(_)) => error.to_string(),
            Self::Resource(_) => Self::Internal.to_string(),
            other => other.to_string(),
        };
        let information = ErrorInformation { error_type: format!("{KINDS}{}", self.kind()), detail };
        let body = serde_json::to_vec(&information).unwrap_or_default();
        let mut response = Response::new(Full::new(body.into()));
        *response.status_mut() = self.status();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}
