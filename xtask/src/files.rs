//! Files that arguments of `tenure run` name, when it runs in another place.

use std::path::PathBuf;

/// Options whose value is a file `tenure` reads.
const READS: [&str; 3] = ["--kernel", "--initrd", "--config"];
/// Options whose value is a file `tenure` writes.
const WRITES: [&str; 1] = ["--events"];

/// Arguments for another place, and the files to carry there and back.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Travelling {
    pub arguments: Vec<String>,
    /// Path here, path there.
    pub there: Vec<(PathBuf, String)>,
    /// Path there, path here.
    pub back: Vec<(String, PathBuf)>,
}

/// Gives every file a path in the other place.
pub(crate) fn travel(arguments: &[String]) -> Travelling {
    let mut result = Travelling::default();
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let (name, attached) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (argument.as_str(), None),
        };
        let reads = READS.contains(&name);
        if !reads && !WRITES.contains(&name) {
            result.arguments.push(argument.clone());
            continue;
        }
        result.arguments.push(name.to_owned());
        // Without a value, `tenure` itself says what is wrong.
        let Some(value) = attached.or_else(|| arguments.next().cloned()) else { continue };
        let place = format!("/tenure/{}", name.trim_start_matches('-'));
        if reads {
            result.there.push((value.into(), place.clone()));
        } else {
            result.back.push((place.clone(), value.into()));
        }
        result.arguments.push(place);
    }
    result
}

/// The value of an option, in either spelling.
pub(crate) fn value_of<'a>(arguments: &'a [String], name: &str) -> Option<&'a str> {
    let attached = |argument: &'a String| argument.strip_prefix(name).and_then(|rest| rest.strip_prefix('='));
    arguments.iter().enumerate().rev().find_map(|(index, argument)| {
        attached(argument)
            .or_else(|| (argument == name).then(|| arguments.get(index + 1)).flatten().map(String::as_str))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn files_get_a_path_there_in_either_spelling() {
        let travelling = travel(&words("--kernel vmlinuz --initrd=a/b.img --vcpus 2 --events e.jsonl --guise=sev"));
        let expected = "--kernel /tenure/kernel --initrd /tenure/initrd --vcpus 2 --events /tenure/events";
        assert_eq!(travelling.arguments[..8], words(expected)[..]);
        assert_eq!(travelling.arguments[8], "--guise=sev");
        assert_eq!(travelling.there.len(), 2);
        assert_eq!(travelling.back, [("/tenure/events".to_owned(), "e.jsonl".into())]);
    }

    #[test]
    fn values_are_found_in_either_spelling_and_the_last_counts() {
        let arguments = words("--tee sw --vcpus=1 --vcpus 2 --tee");
        assert_eq!(value_of(&arguments, "--vcpus"), Some("2"));
        assert_eq!(value_of(&arguments, "--tee"), Some("sw"));
        assert_eq!(value_of(&arguments, "--memory"), None);
    }
}
