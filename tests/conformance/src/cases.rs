//! Named cases: each a question with the answer that Linux 7.2 gives.
//!
//! Owns: what a case is, how it is run and judged. Most are scripts ([`script`], `cases/*.cases`): operations with their
//! answers, in the notation that random runs print what they found in. Some are programs ([`native`]): where threads,
//! processes, signals or the kernel's own trace are needed. Does not own: how results are shown.
//!
//! A case passes if the kernel answers as the script says. If it answers otherwise, but as the model of this very kernel
//! does, it *differs*, and the quirk that explains it is named. Else it fails.

pub mod native;
pub mod script;

use serde::{Deserialize, Serialize};

use crate::kernel::Kernel;
use crate::op::{INIT_SHARED, MMAP};
use crate::real::{self, Real};

/// The kind of VM and of guest_memfd that a case is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Type 0, guest_memfd that the host can map: `MMAP | INIT_SHARED`.
    Shared,
    /// Type 1 (`KVM_X86_SW_PROTECTED_VM`), guest_memfd without flags.
    Private,
    /// Type 1, guest_memfd with `MMAP`: all of the guest's memory is in it.
    PrivateMmap,
    /// Type 0 and nothing in particular.
    Plain,
}

impl Kind {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::Shared, Self::Private, Self::PrivateMmap, Self::Plain];

    /// Its name in scripts and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Shared => "shared",
            Self::Private => "private",
            Self::PrivateMmap => "private-mmap",
            Self::Plain => "plain",
        }
    }

    /// The type of VM.
    #[must_use]
    pub fn vm_type(self) -> u32 {
        match self {
            Self::Shared | Self::Plain => 0,
            Self::Private | Self::PrivateMmap => 1,
        }
    }

    /// The flags of its guest_memfds.
    #[must_use]
    pub fn flags(self) -> u64 {
        match self {
            Self::Shared => MMAP | INIT_SHARED,
            Self::PrivateMmap => MMAP,
            Self::Private | Self::Plain => 0,
        }
    }

    /// Why a kernel cannot be asked about it, if it cannot.
    #[must_use]
    pub fn missing(self, kernel: &Kernel) -> Option<String> {
        let Some(features) = kernel.features.of_type(self.vm_type()) else {
            return Some(format!("no VM type {} (KVM_CAP_VM_TYPES)", self.vm_type()));
        };
        if self == Self::Plain {
            return None;
        }
        if !features.gmem {
            return Some(format!("no guest_memfd for VM type {} (KVM_CAP_GUEST_MEMFD)", self.vm_type()));
        }
        let lacking = self.flags() & !features.gmem_flags;
        (lacking != 0).then(|| format!("no guest_memfd flags {lacking:#x} (KVM_CAP_GUEST_MEMFD_FLAGS)"))
    }
}

/// What else a case needs of a kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// `KVM_PRE_FAULT_MEMORY`
    Prefault,
    /// `cachestat` on a guest_memfd
    Cachestat,
    /// VMs in debugfs
    Debugfs,
    /// `KVM_SET_MEMORY_ATTRIBUTES`
    Attributes,
    /// The function tracer of tracefs
    Trace,
}

impl Need {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "prefault" => Self::Prefault,
            "cachestat" => Self::Cachestat,
            "debugfs" => Self::Debugfs,
            "attributes" => Self::Attributes,
            "trace" => Self::Trace,
            _ => return None,
        })
    }

    /// Why a kernel does not have it, if it does not.
    #[must_use]
    pub fn missing(self, kernel: &Kernel) -> Option<String> {
        let features = &kernel.features;
        let (there, what) = match self {
            Self::Prefault => (features.prefault, "no KVM_PRE_FAULT_MEMORY (KVM_CAP_PRE_FAULT_MEMORY)"),
            Self::Cachestat => (features.cachestat, "no cachestat on a guest_memfd"),
            Self::Debugfs => (features.debugfs, "no VMs in debugfs"),
            Self::Attributes => (features.attributes_ioctl, "no KVM_SET_MEMORY_ATTRIBUTES"),
            Self::Trace => (native::trace::is_there(), "no function tracer in tracefs"),
        };
        (!there).then(|| what.to_owned())
    }
}

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "verdict")]
pub enum Verdict {
    /// As Linux 7.2.
    Passed,
    /// Otherwise, and it is known why.
    Differs {
        /// What the kernel does, and why.
        remark: String,
    },
    /// Otherwise.
    Failed {
        /// What the kernel does.
        detail: String,
    },
    /// Could not be asked.
    Skipped {
        /// Why.
        reason: String,
    },
}

/// A case that was run, or was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Result {
    /// Its name.
    pub name: String,
    /// The kind of VM it was asked of.
    pub kind: Kind,
    /// The question.
    pub about: String,
    /// Where it comes from: a selftest of the kernel, or a claim about it that nobody had tested.
    pub from: String,
    /// The answer.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// How a case is asked.
#[derive(Clone, Debug)]
pub enum Body {
    /// Operations with their answers.
    Script(String),
    /// A program.
    Native(fn(&Kernel, Kind) -> native::Outcome),
}

/// A question.
#[derive(Clone, Debug)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// The question, in a sentence.
    pub about: String,
    /// Where it comes from.
    pub from: String,
    /// What it is asked of.
    pub kinds: Vec<Kind>,
    /// What it needs.
    pub needs: Vec<Need>,
    /// How it is asked.
    pub body: Body,
}

impl Case {
    /// Asks this machine's kernel.
    #[must_use]
    pub fn run(&self, kernel: &Kernel, kind: Kind) -> Result {
        let missing = kind.missing(kernel).or_else(|| self.needs.iter().find_map(|need| need.missing(kernel)));
        let verdict = match (missing, &self.body) {
            (Some(reason), _) => Verdict::Skipped { reason },
            (None, Body::Native(run)) => run(kernel, kind).into(),
            (None, Body::Script(text)) => match Real::open() {
                Ok(mut real) => script::judge(&mut real, kernel, text, kind),
                Err(error) => Verdict::Failed { detail: error.to_string() },
            },
        };
        Result { name: self.name.clone(), kind, about: self.about.clone(), from: self.from.clone(), verdict }
    }
}

/// All of them, in the order in which they are shown.
pub fn all() -> std::result::Result<Vec<Case>, script::Error> {
    let mut cases = Vec::new();
    for text in script::TEXTS {
        cases.extend(script::cases(text)?);
    }
    cases.extend(script::generated());
    cases.extend(native::cases());
    Ok(cases)
}

/// Runs those whose name contains one of the words of `filter`, which commas separate, telling each result as it comes.
pub fn run(
    kernel: &Kernel,
    filter: &str,
    mut told: impl FnMut(&Result),
) -> std::result::Result<Vec<Result>, script::Error> {
    let mut results = Vec::new();
    for case in all()?.iter().filter(|case| filter.split(',').any(|part| case.name.contains(part))) {
        for kind in &case.kinds {
            let result = case.run(kernel, *kind);
            told(&result);
            results.push(result);
        }
    }
    Ok(results)
}

impl From<real::Error> for native::Failure {
    fn from(error: real::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
