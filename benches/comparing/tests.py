"""Tests that need no tunnel: the arithmetic of the tables and the command line."""

import contextlib
import io
import os
import unittest
from unittest import mock

from . import iperf, options, programs, rounds, tables
from .lab import LabError
from .loads import LOADS, MEMORY, Figure, Outcome, figures, percentile

SPEED = Figure("speed", "Speed", "Gbit/s")
DELAY = Figure("delay", "Delay", "µs", True)
ROUNDS = [
    {"ours": {"speed": 4.0, "delay": 100.0}, "theirs": {"speed": 2.0, "delay": 50.0}},
    {"ours": {"speed": 9.0, "delay": 120.0}, "theirs": {"speed": 3.0}},
    {"ours": {"speed": 1.0}, "theirs": {"speed": 4.0, "delay": 60.0}},
]


class Tables(unittest.TestCase):
    def test_a_ratio_is_taken_within_a_round(self):
        self.assertEqual(tables.ratios(ROUNDS, "ours", "theirs", "speed"), [2.0, 3.0, 0.25])

    def test_a_round_without_one_of_the_two_has_no_ratio(self):
        self.assertEqual(tables.ratios(ROUNDS, "ours", "theirs", "delay"), [2.0])
        self.assertEqual(tables.ratios(ROUNDS, "ours", "absent", "delay"), [])

    def test_the_median_of_ratios_is_not_the_ratio_of_medians(self):
        table = tables.ratios_table(ROUNDS, "ours", ["theirs"], [SPEED])
        self.assertIn("**2.00** (0.25 to 3.00)", table)
        medians = tables.medians_table(ROUNDS, ["ours", "theirs"], [SPEED])
        self.assertIn("4.00 |   3.00 |", medians)

    def test_a_figure_that_nobody_has_is_told_as_none(self):
        self.assertIn("none", tables.medians_table([], ["ours"], [DELAY]))
        self.assertIn("none", tables.ratios_table([], "ours", ["theirs"], [DELAY]))

    def test_less_is_better_where_the_arrow_says_so(self):
        self.assertIn("| Delay ↓ |", tables.medians_table(ROUNDS, ["ours"], [DELAY]))

    def test_numbers_keep_three_digits_that_mean_something(self):
        for value, text in ((0.1234, "0.123"), (4.567, "4.57"), (45.67, "45.7"), (45678.9, "45,679")):
            self.assertEqual(tables.number([value]), text)

    def test_columns_line_up(self):
        lines = tables.markdown(["A", "Long"], [["first", "1"], ["b", "22222"]]).split("\n")
        self.assertEqual(len({len(line) for line in lines}), 1)


class Loads(unittest.TestCase):
    def test_a_percentile_is_the_nearest_rank(self):
        times = [float(time) for time in range(1, 101)]
        self.assertEqual((percentile(times, 50, 100), percentile(times, 99, 100)), (50.0, 99.0))
        self.assertEqual(percentile([7.0], 99, 1), 7.0)

    def test_a_lost_ping_is_longer_than_any(self):
        self.assertEqual(percentile([1.0, 2.0, 3.0], 50, 4), 2.0)
        with self.assertRaises(LabError):
            percentile([1.0, 2.0, 3.0], 99, 4)

    def test_no_two_figures_have_the_same_key(self):
        keys = [figure.key for figure in figures(LOADS.values())]
        self.assertEqual(len(keys), len(set(keys)))
        self.assertEqual(keys[-1], MEMORY.key)

    def test_a_report_with_an_error_is_none(self):
        for text in ("", "{}x", '{"error": "refused"}', '{"end": {"sum_received": {"bytes": 0}}}',
                     '{"end": {"sum_received": {"bytes": 1}, "sender_tcp_congestion": "bbr"}}'):
            with self.assertRaises(LabError):
                iperf.report(text)


class Rounds(unittest.TestCase):
    def test_what_did_not_cross_every_device_does_not_count(self):
        before = [("tunnel", 10, 0), ("cable", 10, 0)]
        rounds.check_crossings(before, [("tunnel", 110, 0), ("cable", 120, 5)], Outcome({}, 100))
        for after in ([("tunnel", 109, 0), ("cable", 120, 5)], [("tunnel", 110, 0), ("cable", 10, 100)]):
            with self.assertRaises(LabError):
                rounds.check_crossings(before, after, Outcome({}, 100))

    def test_another_one_begins_each_time(self):
        self.assertEqual([rounds.turned([1, 2, 3], by) for by in (0, 1, 5)],
                         [[1, 2, 3], [2, 3, 1], [3, 1, 2]])
        self.assertEqual(rounds.turned([], 3), [])


class CommandLine(unittest.TestCase):
    def refused(self, *arguments):
        with self.assertRaises(SystemExit) as ended, contextlib.redirect_stderr(io.StringIO()):
            options.parse(arguments)
        return ended.exception.code == 2

    def test_quick_is_one_short_round_unless_told_otherwise(self):
        quick = options.parse(["--quick", "--seconds", "7"])
        self.assertEqual((quick.rounds, quick.seconds), (1, 7))
        self.assertEqual(options.parse([]).rounds, 5)

    def test_loads_keep_the_order_they_are_named_in(self):
        chosen = options.parse(["--loads", "rtt,tcp-1"]).loads
        self.assertEqual([load.name for load in chosen], ["rtt", "tcp-1"])

    def test_mistakes_are_refused(self):
        self.assertTrue(self.refused("--loads", "tcp-2"))
        self.assertTrue(self.refused("--rounds", "0"))
        self.assertTrue(self.refused("--lanes", "many"))
        self.assertTrue(self.refused("--aead", "fastest"))

    def test_a_rival_may_be_given_a_name(self):
        self.assertEqual(programs.rival("old=sh", "").name, "old")
        self.assertEqual(programs.rival("sh", "").name, "sh")
        with self.assertRaises(LabError):
            programs.rival("no-such-program", "")

    def test_no_two_programs_have_one_name(self):
        with self.assertRaises(LabError):
            programs.check_names([programs.rival("sh", ""), programs.rival("sh", "")])

    def test_what_is_asked_for_or_in_the_environment_is_told(self):
        with mock.patch.dict(os.environ, {"PATH": os.environ["PATH"], "LANEWAY_QUEUES": "1"}, clear=True):
            self.assertEqual(programs.laneway("sh").settings(), ["LANEWAY_QUEUES=1"])
            self.assertEqual(programs.laneway("sh", 2, "auto", "aes256gcm").settings(),
                             ["LANEWAY_QUEUES=2", "LANEWAY_AEAD=auto", "suite=aes256gcm"])


if __name__ == "__main__":
    unittest.main()
