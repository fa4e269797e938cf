//! A prediction with every page, as `tenure measure snp --trace --json` wrote it, read back.
//!
//! Owns the checks: what is wrong with a file is said with the file's name and the field's. The digests must follow from
//! the pages, so that where they part two launches part.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use gmem::{Gpa, PAGE_SIZE};
use serde_json::Value;
use snp::digest::{Digest, PageType};
use snp::hex;

use super::told::Told;

/// The settings a prediction names, by their keys.
pub const SETTINGS: [&str; 7] =
    ["vmm", "memory_bytes", VCPUS, "tsc_khz", "vcpu_type", "guest_features", "firmware_sha256"];
/// Those of them that are numbers.
const NUMBERS: [&str; 3] = TOLD;
/// Those of them that our firmware is told.
pub const TOLD: [&str; 3] = ["memory_bytes", VCPUS, "tsc_khz"];
/// The number of vCPUs, which our firmware is told.
pub const VCPUS: &str = "vcpus";

/// Larger than any trace of a guest's first 4 GiB.
const MAX_BYTES: u64 = 512 << 20;

/// Bytes of a page.
const PAGE_BYTES: usize = 4096;

/// Where a trace comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A file, or a pipe with a name.
    File(PathBuf),
    /// Standard input.
    StandardInput,
    /// What came with a guest's evidence.
    Evidence,
}

/// A trace, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    /// The settings that it names, by their keys.
    pub settings: Vec<(&'static str, String)>,
    /// Of what the firmware copies, if it does: what it is, and its SHA-256.
    pub pieces: Option<Vec<(String, String)>>,
    /// What our firmware was told, from a page of these: whoever has the digest of a launch knows that it was measured.
    pub told: Option<Told>,
    /// SHA-384 of that page.
    pub(super) told_in: Option<Digest>,
    /// Every page, in order.
    pub pages: Vec<TracedPage>,
}

/// A page that is given to the PSP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TracedPage {
    /// As what.
    pub page_type: PageType,
    /// Where.
    pub gpa: Gpa,
    /// SHA-384 of its contents, or zeros where they do not count.
    pub contents: Digest,
    /// The launch digest after it.
    pub digest: Digest,
    /// What it belongs to.
    pub label: String,
}

/// Why a trace cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// The file.
    #[error("trace {from} cannot be read: {source}")]
    Read {
        /// Which.
        from: Source,
        /// What the system says.
        source: io::Error,
    },
    /// It is no trace of ours.
    #[error("trace {from} is larger than {} MiB", MAX_BYTES >> 20)]
    TooLarge {
        /// Which.
        from: Source,
    },
    /// It is something else.
    #[error("trace {from} is not JSON: {source}")]
    NotJson {
        /// Which.
        from: Source,
        /// Where and why.
        source: serde_json::Error,
    },
    /// Something in it.
    #[error("trace {from}: field {field}: {problem}")]
    Field {
        /// Which.
        from: Source,
        /// The field, by its path.
        field: String,
        /// What is wrong with it.
        problem: String,
    },
    /// It can be read once only.
    #[error("both traces are -, but standard input can be only one of them")]
    BothStandardInput,
}

impl Source {
    /// What a command line calls it: a path, or `-`.
    pub fn named(path: &Path) -> Self {
        if path == Path::new("-") { Self::StandardInput } else { Self::File(path.to_owned()) }
    }

    /// Everything that is there.
    pub fn read(&self) -> Result<Vec<u8>, TraceError> {
        let failed = |source| TraceError::Read { from: self.clone(), source };
        let mut bytes = Vec::new();
        let read = |from: &mut dyn Read, bytes: &mut Vec<u8>| from.take(MAX_BYTES + 1).read_to_end(bytes);
        match self {
            Self::File(path) => read(&mut File::open(path).map_err(failed)?, &mut bytes),
            Self::StandardInput => read(&mut io::stdin().lock(), &mut bytes),
            // That is never read from anywhere.
            Self::Evidence => Ok(0),
        }
        .map_err(failed)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(TraceError::TooLarge { from: self.clone() });
        }
        Ok(bytes)
    }
}

impl Trace {
    /// Reads and checks.
    pub fn read(from: &Source) -> Result<Self, TraceError> {
        Self::parse(from, &from.read()?)
    }

    /// Checks what was read from there.
    pub fn parse(from: &Source, bytes: &[u8]) -> Result<Self, TraceError> {
        let value: Value =
            serde_json::from_slice(bytes).map_err(|source| TraceError::NotJson { from: from.clone(), source })?;
        let wrong = |(field, problem)| TraceError::Field { from: from.clone(), field, problem };
        let setting = |name: &'static str| match &value[name] {
            Value::Null => None,
            set if NUMBERS.contains(&name) => {
                Some(number(set, name.to_owned()).map(|number| (name, number.to_string())))
            }
            set => Some(text(set, name.to_owned()).map(|text| (name, text.to_owned()))),
        };
        let settings = SETTINGS.into_iter().filter_map(setting).collect::<Result<_, _>>().map_err(wrong)?;
        let pieces = match &value["pieces"] {
            Value::Null => None,
            listed => Some(pieces(listed).map_err(wrong)?),
        };
        let listed = value["pages"].as_array().filter(|pages| !pages.is_empty()).ok_or_else(|| {
            wrong(("pages".to_owned(), "there are no pages; measure snp writes them with --trace --json".to_owned()))
        })?;
        let (mut pages, mut digest) = (Vec::with_capacity(listed.len()), Digest::ZERO);
        for (number, listed) in listed.iter().enumerate() {
            let page = page(listed, number, digest).map_err(wrong)?;
            digest = page.digest;
            pages.push(page);
        }
        let told = match &value["parameters"] {
            Value::Null => None,
            said => Some(told(said, &pages).map_err(wrong)?),
        };
        let trace = Self { settings, pieces, told: None, told_in: None, pages };
        Ok(match told {
            Some((told, contents)) => trace.believing(told, contents),
            None => trace,
        })
    }

    /// The launch digest that all of this comes to.
    pub fn launch_digest(&self) -> Digest {
        self.pages.last().map_or(Digest::ZERO, |page| page.digest)
    }

    /// What was measured counts, whatever else stands beside it.
    fn believing(mut self, told: Told, page: Digest) -> Self {
        let Told { memory_bytes, vcpus, tsc_khz, pieces } = &told;
        let values = [*memory_bytes, u64::from(*vcpus), u64::from(*tsc_khz)];
        self.settings.retain(|(name, _)| !TOLD.contains(name));
        self.settings.extend(TOLD.into_iter().zip(values.map(|value| value.to_string())));
        self.pieces = Some(pieces.clone());
        Self { told: Some(told), told_in: Some(page), ..self }
    }
}

impl TracedPage {
    /// Whether this is the page of `trace` with what the firmware is told.
    pub fn tells(&self, trace: &Trace) -> bool {
        trace.told_in == Some(self.contents)
    }
}

/// Characters of a name that is not known.
const SHOWN_CHARS: usize = 32;

/// A field and what is wrong with it.
type Wrong = (String, String);

fn page(value: &Value, number: usize, before: Digest) -> Result<TracedPage, Wrong> {
    let path = |name: &str| format!("pages[{number}].{name}");
    let text = |name: &str| text(&value[name], path(name));
    let wrong = |name: &str, problem: &str| (path(name), problem.to_owned());
    let digest = |name: &str| text(name)?.parse::<Digest>().map_err(|error| (path(name), error.to_string()));

    let digits = text("gpa")?.strip_prefix("0x").filter(|digits| !digits.starts_with('+'));
    let gpa = digits.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    let gpa = gpa.filter(|gpa| gpa.is_multiple_of(PAGE_SIZE)).map(Gpa);
    let gpa = gpa.ok_or_else(|| wrong("gpa", "it is not a page's address in hexadecimal, like 0xfffff000"))?;
    let name = text("page_type")?;
    let page_type = PageType::ALL.into_iter().find(|known| known.to_string() == name);
    let page_type = page_type.ok_or_else(|| {
        let known = PageType::ALL.map(|known| known.to_string()).join(", ");
        let shown: String = name.chars().take(SHOWN_CHARS).collect();
        (path("page_type"), format!("{shown:?} is none of {known}"))
    })?;
    let contents = digest("contents")?;
    if !page_type.is_measured() && contents != Digest::ZERO {
        return Err(wrong("contents", &format!("those of a page of type {page_type} do not count: it must be zeros")));
    }
    let after = digest("launch_digest")?;
    if after != before.extended(page_type, gpa, contents) {
        return Err(wrong("launch_digest", "it is not what comes of this page and the digest before it"));
    }
    Ok(TracedPage { page_type, gpa, contents, digest: after, label: text("label")?.to_owned() })
}

/// The page with what the firmware is told must be one of those that were measured.
fn told(value: &Value, pages: &[TracedPage]) -> Result<(Told, Digest), Wrong> {
    let path = || "parameters".to_owned();
    let bytes = text(value, path())?;
    let bytes = hex::parse_up_to(bytes, PAGE_BYTES).map_err(|error| (path(), error.to_string()))?;
    let contents = Digest::of_page(&bytes);
    if !pages.iter().any(|page| page.page_type == PageType::Normal && page.contents == contents) {
        return Err((path(), format!("no page has these contents, whose SHA-384 is {contents}")));
    }
    let told = Told::read(&bytes);
    let told = told.ok_or_else(|| (path(), "this version of tenure's firmware is not told such things".to_owned()))?;
    Ok((told, contents))
}

fn pieces(value: &Value) -> Result<Vec<(String, String)>, Wrong> {
    let listed = value.as_array().ok_or_else(|| ("pieces".to_owned(), "it is not a list".to_owned()))?;
    let piece = |(number, piece): (usize, &Value)| {
        let text = |name: &str| text(&piece[name], format!("pieces[{number}].{name}")).map(str::to_owned);
        Ok((text("label")?, text("sha256")?))
    };
    listed.iter().enumerate().map(piece).collect()
}

fn number(value: &Value, path: String) -> Result<u64, Wrong> {
    value.as_u64().ok_or_else(|| (path, "it is not a number".to_owned()))
}

fn text(value: &Value, path: String) -> Result<&str, Wrong> {
    value.as_str().ok_or_else(|| match value {
        Value::Null => (path, "it is missing".to_owned()),
        _ => (path, "it is not a text".to_owned()),
    })
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "`{}`", path.display()),
            Self::StandardInput => f.write_str("on standard input"),
            Self::Evidence => f.write_str("in the evidence"),
        }
    }
}

#[cfg(test)]
impl Trace {
    /// A trace of these pages, of which nothing else is said.
    pub(super) fn of(pages: Vec<TracedPage>) -> Self {
        Self { settings: Vec::new(), pieces: None, told: None, told_in: None, pages }
    }

    /// The same, with a page that tells this.
    pub(super) fn told_by(&mut self, told: Told, page: &str) {
        let before = std::mem::replace(self, Self::of(Vec::new()));
        *self = before.believing(told, Digest::of_page(page.as_bytes()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn source() -> Source {
        Source::named(Path::new("a.json"))
    }

    fn trace() -> Value {
        let (gpa, contents) = (Gpa(0xffff_f000), Digest::of_page(b"page"));
        let digest = Digest::ZERO.extended(PageType::Normal, gpa, contents);
        json!({ "vmm": "qemu", "pages": [{
            "gpa": "0x0000fffff000", "page_type": "normal", "label": "firmware",
            "contents": contents.to_string(), "launch_digest": digest.to_string(),
        }]})
    }

    /// no-silent-trust: each field, wrong.
    #[test]
    fn no_silent_trust_fields() {
        let says = |field: &str, value: Value, expected: &str| {
            let mut trace = trace();
            match field {
                "vmm" | "memory_bytes" | "pieces" | "parameters" | "pages" => trace[field] = value,
                of_page => trace["pages"][0][of_page] = value,
            }
            let error = Trace::parse(&source(), trace.to_string().as_bytes()).unwrap_err().to_string();
            assert_eq!(error, format!("trace `a.json`: field {expected}"));
        };
        assert!(Trace::parse(&source(), trace().to_string().as_bytes()).is_ok());
        says("vmm", json!(1), "vmm: it is not a text");
        says("memory_bytes", json!("512M"), "memory_bytes: it is not a number");
        says("pieces", json!("kernel"), "pieces: it is not a list");
        says("pieces", json!([{ "label": "kernel" }]), "pieces[0].sha256: it is missing");
        says("parameters", json!(1), "parameters: it is not a text");
        says("parameters", json!("0"), "parameters: it has 1 characters; 2 hexadecimal digits are wanted");
        let hash = Digest::of_page(&[0xab]);
        says("parameters", json!("ab"), &format!("parameters: no page has these contents, whose SHA-384 is {hash}"));
        let other = "parameters: this version of tenure's firmware is not told such things";
        says("parameters", json!(hex::text(b"page")), other);
        for pages in [json!({}), json!([]), Value::Null] {
            says("pages", pages, "pages: there are no pages; measure snp writes them with --trace --json");
        }
        says("label", Value::Null, "pages[0].label: it is missing");
        says("gpa", json!(4096), "pages[0].gpa: it is not a text");
        for gpa in ["", "0x", "1000", "0x1001", "0x+1000", "0x1_000", "0x10000000000000000"] {
            says("gpa", json!(gpa), "pages[0].gpa: it is not a page's address in hexadecimal, like 0xfffff000");
        }
        let types = "pages[0].page_type: \"Normal\" is none of normal, VMSA, zero, unmeasured, secrets, CPUID";
        says("page_type", json!("Normal"), types);
        says(
            "page_type",
            json!("zero"),
            "pages[0].contents: those of a page of type zero do not count: it must be zeros",
        );
        says("contents", json!("00"), "pages[0].contents: it has 2 characters; 96 hexadecimal digits are wanted");
        let chain = "pages[0].launch_digest: it is not what comes of this page and the digest before it";
        says("contents", json!("00".repeat(48)), chain);
        says("gpa", json!("0x1000"), chain);
    }

    proptest! {
        #[test]
        fn no_silent_trust_any_bytes(at in 0usize..400, bytes in prop::collection::vec(any::<u8>(), 0..5)) {
            let mut text = trace().to_string().into_bytes();
            let at = at.min(text.len());
            let end = (at + bytes.len()).min(text.len());
            text.splice(at..end, bytes);
            if let Err(error) = Trace::parse(&source(), &text) {
                prop_assert!(error.to_string().contains("a.json"));
            }
        }
    }
}
