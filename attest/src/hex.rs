//! Bytes as people read them.

use core::fmt;

/// Bytes written at once: verdicts are full of digests.
const CHUNK_BYTES: usize = 64;

/// Hexadecimal digits of bytes, two a byte.
pub(crate) struct Hex<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = [0; 2 * CHUNK_BYTES];
        self.0.chunks(CHUNK_BYTES).try_for_each(|bytes| {
            let digits = base16ct::lower::encode_str(bytes, &mut digits).map_err(|_| fmt::Error)?;
            f.write_str(digits)
        })
    }
}
