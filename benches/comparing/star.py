"""A hub and its peers, all Laneways: all peers send to the hub at once, then the hub to them."""

import os
from dataclasses import dataclass

from . import iperf, meters, programs
from .addresses import PORT, inside
from .lab import Lab
from .tunnels import End, Tunnel
from .uapi import Keys, Peer, configure

# Bits per second of UDP from all peers together, low enough that nothing need be lost, and flows per peer.
UDP_RATE = 200_000_000
UDP_FLOWS = 4
UDP_PAYLOAD = 1200

REORDERINGS = ("TCPSACKReorder", "TCPRenoReorder", "TCPTSReorder")


@dataclass(frozen=True)
class Scaling:
    """The result for a hub with some lanes and some peers."""
    lanes: int
    peers: int
    to_hub: float        # Gbit/s of TCP, all peers together
    from_hub: float
    slowest_up: float    # rate of the slowest peer divided by the mean, towards the hub
    slowest_down: float  # and from it
    cpu: float           # the hub's CPU seconds per Gbit, both directions
    reorderings: int     # how often a TCP sender detected reordering
    udp_lost: float      # percent
    udp_disordered: int  # datagrams that arrived after a later one of their flow


def measure(laneway, lanes, peers, seconds):
    """Creates a hub with its peers and loads it."""
    with Lab() as lab:
        hub, ends = build(lab, laneway, lanes, peers)
        cpu = meters.cpu_seconds(hub.process)
        up = at_once(hub, ends, seconds, iperf.tcp(1))
        down = at_once(hub, ends, seconds, iperf.tcp(1, "--reverse"))
        cpu = meters.cpu_seconds(hub.process) - cpu
        reorderings = sum(meters.tcp_counter(end.process, name)
                          for end in (hub, *ends) for name in REORDERINGS)
        rate = UDP_RATE // peers // UDP_FLOWS
        udp = at_once(hub, ends, seconds,
                      iperf.udp(UDP_PAYLOAD, "--parallel", UDP_FLOWS, bitrate=rate))
    sums = [report["sum_received"] for report in up + down]
    rates = [[iperf.gigabits(report["sum_received"]) for report in reports] for reports in (up, down)]
    slowest = [min(found) / (sum(found) / peers) for found in rates]
    datagrams = [report["sum"] for report in udp]
    return Scaling(
        lanes, peers,
        to_hub=sum(rates[0]),
        from_hub=sum(rates[1]),
        slowest_up=slowest[0],
        slowest_down=slowest[1],
        cpu=cpu / sum(received["bytes"] * 8e-9 for received in sums),
        reorderings=reorderings,
        udp_lost=100 * sum(s["lost_packets"] for s in datagrams) / sum(s["packets"] for s in datagrams),
        udp_disordered=sum(stream["udp"]["out_of_order"] for report in udp for stream in report["streams"]))


def build(lab, laneway, lanes, peers):
    """Returns a hub with `lanes` lanes and peers with one each, after every peer has reached the hub."""
    hub_program, peer_program = programs.laneway(laneway, lanes), programs.laneway(laneway, 1)
    hub = End(lab.namespace("h"), "", PORT, f"lw{os.getpid()}-h", inside(0, 1))
    ends = []
    for number in range(1, peers + 1):
        end = End(lab.namespace(str(number)), f"198.18.{number}.2", PORT,
                  f"lw{os.getpid()}-{number}", inside(0, 1 + number))
        lab.cable(hub.namespace, end.namespace, f"cable{number}",
                  f"{hub_side(number)}/30", f"{end.underlay}/30")
        ends.append(end)
    hub_keys, keys = Keys.new(), [Keys.new() for _ in ends]
    hub_program.start_one(lab, hub)
    configure(hub.device, hub_keys, hub.port,
              [Peer(own.public, (f"{end.address}/32",)) for own, end in zip(keys, ends)])
    for number, (end, own) in enumerate(zip(ends, keys), 1):
        peer_program.start_one(lab, end)
        configure(end.device, own, end.port,
                  [Peer(hub_keys.public, (f"{hub.address}/32",), f"{hub_side(number)}:{hub.port}")])
        Tunnel(peer_program, (end, hub)).wait_for_answer()
    return hub, ends


def hub_side(number):
    """Returns the hub's address on the veth pair to a peer. 198.18.0.0/15 is for benchmarks (RFC 2544)."""
    return f"198.18.{number}.1"


def at_once(hub, ends, seconds, options):
    """Runs an iperf3 client in every peer, each with its own server in the hub; returns the reports."""
    reports = []
    with iperf.servers(hub.namespace, [iperf.PORT + number for number in range(len(ends))]) as ports:
        clients = [end.namespace.start("iperf3", iperf.client(hub.address, seconds, *options, port=port))
                   for end, port in zip(ends, ports)]
        try:
            for client in clients:
                reports.append(iperf.report(client.finish(seconds + 30)))
        finally:
            for client in clients:
                client.stop()
    return reports
