//! A model of ownership: whose packet is whose.
//!
//! A router (the peer actor, an inside worker's sealer and an outside worker's opener, all without threads, TUN and
//! UDP) and a few remote peers live through random steps on a simulated clock: peers are added, removed, replaced
//! and reloaded, prefixes move, packets wait for handshakes, which are lost or come late, peers roam and restart,
//! sessions expire, workers go on with a snapshot that is no longer current. Every packet carries a number, by which
//! a plain list of the configurations knows its owner:
//!
//! - what a remote peer can decrypt was for one of its allowed IPs when it was sealed, and has not waited for a peer
//!   that was removed meanwhile,
//! - what the router accepts from a remote peer had one of that peer's allowed IPs as its source when it was opened.
//!
//! A worker's turn seals by the snapshot it began with, and opens by that or a later one.
//! The network is hostile: it loses, repeats, delays and reorders datagrams and delivers them to the wrong peer.

mod config;
mod remote;
mod router;
#[cfg(test)]
mod shrink;
mod steps;
mod world;

use steps::ModelStep;
use world::{Coverage, World};

/// Runs the steps in a new world.
///
/// # Errors
/// If a packet reached, or was accepted from, a peer that does not own it. The error names both.
fn run(steps: &[ModelStep]) -> Result<Coverage, String> {
    let mut world = World::new();
    for step in steps {
        world.take(*step)?;
    }
    Ok(world.coverage())
}

/// Runs the steps that `bytes` encode.
///
/// # Panics
/// If a packet reached, or was accepted from, a peer that does not own it.
pub fn ownership(bytes: &[u8]) {
    let steps = ModelStep::decode(bytes);
    if let Err(violation) = run(&steps) {
        panic!("{violation}, after {steps:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::shrink::shrink;
    use super::*;
    use crate::fuzzing::runner::{Dice, number};

    /// Steps of a run.
    const STEPS: usize = 160;

    fn steps(seed: u64) -> Vec<ModelStep> {
        let mut dice = Dice(seed);
        let bytes: Vec<u8> = (0..STEPS * ModelStep::BYTES).map(|_| (dice.roll() >> 56) as u8).collect();
        ModelStep::decode(&bytes)
    }

    /// `LANEWAY_MODEL_SEED` repeats one run, `LANEWAY_MODEL_RUNS` sets the number of runs.
    #[test]
    fn no_packet_comes_to_another_than_its_owner() {
        let (first, runs) = match number("LANEWAY_MODEL_SEED") {
            Some(seed) => (seed, 1),
            None => (0, number("LANEWAY_MODEL_RUNS").unwrap_or(150)),
        };
        let mut total = Coverage::default();
        for seed in first..first + runs {
            let steps = steps(seed);
            if let Ok(coverage) = run(&steps) {
                total.add(&coverage);
            } else {
                let (fewest, violation) = shrink(&steps, |steps| run(steps).err()).unwrap();
                panic!("seed {seed}: {violation}, after {fewest:#?}");
            }
        }
        eprintln!("{runs} runs: {total:?}");
        assert!(runs < 100 || total.is_complete(), "something never happened: {total:?}");
    }
}
