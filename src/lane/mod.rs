//! lane (being written).

pub mod telemetry;
