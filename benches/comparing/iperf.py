"""iperf3: one server for one client, and what its report says."""

import json
from contextlib import ExitStack, contextmanager

from .lab import Failed, LabError, wait_until

# The same everywhere, whatever the machine's default is.
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
    """A server on each of the ports, which it gives back."""
    with ExitStack() as all_of_them:
        for port in ports:
            all_of_them.enter_context(server(namespace, port))
        yield ports


def client(target, seconds, *options, port=PORT):
    """The command line of a client."""
    return ["iperf3", "--client", target, "--port", port, "--time", seconds, "--json",
            "--connect-timeout", 5000, *options]


def tcp(streams, *options):
    return ["--parallel", streams, "--congestion", CONGESTION_CONTROL, *options]


def udp(payload, *options, bitrate=0):
    """Datagrams with `payload` bytes; a bit rate of zero is as fast as they can be sent."""
    return ["--udp", "--bitrate", bitrate, "--length", payload, *options]


def run(namespace, target, seconds, *options):
    """Runs a client to its end and returns the end of its report."""
    argv = client(target, seconds, *options)
    try:
        return report(namespace.run(*argv, timeout=seconds + 20))
    except Failed as failure:
        # The reason is in what it printed; the status says nothing.
        return report(failure.printed)


def report(text):
    """The end of a report: the sums over all streams."""
    try:
        whole = json.loads(text)
    except ValueError:
        raise LabError("iperf3 wrote no report", text) from None
    if "error" in whole:
        raise LabError(f"iperf3: {whole['error']}")
    end = whole["end"]
    used = end.get("sender_tcp_congestion", CONGESTION_CONTROL)
    if used != CONGESTION_CONTROL:
        raise LabError(f"iperf3 sent with {used} for {CONGESTION_CONTROL}")
    if end["sum_received"]["bytes"] <= 0:
        raise LabError("iperf3: nothing arrived")
    return end


def gigabits(received):
    """Gbit/s of a sum of received streams."""
    return received["bytes"] * 8e-9 / received["seconds"]
