//! The common configuration structure and the status state machine.
//!
//! Owns the registers of virtio 1.2 §4.1.4.3 and the rules of §2.1 and §3.1: what a driver may change when. Does not
//! own what follows from a change, which is reported as a [`Change`].

use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET, VIRTIO_F_ACCESS_PLATFORM, VIRTIO_F_VERSION_1,
};

/// Bytes of the structure without the fields of features that are not offered.
pub(super) const COMMON_CONFIG_LEN: u16 = 0x38;
/// Features every device here offers and every driver must accept: no legacy interface, and no memory but what the
/// platform's rules let a device reach.
pub(super) const REQUIRED_FEATURES: u64 = 1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_F_ACCESS_PLATFORM;

pub(super) const DRIVER_OK: u8 = status(VIRTIO_CONFIG_S_DRIVER_OK);
pub(super) const FEATURES_OK: u8 = status(VIRTIO_CONFIG_S_FEATURES_OK);
pub(super) const NEEDS_RESET: u8 = status(VIRTIO_CONFIG_S_NEEDS_RESET);
const DRIVER: u8 = status(VIRTIO_CONFIG_S_DRIVER);
const FAILED: u8 = status(VIRTIO_CONFIG_S_FAILED);
const ACKNOWLEDGE: u8 = status(VIRTIO_CONFIG_S_ACKNOWLEDGE);
/// "No MSI-X vector": there is no MSI-X.
const NO_VECTOR: u16 = 0xffff;

const fn status(bit: u32) -> u8 {
    bit.to_le_bytes()[0]
}

// Offsets of the fields.
const DEVICE_FEATURE_SELECT: u16 = 0x00;
const DRIVER_FEATURE_SELECT: u16 = 0x08;
const DRIVER_FEATURE: u16 = 0x0c;
const DEVICE_STATUS: u16 = 0x14;
const QUEUE_SELECT: u16 = 0x16;
const QUEUE_SIZE: u16 = 0x18;
const QUEUE_ENABLE: u16 = 0x1c;
const QUEUE_DESC: u16 = 0x20;
const QUEUE_DRIVER: u16 = 0x28;
const QUEUE_DEVICE: u16 = 0x30;

/// What a driver said about one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct QueueRegisters {
    pub(super) max_size: u16,
    pub(super) size: u16,
    pub(super) enabled: bool,
    pub(super) descriptors: u64,
    pub(super) driver: u64,
    pub(super) device: u64,
}

impl QueueRegisters {
    const fn new(max_size: u16) -> Self {
        Self { max_size, size: max_size, enabled: false, descriptors: 0, driver: 0, device: 0 }
    }
}

/// What the transport must act on after a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing.
    None,
    /// The driver reset the device; the registers are as at the start.
    Reset,
    /// The driver enabled this queue.
    Enabled(u16),
    /// The driver is ready: the device may use the queues from now on.
    Live,
}

#[derive(Debug)]
pub(super) struct CommonConfig {
    offered: u64,
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    status: u8,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
}

impl CommonConfig {
    pub(super) fn new(device_features: u64, queue_sizes: &[u16]) -> Self {
        Self {
            offered: device_features | REQUIRED_FEATURES,
            device_feature_select: 0,
            driver_feature_select: 0,
            driver_features: 0,
            status: 0,
            queue_select: 0,
            queues: queue_sizes.iter().map(|size| QueueRegisters::new(*size)).collect(),
        }
    }

    /// Whether the device may use its queues.
    pub(super) const fn is_live(&self) -> bool {
        self.status & (DRIVER_OK | NEEDS_RESET) == DRIVER_OK
    }

    /// What the driver said about a queue.
    pub(super) fn queue(&self, index: u16) -> Option<&QueueRegisters> {
        self.queues.get(usize::from(index))
    }

    /// The device cannot go on until the driver resets it. Says whether the driver must be told by an interrupt.
    pub(super) const fn fail(&mut self) -> bool {
        self.status |= NEEDS_RESET;
        self.status & DRIVER_OK != 0
    }

    /// Reads the structure, at any width; beyond its end there are zeros.
    pub(super) fn read(&self, offset: u16, data: &mut [u8]) {
        let image = self.image();
        for (byte, at) in data.iter_mut().zip(usize::from(offset)..) {
            *byte = image.get(at).copied().unwrap_or(0);
        }
    }

    /// Writes one field. Drivers must use each field's own width, or halves of 64-bit fields (§4.1.3.1); a write of
    /// another width or across fields changes nothing.
    pub(super) fn write(&mut self, offset: u16, data: &[u8]) -> Change {
        match *data {
            [value] if offset == DEVICE_STATUS => self.write_status(value),
            [low, high] => self.write_word(offset, u16::from_le_bytes([low, high])),
            [a, b, c, d] => {
                self.write_dword(offset, u32::from_le_bytes([a, b, c, d]));
                Change::None
            }
            _ => Change::None,
        }
    }

    fn write_status(&mut self, value: u8) -> Change {
        if value == 0 {
            let sizes: Vec<u16> = self.queues.iter().map(|queue| queue.max_size).collect();
            *self = Self::new(self.offered, &sizes);
            return Change::Reset;
        }
        // A driver must not clear bits (§2.1.1), and NEEDS_RESET is the device's.
        let mut new = self.status | value & (ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | FAILED);
        if new & FEATURES_OK != 0 && !(new & DRIVER != 0 && self.features_acceptable()) {
            new &= !FEATURES_OK;
        }
        if new & FEATURES_OK == 0 {
            new &= !DRIVER_OK;
        }
        let started = new & !self.status & DRIVER_OK != 0;
        self.status = new;
        if started { Change::Live } else { Change::None }
    }

    const fn features_acceptable(&self) -> bool {
        self.driver_features & !self.offered == 0 && self.driver_features & REQUIRED_FEATURES == REQUIRED_FEATURES
    }

    fn write_word(&mut self, offset: u16, value: u16) -> Change {
        let configurable = self.status & FEATURES_OK != 0;
        let index = self.queue_select;
        match offset {
            QUEUE_SELECT => self.queue_select = value,
            QUEUE_SIZE => {
                if let Some(queue) = self.selected() {
                    queue.size = value;
                }
            }
            QUEUE_ENABLE if value == 1 && configurable => {
                if let Some(queue) = self.selected() {
                    queue.enabled = true;
                    return Change::Enabled(index);
                }
            }
            _ => {}
        }
        Change::None
    }

    fn write_dword(&mut self, offset: u16, value: u32) {
        match offset {
            DEVICE_FEATURE_SELECT => self.device_feature_select = value,
            DRIVER_FEATURE_SELECT => self.driver_feature_select = value,
            // Once accepted, features stay (§3.1.1).
            DRIVER_FEATURE if self.status & FEATURES_OK == 0 => match self.driver_feature_select {
                0 => self.driver_features = self.driver_features >> 32 << 32 | u64::from(value),
                1 => self.driver_features = self.driver_features & 0xffff_ffff | u64::from(value) << 32,
                _ => {}
            },
            QUEUE_DESC..COMMON_CONFIG_LEN if offset.is_multiple_of(4) => {
                if let Some(queue) = self.selected() {
                    let field = match offset & !0b111 {
                        QUEUE_DESC => &mut queue.descriptors,
                        QUEUE_DRIVER => &mut queue.driver,
                        _ => &mut queue.device,
                    };
                    *field = match offset & 0b111 {
                        0 => *field >> 32 << 32 | u64::from(value),
                        _ => *field & 0xffff_ffff | u64::from(value) << 32,
                    };
                }
            }
            _ => {}
        }
    }

    /// The selected queue, if its registers may still be changed.
    fn selected(&mut self) -> Option<&mut QueueRegisters> {
        self.queues.get_mut(usize::from(self.queue_select)).filter(|queue| !queue.enabled)
    }

    fn image(&self) -> [u8; COMMON_CONFIG_LEN as usize] {
        let half = |features: u64, select: u32| match select {
            0 => features.to_le_bytes()[..4].to_vec(),
            1 => features.to_le_bytes()[4..].to_vec(),
            _ => vec![0; 4],
        };
        // A queue that does not exist has size zero (§4.1.4.3.1).
        let absent = QueueRegisters::new(0);
        let queue = self.queue(self.queue_select).unwrap_or(&absent);
        let queues = u16::try_from(self.queues.len()).unwrap_or(u16::MAX);
        let mut image = [0; COMMON_CONFIG_LEN as usize];
        let mut put = |offset: u16, bytes: &[u8]| {
            image[usize::from(offset)..][..bytes.len()].copy_from_slice(bytes);
        };
        put(DEVICE_FEATURE_SELECT, &self.device_feature_select.to_le_bytes());
        put(0x04, &half(self.offered, self.device_feature_select));
        put(DRIVER_FEATURE_SELECT, &self.driver_feature_select.to_le_bytes());
        put(DRIVER_FEATURE, &half(self.driver_features, self.driver_feature_select));
        put(0x10, &NO_VECTOR.to_le_bytes());
        put(0x12, &queues.to_le_bytes());
        // The configuration never changes by itself, so its generation at 0x15 stays 0.
        put(DEVICE_STATUS, &[self.status]);
        put(QUEUE_SELECT, &self.queue_select.to_le_bytes());
        put(QUEUE_SIZE, &queue.size.to_le_bytes());
        put(0x1a, &NO_VECTOR.to_le_bytes());
        put(QUEUE_ENABLE, &u16::from(queue.enabled).to_le_bytes());
        // All queues are notified at the same address: offset 0 at 0x1e, multiplier 0.
        put(QUEUE_DESC, &queue.descriptors.to_le_bytes());
        put(QUEUE_DRIVER, &queue.driver.to_le_bytes());
        put(QUEUE_DEVICE, &queue.device.to_le_bytes());
        image
    }
}
