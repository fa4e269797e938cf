//! Status codes of the firmware.
//!
//! Specification: 56860, "Status codes"; numbers as in Linux 7.2 source, `include/uapi/linux/psp-sev.h`.

use std::fmt;

macro_rules! statuses {
    ($($variant:ident = $number:literal, $name:literal, $meaning:literal;)*) => {
        /// What a command ended with, unless it succeeded.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Status {
            $(#[doc = $meaning] $variant,)*
        }

        impl Status {
            /// All of them.
            pub const ALL: &[Status] = &[$(Status::$variant),*];

            /// Its number.
            pub fn code(self) -> u32 {
                match self { $(Status::$variant => $number),* }
            }

            /// Its name in the specification.
            pub fn name(self) -> &'static str {
                match self { $(Status::$variant => $name),* }
            }

            /// What it means.
            pub fn meaning(self) -> &'static str {
                match self { $(Status::$variant => $meaning),* }
            }
        }
    };
}

statuses! {
    InvalidPlatformState = 0x01, "INVALID_PLATFORM_STATE", "the platform's state does not allow the command";
    InvalidGuestState = 0x02, "INVALID_GUEST_STATE", "the guest's state does not allow the command";
    InvalidConfig = 0x03, "INVALID_CONFIG", "the platform's configuration does not allow the command";
    InvalidLength = 0x04, "INVALID_LENGTH", "a buffer is too small";
    AlreadyOwned = 0x05, "ALREADY_OWNED", "the platform has an owner";
    InvalidCertificate = 0x06, "INVALID_CERTIFICATE", "a certificate is invalid";
    PolicyFailure = 0x07, "POLICY_FAILURE", "the guest's policy does not allow it";
    Inactive = 0x08, "INACTIVE", "the guest has no ASID";
    InvalidAddress = 0x09, "INVALID_ADDRESS", "an address is invalid";
    BadSignature = 0x0a, "BAD_SIGNATURE", "a signature is wrong";
    BadMeasurement = 0x0b, "BAD_MEASUREMENT", "a measurement is wrong";
    AsidOwned = 0x0c, "ASID_OWNED", "another guest has the ASID";
    InvalidAsid = 0x0d, "INVALID_ASID", "the ASID is invalid";
    WbinvdRequired = 0x0e, "WBINVD_REQUIRED", "caches have to be written back first";
    DfFlushRequired = 0x0f, "DF_FLUSH_REQUIRED", "the data fabric has to be flushed first";
    InvalidGuest = 0x10, "INVALID_GUEST", "there is no such guest";
    InvalidCommand = 0x11, "INVALID_COMMAND", "the command is invalid";
    Active = 0x12, "ACTIVE", "the guest has an ASID";
    HardwarePlatform = 0x13, "HWERROR_PLATFORM", "the hardware failed; the platform is safe";
    HardwareUnsafe = 0x14, "HWERROR_UNSAFE", "the hardware failed; the platform is not safe";
    Unsupported = 0x15, "UNSUPPORTED", "the firmware does not support it";
    InvalidParam = 0x16, "INVALID_PARAM", "a parameter is invalid";
    ResourceLimit = 0x17, "RESOURCE_LIMIT", "the firmware ran out of something";
    SecureDataInvalid = 0x18, "SECURE_DATA_INVALID", "stored data failed its check";
    InvalidPageSize = 0x19, "INVALID_PAGE_SIZE", "a page is of the wrong size";
    InvalidPageState = 0x1a, "INVALID_PAGE_STATE", "a page is in the wrong state";
    InvalidMdataEntry = 0x1b, "INVALID_MDATA_ENTRY", "a metadata entry is invalid";
    InvalidPageOwner = 0x1c, "INVALID_PAGE_OWNER", "a page is not the guest's";
    AeadOflow = 0x1d, "AEAD_OFLOW", "a message counter would overflow";
    ExitRingBuffer = 0x1f, "RB_MODE_EXITED", "the ring buffer was left";
    RmpInitRequired = 0x20, "RMP_INIT_REQUIRED", "the RMP has to be initialised first";
    BadSvn = 0x21, "BAD_SVN", "the security version is too low";
    BadVersion = 0x22, "BAD_VERSION", "the version is too low";
    ShutdownRequired = 0x23, "SHUTDOWN_REQUIRED", "the platform has to be shut down first";
    UpdateFailed = 0x24, "UPDATE_FAILED", "the firmware could not be replaced";
    RestoreRequired = 0x25, "RESTORE_REQUIRED", "the former firmware has to be restored";
    RmpInitFailed = 0x26, "RMP_INITIALIZATION_FAILED", "the RMP could not be initialised";
    InvalidKey = 0x27, "INVALID_KEY", "the key cannot be used";
    ShutdownIncomplete = 0x28, "SHUTDOWN_INCOMPLETE", "the platform was not shut down completely";
    IncorrectBufferLength = 0x30, "INCORRECT_BUFFER_LENGTH", "a buffer is of the wrong length";
    ExpandBufferLength = 0x31, "EXPAND_BUFFER_LENGTH_REQUEST", "a larger buffer is needed";
    SpdmRequest = 0x32, "SPDM_REQUEST", "a device has to be asked first";
    SpdmError = 0x33, "SPDM_ERROR", "a device answered with an error";
    DeviceConnection = 0x35, "ERR_IN_DEV_CONN", "the connection to a device failed";
    InvalidDeviceContext = 0x36, "INVALID_DEV_CTX", "there is no such device";
    InvalidInterfaceContext = 0x37, "INVALID_TDI_CTX", "there is no such device interface";
    InvalidInterface = 0x38, "INVALID_TDI", "the device interface is invalid";
    ReclaimRequired = 0x39, "RECLAIM_REQUIRED", "a device has to be reclaimed first";
    InUse = 0x3a, "IN_USE", "it is in use";
    InvalidDeviceState = 0x3b, "INVALID_DEV_STATE", "the device's state does not allow the command";
    InvalidInterfaceState = 0x3c, "INVALID_TDI_STATE", "the device interface's state does not allow the command";
    DeviceCertificateChanged = 0x3d, "DEV_CERT_CHANGED", "the device has another certificate";
    ResyncRequired = 0x3e, "RESYNC_REQ", "the device has to be synchronised first";
    ResponseTooLarge = 0x3f, "RESPONSE_TOO_LARGE", "the device's response is too large";
}

impl Status {
    /// The status of this number. Success, 0, is none.
    pub fn from_code(code: u32) -> Option<Status> {
        Status::ALL.iter().copied().find(|status| status.code() == code)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({:#x}): {}", self.name(), self.code(), self.meaning())
    }
}

impl std::error::Error for Status {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_has_a_number_of_its_own() {
        for status in Status::ALL {
            assert_eq!(Status::from_code(status.code()), Some(*status));
        }
        assert_eq!(Status::from_code(0), None);
        assert_eq!(Status::InvalidParam.to_string(), "INVALID_PARAM (0x16): a parameter is invalid");
    }
}
