//! The demo without routers: the inside addresses are assigned to the cable itself, so everything but the tunnel
//! is real.

use crate::cli::demo::*;
use clap::Parser;

#[derive(Parser)]
struct Invocation {
    #[command(flatten)]
    demo: DemoArgs,
}

/// A fake router with one queue and fixed metrics.
struct Bare;

impl LabRouter for Bare {
    fn metrics_text(&self) -> String {
        "laneway_drain_packets_sum{queue=\"0\"} 30\nlaneway_drain_packets_count{queue=\"0\"} 4\n".to_owned()
    }
}

#[test]
fn the_json_result_is_one_object_on_one_line() {
    let Some(lab) = cable() else { return };
    let args = arguments(&["--seconds", "1", "--streams", "3", "--json"]);
    let mut out = Vec::new();
    let ending = measure(&args, &Interrupt::default(), &lab, &[Bare, Bare], &mut out).unwrap();
    assert_eq!(ending, DemoEnd::Done);

    let text = String::from_utf8(out).unwrap();
    assert_eq!(text.lines().count(), 1);
    let result: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(result["bytes_verified"].as_u64().unwrap() > 0);
    assert!(result["gbit_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(result["streams"], 3);
    assert_eq!(result["routers"][1]["name"], "right");
    assert_eq!(result["routers"][1]["queues"][0]["packets_per_drain"], 7.5);
}

#[test]
fn a_person_gets_the_table() {
    let Some(lab) = cable() else { return };
    let args = arguments(&["--seconds", "1", "--streams", "1"]);
    let mut out = Vec::new();
    measure(&args, &Interrupt::default(), &lab, &[Bare, Bare], &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    assert!(text.contains("over 1 TCP stream in") && text.contains("\nright"), "{text}");
}

#[test]
fn ctrl_c_ends_it_early_and_still_says_what_crossed() {
    let Some(lab) = cable() else { return };
    let interrupt = Interrupt::default();
    interrupt.raise();
    let mut out = Vec::new();
    let args = arguments(&["--seconds", "3600", "--json"]);
    let ending = measure(&args, &interrupt, &lab, &[Bare, Bare], &mut out).unwrap();
    assert_eq!(ending, DemoEnd::Interrupted);
    assert_eq!(String::from_utf8(out).unwrap().lines().count(), 1);
}

#[test]
fn a_wrong_number_is_refused_before_anything_is_made() {
    for wrong in [["--streams", "0"], ["--seconds", "0"], ["--queues", "65"], ["--metrics-addr", "here"]] {
        assert!(Invocation::try_parse_from(["demo"].iter().chain(&wrong)).is_err(), "{wrong:?}");
    }
}

#[test]
fn there_is_at_least_one_stream_per_queue() {
    assert_eq!(arguments(&["--queues", "8"]).streams(), 8);
    assert_eq!(arguments(&["--queues", "1"]).streams(), 4);
    assert_eq!(arguments(&["--queues", "8", "--streams", "2"]).streams(), 2);
    assert!(arguments(&[]).queues() >= 1);
}

/// Returns a lab whose cable has the inside addresses, or `None` if `LANEWAY_SKIP_NETNS` is set.
fn cable() -> Option<Lab> {
    if std::env::var_os("LANEWAY_SKIP_NETNS").is_some_and(|skip| skip == "1") {
        return None;
    }
    let lab = Lab::create().expect("run as root, or set LANEWAY_SKIP_NETNS=1");
    lab.left.address(lab::CABLE, INSIDE4[0].into(), 24).unwrap();
    lab.right.address(lab::CABLE, INSIDE4[1].into(), 24).unwrap();
    Some(lab)
}

fn arguments(words: &[&str]) -> DemoArgs {
    Invocation::try_parse_from(["demo"].iter().chain(words)).unwrap().demo
}
