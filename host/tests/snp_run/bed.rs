//! A software platform with a guest, and what is read of a run on it. The guests are scripts (`silicon_kvm::script`).

use std::io;
use std::sync::{Arc, Mutex};

use gmem::ledger::Owner;
use gmem::{GfnRange, Gpa, PageCount};
use gmem_kvm::port::Kernel;
use guest_fw::abi;
use silicon_kvm::SiliconKernel;
use silicon_kvm::script::{Script, Step, Way};
use snp::digest::Digest;
use snp::id_block::keys::IdKey;
use snp::id_block::{IdAuth, IdBlock, ImageIdentity, SignedBlock};
use snp::policy::GuestPolicy;
use tenure::config::inputs::Inputs;
use tenure::config::{RunConfig, Settings, Tee};
use tenure::events::{Event, EventLog};
use tenure::report::RunReport;
use tenure::run::{self, ChannelServer, Ends, Firmware, RunError};
use tenure::stop::StopSignal;
use tenure_silicon::config::Config;
use tenure_silicon::model::Model;
use tenure_silicon::platform::{Event as HardwareEvent, Platform};

/// Private RAM that nothing was put into.
pub(crate) const FREE: u64 = 0x80_0000;
/// Of an attestation report (56860, "ATTESTATION_REPORT"): the offset of MEASUREMENT.
const MEASUREMENT: usize = 0x90;
/// A request to be terminated by our firmware, which cannot be started yet.
pub(crate) const NOT_BUILT: u64 = 0x1_f100;

pub(crate) struct Bed {
    pub(crate) kernel: SiliconKernel,
    pub(crate) config: RunConfig,
    pub(crate) inputs: Inputs,
    pub(crate) console: Console,
    /// Who serves channels in the next run.
    pub(crate) servers: Mutex<Vec<ChannelServer>>,
}

/// What guests write to their serial consoles.
#[derive(Clone, Default)]
pub(crate) struct Console(pub(crate) Arc<Mutex<Vec<u8>>>);

impl io::Write for Console {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub(crate) struct Ran {
    pub(crate) report: RunReport,
    pub(crate) events: Vec<Event>,
}

impl Bed {
    pub(crate) fn new(vcpus: u32) -> Self {
        let settings = Settings {
            tee: Some(Tee::Snp),
            memory: Some("16M".parse().unwrap()),
            vcpus: Some(i64::from(vcpus).try_into().unwrap()),
            vcpu_type: Some("EPYC-Milan".parse().unwrap()),
            ..Settings::default()
        };
        Self::with(settings)
    }

    /// With the files that are named there.
    pub(crate) fn with(settings: Settings) -> Self {
        let platform = Arc::new(Platform::new(Config::new(Model::Milan, [7; 32])));
        let kernel = SiliconKernel::new(platform).unwrap();
        let config = settings.resolve().unwrap().run;
        let inputs = Inputs::open(&config).unwrap();
        Self { kernel, config, inputs, console: Console::default(), servers: Mutex::default() }
    }

    pub(crate) fn script(&self, vcpu: u32, steps: impl IntoIterator<Item = Step>) {
        self.kernel.script(vcpu, Script::from_iter(steps));
    }

    pub(crate) fn try_run(&self) -> (Result<RunReport, RunError>, Vec<Event>) {
        self.try_run_on(&self.kernel)
    }

    pub(crate) fn try_run_on(&self, kernel: &impl Kernel) -> (Result<RunReport, RunError>, Vec<Event>) {
        self.run_in(|ends| run::run(kernel, Tee::Snp, &self.config, &self.inputs, ends))
    }

    /// With another firmware.
    pub(crate) fn try_run_with(&self, firmware: Firmware<'_>) -> (Result<RunReport, RunError>, Vec<Event>) {
        self.run_in(|ends| run::run_with_firmware(&self.kernel, Tee::Snp, &self.config, &self.inputs, firmware, ends))
    }

    fn run_in(
        &self,
        run: impl FnOnce(Ends) -> Result<RunReport, RunError>,
    ) -> (Result<RunReport, RunError>, Vec<Event>) {
        self.console.0.lock().unwrap().clear();
        let events = EventLog::in_memory();
        let ends = Ends {
            events: events.clone(),
            console_output: Box::new(self.console.clone()),
            console_input: None,
            virtio_output: Box::new(io::sink()),
            virtio_input: None,
            channels: std::mem::take(&mut *self.servers.lock().unwrap()),
            stop: StopSignal::new().unwrap(),
        };
        let report = run(ends);
        (report, events.collected().into_iter().map(|timed| timed.event).collect())
    }

    /// Runs the guest. Whatever becomes of it, nothing of it is left, and no rule of the platform was broken.
    pub(crate) fn run(&self) -> Ran {
        let (report, events) = self.try_run();
        let report = report.unwrap();
        assert!(report.teardown.is_clean(), "{:?}", report.teardown);
        assert!(self.kernel.is_empty());
        assert_eq!(self.kernel.platform().violations(), []);
        Ran { report, events }
    }

    /// What the guests' reports say they were measured as.
    pub(crate) fn measured(&self) -> Vec<Digest> {
        let reports = self.kernel.reports();
        reports.iter().map(|reported| Digest(field(&reported.report, MEASUREMENT))).collect()
    }

    /// Every ASID a VM got, in order.
    pub(crate) fn asids(&self) -> Vec<u32> {
        let events = self.kernel.platform().events();
        events
            .into_iter()
            .filter_map(|event| match event {
                HardwareEvent::AsidAllocated(asid) => Some(asid.0),
                _ => None,
            })
            .collect()
    }

    /// Has the guest's owner sign a launch.
    pub(crate) fn sign(&mut self, digest: Digest, policy: GuestPolicy) {
        let pem = include_str!("../../../tests/vectors/snp/idblock/id_key_test.pem");
        let key = IdKey::from_pem(pem).unwrap();
        let block = IdBlock::new(digest, policy, ImageIdentity::default());
        let auth = IdAuth::sign(&block, &key, None);
        self.inputs.signed = Some(Box::new(SignedBlock { block, auth }));
    }
}

pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().unwrap()
}

pub(crate) fn pages(gpa: u64, count: u64) -> GfnRange {
    GfnRange::from_request(Gpa(gpa), PageCount::new(count)).unwrap()
}

pub(crate) fn report(data: u8, certificates: Option<GfnRange>) -> Step {
    Step::Report { secrets: Gpa(abi::SNP_SECRETS), data: [data; 64], certificates }
}

pub(crate) fn change(range: GfnRange, to: Owner, way: Way) -> Step {
    Step::PageState { range, to, way, works: true }
}

/// Resets the machine.
pub(crate) fn reset() -> Step {
    Step::OutByte { port: abi::RESET_PORT, value: abi::RESET_VALUE }
}

/// The launch steps, with what is told of them.
pub(crate) fn steps(events: &[Event]) -> Vec<(String, Option<String>)> {
    let step = |event: &Event| match event {
        Event::LaunchStep { step, detail, .. } => Some((step.to_string(), detail.clone())),
        _ => None,
    };
    events.iter().filter_map(step).collect()
}

pub(crate) fn predicted(events: &[Event]) -> Digest {
    let steps = steps(events);
    let (_, digest) = steps.iter().find(|(step, _)| step == "predict the launch digest").unwrap();
    digest.as_deref().unwrap().parse().unwrap()
}

pub(crate) fn counter(report: &RunReport, name: &str) -> u64 {
    let snp = report.devices.iter().find(|device| device.name == "snp").unwrap();
    snp.counters.iter().find(|(counter, _)| counter == name).unwrap().1
}
