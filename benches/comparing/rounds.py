"""The rounds: every load over every tunnel in turn, so that changes on the machine affect all of them
alike."""

import sys
from dataclasses import dataclass, field

from . import meters
from .addresses import UNDERLAY
from .lab import Lab, LabError, cut_into_packets
from .loads import MEMORY, Line

CABLE = "underlay"
ATTEMPTS = 2
# Cores that tunnels without a load may keep busy before it is noted.
IDLE_CORES = 0.05


@dataclass
class Results:
    """The figures of each round by program and key, and notes about anomalies."""
    rounds: list = field(default_factory=list)
    notes: list = field(default_factory=list)
    failures: int = 0
    other_work: float = 0.0   # average cores busy with neither programs nor loads

    def fail(self, text):
        self.failures += 1
        self.note(text)

    def note(self, text):
        self.notes.append(text)
        say(text)


@dataclass
class Comparison:
    """The programs, the loads, and how long each runs."""
    programs: list
    loads: list
    seconds: int         # per load
    echo: str            # path of the echo program
    results: Results = field(default_factory=Results)

    def run(self, rounds, per_packet):
        """Runs the rounds and returns their results."""
        other_work = meters.OtherWork()
        with Lab() as lab:
            near, far = lab.namespace("a"), lab.namespace("b")
            lab.cable(near, far, CABLE, *(f"{address}/24" for address in UNDERLAY))
            if per_packet:
                for namespace in (near, far):
                    cut_into_packets(namespace, CABLE)
            sides = list(zip((near, far), UNDERLAY))
            for number in range(1, rounds + 1):
                self._round(lab, sides, number)
        self.results.other_work = other_work.cores()
        return self.results

    def _round(self, lab, sides, number):
        """Starts all programs, runs the loads on them in turn, and stops them."""
        figures = {program.name: {} for program in self.programs}
        self.results.rounds.append(figures)
        tunnels = []
        try:
            for index, program in turned(list(enumerate(self.programs)), number):
                try:
                    tunnels.append(program.start(lab, sides, index))
                except LabError as error:
                    self.results.fail(f"round {number}: {program.name} did not start: {error}")
            for place, load in enumerate(self.loads, number):
                for tunnel in turned(tunnels, place):
                    where = f"round {number}, {load.name}, {tunnel.name}"
                    figures[tunnel.name].update(self._put(load, tunnel, tunnels, where))
            for tunnel in tunnels:
                if all(process.runs() for process in tunnel.processes):
                    figures[tunnel.name][MEMORY.key] = max(map(meters.peak_memory, tunnel.processes))
        finally:
            for tunnel in tunnels:
                tunnel.stop()

    def _put(self, load, tunnel, tunnels, where):
        """Runs a load on a tunnel, once more if it fails; returns its figures, or {} if it fails again."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                values, idle_cores = measure(load, tunnel, tunnels, self.seconds, self.echo)
            except LabError as error:
                tell = self.results.note if attempt < ATTEMPTS else self.results.fail
                tell(f"{where}: failed: {error}")
                continue
            told = (f"{values[figure.key]:.4g} {figure.unit}" for figure in load.figures)
            say(f"{where}: {', '.join(told)}")
            if idle_cores > IDLE_CORES:
                self.results.note(f"{where}: tunnels without a load kept {idle_cores:.2f} cores busy")
            return values
        return {}


def measure(load, tunnel, tunnels, seconds, echo):
    """Returns the figures of one load, and the cores the other tunnels kept busy meanwhile."""
    near, far = tunnel.ends
    line = Line(near.namespace, far.namespace, far.address, far.device, echo, tunnel.ends)
    idle = [process for other in tunnels if other is not tunnel
            for process in other.processes if process.runs()]
    before = crossings(tunnel)
    cpu, idle_cpu = total_cpu(tunnel.processes), total_cpu(idle)
    outcome = load.run(line, seconds)
    cpu, idle_cpu = total_cpu(tunnel.processes) - cpu, total_cpu(idle) - idle_cpu
    check_crossings(before, crossings(tunnel), outcome)
    values = dict(outcome.values)
    if load.bulk:
        values[load.cpu.key] = cpu / ((outcome.forward + outcome.backward) * 8e-9)
    return values, idle_cpu / seconds


def crossings(tunnel):
    """Returns the bytes each device has carried: (device, forward, backward)."""
    near, _ = tunnel.ends
    counted = []
    for end in tunnel.ends:
        for device in (end.device, CABLE):
            received, sent = meters.device_bytes(end.namespace, device)
            counted.append((device, sent, received) if end is near else (device, received, sent))
    return counted


def check_crossings(before, after, outcome):
    """Checks that what arrived went through both ends of tunnel and veth pair."""
    for (device, *old), (_, *new) in zip(before, after):
        for way, payload, start, end in zip(("forward", "backward"),
                                            (outcome.forward, outcome.backward), old, new):
            if end - start < payload:
                raise LabError(f"{payload} bytes arrived {way}, but {device} carried {end - start}")


def total_cpu(processes):
    return sum(meters.cpu_seconds(process) for process in processes)


def turned(items, by):
    """Returns the items rotated by `by`."""
    by %= max(1, len(items))
    return items[by:] + items[:by]


def say(text):
    """Reports progress on standard error; standard output is for the tables."""
    print(text, file=sys.stderr, flush=True)
