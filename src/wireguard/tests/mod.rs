//! The protocol as a whole: two of them against each other, and one against another implementation.

mod boringtun;
mod handshake;
mod hostile;
mod rekey;
mod suites;
mod world;
