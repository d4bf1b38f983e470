"""Kernel counters: bytes of devices, CPU time and memory of processes."""

import json
import os
import re
import time
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def device_bytes(namespace, device):
    """Returns the bytes a device has received and sent."""
    link = json.loads(namespace.ip("-statistics", "-json", "link", "show", "dev", device))[0]
    return link["stats64"]["rx"]["bytes"], link["stats64"]["tx"]["bytes"]


def cpu_seconds(process):
    """Returns the user and system time of all threads of a process, in seconds."""
    process.must_run()
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    # The name in parentheses may contain anything; utime and stime are fields 14 and 15 (proc(5)).
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def peak_memory(process):
    """Returns the peak resident memory of a process in MiB."""
    process.must_run()
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"^VmHWM:\s+(\d+) kB$", status, re.M)[1]) / 1024


class OtherWork:
    """Other work on the machine, besides us and the processes we start, from now on."""

    def __init__(self):
        self._start, self._idle, self._ours = time.monotonic(), _idle(), _ours()

    def cores(self):
        """Returns the average number of cores busy with it. Call after all our processes have ended: running
        ones would count as other work. Kernel threads count as other work."""
        took = time.monotonic() - self._start
        busy = os.cpu_count() * took - (_idle() - self._idle)
        return max(0.0, busy - (_ours() - self._ours)) / took


def tcp_counter(process, name):
    """Returns a TCP counter of a process's namespace, by its name in /proc/net/netstat."""
    lines = Path(f"/proc/{process.pid}/net/netstat").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("TcpExt:"))
    return int(values[names.index(name)])


def _idle():
    """Returns the idle time of all cores in seconds, time stolen by the hypervisor included."""
    _, _, _, _, idle, waiting, _, _, stolen = Path("/proc/stat").read_text().split()[:9]
    return (int(idle) + int(waiting) + int(stolen)) / _TICKS


def _ours():
    return sum(os.times()[:4])
