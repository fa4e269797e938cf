//! Seeds: evidence as others keep it (`tests/vectors`).

use std::path::Path;

use attest::UnixTime;
use serde_json::Value;

/// 2026-06-01.
pub(crate) const NOW: UnixTime = UnixTime::from_secs(1_780_272_000);

/// A file of `tests/vectors`.
pub(crate) fn vector(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of a directory of `tests/vectors` with this ending, in order.
pub(crate) fn all(directory: &str, ending: &str) -> Vec<Vec<u8>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors").join(directory);
    let names = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name.ends_with(ending)).collect();
    names.sort();
    names.iter().map(|name| vector(&format!("{directory}/{name}"))).collect()
}

/// What is published about a platform.
pub(crate) struct Collateral(Value);

/// `tests/vectors/tdx/attest/{name}.collateral.json`.
pub(crate) fn collateral(name: &str) -> Collateral {
    Collateral(serde_json::from_slice(&vector(&format!("tdx/attest/{name}.collateral.json"))).unwrap())
}

impl Collateral {
    pub(crate) fn text(&self, key: &str) -> Vec<u8> {
        self.0[key].as_str().unwrap_or_else(|| panic!("{key}")).into()
    }

    pub(crate) fn bytes(&self, key: &str) -> Vec<u8> {
        let text = self.text(key);
        let digit = |digit: &u8| u8::try_from(char::from(*digit).to_digit(16).unwrap()).unwrap();
        text.chunks(2).map(|pair| digit(&pair[0]) << 4 | digit(&pair[1])).collect()
    }
}
