//! Event logs.

use std::collections::BTreeSet;

use attest::eventlog::{EventLog, EventType};

use crate::vectors::{all, vector};

/// The bytes of an event beside its data and what else it may have: register, type, and lengths.
const EVENT_LEAST: usize = 4 + 4 + 4 + 2 + 48 + 4;
/// Of long logs no more is a seed: later events are like those before.
const KEPT: usize = 12_000;

/// Events are what is there, in order, and registers follow from them.
pub(crate) fn event_log(input: &[u8]) {
    let Ok(log) = EventLog::parse(input) else { return };
    let events = log.events();
    assert!(events.len() * EVENT_LEAST <= input.len(), "{} events", events.len());
    let mut end = input.as_ptr();
    let mut counted = BTreeSet::new();
    for event in events {
        let data = event.data.as_ptr_range();
        assert!(end <= data.start && data.end <= input.as_ptr_range().end, "an event's data is elsewhere");
        end = data.end;
        assert!(event.rtmr < 4 && !event.event_type.to_string().is_empty());
        let _ = event.data_digest();
        if event.event_type != EventType::NO_ACTION {
            counted.insert(usize::from(event.rtmr));
        }
    }
    for (register, value) in log.replay().iter().enumerate() {
        assert_eq!(*value != [0; 48], counted.contains(&register), "RTMR{register}");
    }
    // An area that was never written adds nothing.
    if !input.ends_with(&[0xff]) && !input.ends_with(&[0]) {
        for pad in [0, 0xff] {
            assert_eq!(EventLog::parse(&[input, &[pad; 64]].concat()).as_ref(), Ok(&log));
        }
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = all("tdx/eventlog", ".ccel");
    assert!(seeds.iter().all(|seed| EventLog::parse(seed).is_ok()), "a seed is no log");
    for seed in &mut seeds {
        let log = EventLog::parse(seed).unwrap();
        let start = seed.as_ptr().addr();
        let ends = log.events().iter().map(|event| event.data.as_ptr_range().end.addr() - start);
        let kept = ends.take_while(|end| *end <= KEPT).last().unwrap_or_default();
        seed.truncate(kept);
    }
    // The first event alone, and with one after it.
    let first = vector("tdx/eventlog/gce-cos113.ccel");
    seeds.push(first[..0x41].to_vec());
    let mut separator = first[..0x41].to_vec();
    for number in [1_u32, 4, 1] {
        separator.extend(number.to_le_bytes());
    }
    separator.extend([0xc, 0].iter().chain(&[7; 48]).chain(&[4, 0, 0, 0, 0, 0, 0, 0]));
    assert!(EventLog::parse(&separator).is_ok_and(|log| log.events().len() == 1));
    seeds.push(separator);
    seeds
}
