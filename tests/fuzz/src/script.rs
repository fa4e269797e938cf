//! Changes to good evidence, as an input says.
//!
//! Owns the input's form: steps of eight bytes. Evidence whose bytes are tried at random is refused at its first field or
//! its first signature; what has a few things wrong goes further.

/// How many steps are carried out.
const MOST: usize = 24;
const STEP: usize = 8;

/// Takes numbers off the front of an input; zeros after its end.
#[derive(Debug)]
pub(crate) struct Input<'a>(pub(crate) &'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        self.take().map_or(0, |[byte]| byte)
    }

    pub(crate) fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// One of these.
    pub(crate) fn one_of<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[usize::from(self.byte()) % of.len()]
    }
}

/// Changes these parts as the rest of the input says. True if something was changed.
pub(crate) fn change(parts: &mut [Vec<u8>], input: &mut Input<'_>) -> bool {
    let before = parts.to_vec();
    for _ in 0..MOST {
        let Some([part, what, low, high, count, value, more, _]) = input.take::<STEP>() else { break };
        let whole = &parts[usize::from(more) % parts.len()].clone();
        let length = parts.len();
        let part = &mut parts[usize::from(part) % length];
        let at = usize::from(u16::from_le_bytes([low, high])) % (part.len() + 1);
        let end = part.len().min(at + usize::from(count));
        match what % 8 {
            0 | 1 => part.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= value),
            2 => part.iter_mut().skip(at).take(1).for_each(|byte| *byte = value),
            3 => part[at..end].fill(value),
            4 => drop(part.splice(at..at, std::iter::repeat_n(value, usize::from(count)))),
            5 => drop(part.drain(at..end)),
            // As many bytes of the input follow.
            6 => {
                let new = input.bytes(end - at);
                part[at..at + new.len()].copy_from_slice(new);
            }
            _ => *part = whole.clone(),
        }
    }
    before != parts
}

/// A step that flips a bit of a part.
pub(crate) fn flip(part: u8, at: u16, bit: u8) -> Vec<u8> {
    let [low, high] = at.to_le_bytes();
    vec![part, 0, low, high, 0, 1 << bit, 0, 0]
}
