//! underlay (being written).
