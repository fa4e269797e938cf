//! The roots of trust that reports may rest on.
//!
//! Owns AMD's roots and what they signed for each product, which are part of this crate (`roots/amd`), and that one for
//! tests is another value. Law no-silent-trust: a software root of trust can never pass for hardware.

use core::fmt;

use super::Product;
use crate::anchors::{AnchorError, Root};

/// The root of trust that a report rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Anchor {
    /// AMD's root of this product, which is part of this crate.
    Amd(Product),
    /// A root of somebody's, for tests, that the caller named for a platform like this product. No hardware vouches for
    /// anything.
    Test(Product),
}

/// Roots that may be relied on.
pub type Anchors = crate::anchors::Anchors<Anchor>;

impl Anchor {
    /// Whether hardware vouches for the evidence.
    #[must_use]
    pub const fn is_hardware(self) -> bool {
        match self {
            Self::Amd(_) => true,
            Self::Test(_) => false,
        }
    }

    /// The product whose root it is, or for which it stands.
    #[must_use]
    pub const fn product(self) -> Product {
        match self {
            Self::Amd(product) | Self::Test(product) => product,
        }
    }
}

impl Root for Anchor {
    fn is_hardware(self) -> bool {
        self.is_hardware()
    }
}

impl fmt::Display for Anchor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Amd(product) => write!(f, "AMD's root of {product}"),
            Self::Test(product) => write!(f, "a TEST root in place of {product}'s"),
        }
    }
}

impl Anchors {
    /// AMD's roots of every product.
    #[must_use]
    pub fn amd() -> Self {
        Self::embedded(Product::ALL.map(|product| (Anchor::Amd(product), root(product))))
    }

    /// AMD's root of one product.
    #[must_use]
    pub fn amd_of(product: Product) -> Self {
        Self::embedded([(Anchor::Amd(product), root(product))])
    }

    /// These, and that AMD's roots among them signed the certificates of ASK and ASVK that are part of this crate:
    /// their signatures are not checked again. Every other certificate's is, and of these everything else. What was not
    /// checked again is said by the check `chain.intermediate.signature`.
    #[must_use]
    pub fn with_known_intermediates(self) -> Self {
        let amd = |product| intermediates(product).map(|certificate| (Anchor::Amd(product), certificate));
        self.with_known(Product::ALL.into_iter().flat_map(amd))
    }

    /// These, and a root for tests in place of this product's. What rests on it is [`Anchor::Test`] for ever.
    pub fn with_test_root(self, product: Product, certificate: &[u8]) -> Result<Self, AnchorError> {
        self.with_test(Anchor::Test(product), certificate, Product::ALL.map(root))
    }
}

fn root(product: Product) -> &'static [u8] {
    match product {
        Product::Milan => include_bytes!("../../roots/amd/ark-milan.der"),
        Product::Genoa => include_bytes!("../../roots/amd/ark-genoa.der"),
        Product::Turin => include_bytes!("../../roots/amd/ark-turin.der"),
    }
}

/// ASK and ASVK.
fn intermediates(product: Product) -> [&'static [u8]; 2] {
    match product {
        Product::Milan => {
            [include_bytes!("../../roots/amd/ask-milan.der"), include_bytes!("../../roots/amd/asvk-milan.der")]
        }
        Product::Genoa => {
            [include_bytes!("../../roots/amd/ask-genoa.der"), include_bytes!("../../roots/amd/asvk-genoa.der")]
        }
        Product::Turin => {
            [include_bytes!("../../roots/amd/ask-turin.der"), include_bytes!("../../roots/amd/asvk-turin.der")]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::x509::Certificate;

    /// What is not checked for every report is checked here.
    #[test]
    fn known_intermediates_are_signed_by_their_products_root() {
        for product in Product::ALL {
            let root = Certificate::parse(root(product)).unwrap();
            assert!(root.is_signed_by(&root).is_ok());
            for der in intermediates(product) {
                let certificate = Certificate::parse(der).unwrap();
                assert!(certificate.is_signed_by(&root).is_ok() && certificate.issuer() == root.subject(), "{product}");
                let anchors = Anchors::amd().with_known_intermediates();
                assert_eq!(anchors.knows(der), Some(Anchor::Amd(product)));
                assert_eq!(anchors.knows(&der[..der.len() - 1]), None);
                assert_eq!(Anchors::amd().knows(der), None, "only who asks for it");
                let others = Product::ALL.into_iter().filter(|other| *other != product);
                for other in others {
                    assert_eq!(Anchors::amd_of(other).with_known_intermediates().knows(der), None);
                }
            }
        }
    }
}
