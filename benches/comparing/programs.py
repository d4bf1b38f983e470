"""Which programs are compared: ours, built if need be, and those that are named or installed."""

import os
import shutil
import subprocess
from pathlib import Path

from .lab import LabError
from .nebula import Nebula
from .tunnels import Program

ROOT = Path(__file__).resolve().parents[2]
KNOWN = ("wireguard-go", "boringtun-cli", "gotatun", "nebula")
TOOLS = {
    "ip": "iproute2", "iperf3": "iperf3", "ping": "iputils-ping", "wg": "wireguard-tools",
    "nsenter": "util-linux", "unshare": "util-linux",
}


def need(*tools):
    """Makes sure that these tools and those that are always needed are installed."""
    wanted = {**TOOLS, **{tool: tool for tool in tools}}
    missing = sorted({package for tool, package in wanted.items() if not shutil.which(tool)})
    if missing:
        raise LabError(f"install these packages first: {' '.join(missing)}")
    if os.geteuid():
        raise LabError("network namespaces need root")


def build(*targets):
    """Builds targets of this repository in release mode; returns the folder they are in."""
    argv = ["cargo", "build", "--release", "--locked", f"--manifest-path={ROOT}/Cargo.toml", *targets]
    try:
        status = subprocess.run(argv).returncode
    except FileNotFoundError:
        raise LabError("cargo is needed, or programs that are already built (--help)") from None
    if status:
        raise LabError("the build failed")
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def laneway(path, lanes=None, aead=None, suite=""):
    """Our own program. What is not given is left to our own environment, and then to its defaults."""
    environ = {name: value for name, value in os.environ.items() if name.startswith("LANEWAY_")}
    if lanes:
        environ["LANEWAY_QUEUES"] = str(lanes)
    if aead:
        environ["LANEWAY_AEAD"] = aead
    return Program("laneway", installed(path), environ, suite)


def rivals(named, suite):
    """Those named as PROGRAM or NAME=PROGRAM; without any, those known that are installed."""
    if not named:
        named = [program for program in KNOWN if shutil.which(program)]
        if not named:
            raise LabError(f"none of {', '.join(KNOWN)} is installed; name a program to compare with")
    return [rival(text, suite) for text in named]


def rival(text, suite):
    """The program that a text of the form PROGRAM or NAME=PROGRAM means."""
    name, _, path = text.rpartition("=")
    name = name or Path(path).name
    if Path(path).name.startswith("nebula"):
        return Nebula(name, installed(path), suite=suite)
    return Program(name, installed(path))


def installed(program):
    found = shutil.which(program)
    if not found:
        raise LabError(f"{program}: no such program")
    return found


def check_names(programs):
    """Each program needs a name of its own in the tables."""
    names = [program.name for program in programs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LabError(f"two programs are called {', '.join(twice)}: name them as NAME=PROGRAM")
