//! What a report says, in words and as JSON. Whether it is true is not said here.
//!
//! Owns the words and keys. Which product a report is of decides how its versions are packed: a report says that itself
//! from version 3 on, else they are shown as they stand there.

use std::fmt::Write as _;

use attest::snp::report::{FirmwareVersion, Mitigations};
use attest::snp::{PackedTcb, Product, Report, Tcb};
use serde::Serialize;
use snp::hex;
use snp::policy::GuestPolicy;

/// Bits of PLATFORM_INFO.
const PLATFORM: [(u64, &str); 7] = [
    (1 << 0, "smt"),
    (1 << 1, "tsme"),
    (1 << 2, "ecc"),
    (1 << 3, "rapl-off"),
    (1 << 4, "ciphertext-hiding"),
    (1 << 5, "alias-check"),
    (1 << 7, "tio"),
];

/// Everything a report says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Claims {
    /// Version of its format.
    pub version: u32,
    /// The product, if the report says which.
    pub product: Option<&'static str>,
    /// The processor, if the report says which.
    pub processor: Option<String>,
    /// Who asked for it.
    pub requester: String,
    /// What signed it.
    pub signing_key: String,
    /// Whether the platform keeps its chip's key to itself.
    pub mask_chip_key: bool,
    /// The guest's policy, in hexadecimal.
    pub policy: String,
    /// The guest's policy by names.
    pub policy_names: String,
    /// The guest's security version.
    pub guest_svn: u32,
    /// FAMILY_ID.
    pub family_id: String,
    /// IMAGE_ID.
    pub image_id: String,
    /// The launch digest.
    pub launch_digest: String,
    /// REPORT_DATA.
    pub report_data: String,
    /// HOST_DATA.
    pub host_data: String,
    /// ID_KEY_DIGEST.
    pub id_key_digest: String,
    /// AUTHOR_KEY_DIGEST.
    pub author_key_digest: String,
    /// Whether an author's key signed.
    pub author_key_enabled: bool,
    /// REPORT_ID.
    pub report_id: String,
    /// REPORT_ID_MA.
    pub report_id_ma: String,
    /// CHIP_ID.
    pub chip_id: String,
    /// PLATFORM_INFO, in hexadecimal.
    pub platform_info: String,
    /// What of it is known, by names.
    pub platform: Vec<&'static str>,
    /// Versions that the signing key is for.
    pub reported_tcb: TcbClaim,
    /// Versions that the platform cannot go back behind.
    pub committed_tcb: TcbClaim,
    /// Versions that run.
    pub current_tcb: TcbClaim,
    /// Versions that ran when the guest was launched.
    pub launch_tcb: TcbClaim,
    /// Firmware that runs.
    pub current_firmware: String,
    /// Firmware that the platform cannot go back behind.
    pub committed_firmware: String,
    /// Mitigations at launch, in hexadecimal, if the report says so.
    pub launch_mitigations: Option<String>,
    /// Mitigations now.
    pub current_mitigations: Option<String>,
}

/// A TCB version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TcbClaim {
    /// As it stands there.
    pub packed: String,
    /// By parts, if it is known how this product packs them.
    pub parts: Option<Parts>,
}

/// The versions of a platform's parts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parts {
    /// The FMC: Turin only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fmc: Option<u8>,
    /// Boot loader of the PSP.
    pub boot_loader: u8,
    /// Its operating system.
    pub tee: u8,
    /// The SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

impl Claims {
    /// Of a report; `product` is the one that is known from elsewhere.
    pub fn of(report: &Report<'_>, product: Option<Product>) -> Self {
        let processor = report.processor();
        let product = product.or_else(|| processor?.product());
        let tcb = |packed| TcbClaim::of(packed, product);
        let mitigations = report.mitigations();
        let mask = |of: fn(Mitigations) -> u64| mitigations.map(|it| format!("{:#x}", of(it)));
        Self {
            version: report.version(),
            product: product.map(Product::name),
            processor: processor.map(|it| it.to_string()),
            requester: report.requester().to_string(),
            signing_key: report.signing_key().to_string(),
            mask_chip_key: report.mask_chip_key(),
            policy: format!("{:#x}", report.policy()),
            policy_names: GuestPolicy::from_raw(report.policy()).map_or_else(|it| it.to_string(), |it| it.to_string()),
            guest_svn: report.guest_svn(),
            family_id: hex::text(report.family_id()),
            image_id: hex::text(report.image_id()),
            launch_digest: hex::text(report.measurement()),
            report_data: hex::text(report.report_data()),
            host_data: hex::text(report.host_data()),
            id_key_digest: hex::text(report.id_key_digest()),
            author_key_digest: hex::text(report.author_key_digest()),
            author_key_enabled: report.author_key_enabled(),
            report_id: hex::text(report.report_id()),
            report_id_ma: hex::text(report.report_id_ma()),
            chip_id: hex::text(report.chip_id()),
            platform_info: format!("{:#x}", report.platform_info()),
            platform: PLATFORM.iter().filter(|(bit, _)| report.platform_info() & bit != 0).map(|(_, it)| *it).collect(),
            reported_tcb: tcb(report.reported_tcb()),
            committed_tcb: tcb(report.committed_tcb()),
            current_tcb: tcb(report.current_tcb()),
            launch_tcb: tcb(report.launch_tcb()),
            current_firmware: firmware(report.current_version()),
            committed_firmware: firmware(report.committed_version()),
            launch_mitigations: mask(|it| it.launch),
            current_mitigations: mask(|it| it.current),
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
        line("product", self.product.unwrap_or(unsaid));
        line("processor", self.processor.as_deref().unwrap_or(unsaid));
        line("asked for by", &self.requester);
        line("signed with", &self.signing_key);
        line("chip key masked", if self.mask_chip_key { "yes" } else { "no" });
        line("policy", &format!("{} ({})", self.policy, self.policy_names));
        line("guest SVN", &self.guest_svn.to_string());
        line("family ID", &self.family_id);
        line("image ID", &self.image_id);
        line("launch digest", &self.launch_digest);
        line("REPORT_DATA", &self.report_data);
        line("HOST_DATA", &self.host_data);
        line("ID_KEY_DIGEST", &self.id_key_digest);
        line("AUTHOR_KEY_DIGEST", &self.author_key_digest);
        line("author key signed", if self.author_key_enabled { "yes" } else { "no" });
        line("REPORT_ID", &self.report_id);
        line("REPORT_ID_MA", &self.report_id_ma);
        line("CHIP_ID", &self.chip_id);
        line("platform", &format!("{} ({})", self.platform_info, self.platform.join(", ")));
        for (label, tcb) in [
            ("TCB reported", &self.reported_tcb),
            ("TCB committed", &self.committed_tcb),
            ("TCB running", &self.current_tcb),
            ("TCB at launch", &self.launch_tcb),
        ] {
            line(label, &tcb.text());
        }
        line("firmware", &format!("{}; committed {}", self.current_firmware, self.committed_firmware));
        let now = self.current_mitigations.as_deref().unwrap_or(unsaid);
        line("mitigations", &format!("{now}; at launch {}", self.launch_mitigations.as_deref().unwrap_or(unsaid)));
        text
    }
}

impl TcbClaim {
    fn of(packed: PackedTcb, product: Option<Product>) -> Self {
        let parts = product.and_then(|product| packed.unpack(product).ok());
        Self { packed: packed.to_string(), parts: parts.map(Parts::from) }
    }

    fn text(&self) -> String {
        match &self.parts {
            Some(Parts { fmc, boot_loader, tee, snp, microcode }) => {
                Tcb { fmc: *fmc, boot_loader: *boot_loader, tee: *tee, snp: *snp, microcode: *microcode }.to_string()
            }
            None => format!("{}, packed as the product packs it", self.packed),
        }
    }
}

impl From<Tcb> for Parts {
    fn from(Tcb { fmc, boot_loader, tee, snp, microcode }: Tcb) -> Self {
        Self { fmc, boot_loader, tee, snp, microcode }
    }
}

fn firmware(version: FirmwareVersion) -> String {
    version.to_string()
}
