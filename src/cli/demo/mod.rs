//! `laneway demo`: two routers, joined back to back on this machine, carry TCP, and a table says how well.
//!
//! Nothing needs to be configured or installed. The path of a byte: [`traffic`] sends it into the left
//! namespace's TUN device, the sending router seals it, it crosses the cable of the [`lab`], the receiving router
//! opens it, and [`traffic`] checks it. Then [`report`] reads both routers' metrics and [`table`] prints them.
//!
//! Both routers, both namespaces and the generator live in this one process, and nothing of it has a name outside,
//! so nothing is left when the process ends, however it ends.

pub mod interrupt;
pub mod lab;
pub mod pattern;
pub mod progress;
pub mod report;
pub mod table;
pub mod traffic;
