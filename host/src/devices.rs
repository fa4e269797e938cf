//! The devices a guest finds: serial console, power and reset, and what sits on the PCI bus.
//!
//! Owns the port I/O bus the vCPU threads dispatch on ([`bus`]) and every device model behind it. Does not own the
//! interrupt controllers, which are the kernel's: a device only pulls the line it was given ([`interrupt::IrqLine`]).
//! Does not own guest memory either: devices reach it through [`memory::SharedMemory`] and nothing else
//! (law 5, shared-only).
//!
//! Everything a guest can write here is untrusted (law 8, no-silent-trust): each access does a bounded amount of work
//! and none can make the VMM panic. What a guest asks of the VMM itself comes back as an [`bus::Event`].
//!
//! All ports and interrupt lines are constants of [`gmem::layout`].

pub mod bus;
pub mod doorbell;
pub mod interrupt;
pub mod memory;
pub mod pci;
pub mod pipe;
pub mod power;
pub mod rtc;
pub mod serial;
pub mod virtio;

use bus::{BusCounts, BusError, Claim, PioBus, Width};
use doorbell::{DOORBELL_PORTS, Doorbell};
use gmem::layout;
use interrupt::{IrqLine, SharedLine};
use memory::SharedMemory;
use pci::config_space::ConfigError;
use pci::{Function, PciBus, PciError};
use power::{I8042, PM1_CONTROL_PORTS, PM1_EVENT_PORTS, Pm1Control, Pm1Event, ResetControl};
use rtc::{RTC_PORTS, Rtc};
use serial::{SERIAL_PORTS, Serial, SerialCounts, SerialOutput};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::{fmt, io};
use virtio::channels::{Channel, Channels, ChannelsCounts, ChannelsError};
use virtio::console::Console;
use virtio::transport::{VirtioCounts, VirtioPci};

/// What the devices are connected to outside.
pub struct Wiring {
    /// Line [`layout::SERIAL_GSI`], edge-triggered.
    pub serial_irq: Arc<dyn IrqLine>,
    /// Line [`layout::PCI_GSI`], level-triggered.
    pub pci_irq: Arc<dyn IrqLine>,
    /// Where the serial console's output goes. It is written to by vCPU threads; if it may block, put a
    /// [`pipe::BytePipe`] and a thread of your own in between.
    pub serial_output: SerialOutput,
    /// Names of the channels the guest finds. Without any there is no device for them.
    pub channels: Vec<&'static str>,
}

impl fmt::Debug for Wiring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wiring").finish_non_exhaustive()
    }
}

/// Why the devices cannot be set up, started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum DevicesError {
    /// Ports collide.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// The PCI bus is too small.
    #[error(transparent)]
    Pci(#[from] PciError),
    /// A PCI function is described wrongly.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Channels no guest could tell apart.
    #[error(transparent)]
    Channels(#[from] ChannelsError),
    /// The kernel gave no thread.
    #[error("cannot start device thread {name}: {error}")]
    Thread {
        /// The thread.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// A device thread panicked. That is a bug; the others were stopped.
    #[error("device thread {0} panicked")]
    Panicked(String),
}

/// What went on in all devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DeviceCounts {
    /// Port accesses.
    pub bus: BusCounts,
    /// Serial console.
    pub serial: SerialCounts,
    /// virtio-console.
    pub console: VirtioCounts,
    /// Channels, if the guest has the device.
    pub channels: Option<(VirtioCounts, ChannelsCounts)>,
}

/// All devices of a guest. Holds guest memory until it and every clone of its bus are dropped.
#[derive(Debug)]
pub struct Devices<M: SharedMemory + 'static> {
    bus: Arc<PioBus>,
    serial: Arc<Serial>,
    console: Arc<Console>,
    virtio_console: Arc<VirtioPci<M>>,
    channels: Option<(Arc<Channels>, Arc<VirtioPci<M>>)>,
    threads: Vec<(String, JoinHandle<()>)>,
}

impl<M: SharedMemory + 'static> Devices<M> {
    /// Puts every device at its ports. Nothing runs yet.
    pub fn new(wiring: Wiring, memory: Arc<M>) -> Result<Self, DevicesError> {
        let mut ports = PioBus::builder();
        let serial = Arc::new(Serial::new(wiring.serial_irq, wiring.serial_output));
        ports.claim(Claim::new("serial console", layout::SERIAL_PORT, SERIAL_PORTS), serial.clone())?;
        let event = Claim::new("PM1a event block", layout::PM1A_EVENT_PORT, PM1_EVENT_PORTS);
        ports.claim(event, Arc::new(Pm1Event::default()))?;
        let control = Claim::new("PM1a control block", layout::PM1A_CONTROL_PORT, PM1_CONTROL_PORTS);
        ports.claim(control, Arc::new(Pm1Control::default()))?;
        let reset = Claim::only(Width::Byte, "reset control", layout::RESET_PORT, 1);
        ports.claim(reset, Arc::new(ResetControl::default()))?;
        ports.claim(Claim::new("i8042", layout::I8042_COMMAND_PORT, 1), Arc::new(I8042))?;
        ports.claim(Claim::new("real-time clock", layout::RTC_PORT, RTC_PORTS), Arc::new(Rtc::default()))?;
        let doorbell = Claim::new("doorbell", layout::DOORBELL_PORT, DOORBELL_PORTS);
        ports.claim(doorbell, Arc::new(Doorbell))?;

        let console = Arc::new(Console::default());
        let line = u8::try_from(layout::PCI_GSI).unwrap_or(u8::MAX);
        // Every INTx pin leads to this line.
        let pci_line = SharedLine::new(wiring.pci_irq);
        let virtio_console = Arc::new(VirtioPci::new(console.clone(), Arc::clone(&memory), pci_line.pin(), line)?);
        let mut functions: Vec<Arc<dyn Function>> = vec![virtio_console.clone()];
        let channels = if wiring.channels.is_empty() {
            None
        } else {
            let channels = Arc::new(Channels::new(&wiring.channels)?);
            let function = Arc::new(VirtioPci::new(channels.clone(), memory, pci_line.pin(), line)?);
            functions.push(function.clone());
            Some((channels, function))
        };
        PciBus::new(functions)?.claim(&mut ports)?;
        let bus = Arc::new(ports.build());
        Ok(Self { bus, serial, console, virtio_console, channels, threads: Vec::new() })
    }

    /// What the vCPU threads dispatch port accesses on.
    pub fn bus(&self) -> &Arc<PioBus> {
        &self.bus
    }

    /// The serial console, for its input.
    pub fn serial(&self) -> &Arc<Serial> {
        &self.serial
    }

    /// The virtio-console, for its pipes.
    pub fn console(&self) -> &Arc<Console> {
        &self.console
    }

    /// The host's end of the channel with this name, if there is one and nobody has it.
    pub fn channel(&self, name: &str) -> Option<Channel> {
        self.channels.as_ref().and_then(|(channels, _)| channels.channel(name))
    }

    /// What went on so far.
    pub fn counts(&self) -> DeviceCounts {
        DeviceCounts {
            bus: self.bus.counts(),
            serial: self.serial.counts(),
            console: self.virtio_console.counts(),
            channels: self.channels.as_ref().map(|(channels, function)| (function.counts(), channels.counts())),
        }
    }

    /// Starts the device threads: one for each virtqueue, and no others.
    pub fn start(&mut self) -> Result<(), DevicesError> {
        let channels = self.channels.as_ref().map(|(_, function)| ("channels", Arc::clone(function)));
        for (kind, function) in [("virtio-console", Arc::clone(&self.virtio_console))].into_iter().chain(channels) {
            for queue in 0..function.queues() {
                let name = format!("{kind}.{queue}");
                let device = Arc::clone(&function);
                let thread = Builder::new()
                    .name(name.clone())
                    .spawn(move || device.run_queue(queue))
                    .map_err(|error| DevicesError::Thread { name: name.clone(), error })?;
                self.threads.push((name, thread));
            }
        }
        Ok(())
    }

    /// Stops the device threads and releases everybody who waits for a device. Afterwards no device touches guest
    /// memory; what the guest sent before can still be taken out of [`Console::from_guest`] and of a channel's sessions.
    pub fn stop(&mut self) -> Result<(), DevicesError> {
        self.virtio_console.stop();
        if let Some((_, function)) = &self.channels {
            function.stop();
        }
        self.serial.close_input();
        let mut result = Ok(());
        for (name, thread) in self.threads.drain(..) {
            if thread.join().is_err() {
                result = Err(DevicesError::Panicked(name));
            }
        }
        result
    }
}

impl<M: SharedMemory + 'static> Drop for Devices<M> {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            tracing::error!(%error, "stopping devices");
        }
    }
}

/// Locks a device's state. A thread that panicked while it held the lock is already ending the VM; the others must
/// still be able to get through their teardown, so poison is not passed on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod test_support;
