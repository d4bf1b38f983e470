use crate::wireguard::keys::OsEntropy;
use crate::wireguard::noise::*;

const SUITE: Suite = Suite::ChaCha20Poly1305;

/// The public keys for which every private key yields a shared secret of zero: all 255-bit encodings
/// of the points of order 1, 2, 4 and 8 on curve25519, including the non-canonical ones (plus the
/// prime).
const LOW_ORDER: [&str; 7] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
];

fn low_order() -> [PublicKey; 7] {
    LOW_ORDER.map(|hex| PublicKey::from_hex(hex).unwrap())
}

fn keys() -> (PrivateKey, PrivateKey, OsEntropy) {
    let mut entropy = OsEntropy::new().unwrap();
    (PrivateKey::generate(&mut entropy), PrivateKey::generate(&mut entropy), entropy)
}

#[test]
fn both_ends_come_to_the_same_keys() {
    let (a, b, mut entropy) = keys();
    let psk = PresharedKey::from_bytes([9; 32]);
    let stamp = Tai64n::from_bytes([5; 12]);
    let (mut initiation, message1) =
        OwnInitiation::start(&a, &b.public_key(), SUITE, stamp, &mut entropy).unwrap();
    let received = PeerInitiation::read(&b, SUITE, &message1, &mut entropy).unwrap();
    assert_eq!((received.remote(), received.stamp()), (&a.public_key(), stamp));
    let (message2, theirs) = received.answer(&psk).unwrap();
    let ours = initiation.finish(&psk, &message2).unwrap();
    assert_eq!((*ours.send, *ours.receive), (*theirs.receive, *theirs.send));
    assert_ne!(*ours.send, *ours.receive);
}

#[test]
fn a_wrong_response_does_not_end_the_wait_for_the_right_one() {
    let (a, b, mut entropy) = keys();
    let psk = PresharedKey::none();
    let stamp = Tai64n::default();
    let (mut initiation, message1) =
        OwnInitiation::start(&a, &b.public_key(), SUITE, stamp, &mut entropy).unwrap();
    let received = PeerInitiation::read(&b, SUITE, &message1, &mut entropy).unwrap();
    let (message2, theirs) = received.answer(&psk).unwrap();
    for at in 0..RESPONSE_NOISE {
        let mut forged = message2;
        forged[at] ^= 1;
        // X25519 ignores the top bit of a public key (RFC 7748, section 5), but the transcript
        // hash covers it.
        assert!(initiation.finish(&psk, &forged).is_err(), "byte {at}");
    }
    assert!(
        initiation.finish(&PresharedKey::from_bytes([1; 32]), &message2).is_err(),
        "another preshared key"
    );
    assert_eq!(*initiation.finish(&psk, &message2).unwrap().send, *theirs.receive);
}

#[test]
fn a_changed_initiation_is_refused() {
    let (a, b, mut entropy) = keys();
    let (_, message) =
        OwnInitiation::start(&a, &b.public_key(), SUITE, Tai64n::default(), &mut entropy).unwrap();
    for at in 0..INITIATION_NOISE {
        let mut forged = message;
        forged[at] ^= 1;
        assert!(PeerInitiation::read(&b, SUITE, &forged, &mut entropy).is_err(), "byte {at}");
    }
    assert!(PeerInitiation::read(&a, SUITE, &message, &mut entropy).is_err(), "not for us");
}

#[test]
fn low_order_static_keys_are_refused() {
    let (a, _, mut entropy) = keys();
    for point in low_order() {
        assert!(OwnInitiation::start(&a, &point, SUITE, Tai64n::default(), &mut entropy).is_err(), "{point}");
    }
}

/// X25519 that accepts low-order points. With a `lie`, it presents that point as its ephemeral key; the
/// shared secret with a low-order point is zero, so the attacker knows it.
struct Careless {
    key: X25519,
    lie: Option<[u8; KEY]>,
    lies: bool,
}

impl Dh for Careless {
    fn name(&self) -> &'static str {
        self.key.name()
    }

    fn pub_len(&self) -> usize {
        KEY
    }

    fn priv_len(&self) -> usize {
        KEY
    }

    fn set(&mut self, privkey: &[u8]) {
        self.key.set(privkey);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        self.lies = self.lie.is_some();
        self.key.generate(rng)
    }

    fn pubkey(&self) -> &[u8] {
        self.lie.as_ref().filter(|_| self.lies).map_or(self.key.pubkey(), |lie| lie)
    }

    fn privkey(&self) -> &[u8] {
        self.key.privkey()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        let point = Point::from(<[u8; KEY]>::try_from(&pubkey[..KEY]).unwrap());
        let shared = self.key.secret.diffie_hellman(&point);
        out[..KEY].copy_from_slice(if self.lies { &[0; KEY] } else { shared.as_bytes() });
        Ok(())
    }
}

/// Our primitives except for the key agreement.
struct Other(Primitives, Option<[u8; KEY]>);

impl CryptoResolver for Other {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        self.0.resolve_rng()
    }

    fn resolve_dh(&self, _: &DHChoice) -> Option<Box<dyn Dh>> {
        let key = X25519 { secret: StaticSecret::from([0; KEY]), public: [0; KEY] };
        Some(Box::new(Careless { key, lie: self.1, lies: false }))
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        self.0.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        self.0.resolve_cipher(choice)
    }
}

fn careless<'a>(private: &'a PrivateKey, lie: Option<&PublicKey>) -> Builder<'a> {
    let primitives = Primitives { seed: Zeroizing::new([7; KEY]) };
    let other = Other(primitives, lie.map(|point| *point.as_bytes()));
    let builder = Builder::with_resolver(PARAMS[SUITE as usize].clone(), Box::new(other));
    builder
        .local_private_key(private.as_bytes())
        .and_then(|builder| builder.prologue(SUITE.identifier()))
        .unwrap()
}

#[test]
fn an_initiator_with_a_low_order_ephemeral_key_is_refused_though_all_else_is_right() {
    let (a, b, mut entropy) = keys();
    let theirs = b.public_key();
    for point in low_order() {
        let liar = careless(&a, Some(&point)).remote_public_key(theirs.as_bytes()).unwrap();
        let mut liar = liar.build_initiator().unwrap();
        let mut message = [0; INITIATION_NOISE];
        liar.write_message(&[5; 12], &mut message).unwrap();
        assert_eq!(&message[..KEY], point.as_bytes());
        assert_eq!(PeerInitiation::read(&b, SUITE, &message, &mut entropy).err(), Some(Refused), "{point}");
        let mut who_does_not_look = careless(&b, None).build_responder().unwrap();
        assert_eq!(who_does_not_look.read_message(&message, &mut [0; 12]), Ok(12), "{point}");
    }
}

#[test]
fn a_responder_with_a_low_order_ephemeral_key_is_refused_though_all_else_is_right() {
    let (a, b, mut entropy) = keys();
    let theirs = b.public_key();
    let psk = PresharedKey::none();
    for point in low_order() {
        let (mut ours, message1) =
            OwnInitiation::start(&a, &b.public_key(), SUITE, Tai64n::default(), &mut entropy).unwrap();
        let builder = careless(&a, None).remote_public_key(theirs.as_bytes()).unwrap();
        let mut who_does_not_look = builder.build_initiator().unwrap();
        let mut other_message1 = [0; INITIATION_NOISE];
        who_does_not_look.write_message(&[5; 12], &mut other_message1).unwrap();
        let answer = |message1: &[u8; INITIATION_NOISE]| {
            let mut liar = careless(&b, Some(&point)).build_responder().unwrap();
            liar.read_message(message1, &mut [0; 12]).unwrap();
            liar.set_psk(PSK_PLACE.into(), psk.as_bytes()).unwrap();
            let mut message = [0; RESPONSE_NOISE];
            liar.write_message(&[], &mut message).unwrap();
            message
        };
        assert_eq!(ours.finish(&psk, &answer(&message1)).err(), Some(Refused), "{point}");
        who_does_not_look.set_psk(PSK_PLACE.into(), psk.as_bytes()).unwrap();
        assert_eq!(who_does_not_look.read_message(&answer(&other_message1), &mut []), Ok(0), "{point}");
    }
}

#[test]
fn the_agreement_itself_refuses_low_order_points() {
    let (a, b, _) = keys();
    let mut dh = X25519 { secret: StaticSecret::from([0; KEY]), public: [0; KEY] };
    dh.set(a.as_bytes());
    for point in low_order() {
        assert!(matches!(dh.dh(point.as_bytes(), &mut [0; KEY]), Err(snow::Error::Dh)), "{point}");
    }
    assert!(dh.dh(b.public_key().as_bytes(), &mut [0; KEY]).is_ok());
}
