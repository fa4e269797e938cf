//! Configuration mechanism #1, BARs, and what happens when they are abused.

use super::config_space::ConfigError;
use super::*;
use crate::devices::bus::PioBus;
use crate::devices::test_support::driver::{config_address, config_read, config_write, inb, inl, inw, out};
use proptest::prelude::*;

/// An endpoint that answers in its BAR with its tag.
#[derive(Debug)]
struct Endpoint {
    tag: u8,
    config: Mutex<ConfigSpace>,
}

impl Endpoint {
    fn new(tag: u8, ports: u16) -> Arc<Self> {
        let identity = Identity {
            vendor: 0x1af4,
            device: 0x1000 + u16::from(tag),
            subsystem_vendor: 1,
            subsystem: 2,
            revision: 3,
            class: 0x07_80_04,
        };
        let mut config = ConfigSpace::new(identity);
        config.add_io_bar(0, ports).unwrap();
        Arc::new(Self { tag, config: Mutex::new(config) })
    }
}

impl Function for Endpoint {
    fn config_read(&self, offset: u8, data: &mut [u8]) {
        lock(&self.config).read(offset, data);
    }
    fn config_write(&self, offset: u8, data: &[u8]) -> Option<Event> {
        lock(&self.config).write(offset, data);
        None
    }
    fn io_bar_sizes(&self) -> Vec<(u8, u16)> {
        lock(&self.config).io_bar_sizes()
    }
    fn io_bar(&self, bar: u8) -> Option<Range<u32>> {
        lock(&self.config).io_bar(bar)
    }
    fn bar_read(&self, bar: u8, offset: u16, data: &mut [u8]) {
        let ports = self.io_bar_sizes()[usize::from(bar)].1;
        assert!(usize::from(offset) + data.len() <= usize::from(ports));
        data.fill(self.tag);
    }
    fn bar_write(&self, _bar: u8, _offset: u16, _data: &[u8]) -> Option<Event> {
        Some(Event::PowerOff)
    }
}

fn bus(functions: Vec<Arc<dyn Function>>) -> PioBus {
    let mut ports = PioBus::builder();
    PciBus::new(functions).unwrap().claim(&mut ports).unwrap();
    ports.build()
}

#[test]
fn devices_are_found_at_any_width() {
    let bus = bus(vec![Endpoint::new(0x42, 64)]);
    assert_eq!(config_read(&bus, 0, 0), 0x29c0_8086);
    assert_eq!(config_read(&bus, 0, 8) >> 8, 0x06_00_00);
    assert_eq!(config_read(&bus, 1, 0), 0x1042_1af4);
    assert_eq!(config_read(&bus, 1, 8), 0x0780_0403);
    assert_eq!(config_read(&bus, 1, 0x2c), 0x0002_0001);
    assert_eq!(inl(&bus, 0xcf8), u32::from_le_bytes(config_address(1, 0x2c)));
    out(&bus, 0xcf8, &config_address(1, 0));
    assert_eq!((inw(&bus, 0xcfc), inw(&bus, 0xcfe)), (0x1af4, 0x1042));
    assert_eq!([0xcfc, 0xcfd, 0xcfe, 0xcff].map(|port| inb(&bus, port)), [0xf4, 0x1a, 0x42, 0x10]);
}

#[test]
fn nothing_else_is_there() {
    let bus = bus(vec![Endpoint::new(0x42, 64)]);
    for device in 2..32 {
        assert_eq!(config_read(&bus, device, 0), u32::MAX);
    }
    let absent = [("not enabled", 0), ("bus 1", 1 << 31 | 1 << 16), ("function 1", 1 << 31 | 1 << 11 | 1 << 8)];
    for (what, address) in absent {
        out(&bus, 0xcf8, &u32::to_le_bytes(address));
        assert_eq!(inl(&bus, 0xcfc), u32::MAX, "{what}");
    }
}

#[test]
fn bars_are_sized_moved_and_switched() {
    let bus = bus(vec![Endpoint::new(0x42, 64), Endpoint::new(0x43, 256)]);
    assert_eq!([1, 2].map(|device| config_read(&bus, device, 0x10)), [0xc001, 0xc101]);
    assert_eq!(inb(&bus, 0xc000), 0xff, "decoding is off at first");
    config_write(&bus, 1, 0x10, u32::MAX);
    assert_eq!(config_read(&bus, 1, 0x10), 0xffc1);
    config_write(&bus, 1, 0x10, 0xc340);
    config_write(&bus, 1, 0x04, 1);
    assert_eq!(config_read(&bus, 1, 0x10), 0xc341);
    assert_eq!((inl(&bus, 0xc340), inb(&bus, 0xc37f)), (0x4242_4242, 0x42));
    assert_eq!([0xc33f, 0xc380, 0xc000].map(|port| inb(&bus, port)), [0xff; 3]);
    assert_eq!(inw(&bus, 0xc37f), u16::MAX, "an access across the end is nobody's");
    assert_eq!(bus.write(0xc340, &[0]), crate::devices::bus::Outcome::Event(Event::PowerOff));
    // Moved outside the window, it cannot take ports of other devices.
    config_write(&bus, 1, 0x10, 0x3c0);
    assert_eq!(inb(&bus, 0x3c0), 0xff);
}

#[test]
fn identity_cannot_be_changed() {
    let bus = bus(vec![Endpoint::new(0x42, 4)]);
    for device in [0, 1] {
        let before: Vec<u32> = (0..16).map(|register| config_read(&bus, device, 4 * register)).collect();
        for register in [0x00, 0x08, 0x0c, 0x14, 0x2c, 0x30, 0x34] {
            config_write(&bus, device, register, !config_read(&bus, device, register));
        }
        let after: Vec<u32> = (0..16).map(|register| config_read(&bus, device, 4 * register)).collect();
        assert_eq!(before, after);
    }
}

#[test]
fn a_bus_has_limits() {
    let error = PciBus::new((0..32).map(|tag| Endpoint::new(tag, 4) as Arc<dyn Function>).collect()).unwrap_err();
    assert_eq!(error, PciError::TooManyDevices(32));
    let error = PciBus::new((0..17).map(|tag| Endpoint::new(tag, 256) as Arc<dyn Function>).collect()).unwrap_err();
    assert_eq!(error, PciError::WindowFull { ports: 256 });
    let mut config = lock(&Endpoint::new(0, 4).config).clone();
    for (bar, ports) in [(6, 4), (1, 2), (1, 12), (1, 512), (1, 0)] {
        assert_eq!(config.add_io_bar(bar, ports), Err(ConfigError::Bar { bar, ports }));
    }
    while let Ok(at) = config.add_capability(9, &[0; 14], &[]) {
        assert!(at < 0xf1);
    }
    let error = config.add_capability(9, &[0; 14], &[]).unwrap_err();
    assert_eq!(error.to_string(), "capability 0x9 of 16 bytes does not fit at 0x100 of configuration space");
}

proptest! {
    /// no-silent-trust: whatever is written where, a port is decoded by at most the BAR that covers it as a whole.
    #[test]
    fn no_silent_trust_port_writes(writes in proptest::collection::vec((0xcf8u16..0xd00, any::<u32>(), 0usize..3), 0..60), probe in 0xc000u16..0xd000) {
        let (a, b) = (Endpoint::new(0x42, 64), Endpoint::new(0x43, 256));
        let bus = bus(vec![a.clone(), b.clone()]);
        for (port, mut value, width) in writes {
            if port < 0xcfc {
                // Mostly addresses that lead somewhere.
                value = value & 0x1ffc | 1 << 31;
            }
            let _ = bus.write(port, &value.to_le_bytes()[..1 << width]);
        }
        let covers = |endpoint: &Endpoint| endpoint.io_bar(0).is_some_and(|ports| ports.contains(&u32::from(probe)));
        let expected = if covers(&a) { 0x42 } else if covers(&b) { 0x43 } else { 0xff };
        prop_assert_eq!(inb(&bus, probe), expected);
    }
}
