//! A router's memory holds no copy of a key that it no longer uses: not of a removed peer's session and preshared
//! key, nor of a replaced private key, nor of a session that has been erased by age.
//!
//! The other end of the tunnel is in this file, so the test knows the session keys. It looks for them in
//! `/proc/PID/mem`, first while they are in use, which shows that it would find them.

#[path = "support/clock_ahead.rs"]
mod clock_ahead;
mod support;

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::process::Stdio;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use blake2::digest::consts::U16;
use blake2::digest::{Digest as _, KeyInit as _, Mac as _};
use blake2::{Blake2s256, Blake2sMac};
use chacha20poly1305::ChaCha20Poly1305;
use chacha20poly1305::aead::Aead as _;
use clap::Parser as _;
use clock_ahead::AHEAD;
use etherparse::PacketBuilder;
use laneway::cli::Cli;
use laneway::cli::demo::lab::{Lab, Side};
use laneway::sys::wipe::WipingAllocator;
use laneway::wireguard::keys::{Entropy as _, OsEntropy, PresharedKey, PrivateKey, PublicKey};
use laneway::wireguard::timers::ERASE_AFTER_TIME;
use nix::sys::signal::Signal;
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};
use support::binary::{command, serves};
use support::folder::Folder;
use support::process::{Process, command_in, output};
use support::skip::require_root;
use support::{device_name, lab, wait_until};

/// As in the `laneway` program.
#[global_allocator]
static ALLOCATOR: WipingAllocator = WipingAllocator;

const PORT: u16 = 51820;
const ROUTER: &str = "10.9.0.1";

/// A key pair and a preshared key.
struct Keys {
    private: PrivateKey,
    public: PublicKey,
    preshared: PresharedKey,
}

impl Keys {
    fn generate() -> Keys {
        let mut entropy = OsEntropy::new().unwrap();
        let private = PrivateKey::generate(&mut entropy);
        let preshared = PresharedKey::generate(&mut entropy);
        Keys { public: private.public_key(), private, preshared }
    }
}

/// The forms in which a configured key may be in memory.
fn forms(key: &[u8; 32]) -> Vec<Vec<u8>> {
    let hex = PresharedKey::from_bytes(*key).to_hex();
    vec![key.to_vec(), hex.as_bytes().to_vec(), BASE64.encode(key).into_bytes()]
}

/// Returns how often the needles occur in the writable memory of a process.
#[allow(unsafe_code)]
fn copies(process: u32, needles: &[Vec<u8>]) -> usize {
    const CHUNK: u64 = 1 << 20;
    const OVERLAP: u64 = 64;
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let mut found = 0;
    for line in maps.lines().filter(|line| line.contains(" rw")) {
        let (range, _) = line.split_once(' ').unwrap();
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).unwrap());
        for at in (start..end).step_by(CHUNK as usize) {
            let mut bytes = vec![0; (end - at).min(CHUNK + OVERLAP) as usize];
            let Ok(read) = memory.read_at(&mut bytes, at) else { continue };
            for needle in needles {
                let mut rest = &bytes[..read];
                loop {
                    // SAFETY: both ranges are slices with their actual lengths.
                    let hit = unsafe {
                        libc::memmem(rest.as_ptr().cast(), rest.len(), needle.as_ptr().cast(), needle.len())
                    };
                    if hit.is_null() {
                        break;
                    }
                    let offset = hit as usize - rest.as_ptr() as usize;
                    // What begins in the overlap is counted with the next chunk.
                    let position = read - rest.len() + offset;
                    found += usize::from((position as u64) < CHUNK);
                    rest = &rest[offset + 1..];
                }
            }
        }
    }
    found
}

/// The library's own primitives, and the system's randomness.
struct Primitives;

impl CryptoResolver for Primitives {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Primitives))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

impl Random for Primitives {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        OsEntropy::new().unwrap().fill(dest);
        Ok(())
    }
}

/// One peer of the router, with its socket and session.
struct Peer {
    socket: UdpSocket,
    address: IpAddr,
    session: Option<Session>,
}

struct Session {
    send: [u8; 32],
    receive: [u8; 32],
    remote_index: [u8; 4],
    counter: u64,
}

impl Peer {
    /// A peer in the right half of the lab with this number.
    fn new(lab: &Lab, number: u8) -> Peer {
        let socket = lab.right.namespace.run(|| UdpSocket::bind((lab.right.underlay4, 0))).unwrap().unwrap();
        let router = SocketAddr::from((lab.left.underlay4, PORT));
        socket.connect(router).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        Peer { socket, address: [10, 9, 0, number].into(), session: None }
    }

    /// Makes a session as initiator (whitepaper, section 5.4).
    fn handshake(&mut self, keys: &Keys, router: &PublicKey) {
        let params = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s".parse().unwrap();
        let mut noise = snow::Builder::with_resolver(params, Box::new(Primitives))
            .local_private_key(keys.private.as_bytes())
            .and_then(|builder| builder.remote_public_key(router.as_bytes()))
            .and_then(|builder| builder.prologue(b"WireGuard v1 zx2c4 Jason@zx2c4.com"))
            .and_then(|builder| builder.psk(2, keys.preshared.as_bytes()))
            .and_then(snow::Builder::build_initiator)
            .unwrap();
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let mut stamp = [0; 12];
        stamp[..8].copy_from_slice(&(now.as_secs() + (1 << 62) + 10).to_be_bytes());
        stamp[8..].copy_from_slice(&now.subsec_nanos().to_be_bytes());
        let mut message = [0; 148];
        message[0] = 1;
        noise.write_message(&stamp, &mut message[8..116]).unwrap();
        let key = Blake2s256::new().chain_update(b"mac1----").chain_update(router.as_bytes()).finalize();
        let mut mac = Blake2sMac::<U16>::new_from_slice(&key).unwrap();
        mac.update(&message[..116]);
        message[116..132].copy_from_slice(&mac.finalize().into_bytes());
        self.socket.send(&message).unwrap();
        let mut response = [0; 2000];
        while self.socket.recv(&mut response).expect("a response") != 92 || response[0] != 2 {}
        noise.read_message(&response[12..60], &mut []).unwrap();
        let (send, receive) = noise.dangerously_get_raw_split();
        let remote_index = response[4..8].try_into().unwrap();
        self.session = Some(Session { send, receive, remote_index, counter: 0 });
    }

    /// Sends echo requests through the tunnel until `wanted` replies have come back.
    fn ping(&mut self, wanted: usize) {
        let IpAddr::V4(own) = self.address else { unreachable!("an IPv4 address") };
        let router: std::net::Ipv4Addr = ROUTER.parse().unwrap();
        let session = self.session.as_mut().unwrap();
        let mut replies = 0;
        wait_until("replies through the tunnel", || {
            for sequence in 0..16 {
                let builder = PacketBuilder::ipv4(own.octets(), router.octets(), 64);
                let mut packet = Vec::new();
                builder.icmpv4_echo_request(7, sequence).write(&mut packet, &[9; 500]).unwrap();
                packet.resize(packet.len().next_multiple_of(16), 0);
                let sealed = ChaCha20Poly1305::new(&session.send.into())
                    .encrypt(&nonce(session.counter).into(), packet.as_slice())
                    .unwrap();
                let header =
                    [&[4, 0, 0, 0][..], &session.remote_index, &session.counter.to_le_bytes()].concat();
                session.counter += 1;
                self.socket.send(&[header, sealed].concat()).unwrap();
            }
            let mut datagram = [0; 2000];
            while replies < wanted
                && let Ok(len) = self.socket.recv(&mut datagram)
            {
                let counter = u64::from_le_bytes(datagram[8..16].try_into().unwrap());
                let opened = ChaCha20Poly1305::new(&session.receive.into())
                    .decrypt(&nonce(counter).into(), &datagram[16..len.max(16)]);
                replies += usize::from(datagram[0] == 4 && opened.is_ok_and(|packet| packet.len() > 500));
            }
            replies >= wanted
        });
    }

    /// The keys of the session.
    fn session_keys(&self) -> [Vec<u8>; 2] {
        let session = self.session.as_ref().unwrap();
        [session.send.to_vec(), session.receive.to_vec()]
    }
}

fn nonce(counter: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[4..].copy_from_slice(&counter.to_le_bytes());
    nonce
}

/// The text of a configuration with these peers, numbered from 2.
fn configuration(own: &PrivateKey, peers: &[(u8, &Keys)]) -> String {
    let section = |(number, keys): &(u8, &Keys)| {
        let (public, preshared) = (keys.public, keys.preshared.to_base64());
        let preshared = &*preshared;
        format!("[Peer]\nPublicKey = {public}\nPresharedKey = {preshared}\nAllowedIPs = 10.9.0.{number}/32\n")
    };
    let own = own.to_base64();
    let interface =
        format!("[Interface]\nPrivateKey = {}\nListenPort = {PORT}\nAddress = {ROUTER}/24\n", *own);
    let peers: Vec<_> = peers.iter().map(section).collect();
    interface + &peers.concat()
}

fn write(file: &str, text: &str) {
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn wait_for_start(process: &mut Process, device: &str) {
    wait_until("the router", || {
        assert!(process.is_running(), "{}", process.said());
        serves(device)
    });
}

fn assert_present(process: &Process, what: &str, needles: &[Vec<u8>]) {
    for needle in needles {
        assert!(copies(process.id(), std::slice::from_ref(needle)) > 0, "{what} is in use but was not found");
    }
}

fn assert_gone(process: &Process, what: &str, needles: &[Vec<u8>]) {
    let count = || -> Vec<usize> {
        needles.iter().map(|needle| copies(process.id(), std::slice::from_ref(needle))).collect()
    };
    // A worker may still hold a session for a run.
    let start = std::time::Instant::now();
    while count().iter().any(|copies| *copies > 0) {
        let left = count();
        assert!(start.elapsed() < Duration::from_secs(10), "{what}: copies left of each form: {left:?}");
    }
}

fn wg_set(side: &Side, device: &str, words: &str, input: &str) {
    let words: Vec<_> = ["wg", "set", device].into_iter().chain(words.split(' ')).collect();
    output(&side.namespace, &words, input);
}

#[test]
fn no_key_outlives_its_use() {
    require_root!();
    for backend in ["portable", "auto"] {
        let (lab, folder, device) = (lab(), Folder::new(), device_name("lw"));
        let [own, next, last] = [(); 3].map(|()| Keys::generate());
        let [one, other, replaced] = [(); 3].map(|()| Keys::generate());
        let file = folder.join(&format!("{device}.conf"));
        write(&file, &configuration(&own.private, &[(2, &one), (3, &other)]));
        let environment = [("LANEWAY_METRICS_ADDR", "off"), ("LANEWAY_AEAD", backend)];
        let mut router =
            Process::start_quietly(&mut command(&lab.left, &["run", "--config", &file], &environment));
        wait_for_start(&mut router, &device);
        let (mut first, mut second) = (Peer::new(&lab, 2), Peer::new(&lab, 3));
        for (peer, keys) in [(&mut first, &one), (&mut second, &other)] {
            peer.handshake(keys, &own.public);
            peer.ping(64);
        }
        assert_present(&router, "a session key", &first.session_keys());
        assert_present(&router, "a session key", &second.session_keys());
        assert_present(&router, "a preshared key", &[one.preshared.as_bytes().to_vec()]);
        assert_present(&router, "the private key", &[own.private.as_bytes().to_vec()]);

        wg_set(&lab.left, &device, &format!("peer {} remove", one.public), "");
        assert_gone(&router, "session of a removed peer", &first.session_keys());
        assert_gone(&router, "preshared key of a removed peer", &forms(one.preshared.as_bytes()));

        // A new preshared key does not end the session.
        let words = format!("peer {} preshared-key /dev/stdin", other.public);
        wg_set(&lab.left, &device, &words, &replaced.preshared.to_base64());
        assert_gone(&router, "replaced preshared key", &forms(other.preshared.as_bytes()));
        second.ping(1);

        wg_set(&lab.left, &device, "private-key /dev/stdin", &next.private.to_base64());
        assert_gone(&router, "session under the old private key", &second.session_keys());
        assert_gone(&router, "private key from the file", &forms(own.private.as_bytes()));
        assert_present(&router, "the private key", &[next.private.as_bytes().to_vec()]);

        // The same again by a reload, with other peers.
        write(&file, &configuration(&last.private, &[(2, &one)]));
        router.signal(Signal::SIGHUP);
        wait_until("the reload", || copies(router.id(), &[last.private.as_bytes().to_vec()]) > 0);
        assert_gone(&router, "private key from the control socket", &forms(next.private.as_bytes()));
        assert_gone(&router, "preshared key from the control socket", &forms(replaced.preshared.as_bytes()));
        router.signal(Signal::SIGTERM);
        assert_eq!(router.wait(), Some(0), "{}", router.said());
    }
}

#[test]
fn a_session_is_erased_by_age() {
    require_root!();
    let (lab, folder, device) = (lab(), Folder::new(), device_name("lw"));
    let [own, one] = [(); 2].map(|()| Keys::generate());
    let file = folder.join(&format!("{device}.conf"));
    write(&file, &configuration(&own.private, &[(2, &one)]));
    let mut command = command_in(&lab.left.namespace, std::env::current_exe().unwrap());
    command
        .args(["--ignored", "--exact", "--nocapture", "a_router_whose_clock_can_be_put_forward"])
        .env("MEMORY_TEST_CONFIG", &file)
        .stdin(Stdio::piped())
        .stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    wait_until("the router", || serves(&device));
    let mut peer = Peer::new(&lab, 2);
    peer.handshake(&one, &own.public);
    peer.ping(64);
    let process = child.id();
    let gone = |needles: &[Vec<u8>]| copies(process, needles) == 0;
    for key in peer.session_keys() {
        assert!(!gone(&[key]), "a session key is in use but was not found");
    }
    let mut clock = child.stdin.take().unwrap();
    writeln!(clock, "{}", ERASE_AFTER_TIME.as_secs() + 1).unwrap();
    // Timers are checked again within a keepalive interval.
    wait_until("the session keys to be erased", || gone(&peer.session_keys()));
    assert!(!gone(&[own.private.as_bytes().to_vec()]), "the router still runs");
    drop(clock);
    assert!(child.wait().unwrap().success());
}

/// Not a test, but the router of [`a_session_is_erased_by_age`]: the lines on its standard input are seconds to put
/// its clock forward. It ends when there are no more.
#[test]
#[ignore = "run by another test"]
fn a_router_whose_clock_can_be_put_forward() {
    let Ok(config) = std::env::var("MEMORY_TEST_CONFIG") else { return };
    std::thread::spawn(|| {
        for line in std::io::stdin().lines() {
            AHEAD.fetch_add(line.unwrap().trim().parse().unwrap(), Relaxed);
        }
        std::process::exit(0);
    });
    let cli = Cli::try_parse_from(["laneway", "run", "--config", &config]).unwrap();
    std::process::exit(cli.execute().map_or(1, Into::into));
}
