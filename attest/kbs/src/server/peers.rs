//! How much one address may ask for.
//!
//! Owns what counts as one address, places for connections, and requests by a bucket of tokens for each address. The list of addresses has an end:
//! those that ask for nothing are forgotten first, and when nobody can be, who is new shares one bucket with all others
//! that are.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::config::Limits;

const PEERS_MOST: usize = 4096;
/// What a request takes out of a bucket: then a nanosecond's share of a rate is a whole number.
const REQUEST: u64 = 1_000_000_000;

/// As whom somebody at this address counts. Who has one address of IPv6 has the 2^64 of its network.
pub(super) fn counted(address: IpAddr) -> IpAddr {
    const NETWORK: u128 = !0 << 64;
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
        address => address,
    }
}

/// Addresses, and what they have.
#[derive(Clone, Debug, Default)]
pub(super) struct Peers(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    peers: HashMap<IpAddr, Peer>,
    connections: usize,
}

#[derive(Clone, Copy, Debug)]
struct Peer {
    /// Each request takes [`REQUEST`] of them.
    tokens: u64,
    filled: Instant,
    connections: usize,
}

/// A place for a connection, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    peers: Peers,
    peer: IpAddr,
}

impl Peers {
    /// A place, if there is one.
    pub(super) fn connect(&self, peer: IpAddr, limits: &Limits) -> Option<Place> {
        let mut table = self.table();
        if table.connections >= limits.connections {
            return None;
        }
        let peer = table.known(counted(peer), limits, Instant::now());
        let entry = table.peers.get_mut(&peer)?;
        if entry.connections >= limits.connections_of_peer {
            return None;
        }
        entry.connections += 1;
        table.connections += 1;
        Some(Place { peers: self.clone(), peer })
    }

    /// Whether this address may ask once more.
    pub(super) fn ask(&self, peer: IpAddr, limits: &Limits, now: Instant) -> bool {
        let mut table = self.table();
        let peer = table.known(counted(peer), limits, now);
        let Some(entry) = table.peers.get_mut(&peer) else { return false };
        entry.fill(limits, now);
        let Some(left) = entry.tokens.checked_sub(REQUEST) else { return false };
        entry.tokens = left;
        true
    }

    /// Connections that are open.
    pub(super) fn connections(&self) -> usize {
        self.table().connections
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change is complete or did not happen.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Under which address it is known.
    fn known(&mut self, peer: IpAddr, limits: &Limits, now: Instant) -> IpAddr {
        let full = u64::from(limits.burst).saturating_mul(REQUEST);
        if !self.peers.contains_key(&peer) && self.peers.len() >= PEERS_MOST {
            self.peers.retain(|_, entry| {
                entry.fill(limits, now);
                entry.connections > 0 || entry.tokens < full
            });
        }
        let known = if self.peers.contains_key(&peer) || self.peers.len() < PEERS_MOST {
            peer
        } else {
            Ipv6Addr::UNSPECIFIED.into()
        };
        self.peers.entry(known).or_insert(Peer { tokens: full, filled: now, connections: 0 });
        known
    }
}

impl Peer {
    fn fill(&mut self, limits: &Limits, now: Instant) {
        let passed = now.saturating_duration_since(self.filled).as_nanos();
        let more = u64::try_from(passed).unwrap_or(u64::MAX).saturating_mul(u64::from(limits.rate));
        self.tokens = self.tokens.saturating_add(more).min(u64::from(limits.burst).saturating_mul(REQUEST));
        self.filled = now;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.peers.table();
        table.connections = table.connections.saturating_sub(1);
        if let Some(entry) = table.peers.get_mut(&self.peer) {
            entry.connections = entry.connections.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn peer(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn a_peer_has_its_burst_and_then_its_rate() {
        let limits = Limits { rate: 2, burst: 3, ..Limits::default() };
        let (peers, start) = (Peers::default(), Instant::now());
        let ask = |after| peers.ask(peer(1), &limits, start + Duration::from_millis(after));
        assert_eq!([ask(0), ask(0), ask(0), ask(0)], [true, true, true, false]);
        assert!(!ask(499) && ask(500) && !ask(500));
        assert!(peers.ask(peer(2), &limits, start), "others are not affected");
        assert_eq!([ask(60_000), ask(60_000), ask(60_000), ask(60_000)], [true, true, true, false]);
    }

    /// However often a peer asks, nothing of its rate gets lost.
    #[test]
    fn a_peer_that_asks_often_has_its_rate() {
        let limits = Limits { rate: 3000, burst: 10, ..Limits::default() };
        let (peers, start) = (Peers::default(), Instant::now());
        let ask = |number: u64| peers.ask(peer(1), &limits, start + Duration::from_micros(number * 250));
        let granted = (0..8000).filter(|number| ask(*number)).count();
        assert!((6000..=6010).contains(&granted), "{granted} in two seconds");
    }

    #[test]
    fn who_counts_as_one() {
        let counted = |text: &str| counted(text.parse().unwrap()).to_string();
        assert_eq!(counted("10.0.0.1"), "10.0.0.1");
        assert_eq!(counted("::ffff:10.0.0.1"), "10.0.0.1");
        assert_eq!(counted("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(counted("2001:db8:1:2::1"), counted("2001:db8:1:2:ffff::"));
    }

    #[test]
    fn places_come_back() {
        let limits = Limits { connections: 3, connections_of_peer: 2, ..Limits::default() };
        let peers = Peers::default();
        let places: Vec<_> = (0..2).map(|_| peers.connect(peer(1), &limits).unwrap()).collect();
        assert!(peers.connect(peer(1), &limits).is_none());
        let other = peers.connect(peer(2), &limits).unwrap();
        assert!(peers.connect(peer(3), &limits).is_none());
        drop((places, other));
        assert_eq!(peers.connections(), 0);
        assert!(peers.connect(peer(3), &limits).is_some());
    }

    /// no-silent-trust: however many addresses ask, the list has an end.
    #[test]
    fn no_silent_trust_the_list_has_an_end() {
        let limits = Limits { rate: 1, burst: 2, ..Limits::default() };
        let (peers, now) = (Peers::default(), Instant::now());
        for number in 0..5000 {
            peers.ask(peer(number), &limits, now);
        }
        assert!(peers.table().peers.len() <= PEERS_MOST + 1);
        assert!(!peers.ask(peer(u32::MAX), &limits, now), "all who are new share");
        assert!(peers.ask(peer(u32::MAX), &limits, now + Duration::from_secs(10)));
    }
}
