//! What a quote says, and an event log, in words and as JSON. Whether it is true is not said here.
//!
//! Owns the words and keys.

use std::fmt::Write as _;

use attest::eventlog::{DataDigest, Event, EventLog};
use attest::tdx::{Extension, Platform, Quote, TdAttributes};
use serde::Serialize;
use snp::hex;

use crate::paint::is_printable;

/// An attribute of a guest: its name, and whether it has it.
type Attribute = (&'static str, fn(TdAttributes) -> bool);

const ATTRIBUTES: [Attribute; 8] = [
    ("debug", TdAttributes::debug),
    ("profiling", TdAttributes::profiling),
    ("service-td-extension", TdAttributes::service_td_extension),
    ("sept-ve-disable", TdAttributes::sept_ve_disable),
    ("migratable", TdAttributes::migratable),
    ("pks", TdAttributes::pks),
    ("key-locker", TdAttributes::key_locker),
    ("perfmon", TdAttributes::perfmon),
];

/// Data of an event that is shown as text, at most so much of it.
const TEXT_MOST: usize = 80;

/// Everything a quote says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct QuoteClaims {
    /// Version of its format.
    pub version: u16,
    /// What the quoting enclave's host wanted in the header.
    pub user_data: String,
    /// TEE_TCB_SVN: at launch.
    pub tee_tcb_svn: String,
    /// TEE_TCB_SVN2: now, if the quote says so.
    pub tee_tcb_svn2: Option<String>,
    /// MRSEAM.
    pub mrseam: String,
    /// MRSIGNERSEAM.
    pub mrsignerseam: String,
    /// SEAMATTRIBUTES.
    pub seam_attributes: String,
    /// TDATTRIBUTES, in hexadecimal.
    pub attributes: String,
    /// What of them is known, by names.
    pub attribute_names: Vec<&'static str>,
    /// XFAM, in hexadecimal.
    pub xfam: String,
    /// MRTD.
    pub mrtd: String,
    /// MRCONFIGID.
    pub mrconfigid: String,
    /// MROWNER.
    pub mrowner: String,
    /// MROWNERCONFIG.
    pub mrownerconfig: String,
    /// RTMR0 to RTMR3.
    pub rtmrs: Vec<String>,
    /// REPORTDATA.
    pub report_data: String,
    /// MR_SERVICETD, if the quote says so.
    pub mr_service_td: Option<String>,
    /// What an extended quote says more.
    pub extension: Option<ExtensionClaims>,
    /// What Intel says of the platform, if that was verified.
    pub platform: Option<PlatformClaims>,
}

/// What an extended quote says more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ExtensionClaims {
    /// Which virtual machine of a partitioned guest asked.
    pub vm_id: u8,
    /// The guest's number.
    pub td_id: String,
    /// Hash of what is known of devices.
    pub device_info: String,
    /// Service TDs when the guest was made.
    pub initial_service_tds: String,
    /// Attributes of that.
    pub initial_service_td_attributes: String,
    /// CPUSVN then.
    pub initial_cpu_svn: String,
    /// TEE_TCB_SVN then.
    pub initial_tee_tcb_svn: String,
    /// The kind of platform then.
    pub initial_fmspc: String,
    /// Service TDs now.
    pub current_service_tds: String,
    /// Attributes of that.
    pub current_service_td_attributes: String,
}

/// What Intel says of a platform.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlatformClaims {
    /// What it is worth.
    pub tcb_status: &'static str,
    /// Advisories that concern it.
    pub tcb_advisories: Vec<String>,
    /// What keeps it from being up to date.
    pub shortfalls: Vec<String>,
    /// When all of it was good.
    pub tcb_date: String,
    /// Number of the evaluation.
    pub tcb_evaluation: u32,
    /// Its kind.
    pub fmspc: String,
    /// Its provisioning certification enclave.
    pub pce_id: String,
}

/// What an event log says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogClaims {
    /// RTMR0 to RTMR3, if it is true.
    pub rtmrs: Vec<String>,
    /// Its events, in their order.
    pub events: Vec<EventClaims>,
}

/// What an event log says of one event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EventClaims {
    /// The RTMR.
    pub rtmr: u8,
    /// Its kind, in words.
    pub event: String,
    /// What was measured.
    pub digest: String,
    /// `own` if that is the data's digest, `another` if it should be and isn't, else `elsewhere`.
    pub measured: &'static str,
    /// How many bytes of data there are.
    pub bytes: usize,
    /// The data, if it is text.
    pub text: Option<String>,
}

impl QuoteClaims {
    /// Of a quote, and of its platform if what Intel says of it was verified.
    pub fn of(quote: &Quote<'_>, platform: Option<&Platform>) -> Self {
        let attributes = quote.td_attributes();
        Self {
            version: quote.version(),
            user_data: hex::text(quote.user_data()),
            tee_tcb_svn: hex::text(quote.tee_tcb_svn()),
            tee_tcb_svn2: quote.tee_tcb_svn2().map(|svn| hex::text(svn)),
            mrseam: hex::text(quote.mr_seam()),
            mrsignerseam: hex::text(quote.mr_signer_seam()),
            seam_attributes: format!("{:#x}", u64::from_le_bytes(*quote.seam_attributes())),
            attributes: format!("{:#x}", attributes.bits()),
            attribute_names: ATTRIBUTES.iter().filter(|(_, has)| has(attributes)).map(|(name, _)| *name).collect(),
            xfam: format!("{:#x}", quote.xfam()),
            mrtd: hex::text(quote.mr_td()),
            mrconfigid: hex::text(quote.mr_config_id()),
            mrowner: hex::text(quote.mr_owner()),
            mrownerconfig: hex::text(quote.mr_owner_config()),
            rtmrs: quote.rtmrs().iter().map(|rtmr| hex::text(rtmr)).collect(),
            report_data: hex::text(quote.report_data()),
            mr_service_td: quote.mr_service_td().map(|digest| hex::text(digest)),
            extension: quote.extension().map(ExtensionClaims::of),
            platform: platform.map(PlatformClaims::of),
        }
    }

    /// A line for every field.
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |label: &str, words: &str| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{label:<18} {words}");
        };
        let unsaid = "not said";
        line("version", &self.version.to_string());
        line("user data", &self.user_data);
        line("attributes", &format!("{} ({})", self.attributes, self.attribute_names.join(", ")));
        line("XFAM", &self.xfam);
        line("MRTD", &self.mrtd);
        for (index, rtmr) in self.rtmrs.iter().enumerate() {
            line(&format!("RTMR{index}"), rtmr);
        }
        line("REPORTDATA", &self.report_data);
        line("MRCONFIGID", &self.mrconfigid);
        line("MROWNER", &self.mrowner);
        line("MROWNERCONFIG", &self.mrownerconfig);
        line("MR_SERVICETD", self.mr_service_td.as_deref().unwrap_or(unsaid));
        line("MRSEAM", &self.mrseam);
        line("MRSIGNERSEAM", &self.mrsignerseam);
        line("SEAMATTRIBUTES", &self.seam_attributes);
        line("TCB at launch", &self.tee_tcb_svn);
        line("TCB now", self.tee_tcb_svn2.as_deref().unwrap_or(unsaid));
        if let Some(extension) = &self.extension {
            line("VM", &extension.vm_id.to_string());
            line("TD", &extension.td_id);
            line("devices", &extension.device_info);
            line("service TDs", &extension.current_service_tds);
            line("service TDs first", &extension.initial_service_tds);
        }
        text
    }
}

impl ExtensionClaims {
    fn of(extension: &Extension) -> Self {
        Self {
            vm_id: extension.vm_id,
            td_id: hex::text(&extension.td_id),
            device_info: hex::text(&extension.device_info),
            initial_service_tds: hex::text(&extension.initial_service_tds),
            initial_service_td_attributes: hex::text(&extension.initial_service_td_attributes),
            initial_cpu_svn: hex::text(&extension.initial_cpu_svn),
            initial_tee_tcb_svn: hex::text(&extension.initial_tee_tcb_svn),
            initial_fmspc: hex::text(&extension.initial_fmspc),
            current_service_tds: hex::text(&extension.current_service_tds),
            current_service_td_attributes: hex::text(&extension.current_service_td_attributes),
        }
    }
}

impl PlatformClaims {
    fn of(platform: &Platform) -> Self {
        Self {
            tcb_status: platform.status.name(),
            tcb_advisories: platform.advisories.clone(),
            shortfalls: platform.shortfalls.iter().map(ToString::to_string).collect(),
            tcb_date: platform.tcb_date.to_string(),
            tcb_evaluation: platform.evaluation,
            fmspc: hex::text(&platform.fmspc),
            pce_id: hex::text(&platform.pce_id),
        }
    }
}

impl LogClaims {
    /// Of a log.
    pub fn of(log: &EventLog<'_>) -> Self {
        Self {
            rtmrs: log.replay().iter().map(|rtmr| hex::text(rtmr)).collect(),
            events: log.events().iter().map(EventClaims::of).collect(),
        }
    }

    /// A line for every event, and what they come to.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string cannot fail.
        for (number, event) in (1..).zip(&self.events) {
            let EventClaims { rtmr, event: kind, digest, measured, bytes, text: data } = event;
            let of = match *measured {
                "own" => "its data",
                "another" => "OTHER data than its own",
                _ => "something else",
            };
            let _ = writeln!(text, "event {number:<3} RTMR{rtmr} {kind}: {bytes} bytes of data, digest of {of}");
            let _ = writeln!(text, "          {digest}");
            if let Some(data) = data {
                let _ = writeln!(text, "          {data}");
            }
        }
        for (index, rtmr) in self.rtmrs.iter().enumerate() {
            let _ = writeln!(text, "{:<18} {rtmr}", format!("RTMR{index} of the log"));
        }
        text
    }
}

impl EventClaims {
    fn of(event: &Event<'_>) -> Self {
        Self {
            rtmr: event.rtmr,
            event: event.event_type.to_string(),
            digest: hex::text(&event.digest),
            measured: match event.data_digest() {
                DataDigest::Own => "own",
                DataDigest::Another => "another",
                DataDigest::Elsewhere => "elsewhere",
            },
            bytes: event.data.len(),
            text: readable(event.data),
        }
    }
}

/// Data that is text: of the guest's choice, so nothing else of it gets to a terminal.
fn readable(data: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(data).ok()?.trim_end_matches('\0');
    let is_text = !text.is_empty() && text.chars().all(|char| is_printable(char) || char == '\n');
    let shown: String = text.chars().take(TEXT_MOST).map(|char| if char == '\n' { ' ' } else { char }).collect();
    is_text.then(|| if shown.len() < text.len() { format!("{shown}…") } else { shown })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// no-silent-trust: what a guest logs is no command to a terminal.
    #[test]
    fn no_silent_trust_data_is_no_command() {
        assert_eq!(readable(b"grub_cmd: set\0").as_deref(), Some("grub_cmd: set"));
        assert_eq!(readable(b"one\ntwo\0").as_deref(), Some("one two"));
        assert_eq!(readable("x".repeat(100).as_bytes()), Some("x".repeat(80) + "…"));
        for data in [&b"\x1b[2J"[..], b"", b"\0\0", b"\xff\xfe", "\u{202e}".as_bytes()] {
            assert_eq!(readable(data), None);
        }
    }
}
