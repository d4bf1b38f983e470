//! The Noise handshake: `Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s` (whitepaper, section 5.4), or its
//! variant for another [`Suite`].
//!
//! The Noise library runs the pattern. This module selects the primitives and encodes the protocol
//! state in types: an [`OwnInitiation`] waits for a response, a [`PeerInitiation`] can be answered
//! once.
//!
//! The static private key, the ephemeral keys, the random bytes they are made of and the split keys
//! are zeroized. The library keeps the rest in plain arrays: the chaining key, from which the transport
//! keys follow, its cipher states, which hold the transport keys after the last message, and a copy of
//! the preshared key. They are in one block of memory per handshake and in blocks of the library, which
//! the `laneway` program wipes when they are freed; what the computations leave on the stack, the peer
//! actor's thread wipes ([`crate::sys::wipe`]).

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
use super::suite::Suite;
use super::tai64n::Tai64n;

/// The Noise parameters of each suite, in the order of [`Suite::ALL`].
static PARAMS: LazyLock<[NoiseParams; 2]> = LazyLock::new(|| {
    Suite::ALL.map(|suite| suite.construction().parse().expect("the library supports the pattern"))
});

/// Where the pattern mixes in the preshared key (`psk2`).
const PSK_PLACE: u8 = 2;

/// Error for a handshake message that does not authenticate: it was sealed for another key, modified
/// on the way, or made with a low-order public key, whose shared secret everyone knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the handshake message does not authenticate")]
pub(super) struct Refused;

/// An initiation that was sent and awaits its response.
pub(super) struct OwnInitiation {
    // Boxed, so that its memory is freed with it and not kept by the peer.
    state: Box<HandshakeState>,
    suite: Suite,
}

impl OwnInitiation {
    /// Starts a handshake with `remote` and returns it with the Noise part of message 1.
    ///
    /// # Errors
    /// Returns [`Refused`] if `remote` is a low-order public key.
    pub(super) fn start(
        private: &PrivateKey,
        remote: &PublicKey,
        suite: Suite,
        stamp: Tai64n,
        entropy: &mut dyn Entropy,
    ) -> Result<(Self, [u8; INITIATION_NOISE]), Refused> {
        let mut state = builder(suite, private, entropy)
            .remote_public_key(remote.as_bytes())
            .and_then(Builder::build_initiator)
            .expect("every part of the pattern is set");
        let mut message = [0; INITIATION_NOISE];
        let written = state.write_message(stamp.as_bytes(), &mut message).map_err(|_| Refused)?;
        assert_eq!(written, INITIATION_NOISE, "the pattern fixes the length of message 1");
        Ok((OwnInitiation { state: Box::new(state), suite }, message))
    }

    /// Reads the Noise part of message 2 and returns the transport keys. After an error, the
    /// initiation still accepts the right response, because anyone can send a wrong one.
    ///
    /// # Errors
    /// Returns [`Refused`] if the message is not the response of the peer the handshake was started
    /// with.
    pub(super) fn finish(
        &mut self,
        psk: &PresharedKey,
        response: &[u8; RESPONSE_NOISE],
    ) -> Result<SessionKeys, Refused> {
        self.state.set_psk(PSK_PLACE.into(), psk.as_bytes()).expect("place and length fit the pattern");
        self.state.read_message(response, &mut []).map_err(|_| Refused)?;
        let (mut to_responder, mut to_initiator) = self.state.dangerously_get_raw_split();
        let keys = SessionKeys {
            suite: self.suite,
            send: Zeroizing::new(to_responder),
            receive: Zeroizing::new(to_initiator),
        };
        to_responder.zeroize();
        to_initiator.zeroize();
        Ok(keys)
    }
}

/// A received initiation that authenticates. The caller checks its timestamp against replays.
pub(super) struct PeerInitiation {
    state: Box<HandshakeState>,
    suite: Suite,
    remote: PublicKey,
    stamp: Tai64n,
}

impl PeerInitiation {
    /// Reads the Noise part of message 1. `entropy` provides the ephemeral key of the response.
    ///
    /// # Errors
    /// Returns [`Refused`] if the message is not sealed for `private`, or not by the static key it
    /// contains.
    pub(super) fn read(
        private: &PrivateKey,
        suite: Suite,
        message: &[u8; INITIATION_NOISE],
        entropy: &mut dyn Entropy,
    ) -> Result<Self, Refused> {
        let mut state =
            builder(suite, private, entropy).build_responder().expect("every part of the pattern is set");
        let mut stamp = [0; 12];
        state.read_message(message, &mut stamp).map_err(|_| Refused)?;
        let remote = state.get_remote_static().and_then(|key| key.try_into().ok()).ok_or(Refused)?;
        let state = Box::new(state);
        Ok(PeerInitiation {
            state,
            suite,
            remote: PublicKey::from_bytes(remote),
            stamp: Tai64n::from_bytes(stamp),
        })
    }

    /// Returns the sender's static public key.
    pub(super) fn remote(&self) -> &PublicKey {
        &self.remote
    }

    /// Returns the suite of the message.
    pub(super) fn suite(&self) -> Suite {
        self.suite
    }

    /// Returns the timestamp in the message.
    pub(super) fn stamp(&self) -> Tai64n {
        self.stamp
    }

    /// Returns the Noise part of message 2 and the transport keys.
    ///
    /// # Errors
    /// Returns [`Refused`] if the initiator's ephemeral key is a low-order public key.
    pub(super) fn answer(
        mut self,
        psk: &PresharedKey,
    ) -> Result<([u8; RESPONSE_NOISE], SessionKeys), Refused> {
        self.state.set_psk(PSK_PLACE.into(), psk.as_bytes()).expect("place and length fit the pattern");
        let mut message = [0; RESPONSE_NOISE];
        let written = self.state.write_message(&[], &mut message).map_err(|_| Refused)?;
        assert_eq!(written, RESPONSE_NOISE, "the pattern fixes the length of message 2");
        let (mut to_responder, mut to_initiator) = self.state.dangerously_get_raw_split();
        let keys = SessionKeys {
            suite: self.suite,
            send: Zeroizing::new(to_initiator),
            receive: Zeroizing::new(to_responder),
        };
        to_responder.zeroize();
        to_initiator.zeroize();
        Ok((message, keys))
    }
}

fn builder<'a>(suite: Suite, private: &'a PrivateKey, entropy: &mut dyn Entropy) -> Builder<'a> {
    let mut seed = Zeroizing::new([0; KEY]);
    entropy.fill(seed.as_mut_slice());
    Builder::with_resolver(PARAMS[suite as usize].clone(), Box::new(Primitives { seed }))
        .local_private_key(private.as_bytes())
        .and_then(|builder| builder.prologue(suite.identifier()))
        .expect("each part is set once")
}

/// The primitives of one handshake. Hash and cipher are the library's defaults.
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

/// X25519 that rejects low-order public keys, which lead to a shared secret that does not depend on
/// the private key (RFC 7748, section 6.1).
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
        let point = <[u8; KEY]>::try_from(&pubkey[..KEY]).expect("the slice has the length of a key");
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
