//! The host's own package sources, read from its apt configuration and turned into sources for
//! the lab alone: with source packages, and if need be of another suite of the same archive.
//!
//! Owns: reading both notations and rewriting them. Does not own: what is done with the result.
//! Specification: sources.list(5).

/// What apt is to read instead of the host's own files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sources {
    /// In the notation of `.sources` files.
    pub deb822: String,
    /// In the notation of `.list` files.
    pub one_line: String,
}

impl Sources {
    /// Whether the host's configuration had nothing of the distribution itself.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.deb822.is_empty() && self.one_line.is_empty()
    }

    /// Takes over what a `.sources` file has of `codename`'s main archive, as suite `target`.
    pub(crate) fn add_deb822(&mut self, text: &str, codename: &str, target: &str) {
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        for paragraph in lines.split(|line| line.trim().is_empty()) {
            if let Some(rewritten) = rewrite_paragraph(paragraph, codename, target) {
                self.deb822.push_str(&rewritten);
                self.deb822.push('\n');
            }
        }
    }

    /// The same from a `.list` file.
    pub(crate) fn add_one_line(&mut self, text: &str, codename: &str, target: &str) {
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if let Some(rest) = rewrite_line(line, codename, target) {
                self.one_line.push_str(&format!("deb {rest}\ndeb-src {rest}\n"));
            }
        }
    }
}

/// `bookworm-security` of `bookworm` becomes `trixie-security`; other suites are none of ours. `sid`, and parts of a suite
/// like `trixie-backports`, have no parts of their own.
fn rewrite_suite(suite: &str, codename: &str, target: &str) -> Option<String> {
    let rest = suite.strip_prefix(codename)?;
    if target != codename && (target == "sid" || target.contains('-')) {
        return rest.is_empty().then(|| target.to_owned());
    }
    (rest.is_empty() || rest.starts_with('-') || rest.starts_with('/')).then(|| format!("{target}{rest}"))
}

fn rewrite_paragraph(lines: &[&str], codename: &str, target: &str) -> Option<String> {
    // A field with its continuation lines.
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in lines {
        if line.starts_with([' ', '\t']) {
            let last = fields.last_mut()?;
            last.1.push('\n');
            last.1.push_str(line);
        } else {
            let (name, value) = line.split_once(':')?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let words = |name: &str| -> Vec<&str> {
        let field = fields.iter().find(|field| field.0 == name);
        field.map(|field| field.1.split_whitespace().collect()).unwrap_or_default()
    };
    let suites: Vec<String> =
        words("suites").iter().filter_map(|suite| rewrite_suite(suite, codename, target)).collect();
    let enabled = !words("enabled").iter().any(|word| word.eq_ignore_ascii_case("no"));
    if suites.is_empty() || !enabled || !words("components").contains(&"main") {
        return None;
    }
    let mut text = format!("types: deb deb-src\nsuites: {}\n", suites.join(" "));
    for (name, value) in fields.iter().filter(|field| field.0 != "types" && field.0 != "suites") {
        text.push_str(&format!("{name}: {value}\n"));
    }
    Some(text)
}

fn rewrite_line(line: &str, codename: &str, target: &str) -> Option<String> {
    let rest = line.strip_prefix("deb-src").or_else(|| line.strip_prefix("deb"))?;
    let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
    let (options, rest) = match rest.strip_prefix('[') {
        Some(rest) => {
            let (options, rest) = rest.split_once(']')?;
            (format!("[{options}] "), rest)
        }
        None => (String::new(), rest),
    };
    let mut words = rest.split_whitespace();
    let (place, suite) = (words.next()?, words.next()?);
    let suite = rewrite_suite(suite, codename, target)?;
    let components: Vec<&str> = words.collect();
    components.contains(&"main").then(|| format!("{options}{place} {suite} {}", components.join(" ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distributions_own_entries_are_taken_and_moved() {
        let mut sources = Sources::default();
        sources.add_deb822(
            "Types: deb\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\
             Components: main contrib\nSigned-By:\n -----BEGIN-----\n .\n -----END-----\n\n\
             Types: deb\nURIs: http://other.example\nSuites: nodistro\nComponents: main\n\n\
             Types: deb\nURIs: http://off.example\nSuites: bookworm\nComponents: main\nEnabled: no\n",
            "bookworm",
            "trixie",
        );
        assert_eq!(
            sources.deb822,
            "types: deb deb-src\nsuites: trixie trixie-updates\nuris: http://mirror.example/debian\n\
             components: main contrib\nsigned-by: \n -----BEGIN-----\n .\n -----END-----\n\n"
        );
        assert_eq!(sources.one_line, "");
    }

    #[test]
    fn a_suite_without_parts_has_none() {
        assert_eq!(rewrite_suite("bookworm-security", "bookworm", "sid"), None);
        assert_eq!(rewrite_suite("bookworm", "bookworm", "sid").as_deref(), Some("sid"));
        assert_eq!(rewrite_suite("bookworm-updates", "bookworm", "trixie-backports"), None);
        assert_eq!(rewrite_suite("bookworm-updates", "bookworm", "trixie").as_deref(), Some("trixie-updates"));
    }

    #[test]
    fn one_line_entries_are_taken_with_their_options() {
        let mut sources = Sources::default();
        sources.add_one_line(
            "deb [arch=amd64 trusted=yes] http://mirror.example/debian bookworm main # why\n\
             deb http://other.example bookworm-tool main\n\
             deb http://tool.example bookwormish main\n\
             deb http://tool.example bookworm stable\n\
             # deb http://off.example bookworm main\n\
             nonsense\ndeb\ndeb x\n",
            "bookworm",
            "bookworm",
        );
        let taken = "[arch=amd64 trusted=yes] http://mirror.example/debian bookworm main";
        let other = "http://other.example bookworm-tool main";
        assert_eq!(sources.one_line, format!("deb {taken}\ndeb-src {taken}\ndeb {other}\ndeb-src {other}\n"));
    }
}
