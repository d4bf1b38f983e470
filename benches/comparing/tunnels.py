"""The programs to compare, and the tunnels they create between two namespaces."""

import os
from dataclasses import dataclass, field

from .addresses import PORT, TUNNEL_MTU, inside, inside6
from .lab import LabError, Namespace, Process, run, wait_until
from .uapi import Keys, Peer, configure, socket_of


@dataclass
class End:
    """One end of a tunnel."""
    namespace: Namespace
    underlay: str        # address on the veth pair
    port: int            # UDP port
    device: str          # name, unique on the machine because control sockets are named after it
    address: str         # address inside the tunnel
    address6: str = ""   # the same with IPv6, if it has one
    process: Process = None

    def has_device(self):
        try:
            self.namespace.ip("link", "show", "dev", self.device)
        except LabError:
            return False
        return True

    def up(self):
        """Sets the device's address and brings it up."""
        self.namespace.ip("address", "replace", f"{self.address}/24", "dev", self.device)
        if self.address6:
            self.namespace.ip("address", "replace", f"{self.address6}/64", "dev", self.device, "nodad")
        self.namespace.ip("link", "set", self.device, "mtu", TUNNEL_MTU, "up")


@dataclass
class Tunnel:
    """A program that runs at both ends."""
    program: "Program"
    ends: tuple

    @property
    def name(self):
        return self.program.name

    @property
    def processes(self):
        return [end.process for end in self.ends if end.process]

    def wait_for_answer(self):
        """Waits until a ping is answered, which takes a handshake."""
        near, far = self.ends

        def answered():
            for process in self.processes:
                process.must_run()
            try:
                near.namespace.run("ping", "-n", "-q", "-c", "1", "-W", "1", far.address)
            except LabError:
                return False
            return True
        wait_until(answered, f"{self.name}: an answer through the tunnel", 30)

    def stop(self):
        for process in self.processes:
            process.ask_to_stop()
        for process in self.processes:
            process.stop()


@dataclass
class Program:
    """A userspace WireGuard implementation, started as `PROGRAM -f NAME`."""
    name: str
    path: str
    environ: dict = field(default_factory=dict)
    suite: str = ""

    version_option = "--version"

    def version(self):
        """Returns the first line of its version output, and its settings."""
        try:
            said = run([self.path, self.version_option]).strip().split("\n")[0]
        except LabError:
            said = "version unknown"
        return ", ".join([said, *self.settings()])

    def settings(self):
        """Returns the settings that differ from the defaults."""
        suite = {"suite": self.suite} if self.suite else {}
        return [f"{name}={value}" for name, value in {**self.environ, **suite}.items()]

    def start(self, lab, sides, index):
        """Starts it between two (namespace, underlay address) sides as tunnel number `index`, and waits until
        packets cross."""
        ends = tuple(
            End(namespace, underlay, PORT + index, f"lw{os.getpid()}-{index}{namespace.name}",
                inside(index, 1 + number), inside6(index, 1 + number))
            for number, (namespace, underlay) in enumerate(sides))
        tunnel = Tunnel(self, ends)
        try:
            self.start_ends(lab, ends)
            tunnel.wait_for_answer()
        except BaseException:
            tunnel.stop()
            raise
        return tunnel

    def start_ends(self, lab, ends):
        for end in ends:
            self.start_one(lab, end)
        keys = {end.device: Keys.new() for end in ends}
        for own, other in (ends, ends[::-1]):
            peer = Peer(keys[other.device].public, (f"{other.address}/32", f"{other.address6}/128"),
                        f"{other.underlay}:{other.port}", self.suite)
            configure(own.device, keys[own.device], own.port, [peer])

    def start_one(self, lab, end):
        """Starts one end and waits for its device and its control socket."""
        control = socket_of(end.device)
        control.unlink(missing_ok=True)
        lab.will_leave(control)
        # Without WG_SUDO boringtun and gotatun drop privileges, and fail where nobody is logged in.
        environ = {"LOG_LEVEL": "error", "WG_SUDO": "true", **self.environ}
        end.process = end.namespace.start(self.name, [self.path, "-f", end.device], environ)

        def ready():
            end.process.must_run()
            return control.exists() and end.has_device()
        wait_until(ready, f"{self.name}: its device and control socket")
        end.up()
