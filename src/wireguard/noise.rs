//! The handshake itself: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` (whitepaper, section 5.4).
//!
//! The Noise library runs the pattern; this module chooses its primitives and says in types what
//! may come next: an [`Initiation`] waits for a response, a [`Received`] initiation can be answered
//! once.
//!
//! What wipes itself: our private key, ephemeral keys and the random bytes they are made of, and
//! the split keys. What does not, because the library keeps it in plain arrays: chaining key, cipher
//! keys of the handshake, the copy of the preshared key, and intermediate DH results on its stack.
//! They are worthless once the ephemeral keys are gone, except the preshared key, which
//! the configuration holds anyway.

use std::sync::LazyLock;

use snow::params::{CipherChoice, DHChoice, HashChoice, NoiseParams};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use snow::{Builder, HandshakeState};
use x25519_dalek::{PublicKey as Point, StaticSecret};
use zeroize::{Zeroize as _, Zeroizing};

use super::keys::{Entropy, KEY, PresharedKey, PrivateKey, PublicKey};
use super::messages::{INITIATION_NOISE, RESPONSE_NOISE};
use super::session::SessionKeys;
use super::tai64n::Tai64n;

/// CONSTRUCTION in the whitepaper.
static PARAMS: LazyLock<NoiseParams> = LazyLock::new(|| {
    "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s".parse().expect("the library knows this pattern")
});

/// IDENTIFIER in the whitepaper.
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";

/// Where the pattern mixes in the preshared key.
const PSK_PLACE: u8 = 2;

/// The message is not what it says it is: not sealed for us, changed on its way, or made with a
/// public key that would make the secret known to all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handshake message does not authenticate")]
pub(super) struct Refused;

/// An initiation that was sent and waits for its response.
pub(super) struct Initiation {
    state: HandshakeState,
}

impl Initiation {
    /// Starts a handshake with `remote`, and returns the Noise part of message 1.
    ///
    /// # Errors
    /// If `remote` is not a usable public key.
    pub(super) fn start(
        private: &PrivateKey,
        remote: &PublicKey,
        stamp: Tai64n,
        entropy: &mut dyn Entropy,
    ) -> Result<(Self, [u8; INITIATION_NOISE]), Refused> {
        let mut state = builder(private, entropy)
            .remote_public_key(remote.as_bytes())
            .and_then(Builder::build_initiator)
            .expect("every part of the pattern is there");
        let mut message = [0; INITIATION_NOISE];
        let written = state.write_message(stamp.as_bytes(), &mut message).map_err(|_| Refused)?;
        assert_eq!(written, INITIATION_NOISE, "the pattern fixes the length of message 1");
        Ok((Initiation { state }, message))
    }

    /// Reads the Noise part of message 2. After an error it still waits for the right one: anybody
    /// can send a wrong one.
    ///
    /// # Errors
    /// If the message is not the answer of the peer this was started with.
    pub(super) fn finish(
        &mut self,
        psk: &PresharedKey,
        response: &[u8; RESPONSE_NOISE],
    ) -> Result<SessionKeys, Refused> {
        self.state.set_psk(PSK_PLACE.into(), psk.as_bytes()).expect("place and length fit the pattern");
        self.state.read_message(response, &mut []).map_err(|_| Refused)?;
        let (mut to_responder, mut to_initiator) = self.state.dangerously_get_raw_split();
        let keys = SessionKeys { send: Zeroizing::new(to_responder), receive: Zeroizing::new(to_initiator) };
        to_responder.zeroize();
        to_initiator.zeroize();
        Ok(keys)
    }
}

/// An initiation that came in and authenticates. Whether it is new is for the timestamp to say.
pub(super) struct Received {
    state: HandshakeState,
    remote: PublicKey,
    stamp: Tai64n,
}

impl Received {
    /// Reads the Noise part of message 1. `entropy` is what the answer's ephemeral key will be
    /// made of.
    ///
    /// # Errors
    /// If it is not sealed for us, or not by the key it names.
    pub(super) fn read(
        private: &PrivateKey,
        message: &[u8; INITIATION_NOISE],
        entropy: &mut dyn Entropy,
    ) -> Result<Self, Refused> {
        let mut state =
            builder(private, entropy).build_responder().expect("every part of the pattern is there");
        let mut stamp = [0; 12];
        state.read_message(message, &mut stamp).map_err(|_| Refused)?;
        let remote = state.get_remote_static().and_then(|key| key.try_into().ok()).ok_or(Refused)?;
        Ok(Received { state, remote: PublicKey::from_bytes(remote), stamp: Tai64n::from_bytes(stamp) })
    }

    /// Who sent it.
    pub(super) fn remote(&self) -> &PublicKey {
        &self.remote
    }

    /// The timestamp in it.
    pub(super) fn stamp(&self) -> Tai64n {
        self.stamp
    }

    /// Returns the Noise part of message 2, and the keys.
    ///
    /// # Errors
    /// If the initiator's ephemeral key is not a usable public key.
    pub(super) fn answer(
        mut self,
        psk: &PresharedKey,
    ) -> Result<([u8; RESPONSE_NOISE], SessionKeys), Refused> {
        self.state.set_psk(PSK_PLACE.into(), psk.as_bytes()).expect("place and length fit the pattern");
        let mut message = [0; RESPONSE_NOISE];
        let written = self.state.write_message(&[], &mut message).map_err(|_| Refused)?;
        assert_eq!(written, RESPONSE_NOISE, "the pattern fixes the length of message 2");
        let (mut to_responder, mut to_initiator) = self.state.dangerously_get_raw_split();
        let keys = SessionKeys { send: Zeroizing::new(to_initiator), receive: Zeroizing::new(to_responder) };
        to_responder.zeroize();
        to_initiator.zeroize();
        Ok((message, keys))
    }
}

fn builder<'a>(private: &'a PrivateKey, entropy: &mut dyn Entropy) -> Builder<'a> {
    let mut seed = Zeroizing::new([0; KEY]);
    entropy.fill(seed.as_mut_slice());
    Builder::with_resolver(PARAMS.clone(), Box::new(Primitives { seed }))
        .local_private_key(private.as_bytes())
        .and_then(|builder| builder.prologue(PROLOGUE))
        .expect("each is set once")
}

/// The primitives of one handshake. Hash and cipher are the library's own.
struct Primitives {
    seed: Zeroizing<[u8; KEY]>,
}

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Seed(Some(self.seed.clone()))))
    }

    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        Some(Box::new(X25519 { secret: StaticSecret::from([0; KEY]), public: [0; KEY] }))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

/// Random bytes for exactly one ephemeral key.
struct Seed(Option<Zeroizing<[u8; KEY]>>);

impl Random for Seed {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        let seed = self.0.take().filter(|seed| seed.len() == dest.len()).ok_or(snow::Error::Rng)?;
        dest.copy_from_slice(seed.as_slice());
        Ok(())
    }
}

/// X25519 that refuses to agree on a secret which does not depend on our key (RFC 7748, section
/// 6.1): what a low-order public key leads to.
struct X25519 {
    secret: StaticSecret,
    public: [u8; KEY],
}

impl X25519 {
    fn set_secret(&mut self, secret: [u8; KEY]) {
        self.secret = StaticSecret::from(secret);
        self.public = Point::from(&self.secret).to_bytes();
    }
}

impl Dh for X25519 {
    fn name(&self) -> &'static str {
        "25519"
    }

    fn pub_len(&self) -> usize {
        KEY
    }

    fn priv_len(&self) -> usize {
        KEY
    }

    fn set(&mut self, privkey: &[u8]) {
        let secret = Zeroizing::new(<[u8; KEY]>::try_from(privkey).expect("a private key has 32 bytes"));
        self.set_secret(*secret);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        let mut secret = Zeroizing::new([0; KEY]);
        rng.try_fill_bytes(secret.as_mut_slice())?;
        self.set_secret(*secret);
        Ok(())
    }

    fn pubkey(&self) -> &[u8] {
        &self.public
    }

    fn privkey(&self) -> &[u8] {
        self.secret.as_bytes()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let point = <[u8; KEY]>::try_from(&pubkey[..KEY]).expect("a slice of that length");
        let shared = self.secret.diffie_hellman(&Point::from(point));
        if !shared.was_contributory() {
            return Err(snow::Error::Dh);
        }
        out[..KEY].copy_from_slice(shared.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests;
