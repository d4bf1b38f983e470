//! lane (being written).
