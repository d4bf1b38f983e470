//! Which ciphers a peer is spoken to with: WireGuard's own, or, between two Laneways that both say
//! so, AES-256-GCM.
//!
//! The second is not WireGuard any more. Pattern, messages and timers are the same, but Noise's
//! protocol name, the identifier and the label of the first MAC are others, so nobody can take one
//! for the other: a peer that is set to another suite does not get past the first MAC. There is
//! nothing to negotiate and so nothing to downgrade.

use std::fmt;
use std::str::FromStr;

/// The ciphers of handshake and transport data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Suite {
    /// WireGuard.
    #[default]
    ChaCha20Poly1305,
    /// AES-256-GCM (NIST SP 800-38D) in the place of ChaCha20-Poly1305: faster where the CPU does
    /// AES in hardware. The nonce has the same form, four zeros and the counter, little-endian.
    Aes256Gcm,
}

impl Suite {
    /// Every suite.
    pub const ALL: [Suite; 2] = [Suite::ChaCha20Poly1305, Suite::Aes256Gcm];

    /// What it is called in configuration.
    pub fn name(self) -> &'static str {
        match self {
            Suite::ChaCha20Poly1305 => "chacha20poly1305",
            Suite::Aes256Gcm => "aes256gcm",
        }
    }

    /// CONSTRUCTION in the whitepaper (section 5.4): the name of the Noise protocol.
    pub(super) fn construction(self) -> &'static str {
        match self {
            Suite::ChaCha20Poly1305 => "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s",
            Suite::Aes256Gcm => "Noise_IKpsk2_25519_AESGCM_BLAKE2s",
        }
    }

    /// IDENTIFIER in the whitepaper.
    pub(super) fn identifier(self) -> &'static [u8] {
        match self {
            Suite::ChaCha20Poly1305 => b"WireGuard v1 zx2c4 Jason@zx2c4.com",
            Suite::Aes256Gcm => b"Laneway v1 aes256gcm, not WireGuard",
        }
    }

    /// LABEL-MAC1 in the whitepaper.
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

/// The name is not that of a suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("allowed are chacha20poly1305 (WireGuard) and aes256gcm (between two Laneways)")]
pub struct UnknownSuite;

impl FromStr for Suite {
    type Err = UnknownSuite;

    fn from_str(name: &str) -> Result<Self, UnknownSuite> {
        Suite::ALL.into_iter().find(|suite| suite.name() == name).ok_or(UnknownSuite)
    }
}
