//! Least privilege: what a router process can do no more, should somebody take it over.
//!
//! Two steps, for processes that are a router and nothing else. Before there are threads,
//! [`capabilities`] are given up, since each thread has its own. Once the router runs, [`syscalls`] that it
//! never makes are taken from all threads. A router that is part of another program leaves both alone.
//!
//! A system that refuses either is no reason not to run: the log says what is missing.

pub mod capabilities;
pub mod syscalls;
