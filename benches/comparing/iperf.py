"""iperf3: one server per client, and its report."""

import json
from contextlib import ExitStack, contextmanager

from .lab import Failed, LabError, wait_until

# Fixed, so that runs do not depend on the machine's default.
CONGESTION_CONTROL = "cubic"
PORT = 5201


@contextmanager
def server(namespace, port=PORT):
    """A server for one client."""
    process = namespace.start("iperf3", ["iperf3", "--server", "--one-off", "--port", port])
    try:
        wait_until(lambda: process.listens(port), "iperf3's server")
        yield process
    finally:
        process.stop()


@contextmanager
def servers(namespace, ports):
    """Starts a server on each port and yields the ports."""
    with ExitStack() as all_of_them:
        for port in ports:
            all_of_them.enter_context(server(namespace, port))
        yield ports


def client(target, seconds, *options, port=PORT):
    """Returns the command line of a client."""
    return ["iperf3", "--client", target, "--port", port, "--time", seconds, "--json",
            "--connect-timeout", 5000, *options]


def tcp(streams, *options):
    return ["--parallel", streams, "--congestion", CONGESTION_CONTROL, *options]


def udp(payload, *options, bitrate=0):
    """Returns options for datagrams of `payload` bytes; a bitrate of zero sends as fast as possible."""
    return ["--udp", "--bitrate", bitrate, "--length", payload, *options]


def run(namespace, target, seconds, *options):
    """Runs a client and returns the `end` section of its report."""
    argv = client(target, seconds, *options)
    try:
        return report(namespace.run(*argv, timeout=seconds + 20))
    except Failed as failure:
        # The reason is in the output, not in the status.
        return report(failure.printed)


def report(text):
    """Returns the `end` section of a report: the sums over all streams."""
    try:
        whole = json.loads(text)
    except ValueError:
        raise LabError("iperf3 wrote no report", text) from None
    if "error" in whole:
        raise LabError(f"iperf3: {whole['error']}")
    end = whole["end"]
    used = end.get("sender_tcp_congestion", CONGESTION_CONTROL)
    if used != CONGESTION_CONTROL:
        raise LabError(f"iperf3 used {used} instead of {CONGESTION_CONTROL}")
    if end["sum_received"]["bytes"] <= 0:
        raise LabError("iperf3: nothing arrived")
    return end


def gigabits(received):
    """Returns the rate of a sum of received streams in Gbit/s."""
    return received["bytes"] * 8e-9 / received["seconds"]
