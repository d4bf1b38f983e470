//! Runs the fuzz targets without a fuzzer: each on its corpus, and on a bounded number of mutations of it. A
//! failure prints its seed; `LANEWAY_FUZZ_SEED` repeats a run and `LANEWAY_FUZZ_RUNS` extends it.

#[path = "../fuzz/src/lib.rs"]
mod parsers;
#[path = "../fuzz/src/runner.rs"]
mod runner;

use parsers::TARGETS;
use runner::corpus;

/// The number of mutations of each target's corpus.
const RUNS: u64 = 3_000;

/// The number for targets whose runs compute a key agreement, which takes milliseconds.
const KEY_RUNS: u64 = 1_000;

#[test]
fn every_target_has_a_corpus_and_takes_it() {
    for (name, target) in TARGETS {
        for seed in corpus(name) {
            target(&seed);
        }
    }
}

#[test]
fn views_of_packets_hold_for_any_bytes() {
    mutate("views", RUNS);
}

#[test]
fn superpackets_are_refused_or_cut_into_whole_packets() {
    mutate("superpacket", RUNS);
}

#[test]
fn what_is_coalesced_and_cut_again_is_what_it_was() {
    mutate("coalesce", RUNS);
}

#[test]
fn a_dropped_packet_is_answered_at_most_once() {
    mutate("rejects", RUNS);
}

#[test]
fn strange_handshake_messages_neither_succeed_nor_stand_in_the_way() {
    mutate("handshake", KEY_RUNS);
}

#[test]
fn strange_cookies_are_not_kept_and_do_not_stand_in_the_way() {
    mutate("cookie_reply", KEY_RUNS);
}

#[test]
fn only_what_was_sealed_is_opened() {
    mutate("open_run", RUNS);
}

#[test]
fn any_lines_may_come_at_the_control_socket() {
    mutate("uapi", RUNS);
}

#[test]
fn any_text_may_be_in_the_configuration_file() {
    mutate("config_file", RUNS);
}

#[test]
fn any_bytes_may_be_in_the_environment() {
    mutate("environment", RUNS);
}

#[test]
fn any_bytes_may_be_the_answer_to_a_question_for_the_status() {
    mutate("status", RUNS);
}

#[test]
fn any_text_may_stand_in_the_place_of_metrics() {
    mutate("exposition", RUNS);
}

fn mutate(name: &str, runs: u64) {
    let (_, target) = TARGETS.into_iter().find(|(other, _)| *other == name).expect("a target");
    runner::mutate(name, target, runs);
}
