//! CPUs: which there are, and which thread runs where.

pub mod cpu_list;
pub mod pinning;
pub mod topology;
