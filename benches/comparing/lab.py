"""The lab: network namespaces, veth pairs between them, and the processes inside.

Namespaces have no name. Each is held by a sleeping process, and the kernel removes it and its devices with
its last process. The lab ends its processes by pid on exit; the kernel ends them if this program is killed.
Only a folder of logs and control socket files can remain then.
"""

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from .addresses import UNDERLAY_MTU

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class LabError(Exception):
    """A step failed; the text names it and has the end of the program's output."""

    def __init__(self, text, said=""):
        super().__init__(f"{text}: {' '.join(said.split())[-200:]}" if said else text)


def stop_on_signals():
    """Makes every stop signal unwind the program as an error does."""
    def leave(number, _frame):
        raise SystemExit(128 + number)
    for number in STOP_SIGNALS:
        signal.signal(number, leave)


def wait_until(condition, what, seconds=15):
    """Waits until `condition()` is true; fails after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise LabError(f"{what}: not within {seconds} s")
        time.sleep(0.02)


def run(argv, timeout=30, text=None):
    """Runs a program and returns its output."""
    argv = [str(word) for word in argv]
    try:
        done = subprocess.run(argv, input=text, timeout=timeout, text=True, start_new_session=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=_die_with_us)
    except subprocess.TimeoutExpired:
        raise LabError(f"{' '.join(argv)}: not done within {timeout} s") from None
    if done.returncode:
        raise Failed(argv, done.returncode, done.stdout, done.stderr)
    return done.stdout


class Failed(LabError):
    """A program ended with a status other than zero."""

    def __init__(self, argv, status, printed, said):
        super().__init__(f"{' '.join(argv)}: status {status}", said or printed)
        self.printed = printed


class Process:
    """A program that runs in the background. Its output goes to a file."""

    def __init__(self, name, argv, log, environ=None):
        self.name = name
        self.log = log
        with open(log, "wb") as out:
            self._child = subprocess.Popen(
                [str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=out,
                stderr=subprocess.STDOUT, env={**_environment(), **(environ or {})},
                start_new_session=True, preexec_fn=_die_with_us)
        self.pid = self._child.pid

    def runs(self):
        return self._child.poll() is None

    def must_run(self):
        if not self.runs():
            raise LabError(f"{self.name} ended unexpectedly", self.printed())

    def finish(self, seconds):
        """Waits until it ends, successfully or not, and returns its output."""
        try:
            self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            raise LabError(f"{self.name}: not done within {seconds} s") from None
        return self.printed()

    def printed(self):
        return Path(self.log).read_text(errors="replace")

    def listens(self, port):
        """Returns whether a TCP socket in its namespace listens on `port`."""
        self.must_run()
        for table in ("tcp", "tcp6"):
            for line in Path(f"/proc/{self.pid}/net/{table}").read_text().splitlines()[1:]:
                _, local, _, state = line.split()[:4]
                if state == "0A" and int(local.rpartition(":")[2], 16) == port:
                    return True
        return False

    def ask_to_stop(self):
        if self.runs():
            self._child.terminate()

    def stop(self):
        if self.runs():
            self._child.terminate()
            try:
                self._child.wait(5)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()


class Namespace:
    """A network namespace, held by a sleeping process."""

    def __init__(self, lab, name):
        self.name = name
        self._lab = lab
        self.holder = lab.start(f"namespace {name}", ["unshare", "--net", "sleep", "infinity"])
        wait_until(self._is_apart, f"namespace {name}")
        self.ip("link", "set", "lo", "up")

    def _is_apart(self):
        self.holder.must_run()
        return os.readlink(f"/proc/{self.holder.pid}/ns/net") != os.readlink("/proc/self/ns/net")

    def _inside(self, argv):
        # nsenter executes the program, so its pid is the program's.
        return ["nsenter", "--net", f"--target={self.holder.pid}", *argv]

    def run(self, *argv, timeout=30):
        return run(self._inside(argv), timeout)

    def ip(self, *argv):
        return self.run("ip", *argv)

    def start(self, name, argv, environ=None):
        return self._lab.start(f"{name} in {self.name}", self._inside(argv), environ)


class Lab:
    """Removes everything created in `with Lab() as lab:` when the block ends."""

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="laneway-compare-"))
        self._processes = []
        self._sockets = []
        return self

    def __exit__(self, *_):
        held = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            for process in self._processes:
                process.ask_to_stop()
            for process in self._processes:
                process.stop()
            for path in self._sockets:
                path.unlink(missing_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)

    def namespace(self, name):
        return Namespace(self, name)

    def start(self, name, argv, environ=None):
        # A signal between the start of a process and its entry in the list would leak it.
        held = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            process = Process(name, argv, self.folder / f"{len(self._processes)}.log", environ)
            self._processes.append(process)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
        return process

    def will_leave(self, path):
        """Registers a file to remove at the end, if a process leaves it behind."""
        self._sockets.append(Path(path))

    @staticmethod
    def cable(left, right, device, left_address, right_address):
        """Joins two namespaces with a veth pair; both ends are named `device`."""
        run(["ip", "link", "add", device, "netns", left.holder.pid, "type", "veth",
             "peer", "name", device, "netns", right.holder.pid])
        for namespace, address in ((left, left_address), (right, right_address)):
            namespace.ip("address", "add", address, "dev", device)
            namespace.ip("link", "set", device, "mtu", UNDERLAY_MTU, "up")


def cut_into_packets(namespace, device):
    """Makes each datagram cross a veth separately, as on a wire, and lets the receiver merge them."""
    # veth does GRO only if the sender does no TSO.
    namespace.run("ethtool", "-K", device, "tso", "off", "tx-udp-segmentation", "off", "gro", "on")


def _environment():
    """Returns our environment without LANEWAY_* variables, which are set and reported per program."""
    return {name: value for name, value in os.environ.items() if not name.startswith("LANEWAY_")}


def _die_with_us():
    # A child inherits the blocked signals.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
