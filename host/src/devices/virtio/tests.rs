//! Virtio as a guest sees it: the transport's rules, data both ways, and what happens to guests that break rules or
//! keep their memory private.

mod channels;
mod data;
mod hostile;
mod transport;

use std::sync::Arc;

use crate::devices::Devices;
use crate::devices::test_support::driver::{Driver, Queue};
use crate::devices::test_support::{TestLine, TestMemory, devices};

/// Where the tests put the queues, and buffers.
const RECEIVE_RINGS: u64 = 0x1_0000;
const TRANSMIT_RINGS: u64 = 0x2_0000;
const BUFFERS: u64 = 0x10_0000;
const MEMORY: usize = 0x40_0000;
/// Device status: DEVICE_NEEDS_RESET.
const NEEDS_RESET: u8 = 0x40;

fn receive_queue() -> Queue {
    Queue::at(0, 64, RECEIVE_RINGS)
}

fn transmit_queue() -> Queue {
    Queue::at(1, 64, TRANSMIT_RINGS)
}

/// Devices at work on `memory`, PCI's interrupt line, and a driver that has found its device.
fn started(memory: &Arc<TestMemory>) -> (Devices<TestMemory>, Arc<TestLine>, Driver) {
    let (mut devices, line) = devices(memory);
    devices.start().unwrap();
    let driver = Driver::bind(devices.bus(), memory);
    (devices, line, driver)
}
