//! The two MACs of handshake messages, and cookies, with which a responder under load makes
//! initiators prove ownership of their address before it performs any key agreement (whitepaper,
//! sections 5.3, 5.4.4 and 5.4.7).
//!
//! [`CookieJudge`] serves the receiver of handshake messages, [`CookieJar`] the sender.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use blake2::digest::consts::U16;
use blake2::digest::{Digest as _, KeyInit as _, Mac as _};
use blake2::{Blake2s256, Blake2sMac};
use chacha20poly1305::XChaCha20Poly1305;
use chacha20poly1305::aead::{Aead as _, Payload};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::keys::{Entropy, PublicKey};
use super::messages::{self, COOKIE_REPLY, CookieReply, Handshake, Mac, mac1_offset, mac2_offset};
use super::suite::Suite;
use crate::units::Nanos;

/// Lifetime of the secret from which cookies are derived.
pub(super) const SECRET_LIFETIME: Duration = Duration::from_secs(120);

/// How long a received cookie is used: five seconds less than [`SECRET_LIFETIME`], to allow for
/// transit.
pub(super) const COOKIE_LIFETIME: Duration = Duration::from_secs(115);

const LABEL_COOKIE: &[u8] = b"cookie--";

/// Verifies the MACs of received handshake messages and issues cookies.
pub(super) struct CookieJudge {
    /// One key per suite, in the order of [`Suite::ALL`].
    mac1_keys: [[u8; 32]; 2],
    cookie_key: [u8; 32],
    secret: Zeroizing<[u8; 32]>,
    secret_made: Option<Nanos>,
}

impl CookieJudge {
    /// Creates a judge for messages addressed to `public`.
    pub(super) fn new(public: &PublicKey) -> Self {
        CookieJudge {
            mac1_keys: Suite::ALL.map(|suite| labelled(suite.mac1_label(), public)),
            cookie_key: labelled(LABEL_COOKIE, public),
            secret: Zeroizing::new([0; 32]),
            secret_made: None,
        }
    }

    /// Returns which of the `suites` in use the first MAC is valid under, or `None` if it is not: the
    /// sender does not know our public key. Computes one MAC per suite at most.
    pub(super) fn suite_by_mac1(&self, message: Handshake<'_>, suites: &[Suite]) -> Option<Suite> {
        let (mac1, covered) = message.mac1();
        let fits = |suite: Suite| mac(&self.mac1_keys[suite as usize], &[covered]).ct_eq(mac1).into();
        suites.iter().copied().find(|suite| fits(*suite))
    }

    /// Returns whether the second MAC is valid: the sender has a cookie that was issued to `source`.
    pub(super) fn mac2_is_right(&self, message: Handshake<'_>, source: SocketAddr, now: Nanos) -> bool {
        if !self.secret_is_fresh(now) {
            return false;
        }
        let (mac2, covered) = message.mac2();
        mac(&*self.cookie_for(source), &[covered]).ct_eq(mac2).into()
    }

    /// Returns message 3, which carries a cookie for `source` to the sender of `message`.
    pub(super) fn reply(
        &mut self,
        message: Handshake<'_>,
        source: SocketAddr,
        now: Nanos,
        entropy: &mut dyn Entropy,
    ) -> [u8; COOKIE_REPLY] {
        if !self.secret_is_fresh(now) {
            entropy.fill(self.secret.as_mut_slice());
            self.secret_made = Some(now);
        }
        let mut nonce = [0; 24];
        entropy.fill(&mut nonce);
        let cookie = self.cookie_for(source);
        let sealed = XChaCha20Poly1305::new(&self.cookie_key.into())
            .encrypt(&nonce.into(), Payload { msg: &*cookie, aad: message.mac1().0 })
            .expect("16 bytes are within the cipher's limit");
        let sealed = sealed.as_slice().try_into().expect("a cookie and its tag are 32 bytes");
        messages::cookie_reply(message.sender(), &nonce, sealed)
    }

    fn secret_is_fresh(&self, now: Nanos) -> bool {
        self.secret_made.is_some_and(|made| now.since(made) < SECRET_LIFETIME)
    }

    /// Returns the cookie for an address and port (section 5.4.7).
    fn cookie_for(&self, source: SocketAddr) -> Zeroizing<Mac> {
        let port = source.port().to_be_bytes();
        Zeroizing::new(match source.ip().to_canonical() {
            IpAddr::V4(ip) => mac(&*self.secret, &[&ip.octets(), &port]),
            IpAddr::V6(ip) => mac(&*self.secret, &[&ip.octets(), &port]),
        })
    }
}

/// Writes the MACs of messages to one peer and stores the cookie received from it.
pub(super) struct CookieJar {
    mac1_key: [u8; 32],
    cookie_key: [u8; 32],
    cookie: Option<(Zeroizing<Mac>, Nanos)>,
    /// Sender index and first MAC of the last message sent, while a cookie reply may still answer it.
    last: Option<(u32, Mac)>,
}

impl CookieJar {
    /// Creates a jar for messages of `suite` to the peer with the key `public`.
    pub(super) fn new(public: &PublicKey, suite: Suite) -> Self {
        CookieJar {
            mac1_key: labelled(suite.mac1_label(), public),
            cookie_key: labelled(LABEL_COOKIE, public),
            cookie: None,
            last: None,
        }
    }

    /// Returns the stored cookie, and when it came.
    pub(super) fn cookie(&self) -> Option<(Zeroizing<Mac>, Nanos)> {
        self.cookie.clone()
    }

    /// Stores a cookie that came earlier.
    pub(super) fn put_back(&mut self, cookie: Option<(Zeroizing<Mac>, Nanos)>) {
        self.cookie = cookie;
    }

    /// Writes both MACs of `message`, a complete message 1 or 2 with the sender index `sender`. The
    /// second MAC stays zero without a cookie.
    pub(super) fn sign(&mut self, message: &mut [u8], sender: u32, now: Nanos) {
        let (at1, at2) = (mac1_offset(message.len()), mac2_offset(message.len()));
        let mac1 = mac(&self.mac1_key, &[&message[..at1]]);
        message[at1..at2].copy_from_slice(&mac1);
        self.last = Some((sender, mac1));
        if let Some((cookie, came)) = &self.cookie {
            if now.since(*came) < COOKIE_LIFETIME {
                let mac2 = mac(&**cookie, &[&message[..at2]]);
                message[at2..].copy_from_slice(&mac2);
            } else {
                self.cookie = None;
            }
        }
    }

    /// Stores the cookie in `reply` if the reply authenticates as the peer's answer to the last
    /// message. Returns whether it does. The next message is signed with the cookie; nothing is
    /// sent immediately, so that cookie replies cannot trigger traffic (section 5.4.7).
    pub(super) fn store(&mut self, reply: CookieReply<'_>, now: Nanos) -> bool {
        let Some((sender, mac1)) = self.last else { return false };
        if sender != reply.receiver() {
            return false;
        }
        let opened = XChaCha20Poly1305::new(&self.cookie_key.into())
            .decrypt(&(*reply.nonce()).into(), Payload { msg: reply.sealed(), aad: &mac1 })
            .map(Zeroizing::new);
        let Ok(cookie) = opened else { return false };
        let mut kept = Zeroizing::new([0; 16]);
        kept.copy_from_slice(&cookie);
        self.cookie = Some((kept, now));
        // One reply per message, so that a replayed one does not extend the cookie's lifetime.
        self.last = None;
        true
    }
}

/// Returns the key for a MAC or for cookies: `HASH(label || public key)`.
fn labelled(label: &[u8], public: &PublicKey) -> [u8; 32] {
    Blake2s256::new().chain_update(label).chain_update(public.as_bytes()).finalize().into()
}

/// Returns the 16-byte keyed BLAKE2s of `parts`.
fn mac(key: &[u8], parts: &[&[u8]]) -> Mac {
    let mut state = Blake2sMac::<U16>::new_from_slice(key).expect("the key is at most 32 bytes");
    for part in parts {
        state.update(part);
    }
    state.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wireguard::keys::OsEntropy;
    use crate::wireguard::messages::{INITIATION, Initiation};

    const US: PublicKey = PublicKey::from_bytes([7; 32]);
    const START: Nanos = Nanos(1_000_000_000);

    fn signed(jar: &mut CookieJar, now: Nanos) -> [u8; INITIATION] {
        let mut message = messages::initiation(77, &[5; 108]);
        jar.sign(&mut message, 77, now);
        message
    }

    fn view(message: &[u8]) -> Handshake<'_> {
        Initiation::new_checked(message).unwrap().handshake()
    }

    fn source(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    /// A judge, and a jar with a cookie for 192.0.2.1:1000.
    fn with_cookie() -> (CookieJudge, CookieJar) {
        let (mut judge, mut jar) = (CookieJudge::new(&US), CookieJar::new(&US, Suite::default()));
        let message = signed(&mut jar, START);
        let mut entropy = OsEntropy::new().unwrap();
        let reply = judge.reply(view(&message), source("192.0.2.1:1000"), START, &mut entropy);
        assert!(jar.store(CookieReply::new_checked(&reply).unwrap(), START));
        (judge, jar)
    }

    #[test]
    fn the_first_mac_proves_that_our_key_is_known() {
        let judge = CookieJudge::new(&US);
        let message = signed(&mut CookieJar::new(&US, Suite::default()), START);
        assert!(judge.suite_by_mac1(view(&message), &Suite::ALL).is_some());
        let other = signed(&mut CookieJar::new(&PublicKey::from_bytes([8; 32]), Suite::default()), START);
        assert!(judge.suite_by_mac1(view(&other), &Suite::ALL).is_none());
        for at in 4..132 {
            let mut changed = message;
            changed[at] ^= 1;
            assert!(judge.suite_by_mac1(view(&changed), &Suite::ALL).is_none(), "byte {at}");
        }
    }

    #[test]
    fn a_suite_that_nobody_uses_is_not_tried() {
        let judge = CookieJudge::new(&US);
        let message = signed(&mut CookieJar::new(&US, Suite::Aes256Gcm), START);
        assert_eq!(judge.suite_by_mac1(view(&message), &Suite::ALL), Some(Suite::Aes256Gcm));
        assert_eq!(judge.suite_by_mac1(view(&message), &[Suite::ChaCha20Poly1305]), None);
    }

    #[test]
    fn a_cookie_counts_for_its_address_and_port_only() {
        let (judge, mut jar) = with_cookie();
        let message = signed(&mut jar, START);
        let right = |from| judge.mac2_is_right(view(&message), source(from), START);
        assert!(right("192.0.2.1:1000"));
        assert!(right("[::ffff:192.0.2.1]:1000"), "the same address on a dual-stack socket");
        assert!(!right("192.0.2.1:1001"));
        assert!(!right("192.0.2.2:1000"));
        assert!(!right("[2001:db8::1]:1000"));
    }

    #[test]
    fn without_a_cookie_the_second_mac_is_wrong() {
        let (judge, _) = with_cookie();
        let message = signed(&mut CookieJar::new(&US, Suite::default()), START);
        assert_eq!(view(&message).mac2().0, &[0; 16]);
        assert!(!judge.mac2_is_right(view(&message), source("192.0.2.1:1000"), START));
        // A judge that has issued no cookie accepts none, not even one of its initial secret.
        assert!(!CookieJudge::new(&US).mac2_is_right(view(&message), source("192.0.2.1:1000"), START));
    }

    #[test]
    fn cookies_and_secrets_grow_old() {
        let (judge, mut jar) = with_cookie();
        let message = signed(&mut jar, START.after(Duration::from_secs(114)));
        let right = |span| judge.mac2_is_right(view(&message), source("192.0.2.1:1000"), START.after(span));
        assert!(right(Duration::from_secs(119)));
        assert!(!right(SECRET_LIFETIME));
        assert_eq!(view(&signed(&mut jar, START.after(COOKIE_LIFETIME))).mac2().0, &[0; 16]);
    }

    #[test]
    fn a_cookie_reply_must_answer_our_last_message() {
        let (mut judge, mut jar) = (CookieJudge::new(&US), CookieJar::new(&US, Suite::default()));
        let mut entropy = OsEntropy::new().unwrap();
        let message = signed(&mut jar, START);
        let reply = judge.reply(view(&message), source("192.0.2.1:1000"), START, &mut entropy);
        for at in 4..COOKIE_REPLY {
            let mut forged = reply;
            forged[at] ^= 1;
            assert!(!jar.store(CookieReply::new_checked(&forged).unwrap(), START), "byte {at}");
        }
        assert!(jar.store(CookieReply::new_checked(&reply).unwrap(), START));
        assert!(!jar.store(CookieReply::new_checked(&reply).unwrap(), START), "once only");
        assert!(
            !CookieJar::new(&US, Suite::default()).store(CookieReply::new_checked(&reply).unwrap(), START)
        );
    }
}
