//! The guest on the whole of `tenure`: its run, from the configuration to the receipt, as for any guest.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result, ensure};
use gmem_kvm::kvm::KvmKernel;
use tenure::config::inputs::Inputs;
use tenure::config::snp::SnpConfig;
use tenure::config::values::VirtioConsole;
use tenure::config::{Guise, RunConfig, Tee};
use tenure::events::EventLog;
use tenure::firmware::FirmwareImage;
use tenure::report::GuestOutcome;
use tenure::run::{self, Ends, Firmware};
use tenure::stop::StopSignal;

use crate::stub::{self, REPORT_BYTES, Work};

/// Collects what the guest says on its serial console.
#[derive(Clone, Default)]
struct Console(Arc<Mutex<Vec<u8>>>);

impl Write for Console {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().map_err(|_| std::io::ErrorKind::Other)?.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Runs the guest; returns its report.
pub(crate) fn run(work: Work) -> Result<u64> {
    let image = stub::image(work);
    let firmware = FirmwareImage::parse(&image)?;
    let kernel = KvmKernel::open(Path::new("/dev/kvm"))?;
    let config = RunConfig {
        tee: Tee::Sw,
        guise: Guise::None,
        kernel: None,
        initrd: None,
        cmdline: String::new(),
        memory: crate::floor::RAM,
        vcpus: 1,
        virtio_console: VirtioConsole::None,
        relying_party: None,
        test_root: None,
        snp: SnpConfig::default(),
    };
    let console = Console::default();
    let ends = Ends {
        events: EventLog::off(),
        console_output: Box::new(console.clone()),
        console_input: None,
        virtio_output: Box::new(std::io::sink()),
        virtio_input: None,
        channels: Vec::new(),
        stop: StopSignal::new()?,
    };
    let inputs = Inputs::default();
    let report = run::run_with_firmware(&kernel, Tee::Sw, &config, &inputs, Firmware::Ours(firmware), ends)?;
    ensure!(report.outcome == GuestOutcome::SelfTest { failed_checks: 0 }, "the guest ended with {:?}", report.outcome);
    ensure!(report.teardown.is_clean(), "{:?}", report.teardown);
    let said = console.0.lock().map_err(|_| anyhow::anyhow!("the console's thread panicked"))?;
    let said: [u8; REPORT_BYTES] = said.as_slice().try_into().with_context(|| format!("the guest said {said:x?}"))?;
    Ok(u64::from_le_bytes(said))
}
