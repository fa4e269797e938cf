//! How long things hold, and how much of everything there may be.

use std::time::Duration;

use crate::store::Most;

/// How a service is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// How long a challenge waits for evidence.
    pub challenge: Duration,
    /// How long a token holds, and the session in which it was given.
    pub token: Duration,
    /// What nobody may exceed.
    pub limits: Limits,
}

/// What nobody may exceed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request's headers.
    pub header_bytes: usize,
    /// Bytes of a request's body.
    pub body_bytes: usize,
    /// Bytes of a resource.
    pub resource_bytes: u64,
    /// Time for headers, between requests of a connection as well.
    pub header_time: Duration,
    /// Time for a body.
    pub body_time: Duration,
    /// Time for all of a connection.
    pub connection_time: Duration,
    /// Connections at once.
    pub connections: usize,
    /// Connections of one peer at once.
    pub connections_of_peer: usize,
    /// Requests of one peer in a second, on average.
    pub rate: u32,
    /// Requests of one peer at once, after it has been silent.
    pub burst: u32,
    /// Sessions at once.
    pub sessions: u64,
    /// Sessions of one peer at once.
    pub sessions_of_peer: u64,
    /// What is waited when nothing can be accepted, and for answers at the end.
    pub pause: Duration,
}

impl Limits {
    /// What a store must keep to.
    #[must_use]
    pub const fn most_sessions(&self) -> Most {
        Most { sessions: self.sessions, of_peer: self.sessions_of_peer }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { challenge: Duration::from_secs(60), token: Duration::from_secs(300), limits: Limits::default() }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_bytes: 16 << 10,
            body_bytes: 1 << 20,
            resource_bytes: 1 << 20,
            header_time: Duration::from_secs(10),
            body_time: Duration::from_secs(10),
            connection_time: Duration::from_secs(300),
            connections: 1024,
            connections_of_peer: 256,
            rate: 100,
            burst: 1000,
            sessions: 10_000,
            sessions_of_peer: 2500,
            pause: Duration::from_secs(1),
        }
    }
}
