//! Random numbers that are the same everywhere and for good: answers to inputs made of them are kept.

/// A counter, mixed by the finalizer of SplitMix64.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    /// At least `least`, at most `most`.
    pub(crate) fn number(&mut self, least: u32, most: u32) -> u32 {
        let count = u64::from(most) - u64::from(least) + 1;
        least + u32::try_from(self.word() % count).unwrap()
    }

    pub(crate) fn size(&mut self, least: usize, most: usize) -> usize {
        self.number(least.try_into().unwrap(), most.try_into().unwrap()) as usize
    }

    /// True once in so many times.
    pub(crate) fn once_in(&mut self, times: u32) -> bool {
        self.number(1, times) == 1
    }

    pub(crate) fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.size(0, of.len() - 1)]
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..count.div_ceil(8)).flat_map(|_| self.word().to_le_bytes()).collect();
        bytes.truncate(count);
        bytes
    }

    pub(crate) fn shuffle<T>(&mut self, of: &mut [T]) {
        for last in (1..of.len()).rev() {
            of.swap(last, self.size(0, last));
        }
    }
}
