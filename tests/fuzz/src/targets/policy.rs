//! Policies' files.

use attest::snp::Policy;
use tenure::evidence::policy::{PolicyFile, parse};
use tenure::idblock::Source;

pub(crate) const WORDS: &[&str] = &[
    "preset",
    "\\\"strict\\\"",
    "\\\"hardened\\\"",
    "report-version",
    "abi",
    "\\\"1.55\\\"",
    "vmpl",
    "guest-svn",
    "mitigations",
    "allow",
    "require",
    "\\\"smt\\\"",
    "\\\"alias-check\\\"",
    "[products.genoa]",
    "[products.turin]",
    "boot-loader",
    "microcode",
    "18446744073709551615",
    "[[[[[[[[[[[[[[[[",
    "{a={a={a={a={a={a=",
    "\\\"\\\"\\\"",
    "\\\\u{110000}",
];

/// What can be read is a policy, and what a policy comes to can be read again.
pub(crate) fn policy(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Ok(file) = parse(text, &Source::Stdin) {
        let policy = Policy::from(file);
        let written = serde_json::to_string(&PolicyFile::from(&policy)).unwrap();
        assert_eq!(Policy::from(parse(&written, &Source::Stdin).unwrap()), policy, "{written}");
    }
}

pub(crate) fn seeds() -> Vec<Vec<u8>> {
    let texts = [
        "preset = \"hardened\"\nallow = [\"smt\", \"tio\"]\nrequire = [\"alias-check\"]\nguest-svn = 3\nabi = \"1.55\"\n\n\
         [products.genoa]\nsnp = 23\nmicrocode = 84\n\n[products.turin]\nfmc = 1\n",
        "{\"vmpl\": 1, \"report-version\": 3, \"mitigations\": 63, \"products\": {\"milan\": {\"boot-loader\": 4}}}",
        "",
    ];
    texts.map(|text| text.into()).into()
}
