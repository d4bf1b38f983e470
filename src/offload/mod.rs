//! offload (being written).
