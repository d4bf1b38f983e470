//! cli (being written).

pub mod demo;
pub mod exposition;
