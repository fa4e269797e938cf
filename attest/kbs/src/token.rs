//! The service's tokens: what it says of a guest, signed, and read back before anything is released.
//!
//! Owns the key, in a file that only its user can read, made when there is none; that nobody else can have put one there is
//! module [`state`](crate::state)'s. Claims and signatures are [`attest::ear`]'s.

use std::io::{self, Read as _};
use std::path::PathBuf;
use std::time::Duration;

use attest::UnixTime;
use attest::ear::{Ear, Subject, Submodule, TokenError, TokenKey, TokenSigner, Verifier};
use attest::snp::Tier;
use base64ct::{Base64, Encoding};
use kbs_types::TeePubKey;
use serde::Deserialize as _;
use zeroize::Zeroizing;

use crate::appraiser::{Granted, Release};
use crate::protocol::random;
use crate::state::{StateDirectory, StateError};

const KEY_FILE: &str = "token.key";
const KEY_BYTES: usize = 48;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// The directory or the file: not there, or not ours alone.
    #[error(transparent)]
    State(#[from] StateError),
    /// It cannot be read.
    #[error("{path}: {source}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Something else is in it.
    #[error("{path}: it has no private key of {KEY_BYTES} bytes in base64")]
    Key {
        /// Which.
        path: PathBuf,
    },
}

/// Issues and reads tokens.
#[derive(Clone, Debug)]
pub struct Tokens {
    signer: TokenSigner,
    key: TokenKey,
    lifetime: Duration,
}

/// What a token that was read back says.
#[derive(Debug)]
pub struct Claims {
    /// The guest's key.
    pub tee_pubkey: TeePubKey,
    /// What may be released to it.
    pub release: Release,
    /// What vouches for that.
    pub tier: Tier,
}

/// Why a token does not open anything.
#[derive(Debug, thiserror::Error)]
pub enum ClaimsError {
    /// The token itself.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// Given when other things were asked for.
    #[error("the token was given under another policy than that of today")]
    Policy,
    /// Its claims are not those of this service.
    #[error("the token's claims are not of this service: {0}")]
    Form(#[from] serde_json::Error),
}

impl Tokens {
    /// With the key in this directory, or a new one. Tokens hold for so long.
    pub fn open(directory: &StateDirectory, lifetime: Duration) -> Result<Self, KeyFileError> {
        let file = directory.private(KEY_FILE, new_key)?;
        let path = directory.path_of(KEY_FILE);
        let mut text = Zeroizing::new(String::new());
        let read = file.take(1024).read_to_string(&mut text);
        read.map_err(|source| KeyFileError::Read { path: path.clone(), source })?;
        let wrong = || KeyFileError::Key { path: path.clone() };
        let secret = Zeroizing::new(Base64::decode_vec(text.trim()).map_err(|_| wrong())?);
        let secret: &[u8; KEY_BYTES] = secret.as_slice().try_into().map_err(|_| wrong())?;
        let signer = TokenSigner::from_bytes(secret).map_err(|_| wrong())?;
        Ok(Self { key: signer.key(), signer, lifetime })
    }

    /// What others read its tokens with.
    #[must_use]
    pub const fn key(&self) -> &TokenKey {
        &self.key
    }

    /// A token for a guest that was found good, and when it ends: with the verdict at the latest.
    pub fn issue(
        &self,
        key: &TeePubKey,
        nonce: &str,
        (tier, granted): (Tier, Granted),
        policy: &str,
        now: UnixTime,
    ) -> Result<(String, UnixTime), ClaimsError> {
        let Granted { vector, claims, release, valid_until } = granted;
        let subject = Subject {
            nonce: nonce.into(),
            tee_pubkey: serde_json::to_value(key)?,
            resources: serde_json::to_value(release)?,
        };
        let verifier = Verifier { developer: "tenure".into(), build: env!("CARGO_PKG_VERSION").into() };
        let cpu = Submodule::new(tier, vector, policy, claims);
        // The verdict's last moment is one on which it holds.
        let left = (valid_until.as_secs().saturating_add(1)).saturating_sub(now.as_secs());
        let lifetime = self.lifetime.min(Duration::from_secs(left));
        let expires = UnixTime::from_secs(now.as_secs().saturating_add(lifetime.as_secs()));
        Ok((self.signer.sign(&Ear::new(verifier, subject, cpu, now, lifetime))?, expires))
    }

    /// What a token says, if this service gave it under this policy, and it holds at this moment.
    pub fn read(&self, token: &str, policy: &str, now: UnixTime) -> Result<Claims, ClaimsError> {
        let ear = self.key.read(token, now)?;
        let cpu = ear.cpu().filter(|cpu| cpu.is_by_policy(policy)).ok_or(ClaimsError::Policy)?;
        Ok(Claims {
            tee_pubkey: TeePubKey::deserialize(ear.tee_pubkey())?,
            release: Release::deserialize(ear.resources())?,
            tier: cpu.tier(),
        })
    }
}

/// As it is in the file.
fn new_key() -> io::Result<Zeroizing<String>> {
    loop {
        let secret = Zeroizing::new(random::<KEY_BYTES>()?);
        // All but a few of a number's values are private keys.
        if TokenSigner::from_bytes(&secret).is_ok() {
            return Ok(Zeroizing::new(Base64::encode_string(&secret[..])));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attest::ear::TrustVector;
    use serde_json::json;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use tempfile::TempDir;

    const NOW: UnixTime = UnixTime::from_secs(1_780_272_000);
    const END: UnixTime = UnixTime::from_secs(NOW.as_secs() + 1000);

    fn state() -> TempDir {
        // Whatever the umask.
        tempfile::Builder::new().permissions(Permissions::from_mode(0o700)).tempdir().unwrap()
    }

    fn open(dir: &TempDir, lifetime: Duration) -> Result<Tokens, KeyFileError> {
        Tokens::open(&StateDirectory::make(dir.path()).unwrap(), lifetime)
    }

    fn granted() -> (Tier, Granted) {
        let release = Release::Only(["a/b/c".to_owned()].into());
        let granted = Granted { vector: TrustVector::default(), claims: json!({}), release, valid_until: END };
        (Tier::SoftwareTest, granted)
    }

    #[test]
    fn tokens_outlive_the_service_but_not_its_policy() {
        let dir = state();
        let key = TeePubKey::EC { crv: "P-256".into(), alg: "A".into(), x: "x".into(), y: "y".into() };
        let tokens = open(&dir, Duration::from_secs(60)).unwrap();
        let (token, expires) = tokens.issue(&key, "n", granted(), "p", NOW).unwrap();
        assert_eq!(expires.as_secs(), NOW.as_secs() + 60);
        let again = open(&dir, Duration::from_secs(60)).unwrap();
        let claims = again.read(&token, "p", NOW).unwrap();
        assert_eq!((claims.tier, claims.release), (Tier::SoftwareTest, granted().1.release));
        assert!(matches!(again.read(&token, "q", NOW), Err(ClaimsError::Policy)));
        let late = UnixTime::from_secs(NOW.as_secs() + 60);
        assert!(matches!(again.read(&token, "p", late), Err(ClaimsError::Token(TokenError::Expired { .. }))));
    }

    /// no-silent-trust: what a verdict rests on ends, and then no token is left that says more.
    #[test]
    fn no_silent_trust_tokens_end_with_the_verdict() {
        let dir = state();
        let key = TeePubKey::EC { crv: "P-256".into(), alg: "A".into(), x: "x".into(), y: "y".into() };
        let tokens = open(&dir, Duration::from_secs(60)).unwrap();
        let (tier, granted) = granted();
        let after = |seconds| UnixTime::from_secs(NOW.as_secs() + seconds);
        let ending = Granted { valid_until: after(30), ..granted };
        let (token, expires) = tokens.issue(&key, "n", (tier, ending), "p", NOW).unwrap();
        assert_eq!(expires, after(31));
        assert!(tokens.read(&token, "p", after(30)).is_ok());
        let late = tokens.read(&token, "p", after(31));
        assert!(matches!(late, Err(ClaimsError::Token(TokenError::Expired { .. }))));
    }

    /// no-silent-trust: a key that others can read is no key.
    #[test]
    fn no_silent_trust_the_key_is_its_owners() {
        let dir = state();
        open(&dir, Duration::ZERO).unwrap();
        let path = dir.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(open(&dir, Duration::ZERO), Err(KeyFileError::State(StateError::Mode { mode: 0o640, .. }))));
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "AAAA").unwrap();
        assert!(matches!(open(&dir, Duration::ZERO), Err(KeyFileError::Key { .. })));
    }

    /// no-silent-trust: a link that waits for a new key gets none.
    #[test]
    fn no_silent_trust_a_new_key_goes_nowhere_else() {
        let dir = tempfile::tempdir().unwrap();
        let (path, victim) = (dir.path().join("state"), dir.path().join("victim"));
        let state = StateDirectory::make(&path).unwrap();
        fs::write(&victim, "as it was").unwrap();
        symlink(&victim, path.join(format!("{KEY_FILE}.{}", std::process::id()))).unwrap();
        Tokens::open(&state, Duration::ZERO).unwrap();
        assert_eq!(fs::read(&victim).unwrap(), b"as it was");
    }
}
