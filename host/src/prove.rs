//! The privacy proof: what another process sees of a running guest's memory.
//!
//! Owns looking at a running `tenure` from outside, through `/proc/PID/maps`, `/proc/PID/mem` and the files behind its
//! mappings, as any process with the right to trace it could. It shows that no private page is mapped by the VMM, that
//! what is mapped at RAM's shared alias holds nothing, and, with [`Tampering::Overwrite`], that writing there does not
//! reach the guest. It is evidence about this host's kernel and this VMM, not a cryptographic proof: under `sw` nothing
//! is encrypted, and the host's kernel can still do what it likes.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use gmem::{PAGE_SIZE, PageCount};
use gmem_kvm::evidence::GUEST_MEMFD_NAMES;
use rustix::fs::{FallocateFlags, SeekFrom};
use serde::Serialize;

/// Name of the memfd behind RAM's shared alias, as `gmem-kvm` creates it.
const ALIAS: &str = "memfd:tenure-ram-shared";
/// What is written over the alias: `int3`, so that a guest that executed it would not get far.
const PATTERN: u8 = 0xcc;
/// Every how many pages of the alias one is read, and overwritten, beyond those that take memory.
const SAMPLE: u64 = 64;

/// Whether to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tampering {
    /// Only look.
    None,
    /// Write over pages of the alias that hold nothing, until [`Prover::restore`].
    Overwrite,
}

/// What was seen.
#[derive(Debug, Clone, Serialize)]
pub struct Proof {
    /// The process that was looked at.
    pub pid: u32,
    /// Mappings of private memory: lines of `/proc/PID/maps`. None may be there.
    pub private_mappings: Vec<String>,
    /// Bytes of RAM's shared alias.
    pub alias_bytes: u64,
    /// Its pages that take memory: what the guest has shared and somebody touched.
    pub alias_resident_pages: u64,
    /// Pages of the alias that were read though they take no memory.
    pub sampled_pages: u64,
    /// How many of those were not all zeros. None may be.
    pub sampled_nonzero_pages: u64,
    /// Pages that were written over.
    pub overwritten_pages: u64,
}

impl Proof {
    /// Whether everything is as it should be.
    pub fn holds(&self) -> bool {
        self.private_mappings.is_empty() && self.alias_bytes != 0 && self.sampled_nonzero_pages == 0
    }
}

/// Why a process could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The process is gone, or we may not trace it.
    #[error("`{}`: {source}", path.display())]
    Proc {
        /// What was to be read or written.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It runs no guest.
    #[error("process {pid} maps no `{ALIAS}`: it is no tenure with a running guest")]
    NoGuest {
        /// Which process.
        pid: u32,
    },
}

/// Looks at one process.
#[derive(Debug)]
pub struct Prover {
    pid: u32,
    aliases: Vec<Alias>,
    overwritten: Vec<(usize, u64)>,
}

/// One mapping of RAM's shared alias.
#[derive(Debug)]
struct Alias {
    address: u64,
    len: u64,
    /// The memfd itself, to ask what it holds without making it hold more.
    file: File,
}

impl Prover {
    /// Finds the guest of process `pid`.
    pub fn attach(pid: u32) -> Result<Self, ProofError> {
        let mut aliases = Vec::new();
        for line in maps(pid)?.lines().filter(|line| line.contains(ALIAS)) {
            let Some((start, end)) = addresses(line) else { continue };
            // A link to the very file that is mapped there, whatever became of its name.
            let path = PathBuf::from(format!("/proc/{pid}/map_files/{start:x}-{end:x}"));
            let file = OpenOptions::new().read(true).write(true).open(&path);
            let file = file.map_err(|source| ProofError::Proc { path, source })?;
            aliases.push(Alias { address: start, len: end - start, file });
        }
        if aliases.is_empty() {
            return Err(ProofError::NoGuest { pid });
        }
        Ok(Self { pid, aliases, overwritten: Vec::new() })
    }

    /// Looks, and tampers if asked to.
    pub fn look(&mut self, tampering: Tampering) -> Result<Proof, ProofError> {
        let names = GUEST_MEMFD_NAMES.map(|name| format!("[{name}]"));
        let is_private = |line: &&str| names.iter().any(|name| line.contains(name));
        let private_mappings = maps(self.pid)?.lines().filter(is_private).map(str::to_owned).collect();
        let path = PathBuf::from(format!("/proc/{}/mem", self.pid));
        let failed = |source| ProofError::Proc { path: path.clone(), source };
        let memory = OpenOptions::new().read(true).write(true).open(&path).map_err(failed)?;
        let mut proof = Proof {
            pid: self.pid,
            private_mappings,
            alias_bytes: self.aliases.iter().map(|alias| alias.len).sum(),
            alias_resident_pages: 0,
            sampled_pages: 0,
            sampled_nonzero_pages: 0,
            overwritten_pages: 0,
        };
        let mut page = vec![0; usize::try_from(PAGE_SIZE).unwrap_or(0)];
        let pattern = vec![PATTERN; page.len()];
        for (index, alias) in self.aliases.iter().enumerate() {
            proof.alias_resident_pages += alias.resident().map_err(failed)?.get();
            for offset in alias.holes().map_err(failed)? {
                memory.read_exact_at(&mut page, alias.address + offset).map_err(failed)?;
                proof.sampled_pages += 1;
                proof.sampled_nonzero_pages += u64::from(page.iter().any(|byte| *byte != 0));
                if tampering == Tampering::Overwrite {
                    memory.write_all_at(&pattern, alias.address + offset).map_err(failed)?;
                    proof.overwritten_pages += 1;
                }
                // Reading made the page take memory, too.
                self.overwritten.push((index, offset));
            }
        }
        if tampering == Tampering::None {
            self.restore()?;
        }
        Ok(proof)
    }

    /// Gives back every page that looking and tampering made take memory.
    pub fn restore(&mut self) -> Result<(), ProofError> {
        for (index, offset) in self.overwritten.drain(..) {
            let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            rustix::fs::fallocate(&self.aliases[index].file, mode, offset, PAGE_SIZE).map_err(|error| {
                let path = PathBuf::from(format!("/proc/{}/map_files", self.pid));
                ProofError::Proc { path, source: error.into() }
            })?;
        }
        Ok(())
    }
}

impl Alias {
    fn resident(&self) -> io::Result<PageCount> {
        let blocks = rustix::fs::fstat(&self.file)?.st_blocks;
        Ok(gmem::ByteLen(u64::try_from(blocks).unwrap_or(0) * 512).pages_up())
    }

    /// Offsets of a sample of the pages that take no memory.
    fn holes(&self) -> io::Result<Vec<u64>> {
        let mut sample = Vec::new();
        let mut offset = 0;
        while offset < self.len {
            let data = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
                Ok(data) => data.min(self.len),
                // Nothing but holes from here on.
                Err(rustix::io::Errno::NXIO) => self.len,
                Err(error) => return Err(error.into()),
            };
            let step = usize::try_from(SAMPLE * PAGE_SIZE).unwrap_or(usize::MAX);
            sample.extend((offset.next_multiple_of(PAGE_SIZE)..data).step_by(step));
            if data == self.len {
                break;
            }
            offset = rustix::fs::seek(&self.file, SeekFrom::Hole(data))?.max(data + PAGE_SIZE);
        }
        Ok(sample)
    }
}

fn maps(pid: u32) -> Result<String, ProofError> {
    let path = PathBuf::from(format!("/proc/{pid}/maps"));
    fs::read_to_string(&path).map_err(|source| ProofError::Proc { path, source })
}

/// The address range at the beginning of a line of `/proc/PID/maps`.
fn addresses(line: &str) -> Option<(u64, u64)> {
    let (start, end) = line.split_ascii_whitespace().next()?.split_once('-')?;
    Some((u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use gmem::{ByteLen, GfnRange, Gpa};
    use gmem_kvm::backing::Region;

    fn guest() -> Region {
        Region::new("tenure-ram-shared", GfnRange::from_bytes(Gpa(0), ByteLen(4 << 20)).unwrap()).unwrap()
    }

    /// shared-only: what the proof looks at is what the VMM has, and it leaves no trace.
    #[test]
    fn shared_only_proof_sees_an_empty_alias_and_leaves_it_empty() {
        let region = guest();
        let mut prover = Prover::attach(std::process::id()).unwrap();
        let proof = prover.look(Tampering::Overwrite).unwrap();
        assert!(proof.holds(), "{proof:?}");
        assert!(proof.overwritten_pages >= 16);
        assert!(region.resident().unwrap().get() >= 1);
        prover.restore().unwrap();
        assert_eq!(region.resident().unwrap().get(), 0);
    }

    #[test]
    fn a_process_without_a_guest_is_said_to_have_none() {
        let child = std::process::Command::new("sleep").arg("5").spawn();
        let Ok(mut child) = child else { return };
        let error = Prover::attach(child.id()).unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(error, ProofError::NoGuest { .. }), "{error}");
    }
}
