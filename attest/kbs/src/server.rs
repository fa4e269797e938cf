//! The relying party as a service over HTTP.
//!
//! Owns listening, limits of time and size ([`config`]), and answering (`flow` through `routes`). What is counted
//! is [`metrics`]', how often a peer may ask `peers`'. Logs say who asked for what and what came of it, and which lines are
//! of one session: no cookie, nonce, token, key or secret.
//!
//! Specifications: the KBS attestation protocol of confidential-containers/trustee; RFC 9110 and 9112 (hyper).

pub mod config;
mod error;
mod flow;
pub mod metrics;
mod peers;
mod routes;

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use config::Config;
use flow::Service;

use crate::appraiser::Appraiser;
use crate::resources::Resources;
use crate::store::Store;
use crate::token::Tokens;

const WORKERS: usize = 2;
/// Threads that verify, encrypt and read files.
const BLOCKING: usize = 4;
const HEADERS: usize = 64;

/// What a service is made of.
pub struct Parts {
    /// Judges evidence.
    pub appraiser: Box<dyn Appraiser>,
    /// Knows sessions.
    pub store: Store,
    /// Signs tokens.
    pub tokens: Tokens,
    /// Has what is released.
    pub resources: Resources,
    /// With which certificate, unless it is to be without TLS.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").finish_non_exhaustive()
    }
}

/// A service that listens.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    service: Arc<Service>,
    stop: (watch::Sender<Stopping>, watch::Receiver<Stopping>),
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Whether a service is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    NotYet,
    Now,
}

/// Ends a service.
#[derive(Clone, Debug)]
pub struct Stop(watch::Sender<Stopping>);

impl Stop {
    /// What is being answered is answered first.
    pub fn stop(&self) {
        self.0.send_replace(Stopping::Now);
    }
}

impl Server {
    /// Listens; [`Server::run`] answers.
    pub fn bind(address: SocketAddr, config: Config, parts: Parts) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let tls = parts.tls.clone().map(TlsAcceptor::from);
        let service = Arc::new(Service::new(config, parts));
        Ok(Self { listener, address, tls, service, stop: watch::channel(Stopping::NotYet) })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it, from elsewhere.
    #[must_use]
    pub fn stopper(&self) -> Stop {
        Stop(self.stop.0.clone())
    }

    /// Answers until it is to end.
    pub fn run(self) -> io::Result<()> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .max_blocking_threads(BLOCKING)
            .thread_name("kbs")
            .enable_all()
            .build()?;
        runtime.block_on(self.accept())
    }

    async fn accept(self) -> io::Result<()> {
        let listener = tokio::net::TcpListener::from_std(self.listener)?;
        let limits = self.service.config.limits;
        let mut stop = self.stop.1;
        loop {
            let accepted = unless(listener.accept(), stop.wait_for(|it| *it == Stopping::Now)).await;
            let (stream, peer) = match accepted {
                None => break,
                Some(Ok(accepted)) => accepted,
                Some(Err(error)) => {
                    // Out of descriptors, for instance: it gets better by itself, or somebody reads this.
                    tracing::warn!(%error, "a connection cannot be accepted");
                    sleep(limits.pause).await;
                    continue;
                }
            };
            let Some(place) = self.service.peers.connect(peer.ip(), &limits) else {
                self.service.metrics.turned_away.fetch_add(1, Ordering::Relaxed);
                continue;
            };
            let (service, tls) = (self.service.clone(), self.tls.clone());
            let stop = self.stop.0.subscribe();
            tokio::spawn(async move {
                let _place = place;
                match tls {
                    None => converse(stream, peer.ip(), service, stop).await,
                    Some(tls) => {
                        if let Ok(Ok(stream)) = timeout(limits.header_time, tls.accept(stream)).await {
                            converse(stream, peer.ip(), service, stop).await;
                        }
                    }
                }
            });
        }
        // Dropping the runtime ends what takes longer.
        let _ = timeout(limits.pause, async {
            while self.service.peers.connections() > 0 {
                sleep(limits.pause / 100).await;
            }
        })
        .await;
        Ok(())
    }
}

/// What comes of the first of the two, unless the second is ready.
async fn unless<T>(first: impl Future<Output = T>, second: impl Future) -> Option<T> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    std::future::poll_fn(|context| {
        if second.as_mut().poll(context).is_ready() {
            return std::task::Poll::Ready(None);
        }
        first.as_mut().poll(context).map(Some)
    })
    .await
}

/// A service without a listener, for whoever has connections of another kind.
///
/// It answers as [`Server`] does, limits included, but for those on how many connections there may be.
#[derive(Clone)]
pub struct Desk {
    service: Arc<Service>,
    stop: watch::Sender<Stopping>,
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    /// Made of these; TLS is whose the connections are.
    #[must_use]
    pub fn new(config: Config, parts: Parts) -> Self {
        Self { service: Arc::new(Service::new(config, parts)), stop: watch::channel(Stopping::NotYet).0 }
    }

    /// Answers what this peer asks, until it has nothing more to say or takes too long.
    pub async fn converse(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, peer: IpAddr) {
        converse(stream, peer, self.service.clone(), self.stop.subscribe()).await;
    }
}

/// One connection, from its first byte to its last.
async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: IpAddr,
    service: Arc<Service>,
    mut stop: watch::Receiver<Stopping>,
) {
    let limits = service.config.limits;
    let answer = service_fn(|request| {
        let service = service.clone();
        async move { Ok::<_, std::convert::Infallible>(routes::answer(&service, peer, request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_time)
            .max_buf_size(limits.header_bytes)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(stream), answer)
    );
    let talk = async {
        let stopped = stop.wait_for(|it| *it == Stopping::Now);
        if let Some(result) = unless(connection.as_mut(), stopped).await {
            return result;
        }
        connection.as_mut().graceful_shutdown();
        connection.await
    };
    match timeout(limits.connection_time, talk).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            service.metrics.broken.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%peer, %error, "a connection broke");
        }
        Err(_) => tracing::debug!(%peer, "a connection took too long"),
    }
}
