//! wireguard (being written).
