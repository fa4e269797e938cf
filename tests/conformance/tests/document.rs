//! The document is of the results that are kept: nobody edits one without the other.

use std::fs;
use std::path::Path;

use tenure_conformance::report::{self, Results};

#[test]
fn the_document_is_of_the_kept_results() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut kept: Vec<Results> = Vec::new();
    for entry in fs::read_dir(here.join("results")).unwrap() {
        let path = entry.unwrap().path();
        let results = serde_json::from_slice(&fs::read(&path).unwrap());
        kept.push(results.unwrap_or_else(|error| panic!("{}: {error}", path.display())));
    }
    assert!(kept.iter().all(Results::is_good), "a kept result has an unexplained difference");
    let document = fs::read_to_string(here.join("../../docs/conformance.md")).unwrap();
    // Not `assert_eq`, which would show both of them.
    assert!(document == report::markdown(&kept), "docs/conformance.md is of other results; regenerate it");
}
