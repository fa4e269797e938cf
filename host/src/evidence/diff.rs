//! What two pieces of evidence say differently, claim by claim. Whether any of it is true is not said here.
//!
//! Owns the comparison. What is claimed, and by which names, is [`super::claims`]'s: whatever `tenure attest show --json`
//! shows is compared.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

/// What there is in place of a claim that one of them does not make.
const NONE: &str = "none";

/// Two pieces of evidence, compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Comparison {
    /// That nobody has verified either.
    pub verified: bool,
    /// Whether they are the same, byte for byte: signatures and what is reserved are no claims.
    pub same_bytes: bool,
    /// Claims that are the same.
    pub equal: usize,
    /// Claims that are not, in the order of their names.
    pub different: Vec<Difference>,
}

/// A claim that both do not make alike.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// Its name; parts of a claim are behind a dot.
    pub claim: String,
    /// What the one says.
    pub a: String,
    /// What the other says.
    pub b: String,
}

/// Compares what they claim, and their bytes.
pub fn compare<T: Serialize>(a: (&T, &[u8]), b: (&T, &[u8])) -> serde_json::Result<Comparison> {
    let same_bytes = a.1 == b.1;
    let [a, b] = [listed(serde_json::to_value(a.0)?), listed(serde_json::to_value(b.0)?)];
    let said = |claims: &BTreeMap<String, String>, claim| claims.get(claim).map_or(NONE, String::as_str).to_owned();
    let names = a.keys().chain(b.keys().filter(|claim| !a.contains_key(*claim)));
    let both = names.map(|claim| Difference { claim: claim.clone(), a: said(&a, claim), b: said(&b, claim) });
    let (equal, mut different): (Vec<_>, Vec<_>) = both.partition(|claim| claim.a == claim.b);
    different.sort_by(|one, other| one.claim.cmp(&other.claim));
    Ok(Comparison { verified: false, same_bytes, equal: equal.len(), different })
}

/// Claims by their names.
fn listed(value: Value) -> BTreeMap<String, String> {
    let mut claims = BTreeMap::new();
    list(value, String::new(), &mut claims);
    claims
}

fn list(value: Value, name: String, claims: &mut BTreeMap<String, String>) {
    let said = match value {
        Value::Null => NONE.to_owned(),
        Value::Object(parts) => {
            for (part, value) in parts {
                list(value, if name.is_empty() { part } else { format!("{name}.{part}") }, claims);
            }
            return;
        }
        Value::Array(values) => {
            let words = values.iter().map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            words.collect::<Vec<_>>().join(", ")
        }
        Value::String(text) => text,
        other => other.to_string(),
    };
    claims.insert(name, said);
}

impl Comparison {
    /// Whether there is any difference.
    #[must_use]
    pub fn is_any(&self) -> bool {
        !(self.same_bytes && self.different.is_empty())
    }

    /// In words.
    pub fn text(&self) -> String {
        let differences =
            self.different.iter().map(|Difference { claim, a, b }| format!("{claim}\n  A  {a}\n  B  {b}\n"));
        let (count, of) = (self.different.len(), self.different.len() + self.equal);
        let beyond = if self.different.is_empty() && !self.same_bytes {
            ", but other bytes do: of the signature, or of what is reserved"
        } else {
            ""
        };
        differences.collect::<String>()
            + &format!("{count} of {of} claims differ{beyond}; nothing of this was verified\n")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_part_of_a_claim_is_compared() {
        let a = json!({ "version": 3, "tcb": { "snp": 8, "parts": null }, "platform": ["smt", "ecc"], "same": true });
        let b = json!({ "version": 5, "tcb": { "snp": 9, "parts": { "fmc": 1 } }, "platform": ["smt"], "same": true });
        let found = compare((&a, &[0]), (&b, &[1])).unwrap();
        let words: Vec<_> = found.different.iter().map(|d| format!("{}: {} / {}", d.claim, d.a, d.b)).collect();
        assert_eq!(words, ["platform: smt, ecc / smt", "tcb.parts.fmc: none / 1", "tcb.snp: 8 / 9", "version: 3 / 5"]);
        assert!(!found.text().contains("but other bytes"));
        let same = compare((&a, &[0]), (&a, &[0])).unwrap();
        assert!(!same.is_any() && same.different.is_empty());
        let signed_anew = compare((&a, &[0]), (&a, &[1])).unwrap();
        assert!(signed_anew.is_any() && signed_anew.text().contains("0 of 5 claims differ, but other bytes do"));
    }
}
