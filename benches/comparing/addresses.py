"""The addresses, ports and MTUs of the lab, read from where the integration tests have them."""

import ast
import re
from pathlib import Path

_SOURCE = Path(__file__).parents[2] / "tests/support/addresses.rs"
_CONSTANTS = {name: ast.literal_eval(value) for name, value in
              re.findall(r"^pub const (\w+): [^=]+ = (.+);$", _SOURCE.read_text(), re.MULTILINE)}

UNDERLAY = tuple(_CONSTANTS["UNDERLAY"])
UNDERLAY_MTU = _CONSTANTS["UNDERLAY_MTU"]
PORT = _CONSTANTS["PORT"]
TUNNEL_MTU = _CONSTANTS["TUNNEL_MTU"]


def inside(net, host):
    """The IPv4 address inside a tunnel of a host in a net."""
    return ".".join(map(str, (*_CONSTANTS["INSIDE"], net, host)))


def inside6(net, host):
    """The IPv6 address inside a tunnel of a host in a net."""
    return f"{_CONSTANTS['INSIDE6']:x}:{net:x}::{host:x}"
