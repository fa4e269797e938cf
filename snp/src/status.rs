//! What SNP firmware answers, in words.
//!
//! Owns the status codes, and for those that a launch can meet, what they mean there and what to do. Specification:
//! SEV-SNP Firmware ABI (56860), chapter "Status Codes"; numbers as in Linux `include/uapi/linux/psp-sev.h` (6.14 and
//! later; the header's numbers from 0x19 on were wrong before).

/// A status, and what to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// The number.
    pub code: u32,
    /// By its name in the specification.
    pub name: &'static str,
    /// What it means, and what to do.
    pub meaning: &'static str,
}

const fn status(code: u32, name: &'static str, meaning: &'static str) -> Status {
    Status { code, name, meaning }
}

/// The PSP was not asked at all (`SEV_RET_NO_FW_CALL`, -1): Linux' own.
pub const NOT_ASKED: u32 = u32::MAX;
/// A guest's policy does not fit the platform, or its ID block.
pub const POLICY_FAILURE: u32 = 0x07;
/// An ID block's signature, or the author's, does not hold.
pub const BAD_SIGNATURE: u32 = 0x0a;
/// The launch is not the one in the ID block.
pub const BAD_MEASUREMENT: u32 = 0x0b;
/// The PSP would have a parameter otherwise.
pub const INVALID_PARAM: u32 = 0x16;

/// Every status there is.
pub const ALL: [Status; 39] = [
    status(0x00, "SUCCESS", "it worked"),
    status(
        0x01,
        "INVALID_PLATFORM_STATE",
        "the platform is not initialised for SNP; see what the kernel logged about ccp and SEV-SNP when it started",
    ),
    status(
        0x02,
        "INVALID_GUEST_STATE",
        "the guest is in another state than this command needs, as after a launch that is finished",
    ),
    status(0x03, "INVALID_CONFIG", "the platform's configuration is not valid"),
    status(0x04, "INVALID_LENGTH", "a buffer is too small"),
    status(0x05, "ALREADY_OWNED", "the platform has an owner already"),
    status(0x06, "INVALID_CERTIFICATE", "a certificate is not valid"),
    status(
        0x07,
        "POLICY_FAILURE",
        "the guest's policy forbids it, or asks for what this platform doesn't have: compare the policy with \
         this host (multithreading, sockets, CXL, ABI version) and with the ID block's",
    ),
    status(0x08, "INACTIVE", "the guest has no ASID"),
    status(0x09, "INVALID_ADDRESS", "an address is not valid for the firmware"),
    status(
        0x0a,
        "BAD_SIGNATURE",
        "a signature does not hold: of the ID block by the ID key, or of the ID key by the author key",
    ),
    status(
        0x0b,
        "BAD_MEASUREMENT",
        "the launch digest is not the one in the ID block: predict it with \"tenure measure snp\", and compare \
         by \"tenure measure diff\"",
    ),
    status(0x0c, "ASID_OWNED", "the ASID is another guest's already"),
    status(0x0d, "INVALID_ASID", "the ASID is out of range"),
    status(0x0e, "WBINVD_REQUIRED", "caches must be written back first"),
    status(0x0f, "DF_FLUSH_REQUIRED", "the data fabric must be flushed before the ASID is used again"),
    status(0x10, "INVALID_GUEST", "the guest's context is not valid"),
    status(0x11, "INVALID_COMMAND", "this firmware does not know the command: update it"),
    status(0x12, "ACTIVE", "the guest has an ASID already"),
    status(0x13, "HWERROR_PLATFORM", "a hardware error that concerns the platform; it may be used after a reset"),
    status(0x14, "HWERROR_UNSAFE", "a hardware error; SNP cannot be used until the machine has been reset"),
    status(0x15, "UNSUPPORTED", "this firmware or processor does not support it: update the firmware, or ask for less"),
    status(
        INVALID_PARAM,
        "INVALID_PARAM",
        "a parameter is not valid; for a CPUID page, a value is more than this processor may promise",
    ),
    status(0x17, "RESOURCE_LIMIT", "the firmware has no room for another guest"),
    status(0x18, "SECURE_DATA_INVALID", "the firmware's stored data are damaged"),
    status(0x19, "INVALID_PAGE_SIZE", "a page has another size in the RMP"),
    status(0x1a, "INVALID_PAGE_STATE", "a page is in another state in the RMP"),
    status(0x1b, "INVALID_MDATA_ENTRY", "the metadata of a swapped page are not valid"),
    status(0x1c, "INVALID_PAGE_OWNER", "a page is another guest's"),
    status(0x1d, "AEAD_OFLOW", "the counter of guest messages has run over"),
    status(0x1f, "RB_MODE_EXITED", "the firmware has left the ring buffer's mode"),
    status(
        0x20,
        "RMP_INIT_REQUIRED",
        "the RMP is not initialised: SNP must be enabled in the machine's setup, and the kernel must have been \
         started with it",
    ),
    status(0x21, "BAD_SVN", "the firmware is older than one that was committed"),
    status(0x22, "BAD_VERSION", "the firmware's version is lower than one that was committed"),
    status(0x23, "SHUTDOWN_REQUIRED", "SNP must be shut down first"),
    status(0x24, "UPDATE_FAILED", "the firmware could not be updated"),
    status(0x25, "RESTORE_REQUIRED", "a firmware update was begun and must be undone or ended"),
    status(0x26, "RMP_INITIALIZATION_FAILED", "the RMP could not be initialised"),
    status(0x27, "INVALID_KEY", "a key is not valid, or the firmware has none of that kind"),
];

/// The status with this number, if there is one.
#[must_use]
pub fn of(code: u32) -> Option<&'static Status> {
    ALL.iter().find(|status| status.code == code)
}

/// A status in words: its name and meaning, or that nobody knows it.
#[must_use]
pub fn describe(code: u32) -> String {
    match of(code) {
        Some(Status { name, meaning, .. }) => format!("the firmware says {name}: {meaning}"),
        None if code == NOT_ASKED => "the kernel did not ask the firmware".to_owned(),
        None => format!("the firmware answers with a status that is unknown, {code:#x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_is_there_once_in_order() {
        assert!(ALL.windows(2).all(|pair| pair[0].code < pair[1].code));
        assert_eq!(of(0x0b).map(|status| status.name), Some("BAD_MEASUREMENT"));
        assert!(describe(0x0b).contains("tenure measure"));
        assert!(describe(0x1e).contains("unknown, 0x1e"));
        assert!(describe(NOT_ASKED).contains("did not ask"));
    }
}
