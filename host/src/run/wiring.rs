//! What connects the devices to the VM and to the world outside.
//!
//! Owns the adapters between the devices' seams and the VM's handle (interrupt lines, the shared view), and the threads
//! that carry bytes between the consoles and their ends and those that serve channels: declared here and nowhere else
//! (a [relay](crate::relay) has one more while it is connected).

use std::io::{Read, Write};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use gmem_kvm::port::KernelVm;
use gmem_kvm::shared::{Guard, SharedView};
use gmem_kvm::vm::VmHandle;

use super::{ChannelServer, Ends};
use crate::devices::interrupt::{IrqLine, Level};
use crate::devices::memory::SharedMemory;
use crate::devices::pipe::BytePipe;
use crate::devices::serial::Serial;
use crate::devices::virtio::channels::{Channel, Session};

/// How long what the guest wrote last may take to reach whoever listens.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);

/// The devices' only way to guest memory: law *shared-only*.
#[derive(Debug)]
pub(super) struct DeviceMemory(pub SharedView);

impl SharedMemory for DeviceMemory {
    type Guard<'a> = Guard<'a>;

    fn enter(&self) -> Guard<'_> {
        self.0.enter()
    }
}

/// A GSI of the kernel's interrupt controller.
#[derive(Debug)]
pub(super) struct Gsi<V: KernelVm> {
    pub vm: VmHandle<V>,
    pub number: u32,
}

impl<V: KernelVm> IrqLine for Gsi<V> {
    fn set(&self, level: Level) {
        if let Err(error) = self.vm.set_irq_line(self.number, level) {
            tracing::warn!(%error, "interrupt lost");
        }
    }
}

/// The threads that carry console input and output and serve channels, for one VM after the other.
#[derive(Debug, Default)]
pub(super) struct Carriers {
    /// End with the run's stop signal, which their sources heed.
    inputs: Vec<JoinHandle<()>>,
    /// End when there are no more pipes, and the last device's is closed and drained.
    outputs: Vec<JoinHandle<()>>,
    /// Serve a channel each. End as outputs do.
    servers: Vec<JoinHandle<()>>,
    /// Where input goes now.
    target: Arc<Mutex<Option<InputTarget>>>,
    /// Where outputs learn of the next VM's pipes.
    pipes: Vec<Sender<BytePipe>>,
    /// Names of the channels that are served.
    served: Vec<&'static str>,
    /// Where servers learn of the next VM's channels.
    channels: Vec<Sender<Channel>>,
}

/// Where input goes.
#[derive(Debug, Clone)]
struct InputTarget {
    serial: Arc<Serial>,
    virtio: BytePipe,
}

impl Carriers {
    /// Carriers for these ends; none runs yet.
    pub(super) fn new(ends: &Ends) -> Self {
        Self { served: ends.channels.iter().map(|server| server.channel).collect(), ..Self::default() }
    }

    /// Names of the channels a guest finds.
    pub(super) fn served(&self) -> &[&'static str] {
        &self.served
    }

    /// Carries to and from these consoles from now on, and serves these channels: one for each server, in their order.
    /// The first time this starts the threads, with the outer ends; if one cannot be had, those that run still can be
    /// [joined](Self::join).
    pub(super) fn connect(&mut self, ends: &mut Ends, to: &Consoles, channels: Vec<Channel>) -> std::io::Result<()> {
        let target = InputTarget { serial: Arc::clone(&to.serial), virtio: to.virtio_to_guest.clone() };
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = Some(target);
        if self.pipes.is_empty() {
            self.start(InputsAndOutputs::take_from(ends))?;
        }
        for (sender, pipe) in self.pipes.iter().zip([&to.serial_from_guest, &to.virtio_from_guest]) {
            // Its carrier may have panicked; then there is nobody to carry.
            let _ = sender.send(pipe.clone());
        }
        for (sender, channel) in self.channels.iter().zip(channels) {
            // Its server may have panicked; then the guest finds nobody there.
            let _ = sender.send(channel);
        }
        Ok(())
    }

    fn start(&mut self, ends: InputsAndOutputs) -> std::io::Result<()> {
        for (name, output) in [("serial output", ends.serial_output), ("virtio-console output", ends.virtio_output)] {
            let (sender, pipes) = channel();
            self.outputs.push(Builder::new().name(name.into()).spawn(move || carry_output(&pipes, output))?);
            self.pipes.push(sender);
        }
        for ChannelServer { channel: name, mut serve } in ends.servers {
            let (sender, channels) = channel();
            let thread = Builder::new().name(format!("channel {name}"));
            self.servers.push(thread.spawn(move || serve_channels(&channels, &mut *serve))?);
            self.channels.push(sender);
        }
        let current =
            |target: &Mutex<Option<InputTarget>>| target.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(input) = ends.serial_input {
            let target = Arc::clone(&self.target);
            let carry = move || {
                carry_input(input, |bytes| {
                    current(&target).is_some_and(|target| target.serial.enqueue_all(bytes).is_ok())
                });
            };
            self.inputs.push(Builder::new().name("serial input".into()).spawn(carry)?);
        }
        if let Some(input) = ends.virtio_input {
            let target = Arc::clone(&self.target);
            let carry = move || {
                carry_input(input, |bytes| {
                    current(&target).is_some_and(|target| target.virtio.send_all(bytes).is_ok())
                });
            };
            self.inputs.push(Builder::new().name("virtio-console input".into()).spawn(carry)?);
        }
        Ok(())
    }

    /// Lets go of a VM's devices, whose memory they hold. Of channels there is nothing to let go: servers hold none of it.
    pub(super) fn disconnect(&self) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Waits for all of them, once the devices are stopped and a request to stop was made. Whoever is stuck because
    /// nobody takes what the guest wrote is left behind: it holds nothing of the VM.
    pub(super) fn join(&mut self) -> Result<(), ConsoleStuck> {
        // No more pipes come.
        self.pipes.clear();
        self.channels.clear();
        let deadline = Instant::now() + DRAIN_PATIENCE;
        for thread in self.inputs.drain(..).chain(self.outputs.drain(..)).chain(self.servers.drain(..)) {
            while !thread.is_finished() {
                if Instant::now() >= deadline {
                    return Err(ConsoleStuck { thread: thread.thread().name().unwrap_or("console").to_owned() });
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            // One that panicked has lost bytes and nothing else.
            if thread.join().is_err() {
                tracing::error!("a thread of a console or channel panicked");
            }
        }
        Ok(())
    }
}

/// Nobody takes what the guest wrote.
#[derive(Debug, thiserror::Error)]
#[error("{thread}: what the guest wrote last is lost, because nobody took it for {} s", DRAIN_PATIENCE.as_secs())]
pub(super) struct ConsoleStuck {
    thread: String,
}

/// The outer ends of both consoles, and who serves channels.
pub(super) struct InputsAndOutputs {
    serial_input: Option<Box<dyn Read + Send>>,
    serial_output: Box<dyn Write + Send>,
    virtio_input: Option<Box<dyn Read + Send>>,
    virtio_output: Box<dyn Write + Send>,
    servers: Vec<ChannelServer>,
}

impl InputsAndOutputs {
    pub(super) fn take_from(ends: &mut Ends) -> Self {
        Self {
            serial_input: ends.console_input.take(),
            serial_output: std::mem::replace(&mut ends.console_output, Box::new(std::io::sink())),
            virtio_input: ends.virtio_input.take(),
            virtio_output: std::mem::replace(&mut ends.virtio_output, Box::new(std::io::sink())),
            servers: std::mem::take(&mut ends.channels),
        }
    }
}

/// The inner ends of both consoles.
#[derive(Debug)]
pub(super) struct Consoles {
    pub serial: Arc<Serial>,
    pub serial_from_guest: BytePipe,
    pub virtio_to_guest: BytePipe,
    pub virtio_from_guest: BytePipe,
}

fn carry_input(mut input: Box<dyn Read + Send>, deliver: impl Fn(&[u8]) -> bool) {
    let mut buffer = [0; 4096];
    while let Ok(len @ 1..) = input.read(&mut buffer) {
        if !deliver(&buffer[..len]) {
            // The guest has ended; there may be another one.
            tracing::debug!(len, "console input lost");
        }
    }
}

fn serve_channels(channels: &Receiver<Channel>, serve: &mut dyn FnMut(&Session)) {
    for channel in channels {
        while let Some(session) = channel.accept() {
            serve(&session);
        }
    }
}

fn carry_output(pipes: &Receiver<BytePipe>, mut output: Box<dyn Write + Send>) {
    let mut buffer = vec![0; 1 << 16];
    for pipe in pipes {
        loop {
            let len = pipe.receive(&mut buffer);
            if len == 0 {
                break;
            }
            // Nobody listening is no reason to hold the guest up: what cannot be written is dropped.
            if let Err(error) = output.write_all(&buffer[..len]).and_then(|()| output.flush()) {
                tracing::debug!(%error, len, "console output lost");
            }
        }
    }
}
