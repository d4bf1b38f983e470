//! Formats a device as `wg show IFNAME dump` does (wg(8)): one line for the device, one for each peer, fields
//! separated by tabs, keys in the clear.

use std::fmt::Write as _;

use crate::config::update::{DeviceStatus, ScopedByName};
use crate::wireguard::keys::PrivateKey;

/// Formats a device. With `interface`, each line begins with that name, as in `wg show all dump`.
pub(super) fn dump(status: &DeviceStatus, interface: Option<&str>) -> String {
    let none = || "(none)".to_owned();
    let prefix = interface.map(|name| format!("{name}\t")).unwrap_or_default();
    let key = status.private_key.as_ref();
    let private = key.map_or_else(none, |key| key.to_base64().to_string());
    let public = key.map(PrivateKey::public_key).map_or_else(none, |key| key.to_string());
    let fwmark = if status.fwmark == 0 { "off".to_owned() } else { format!("{:#x}", status.fwmark) };
    let mut out = format!("{prefix}{private}\t{public}\t{}\t{fwmark}\n", status.listen_port);
    for peer in &status.peers {
        let psk = &peer.preshared_key;
        let psk = if psk.is_zero() { none() } else { psk.to_base64().to_string() };
        let endpoint = peer.endpoint.map_or_else(none, |endpoint| ScopedByName(endpoint).to_string());
        let nets: Vec<_> = peer.allowed_ips.iter().map(ToString::to_string).collect();
        let nets = if nets.is_empty() { none() } else { nets.join(",") };
        let handshake = peer.last_handshake.map_or(0, |at| at.as_secs());
        let keepalive = match peer.persistent_keepalive {
            0 => "off".to_owned(),
            seconds => seconds.to_string(),
        };
        let (key, received, sent) = (peer.public_key, peer.received_bytes, peer.sent_bytes);
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "{prefix}{key}\t{psk}\t{endpoint}\t{nets}\t{handshake}\t{received}\t{sent}\t{keepalive}"
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::update::PeerStatus;
    use crate::wireguard::keys::{PresharedKey, PublicKey};

    #[test]
    fn fields_are_those_of_wg() {
        assert_eq!(dump(&DeviceStatus::default(), None), "(none)\t(none)\t0\toff\n");
        let key = PrivateKey::from_bytes([9; 32]);
        let bare = PeerStatus::new(PublicKey::from_bytes([1; 32]));
        let full = PeerStatus {
            preshared_key: PresharedKey::from_bytes([1; 32]),
            endpoint: Some("[fe80::1%1]:7".parse().unwrap()),
            last_handshake: Some(std::time::Duration::new(8, 9)),
            sent_bytes: 3,
            received_bytes: 2,
            persistent_keepalive: 25,
            allowed_ips: vec!["10.0.0.0/24".parse().unwrap(), "fd00::2/128".parse().unwrap()],
            ..bare.clone()
        };
        let status = DeviceStatus {
            private_key: Some(key.clone()),
            listen_port: 51820,
            fwmark: 0xca6c,
            peers: vec![bare.clone(), full],
        };
        let (private, public, peer) = (key.to_base64(), key.public_key(), bare.public_key);
        let psk = PresharedKey::from_bytes([1; 32]).to_base64();
        let expected = format!(
            "w\t{}\t{public}\t51820\t0xca6c\nw\t{peer}\t(none)\t(none)\t(none)\t0\t0\t0\toff\n\
             w\t{peer}\t{}\t[fe80::1%lo]:7\t10.0.0.0/24,fd00::2/128\t8\t2\t3\t25\n",
            *private, *psk,
        );
        assert_eq!(dump(&status, Some("w")), expected);
    }
}
