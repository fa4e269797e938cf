//! From a request to what is asked, and from what comes of it to an answer.
//!
//! Owns paths, methods, cookies, bodies and their limits. What is granted is decided in [`super::flow`].

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CACHE_CONTROL, CONTENT_TYPE, COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use hyper::{Method, Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::error::Refusal;
use super::flow::{Credentials, Service};
use super::metrics::Gauges;
use crate::protocol;
use crate::store::mark;

/// More than any guest says of itself at first.
const AUTH_MOST: usize = 16 << 10;
/// More than any cookie of ours.
const COOKIE_MOST: usize = 128;

type Answer = Response<Full<Bytes>>;

/// Answers one request, whatever it is.
pub(super) async fn answer(service: &Arc<Service>, peer: IpAddr, request: Request<Incoming>) -> Answer {
    let started = Instant::now();
    let path = name(request.uri().path());
    let session = session(request.headers());
    let answer = if service.peers.ask(peer, &service.config.limits, started) {
        respond(service, (path, peer), request).await
    } else {
        service.metrics.throttled.fetch_add(1, Ordering::Relaxed);
        Err(Refusal::Rate)
    };
    let mut response = match answer {
        Ok(response) => response,
        Err(refusal) => {
            tracing::info!(%peer, session, path, status = refusal.status().as_u16(), %refusal, "refused");
            refusal.response()
        }
    };
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    service.metrics.request(path, response.status().as_u16());
    tracing::debug!(%peer, path, status = response.status().as_u16(), time = ?started.elapsed(), "answered");
    response
}

fn name(path: &str) -> &'static str {
    match path {
        protocol::AUTH => "auth",
        protocol::ATTEST => "attest",
        "/healthz" => "healthz",
        "/metrics" => "metrics",
        _ if path.starts_with(protocol::RESOURCE) => "resource",
        _ => "other",
    }
}

async fn respond(
    service: &Arc<Service>,
    (path, peer): (&str, IpAddr),
    request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    match (path, request.method()) {
        ("auth", &Method::POST) => {
            let said = message(service, request.into_body(), AUTH_MOST).await?;
            let (challenge, cookie) = service.auth(said, peer).await?;
            with_cookie(json(&challenge)?, &cookie)
        }
        ("attest", &Method::POST) => {
            let (head, body) = request.into_parts();
            // Nobody without a session has anything kept for him.
            let cookie = match cookie(&head.headers).ok_or(Refusal::Cookie).and_then(|it| service.awaits(it)) {
                Ok(cookie) => cookie,
                Err(refusal) => return Err(discard(service, body).await.err().unwrap_or(refusal)),
            };
            let said = message(service, body, usize::MAX).await?;
            let (token, tier) = service.attest(&cookie, said, peer).await?;
            with_cookie(with_tier(json(&protocol::Token { token })?, tier), &cookie)
        }
        ("resource", &Method::GET) => {
            let name = request.uri().path().strip_prefix(protocol::RESOURCE).unwrap_or_default();
            // What is no name is nowhere.
            let name = name.parse().map_err(|_| Refusal::Path)?;
            let credentials = credentials(request.headers())?;
            let (secret, tier) = service.resource(name, credentials, peer).await?;
            Ok(with_tier(json(&secret)?, tier))
        }
        ("healthz", &Method::GET) => service.check().await.map(|()| text("ok\n".into())),
        ("metrics", &Method::GET) => {
            let gauges = Gauges { sessions: service.store.live(), connections: service.peers.connections() };
            Ok(text(service.metrics.text(gauges)))
        }
        ("other", _) => Err(Refusal::Path),
        _ => Err(Refusal::Method),
    }
}

/// A body of JSON, if it is not larger than this and the limit, and arrives in time.
async fn message<T: DeserializeOwned>(service: &Service, body: Incoming, most: usize) -> Result<T, Refusal> {
    let limits = &service.config.limits;
    let most = most.min(limits.body_bytes);
    if body.size_hint().lower() > most as u64 {
        return Err(Refusal::Size(most));
    }
    let collected = timeout(limits.body_time, Limited::new(body, most).collect()).await.map_err(|_| Refusal::Body)?;
    let bytes = collected
        .map_err(|error| if error.is::<LengthLimitError>() { Refusal::Size(most) } else { Refusal::Body })?
        .to_bytes();
    serde_json::from_slice(&bytes).map_err(Refusal::Message)
}

/// Lets a body pass, as long as one may be: who sends it gets to the answer.
async fn discard(service: &Service, body: Incoming) -> Result<(), Refusal> {
    let limits = &service.config.limits;
    let mut body = Limited::new(body, limits.body_bytes);
    let all = async { while let Some(Ok(_)) = body.frame().await {} };
    timeout(limits.body_time, all).await.map_err(|_| Refusal::Body)
}

/// A token counts before a cookie: who sends one means it.
fn credentials(headers: &HeaderMap) -> Result<Credentials, Refusal> {
    if let Some(value) = headers.get(AUTHORIZATION) {
        let value = value.to_str().map_err(|_| Refusal::Credentials)?;
        let (scheme, token) = value.split_once(' ').ok_or(Refusal::Credentials)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Refusal::Credentials);
        }
        return Ok(Credentials::Token(token.trim().to_owned()));
    }
    cookie(headers).map(Credentials::Cookie).ok_or(Refusal::Credentials)
}

/// What the log calls the session that a request is of. With a token it counts as of none.
fn session(headers: &HeaderMap) -> Option<String> {
    if headers.contains_key(AUTHORIZATION) { None } else { mark(&cookie(headers)?) }
}

/// Which session this is of.
fn cookie(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(name, _)| *name == protocol::COOKIE)?;
    (!value.is_empty() && value.len() <= COOKIE_MOST).then(|| value.to_owned())
}

fn json(what: &impl Serialize) -> Result<Answer, Refusal> {
    let mut answer = text(serde_json::to_string(what).map_err(Refusal::internal)?);
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(answer)
}

fn text(text: String) -> Answer {
    let mut answer = Response::new(Full::new(text.into()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

fn with_cookie(mut answer: Answer, cookie: &str) -> Result<Answer, Refusal> {
    let value = format!("{}={cookie}; Path=/kbs; HttpOnly; SameSite=Strict", protocol::COOKIE);
    let value = HeaderValue::from_str(&value).map_err(Refusal::internal)?;
    answer.headers_mut().insert(SET_COOKIE, value);
    Ok(answer)
}

/// no-silent-trust: every answer that rests on evidence says what vouches for that.
fn with_tier(mut answer: Answer, tier: attest::snp::Tier) -> Answer {
    let value = match tier {
        attest::snp::Tier::Hardware => "hardware",
        attest::snp::Tier::SoftwareTest => "software-test",
    };
    answer.headers_mut().insert(protocol::TIER_HEADER, HeaderValue::from_static(value));
    answer
}
