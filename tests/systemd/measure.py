#!/usr/bin/env python3
"""Restarts, crashes and stops laneway@wg0 while it carries traffic, and prints what that costs. Used by `run`."""

import argparse
import ctypes
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

UNIT = "laneway@wg0.service"
NEAR, FAR = "10.9.0.1", "10.9.0.2"
WIREGUARD = 51820
TCP, THERE, BACK = 7701, 7702, 7703
# asm-generic/socket.h
RCVBUFFORCE = 33

problems = []


def check(condition, what):
    if not condition:
        problems.append(what)
        print("FAILED:", what)


def in_namespace(path, act):
    """Returns what `act` returns in the network namespace at `path`."""
    result = {}

    def run():
        with open(path) as namespace:
            if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0x40000000) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        result["it"] = act()

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return result["it"]


def child(act):
    """Runs `act` in a process of its own."""
    pid = os.fork()
    if pid == 0:
        # PR_SET_PDEATHSIG
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        try:
            act()
        finally:
            os._exit(0)
    return pid


class Flow:
    """Numbered datagrams from one namespace to the other. `arrivals` are pairs of a number and its time."""

    def __init__(self, sender, receiver, address, port, rate):
        def bind():
            received = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            received.setsockopt(socket.SOL_SOCKET, RCVBUFFORCE, 64 << 20)
            received.bind((address, port))
            received.settimeout(0.2)
            return received

        self.receiver = in_namespace(receiver, bind)
        self.sender = in_namespace(sender, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        # A fixed source, since a socket that is bound to none asks for a route each time.
        self.target = (address, port)
        self.arrivals = []
        self.refused = 0
        self.over = False
        counted, self.count = os.pipe()
        self.counted = os.fdopen(counted)
        self.stop_sender, stop = os.pipe(), None
        self.pid = child(lambda: self.send(rate))
        self.thread = threading.Thread(target=self.receive, daemon=True)
        self.thread.start()

    def send(self, rate):
        running = [True]
        signal.signal(signal.SIGTERM, lambda *_: running.clear())
        begin, number, refused = time.monotonic(), 0, 0
        while running:
            due = int((time.monotonic() - begin) * rate)
            while number < due:
                try:
                    self.sender.sendto(struct.pack("!Q", number), self.target)
                except OSError:
                    # No route, or an error that was reported for an earlier one.
                    refused += 1
                number += 1
            time.sleep(0.0005)
        os.write(self.count, f"{number} {refused}\n".encode())

    def receive(self):
        while True:
            try:
                number = struct.unpack("!Q", self.receiver.recv(64))[0]
                self.arrivals.append((number, time.monotonic()))
            except TimeoutError:
                if self.over:
                    return

    def stop(self):
        os.kill(self.pid, signal.SIGTERM)
        os.waitpid(self.pid, 0)
        self.sent, self.refused = map(int, self.counted.readline().split())
        time.sleep(1)
        self.over = True
        self.thread.join()

    def report(self, name):
        numbers = [number for number, _ in self.arrivals]
        distinct = set(numbers)
        reordered = sum(later < earlier for earlier, later in zip(numbers, numbers[1:]))
        lost = self.sent - len(distinct)
        twice = len(numbers) - len(distinct)
        print(f"  {name}: {self.sent} sent, {lost} lost ({self.refused} refused to the sender), {reordered} reordered, {twice} twice")
        return lost, reordered, twice

    def gap(self, begin, end):
        """Returns the longest time without an arrival between two moments, in milliseconds."""
        times = [at for _, at in self.arrivals if begin <= at <= end]
        return max((later - earlier for earlier, later in zip(times, times[1:])), default=float("nan")) * 1e3


class Stream:
    """TCP from the left to the right, verified."""

    def __init__(self, left, right):
        listener = in_namespace(right, lambda: socket.create_server((FAR, TCP)))
        self.sending = in_namespace(left, lambda: socket.create_connection((FAR, TCP), timeout=30))
        self.receiving, _ = listener.accept()
        self.over, self.wrong, self.received, self.failed = False, False, 0, None
        self.threads = [threading.Thread(target=act, daemon=True) for act in (self.send, self.receive)]
        for thread in self.threads:
            thread.start()

    PATTERN = bytes(at % 251 for at in range(251 * 80))

    def send(self):
        try:
            while not self.over:
                self.sending.sendall(self.PATTERN)
                time.sleep(0.005)
            self.sending.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.failed = error

    def receive(self):
        self.receiving.settimeout(60)
        pattern = self.PATTERN
        while True:
            got = self.receiving.recv(65536)
            if not got:
                return
            at = self.received % 251
            expected = (pattern * (len(got) // len(pattern) + 2))[at : at + len(got)]
            self.wrong |= got != expected
            self.received += len(got)

    def stop(self):
        self.over = True
        for thread in self.threads:
            thread.join()


class Watch:
    """Counts packets on the right end of the underlay that are not WireGuard's: those are in the clear."""

    def __init__(self, right):
        def listen():
            heard = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
            heard.setsockopt(socket.SOL_SOCKET, RCVBUFFORCE, 64 << 20)
            heard.bind(("lws-eth", 0))
            heard.settimeout(0.2)
            return heard

        self.socket = in_namespace(right, listen)
        self.over, self.seen, self.clear = False, 0, []
        self.thread = threading.Thread(target=self.listen, daemon=True)
        self.thread.start()

    def listen(self):
        while not self.over:
            try:
                frame, source = self.socket.recvfrom(2048)
            except TimeoutError:
                continue
            kind, packet = frame[12:14], frame[14:]
            if source[2] == socket.PACKET_OUTGOING:
                continue
            self.seen += 1
            if kind == b"\x08\x00":
                # An error of the underlay quotes the datagram that it is about.
                inner = packet[28:] if packet[9] == 1 and packet[20] == 3 else packet
                header = (inner[0] & 15) * 4
                ports = struct.unpack("!HH", inner[header : header + 4])
                if inner[9] != 17 or WIREGUARD not in ports:
                    self.clear.append(packet[:48].hex())
            # Of IPv6, neighbour discovery and multicast listeners are the underlay's own.
            elif kind == b"\x86\xdd" and not (packet[6] in (0, 58) and packet[8:9] in (b"\xfe", b"\x00")):
                self.clear.append(packet[:44].hex())

    def stop(self):
        self.over = True
        self.thread.join()


class Service:
    def __init__(self, manager, left):
        self.enter = ["nsenter", "-t", manager, "--all", "--root"]
        self.left = ["nsenter", f"--net={left}"]

    def run(self, *words, fails=False):
        done = subprocess.run([*self.enter, *words], capture_output=True, text=True)
        if done.returncode != 0 and not fails:
            print("FAILED:", words, done.stdout, done.stderr)
            print(subprocess.run([*self.enter, "systemctl", "status", "--no-pager", UNIT], capture_output=True, text=True).stdout)
            sys.exit(1)
        return done.stdout.strip()

    def systemctl(self, *words, **more):
        return self.run("systemctl", *words, **more)

    def show(self, name):
        return self.systemctl("show", "--value", "-p", name, UNIT)

    def log(self):
        return self.run("cat", "/var/log/laneway")

    def ip(self, *words):
        return subprocess.run([*self.left, "ip", *words], capture_output=True, text=True).stdout.strip()

    def handshakes(self, right):
        done = subprocess.run(
            ["nsenter", f"--net={right}", "wg", "show", "all", "latest-handshakes"], capture_output=True, text=True
        )
        return done.stdout

    def metric(self, name):
        text = self.run("laneway", "show", "wg0", "metrics", fails=True)
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name))


def percentiles(values):
    ordered = sorted(values)
    return f"p50 {ordered[len(ordered) // 2]:.1f} ms, max {ordered[-1]:.1f} ms"


def wait_for(what, condition, limit=20):
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            print("FAILED:", what)
            sys.exit(1)
        time.sleep(0.05)


def phase(title, left, right, service, rate, times, act):
    """Carries traffic while `act` is called `times` times. Returns the flows, and prints the report."""
    there = Flow(left, right, FAR, THERE, rate)
    back = Flow(right, left, NEAR, BACK, rate)
    stream = Stream(left, right)
    watch = Watch(right)
    time.sleep(2)
    windows = []
    for _ in range(times):
        begin = time.monotonic()
        act()
        time.sleep(1.5)
        windows.append((begin - 0.1, time.monotonic()))
    for flow in (there, back):
        flow.stop()
    stream.stop()
    watch.stop()
    print(f"{title}, {times} times:")
    results = {name: flow.report(name) for name, flow in (("there", there), ("back", back))}
    for name, flow in (("there", there), ("back", back)):
        print(f"  longest silence {name}: {percentiles([flow.gap(*window) for window in windows])}")
    check(not stream.wrong and not stream.failed, f"{title}: TCP: {stream.failed or 'wrong bytes'}")
    print(f"  TCP: {stream.received >> 20} MiB verified; {len(watch.clear)} packets in the clear of {watch.seen}")
    check(not watch.clear, f"{title}: in the clear: {watch.clear[:3]}")
    return results


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("manager")
    arguments.add_argument("left")
    arguments.add_argument("right")
    arguments.add_argument("--restarts", type=int, required=True)
    arguments.add_argument("--rate", type=int, required=True)
    given = arguments.parse_args()
    left, right, times = given.left, given.right, given.restarts
    service = Service(given.manager, left)

    def rules_and_routes():
        routes = service.ip("route", "show", "table", "all").splitlines()
        # The underlay's link-local addresses become usable meanwhile.
        routes = [route for route in routes if not ("fe80" in route and "lws-eth" in route)]
        return (service.ip("rule"), service.ip("-6", "rule"), routes)

    before = rules_and_routes()

    service.systemctl("start", UNIT)
    wait_for("a first ping", lambda: subprocess.run(
        [*service.left, "ping", "-c1", "-W1", FAR], capture_output=True).returncode == 0)
    index = service.ip("-o", "link", "show", "wg0").split(":")[0]

    def restart(*words):
        def act():
            pid = service.show("MainPID")
            service.run(*(words or ("systemctl", "restart", UNIT)))
            check(service.show("MainPID") != pid, "the process is the same")
        return act

    mark = len(service.log())
    results = phase("systemctl restart", left, right, service, given.rate, times, restart())
    said = service.log()[mark:]
    gaps = [float(gap) for gap in re.findall(r"packets waited ([0-9.]+) ms", said)]
    print(f"  sessions went on {len(gaps)} times; packets waited: {percentiles(gaps)}" if gaps else "  no session went on")
    check(len(gaps) == times, "sessions went on each time")
    for name, result in results.items():
        check(result == (0, 0, 0), f"{name}: lost, reordered, twice: {result}")
    handshakes = len(re.findall(r"handshake", said))
    print(f"  mentions of handshakes in the log: {handshakes}")
    check(service.ip("-o", "link", "show", "wg0").split(":")[0] == index, "the interface is another one")

    # As an upgrade of the package does: another program, then what postinst does.
    service.run("install", "-m", "0755", "/usr/local/bin/laneway", "/usr/local/bin/laneway.new")
    service.run("mv", "/usr/local/bin/laneway.new", "/usr/local/bin/laneway")
    service.systemctl("daemon-reload")
    mark = len(service.log())
    results = phase("an upgrade of the package", left, right, service, given.rate, 1,
                    restart("deb-systemd-invoke", "try-restart", "laneway@*.service"))
    check("was taken over with its sessions" in service.log()[mark:], "sessions went on in the upgrade")
    for name, result in results.items():
        check(result == (0, 0, 0), f"upgrade, {name}: lost, reordered, twice: {result}")

    # Nothing but the signal: the unit has the process started again.
    def end():
        pid = service.show("MainPID")
        service.systemctl("kill", "-s", "USR1", UNIT)
        wait_for("a process after SIGUSR1",
                 lambda: service.show("MainPID") not in (pid, "0") and service.show("ActiveState") == "active")

    mark = len(service.log())
    results = phase("systemctl kill -s USR1", left, right, service, given.rate, 3, end)
    gaps = re.findall(r"packets waited ([0-9.]+) ms", service.log()[mark:])
    check(len(gaps) == 3, "sessions went on after each SIGUSR1")
    for name, result in results.items():
        check(result == (0, 0, 0), f"SIGUSR1, {name}: lost, reordered, twice: {result}")

    def crash():
        pid = service.show("MainPID")
        service.run("kill", "-KILL", pid)
        wait_for("a process after the crash",
                 lambda: service.show("MainPID") not in (pid, "0") and service.show("ActiveState") == "active")

    phase("kill -9", left, right, service, given.rate, times, crash)

    print("systemctl stop:")
    kept = service.show("NFileDescriptorStore")
    service.systemctl("stop", UNIT)
    after = rules_and_routes()
    print(f"  {kept} descriptors kept before, {service.show('NFileDescriptorStore')} after")
    check(int(kept) > 0 and service.show("NFileDescriptorStore") == "0", "the store is empty after a stop")
    check("wg0" not in service.ip("link"), "the interface is gone")
    check(before == after, f"rules and routes are as before: {before} {after}")
    sockets = subprocess.run([*service.left, "ss", "-Hlun"], capture_output=True, text=True).stdout
    check(f":{WIREGUARD} " not in sockets, f"no socket is left: {sockets}")
    check(service.show("Result") == "success", "the result is success")

    print("without a descriptor store:")
    folder = "/etc/systemd/system/laneway@.service.d"
    service.run("sh", "-c", f"printf '[Service]\\nFileDescriptorStoreMax=0\\n' >{folder}/store.conf")
    service.systemctl("daemon-reload")
    service.systemctl("start", UNIT)
    pid, mark = service.show("MainPID"), len(service.log())
    service.systemctl("restart", UNIT)
    check(service.show("MainPID") != pid and service.show("ActiveState") == "active", "it is restarted")
    check("as the service manager keeps no descriptors" in service.log()[mark:], "the log says so")
    service.systemctl("stop", UNIT)
    check("wg0" not in service.ip("link"), "the interface is gone")
    print("FAILED" if problems else "ok")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
