//! The bus finds the right device for every access, and nothing a guest does to it goes wrong.

use super::*;
use proptest::prelude::*;
use std::sync::Mutex;

/// Answers with its tag plus the offset, and remembers what was written.
#[derive(Debug)]
struct Probe {
    tag: u8,
    len: u16,
    written: Mutex<Vec<(u16, Vec<u8>)>>,
}

impl Probe {
    fn new(tag: u8, len: u16) -> Arc<Self> {
        Arc::new(Self { tag, len, written: Mutex::new(Vec::new()) })
    }
}

impl PioDevice for Probe {
    fn read(&self, offset: u16, data: &mut [u8]) {
        assert!(usize::from(offset) + data.len() <= usize::from(self.len));
        for (byte, at) in data.iter_mut().zip(offset..) {
            *byte = self.tag.wrapping_add(u8::try_from(at & 0xf).unwrap());
        }
    }

    fn write(&self, offset: u16, data: &[u8]) -> Option<Event> {
        assert!(usize::from(offset) + data.len() <= usize::from(self.len));
        self.written.lock().unwrap().push((offset, data.to_vec()));
        (data.last() == Some(&0xee)).then_some(Event::PowerOff)
    }
}

fn read<const N: usize>(bus: &PioBus, port: u16) -> [u8; N] {
    let mut data = [0x55; N];
    bus.read(port, &mut data);
    data
}

#[test]
fn overlapping_claims_are_refused_by_name() {
    let mut builder = PioBus::builder();
    builder.claim(Claim::new("first", 0x100, 8), Probe::new(0, 8)).unwrap();
    for (from, len) in [(0x100, 8), (0x107, 1), (0xf9, 8), (0x90, 0x200)] {
        let error = builder.claim(Claim::new("second", from, len), Probe::new(0, len)).unwrap_err();
        assert!(matches!(error, BusError::Overlap { old: "first", new: "second", .. }), "{error}");
    }
    builder.claim(Claim::new("before", 0xf8, 8), Probe::new(0, 8)).unwrap();
    builder.claim(Claim::new("after", 0x108, 8), Probe::new(0, 8)).unwrap();
    assert!(matches!(
        builder.claim(Claim::new("none", 0x300, 0), Probe::new(0, 0)),
        Err(BusError::Range { len: 0, .. })
    ));
    let error = builder.claim(Claim::new("past the end", 0xffff, 2), Probe::new(0, 2)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "device past the end claims 2 ports from 0xffff, which is nothing or more than there are"
    );
    builder.claim(Claim::new("last port", 0xffff, 1), Probe::new(0, 1)).unwrap();
}

#[test]
fn claims_at_different_widths_share_ports() {
    let mut builder = PioBus::builder();
    let (address, reset) = (Probe::new(0x10, 4), Probe::new(0x20, 1));
    builder.claim(Claim::only(Width::Dword, "address", 0xcf8, 4), address.clone()).unwrap();
    builder.claim(Claim::only(Width::Byte, "reset", 0xcf9, 1), reset.clone()).unwrap();
    let error = builder.claim(Claim::only(Width::Byte, "again", 0xcf9, 1), reset.clone()).unwrap_err();
    assert!(matches!(error, BusError::Overlap { old: "reset", .. }), "{error}");
    let bus = builder.build();
    assert_eq!(read::<4>(&bus, 0xcf8), [0x10, 0x11, 0x12, 0x13]);
    assert_eq!(read::<1>(&bus, 0xcf9), [0x20]);
    assert_eq!(read::<1>(&bus, 0xcf8), [0xff]);
    assert_eq!(bus.write(0xcf8, &[1, 2, 3, 4]), Outcome::Handled);
    assert!(reset.written.lock().unwrap().is_empty());
    assert_eq!(bus.write(0xcf9, &[4]), Outcome::Handled);
    assert_eq!(*address.written.lock().unwrap(), [(0, vec![1, 2, 3, 4])]);
}

#[test]
fn accesses_that_straddle_a_claim_are_split() {
    let mut builder = PioBus::builder();
    let (low, high) = (Probe::new(0x10, 2), Probe::new(0x20, 8));
    builder.claim(Claim::new("low", 0x200, 2), low.clone()).unwrap();
    builder.claim(Claim::new("high", 0x202, 8), high.clone()).unwrap();
    let bus = builder.build();
    assert_eq!(read::<4>(&bus, 0x200), [0x10, 0x11, 0x20, 0x21]);
    assert_eq!(read::<4>(&bus, 0x1fe), [0xff, 0xff, 0x10, 0x11]);
    assert_eq!(read::<2>(&bus, 0x209), [0x27, 0xff]);
    assert_eq!(bus.write(0x201, &[1, 0xee]), Outcome::Event(Event::PowerOff));
    assert_eq!(*low.written.lock().unwrap(), [(1, vec![1])]);
    assert_eq!(*high.written.lock().unwrap(), [(0, vec![0xee])]);
    assert_eq!(bus.counts().unclaimed_reads, 0);
}

#[test]
fn unclaimed_ports_read_ones_and_are_counted() {
    let bus = PioBus::builder().build();
    assert_eq!(read::<4>(&bus, 0xfffe), [0xff; 4]);
    assert_eq!(read::<3>(&bus, 0), [0xff; 3]);
    assert_eq!(bus.write(0xffff, &[1, 2]), Outcome::Unclaimed);
    assert_eq!(bus.counts(), BusCounts { reads: 2, writes: 1, unclaimed_reads: 1, unclaimed_writes: 1 });
}

proptest! {
    /// no-silent-trust: whatever the port and length, each byte comes from its own device or is all ones.
    #[test]
    fn no_silent_trust_any_access(port in any::<u16>(), len in 0usize..9) {
        let mut builder = PioBus::builder();
        for first in (0..0xfff0).step_by(0x40) {
            builder.claim(Claim::new("probe", first, 0x23), Probe::new(0x30, 0x23)).unwrap();
        }
        let bus = builder.build();
        let mut data = vec![0; len];
        bus.read(port, &mut data);
        for (at, byte) in data.iter().enumerate() {
            let inside = usize::from(port) + at;
            let offset = inside % 0x40;
            let claimed = Width::from_len(len).is_some() && inside < 0xfff0 && offset < 0x23;
            let expected = if claimed { 0x30 + u8::try_from(offset & 0xf).unwrap() } else { 0xff };
            prop_assert_eq!(*byte, expected);
        }
        let _ = bus.write(port, &data);
    }
}
