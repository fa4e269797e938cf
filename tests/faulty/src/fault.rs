//! What is to go wrong: calls of the kernel port by name, the how manieth of each, and how.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use gmem_kvm::port::CallError;
use rustix::io::Errno;

/// Declares the calls once: as values, by name, and as a list.
macro_rules! calls {
    ($($variant:ident $name:literal),* $(,)?) => {
        /// A call of the kernel port.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Call { $(#[doc = concat!("`", $name, "`")] $variant),* }

        impl Call {
            /// Every call.
            pub(crate) const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// Its name in the port.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

calls! {
    CreateVm "create_vm",
    SupportedCpuid "supported_cpuid",
    CreateGmem "create_gmem",
    CreateSlot "create_slot",
    DeleteSlot "delete_slot",
    SetOwner "set_owner",
    EnableConversionRequests "enable_conversion_requests",
    TscKhz "tsc_khz",
    TrapMsrs "trap_msrs",
    CreateInterruptController "create_interrupt_controller",
    SetIrqLine "set_irq_line",
    CreateVcpu "create_vcpu",
    Discard "discard",
    Allocated "allocated",
    SetCpuid "set_cpuid",
    SetInitialState "set_initial_state",
    Run "run",
    CompleteExit "complete_exit",
}

/// The errors a kernel answers these calls with.
const ERRNOS: [(&str, Errno); 10] = [
    ("EPERM", Errno::PERM),
    ("EIO", Errno::IO),
    ("EBADF", Errno::BADF),
    ("ENOMEM", Errno::NOMEM),
    ("EFAULT", Errno::FAULT),
    ("EBUSY", Errno::BUSY),
    ("EEXIST", Errno::EXIST),
    ("EINVAL", Errno::INVAL),
    ("EMFILE", Errno::MFILE),
    ("ENOSPC", Errno::NOSPC),
];

/// The how manieth call of a kind, from 1: `CALL` or `CALL:N`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Which call.
    pub(crate) call: Call,
    /// Which of them.
    pub(crate) number: u64,
}

/// A call that is answered with an error: `CALL[:N]=ERRNO`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Failure {
    /// Which call.
    pub(crate) at: Moment,
    /// With which.
    pub(crate) errno: i32,
}

/// A word on the command line that says no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FaultError {
    /// No such call.
    #[error("`{name}` is no call of the kernel port; these are: {}", Call::ALL.map(Call::name).join(", "))]
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
        let call = Call::ALL.into_iter().find(|call| call.name() == name);
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
        let (at, name) = text.split_once('=').ok_or_else(|| FaultError::NoErrno { text: text.to_owned() })?;
        let errno = ERRNOS.iter().find(|(known, _)| *known == name);
        let (_, errno) = errno.ok_or_else(|| FaultError::Errno { errno: name.to_owned() })?;
        Ok(Self { at: at.parse()?, errno: errno.raw_os_error() })
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.call.name(), self.number)
    }
}

/// Everything that is to go wrong in one run, and how far it has come.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    failures: Vec<Failure>,
    panics: Vec<Moment>,
    counts: [AtomicU64; Call::ALL.len()],
}

impl Faults {
    /// These.
    pub(crate) fn new(failures: Vec<Failure>, panics: Vec<Moment>) -> Self {
        Self { failures, panics, counts: Default::default() }
    }

    /// To be asked before each call: an answer is given instead of the call.
    ///
    /// # Panics
    ///
    /// Where it was asked to.
    pub(crate) fn pass(&self, call: Call) -> Result<(), CallError> {
        let number = self.counts[call as usize].fetch_add(1, Ordering::SeqCst) + 1;
        let now = Moment { call, number };
        assert!(!self.panics.contains(&now), "panic asked for at {now}");
        match self.failures.iter().find(|failure| failure.at == now) {
            Some(failure) => {
                Err(CallError::new(call.name(), format_args!("failure asked for at {now}"), failure.errno))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_call_named_fails() {
        let faults = Faults::new(vec!["create_slot:2=ENOMEM".parse().unwrap()], vec!["run:3".parse().unwrap()]);
        assert_eq!(faults.pass(Call::CreateSlot), Ok(()));
        assert_eq!(faults.pass(Call::DeleteSlot), Ok(()));
        let error = faults.pass(Call::CreateSlot).unwrap_err();
        assert_eq!((error.call, error.errno), ("create_slot", 12));
        assert_eq!(faults.pass(Call::CreateSlot), Ok(()));
        assert_eq!((faults.pass(Call::Run), faults.pass(Call::Run)), (Ok(()), Ok(())));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| faults.pass(Call::Run))).unwrap_err();
    }

    #[test]
    fn every_call_is_read_back() {
        for call in Call::ALL {
            assert_eq!(call.name().parse(), Ok(Moment { call, number: 1 }));
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
        fn any_text_is_a_fault_or_an_error(text in "[a-z_]{0,12}[:=]?[0-9]{0,3}=?[A-Z]{0,6}") {
            if let Err(error) = text.parse::<Failure>() {
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
