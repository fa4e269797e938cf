//! A policy in a file: TOML or JSON, with the names that checks have.
//!
//! Owns the file's form. Every error names the file, the line and the key, and a key that is unknown is one: a policy
//! whose author meant more than it says must not be used. What a file does not say is as in its preset; a list or a table
//! of products that it has stands in place of the preset's. Table `tdx` is about quotes ([`tdx`]), the rest about reports.
//!
//! Specification: our own; [`attest::snp::policy`] for what the keys mean.

pub mod tdx;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use attest::snp::{Allowance, Policy, Preset, Product, Requirement, TcbFloor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::config::file::toml_place;
use crate::idblock::{IdBlockError, Source};
use tdx::TdxFile;

/// A policy is a page of text; what is longer is some other file.
const MOST: u64 = 1 << 16;

/// Why a policy's file is refused.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFileError {
    /// It cannot be read.
    #[error(transparent)]
    Read(#[from] IdBlockError),
    /// It isn't text.
    #[error("policy {from} is not UTF-8")]
    NotText {
        /// Where it was read.
        from: Source,
    },
    /// A line of it is wrong.
    #[error("policy {from}, line {line}{}: {message}", key.as_ref().map(|key| format!(", key `{key}`")).unwrap_or_default())]
    Invalid {
        /// Where it was read.
        from: Source,
        /// The line, from 1.
        line: usize,
        /// The key on that line.
        key: Option<String>,
        /// What is wrong.
        message: String,
    },
}

/// A policy as people write it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PolicyFile {
    /// What holds where the file says nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    preset: Option<Name<Preset>>,
    /// The least version of reports.
    report_version: Option<Within<2, 5>>,
    /// The least version of the firmware's ABI that the guest's policy must ask for.
    abi: Option<Abi>,
    /// The highest VMPL.
    vmpl: Option<Within<0, 3>>,
    /// The least security version of the guest.
    guest_svn: Option<u32>,
    /// Mitigations, a bit each.
    mitigations: Option<u64>,
    /// What may be.
    allow: Option<BTreeSet<Name<Allowance>>>,
    /// What must be.
    require: Option<BTreeSet<Name<Requirement>>>,
    /// The products that are good enough.
    products: Option<Products>,
    /// The least numbers of lists of revoked certificates.
    #[serde(skip_serializing_if = "Option::is_none")]
    crl: Option<Crls>,
    /// What is wanted of TDX guests.
    #[serde(skip_serializing_if = "Option::is_none")]
    tdx: Option<TdxFile>,
}

/// Products by their names, each with its floors. One that isn't there is not allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Products {
    #[serde(skip_serializing_if = "Option::is_none")]
    milan: Option<Floor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    genoa: Option<Floor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    turin: Option<FloorWithFmc>,
}

/// Least numbers of products' lists of revoked certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Crls {
    milan: u32,
    genoa: u32,
    turin: u32,
}

/// Floors of a product without FMC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Floor {
    boot_loader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
}

/// Floors of a product with FMC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct FloorWithFmc {
    fmc: u8,
    boot_loader: u8,
    tee: u8,
    snp: u8,
    microcode: u8,
}

/// A number with bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u8")]
struct Within<const LEAST: u8, const MOST: u8>(u8);

impl<const LEAST: u8, const MOST: u8> TryFrom<i64> for Within<LEAST, MOST> {
    type Error = String;

    fn try_from(number: i64) -> Result<Self, String> {
        let fits = u8::try_from(number).ok().filter(|number| (LEAST..=MOST).contains(number));
        fits.map(Self).ok_or_else(|| format!("{number} is not a number from {LEAST} to {MOST}"))
    }
}

impl<const LEAST: u8, const MOST: u8> From<Within<LEAST, MOST>> for u8 {
    fn from(number: Within<LEAST, MOST>) -> Self {
        number.0
    }
}

/// A version of the firmware's ABI, written like 1.55.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct Abi(u8, u8);

impl TryFrom<String> for Abi {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let parts =
            text.split_once('.').and_then(|(major, minor)| Some(Self(major.parse().ok()?, minor.parse().ok()?)));
        parts.ok_or_else(|| format!("{text:?} is no version of the firmware's ABI; write it like \"1.55\""))
    }
}

impl From<Abi> for String {
    fn from(Abi(major, minor): Abi) -> Self {
        format!("{major}.{minor}")
    }
}

/// Something that is written by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Name<T>(T);

/// What has names.
trait Named: Copy + 'static {
    const ALL: &'static [Self];
    fn name(self) -> &'static str;
}

macro_rules! named {
    ($($of:ty),*) => {$(
        impl Named for $of {
            const ALL: &'static [Self] = &<$of>::ALL;
            fn name(self) -> &'static str {
                <$of>::name(self)
            }
        }
    )*};
}
named!(Preset, Allowance, Requirement);

impl<T: Named> Serialize for Name<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.name())
    }
}

impl<'de, T: Named> Deserialize<'de> for Name<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        T::ALL.iter().find(|it| it.name() == text).map(|it| Self(*it)).ok_or_else(|| {
            let names: Vec<_> = T::ALL.iter().map(|it| format!("`{}`", it.name())).collect();
            de::Error::custom(format!("unknown name `{text}`, expected one of {}", names.join(", ")))
        })
    }
}

/// Reads the policy for reports in a file.
pub fn read(from: &Source) -> Result<Policy, PolicyFileError> {
    read_file(from).map(Policy::from)
}

/// Reads both policies in a file, that for reports and that for quotes.
pub fn read_both(from: &Source) -> Result<(Policy, attest::tdx::Policy), PolicyFileError> {
    read_file(from).map(|file| file.policies()).map(|(_, reports, quotes)| (reports, quotes))
}

/// The same, with the preset that holds where the file says nothing.
pub fn read_all(from: &Source) -> Result<(Preset, Policy, attest::tdx::Policy), PolicyFileError> {
    read_file(from).map(PolicyFile::policies)
}

fn read_file(from: &Source) -> Result<PolicyFile, PolicyFileError> {
    let bytes = from.read("policy", MOST)?;
    let text = String::from_utf8(bytes).map_err(|_| PolicyFileError::NotText { from: from.clone() })?;
    parse(&text, from)
}

fn preset(named: Option<Name<Preset>>) -> Preset {
    named.map(|Name(preset)| preset).unwrap_or_default()
}

/// Parses a policy: JSON if it begins like that, else TOML.
pub fn parse(text: &str, from: &Source) -> Result<PolicyFile, PolicyFileError> {
    if text.trim_start().starts_with('{') {
        serde_json::from_str(text).map_err(|error| {
            let message = error.to_string();
            // The line is said before.
            let message = message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message).to_owned();
            PolicyFileError::Invalid { from: from.clone(), line: error.line(), key: None, message }
        })
    } else {
        toml::from_str(text).map_err(|error| {
            let (line, key, message) = toml_place(text, &error);
            PolicyFileError::Invalid { from: from.clone(), line, key, message }
        })
    }
}

impl PolicyFile {
    /// This policy for reports, in full. The preset is what holds for quotes, of which it says nothing.
    pub fn of(preset: Preset, reports: &Policy) -> Self {
        Self { preset: Some(Name(preset)), ..Self::from(reports) }
    }

    /// The same with this policy for quotes in full, so that nothing depends on the preset.
    #[must_use]
    pub fn and_quotes(self, quotes: &attest::tdx::Policy) -> Self {
        Self { tdx: Some(quotes.into()), ..self }
    }

    fn policies(mut self) -> (Preset, Policy, attest::tdx::Policy) {
        let preset = preset(self.preset);
        let quotes = self.tdx.take().unwrap_or_default().over(preset);
        (preset, self.into(), quotes)
    }
}

impl From<PolicyFile> for Policy {
    fn from(file: PolicyFile) -> Self {
        let base = Self::preset(preset(file.preset));
        let bare = |names: BTreeSet<Name<_>>| names.into_iter().map(|Name(it)| it).collect();
        Self {
            products: file.products.map_or(base.products, BTreeMap::from),
            crls: file.crl.map_or(base.crls, BTreeMap::from),
            allow: file.allow.map_or(base.allow, bare),
            require: file.require.map_or(base.require, |names| names.into_iter().map(|Name(it)| it).collect()),
            report_version: file.report_version.map_or(base.report_version, |version| version.0.into()),
            abi: file.abi.map_or(base.abi, |Abi(major, minor)| (major, minor)),
            vmpl: file.vmpl.map_or(base.vmpl, u8::from),
            guest_svn: file.guest_svn.unwrap_or(base.guest_svn),
            mitigations: file.mitigations.unwrap_or(base.mitigations),
        }
    }
}

impl From<&Policy> for PolicyFile {
    /// All of it, so that nothing of it depends on a preset.
    fn from(policy: &Policy) -> Self {
        Self {
            preset: None,
            report_version: u8::try_from(policy.report_version).ok().map(Within),
            abi: Some(Abi(policy.abi.0, policy.abi.1)),
            vmpl: Some(Within(policy.vmpl)),
            guest_svn: Some(policy.guest_svn),
            mitigations: Some(policy.mitigations),
            allow: Some(policy.allow.iter().copied().map(Name).collect()),
            require: Some(policy.require.iter().copied().map(Name).collect()),
            products: Some((&policy.products).into()),
            crl: Some((&policy.crls).into()),
            tdx: None,
        }
    }
}

impl From<Crls> for BTreeMap<Product, u32> {
    fn from(Crls { milan, genoa, turin }: Crls) -> Self {
        let all = [(Product::Milan, milan), (Product::Genoa, genoa), (Product::Turin, turin)];
        all.into_iter().filter(|(_, number)| *number != 0).collect()
    }
}

impl From<&BTreeMap<Product, u32>> for Crls {
    fn from(numbers: &BTreeMap<Product, u32>) -> Self {
        let [milan, genoa, turin] = Product::ALL.map(|product| numbers.get(&product).copied().unwrap_or_default());
        Self { milan, genoa, turin }
    }
}

impl From<Products> for BTreeMap<Product, TcbFloor> {
    fn from(Products { milan, genoa, turin }: Products) -> Self {
        let plain = |Floor { boot_loader, tee, snp, microcode }| TcbFloor { fmc: 0, boot_loader, tee, snp, microcode };
        let turin = turin.map(|FloorWithFmc { fmc, boot_loader, tee, snp, microcode }| TcbFloor {
            fmc,
            boot_loader,
            tee,
            snp,
            microcode,
        });
        let all = [(Product::Milan, milan.map(plain)), (Product::Genoa, genoa.map(plain)), (Product::Turin, turin)];
        all.into_iter().filter_map(|(product, floor)| Some((product, floor?))).collect()
    }
}

impl From<&BTreeMap<Product, TcbFloor>> for Products {
    fn from(products: &BTreeMap<Product, TcbFloor>) -> Self {
        let plain = |product| {
            let TcbFloor { boot_loader, tee, snp, microcode, .. } = *products.get(&product)?;
            Some(Floor { boot_loader, tee, snp, microcode })
        };
        let turin = products.get(&Product::Turin).map(|floor| {
            let TcbFloor { fmc, boot_loader, tee, snp, microcode } = *floor;
            FloorWithFmc { fmc, boot_loader, tee, snp, microcode }
        });
        Self { milan: plain(Product::Milan), genoa: plain(Product::Genoa), turin }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(text: &str) -> Policy {
        parse(text, &Source::Stdin).unwrap().into()
    }

    fn error(text: &str) -> String {
        parse(text, &Source::File("p.toml".into())).unwrap_err().to_string()
    }

    #[test]
    fn what_a_file_does_not_say_is_strict() {
        assert_eq!(said(""), Policy::default());
        assert_eq!(said("{}"), Policy::default());
        assert_eq!(said("preset = \"hardened\""), Policy::preset(Preset::Hardened));
        let policy = said("preset = \"hardened\"\nallow = []\n[products.milan]\nsnp = 24\nmicrocode = 219\n");
        assert_eq!(
            policy.products,
            [(Product::Milan, TcbFloor { snp: 24, microcode: 219, ..TcbFloor::default() })].into()
        );
        assert!(policy.allow.is_empty() && policy.requires(Requirement::AliasCheck));
        assert!(said("[products]").products.is_empty(), "named none");
    }

    /// no-silent-trust: a slip is no policy, and is shown.
    #[test]
    fn no_silent_trust_slips_name_line_and_key() {
        for (text, expected) in [
            ("vmpl = 0\nalow = [\"smt\"]", "line 2, key `alow`: unknown field `alow`, expected one of `preset`"),
            (
                "allow = [\"dbug\"]",
                "line 1, key `allow`: unknown name `dbug`, expected one of `smt`, `migrate`, `debug`",
            ),
            ("require = [\"aliascheck\"]", "line 1, key `require`: unknown name `aliascheck`, expected one of"),
            ("preset = \"lax\"", "line 1, key `preset`: unknown name `lax`, expected one of `strict`, `hardened`"),
            ("abi = \"1\"", "line 1, key `abi`: \"1\" is no version of the firmware's ABI; write it like \"1.55\""),
            ("vmpl = 4", "line 1, key `vmpl`: 4 is not a number from 0 to 3"),
            ("report-version = 1", "line 1, key `report-version`: 1 is not a number from 2 to 5"),
            ("guest-svn = -1", "line 1, key `guest-svn`: invalid value"),
            ("vmpl = 0\nvmpl = 0", "line 2, key `vmpl`: duplicate key"),
            (
                "\n[products.rome]\n",
                "line 2, key `products.rome`: unknown field `rome`, expected one of `milan`, `genoa`, `turin`",
            ),
            ("[products.genoa]\nfmc = 1", "line 2, key `fmc`: unknown field `fmc`"),
            ("[products.genoa]\nmicrocode = 256", "line 2, key `microcode`: invalid value"),
            ("{\n\"alow\": []}", "line 2: unknown field `alow`, expected one of `preset`"),
            ("{\"vmpl\": 9}", "line 1: 9 is not a number from 0 to 3"),
            ("{\"vmpl\": 0, \"vmpl\": 0}", "line 1: duplicate field `vmpl`"),
        ] {
            let error = error(text);
            assert!(error.starts_with(&format!("policy `p.toml`, {expected}")), "{text:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }

    fn presets() -> impl Strategy<Value = Preset> {
        prop::sample::select(&Preset::ALL[..])
    }

    fn policies() -> impl Strategy<Value = Policy> {
        let floor = any::<[u8; 5]>().prop_map(|[fmc, boot_loader, tee, snp, microcode]| TcbFloor {
            fmc,
            boot_loader,
            tee,
            snp,
            microcode,
        });
        let products = prop::collection::btree_map(prop::sample::select(&Product::ALL[..]), floor, 0..4);
        let crls = prop::collection::btree_map(prop::sample::select(&Product::ALL[..]), 1..=u32::MAX, 0..4);
        let allow = prop::collection::btree_set(prop::sample::select(&Allowance::ALL[..]), 0..6);
        let require = prop::collection::btree_set(prop::sample::select(&Requirement::ALL[..]), 0..9);
        ((products, crls), allow, require, (2..6u32, any::<(u8, u8)>()), 0..4u8, any::<u32>(), 0..=i64::MAX as u64)
            .prop_map(|((mut products, crls), allow, require, (report_version, abi), vmpl, guest_svn, mitigations)| {
                // Only Turin has an FMC.
                products.iter_mut().filter(|(it, _)| **it != Product::Turin).for_each(|(_, floor)| floor.fmc = 0);
                Policy { products, crls, allow, require, report_version, abi, vmpl, guest_svn, mitigations }
            })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(policy in policies()) {
            let file = PolicyFile::from(&policy);
            prop_assert_eq!(&said(&toml::to_string(&file).unwrap()), &policy);
            prop_assert_eq!(&said(&serde_json::to_string(&file).unwrap()), &policy);
        }

        /// no-silent-trust: a file that is printed means the same when it is read, for both technologies: of that which it
        /// says nothing about its preset.
        #[test]
        fn no_silent_trust_what_is_written_is_read_of_both(
            preset in presets(),
            reports in policies(),
            quotes in tdx::tests::policies(),
        ) {
            let of_reports = PolicyFile::of(preset, &reports);
            let of_quotes = tdx::TdxOnly::of(preset, &quotes);
            let of_both = of_reports.clone().and_quotes(&quotes);
            let (usual, usual_quotes) = (Policy::preset(preset), attest::tdx::Policy::preset(preset));
            let written = |toml: String, json: String, expected: (Preset, &Policy, &attest::tdx::Policy)| {
                for text in [toml, json] {
                    let (preset, reports, quotes) = parse(&text, &Source::Stdin).unwrap().policies();
                    prop_assert_eq!((preset, &reports, &quotes), expected);
                }
                Ok(())
            };
            let toml = toml::to_string(&of_reports).unwrap();
            written(toml, serde_json::to_string(&of_reports).unwrap(), (preset, &reports, &usual_quotes))?;
            let toml = toml::to_string(&of_quotes).unwrap();
            written(toml, serde_json::to_string(&of_quotes).unwrap(), (preset, &usual, &quotes))?;
            let toml = toml::to_string(&of_both).unwrap();
            prop_assert!(toml.starts_with(&format!("preset = \"{preset}\"\n")), "{}", toml);
            written(toml, serde_json::to_string(&of_both).unwrap(), (preset, &reports, &quotes))?;
        }

        /// no-silent-trust: any text is read or refused, with a line that there is.
        #[test]
        fn no_silent_trust_any_text(text in "(.|\n){0,60}") {
            if let Err(error) = parse(&text, &Source::Stdin) {
                prop_assert!(error.to_string().starts_with("policy on standard input, line "));
            }
        }
    }
}
