//! Fuzz targets that need more than the public interface. The fuzzer's build (`cfg(fuzzing)`) has them as functions of
//! this crate; unit tests run them over their corpora and mutations. The others are in `fuzz/src`.

mod answers;
mod control;
mod http;
mod ownership;
mod received;

pub use answers::{dns, netlink};
pub use control::control;
pub use http::http;
pub use ownership::ownership;
pub use received::received;

/// Takes numbers from the front of the input; zeros once it is exhausted.
struct Taker<'a>(&'a [u8]);

impl<'a> Taker<'a> {
    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        taken
    }
}

#[cfg(test)]
#[path = "../../fuzz/src/runner.rs"]
mod runner;

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a target over its corpus, and over this many mutations.
    fn test(name: &str, target: fn(&[u8]), runs: u64) {
        for seed in runner::corpus(name) {
            target(&seed);
        }
        runner::mutate(name, target, runs);
    }

    #[test]
    fn received_messages_may_mix_anything() {
        test("received", received, 1_000);
    }

    #[test]
    fn control_messages_may_be_any_bytes() {
        test("control", control, 3_000);
    }

    #[test]
    fn any_bytes_may_be_an_http_request() {
        test("http", http, 1_000);
    }

    #[test]
    fn any_bytes_may_be_an_answer_of_netlink() {
        test("netlink", netlink, 3_000);
    }

    #[test]
    fn any_bytes_may_be_an_answer_of_a_name_server() {
        test("dns", dns, 3_000);
    }

    #[test]
    fn any_steps_keep_packets_with_their_owners() {
        test("ownership", ownership, 20);
    }
}
