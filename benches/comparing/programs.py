"""The programs to compare: ours, built if needed, and those that are named or installed."""

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
    """Checks that these tools, and those always needed, are installed."""
    wanted = {**TOOLS, **{tool: tool for tool in tools}}
    missing = sorted({package for tool, package in wanted.items() if not shutil.which(tool)})
    if missing:
        raise LabError(f"install these packages first: {' '.join(missing)}")
    if os.geteuid():
        raise LabError("network namespaces need root")


def build(*targets):
    """Builds targets of this repository in release mode; returns the folder with the results."""
    argv = ["cargo", "build", "--release", "--locked", f"--manifest-path={ROOT}/Cargo.toml", *targets]
    try:
        status = subprocess.run(argv).returncode
    except FileNotFoundError:
        raise LabError("cargo not found; install it or name built programs (--help)") from None
    if status:
        raise LabError("the build failed")
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"


def laneway(path, lanes=None, aead=None, suite=""):
    """Returns our own program. Settings not given come from our environment, then from its defaults."""
    environ = {name: value for name, value in os.environ.items() if name.startswith("LANEWAY_")}
    if lanes:
        environ["LANEWAY_QUEUES"] = str(lanes)
    if aead:
        environ["LANEWAY_AEAD"] = aead
    return Program("laneway", installed(path), environ, suite)


def rivals(named, suite):
    """Returns the programs named as PROGRAM or NAME=PROGRAM; by default, known ones that are installed."""
    if not named:
        named = [program for program in KNOWN if shutil.which(program)]
        if not named:
            raise LabError(f"none of {', '.join(KNOWN)} is installed; name a program to compare with")
    return [rival(text, suite) for text in named]


def rival(text, suite):
    """Returns the program that PROGRAM or NAME=PROGRAM names."""
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
    """Checks that no two programs have the same name in the tables."""
    names = [program.name for program in programs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise LabError(f"two programs are called {', '.join(twice)}: name them as NAME=PROGRAM")
