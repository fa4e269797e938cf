//! Launches that somebody signed: the secure processor must launch what was signed, and refuse everything else.
//!
//! Owns what is signed, and what is wrong with it on purpose. An ID block is a question to the secure processor that needs
//! no help of the guest's: it launches the guest only if it measured what was predicted.

use gmem_kvm::port::Kernel;
use snp::digest::Digest;
use snp::id_block::keys::IdKey;
use snp::id_block::{IdAuth, IdBlock, ImageIdentity, SignedBlock};
use snp::policy::{GuestPolicy, PolicyFlags};
use snp::status;

use super::cases::{Entered, Session};
use super::guest::{self, Kept, Ran};
use super::judge::{no_digest, not_launched, teardown};
use super::results::{Check, Verdict};
use super::{Bed, SelfTestError};
use crate::config::RunConfig;
use crate::config::inputs::Inputs;
use crate::config::snp::IdBlockCheck;
use crate::report::GuestOutcome;

/// What an ID block with something wrong in it is answered with.
struct Refused {
    id: &'static str,
    about: &'static str,
    /// Status of the firmware.
    status: u32,
    wrong: fn(&mut SignedBlock, &Keys, Digest, GuestPolicy),
}

const REFUSED: [Refused; 3] = [
    Refused {
        id: "other-digest",
        about: "an ID block that is signed for a digest with one bit changed",
        status: status::BAD_MEASUREMENT,
        wrong: |signed, keys, digest, policy| {
            let mut other = digest;
            other.0[0] ^= 1;
            *signed = keys.sign(other, policy);
        },
    },
    Refused {
        id: "other-policy",
        about: "an ID block that is signed for another guest policy",
        status: status::POLICY_FAILURE,
        wrong: |signed, keys, digest, policy| {
            let other = GuestPolicy::new(policy.flags() ^ PolicyFlags::SINGLE_SOCKET);
            *signed = keys.sign(digest, other);
        },
    },
    Refused {
        id: "forged-id-block",
        about: "an ID block that was changed after it was signed",
        status: status::BAD_SIGNATURE,
        wrong: |signed, _, _, _| signed.block.image_id[0] ^= 1,
    },
];

/// A guest's owner, for as long as the self-test takes.
struct Keys {
    id: IdKey,
    author: IdKey,
}

impl Keys {
    fn random<K>(bed: &Bed<'_, K>) -> Result<Self, SelfTestError> {
        let key = || -> Result<IdKey, SelfTestError> {
            loop {
                // All but one in 2^190 numbers are keys.
                if let Some(key) = IdKey::from_scalar(&(bed.random)().map_err(SelfTestError::Random)?) {
                    return Ok(key);
                }
            }
        };
        Ok(Self { id: key()?, author: key()? })
    }

    fn sign(&self, digest: Digest, policy: GuestPolicy) -> SignedBlock {
        let block = IdBlock::new(digest, policy, ImageIdentity::default());
        let auth = IdAuth::sign(&block, &self.id, Some(&self.author));
        SignedBlock { block, auth }
    }
}

impl<K: Kernel> Session<'_, '_, K> {
    /// What an owner signed is launched, and nothing else is.
    pub(super) fn signed(&mut self, config: &RunConfig, digest: Option<Digest>) -> Result<(), SelfTestError> {
        let keys = Keys::random(self.bed)?;
        let policy = config.snp.policy;
        let about = "the same guest with an ID block for its predicted digest".to_owned();
        self.case("signed", about, |session, kept| {
            let Some(digest) = digest else { return Ok(vec![no_digest()]) };
            let signed = keys.sign(digest, policy);
            let digests = signed.auth.verify(&signed.block).ok();
            let inputs = Inputs { signed: Some(Box::new(signed)), ..Inputs::default() };
            let Entered { mut checks, .. } = session.enter(kept, config, inputs, digests)?;
            if let Some(Check { verdict: Verdict::Passed { .. }, .. }) = checks.first() {
                let seen = "the secure processor measured what was predicted, and accepted the ID block";
                checks.insert(1, Check::passed("measured-as-predicted", seen));
            }
            Ok(checks)
        })?;
        for refused in &REFUSED {
            self.case(refused.id, refused.about.to_owned(), |session, kept| {
                let Some(digest) = digest else { return Ok(vec![no_digest()]) };
                let mut signed = keys.sign(digest, policy);
                (refused.wrong)(&mut signed, &keys, digest, policy);
                session.refused(kept, config, signed, refused.status)
            })?;
        }
        Ok(())
    }

    /// A launch that the firmware must refuse at its end, with this status.
    fn refused(
        &mut self,
        kept: &mut Kept,
        config: &RunConfig,
        signed: SignedBlock,
        status: u32,
    ) -> Result<Vec<Check>, SelfTestError> {
        let mut config = self.fresh(config)?;
        config.snp.id_block_check = IdBlockCheck::ByFirmware;
        let inputs = Inputs { signed: Some(Box::new(signed)), ..Inputs::default() };
        let ran = match guest::run(self.bed, &config, &inputs, self.time_limit)? {
            Ok(ran) => ran,
            Err(error) => return Ok(vec![not_launched(&error)]),
        };
        let Ran { report, events, console } = ran;
        self.note(kept, &report, events, console);
        let expected = status::of(status).map_or("nothing", |status| status.name);
        let refused = match (&report.outcome, report.firmware_status) {
            (GuestOutcome::NotStarted { .. }, Some(found)) if found == status => Check::passed("refused", expected),
            (GuestOutcome::NotStarted { reason }, _) => {
                Check::failed("refused", format!("not with {expected}: {reason}"))
            }
            _ => Check::failed("refused", format!("the guest was launched; expected was {expected}")),
        };
        Ok(vec![refused, teardown(&report)])
    }
}
