//! Fields of little-endian structures, by offset.
//!
//! Owns nothing but the arithmetic. Offsets are constants of the specifications and fit the structures they are used on;
//! a field that does not fit reads as zeros, or is not written.

/// `N` bytes at an offset.
pub fn take<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    from.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
}

/// A number of 2 bytes at an offset.
pub fn take_u16(from: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(take(from, at))
}

/// A number of 4 bytes at an offset.
pub fn take_u32(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(take(from, at))
}

/// A number of 8 bytes at an offset.
pub fn take_u64(from: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(take(from, at))
}

/// Puts bytes at an offset.
pub fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(field) = into.get_mut(at..at + bytes.len()) {
        field.copy_from_slice(bytes);
    }
}

/// Whether all of these bytes are zero, as reserved ones must be.
pub fn all_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}
