//! Least privilege: limits what an attacker who takes over a router process can do.
//!
//! A process that is only a router restricts itself in steps. Before it starts threads, it drops
//! [`capabilities`] and limits which [`files`] it may change, both of which are per thread. Once the router runs, it blocks [`syscalls`] that a router never
//! makes, for all threads. A router embedded in another program does neither.
//!
//! If the system refuses a step, the router logs that and runs without it.

pub mod capabilities;
pub mod files;
pub mod memory;
pub mod syscalls;
