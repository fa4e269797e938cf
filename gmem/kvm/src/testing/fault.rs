//! What is to go wrong: calls of the kernel port by name, the how manieth of each, and how.

use std::fmt;
use std::str::FromStr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::port::CallError;
use crate::port::snp::SnpCommand;

/// Declares the calls once: as values, by their names in the port and in the kernel, and as a list.
macro_rules! calls {
    ($($variant:ident $name:literal $kernel:literal),* $(,)?) => {
        /// A call of the kernel port.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum PortCall { $(#[doc = concat!("`", $name, "`: `", $kernel, "`")] $variant),* }

        impl PortCall {
            /// Every call.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// Its name in the port.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }

            /// The kernel's name of what it does.
            pub const fn kernel_name(self) -> &'static str {
                match self { $(Self::$variant => $kernel),* }
            }
        }
    };
}

calls! {
    CreateVm "create_vm" "KVM_CREATE_VM",
    SupportedCpuid "supported_cpuid" "KVM_GET_SUPPORTED_CPUID",
    CreateGmem "create_gmem" "KVM_CREATE_GUEST_MEMFD",
    CreateSlot "create_slot" "KVM_SET_USER_MEMORY_REGION2",
    DeleteSlot "delete_slot" "KVM_SET_USER_MEMORY_REGION2",
    SetOwner "set_owner" "KVM_SET_MEMORY_ATTRIBUTES",
    EnableConversionRequests "enable_conversion_requests" "KVM_ENABLE_CAP",
    TscKhz "tsc_khz" "KVM_GET_TSC_KHZ",
    TrapMsrs "trap_msrs" "KVM_X86_SET_MSR_FILTER",
    CreateInterruptController "create_interrupt_controller" "KVM_CREATE_IRQCHIP",
    SetIrqLine "set_irq_line" "KVM_IRQ_LINE",
    CreateVcpu "create_vcpu" "KVM_CREATE_VCPU",
    Discard "discard" "fallocate",
    Allocated "allocated" "cachestat",
    SetCpuid "set_cpuid" "KVM_SET_CPUID2",
    SetInitialState "set_initial_state" "KVM_SET_SREGS",
    SnpInit "snp_init" "KVM_SEV_INIT2",
    SnpEnableCertificateRequests "snp_enable_certificate_requests" "KVM_SEV_SNP_ENABLE_REQ_CERTS",
    SnpLaunchStart "snp_launch_start" "KVM_SEV_SNP_LAUNCH_START",
    SnpLaunchUpdate "snp_launch_update" "KVM_SEV_SNP_LAUNCH_UPDATE",
    SnpLaunchFinish "snp_launch_finish" "KVM_SEV_SNP_LAUNCH_FINISH",
    Run "run" "KVM_RUN",
    Prefault "prefault" "KVM_PRE_FAULT_MEMORY",
    CompleteExit "complete_exit" "KVM_RUN",
}

impl PortCall {
    /// The calls only SNP guests need.
    pub const SNP: [Self; 7] = [
        Self::SnpInit,
        Self::SnpEnableCertificateRequests,
        Self::SnpLaunchStart,
        Self::SnpLaunchUpdate,
        Self::SnpLaunchFinish,
        Self::Prefault,
        Self::CompleteExit,
    ];

    /// Which call an SNP command is.
    pub const fn of_snp(command: &SnpCommand<'_>) -> Self {
        match command {
            SnpCommand::Init { .. } => Self::SnpInit,
            SnpCommand::EnableCertificateRequests => Self::SnpEnableCertificateRequests,
            SnpCommand::LaunchStart { .. } => Self::SnpLaunchStart,
            SnpCommand::LaunchFinish(_) => Self::SnpLaunchFinish,
        }
    }
}

/// The errors a kernel answers these calls with.
const ERRNOS: [(&str, Errno); 16] = [
    ("EPERM", Errno::PERM),
    ("ENOENT", Errno::NOENT),
    ("EINTR", Errno::INTR),
    ("EIO", Errno::IO),
    ("E2BIG", Errno::TOOBIG),
    ("EBADF", Errno::BADF),
    ("EAGAIN", Errno::AGAIN),
    ("ENOMEM", Errno::NOMEM),
    ("EFAULT", Errno::FAULT),
    ("EBUSY", Errno::BUSY),
    ("EEXIST", Errno::EXIST),
    ("EINVAL", Errno::INVAL),
    ("ENFILE", Errno::NFILE),
    ("EMFILE", Errno::MFILE),
    ("ENOSPC", Errno::NOSPC),
    ("EHWPOISON", Errno::HWPOISON),
];

/// What a call that fails on demand does besides failing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Effect {
    /// It fails before it changes anything.
    Nothing,
    /// It does all it was asked for, and then says it failed. What it made is closed again.
    Done,
}

/// The how manieth call of a kind, from 1: `CALL` or `CALL:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Moment {
    /// Which call.
    pub call: PortCall,
    /// Which of them.
    pub number: u64,
}

/// A call that is answered with an error: `CALL[:N]=ERRNO`, or `CALL[:N]=done,ERRNO` if it takes effect all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Failure {
    /// Which call.
    pub at: Moment,
    /// With which.
    pub errno: i32,
    /// What it does besides.
    pub effect: Effect,
}

/// A word on the command line that says no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// No such call.
    #[error("`{name}` is no call of the kernel port; these are: {}", PortCall::ALL.map(PortCall::name).join(", "))]
    Call {
        /// What was asked for.
        name: String,
    },
    /// Not a number.
    #[error("call number `{number}` is not a number from 1")]
    Number {
        /// What was asked for.
        number: String,
    },
    /// No such error.
    #[error("`{errno}` is none of {}", ERRNOS.map(|(name, _)| name).join(", "))]
    Errno {
        /// What was asked for.
        errno: String,
    },
    /// No error at all.
    #[error("`{text}` does not say how the call fails, as in create_vcpu:2=ENOMEM")]
    NoErrno {
        /// What was asked for.
        text: String,
    },
}

impl FromStr for Moment {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let (name, number) = text.split_once(':').unwrap_or((text, "1"));
        let call = PortCall::ALL.into_iter().find(|call| call.name() == name);
        let call = call.ok_or_else(|| FaultError::Call { name: name.to_owned() })?;
        match number.parse() {
            Ok(number @ 1..) => Ok(Self { call, number }),
            _ => Err(FaultError::Number { number: number.to_owned() }),
        }
    }
}

impl FromStr for Failure {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        let (at, how) = text.split_once('=').ok_or_else(|| FaultError::NoErrno { text: text.to_owned() })?;
        let (effect, name) = match how.strip_prefix("done,") {
            Some(name) => (Effect::Done, name),
            None => (Effect::Nothing, how),
        };
        let errno = ERRNOS.iter().find(|(known, _)| *known == name);
        let (_, errno) = errno.ok_or_else(|| FaultError::Errno { errno: name.to_owned() })?;
        Ok(Self { at: at.parse()?, errno: errno.raw_os_error(), effect })
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.call.name(), self.number)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let done = if self.effect == Effect::Done { "done," } else { "" };
        match ERRNOS.iter().find(|(_, errno)| errno.raw_os_error() == self.errno) {
            Some((name, _)) => write!(f, "{}={done}{name}", self.at),
            None => write!(f, "{}={done}{}", self.at, self.errno),
        }
    }
}

/// Everything that is to go wrong, and how far it has come.
#[derive(Debug, Default)]
pub struct Faults(Mutex<Progress>);

#[derive(Debug, Default)]
struct Progress {
    counts: [u64; PortCall::ALL.len()],
    failures: Vec<Failure>,
    always: Vec<(PortCall, i32)>,
    panics: Vec<Moment>,
    struck: u64,
}

impl Faults {
    /// These.
    pub fn new(failures: Vec<Failure>, panics: Vec<Moment>) -> Self {
        Self(Mutex::new(Progress { failures, panics, ..Progress::default() }))
    }

    /// Makes the `nth` of these calls from now on (1 is the next) fail.
    pub fn fail(&self, call: PortCall, nth: u64, errno: i32, effect: Effect) {
        let mut progress = self.progress();
        let at = Moment { call, number: progress.counts[call as usize] + nth };
        progress.failures.push(Failure { at, errno, effect });
    }

    /// Makes all of these calls fail until [`Self::heal`].
    pub fn fail_always(&self, call: PortCall, errno: i32) {
        self.progress().always.push((call, errno));
    }

    /// No call fails any more.
    pub fn heal(&self) {
        let mut progress = self.progress();
        progress.failures.clear();
        progress.always.clear();
    }

    /// How many of these calls there have been.
    pub fn count(&self, call: PortCall) -> u64 {
        self.progress().counts[call as usize]
    }

    /// How many calls have failed because it was asked for.
    pub fn struck(&self) -> u64 {
        self.progress().struck
    }

    /// Makes a call, unless it is to fail.
    pub(super) fn around<R>(
        &self,
        call: PortCall,
        make: impl FnOnce() -> Result<R, CallError>,
    ) -> Result<R, CallError> {
        match self.strike(call) {
            None => make(),
            Some((Effect::Nothing, error)) => Err(error),
            Some((Effect::Done, error)) => make().and(Err(error)),
        }
    }

    /// To be asked before each call: how it fails, if it is to.
    ///
    /// # Panics
    ///
    /// Where it was asked to.
    fn strike(&self, call: PortCall) -> Option<(Effect, CallError)> {
        let mut progress = self.progress();
        progress.counts[call as usize] += 1;
        let now = Moment { call, number: progress.counts[call as usize] };
        let panics = progress.panics.contains(&now);
        let once = progress.failures.iter().find(|failure| failure.at == now);
        let once = once.map(|failure| (failure.effect, failure.errno));
        let always = progress.always.iter().find(|(other, _)| *other == call);
        let found = once.or(always.map(|(_, errno)| (Effect::Nothing, *errno)));
        progress.struck += u64::from(found.is_some());
        drop(progress);
        assert!(!panics, "panic asked for at {now}");
        let error = |errno| CallError::new(call.kernel_name(), format_args!("failure asked for at {now}"), errno);
        found.map(|(effect, errno)| (effect, error(errno)))
    }

    /// Nothing is half done while it is locked, so a panic elsewhere means nothing.
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn errno(struck: Option<(Effect, CallError)>) -> Option<(Effect, i32)> {
        struck.map(|(effect, error)| (effect, error.errno))
    }

    #[test]
    fn only_the_call_named_fails() {
        let faults = Faults::new(vec!["create_slot:2=ENOMEM".parse().unwrap()], vec!["run:3".parse().unwrap()]);
        assert_eq!(faults.strike(PortCall::CreateSlot), None);
        assert_eq!(faults.strike(PortCall::DeleteSlot), None);
        let (effect, error) = faults.strike(PortCall::CreateSlot).unwrap();
        assert_eq!((effect, error.call, error.errno), (Effect::Nothing, "KVM_SET_USER_MEMORY_REGION2", 12));
        assert_eq!(faults.strike(PortCall::CreateSlot), None);
        assert_eq!((faults.count(PortCall::CreateSlot), faults.struck()), (3, 1));
        assert_eq!((faults.strike(PortCall::Run), faults.strike(PortCall::Run)), (None, None));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| faults.strike(PortCall::Run))).unwrap_err();
        assert_eq!(faults.strike(PortCall::Run), None);
    }

    #[test]
    fn numbers_count_from_the_moment_they_are_asked_for() {
        let faults = Faults::default();
        assert_eq!(faults.strike(PortCall::Discard), None);
        faults.fail(PortCall::Discard, 2, 5, Effect::Done);
        assert_eq!(faults.strike(PortCall::Discard), None);
        assert_eq!(errno(faults.strike(PortCall::Discard)), Some((Effect::Done, 5)));
        faults.fail_always(PortCall::Discard, 4);
        assert_eq!(errno(faults.strike(PortCall::Discard)), Some((Effect::Nothing, 4)));
        faults.heal();
        assert_eq!(faults.strike(PortCall::Discard), None);
    }

    #[test]
    fn every_failure_is_read_back() {
        for call in PortCall::ALL {
            assert_eq!(call.name().parse(), Ok(Moment { call, number: 1 }));
            for (_, errno) in ERRNOS {
                for effect in [Effect::Nothing, Effect::Done] {
                    let failure = Failure { at: Moment { call, number: 7 }, errno: errno.raw_os_error(), effect };
                    assert_eq!(failure.to_string().parse(), Ok(failure));
                }
            }
        }
    }

    #[test]
    fn bad_words_are_named() {
        let error = |text: &str| text.parse::<Failure>().unwrap_err().to_string();
        assert!(
            error("create_vn=EIO").starts_with("`create_vn` is no call of the kernel port; these are: create_vm, ")
        );
        assert_eq!(error("run:0=EIO"), "call number `0` is not a number from 1");
        assert!(error("run=EOK").starts_with("`EOK` is none of EPERM, "));
        assert!(error("run:2").starts_with("`run:2` does not say how the call fails"));
    }

    proptest! {
        #[test]
        fn any_text_is_a_fault_or_an_error(text in "[a-z_]{0,12}[:=]?[0-9]{0,3}=?(done,)?[A-Z]{0,6}") {
            if let Err(error) = text.parse::<Failure>() {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
