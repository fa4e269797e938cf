//! Challenge, evidence, token, secret: who gets what.
//!
//! Owns the order of things. A challenge is taken, on disk, before its evidence is looked at. What evidence must have
//! in it is computed here from what was asked and from the guest's key. A secret is read and encrypted only after the
//! service has read back a token that it signed, and to the key that this token has in it.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Instant, UNIX_EPOCH};

use attest::UnixTime;
use attest::snp::Tier;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use super::Parts;
use super::config::Config;
use super::error::Refusal;
use super::metrics::Metrics;
use super::peers::{Peers, counted};
use crate::appraiser::{Appraiser, Verdict};
use crate::protocol::answer::{Answer, Runtime};
use crate::protocol::evidence::{Evidence, no_additional};
use crate::protocol::jwe::{self, Jwe};
use crate::protocol::key::GuestKey;
use crate::protocol::resource::ResourceName;
use crate::protocol::{Challenge, Request, binding, is_spoken, nonce};
use crate::resources::Resources;
use crate::store::{Asked, Store, mark, new_cookie};
use crate::token::Tokens;

/// Verifications at once.
const AT_ONCE: usize = 2;

/// All that answers need.
pub(super) struct Service {
    pub(super) config: Config,
    pub(super) store: Store,
    pub(super) metrics: Metrics,
    pub(super) peers: Peers,
    tokens: Tokens,
    resources: Resources,
    appraiser: Box<dyn Appraiser>,
    verifying: Arc<Semaphore>,
}

/// What somebody shows who wants a secret.
pub(super) enum Credentials {
    Cookie(String),
    Token(String),
}

impl Service {
    pub(super) fn new(config: Config, Parts { appraiser, store, tokens, resources, .. }: Parts) -> Self {
        Self {
            config,
            store,
            tokens,
            resources,
            appraiser,
            metrics: Metrics::default(),
            peers: Peers::default(),
            verifying: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// A challenge, and the cookie of its session.
    pub(super) async fn auth(&self, request: Request, peer: IpAddr) -> Result<(Challenge, String), Refusal> {
        if !is_spoken(&request.version) {
            return Err(Refusal::Version(request.version.chars().take(16).collect()));
        }
        if !self.appraiser.judges(request.tee) {
            return Err(Refusal::Tee(request.tee));
        }
        let algorithm = binding::select(&request.extra_params)?;
        let nonce = nonce().map_err(Refusal::internal)?;
        let cookie = new_cookie().map_err(Refusal::internal)?;
        let now = moment()?;
        let expires = UnixTime::from_secs(now.as_secs().saturating_add(self.config.challenge.as_secs()));
        let asked = Asked { nonce: nonce.clone(), tee: request.tee, algorithm };
        self.store.begin(&cookie, (asked, counted(peer)), expires, now).await?;
        Ok((Challenge { nonce, extra_params: binding::challenge_params(algorithm) }, cookie))
    }

    /// Whether anybody could get anything at this moment.
    pub(super) async fn check(&self) -> Result<(), Refusal> {
        Ok(self.store.check(moment()?).await?)
    }

    /// The cookie of a session that waits for evidence.
    pub(super) fn awaits(&self, cookie: String) -> Result<String, Refusal> {
        self.store.awaits(&cookie, moment()?)?;
        Ok(cookie)
    }

    /// A token, if the evidence is good, and what vouches for it.
    pub(super) async fn attest(
        self: &Arc<Self>,
        cookie: &str,
        said: Answer,
        peer: IpAddr,
    ) -> Result<(String, Tier), Refusal> {
        let Answer { runtime_data: Runtime { nonce, tee_pubkey }, tee_evidence } = said;
        // What is wrong with the message itself costs nobody a challenge.
        GuestKey::try_from(&tee_pubkey)?;
        no_additional(&tee_evidence.additional_evidence)?;
        let now = moment()?;
        let asked = self.store.take(cookie, &nonce, now).await?;
        let data = binding::report_data(asked.algorithm, &asked.nonce, &tee_pubkey, &tee_evidence.additional_evidence)?;
        let permit = self.verifying.clone().acquire_owned().await.map_err(Refusal::internal)?;
        let (service, session) = (self.clone(), mark(cookie));
        let judged = spawn_blocking(move || -> Result<_, Refusal> {
            // Who goes away does not end this, so it keeps its place.
            let _permit = permit;
            let started = Instant::now();
            let evidence = Evidence::parse(asked.tee, tee_evidence.primary_evidence.get())?;
            let verdict = service.appraiser.appraise(&evidence, &data, now);
            service.metrics.verdict(word(&verdict));
            let (verdict_said, time) = (word(&verdict), started.elapsed());
            tracing::info!(%peer, session, verdict = verdict_said, ?time, "evidence was judged");
            let granted = verdict.granted();
            let granted = granted.map_err(|(verdict, it)| Refusal::Appraisal { verdict, refused: it.in_short() })?;
            let tier = granted.0;
            let policy = service.appraiser.policy_id();
            let (token, expires) = service.tokens.issue(&tee_pubkey, &asked.nonce, granted, policy, now)?;
            Ok((token, tier, expires))
        });
        let (token, tier, expires) = judged.await.map_err(Refusal::internal)??;
        self.store.attested(cookie, &token, expires, now).await?;
        Ok((token, tier))
    }

    /// A secret, encrypted to the key of a guest that was found good.
    pub(super) async fn resource(
        self: &Arc<Self>,
        name: ResourceName,
        credentials: Credentials,
        peer: IpAddr,
    ) -> Result<(Jwe, Tier), Refusal> {
        let service = self.clone();
        let released = spawn_blocking(move || {
            let now = moment()?;
            // Who shows a token may have it from another flow.
            let (token, session) = match credentials {
                Credentials::Cookie(cookie) => (service.store.token(&cookie, now)?, mark(&cookie)),
                Credentials::Token(token) => (token, None),
            };
            let claims = service.tokens.read(&token, service.appraiser.policy_id(), now)?;
            if !claims.release.allows(&name) {
                return Err(Refusal::Forbidden(name));
            }
            let key = GuestKey::try_from(&claims.tee_pubkey)?;
            let secret = service.resources.read(&name)?;
            let sealed = jwe::seal(&key, &secret).map_err(Refusal::internal)?;
            tracing::info!(%peer, session, resource = %name, tier = %claims.tier, "a resource was released");
            Ok((sealed, claims.tier))
        });
        released.await.map_err(Refusal::internal)?
    }
}

const fn word(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Affirmed(_) => "affirmed",
        Verdict::TestPassed(_) => "test-passed",
        Verdict::NotMet(_) => "not-met",
        Verdict::Rejected(_) => "rejected",
    }
}

fn moment() -> Result<UnixTime, Refusal> {
    let since = UNIX_EPOCH.elapsed().map_err(Refusal::internal)?;
    Ok(UnixTime::from_secs(since.as_secs()))
}
