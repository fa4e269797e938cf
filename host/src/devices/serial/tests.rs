//! The serial port loses nothing, in either direction, and survives any register access.

use super::*;
use crate::devices::interrupt::Level;
use proptest::prelude::*;
use std::io;
use std::thread;

const DATA: u16 = 0;
const IER: u16 = 1;
const LSR: u16 = 5;
const LSR_DATA_READY: u8 = 1;

#[derive(Debug, Default)]
struct Line {
    levels: Mutex<Vec<Level>>,
}

impl IrqLine for Line {
    fn set(&self, level: Level) {
        self.levels.lock().unwrap().push(level);
    }
}

#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Broken;

impl Write for Broken {
    fn write(&mut self, _data: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn register(serial: &Serial, offset: u16) -> u8 {
    let mut data = [0];
    serial.read(offset, &mut data);
    data[0]
}

#[test]
fn output_reaches_the_writer_and_interrupts_by_edges() {
    let (line, sink) = (Arc::new(Line::default()), Sink::default());
    let serial = Serial::new(line.clone(), Box::new(sink.clone()));
    assert_eq!(serial.write(IER, &[0x02]), None);
    for byte in b"guest" {
        assert_eq!(serial.write(DATA, &[*byte]), None);
        // As an interrupt handler does: reading the identification register acknowledges.
        register(&serial, 2);
    }
    assert_eq!(*sink.0.lock().unwrap(), b"guest");
    assert_eq!(serial.counts(), SerialCounts { output_bytes: 5, ..SerialCounts::default() });
    let levels = line.levels.lock().unwrap();
    assert!(levels.len() >= 10, "{levels:?}");
    assert!(levels.chunks(2).all(|edge| edge == [Level::High, Level::Low]), "{levels:?}");
}

#[test]
fn a_failing_writer_loses_bytes_and_says_so() {
    let serial = Serial::new(Arc::new(Line::default()), Box::new(Broken));
    assert_eq!(serial.write(DATA, b"x"), None);
    assert_eq!(serial.write(DATA, b"y"), None);
    assert_eq!(serial.counts().lost_bytes, 2);
}

/// Far more input than the FIFO holds arrives complete and in order while the guest reads at its own pace.
#[test]
fn input_waits_for_room() {
    let serial = Serial::new(Arc::new(Line::default()), Box::new(io::sink()));
    let input: Vec<u8> = (0..100_000u32).map(|at| (at % 251) as u8).collect();
    thread::scope(|scope| {
        let pushing = scope.spawn(|| serial.enqueue_all(&input));
        let mut got = Vec::new();
        while got.len() < input.len() {
            if register(&serial, LSR) & LSR_DATA_READY != 0 {
                got.push(register(&serial, DATA));
            }
        }
        assert_eq!(got, input);
        assert_eq!(pushing.join().unwrap(), Ok(()));
    });
    assert_eq!(serial.counts().input_bytes, 100_000);
}

#[test]
fn closing_releases_a_waiting_input_thread() {
    let serial = Serial::new(Arc::new(Line::default()), Box::new(io::sink()));
    thread::scope(|scope| {
        let pushing = scope.spawn(|| serial.enqueue_all(&[0; 1000]));
        while serial.counts().input_bytes == 0 {
            thread::yield_now();
        }
        serial.close_input();
        let left = pushing.join().unwrap().unwrap_err().left;
        assert_eq!(left as u64 + serial.counts().input_bytes, 1000);
    });
    assert_eq!(serial.enqueue_all(b"more"), Err(InputClosed { left: 4 }));
    assert_eq!(serial.enqueue_all(b""), Ok(()));
}

proptest! {
    /// no-silent-trust: any sequence of register accesses is survived, and bytes out plus bytes lost never exceed
    /// bytes written.
    #[test]
    fn no_silent_trust_registers(accesses in proptest::collection::vec((0u16..8, any::<[u8; 4]>(), 1usize..5, any::<bool>()), 0..200)) {
        let serial = Serial::new(Arc::new(Line::default()), Box::new(io::sink()));
        let mut written = 0;
        for (offset, mut data, len, write) in accesses {
            serial.enqueue(&data);
            if write {
                written += u64::from(offset == DATA);
                prop_assert_eq!(serial.write(offset, &data[..len]), None);
            } else {
                serial.read(offset, &mut data[..len]);
            }
        }
        prop_assert!(serial.counts().output_bytes <= written);
    }
}
