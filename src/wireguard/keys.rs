//! Key types with their text encodings, and the source of randomness.
//!
//! Secret keys are zeroized on drop and their `Debug` output hides them. Their bytes are on the heap, so
//! moving a key leaves no copy behind. Computing with them does, on the stack: threads that handle keys
//! wipe it ([`crate::sys::wipe`]).

use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use subtle::ConstantTimeEq as _;
use x25519_dalek::StaticSecret;
use zeroize::{Zeroize as _, Zeroizing};

/// Length of every key, in bytes.
pub const KEY: usize = 32;

/// Errors when parsing a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The text is not the base64 encoding of 32 bytes.
    #[error("not a key: expected 44 characters of base64 that end in `=`, as `wg genkey` prints them")]
    Base64,
    /// The text is not the hexadecimal encoding of 32 bytes.
    #[error("not a key: expected 64 hexadecimal digits")]
    Hex,
}

/// A source of random bytes. The protocol takes it as an argument, so that tests are deterministic.
pub trait Entropy {
    /// Fills `dest` with cryptographically secure random bytes.
    fn fill(&mut self, dest: &mut [u8]);
}

/// The operating system's randomness (`getrandom(2)`).
#[derive(Debug)]
pub struct OsEntropy(());

impl OsEntropy {
    /// Reads one byte, so that a system without randomness is detected at startup.
    ///
    /// # Errors
    /// Returns the system's error, for example on a kernel before 3.17 or under a seccomp filter
    /// without `getrandom`.
    pub fn new() -> Result<Self, getrandom::Error> {
        getrandom::fill(&mut [0])?;
        Ok(OsEntropy(()))
    }
}

impl Entropy for OsEntropy {
    /// # Panics
    /// Panics if `getrandom` fails although it worked in [`OsEntropy::new`]: continuing would
    /// repeat keys.
    fn fill(&mut self, dest: &mut [u8]) {
        getrandom::fill(dest).expect("getrandom worked at startup");
    }
}

/// A peer's static public key, which identifies it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; KEY]);

impl PublicKey {
    /// Creates a key from its bytes.
    pub const fn from_bytes(bytes: [u8; KEY]) -> Self {
        PublicKey(bytes)
    }

    /// Returns the key as bytes.
    pub const fn as_bytes(&self) -> &[u8; KEY] {
        &self.0
    }

    /// Parses the 64 hexadecimal digits of the configuration protocol.
    ///
    /// # Errors
    /// Returns [`KeyError::Hex`] for anything else.
    pub fn from_hex(text: &str) -> Result<Self, KeyError> {
        let mut key = PublicKey([0; KEY]);
        parse_hex(text, &mut key.0)?;
        Ok(key)
    }

    /// Returns the 64 hexadecimal digits of the configuration protocol.
    pub fn to_hex(&self) -> String {
        write_hex(&self.0)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let mut key = PublicKey([0; KEY]);
        parse_base64(text, &mut key.0)?;
        Ok(key)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Declares a secret key type: zeroized on drop, compared in constant time, hidden by `Debug`.
macro_rules! secret_key {
    ($(#[$meaning:meta])* $name:ident) => {
        $(#[$meaning])*
        #[derive(Clone)]
        pub struct $name(Box<[u8; KEY]>);

        impl $name {
            /// Creates a key from its bytes. The caller zeroizes its own copy.
            pub fn from_bytes(bytes: [u8; KEY]) -> Self {
                $name(Box::new(bytes))
            }

            /// Returns the key as bytes.
            pub fn as_bytes(&self) -> &[u8; KEY] {
                &self.0
            }

            /// Parses the 64 hexadecimal digits of the configuration protocol.
            ///
            /// # Errors
            /// Returns [`KeyError::Hex`] for anything else.
            pub fn from_hex(text: &str) -> Result<Self, KeyError> {
                let mut key = Self::zero();
                parse_hex(text, &mut key.0)?;
                Ok(key)
            }

            fn zero() -> Self {
                $name(Box::new([0; KEY]))
            }

            /// Returns the 64 hexadecimal digits of the configuration protocol, zeroized on drop.
            pub fn to_hex(&self) -> Zeroizing<String> {
                Zeroizing::new(write_hex(&self.0))
            }

            /// Returns the 44 characters of base64 used in configuration files, zeroized on drop.
            pub fn to_base64(&self) -> Zeroizing<String> {
                Zeroizing::new(BASE64.encode(self.0.as_slice()))
            }

            /// Returns whether this is the all-zero key, which means "none" in the configuration
            /// protocol.
            pub fn is_zero(&self) -> bool {
                self.0.as_slice().ct_eq(&[0; KEY]).into()
            }
        }

        impl FromStr for $name {
            type Err = KeyError;

            fn from_str(text: &str) -> Result<Self, KeyError> {
                let mut key = Self::zero();
                parse_base64(text, &mut key.0)?;
                Ok(key)
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                self.0.as_mut_slice().zeroize();
            }
        }

        impl PartialEq for $name {
            fn eq(&self, other: &Self) -> bool {
                self.0.as_slice().ct_eq(other.0.as_slice()).into()
            }
        }

        impl Eq for $name {}

        impl Hash for $name {
            fn hash<H: Hasher>(&self, state: &mut H) {
                self.0.hash(state);
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(hidden)"))
            }
        }
    };
}

secret_key! {
    /// The interface's static private key.
    PrivateKey
}

secret_key! {
    /// A symmetric key that both ends share in addition to their static keys. All zeros mean "none"
    /// (section 5.2).
    PresharedKey
}

impl PrivateKey {
    /// Generates a key.
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        let mut key = Self::zero();
        entropy.fill(key.0.as_mut_slice());
        // Clamped as in `wg genkey`, so that every tool prints the same key.
        key.0[0] &= 0xf8;
        key.0[31] = (key.0[31] & 0x7f) | 0x40;
        key
    }

    /// Returns the corresponding public key.
    pub fn public_key(&self) -> PublicKey {
        PublicKey(x25519_dalek::PublicKey::from(&StaticSecret::from(*self.0)).to_bytes())
    }
}

impl PresharedKey {
    /// Returns no preshared key: all zeros.
    pub fn none() -> Self {
        Self::zero()
    }

    /// Generates a key.
    pub fn generate(entropy: &mut dyn Entropy) -> Self {
        let mut key = Self::zero();
        entropy.fill(key.0.as_mut_slice());
        key
    }
}

impl Default for PresharedKey {
    fn default() -> Self {
        Self::none()
    }
}

fn parse_base64(text: &str, key: &mut [u8; KEY]) -> Result<(), KeyError> {
    // The decoder wants room for its own size estimate, which exceeds the 32 decoded bytes.
    let mut room = Zeroizing::new([0; KEY + 1]);
    if text.len() != 44 || BASE64.decode_slice(text, room.as_mut_slice()) != Ok(KEY) {
        return Err(KeyError::Base64);
    }
    key.copy_from_slice(&room[..KEY]);
    Ok(())
}

fn parse_hex(text: &str, key: &mut [u8; KEY]) -> Result<(), KeyError> {
    if text.len() != 2 * KEY {
        return Err(KeyError::Hex);
    }
    for (byte, pair) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digit = |c: u8| char::from(c).to_digit(16).ok_or(KeyError::Hex);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Ok(())
}

fn write_hex(key: &[u8; KEY]) -> String {
    // Allocated at full size: a growing string would leave copies of the secret in freed memory.
    let mut text = String::with_capacity(2 * KEY);
    for byte in key {
        for nibble in [byte >> 4, byte & 15] {
            text.push(char::from_digit(u32::from(nibble), 16).expect("a nibble is a hexadecimal digit"));
        }
    }
    text
}

/// A deterministic source of bytes that do not repeat.
#[cfg(any(test, fuzzing))]
pub(crate) struct Counting(pub(crate) u64);

#[cfg(any(test, fuzzing))]
impl Entropy for Counting {
    fn fill(&mut self, dest: &mut [u8]) {
        for chunk in dest.chunks_mut(8) {
            self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            let mixed = (self.0 ^ self.0 >> 29).to_le_bytes();
            chunk.copy_from_slice(&mixed[..chunk.len()]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 7748, section 6.1: Alice's key pair.
    const PRIVATE: &str = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a";
    const PUBLIC: &str = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a";

    #[test]
    fn a_public_key_is_derived_as_in_rfc_7748() {
        assert_eq!(PrivateKey::from_hex(PRIVATE).unwrap().public_key().to_hex(), PUBLIC);
    }

    #[test]
    fn a_key_with_a_mistake_in_it_is_refused() {
        for text in ["", "AA", &"A".repeat(44), &"A".repeat(43), &format!("{}==", "A".repeat(42))] {
            assert_eq!(text.parse::<PublicKey>(), Err(KeyError::Base64), "{text}");
        }
        // The last character encodes two bits beyond the 32 bytes, which must be zero.
        assert_eq!(format!("{}B=", "A".repeat(42)).parse::<PublicKey>(), Err(KeyError::Base64));
        assert_eq!(PublicKey::from_hex(&PUBLIC[1..]), Err(KeyError::Hex));
        assert_eq!(PublicKey::from_hex(&PUBLIC.replace('8', "x")), Err(KeyError::Hex));
        assert_eq!(PublicKey::from_hex(&"é".repeat(32)), Err(KeyError::Hex));
    }

    #[test]
    fn secrets_have_no_printable_form() {
        assert_eq!(format!("{:?}", PrivateKey::from_hex(PRIVATE).unwrap()), "PrivateKey(hidden)");
        assert_eq!(format!("{:?}", PresharedKey::none()), "PresharedKey(hidden)");
    }

    #[test]
    fn a_generated_key_is_clamped_and_not_the_same_twice() {
        let mut entropy = OsEntropy::new().unwrap();
        let (a, b) = (PrivateKey::generate(&mut entropy), PrivateKey::generate(&mut entropy));
        assert_ne!(a, b);
        assert_eq!((a.0[0] & 7, a.0[31] >> 6), (0, 1));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(bytes: [u8; KEY]) {
            let key = PublicKey::from_bytes(bytes);
            prop_assert_eq!(key.to_string().parse(), Ok(key));
            prop_assert_eq!(PublicKey::from_hex(&key.to_hex()), Ok(key));
            prop_assert_eq!(PublicKey::from_hex(&key.to_hex().to_uppercase()), Ok(key));
            let secret = PrivateKey::from_bytes(bytes);
            prop_assert_eq!(PrivateKey::from_hex(&secret.to_hex()), Ok(secret.clone()));
            prop_assert_eq!(secret.to_base64().parse(), Ok(secret));
        }
    }
}
