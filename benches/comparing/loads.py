"""The loads: what is sent through a tunnel, and the resulting figures."""

import contextlib
import json
import math
import re
import time
from dataclasses import dataclass, replace

from . import iperf
from .addresses import TUNNEL_MTU
from .lab import LabError, wait_until
from .meters import device_bytes

UDP_PAYLOAD = 1200
# With 20 bytes of IPv4 header and 8 of UDP a packet of 64 bytes.
SMALL_PAYLOAD = 36
PING_INTERVAL = 0.002
PING_BYTES = 64      # ICMP header and ping's default payload
ECHO_PORT = 7007
VXLAN_PORT = 4789
# Headers of Ethernet, VXLAN (8 bytes), UDP and IP.
VXLAN_BYTES = {4: 50, 6: 70}


@dataclass(frozen=True)
class Figure:
    """A measured number."""
    key: str
    title: str
    unit: str
    less_is_better: bool = False


@dataclass(frozen=True)
class Line:
    """A tunnel as a load sees it: two namespaces and the far end's address."""
    near: object
    far: object
    target: str
    device: str          # tunnel device at the far end
    echo: str            # path of the echo program
    ends: tuple = ()     # of the tunnel, near and far


@dataclass(frozen=True)
class Outcome:
    """The result of a load: values by figure key, and the bytes that certainly crossed."""
    values: dict
    forward: int = 0     # payload bytes from near to far
    backward: int = 0


class Load:
    """A load. `bulk` loads also report CPU time per Gbit that arrived."""
    bulk = True
    needs_echo = False
    # Whether it runs if no loads are named.
    usual = True

    def __init__(self, name, title, *figures):
        self.name = name
        self.title = title
        self.figures = figures

    @property
    def cpu(self):
        """Returns the figure for CPU time, or None."""
        return Figure(f"{self.name} cpu", f"CPU: {self.title}", "s/Gbit", True) if self.bulk else None

    def run(self, line, seconds):
        raise NotImplementedError


class Tcp(Load):
    """TCP streams; `way` is "forward", "back" or "both ways"."""

    def __init__(self, name, streams, way):
        stream = "1 stream" if streams == 1 else f"{streams} streams"
        title = f"TCP, {stream}, {way}"
        super().__init__(name, title, Figure(name, title, "Gbit/s"))
        self.options = iperf.tcp(streams, *{"forward": [], "back": ["--reverse"],
                                            "both ways": ["--bidir"]}[way])
        self.way = way

    def run(self, line, seconds):
        with iperf.server(line.far):
            end = iperf.run(line.near, line.target, seconds, *self.options)
        received = end["sum_received"]
        other = end.get("sum_received_bidir_reverse", {"bytes": 0, "seconds": 1})
        forward, backward = received["bytes"], other["bytes"]
        if self.way == "back":
            forward, backward = backward, forward
        rate = iperf.gigabits(received) + iperf.gigabits(other)
        return Outcome({self.name: rate}, forward, backward)


class Vxlan(Tcp):
    """TCP between VXLAN devices on the tunnel, as overlays of Kubernetes send it. `outer` and `inner` are IP versions."""
    usual = False

    def __init__(self, name, outer, inner, checksums):
        super().__init__(name, 1, "forward")
        self.title = (f"TCP over IPv{inner} in VXLAN over IPv{outer}, {'with' if checksums else 'without'} checksums")
        self.figures = [Figure(name, self.title, "Gbit/s")]
        self.outer, self.inner, self.checksums = outer, inner, checksums

    def run(self, line, seconds):
        try:
            for number, (end, other) in enumerate((line.ends, line.ends[::-1]), 1):
                self.add(end, other, number)
            return super().run(replace(line, target=self.address(2)), seconds)
        finally:
            for end in line.ends:
                with contextlib.suppress(LabError):
                    end.namespace.ip("link", "delete", "overlay")

    def add(self, end, other, number):
        local, remote = ((end.address6, other.address6) if self.outer == 6 else (end.address, other.address))
        if not local:
            raise LabError(f"{end.device} has no IPv{self.outer} address")
        sums = {4: "udpcsum", 6: "udp6zerocsumtx"}[self.outer]
        wanted = self.checksums if self.outer == 4 else not self.checksums
        end.namespace.ip("link", "add", "overlay", "mtu", TUNNEL_MTU - VXLAN_BYTES[self.outer], "type", "vxlan",
                         "id", 7, "dstport", VXLAN_PORT, "dev", end.device, "local", local, "remote", remote,
                         sums if wanted else f"no{sums}", "udp6zerocsumrx")
        prefix, options = (64, ["nodad"]) if self.inner == 6 else (24, [])
        end.namespace.ip("address", "add", f"{self.address(number)}/{prefix}", "dev", "overlay", *options)
        end.namespace.ip("link", "set", "overlay", "up")

    def address(self, number):
        return f"fd00:7::{number}" if self.inner == 6 else f"10.7.7.{number}"


class Udp(Load):
    """Datagrams as fast as iperf3 sends them; only what arrives counts."""

    def __init__(self, name, title, payload, unit):
        super().__init__(name, title, Figure(name, title, unit))
        self.payload = payload
        self.in_packets = unit != "Gbit/s"

    def run(self, line, seconds):
        with iperf.server(line.far):
            end = iperf.run(line.near, line.target, seconds, *iperf.udp(self.payload))
        received = end["sum_received"]
        packets = received["packets"] - received["lost_packets"]
        arrived = {"bytes": packets * self.payload, "seconds": received["seconds"]}
        rate = packets / received["seconds"] / 1000 if self.in_packets else iperf.gigabits(arrived)
        return Outcome({self.name: rate}, forward=arrived["bytes"])


class Ask(Load):
    """Requests and answers over TCP; each connection sends the next request after an answer."""
    bulk = False
    needs_echo = True

    def __init__(self, name, connections):
        title = f"Request and answer, {connections} at once"
        super().__init__(name, title, Figure(name, title, "1/s"),
                         Figure(f"{name} p99", f"{title}, p99", "µs", True))
        self.connections = connections

    def run(self, line, seconds):
        server = line.far.start("echo", [line.echo, "serve", f"0.0.0.0:{ECHO_PORT}"])
        try:
            wait_until(lambda: server.listens(ECHO_PORT), "echo's server")
            told = json.loads(line.near.run(line.echo, "ask", f"{line.target}:{ECHO_PORT}",
                                            self.connections, seconds, timeout=seconds + 20))
        finally:
            server.stop()
        crossed = told["transactions"] * told["message_bytes"]
        values = {self.name: told["transactions"] / told["seconds"],
                  f"{self.name} p99": told["p99_us"]}
        return Outcome(values, crossed, crossed)


class RoundTrip(Load):
    """Pings, by themselves or beside bulk streams of TCP."""
    bulk = False

    def __init__(self, name, title, streams=0):
        figures = [Figure(f"{name} p{rank}", f"{title}, p{rank}", "µs", True) for rank in (50, 99)]
        if streams:
            figures.append(Figure(f"{name} rate", f"{title}: what these carried", "Gbit/s"))
        super().__init__(name, title, *figures)
        self.streams = streams

    def run(self, line, seconds):
        if not self.streams:
            return self.ping(line, seconds)
        with iperf.server(line.far):
            # Until it is stopped: pings on a busy machine take longer than planned.
            argv = iperf.client(line.target, 100 * seconds, *iperf.tcp(self.streams))
            bulk = line.near.start("iperf3", argv)
            try:
                time.sleep(0.2 * seconds)  # slow start
                (before, _), start = device_bytes(line.far, line.device), time.monotonic()
                outcome = self.ping(line, 0.8 * seconds)
                (after, _), took = device_bytes(line.far, line.device), time.monotonic() - start
                bulk.must_run()
            finally:
                bulk.stop()
        outcome.values[f"{self.name} rate"] = (after - before) * 8e-9 / took
        return outcome

    def ping(self, line, seconds):
        count = round(seconds / PING_INTERVAL)
        text = line.near.run("ping", "-n", "-i", PING_INTERVAL, "-c", count, line.target,
                             timeout=seconds * 10 + 20)
        times = [float(found) * 1000 for found in re.findall(r"time=([\d.]+) ms", text)]
        crossed = len(times) * PING_BYTES
        values = {f"{self.name} p{rank}": percentile(times, rank, count) for rank in (50, 99)}
        return Outcome(values, crossed, crossed)


def percentile(times, rank, count):
    """Returns the nearest-rank percentile of `count` times. Missing times count as longer than all others."""
    place = max(1, math.ceil(count * rank / 100))
    if place > len(times):
        raise LabError(f"{count - len(times)} of {count} pings lost, so there is no p{rank}")
    return sorted(times)[place - 1]


LOADS = {load.name: load for load in (
    *(Tcp(f"tcp-{streams}{suffix}", streams, way)
      for streams in (1, 4, 128)
      for suffix, way in (("", "forward"), ("-back", "back"))),
    Tcp("tcp-4-both", 4, "both ways"),
    Udp("udp-1200", "UDP, 1,200 bytes", UDP_PAYLOAD, "Gbit/s"),
    Udp("udp-small", "UDP, packets of 64 bytes", SMALL_PAYLOAD, "1,000/s"),
    Ask("ask-1", 1),
    Ask("ask-64", 64),
    RoundTrip("rtt", "Round trip, idle"),
    RoundTrip("rtt-loaded", "Round trip beside 4 streams", streams=4),
    *(Vxlan(f"vxlan-{outer}-{inner}{'-sums' if checksums else ''}", outer, inner, checksums)
      for outer in (4, 6) for inner in (4, 6) for checksums in (False, True)),
)}

MEMORY = Figure("memory", "Memory, peak of the larger end", "MiB", True)


def figures(loads):
    """Returns all figures of these loads, in the order of the tables."""
    listed = [figure for load in loads for figure in load.figures]
    listed += [load.cpu for load in loads if load.cpu]
    return [*listed, MEMORY]
