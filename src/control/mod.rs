//! control (being written).

pub mod config;
