//! Security versions of what a chip's keys depend on.
//!
//! Owns both layouts of TCB_VERSION. Which of them holds depends on the product, and that only a chain of certificates
//! says for sure: so a report gives [`PackedTcb`], and who knows the product unpacks it. Specification: 56860, "TCB
//! version".

use core::fmt;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::Product;
use crate::hex::Hex;

/// TCB_VERSION as it is in reports. It has no order: see [`Tcb`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(transparent)]
pub struct PackedTcb(pub [u8; 8]);

/// The versions of a platform's parts. Each has an order of its own; the whole has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tcb {
    /// The FMC, first in the chain of firmware: Turin only.
    pub fmc: Option<u8>,
    /// Boot loader of the PSP.
    pub boot_loader: u8,
    /// Its operating system.
    pub tee: u8,
    /// The SNP firmware.
    pub snp: u8,
    /// Microcode, the lowest of all cores.
    pub microcode: u8,
}

/// Reserved bytes that are set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{packed}, whose reserved bytes are not zero")]
pub struct TcbError {
    packed: PackedTcb,
}

impl PackedTcb {
    /// The versions, as this product packs them.
    pub const fn unpack(self, product: Product) -> Result<Tcb, TcbError> {
        match (product, self.0) {
            (Product::Milan | Product::Genoa, [boot_loader, tee, 0, 0, 0, 0, snp, microcode]) => {
                Ok(Tcb { fmc: None, boot_loader, tee, snp, microcode })
            }
            (Product::Turin, [fmc, boot_loader, tee, snp, 0, 0, 0, microcode]) => {
                Ok(Tcb { fmc: Some(fmc), boot_loader, tee, snp, microcode })
            }
            _ => Err(TcbError { packed: self }),
        }
    }
}

impl fmt::Display for PackedTcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Hex(&self.0).fmt(f)
    }
}

impl Tcb {
    /// Whether no part is newer than the other's.
    #[must_use]
    pub fn is_within(self, bound: Self) -> bool {
        let parts = |tcb: Self| [tcb.fmc.unwrap_or(0), tcb.boot_loader, tcb.tee, tcb.snp, tcb.microcode];
        parts(self).iter().zip(parts(bound)).all(|(part, bound)| *part <= bound)
    }
}

impl fmt::Display for Tcb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fmc, boot_loader, tee, snp, microcode } = self;
        if let Some(fmc) = fmc {
            write!(f, "FMC {fmc}, ")?;
        }
        write!(f, "boot loader {boot_loader}, TEE {tee}, SNP {snp}, microcode {microcode}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn each_product_packs_in_its_own_way() {
        let packed = PackedTcb([5, 1, 0, 0, 0, 0, 0, 9]);
        let milan = packed.unpack(Product::Milan).unwrap();
        assert_eq!(milan, Tcb { fmc: None, boot_loader: 5, tee: 1, snp: 0, microcode: 9 });
        let turin = packed.unpack(Product::Turin).unwrap();
        assert_eq!(turin, Tcb { fmc: Some(5), boot_loader: 1, tee: 0, snp: 0, microcode: 9 });
        assert_eq!(turin.to_string(), "FMC 5, boot loader 1, TEE 0, SNP 0, microcode 9");
    }

    #[test]
    fn reserved_bytes_are_refused() {
        for (product, reserved) in [(Product::Milan, 2..6), (Product::Genoa, 2..6), (Product::Turin, 4..7)] {
            for at in 0..8 {
                let mut packed = [0; 8];
                packed[at] = 1;
                assert_eq!(PackedTcb(packed).unpack(product).is_err(), reserved.contains(&at), "{product} {at}");
            }
        }
    }

    #[test]
    fn versions_are_compared_part_by_part() {
        let tcb = Tcb { fmc: Some(1), boot_loader: 1, tee: 1, snp: 1, microcode: 1 };
        let newer = Tcb { snp: 9, ..tcb };
        assert!(tcb.is_within(newer) && !newer.is_within(tcb));
        assert!(!Tcb { tee: 0, ..newer }.is_within(tcb));
    }
}
