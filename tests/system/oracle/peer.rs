//! Another implementation of the protocol at the other end of a router.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd as _;

use ::boringtun::noise::{Tunn, TunnResult};
use laneway::config::update::PeerEndpoint;
use laneway::config::{RouterConfig, Table};
use laneway::router::start::Router;
use laneway::underlay::max_run;
use laneway::wireguard::messages::DATA_OVERHEAD;
use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrIn, sendmsg, setsockopt, sockopt};

use super::MTU;
use super::superpacket::is_ours;
use crate::support::router::{config, key, peer};
use crate::support::{DEADLINE, boringtun};

/// The size of a buffer that holds any packet, in bytes.
const ROOM: usize = 65_536;

/// The decrypting end: another implementation of the protocol on a UDP socket.
pub(super) struct Peer {
    tunnel: Tunn,
    socket: UdpSocket,
    router: SocketAddr,
}

impl Peer {
    /// Starts a router with one lane, and its only peer, to which everything is routed.
    pub(super) fn join() -> (Router, Peer) {
        let (own, theirs) = (key(), key());
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        setsockopt(&socket, sockopt::RcvBufForce, &(32 << 20)).unwrap();

        let mut config: RouterConfig = config(1, &theirs);
        config.addresses.clear();
        config.table = Table::Off;
        config.mtu = MTU as u16;
        let mut peer = peer(own.public_key(), &["0.0.0.0/0", "::/0"]);
        peer.endpoint = Some(PeerEndpoint::Address(socket.local_addr().unwrap()));
        config.update.peers = vec![peer];
        let router = Router::start(&config, None).unwrap_or_else(|error| panic!("{error}"));
        let address = (Ipv4Addr::LOCALHOST, config.update.listen_port.unwrap()).into();

        let tunnel = boringtun::protocol(&own, &theirs.public_key(), 1);
        (router, Peer { tunnel, socket, router: address })
    }

    /// Receives until it has opened `count` packets.
    pub(super) fn open(&mut self, count: usize, what: &str) -> Vec<Vec<u8>> {
        let (mut datagram, mut room) = (vec![0; ROOM], vec![0; ROOM]);
        let mut packets = Vec::with_capacity(count);
        while packets.len() < count {
            let received = self.socket.recv(&mut datagram);
            let len =
                received.unwrap_or_else(|e| panic!("{} of {count} packets came: {e}; {what}", packets.len()));
            let from = Some(IpAddr::from(Ipv4Addr::LOCALHOST));
            match self.tunnel.decapsulate(from, &datagram[..len], &mut room) {
                TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => {
                    // The kernel also sends neighbour discovery.
                    packets.extend(is_ours(packet).then(|| packet.to_vec()));
                }
                TunnResult::WriteToNetwork(answer) => {
                    self.socket.send_to(answer, self.router).unwrap();
                }
                TunnResult::Done => {}
                TunnResult::Err(error) => panic!("the router sent what cannot be opened: {error:?}"),
            }
        }
        packets
    }

    /// Seals `packets`, which are equally long except the last, and sends them as one UDP GSO run.
    pub(super) fn send(&mut self, packets: &[Vec<u8>]) {
        let stride = packets[0].len() + DATA_OVERHEAD;
        let SocketAddr::V4(router) = self.router else { unreachable!("it was bound so") };
        for run in packets.chunks(max_run(stride)) {
            let mut bytes = Vec::new();
            for packet in run {
                let mut room = vec![0; packet.len().max(1500) + DATA_OVERHEAD];
                match self.tunnel.encapsulate(packet, &mut room) {
                    TunnResult::WriteToNetwork(datagram) => bytes.extend_from_slice(datagram),
                    other => panic!("{other:?}"),
                }
            }
            let segment = [ControlMessage::UdpGsoSegments(&(stride as u16))];
            let control = if run.len() > 1 { &segment[..] } else { &[] };
            let to = SockaddrIn::from(router);
            sendmsg(self.socket.as_raw_fd(), &[IoSlice::new(&bytes)], control, MsgFlags::empty(), Some(&to))
                .unwrap();
        }
    }
}
