//! Input from anyone on the network: datagrams to the UDP port.

use laneway::wireguard::settings::{LoadLimits, MessageLimits, Settings};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use laneway::drops::DropTally;
use laneway::units::{Nanos, PeerId};
use laneway::wireguard::aead::Backend;
use laneway::wireguard::keys::{Entropy, PrivateKey};
use laneway::wireguard::messages::{COOKIE_REPLY, DATA_HEADER, DATA_OVERHEAD, INITIATION};
use laneway::wireguard::outputs::{Output, Outputs};
use laneway::wireguard::protocol::Protocol;
use laneway::wireguard::replay::WINDOW;
use laneway::wireguard::session::{OpenedRun, Role, Session, SessionKeys, SessionParts};
use laneway::wireguard::suite::Suite;
use laneway::wireguard::table::SessionTable;
use laneway::wireguard::timers::{MAX_JITTER, REKEY_TIMEOUT};
use zeroize::Zeroizing;

use super::Taker;

/// Feeds datagrams, raw or modified from a real message, to a peer that has just sent an initiation and to one
/// that waits. None is answered as if it were real, and the real handshake then succeeds.
pub fn handshake(bytes: &[u8]) {
    let (mut near, mut far) = (End::new(1, 2, CALM), End::new(2, 1, CALM));
    let initiation = near.begin();
    for (how, strange) in strange_messages(bytes, &initiation) {
        // The last field, mac2, is only checked under load (whitepaper, section 5.3).
        if strange.len() == initiation.len() && strange[..MAC2] == initiation[..MAC2] {
            continue;
        }
        let end = if how & 2 == 0 { &mut far } else { &mut near };
        let answers = end.receive(&strange);
        assert!(answers.is_empty(), "a strange message was answered as if it were real");
        assert!(!end.has_session, "a strange message made a session");
    }
    for answer in far.receive(&initiation) {
        near.receive(&answer);
    }
    assert!(near.has_session, "strange messages stood in the way of the real ones");
}

/// Feeds cookie replies, raw or modified from a real one, to a peer that was just sent one: it keeps no cookie and
/// sends nothing. The next real cookie then gets its handshake through to the other end, which is under load.
pub fn cookie_reply(bytes: &[u8]) {
    let (mut near, mut far) = (End::new(1, 2, CALM), End::new(2, 1, LOADED));
    let initiation = near.begin();
    let reply = far.receive(&initiation).remove(0);
    assert_eq!(reply.len(), COOKIE_REPLY, "who is under load asks for a cookie");
    for (_, strange) in strange_messages(bytes, &reply) {
        if strange != reply {
            assert!(near.receive(&strange).is_empty(), "a strange cookie reply was answered");
        }
    }
    let again = near.retry();
    assert_eq!(again[MAC2..], [0; 16], "a strange cookie was kept");
    let reply = far.receive(&again).remove(0);
    assert!(near.receive(&reply).is_empty(), "a cookie makes nobody send (section 5.4.7)");
    let with_cookie = near.retry();
    for answer in far.receive(&with_cookie) {
        near.receive(&answer);
    }
    assert!(near.has_session, "strange cookie replies stood in the way of the real one");
}

/// Opens a sealed run with modifications: unmodified datagrams are opened in place, modified ones are not.
pub fn open_run(bytes: &[u8]) {
    let mut take = Taker(bytes);
    let how = take.byte();
    let stride = DATA_OVERHEAD + 16 * usize::from(take.byte() % 95) + usize::from(how >> 4);
    let len = stride * usize::from(take.byte() % 45) + DATA_OVERHEAD + usize::from(take.byte()) % stride;
    let len = len.min(stride * 45);
    let tail = len % stride;
    let len = if tail != 0 && tail < DATA_OVERHEAD { len - tail } else { len };
    let suite = Suite::ALL[usize::from(how & 1)];
    let ends = |backend| (session(Role::Initiator, suite, backend), session(Role::Responder, suite, backend));
    let ((near, far), (other_near, other_far)) = (ends(Backend::Portable), ends(Backend::fastest()));
    let mut sealed: Vec<u8> = (0..len).map(|at| at as u8).collect();
    let plain = sealed.clone();
    let mut other_sealed = sealed.clone();
    for (near, sealed) in [(&near, &mut sealed), (&other_near, &mut other_sealed)] {
        let first = near.reserve(len.div_ceil(stride) as u32).expect("a fresh session");
        near.seal_run(first, sealed, stride);
    }
    assert_eq!(sealed, other_sealed, "one back end seals as the other");
    let mut received = sealed.clone();
    while !take.0.is_empty() {
        let (at, with) = (usize::from(take.u16()) % len, take.byte());
        // The receiver checks type and index before it opens a run.
        if at % stride >= 8 {
            received[at] ^= with;
        }
    }
    let intact: Vec<bool> =
        received.chunks(stride).zip(sealed.chunks(stride)).map(|(one, other)| one == other).collect();
    let (mut opened, mut drops) = (OpenedRun::new(), DropTally::default());
    let mut other_opened = OpenedRun::new();
    other_far.open_run(&mut received.clone(), stride, &mut other_opened, &mut drops);
    far.open_run(&mut received, stride, &mut opened, &mut drops);
    assert_eq!(opened, other_opened, "one back end opens as the other");
    let mut expected =
        (0..).zip(&intact).filter(|(_, intact)| **intact).map(|(index, _)| index * stride + DATA_HEADER);
    for packet in &opened {
        let (start, len) = (packet.offset as usize, packet.len as usize);
        assert_eq!(Some(start), expected.next(), "a changed datagram was opened, or an intact one was not");
        assert_eq!(received[start..start + len], plain[start..start + len]);
    }
    assert_eq!(expected.next(), None, "an intact datagram was not opened");
}

/// Returns up to sixteen messages. Each is a byte, a length, and that many bytes: the message itself if the first
/// byte is even, else modifications of `real`.
fn strange_messages(bytes: &[u8], real: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut take = Taker(bytes);
    let mut messages = Vec::new();
    while !take.0.is_empty() && messages.len() < 16 {
        let how = take.byte();
        let len = usize::from(take.u16()) % 300;
        let strange = take.bytes(len);
        messages.push((how, if how & 1 == 0 { strange.to_vec() } else { changed(real, strange) }));
    }
    messages
}

/// Returns the message with bytes changed; `changes` has pairs of position and value to add.
fn changed(message: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut message = message.to_vec();
    for change in changes.chunks_exact(2) {
        let at = usize::from(change[0]) % message.len();
        message[at] = message[at].wrapping_add(change[1]);
    }
    message
}

fn session(role: Role, suite: Suite, backend: Backend) -> Session {
    let (send, receive) = if role == Role::Initiator { (1, 2) } else { (2, 1) };
    Session::new(SessionParts {
        peer: PeerId(0),
        activity: Arc::default(),
        role,
        local_index: 1,
        remote_index: 1,
        created: Nanos(1),
        keys: SessionKeys { suite, send: Zeroizing::new([send; 32]), receive: Zeroizing::new([receive; 32]) },
        limits: MessageLimits::default(),
        backend,
        window: WINDOW,
    })
}

/// One end of a tunnel at one moment.
struct End {
    protocol: Protocol,
    peer: PeerId,
    out: Outputs,
    entropy: Counting,
    now: Nanos,
    has_session: bool,
}

impl End {
    fn new(own: u64, other: u64, load: LoadLimits) -> Self {
        let key = |seed| PrivateKey::generate(&mut Counting(seed));
        let settings = Settings { load, ..Settings::default() };
        let mut protocol = Protocol::new(Some(key(own)), Arc::new(SessionTable::new(&[7; 8])), settings);
        let peer = protocol.add_peer(key(other).public_key()).expect("a first peer");
        let (out, entropy) = (Outputs::new(), Counting(own << 32));
        Self { protocol, peer, out, entropy, now: Nanos(1_000_000_000), has_session: false }
    }

    fn begin(&mut self) -> Vec<u8> {
        self.protocol.data_waits(self.now, UNIX, &mut self.entropy, self.peer, &mut self.out);
        self.take().remove(0)
    }

    /// Returns the initiation that follows an unanswered one.
    fn retry(&mut self) -> Vec<u8> {
        self.now = self.now.after(REKEY_TIMEOUT + MAX_JITTER);
        self.protocol.poll(self.now, UNIX, &mut self.entropy, self.peer, &mut self.out);
        self.take().remove(0)
    }

    fn receive(&mut self, datagram: &[u8]) -> Vec<Vec<u8>> {
        let from = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 51820));
        self.protocol.handle_datagram(self.now, UNIX, &mut self.entropy, from, datagram, &mut self.out);
        self.take()
    }

    fn take(&mut self) -> Vec<Vec<u8>> {
        let mut sent = Vec::new();
        for output in self.out.drain() {
            match output {
                Output::Send { datagram, .. } => sent.push(datagram.to_vec()),
                Output::Use { .. } => self.has_session = true,
                _ => {}
            }
        }
        sent
    }
}

/// Offset of mac2 in an initiation.
const MAC2: usize = INITIATION - 16;
/// Never under load, and always under load.
const CALM: LoadLimits = LoadLimits { begins_over: u32::MAX, ends_at: u32::MAX };
const LOADED: LoadLimits = LoadLimits { begins_over: 0, ends_at: 0 };
const UNIX: Duration = Duration::from_secs(1_700_000_000);

/// Deterministic, so that findings are reproducible.
struct Counting(u64);

impl Entropy for Counting {
    fn fill(&mut self, dest: &mut [u8]) {
        for byte in dest {
            self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            *byte = (self.0 >> 56) as u8;
        }
    }
}
