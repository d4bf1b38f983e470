"""The command line of benches/compare."""

import argparse

from .loads import LOADS

QUICK = (1, 2)


def parse(arguments):
    """Returns the options; a mistake ends the program with status 2, as argparse does."""
    parser = argparse.ArgumentParser(
        prog="benches/compare",
        description="Compares Laneway with other userspace tunnels, round by round, on this machine. "
                    "Prints Markdown; progress goes to standard error.",
        epilog=f"Loads: {', '.join(LOADS)}.")
    parser.add_argument("rivals", nargs="*", metavar="[NAME=]PROGRAM",
                        help="program to compare with, and its name in the tables; anything that is started "
                             "as PROGRAM -f INTERFACE, or nebula. Default: known programs that are installed")
    parser.add_argument("--laneway", metavar="PROGRAM", help="a built laneway; default: build it")
    parser.add_argument("--echo", metavar="PROGRAM", help="a built example `echo`; default: build it")
    parser.add_argument("--rounds", type=at_least_one, metavar="N", help="default: 5")
    parser.add_argument("--seconds", type=at_least_one, metavar="N", help="length of a load; default: 5")
    parser.add_argument("--quick", action="store_true",
                        help="one round with loads of 2 seconds: to check that it works, not to quote")
    parser.add_argument("--loads", type=loads, metavar="A,B", default=[load for load in LOADS.values() if load.usual],
                        help="only these; default: all but vxlan-…")
    parser.add_argument("--lanes", type=at_least_one, metavar="N", help="Laneway's lanes (LANEWAY_QUEUES)")
    parser.add_argument("--aead", choices=("portable", "auto"),
                        help="Laneway's ChaCha20-Poly1305 implementation (LANEWAY_AEAD)")
    parser.add_argument("--suite", choices=("chacha20poly1305", "aes256gcm"), default="chacha20poly1305",
                        help="Laneway's transport suite, and nebula's cipher")
    parser.add_argument("--per-packet-underlay", action="store_true",
                        help="each datagram crosses the veth pair separately, as on a wire (needs ethtool)")
    parser.add_argument("--json", metavar="FILE", help="write every figure of every round")
    options = parser.parse_args(arguments)
    rounds, seconds = QUICK if options.quick else (5, 5)
    options.rounds = options.rounds or rounds
    options.seconds = options.seconds or seconds
    # Only a suite that is not WireGuard's is configured explicitly.
    options.suite = "" if options.suite == "chacha20poly1305" else options.suite
    return options


def at_least_one(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


def loads(text):
    unknown = [name for name in text.split(",") if name not in LOADS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no such load: {', '.join(unknown)}")
    return [LOADS[name] for name in text.split(",")]
