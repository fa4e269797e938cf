//! The generations of EPYC that have SNP and whose roots are known.

use core::fmt;

/// A generation of EPYC. Each has a root of trust of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Product {
    /// Zen 3.
    Milan,
    /// Zen 4; also Bergamo and Siena.
    Genoa,
    /// Zen 5.
    Turin,
}

impl Product {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Milan, Self::Genoa, Self::Turin];

    /// Its name, as certificates have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }

    /// The product with this family and model, both as CPUID combines them.
    #[must_use]
    pub const fn from_family_model(family: u8, model: u8) -> Option<Self> {
        match (family, model) {
            (0x19, 0x00..=0x0f) => Some(Self::Milan),
            (0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Self::Genoa),
            (0x1a, 0x00..=0x11) => Some(Self::Turin),
            _ => None,
        }
    }

    /// Bytes of a chip's identifier; the rest of its field is zero.
    #[must_use]
    pub const fn chip_id_bytes(self) -> usize {
        match self {
            Self::Milan | Self::Genoa => 64,
            Self::Turin => 8,
        }
    }
}

impl fmt::Display for Product {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::Product::{self, Genoa, Milan, Turin};

    #[test]
    fn products_by_family_and_model() {
        let known = [(0x19, 1), (0x19, 0x11), (0x19, 0xa0), (0x1a, 2), (0x1a, 0x11)];
        let products = known.map(|(family, model)| Product::from_family_model(family, model));
        assert_eq!(products, [Milan, Genoa, Genoa, Turin, Turin].map(Some));
        let others = [(0x19, 0x21), (0x17, 0x31), (0x1a, 0x44), (6, 1)];
        assert_eq!(others.map(|(family, model)| Product::from_family_model(family, model)), [None; 4]);
    }
}
