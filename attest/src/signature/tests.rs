//! Whoever computes it, the same signatures are good, and no others.

extern crate std;

use std::vec::Vec;

use crypto_bigint::modular::{FixedMontyForm, FixedMontyParams};
use crypto_bigint::{NonZero, Odd, U4096};
use p256::ecdsa::signature::Signer as _;
use proptest::prelude::*;
use rsa::{BigUint, RsaPublicKey};
use sha2::{Digest as _, Sha384};

use super::{by_aws_lc, by_rust};

/// Bytes of a modulus, a signature, and a message as it is encoded for one: its first bit is not used.
const BYTES: usize = 512;
const HASH_BYTES: usize = 48;
const SALT_BYTES: usize = 48;
/// What is masked: zeros, a one, and the salt.
const DATA_BYTES: usize = BYTES - HASH_BYTES - 1;
/// The last byte of an encoded message.
const TRAILER: u8 = 0xbc;

macro_rules! curve {
    ($test:ident, $curve:ident, $bytes:literal) => {
        proptest! {
            #![proptest_config(ProptestConfig::with_cases(32))]

            #[test]
            fn $test(
                secret in prop::collection::vec(any::<u8>(), $bytes),
                bytes in prop::collection::vec(any::<u8>(), 0..200),
                bit in 0_usize..2 * 8 * $bytes,
            ) {
                use $curve::ecdsa::{Signature, SigningKey};

                let both = |key: &SigningKey, bytes: &[u8], signature: &Signature| {
                    let key = key.verifying_key();
                    let found = by_rust::$test(key, bytes, signature);
                    assert_eq!(by_aws_lc::$test(&key.clone().into(), bytes, signature), found);
                    found
                };
                let key = SigningKey::from_slice(&secret);
                prop_assume!(key.is_ok());
                let key = key.unwrap();
                let signature: Signature = key.sign(&bytes);
                prop_assert!(both(&key, &bytes, &signature));
                // Of (r, s) and (r, -s) neither is better.
                let (r, s) = signature.split_scalars();
                prop_assert!(both(&key, &bytes, &Signature::from_scalars(*r, -*s).unwrap()));
                prop_assert!(!both(&key, &[&bytes[..], &[0]].concat(), &signature));
                let mut changed = signature.to_bytes();
                changed[bit / 8] ^= 1 << (bit % 8);
                if let Ok(changed) = Signature::from_slice(&changed) {
                    prop_assert!(!both(&key, &bytes, &changed));
                }
                prop_assert!(!both(&SigningKey::from_slice(&[9; $bytes]).unwrap(), &bytes, &signature));
            }
        }
    };
}

curve!(ecdsa_p256, p256, 32);
curve!(ecdsa_p384, p384, 48);

/// Below a prime that everybody knows everybody can sign, so that encodings can be made which are wrong in one thing only:
/// that of RFC 3526's group 16.
const PRIME: &str = "\
    FFFFFFFFFFFFFFFFC90FDAA22168C234C4C6628B80DC1CD129024E088A67CC74020BBEA63B139B22514A08798E3404DD\
    EF9519B3CD3A431B302B0A6DF25F14374FE1356D6D51C245E485B576625E7EC6F44C42E9A637ED6B0BFF5CB6F406B7ED\
    EE386BFB5A899FA5AE9F24117C4B1FE649286651ECE45B3DC2007CB8A163BF0598DA48361C55D39A69163FA8FD24CF5F\
    83655D23DCA3AD961C62F356208552BB9ED529077096966D670C354E4ABC9804F1746C08CA18217C32905E462E36CE3B\
    E39E772C180E86039B2783A2EC07A28FB5C55DF06F4C52C9DE2BCBF6955817183995497CEA956AE515D2261898FA0510\
    15728E5A8AAAC42DAD33170D04507A33A85521ABDF1CBA64ECFB850458DBEF0A8AEA71575D060C7DB3970F85A6E1E4C7\
    ABF5AE8CDB0933D71E8C94E04A25619DCEE3D2261AD2EE6BF12FFA06D98A0864D87602733EC86A64521F2B18177B200C\
    BBE117577A615D6C770988C0BAD946E208E24FA074E5AB3143DB5BFCE0FD108E4B82D120A92108011A723C12A787E6D7\
    88719A10BDBA5B2699C327186AF4E23C1A946834B6150BDA2583E9CA2AD44CE8DBBBC2DB04DE8EF92E8EFC141FBECAA6\
    287C59474E6BC05D99B2964FA090C3A2233BA186515BE7ED1F612970CEE2D7AFB81BDD762170481CD0069127D5B05AA9\
    93B4EA988D8FDDC186FFB7DC90A6C08F4DF435C934063199FFFFFFFFFFFFFFFF";
const MESSAGE: &[u8] = b"what is signed";

struct Signer {
    key: RsaPublicKey,
    modulus: Odd<U4096>,
    secret: U4096,
}

impl Signer {
    fn new() -> Self {
        let modulus = U4096::from_be_hex(PRIME);
        let order = NonZero::new(modulus.wrapping_sub(&U4096::ONE)).unwrap();
        let number = BigUint::from_bytes_be(modulus.to_be_bytes().as_ref());
        Self {
            key: RsaPublicKey::new(number, BigUint::from(65537_u32)).unwrap(),
            modulus: Odd::new(modulus).unwrap(),
            secret: U4096::from_u32(65537).invert_mod(&order).unwrap(),
        }
    }

    /// What makes this encoded message of a signature.
    fn sign(&self, encoded: &[u8; BYTES]) -> Vec<u8> {
        let parameters = FixedMontyParams::new_vartime(self.modulus);
        let power = FixedMontyForm::new(&U4096::from_be_slice(encoded), &parameters).pow(&self.secret);
        power.retrieve().to_be_bytes().as_ref().to_vec()
    }

    /// Whether a signature is this message's, if both agree.
    fn verifies(&self, signature: &[u8]) -> bool {
        let found = by_rust::rsa_pss(&self.key, MESSAGE, signature);
        assert_eq!(by_aws_lc::rsa_pss(&self.key, MESSAGE, signature), found);
        found
    }
}

/// Encodes the message as it should be, but for what is done to its padding, salt and all, and to the result.
fn encoded(data: impl FnOnce(&mut [u8]), whole: impl FnOnce(&mut [u8; BYTES])) -> [u8; BYTES] {
    let mut block = [0; DATA_BYTES];
    block[DATA_BYTES - SALT_BYTES - 1] = 1;
    block[DATA_BYTES - SALT_BYTES..].fill(0x5a);
    data(&mut block);
    let salt = &block[DATA_BYTES - SALT_BYTES..];
    let check = Sha384::new().chain_update([0; 8]).chain_update(Sha384::digest(MESSAGE)).chain_update(salt).finalize();
    for (counter, part) in (0_u32..).zip(block.chunks_mut(HASH_BYTES)) {
        let mask = Sha384::new().chain_update(check).chain_update(counter.to_be_bytes()).finalize();
        part.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    }
    block[0] &= 0x7f;
    let mut encoded = [0; BYTES];
    encoded[..DATA_BYTES].copy_from_slice(&block);
    encoded[DATA_BYTES..BYTES - 1].copy_from_slice(&check);
    encoded[BYTES - 1] = TRAILER;
    whole(&mut encoded);
    encoded
}

/// no-silent-trust: an encoding that is wrong in one thing is none.
#[test]
fn no_silent_trust_encodings_that_are_wrong_in_one_thing() {
    const ONE_AT: usize = DATA_BYTES - SALT_BYTES - 1;
    let signer = Signer::new();
    let good = signer.sign(&encoded(|_| (), |_| ()));
    assert!(signer.verifies(&good));
    assert!(signer.verifies(&signer.sign(&encoded(|data| data[ONE_AT + 1..].fill(0), |_| ()))), "any salt will do");
    assert!(!by_rust::rsa_pss(&signer.key, b"something else", &good));
    assert!(!by_aws_lc::rsa_pss(&signer.key, b"something else", &good));
    for (what, encoded) in [
        ("the trailer", encoded(|_| (), |all| all[BYTES - 1] = 0xcc)),
        ("the hash", encoded(|_| (), |all| all[DATA_BYTES] ^= 1)),
        ("the salt", encoded(|_| (), |all| all[DATA_BYTES - 1] ^= 1)),
        ("the first of the padding", encoded(|data| data[0] = 0x40, |_| ())),
        ("the last of the padding", encoded(|data| data[ONE_AT - 1] = 1, |_| ())),
        ("no one", encoded(|data| data[ONE_AT] = 0, |_| ())),
        ("a two", encoded(|data| data[ONE_AT] = 2, |_| ())),
        ("a shorter salt", encoded(|data| (data[ONE_AT], data[ONE_AT + 1]) = (0, 1), |_| ())),
        ("a longer salt", encoded(|data| (data[ONE_AT - 1], data[ONE_AT]) = (1, 0), |_| ())),
        ("zeros", [0; BYTES]),
    ] {
        assert!(!signer.verifies(&signer.sign(&encoded)), "{what}");
    }
    // The bit that is not used: below this prime, whose first bits are ones, nearly any number has it.
    assert!(!signer.verifies(&signer.sign(&encoded(|_| (), |all| all[0] |= 0x80))));
}

/// no-silent-trust: a signature is one number of its length below the modulus, and no other bytes are it.
#[test]
fn no_silent_trust_other_bytes_than_the_signature() {
    let signer = Signer::new();
    let good = signer.sign(&encoded(|_| (), |_| ()));
    for at in (0..BYTES).step_by(7) {
        let mut changed = good.clone();
        changed[at] ^= 1 << (at % 8);
        assert!(!signer.verifies(&changed), "byte {at}");
    }
    assert!(!signer.verifies(&good[1..]) && !signer.verifies(&[&[0], &good[..]].concat()) && !signer.verifies(&[]));
    assert!(!signer.verifies(&[0xff; BYTES]) && !signer.verifies(&[0; BYTES]));
    assert!(!signer.verifies(U4096::from_be_hex(PRIME).to_be_bytes().as_ref()));
}
