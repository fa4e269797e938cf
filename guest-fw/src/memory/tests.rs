//! The hand-written memory functions against their definitions.

use super::*;
use core::arch::global_asm;
use proptest::prelude::*;

global_asm!(include_str!("functions.S"));

unsafe extern "C" {
    fn fw_memcpy(to: *mut u8, from: *const u8, len: usize) -> *mut u8;
    fn fw_memmove(to: *mut u8, from: *const u8, len: usize) -> *mut u8;
    fn fw_memset(to: *mut u8, byte: i32, len: usize) -> *mut u8;
    fn fw_memcmp(left: *const u8, right: *const u8, len: usize) -> i32;
}

const LEN: usize = 200;

fn buffer() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), LEN)
}

proptest! {
    #[test]
    fn memmove_moves_as_if_through_a_copy(mut memory in buffer(), from in 0..LEN, to in 0..LEN, len in 0..LEN) {
        let len = len.min(LEN - from.max(to));
        let mut expected = memory.clone();
        expected.copy_within(from..from + len, to);
        let start = memory.as_mut_ptr();
        let target = start.wrapping_add(to);
        // SAFETY: both ranges lie in the buffer.
        let returned = unsafe { fw_memmove(target, start.wrapping_add(from), len) };
        prop_assert_eq!(returned, target);
        prop_assert_eq!(memory, expected);
    }

    #[test]
    fn memcpy_and_copies_from_staging_copy(source in buffer(), from in 0..LEN, len in 0..LEN) {
        let source = &source[from..][..len.min(LEN - from)];
        let mut copy = vec![0; source.len() + 1];
        // SAFETY: the copy has room, with one byte to spare that must stay as it is.
        let returned = unsafe { fw_memcpy(copy.as_mut_ptr(), source.as_ptr(), source.len()) };
        prop_assert_eq!(returned, copy.as_mut_ptr());
        prop_assert_eq!(&copy[..source.len()], source);
        prop_assert_eq!(copy[source.len()], 0);

        let mut copy = vec![0; source.len()];
        let address = source.as_ptr().expose_provenance() as u64;
        // SAFETY: as many bytes as the copy has are there.
        unsafe { copy_into(address, &mut copy) };
        prop_assert_eq!(&copy[..], source);
    }

    #[test]
    fn memset_fills(mut memory in buffer(), from in 0..LEN, len in 0..LEN, byte in any::<i32>()) {
        let len = len.min(LEN - from);
        let mut expected = memory.clone();
        expected[from..from + len].fill(byte.to_le_bytes()[0]);
        let target = memory[from..].as_mut_ptr();
        // SAFETY: the range lies in the buffer.
        let returned = unsafe { fw_memset(target, byte, len) };
        prop_assert_eq!(returned, target);
        prop_assert_eq!(memory, expected);
    }

    /// Equal but for at most one byte, so that equality is common.
    #[test]
    fn memcmp_orders_as_bytes(left in buffer(), len in 0..LEN, change in proptest::option::of((0..LEN, any::<u8>()))) {
        let mut right = left.clone();
        if let Some((at, byte)) = change {
            right[at] = byte;
        }
        // SAFETY: both buffers are at least this long.
        let order = unsafe { fw_memcmp(left.as_ptr(), right.as_ptr(), len) };
        prop_assert_eq!(order.cmp(&0), left[..len].cmp(&right[..len]));
    }
}
