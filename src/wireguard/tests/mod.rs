//! Tests of the whole protocol: two instances against each other, and one against boringtun.

mod boringtun;
mod carry;
mod handshake;
mod hostile;
mod rekey;
pub(crate) mod sessions;
mod suites;
mod world;
