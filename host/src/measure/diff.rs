//! Where two traces of launches part: what comes after the first page that is not the same says nothing, for all later
//! digests differ.
//!
//! Owns the comparison and what kind of difference it is. What the traces hold has been checked by [`super::trace`].

use serde::Serialize;
use snp::digest::PageType;

use super::Page;
use super::trace::{SETTINGS, TOLD, Trace, TracedPage, VCPUS};

/// Two traces, compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// Pages that are the same before the first that is not.
    pub equal_pages: usize,
    /// How they part, unless they are equal.
    pub difference: Option<Kind>,
    /// The one.
    pub a: Side,
    /// The other.
    pub b: Side,
    /// Settings that are not the same, of those that both name; what the firmware copies is among them if both name it.
    pub settings: Vec<Setting>,
}

/// How one trace goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Side {
    /// How many pages it has.
    pub pages: usize,
    /// How many of them are vCPUs.
    pub vcpus: usize,
    /// The page after the equal ones, if there is one.
    pub next: Option<Page>,
}

/// A setting that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Setting {
    /// Its key, or what it is.
    pub name: String,
    /// In the one.
    pub a: String,
    /// In the other.
    pub b: String,
}

/// How two traces part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The same place and type, but other contents.
    Contents,
    /// The same place, but another type.
    Type,
    /// Each has the other's page as well, but later.
    Order,
    /// The page is the one's only.
    OnlyA,
    /// The page is the other's only.
    OnlyB,
    /// Neither has the other's page.
    Place,
    /// The rest of the longer one are vCPUs.
    Vcpus,
    /// One ends, and the other goes on with more than vCPUs.
    Length,
}

/// Compares.
pub fn diff(a: &Trace, b: &Trace) -> Comparison {
    // Labels are words, and no part of a launch.
    let same = |(a, b): &(&TracedPage, &TracedPage)| a.digest == b.digest;
    let equal_pages = a.pages.iter().zip(&b.pages).take_while(same).count();
    let difference =
        kind(a.pages.get(equal_pages..).unwrap_or_default(), b.pages.get(equal_pages..).unwrap_or_default());
    let mut settings = settings(a, b);
    let (a, b) = (side(a, equal_pages), side(b, equal_pages));
    // Our firmware is told their number, so that the first page that differs need not be a vCPU.
    let is_told = settings.iter().any(|setting| setting.name == VCPUS);
    if a.vcpus != b.vcpus && difference != Some(Kind::Vcpus) && !is_told {
        settings.push(Setting { name: VCPUS.to_owned(), a: a.vcpus.to_string(), b: b.vcpus.to_string() });
    }
    Comparison { equal_pages, difference, a, b, settings }
}

/// What differs, by name, of a launch `b` that somebody else tells of: only what was measured counts, and names are those
/// of `a`, which is expected.
///
/// What our firmware was told comes first. If that differs, pages that only one of them has follow from it, and are not
/// named.
pub fn items(a: &Trace, b: &Trace) -> Vec<String> {
    let mut items = Vec::new();
    if let (Some(told_a), Some(told_b)) = (&a.told, &b.told)
        && told_a != told_b
    {
        let is_told = |name: &str| TOLD.contains(&name) || !SETTINGS.contains(&name);
        items.extend(settings(a, b).into_iter().map(|setting| setting.name).filter(|name| is_told(name)));
    }
    let told = !items.is_empty();
    for page in &a.pages {
        let other = b.pages.iter().filter(|other| (other.gpa, other.page_type) == (page.gpa, page.page_type));
        let differs = match other.clone().count() {
            0 => !told,
            // vCPUs share their place.
            _ => other.clone().all(|other| other.contents != page.contents) && !(told && page.tells(a)),
        };
        if differs && !items.contains(&page.label) {
            items.push(page.label.clone());
        }
    }
    let added = b.pages.iter().find(|page| a.pages.iter().all(|other| other.gpa != page.gpa)).filter(|_| !told);
    items.extend(added.map(|page| format!("a page at {:#x} that is not expected", page.gpa.0)));
    items
}

fn settings(a: &Trace, b: &Trace) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut note = |name: &str, a: String, b: String| {
        if a != b {
            settings.push(Setting { name: name.to_owned(), a, b });
        }
    };
    for name in SETTINGS {
        let of = |trace: &Trace| trace.settings.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        if let (Some(a), Some(b)) = (of(a), of(b)) {
            note(name, a, b);
        }
    }
    if let (Some(a), Some(b)) = (&a.pieces, &b.pieces) {
        let of = |pieces: &[(String, String)], label: &str| {
            let piece = pieces.iter().find(|(other, _)| other == label);
            piece.map_or_else(|| "none".to_owned(), |(_, sha256)| sha256.clone())
        };
        let only_b = b.iter().filter(|(label, _)| a.iter().all(|(other, _)| other != label));
        for (label, _) in a.iter().chain(only_b) {
            note(label, of(a, label), of(b, label));
        }
    }
    settings
}

fn side(trace: &Trace, equal: usize) -> Side {
    let vcpus = trace.pages.iter().filter(|page| page.page_type == PageType::Vmsa).count();
    Side { pages: trace.pages.len(), vcpus, next: trace.pages.get(equal).map(Page::from) }
}

/// What two rests differ in.
fn kind(a: &[TracedPage], b: &[TracedPage]) -> Option<Kind> {
    let (first_a, first_b) = match (a.first(), b.first()) {
        (Some(a), Some(b)) => (a, b),
        (None, None) => return None,
        _ => {
            let vcpus_only = a.iter().chain(b).all(|page| page.page_type == PageType::Vmsa);
            return Some(if vcpus_only { Kind::Vcpus } else { Kind::Length });
        }
    };
    if first_a.gpa == first_b.gpa {
        return Some(if first_a.page_type == first_b.page_type { Kind::Contents } else { Kind::Type });
    }
    let has = |pages: &[TracedPage], wanted: &TracedPage| pages.iter().any(|page| page.gpa == wanted.gpa);
    Some(match (has(a, first_b), has(b, first_a)) {
        (true, true) => Kind::Order,
        (true, false) => Kind::OnlyA,
        (false, true) => Kind::OnlyB,
        (false, false) => Kind::Place,
    })
}

impl Kind {
    /// For people.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Contents => "then the same page has other contents",
            Self::Type => "then the same page is added as another type",
            Self::Order => "then the same pages come in another order",
            Self::OnlyA => "then A has a page that B does not have",
            Self::OnlyB => "then B has a page that A does not have",
            Self::Place => "then they go on at different places",
            Self::Vcpus => "then one has more vCPUs",
            Self::Length => "then one ends, and the other goes on",
        }
    }
}

impl From<&TracedPage> for Page {
    fn from(page: &TracedPage) -> Self {
        Self {
            gpa: format!("{:#014x}", page.gpa.0),
            page_type: page.page_type.to_string(),
            label: page.label.clone(),
            contents: page.contents.to_string(),
            launch_digest: page.digest.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gmem::Gpa;
    use snp::digest::Digest;
    use snp::vmsa::VMSA_GPA;

    use crate::measure::told::Told;

    /// Places, types and contents, in order.
    fn trace(pages: &[(u64, PageType, &str)]) -> Trace {
        let mut digest = Digest::ZERO;
        let page = |&(gpa, page_type, contents): &(u64, PageType, &str)| {
            let gpa = Gpa(gpa);
            let contents = if page_type.is_measured() { Digest::of_page(contents.as_bytes()) } else { Digest::ZERO };
            digest = digest.extended(page_type, gpa, contents);
            TracedPage { page_type, gpa, contents, digest, label: String::new() }
        };
        Trace::of(pages.iter().map(page).collect())
    }

    /// one-launch: every way to be another launch has a name.
    #[test]
    fn one_launch_differences_have_names() {
        use PageType::{Cpuid, Normal, Secrets, Vmsa, Zero};
        const VCPU: (u64, PageType, &str) = (VMSA_GPA.0, Vmsa, "registers");
        let base = [(0xf000, Normal, "code"), (0x1000, Zero, ""), (0x2000, Cpuid, ""), VCPU];
        let with = |at: usize, page| {
            let mut pages = base;
            pages[at] = page;
            pages.to_vec()
        };
        let zero_last = vec![base[0], base[2], base[1], VCPU];
        for (pages, equal_pages, difference) in [
            (base.to_vec(), 4, None),
            (with(0, (0xf000, Normal, "other code")), 0, Some(Kind::Contents)),
            (with(3, (VMSA_GPA.0, Vmsa, "others")), 3, Some(Kind::Contents)),
            (with(2, (0x2000, Secrets, "")), 2, Some(Kind::Type)),
            (zero_last, 1, Some(Kind::Order)),
            (vec![base[0], base[2], VCPU], 1, Some(Kind::OnlyA)),
            (vec![base[0], base[1], base[2], (0x3000, Zero, ""), VCPU], 3, Some(Kind::OnlyB)),
            (with(1, (0x5000, Zero, "")), 1, Some(Kind::Place)),
            (vec![base[0], base[1], base[2], VCPU, VCPU], 4, Some(Kind::Vcpus)),
            (base[..3].to_vec(), 3, Some(Kind::Vcpus)),
            (base[..2].to_vec(), 2, Some(Kind::Length)),
            (Vec::new(), 0, Some(Kind::Length)),
        ] {
            let found = diff(&trace(&base), &trace(&pages));
            assert_eq!((found.equal_pages, found.difference), (equal_pages, difference), "{pages:?}");
            assert_eq!((found.a.next.is_some(), found.b.next.is_some()), (equal_pages < 4, equal_pages < pages.len()));
            let mirrored = match difference {
                Some(Kind::OnlyA) => Some(Kind::OnlyB),
                Some(Kind::OnlyB) => Some(Kind::OnlyA),
                other => other,
            };
            assert_eq!(diff(&trace(&pages), &trace(&base)).difference, mirrored, "{pages:?}");
        }
    }

    #[test]
    fn settings_that_both_name_are_compared() {
        let with = |settings: &[(&'static str, &str)]| Trace {
            settings: settings.iter().map(|&(name, value)| (name, value.to_owned())).collect(),
            ..Trace::of(Vec::new())
        };
        let found = diff(&with(&[("vmm", "qemu"), ("vcpu_type", "EPYC")]), &with(&[("vmm", "ec2")]));
        assert_eq!(found.settings, [setting("vmm", "qemu", "ec2")]);
        assert_eq!(found.difference, None);
    }

    fn setting(name: &str, a: &str, b: &str) -> Setting {
        Setting { name: name.to_owned(), a: a.to_owned(), b: b.to_owned() }
    }

    /// one-launch: what differs is named by what was expected, and what the other says of itself does not count.
    #[test]
    fn one_launch_items_have_the_names_that_were_expected() {
        use PageType::{Normal, Vmsa};
        let told = |memory_bytes, kernel: &str| {
            let pieces = vec![("kernel".to_owned(), kernel.to_owned())];
            Told { memory_bytes, vcpus: 1, tsc_khz: 0, pieces }
        };
        let launch = |parameters: Told, code: &str, tables: u64| {
            let (contents, vcpu) = (format!("{parameters:?}"), (VMSA_GPA.0, Vmsa, "registers"));
            let pages = [(0x1000, Normal, contents.as_str()), (0x2000, Normal, code), (tables, Normal, "tables"), vcpu];
            let mut launch = trace(&pages);
            let labels = ["parameters", "firmware", "tables", "vCPU 0"];
            launch.pages.iter_mut().zip(labels).for_each(|(page, label)| page.label = label.to_owned());
            launch.told_by(parameters, &contents);
            launch
        };
        let expected = launch(told(1, "aa"), "code", 0x3000);
        let mut other = launch(told(1, "aa"), "other code", 0x3000);
        other.pages.iter_mut().for_each(|page| page.label = "kernel".to_owned());
        assert_eq!(items(&expected, &expected), [""; 0]);
        assert_eq!(items(&expected, &other), ["firmware"]);
        assert_eq!(items(&expected, &launch(told(1, "bb"), "code", 0x4000)), ["kernel"]);
        assert_eq!(items(&expected, &launch(told(2, "aa"), "other code", 0x3000)), ["memory_bytes", "firmware"]);
        let moved = launch(told(1, "aa"), "code", 0x4000);
        assert_eq!(items(&expected, &moved), ["tables", "a page at 0x4000 that is not expected"]);
    }

    #[test]
    fn what_is_copied_is_compared_if_both_name_it() {
        let with = |pieces: Option<&[(&str, &str)]>| Trace {
            pieces: pieces.map(|pieces| pieces.iter().map(|(label, sum)| ((*label).into(), (*sum).into())).collect()),
            ..Trace::of(Vec::new())
        };
        let kernel = with(Some(&[("kernel", "aa"), ("initrd", "bb")]));
        assert_eq!(diff(&kernel, &with(None)).settings, []);
        let other = with(Some(&[("kernel", "cc"), ("command line", "dd")]));
        let differ =
            [setting("kernel", "aa", "cc"), setting("initrd", "bb", "none"), setting("command line", "none", "dd")];
        assert_eq!(diff(&kernel, &other).settings, differ);
    }

    #[test]
    fn another_number_of_vcpus_is_told_where_it_is_not_the_first_difference() {
        let parameters = |contents| (0xc000, PageType::Normal, contents);
        let vcpu = (VMSA_GPA.0, PageType::Vmsa, "registers");
        let found = diff(&trace(&[parameters("1"), vcpu]), &trace(&[parameters("2"), vcpu, vcpu]));
        assert_eq!((found.difference, found.settings), (Some(Kind::Contents), vec![setting("vcpus", "1", "2")]));
        let found = diff(&trace(&[parameters("1"), vcpu]), &trace(&[parameters("1"), vcpu, vcpu]));
        assert_eq!((found.difference, found.settings), (Some(Kind::Vcpus), vec![]));
    }
}
