//! SHA-384 of many pages, on all cores, handed out in the order in which a launch wants them.
//!
//! Owns who hashes what and when. A digest can only be extended page by page, but what it is extended by can be hashed
//! in any order: helpers take pieces from one counter, and the thread that extends the digest takes a piece as well
//! whenever the next page's hash is not there yet. So it neither waits while there is work nor holds the others up, and
//! without helpers it does everything itself.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, Builder};

use crate::digest::Digest;

/// Pages a thread takes at once: a quarter of a millisecond's work. The last pieces leave cores idle.
const PIECE: usize = 16;
/// Fewer pages than this are hashed before a thread has started.
const PAYS_FROM: usize = 128;

/// Calls `chain` with the hashes of `pages`, in order.
pub(super) fn in_order<T>(pages: &[&[u8]], chain: impl FnOnce(&mut InOrder<'_>) -> T) -> T {
    let cores = match pages.len() {
        PAYS_FROM.. => thread::available_parallelism().map_or(1, usize::from),
        _ => 1,
    };
    on(cores, pages, chain)
}

fn on<T>(cores: usize, pages: &[&[u8]], chain: impl FnOnce(&mut InOrder<'_>) -> T) -> T {
    let (pieces, next) = (pages.chunks(PIECE).collect::<Vec<_>>(), AtomicUsize::new(0));
    let helpers = cores.min(pieces.len()).saturating_sub(1);
    let (sender, done) = channel();
    thread::scope(|scope| {
        for _ in 0..helpers {
            let (sender, pieces, next) = (sender.clone(), &pieces, &next);
            // One that cannot be had is one less.
            if Builder::new().spawn_scoped(scope, move || help(pieces, next, &sender)).is_err() {
                break;
            }
        }
        drop(sender);
        let (hasher, early, hashes) = (Hasher::default(), BTreeMap::new(), Vec::new());
        chain(&mut InOrder { pieces: &pieces, next: &next, hasher, done, early, at: 0, hashes })
    })
}

/// A piece's number and the hashes of its pages, the last one first.
type Hashed = (usize, Vec<Digest>);

fn help(pieces: &[&[&[u8]]], next: &AtomicUsize, done: &Sender<Hashed>) {
    let mut hasher = Hasher::default();
    while let Some(hashed) = hasher.take(pieces, next) {
        if done.send(hashed).is_err() {
            return; // Nobody wants more of them.
        }
    }
}

/// Hashes pages. Much of an image is one page many times, erased flash or zeros, so it knows the last one again.
#[derive(Default)]
struct Hasher<'a> {
    last: Option<(&'a [u8], Digest)>,
}

impl<'a> Hasher<'a> {
    /// Hashes the next piece that nobody has taken.
    fn take(&mut self, pieces: &[&[&'a [u8]]], next: &AtomicUsize) -> Option<Hashed> {
        let number = next.fetch_add(1, Ordering::Relaxed);
        pieces.get(number).map(|pages| (number, self.hashes(pages)))
    }

    fn hashes(&mut self, pages: &[&'a [u8]]) -> Vec<Digest> {
        pages.iter().rev().map(|page| self.hash(page)).collect()
    }

    fn hash(&mut self, page: &'a [u8]) -> Digest {
        if let Some((last, hash)) = self.last
            && last == page
        {
            return hash;
        }
        let hash = Digest::of_page(page);
        self.last = Some((page, hash));
        hash
    }
}

/// The hashes of pages, one after another.
pub(super) struct InOrder<'a> {
    pieces: &'a [&'a [&'a [u8]]],
    next: &'a AtomicUsize,
    hasher: Hasher<'a>,
    done: Receiver<Hashed>,
    /// What others have hashed that is not wanted yet.
    early: BTreeMap<usize, Vec<Digest>>,
    /// The piece that is wanted next.
    at: usize,
    /// What is left of the one before it.
    hashes: Vec<Digest>,
}

impl Iterator for InOrder<'_> {
    type Item = Digest;

    fn next(&mut self) -> Option<Digest> {
        if self.hashes.is_empty() {
            self.hashes = self.piece()?;
            self.at += 1;
        }
        self.hashes.pop()
    }
}

impl InOrder<'_> {
    /// The next piece, by whoever has it first.
    fn piece(&mut self) -> Option<Vec<Digest>> {
        let pages = self.pieces.get(self.at)?;
        loop {
            self.early.extend(self.done.try_iter());
            if let Some(hashes) = self.early.remove(&self.at) {
                return Some(hashes);
            }
            let taken = self.hasher.take(self.pieces, self.next).or_else(|| self.done.recv().ok());
            // If nobody has it, its helper is gone.
            let Some((number, hashes)) = taken else { return Some(self.hasher.hashes(pages)) };
            self.early.insert(number, hashes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::PAGE_BYTES;

    /// one-launch: however many share the work, every page has the hash that it has alone.
    #[test]
    fn one_launch_every_page_is_hashed_in_its_place() {
        let bytes: Vec<u8> = (0..u32::try_from(1000 * PAGE_BYTES / 4).unwrap())
            .flat_map(|word| if word % 5000 < 2500 { word.to_le_bytes() } else { [0; 4] })
            .collect();
        for count in [0, 1, PIECE - 1, PIECE, PIECE + 1, PAYS_FROM - 1, PAYS_FROM, PAYS_FROM + 1, 1000] {
            let mut pages: Vec<&[u8]> = bytes.chunks(PAGE_BYTES).take(count).collect();
            if let Some(last) = pages.last_mut() {
                *last = &last[..17];
            }
            let alone: Vec<Digest> = pages.iter().map(|page| Digest::of_page(page)).collect();
            assert_eq!(in_order(&pages, |hashes| hashes.collect::<Vec<_>>()), alone, "{count}");
            for cores in [1, 2, 9] {
                assert_eq!(on(cores, &pages, |hashes| hashes.collect::<Vec<_>>()), alone, "{count} on {cores}");
            }
        }
    }

    /// Whoever wants no more than the first is not kept.
    #[test]
    fn not_all_need_be_wanted() {
        let page = [7; PAGE_BYTES];
        let pages = vec![page.as_slice(); 1000];
        assert_eq!(on(3, &pages, |hashes| hashes.next()), Some(Digest::of_page(&page)));
    }
}
