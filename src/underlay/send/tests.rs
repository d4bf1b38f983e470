//! Tests of refused sends: errors are injected in front of real loopback sockets. Whichever sends are
//! refused, the receiver must get every datagram once and in order.

use std::collections::VecDeque;
use std::os::fd::AsFd;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proptest::prelude::*;

use crate::underlay::name::Family;
use crate::underlay::send::*;
use crate::underlay::socket::bind_family;
use crate::underlay::{DEPTH, Receiver, SocketOptions, bind};

/// The sends of a [`Sender`] that are refused instead of passed to the kernel.
#[derive(Default)]
pub(super) struct Refusals {
    /// Result of each send in turn. `None`, and any send after the end of the script, goes to the kernel.
    script: VecDeque<Option<Errno>>,
    /// Error of every GSO send.
    grouped: Option<Errno>,
    /// Error of every send with a source address.
    sourced: Option<Errno>,
    /// Whether every datagram exceeds the path MTU.
    pub(super) narrow: bool,
    /// For each send: the segment size, and whether it had a source address.
    asked: Vec<(Option<u16>, bool)>,
}

impl Refusals {
    /// Returns the error of the next send, if it is refused.
    pub(super) fn next(&mut self, path: &SendPath<'_>, segment: Option<u16>) -> Result<(), Errno> {
        self.asked.push((segment, path.source.is_some()));
        let refusal = self
            .script
            .pop_front()
            .flatten()
            .or(self.grouped.filter(|_| segment.is_some()))
            .or(self.sourced.filter(|_| path.source.is_some()));
        refusal.map_or(Ok(()), Err)
    }
}

/// Creates a sender with GSO on `socket`, some of whose sends are refused.
fn sender(socket: &UdpSocket, refusals: Refusals) -> Sender {
    Sender { gso: true, refusals, ..Sender::new(socket) }
}

/// A sender with injected errors, and the socket that it sends to.
struct Rig {
    sender: Sender,
    from: UdpSocket,
    to: UdpSocket,
    endpoint: Endpoint,
}

impl Rig {
    fn new(refusals: Refusals) -> Self {
        let open = || bind(0, 1, SocketOptions::default()).unwrap().remove(0);
        let (from, to) = (open(), open());
        let address = SocketAddr::new("127.0.0.1".parse().unwrap(), to.port());
        Rig { sender: sender(&from, refusals), from, to, endpoint: Endpoint::new(address) }
    }

    fn scripted(script: &[Errno]) -> Self {
        let script = script.iter().map(|errno| Some(*errno)).collect();
        Self::new(Refusals { script, ..Refusals::default() })
    }

    fn send(&mut self, run: &[u8], stride: usize) -> Result<Notices, SendFailure> {
        self.sender.send_run(&self.from, run, stride, &self.endpoint, 0)
    }

    /// Waits for at least `expected` datagrams and returns those that have arrived.
    fn arrived(&self, expected: usize) -> Vec<Vec<u8>> {
        let mut slabs = vec![vec![0; 65_536]; DEPTH];
        let mut receiver = Receiver::new();
        let mut arrived = Vec::new();
        loop {
            let count = receiver.receive(&self.to, slabs.iter_mut().map(|slab| &mut slab[..])).unwrap();
            for (index, slab) in slabs.iter().enumerate().take(count) {
                let message = receiver.message(index);
                assert_eq!(message.drop_reason(), None);
                arrived.extend(slab[..message.len].chunks(message.stride).map(<[u8]>::to_vec));
            }
            if count == 0 && (arrived.len() >= expected || !waits_for(&self.to, PollFlags::POLLIN)) {
                return arrived;
            }
        }
    }

    /// Asserts that exactly the datagrams of `run` were sent and have arrived in order.
    fn assert_arrived(&mut self, run: &[u8], stride: usize) {
        let expected: Vec<_> = run.chunks(stride).map(<[u8]>::to_vec).collect();
        assert_eq!(self.arrived(expected.len()), expected);
        assert_eq!(std::mem::take(&mut self.sender.tally().bytes), run.len() as u64);
    }

    fn grouped_sends(&self) -> usize {
        self.sender.refusals.asked.iter().filter(|(segment, _)| segment.is_some()).count()
    }
}

/// Returns a run of `count` distinct datagrams, the last one shorter.
fn run(count: u8, stride: usize) -> Vec<u8> {
    let mut run: Vec<u8> = (0..count).flat_map(|n| vec![n; stride]).collect();
    run.truncate(run.len() - stride / 2);
    run
}

/// Returns whether `socket` becomes ready within 10 seconds, so that a failing test does not hang.
fn waits_for(socket: &UdpSocket, events: PollFlags) -> bool {
    poll(&mut [PollFd::new(socket.as_fd(), events)], PollTimeout::from(10_000_u16)) == Ok(1)
}

const SOURCE: LocalSource =
    LocalSource { ip: std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), ifindex: 1 };

#[test]
fn a_run_is_one_send() {
    let mut rig = Rig::scripted(&[]);
    let run = run(9, 1000);
    assert_eq!(rig.send(&run, 1000), Ok(Notices::default()));
    assert_eq!(rig.sender.refusals.asked, [(Some(1000), false)]);
    rig.assert_arrived(&run, 1000);
    assert_eq!(rig.sender.tally().runs.of(9), 1);
}

#[test]
fn one_datagram_asks_for_no_grouping() {
    let mut rig = Rig::scripted(&[]);
    assert_eq!(rig.send(&[5; 300], 1452), Ok(Notices::default()));
    assert_eq!(rig.sender.refusals.asked, [(None, false)]);
    rig.assert_arrived(&[5; 300], 300);
}

#[test]
fn a_refused_group_goes_out_one_by_one_and_so_does_everything_after_it() {
    for errno in [Errno::EIO, Errno::EINVAL] {
        let mut rig = Rig::new(Refusals { grouped: Some(errno), ..Refusals::default() });
        let run = run(20, 500);
        assert_eq!(rig.send(&run, 500), Ok(Notices::default()));
        assert!(!rig.sender.gso());
        rig.assert_arrived(&run, 500);

        assert_eq!(rig.send(&run, 500), Ok(Notices::default()));
        rig.assert_arrived(&run, 500);
        assert_eq!(rig.grouped_sends(), 1);
        assert_eq!(rig.sender.tally().gso_disabled.of(errno), 1);
        assert_eq!(rig.sender.tally().errors.of(errno), 1);
        assert_eq!(rig.sender.tally().runs.of(1), 40);
    }
}

#[test]
fn a_destination_that_is_invalid_in_itself_does_not_end_grouping_for_the_others() {
    let mut rig = Rig::scripted(&[]);
    let good = rig.endpoint;
    rig.endpoint.address.set_port(0); // a real EINVAL
    let refused = rig.send(&run(4, 100), 100).unwrap_err();
    assert_eq!(
        refused,
        SendFailure::Refused { errno: Errno::EINVAL, sent: 0, lost: 4, notices: Notices::default() }
    );
    assert!(rig.sender.gso());

    rig.endpoint = good;
    rig.send(&run(4, 100), 100).unwrap();
    rig.assert_arrived(&run(4, 100), 100);
    assert_eq!(rig.sender.tally().runs.of(4), 1);
}

#[test]
fn a_group_over_the_mtu_goes_out_one_by_one_and_is_reported() {
    let mut rig = Rig::scripted(&[Errno::EMSGSIZE]);
    let run = run(8, 1400);
    assert_eq!(rig.send(&run, 1400), Ok(Notices { over_mtu: true, source_gone: false }));
    rig.assert_arrived(&run, 1400);
    assert!(rig.sender.gso(), "other destinations may have a larger MTU");
}

#[test]
fn a_kernel_that_calls_a_group_over_the_mtu_invalid_does_not_end_grouping() {
    let narrow = Refusals { narrow: true, ..Refusals::default() };
    let mut rig = Rig::new(Refusals { script: [Some(Errno::EINVAL)].into(), ..narrow });
    let run = run(8, 1400);
    assert_eq!(rig.send(&run, 1400), Ok(Notices { over_mtu: true, source_gone: false }));
    rig.assert_arrived(&run, 1400);
    assert!(rig.sender.gso());
}

#[test]
fn a_datagram_is_over_the_mtu_when_its_headers_make_it_so() {
    // The loopback MTU is 65,536 bytes, but an IPv4 packet is at most 65,535.
    let rig = Rig::scripted(&[]);
    let (socket, address) = (&rig.from, rig.endpoint.address);
    let path = SendPath { socket, address, class: 0, source: None, source_gone: false };
    assert!(!path.is_over_mtu(MAX_RUN_BYTES));
    assert!(path.is_over_mtu(MAX_RUN_BYTES + 1));
}

#[test]
fn a_lone_datagram_over_the_mtu_is_lost_and_reported() {
    let mut rig = Rig::scripted(&[Errno::EMSGSIZE]);
    let notices = Notices { over_mtu: true, source_gone: false };
    assert_eq!(
        rig.send(&[1; 100], 100),
        Err(SendFailure::Refused { errno: Errno::EMSGSIZE, sent: 0, lost: 1, notices })
    );
}

#[test]
fn a_want_of_buffers_that_passes_loses_nothing() {
    let mut rig = Rig::scripted(&[Errno::ENOBUFS; NO_BUFFER_RETRIES]);
    let run = run(8, 1400);
    assert_eq!(rig.send(&run, 1400), Ok(Notices::default()));
    rig.assert_arrived(&run, 1400);
}

#[test]
fn a_want_of_buffers_that_stays_is_given_up() {
    let mut rig = Rig::scripted(&[Errno::ENOBUFS; NO_BUFFER_RETRIES + 1]);
    let lost = 8;
    let refused = SendFailure::Refused { errno: Errno::ENOBUFS, sent: 0, lost, notices: Notices::default() };
    assert_eq!(rig.send(&run(8, 1400), 1400), Err(refused));
    rig.assert_arrived(&[], 1);
    assert_eq!(rig.sender.refusals.asked.len(), NO_BUFFER_RETRIES + 1);
}

#[test]
fn a_full_send_buffer_sends_nothing_of_a_group() {
    let mut rig = Rig::scripted(&[Errno::EAGAIN]);
    let run = run(8, 1400);
    assert_eq!(rig.send(&run, 1400), Err(SendFailure::WouldBlock { sent: 0, notices: Notices::default() }));
    assert_eq!(rig.send(&run, 1400), Ok(Notices::default()));
    rig.assert_arrived(&run, 1400);
}

#[test]
fn a_full_send_buffer_amid_the_fallback_tells_where_to_go_on() {
    let script = [Some(Errno::EIO), None, None, Some(Errno::EAGAIN)];
    let mut rig = Rig::new(Refusals { script: script.into(), ..Refusals::default() });
    let run = run(8, 1400);
    let Err(SendFailure::WouldBlock { sent, .. }) = rig.send(&run, 1400) else { panic!("must block") };
    assert_eq!(sent, 2 * 1400);
    assert_eq!(rig.send(&run[sent..], 1400), Ok(Notices::default()));
    rig.assert_arrived(&run, 1400);
}

#[test]
fn a_source_that_is_gone_costs_no_datagram_and_is_reported() {
    for errno in [Errno::EINVAL, Errno::ENETUNREACH, Errno::EADDRNOTAVAIL] {
        let mut rig = Rig::new(Refusals { sourced: Some(errno), ..Refusals::default() });
        rig.endpoint.source = Some(SOURCE);
        let run = run(8, 1400);
        assert_eq!(rig.send(&run, 1400), Ok(Notices { source_gone: true, over_mtu: false }));
        rig.assert_arrived(&run, 1400);
        assert!(rig.sender.gso(), "GSO was not the cause");
        assert_eq!(rig.sender.refusals.asked, [(Some(1400), true), (Some(1400), false)]);
    }
}

#[test]
fn a_source_that_is_not_the_trouble_is_kept() {
    let mut rig = Rig::new(Refusals { grouped: Some(Errno::EINVAL), ..Refusals::default() });
    rig.endpoint.source = Some(SOURCE);
    let run = run(3, 1400);
    assert_eq!(rig.send(&run, 1400), Ok(Notices::default()));
    rig.assert_arrived(&run, 1400);
    let lone = (None, true);
    assert_eq!(rig.sender.refusals.asked, [(Some(1400), true), (Some(1400), false), lone, lone, lone]);
}

#[test]
fn a_source_and_grouping_can_both_be_the_trouble() {
    let mut rig =
        Rig::new(Refusals { grouped: Some(Errno::EIO), sourced: Some(Errno::EINVAL), ..Refusals::default() });
    rig.endpoint.source = Some(SOURCE);
    let run = run(5, 700);
    assert_eq!(rig.send(&run, 700), Ok(Notices { source_gone: true, over_mtu: false }));
    assert!(!rig.sender.gso());
    rig.assert_arrived(&run, 700);
}

#[test]
fn an_unreachable_destination_is_refused_and_the_socket_goes_on() {
    let mut rig = Rig::scripted(&[Errno::ENETUNREACH]);
    let refused =
        SendFailure::Refused { errno: Errno::ENETUNREACH, sent: 0, lost: 8, notices: Notices::default() };
    assert_eq!(rig.send(&run(8, 100), 100), Err(refused));
    assert_eq!(rig.sender.tally().errors.of(Errno::ENETUNREACH), 1);
    let run = run(8, 100);
    assert_eq!(rig.send(&run, 100), Ok(Notices::default()));
    rig.assert_arrived(&run, 100);
}

#[test]
fn a_host_without_ipv6_is_served_over_ipv4() {
    let open = || bind_family(Family::V4, 0, 1, SocketOptions::default()).unwrap().remove(0);
    let (from, to) = (open(), open());
    let there = SocketAddr::new("127.0.0.2".parse().unwrap(), to.port());
    let endpoint = Endpoint { source: Some(SOURCE), ..Endpoint::new(there) };
    let mut rig = Rig { sender: sender(&from, Refusals::default()), from, to, endpoint };
    let run = run(6, 900);
    assert_eq!(rig.send(&run, 900), Ok(Notices::default()));

    let mut receiver = Receiver::new();
    assert!(waits_for(&rig.to, PollFlags::POLLIN));
    assert_eq!(receiver.receive(&rig.to, [&mut vec![0; 65_536][..]]).unwrap(), 1);
    let message = receiver.message(0);
    assert_eq!((message.len, message.stride), (run.len(), 900));
    assert_eq!(message.from.address, SocketAddr::new(SOURCE.ip, rig.from.port()));
    assert_eq!(message.from.source.map(|source| source.ip), Some(there.ip()));

    rig.endpoint = Endpoint::new("[::1]:9".parse().unwrap());
    let refused =
        SendFailure::Refused { errno: Errno::EAFNOSUPPORT, sent: 0, lost: 6, notices: Notices::default() };
    assert_eq!(rig.send(&run, 900), Err(refused));
}

#[test]
fn a_run_of_any_stride_fits_one_ipv4_packet() {
    for stride in 1..=MAX_RUN_BYTES {
        let segments = max_run(stride);
        assert!((1..=MAX_RUN_SEGMENTS).contains(&segments) && segments * stride <= MAX_RUN_BYTES);
        assert!(segments == MAX_RUN_SEGMENTS || (segments + 1) * stride > MAX_RUN_BYTES);
    }
}

#[test]
fn the_longest_runs_go_out_in_one_send() {
    for stride in [1, 1023, 1024, 1452, 8952, MAX_RUN_BYTES / 2] {
        let mut rig = Rig::scripted(&[]);
        let run = vec![3; stride * max_run(stride)];
        assert_eq!(rig.send(&run, stride), Ok(Notices::default()), "stride {stride}");
        assert_eq!(rig.sender.refusals.asked.len(), 1);
        rig.assert_arrived(&run, stride);
    }
}

fn refusals() -> impl Strategy<Value = Vec<Option<Errno>>> {
    let errnos = [
        Errno::EIO,
        Errno::EINVAL,
        Errno::EMSGSIZE,
        Errno::ENOBUFS,
        Errno::EAGAIN,
        Errno::ECONNREFUSED,
        Errno::ENETUNREACH,
        Errno::EPERM,
    ];
    let refusal = prop_oneof![2 => Just(None), 1 => proptest::sample::select(errnos.to_vec()).prop_map(Some)];
    proptest::collection::vec(refusal, 0..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Acts as a complete caller: sends, waits and continues after `WouldBlock`, until the run is sent or
    /// refused. The whole run must arrive, or all of it but the datagrams reported as lost.
    #[test]
    fn whatever_the_kernel_refuses_nothing_is_lost_unsaid_repeated_or_reordered(
        script in refusals(),
        count in 1_u8..=20,
        stride in 2_usize..=1500,
        with_source: bool,
    ) {
        let mut rig = Rig::new(Refusals { script: script.into(), ..Refusals::default() });
        rig.endpoint.source = with_source.then_some(SOURCE);
        let run = run(count, stride);
        let mut rest = &run[..];
        let lost = loop {
            match rig.send(rest, stride) {
                Ok(_) => break 0,
                Err(SendFailure::Refused { lost, .. }) => break lost,
                Err(SendFailure::WouldBlock { sent, .. }) => {
                    prop_assert_eq!(sent % stride, 0);
                    rest = &rest[sent..];
                    prop_assert!(waits_for(&rig.from, PollFlags::POLLOUT));
                }
            }
        };
        let taken = usize::from(count) - lost;
        rig.assert_arrived(&run[..run.len().min(taken * stride)], stride);
    }
}
