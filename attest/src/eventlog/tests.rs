//! Logs that real firmware wrote, and changes of them.

extern crate std;

use std::path::Path;
use std::string::ToString;
use std::vec;

use super::*;

fn vector(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/tdx").join(name);
    let mut log = std::fs::read(path).unwrap();
    // What was cut off when it was stored.
    log.resize(log.len() + 0x1000, 0xff);
    log
}

fn grub() -> Vec<u8> {
    vector("eventlog/gce-cos113.ccel")
}

fn hex(digest: &Digest) -> String {
    Hex(digest).to_string()
}

/// Where each event begins, and where the last ends.
fn places(log: &[u8]) -> Vec<usize> {
    let mut places = vec![0x41];
    while log[places[places.len() - 1]] != 0xff {
        let at = places[places.len() - 1];
        let length = u32::from_le_bytes(log[at + 62..at + 66].try_into().unwrap());
        places.push(at + 66 + usize::try_from(length).unwrap());
    }
    places
}

/// A log and the quote that it came with: of a real machine.
#[test]
fn a_log_comes_to_the_rtmrs_of_its_quote() {
    let quote = vector("attest/real/v4-gce-cos113.quote");
    let quote = crate::tdx::Quote::parse(&quote[..8000]).unwrap();
    let log = grub();
    let log = EventLog::parse(&log).unwrap();
    assert_eq!(log.events().len(), 43);
    assert_eq!(&log.replay(), quote.rtmrs());
}

#[test]
fn logs_of_others_come_to_what_others_say() {
    let log = vector("eventlog/ovmf-directboot.ccel");
    let log = EventLog::parse(&log).unwrap();
    assert_eq!(log.events().len(), 20);
    let [rtmr0, rtmr1, rtmr2, rtmr3] = log.replay();
    assert!(hex(&rtmr0).starts_with("8566f998") && hex(&rtmr1).starts_with("775b9f6b"));
    assert!(hex(&rtmr2).starts_with("94eaf7a7") && rtmr3 == [0; 48]);
    // This one's area was cleared with zeros, and its first event has a vendor's information.
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/tdx/eventlog/td-shim.ccel");
    let mut log = std::fs::read(path).unwrap();
    log.resize(log.len() + 0x1000, 0);
    let log = EventLog::parse(&log).unwrap();
    assert_eq!(log.events().len(), 5);
    let [rtmr0, rtmr1, ..] = log.replay();
    assert!(hex(&rtmr0).starts_with("2dc71230") && hex(&rtmr1).starts_with("0fa3be56"));
}

/// Pitfall: digests whose preimage is the data are recomputed; of others the data is only somebody's word.
#[test]
fn no_silent_trust_data_that_were_not_measured() {
    let bytes = grub();
    let log = EventLog::parse(&bytes).unwrap();
    let kinds: Vec<_> = log.events().iter().map(Event::data_digest).collect();
    assert!(!kinds.contains(&DataDigest::Another), "as it was");
    assert_eq!(kinds.iter().filter(|kind| **kind == DataDigest::Own).count(), 16);
    let boot = log.events().iter().filter(|event| event.event_type == EventType::VARIABLE_BOOT);
    assert!(boot.clone().count() == 3 && boot.clone().all(|event| event.data_digest() == DataDigest::Own));
    let starts = places(&bytes);
    for (at, (start, event)) in starts.iter().zip(log.events()).enumerate() {
        let mut changed = bytes.clone();
        changed[start + 66 + event.data.len() - 1] ^= 1;
        let changed = EventLog::parse(&changed).unwrap();
        assert_eq!(changed.replay(), log.replay(), "data alone changes no register");
        let found = changed.events()[at].data_digest();
        let expected = if event.data_digest() == DataDigest::Own { DataDigest::Another } else { DataDigest::Elsewhere };
        assert_eq!(found, expected, "event {at}: {}", event.event_type);
    }
}

/// no-silent-trust: a log is worth something beside a verified quote, if it comes to what that says.
#[test]
fn no_silent_trust_logs_of_other_guests() {
    let [gce, phala] = ["v4-gce-cos113", "v4-uptodate-phala"].map(|name| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/vectors/tdx/attest/real/{name}.quote"));
        std::fs::read(path).unwrap()
    });
    let bytes = grub();
    let starts = places(&bytes);
    let log = EventLog::parse(&bytes).unwrap();
    let verified = |quote| Endorsed::assumed_verified(crate::tdx::Quote::parse(quote).unwrap());
    let failed = |log: &EventLog<'_>, quote| {
        let checks = check(Some(Ok(log)), &verified(quote));
        assert_eq!(checks.iter().count(), 5);
        checks.failed().map(|check| check.id.name()).collect::<Vec<_>>()
    };
    assert_eq!(failed(&log, &gce), [""; 0]);
    assert_eq!(failed(&log, &phala)[..3], ["log.rtmr0", "log.rtmr1", "log.rtmr2"]);
    let mut changed = bytes.clone();
    changed[starts[2] + 66] ^= 1;
    let changed = EventLog::parse(&changed).unwrap();
    assert_eq!(failed(&changed, &gce), ["log.data"]);
    let checks = check(Some(Ok(&changed)), &verified(&gce));
    assert_eq!(checks.named("log.data").unwrap().actual, "event 3 (EV_EFI_VARIABLE_DRIVER_CONFIG)");
    // What a log says of most events nobody measured, and that is said.
    let said = check(Some(Ok(&log)), &verified(&gce));
    assert!(said.named("log.data").unwrap().advisory.is_some_and(|advisory| advisory.contains("the guest's word")));
    let none = check(None, &verified(&gce));
    assert_eq!((none.skipped().count(), none.fault()), (5, None));
    let cut = EventLog::parse(&bytes[..starts[3] - 1]).unwrap_err();
    let malformed = check(Some(Err(cut)), &verified(&gce));
    let failed: Vec<_> = malformed.failed().map(|check| (check.id.name(), &check.actual[..])).collect();
    assert_eq!(failed, [("log.form", &*format!("malformed: {cut}"))]);
    assert_eq!(malformed.skipped().count(), 5);
}

/// Events that are left out, there twice, in another order, or with another digest come to other registers.
#[test]
fn no_silent_trust_other_events() {
    let bytes = grub();
    let starts = places(&bytes);
    let replay = |bytes: &[u8]| EventLog::parse(bytes).unwrap().replay();
    let genuine = replay(&bytes);
    for pair in starts.windows(2) {
        let [start, end] = *pair else { unreachable!() };
        let event = &bytes[start..end];
        assert_ne!(replay(&[&bytes[..start], &bytes[end..]].concat()), genuine, "{start:#x} left out");
        assert_ne!(replay(&[&bytes[..end], event, &bytes[end..]].concat()), genuine, "{start:#x} twice");
        for at in [start + 14, start + 61] {
            let mut changed = bytes.clone();
            changed[at] ^= 0x10;
            assert_ne!(replay(&changed), genuine, "digest of {start:#x}");
        }
    }
    let [first, second, third] = starts[..3] else { unreachable!() };
    let turned = [&bytes[..first], &bytes[second..third], &bytes[first..second], &bytes[third..]].concat();
    assert_ne!(replay(&turned), genuine);
}

#[test]
fn no_silent_trust_logs_that_are_none() {
    let bytes = grub();
    let starts = places(&bytes);
    let [.., last, end] = starts[..] else { unreachable!() };
    let whole = &bytes[..end];
    assert_eq!(EventLog::parse(whole).unwrap().events().len(), starts.len() - 1, "the area may end with the log");
    for cut in 0..end {
        let part = EventLog::parse(&whole[..cut]);
        assert_eq!(part.is_ok(), starts.contains(&cut), "up to {cut:#x}");
    }
    let with = |at: usize, new: &[u8]| {
        let mut changed = bytes.clone();
        changed[at..at + new.len()].copy_from_slice(new);
        EventLog::parse(&changed).unwrap_err().to_string()
    };
    let none = "its first event is not \"Spec ID Event03\", of no register and not measured";
    assert_eq!(with(4, &[4]), none);
    assert_eq!(with(8, &[1]), none);
    assert_eq!(with(0x20, b"s"), none);
    for count in [0u32, 9, 65535, u32::MAX] {
        let expected = format!("it has digests of {count} kinds; 1 to 8 are known");
        assert_eq!(with(0x38, &count.to_le_bytes()), expected);
    }
    assert_eq!(with(0x3c, &[0xb]), "it has no digests by SHA-384, of 48 bytes");
    assert_eq!(with(0x3e, &[0x20]), "it has no digests by SHA-384, of 48 bytes");
    assert_eq!(with(0x40, &[1]), "it ends within the vendor's information of event 0, at byte 0x41");
    for count in [0u32, 2, 65535] {
        let expected = format!("event 1 has {count} digests, not 1");
        assert_eq!(with(starts[0] + 8, &count.to_le_bytes()), expected);
    }
    let expected = "event 1 has a digest of kind 0xb, which the log does not have, or twice";
    assert_eq!(with(starts[0] + 12, &[0xb]), expected);
    for register in [0u32, 5, 0x8000_0000] {
        let expected = format!("event 1 is of register {register}; RTMR0 to RTMR3 are registers 1 to 4");
        assert_eq!(with(starts[0], &register.to_le_bytes()), expected);
    }
    let expected = format!("it ends within the data of event 43, at byte {:#x}", last + 66);
    assert_eq!(with(last + 62, &[0xff; 4]), expected);
    assert_eq!(with(end + 0x20, &[0xfe]), format!("byte {:#x} follows its end", end + 0x20));
}

/// What fails of a log that is held against the quote of the real machine it came from.
fn fails(log: &[u8], quote: &[u8]) -> Vec<&'static str> {
    let quote = Endorsed::assumed_verified(crate::tdx::Quote::parse(quote).unwrap());
    let log = EventLog::parse(log).unwrap();
    check(Some(Ok(&log)), &quote).failed().map(|check| check.id.name()).collect()
}

/// no-silent-trust: an event that is left out, there twice or in another place, or that has another digest, is noticed
/// in its own register and in no other. RTMRs say nothing of the order between them.
#[test]
fn no_silent_trust_each_event_counts_in_its_register() {
    const NAMES: [&str; 4] = ["log.rtmr0", "log.rtmr1", "log.rtmr2", "log.rtmr3"];
    let (bytes, quote) = (grub(), vector("attest/real/v4-gce-cos113.quote"));
    // What follows a quote is zeros or nothing.
    let quote = &quote[..quote.len() - 0x1000];
    let starts = places(&bytes);
    let log = EventLog::parse(&bytes).unwrap();
    assert_eq!(fails(&bytes, quote), [""; 0]);
    for (pair, event) in starts.windows(2).zip(log.events()) {
        let [start, end] = *pair else { unreachable!() };
        let name = NAMES[usize::from(event.rtmr)];
        let this = &bytes[start..end];
        assert_eq!(fails(&[&bytes[..start], &bytes[end..]].concat(), quote), [name], "{start:#x} left out");
        assert_eq!(fails(&[&bytes[..end], this, &bytes[end..]].concat(), quote), [name], "{start:#x} twice");
        let is_own = event.data_digest() == DataDigest::Own;
        for at in start + 14..start + 62 {
            let mut changed = bytes.clone();
            changed[at] ^= 1 << (at % 8);
            let expected: &[&str] = if is_own { &[name, "log.data"] } else { &[name] };
            assert_eq!(fails(&changed, quote), expected, "digest of {start:#x}");
        }
        // Its data alone: if the digest is theirs.
        let mut changed = bytes.clone();
        changed[end - 1] ^= 0x20;
        let expected: &[&str] = if is_own { &["log.data"] } else { &[] };
        assert_eq!(fails(&changed, quote), expected, "data of {start:#x}");
    }
    for (places, events) in starts.windows(3).zip(log.events().windows(2)) {
        let ([start, middle, end], [one, other]) = (places, events) else { unreachable!() };
        let turned = [&bytes[..*start], &bytes[*middle..*end], &bytes[*start..*middle], &bytes[*end..]].concat();
        let counts = one.rtmr == other.rtmr && one.digest != other.digest;
        let expected: &[&str] = if counts { &[NAMES[usize::from(one.rtmr)]] } else { &[] };
        assert_eq!(fails(&turned, quote), expected, "{start:#x} after the next");
    }
    // A register of its own is what an event counts in.
    let mut moved = bytes.clone();
    moved[starts[0]] = 4;
    assert_eq!(fails(&moved, quote), ["log.rtmr0", "log.rtmr3"]);
}

/// However long an area that was never written is, it ends the log.
#[test]
fn no_silent_trust_an_area_that_was_never_written() {
    let bytes = grub();
    let end = *places(&bytes).last().unwrap();
    for pad in [0, 0xff] {
        let mut log = bytes[..end].to_vec();
        log.resize(end + (64 << 10), pad);
        assert_eq!(EventLog::parse(&log).unwrap(), EventLog::parse(&bytes).unwrap());
        let last = log.len() - 1;
        log[last] = 0x55;
        assert!(EventLog::parse(&log).is_err(), "something stands in it");
    }
}
