//! What a Linux guest is told on its command line besides what the user says.
//!
//! Specification: Linux `Documentation/admin-guide/kernel-parameters.txt`.

use crate::config::Guise;

/// The user's command line with what a Linux guest needs on this platform, unless the user says otherwise.
///
/// `noapic`: there is no IOAPIC in the ACPI tables, and Linux would mask the PIC with it. The TSC: there is no timer to
/// calibrate it against with private memory; a guest in the `sev` guise has kvm-clock.
pub(super) fn platform_cmdline(user: &str, guise: Guise, tsc_khz: u32) -> String {
    let mut words = vec!["noapic".to_owned()];
    if guise == Guise::None && tsc_khz != 0 {
        words.extend([format!("tsc_early_khz={tsc_khz}"), "tsc=reliable".to_owned()]);
    }
    let said = |word: &str| {
        let key = word.split('=').next().unwrap_or(word);
        user.split_ascii_whitespace().any(|other| other.split('=').next() == Some(key))
    };
    words.retain(|word| !said(word));
    words.extend((!user.is_empty()).then(|| user.to_owned()));
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_is_told_what_this_platform_lacks() {
        let line = |user, guise| platform_cmdline(user, guise, 2_596_100);
        assert_eq!(line("console=ttyS0", Guise::None), "noapic tsc_early_khz=2596100 tsc=reliable console=ttyS0");
        assert_eq!(line("console=ttyS0", Guise::Sev), "noapic console=ttyS0");
        assert_eq!(line("", Guise::Sev), "noapic");
    }

    #[test]
    fn the_user_has_the_last_word() {
        let line = platform_cmdline("tsc=unstable noapic tsc_early_khz=1", Guise::None, 2_596_100);
        assert_eq!(line, "tsc=unstable noapic tsc_early_khz=1");
    }

    /// An old kernel that does not tell the frequency: nothing is made up.
    #[test]
    fn an_unknown_frequency_is_not_told() {
        assert_eq!(platform_cmdline("quiet", Guise::None, 0), "noapic quiet");
    }
}
