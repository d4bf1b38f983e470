//! Allowed IPs (being written).
