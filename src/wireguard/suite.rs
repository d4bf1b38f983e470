//! Cipher suites: WireGuard's ChaCha20-Poly1305, or AES-256-GCM between two Laneway peers that are
//! both configured for it.
//!
//! AES-256-GCM is not WireGuard. Handshake pattern, messages and timers are the same, but the Noise
//! protocol name, the identifier and the label of the first MAC differ, so the two cannot be
//! confused: a message of one suite fails the first MAC of the other. Nothing is negotiated, so
//! there is nothing to downgrade.

use std::fmt;
use std::str::FromStr;

/// The cipher suite for handshakes and transport data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Suite {
    /// WireGuard's suite.
    #[default]
    ChaCha20Poly1305,
    /// AES-256-GCM (NIST SP 800-38D) in place of ChaCha20-Poly1305; faster on CPUs with AES
    /// instructions. The nonce has the same form: four zero bytes, then the little-endian counter.
    Aes256Gcm,
}

impl Suite {
    /// Every suite.
    pub const ALL: [Suite; 2] = [Suite::ChaCha20Poly1305, Suite::Aes256Gcm];

    /// Returns the suite's name in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Suite::ChaCha20Poly1305 => "chacha20poly1305",
            Suite::Aes256Gcm => "aes256gcm",
        }
    }

    /// Returns the Noise protocol name, CONSTRUCTION in the whitepaper (section 5.4).
    pub(super) fn construction(self) -> &'static str {
        match self {
            Suite::ChaCha20Poly1305 => "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s",
            Suite::Aes256Gcm => "Noise_IKpsk2_25519_AESGCM_BLAKE2s",
        }
    }

    /// Returns IDENTIFIER in the whitepaper (section 5.4).
    pub(super) fn identifier(self) -> &'static [u8] {
        match self {
            Suite::ChaCha20Poly1305 => b"WireGuard v1 zx2c4 Jason@zx2c4.com",
            Suite::Aes256Gcm => b"Laneway v1 aes256gcm, not WireGuard",
        }
    }

    /// Returns LABEL-MAC1 in the whitepaper (section 5.4).
    pub(super) fn mac1_label(self) -> &'static [u8; 8] {
        match self {
            Suite::ChaCha20Poly1305 => b"mac1----",
            Suite::Aes256Gcm => b"mac1-aes",
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Error when parsing a name that is not a cipher suite's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown cipher suite; use chacha20poly1305 (WireGuard) or aes256gcm (Laneway peers only)")]
pub struct UnknownSuite;

impl FromStr for Suite {
    type Err = UnknownSuite;

    fn from_str(name: &str) -> Result<Self, UnknownSuite> {
        Suite::ALL.into_iter().find(|suite| suite.name() == name).ok_or(UnknownSuite)
    }
}
