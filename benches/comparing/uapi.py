"""Keys, and the control socket of userspace WireGuard implementations (wireguard.com/xplatform)."""

import base64
import socket
from dataclasses import dataclass
from pathlib import Path

from .lab import LabError, run

SOCKETS = Path("/var/run/wireguard")


@dataclass(frozen=True)
class Keys:
    """A key pair in hexadecimal, as the control socket expects."""
    private: str
    public: str

    @staticmethod
    def new():
        private = run(["wg", "genkey"])
        return Keys(_hex(private), _hex(run(["wg", "pubkey"], text=private)))


@dataclass(frozen=True)
class Peer:
    """The configuration of a peer."""
    public: str
    allowed_ips: tuple
    endpoint: str = ""   # ADDRESS:PORT; without it the peer must initiate
    suite: str = ""      # Laneway only; others reject the line

    def lines(self):
        yield f"public_key={self.public}"
        if self.suite:
            yield f"suite={self.suite}"
        if self.endpoint:
            yield f"endpoint={self.endpoint}"
        yield from (f"allowed_ip={net}" for net in self.allowed_ips)


def socket_of(device):
    return SOCKETS / f"{device}.sock"


def configure(device, keys, port, peers):
    """Sets a device's private key, UDP port and peers."""
    lines = ["set=1", f"private_key={keys.private}", f"listen_port={port}"]
    for peer in peers:
        lines += peer.lines()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as control:
        control.settimeout(10)
        try:
            control.connect(str(socket_of(device)))
            control.sendall("\n".join([*lines, "", ""]).encode())
            answer = control.makefile().readline().strip()
        except OSError as error:
            raise LabError(f"control socket of {device}: {error}") from error
    if answer != "errno=0":
        raise LabError(f"{device} rejects its configuration: {answer}")


def _hex(key):
    return base64.b64decode(key).hex()
