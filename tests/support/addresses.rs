//! Addresses, ports and MTUs of the labs, one line each. `benches/comparing/addresses.py` reads this file, so a value
//! is a number, a string, or an array of these.

/// The IPv4 addresses of the left and right end of the cable (RFC 5737), as the demo's lab has them.
pub const UNDERLAY: [&str; 2] = ["192.0.2.1", "192.0.2.2"];

/// The MTU of the cable in bytes.
pub const UNDERLAY_MTU: u32 = 1500;

/// The first two bytes of every IPv4 address inside a tunnel.
pub const INSIDE: [u8; 2] = [10, 77];

/// The first two bytes of every IPv6 address inside a tunnel (RFC 4193).
pub const INSIDE6: u16 = 0xfd77;

/// The UDP port of every peer in the lab, and the first of the ports of several.
pub const PORT: u16 = 51820;

/// The MTU of a tunnel device in bytes.
pub const TUNNEL_MTU: u16 = 1420;
