//! The steps of the model, and how bytes encode them.

use super::config::{ADDRESSES, NETS, REMOTES};

/// One step. Remotes, prefixes and addresses are numbers in the lists of [`super::config`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelStep {
    /// The configuration: a peer is added, with an endpoint, and gets a prefix.
    Add { remote: usize, net: usize },
    /// A peer is removed.
    Remove { remote: usize },
    /// In one request, one peer is removed and another gets a prefix of it.
    Replace { remote: usize, by: usize, net: usize },
    /// A prefix is given to a peer, without or instead of its others.
    Give { remote: usize, net: usize, only: bool },
    /// A prefix is taken from a peer.
    Take { remote: usize, net: usize },
    /// All peers are replaced: each bit stands for a remote with one prefix.
    Reload { remotes: u8, net: usize },
    /// The router gets a new private key, and the remotes hear of it.
    ChangeKey,
    /// The router and a remote agree on another preshared key.
    ChangePreshared { remote: usize },
    /// A program writes packets to the TUN.
    Write { address: usize, count: u8 },
    /// The inside worker begins a turn: it loads a snapshot.
    BeginInside,
    /// The inside worker takes its turn, with the snapshot of its beginning, if there was one.
    Inside,
    /// The outside worker begins a turn: it loads a snapshot.
    BeginOutside,
    /// The peer actor takes a turn.
    Actor,
    /// The network delivers a datagram.
    Deliver { which: u8 },
    /// The network delivers a datagram, and keeps a copy.
    Repeat { which: u8 },
    /// The network loses a datagram.
    Lose { which: u8 },
    /// The network delivers a datagram for one remote to another.
    Misdeliver { which: u8, remote: usize },
    /// Everything is delivered in order, and everybody takes turns, until all is quiet.
    Settle,
    /// Time passes.
    Wait { seconds: u16 },
    /// The network loses everything until handshakes are given up.
    Silence,
    /// A remote moves to another address.
    Roam { remote: usize },
    /// A remote restarts: its sessions are gone.
    Restart { remote: usize },
    /// A remote starts a handshake.
    Initiate { remote: usize },
    /// A remote sends a packet that claims to be from an address.
    Send { remote: usize, address: usize },
}

/// What passes at once, in seconds: nothing is due, a keepalive, a retry, a new session, an expiry, the erasure of keys.
const WAITS: [u16; 8] = [0, 1, 5, 11, 26, 95, 121, 541];

impl ModelStep {
    /// Bytes that encode a step.
    pub(crate) const BYTES: usize = 3;

    /// Returns the steps that `bytes` encode. Any bytes do.
    pub(crate) fn decode(bytes: &[u8]) -> Vec<ModelStep> {
        let chunks = bytes.as_chunks::<{ ModelStep::BYTES }>().0;
        chunks.iter().map(|[kind, a, b]| ModelStep::from(*kind, *a, *b)).collect()
    }

    fn from(kind: u8, a: u8, b: u8) -> ModelStep {
        let remote = usize::from(a) % REMOTES;
        let net = usize::from(b) % NETS.len();
        let address = usize::from(b) % ADDRESSES.len();
        match kind % 64 {
            0..=4 => ModelStep::Add { remote, net },
            5..=6 => ModelStep::Remove { remote },
            7..=9 => ModelStep::Replace { remote, by: usize::from(a >> 4) % REMOTES, net },
            10..=12 => ModelStep::Give { remote, net, only: a >= 128 },
            13 => ModelStep::Take { remote, net },
            14 => ModelStep::Reload { remotes: a, net },
            15 => {
                if a < 64 {
                    ModelStep::ChangeKey
                } else {
                    ModelStep::ChangePreshared { remote }
                }
            }
            16..=25 => ModelStep::Write { address, count: a % 3 },
            26..=27 => ModelStep::BeginInside,
            28..=33 => ModelStep::Inside,
            34..=35 => ModelStep::BeginOutside,
            36..=40 => ModelStep::Actor,
            41..=45 => ModelStep::Deliver { which: a },
            46 => ModelStep::Repeat { which: a },
            47 => ModelStep::Lose { which: a },
            48 => ModelStep::Misdeliver { which: b, remote },
            49..=52 => ModelStep::Settle,
            53 if a >= 192 => ModelStep::Silence,
            53..=54 => ModelStep::Wait { seconds: WAITS[usize::from(a) % WAITS.len()] },
            55 => ModelStep::Roam { remote },
            56 => {
                if a < 128 {
                    ModelStep::Restart { remote }
                } else {
                    ModelStep::Initiate { remote }
                }
            }
            57..=58 => ModelStep::Initiate { remote },
            _ => ModelStep::Send { remote, address },
        }
    }
}
