"""The report: where and how it was measured, the tables, and all figures as JSON."""

import json
import os
import platform
import re
import time
from pathlib import Path

from . import loads as all_loads
from .iperf import CONGESTION_CONTROL
from .lab import LabError, run
from .programs import ROOT
from .tables import medians_table, ratios_table


def markdown(results, programs, options):
    """Returns a section for benches/results.md."""
    names = [program.name for program in programs]
    subject, *others = names
    figures = all_loads.figures(options.loads)
    parts = [
        heading(),
        "\n".join(how(results, options)),
        "\n".join(f"- **{program.name}**: {program.version()}" for program in programs),
        "Medians of the rounds (↓: less is better):",
        medians_table(results.rounds, names, figures),
        "Medians of the ratios within a round, with the smallest and the largest:",
        ratios_table(results.rounds, subject, others, figures),
    ]
    if results.notes:
        parts.append("\n".join(["Odd:", "", *(f"- {note}" for note in results.notes)]))
    return "\n\n".join(parts)


def heading():
    return f"## {time.strftime('%Y-%m-%d')}, {machine()}"


def how(results, options):
    """Yields how it was measured, one sentence per line."""
    rounds = "1 round" if len(results.rounds) == 1 else f"{len(results.rounds)} rounds"
    yield f"{rounds}, {versions(options.seconds)}"
    yield ("Each datagram crosses the veth pair separately." if options.per_packet_underlay else
           "A UDP GSO batch crosses the veth pair as one buffer.")
    yield f"Other work kept {results.other_work:.2f} of {os.cpu_count()} cores busy."


def versions(seconds):
    """Returns length of a load, kernel, iperf3 and commit."""
    iperf = " ".join(run(["iperf3", "--version"]).split()[:2])
    return (f"{seconds} s per load; Linux {platform.release()}, {iperf}, TCP with {CONGESTION_CONTROL}; "
            f"Laneway at {commit()}.")


def write_json(path, results, programs, options):
    """Writes all figures, for other evaluations."""
    everything = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "machine": machine(),
        "kernel": platform.release(),
        "commit": commit(),
        "rounds_of_seconds": options.seconds,
        "per_packet_underlay": options.per_packet_underlay,
        "programs": {program.name: program.version() for program in programs},
        "units": {figure.key: figure.unit for figure in all_loads.figures(options.loads)},
        "rounds": results.rounds,
        "other_work_cores": results.other_work,
        "notes": results.notes,
    }
    Path(path).write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n")


def machine():
    """Returns the CPU model and the number of cores."""
    models = re.findall(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    return f"{models[0] if models else platform.machine()}, {os.cpu_count()} cores"


def commit():
    try:
        return run(["git", "-C", ROOT, "describe", "--always", "--dirty", "--abbrev=10"]).strip()
    except (LabError, OSError):
        return "an unknown commit"
