//! A guest's programs talk to somebody on the host's loopback device, over a channel and without a network.

use std::io::{BufRead, BufReader};

use anyhow::{Context, Result, ensure};
use tenure::events::{Event, Side};
use tenure_lab::Command;
use test_guest::channel::{LAST_WORDS_LEN, SESSIONS, Session};
use test_harness::Verdict;

use crate::common::bed::{Bed, CHANNEL_PEER};
use crate::common::vmm::{Ended, Vmm};
use crate::linux::{arguments, check_guest};

/// Where the peer listens, and where nobody does.
const PORT: u16 = 4711;
const NO_PORT: u16 = 4712;
/// What is exchanged each way where something is.
const EXCHANGED_BYTES: u64 = 1 << 20;

/// Several sessions of every kind: all bytes arrive, whoever closes first, and each session is one connection.
pub(crate) fn to_a_relying_party(bed: &mut Bed) -> Result<Verdict> {
    let host = bed.host()?;
    let mut peer = host.spawn(Command::new(CHANNEL_PEER).arg(PORT.to_string()))?;
    let mut said = BufReader::new(&mut peer.stdout).lines();
    let first = said.next().context("the peer said nothing")??;
    ensure!(first == "listening", "{first}");
    let mut arguments = arguments(2, "sev", "channel,sleep,dmesg");
    arguments.push(format!("--relying-party=127.0.0.1:{PORT}"));
    let ended = Vmm::start(host, &arguments, None)?.wait()?;
    let said = said.collect::<Result<Vec<_>, _>>()?;
    ensure!(peer.wait()?.success(), "the peer failed after {said:?}\n{}", ended.tail());
    check_guest(&ended, 2)?;
    ensure!(said.len() == SESSIONS.len(), "{said:?}");

    let connections: Vec<&Event> = relayed(&ended).collect();
    ensure!(connections.len() == 2 * SESSIONS.len(), "{connections:?}");
    for (session, events) in SESSIONS.iter().zip(connections.chunks(2)) {
        let &[Event::RelayConnected { .. }, Event::RelayEnded { by, bytes_from_guest, bytes_to_guest, error, .. }] =
            events
        else {
            anyhow::bail!("{events:?} for {session:?}");
        };
        let closer = if *session == Session::HostCloses { Side::Peer } else { Side::Guest };
        let (least_from, least_to) = match session {
            Session::LastWords => (LAST_WORDS_LEN as u64 + 1, 0),
            _ => (EXCHANGED_BYTES, EXCHANGED_BYTES),
        };
        ensure!(*by == closer && error.is_none(), "{events:?} for {session:?}");
        ensure!(*bytes_from_guest >= least_from && *bytes_to_guest >= least_to, "{events:?} for {session:?}");
    }
    ensure!(ended.device("channels", "sessions")? == SESSIONS.len() as u64, "{}", ended.tail());
    for counter in ["sessions refused", "refused", "broken rings", "bad messages"] {
        let count = ended.device("channels", counter)?;
        ensure!(count == 0, "channels count {count} {counter}");
    }
    let line = ended.console.iter().find(|line| line.contains("guest: test channel ok"));
    println!("  attempt 1 of 1: ok: {}", line.map_or("", |line| line.trim()));
    Ok(Verdict::Passed)
}

/// Nobody listens: the guest finds the end of the channel, the host is told, and the run goes on.
pub(crate) fn to_nobody(bed: &mut Bed) -> Result<Verdict> {
    let host = bed.host()?;
    let mut arguments = arguments(1, "sev", "channel");
    arguments.push(format!("--relying-party=127.0.0.1:{NO_PORT}"));
    let ended = Vmm::start(host, &arguments, None)?.wait()?;
    ended.check_clean(&tenure::report::GuestOutcome::PoweredOff)?;
    ensure!(
        ended.console.iter().any(|line| line.contains("guest: test channel failed: session 1, GuestCloses")),
        "{}",
        ended.tail()
    );
    let events: Vec<&Event> = relayed(&ended).collect();
    let address = format!("127.0.0.1:{NO_PORT}");
    ensure!(
        matches!(&events[..], [Event::RelayFailed { address: to, error, .. }] if *to == address && !error.is_empty()),
        "{events:?}"
    );
    let warned = |line: &String| line.contains("cannot connect the guest") && line.contains(&address);
    ensure!(ended.messages.iter().filter(|line| warned(line)).count() == 1, "{:?}", ended.messages);
    println!("  attempt 1 of 1: ok: {events:?}");
    Ok(Verdict::Passed)
}

fn relayed(ended: &Ended) -> impl Iterator<Item = &Event> {
    let is_relayed = |event: &&Event| {
        matches!(event, Event::RelayConnected { .. } | Event::RelayFailed { .. } | Event::RelayEnded { .. })
    };
    ended.events.iter().map(|timed| &timed.event).filter(is_relayed)
}
