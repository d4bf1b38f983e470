//! Formats a device as JSON, with the names of `wg-json` from wireguard-tools, plus the queues.

use serde_json::{Map, Value, json};

use super::text::{Secrets, ShownInterface};
use crate::config::update::ScopedByName;

/// Formats one device. Secrets that are hidden are left out, and so is what is not set.
pub(super) fn device(device: &ShownInterface<'_>) -> Value {
    let status = device.status;
    let secret = |text: &str| (device.secrets == Secrets::Shown).then(|| json!(text));
    let peers = status.peers.iter().map(|peer| {
        let psk = Some(&peer.preshared_key).filter(|key| !key.is_zero());
        let fields = [
            ("presharedKey", psk.and_then(|key| secret(&key.to_base64()))),
            ("endpoint", peer.endpoint.map(|endpoint| json!(ScopedByName(endpoint).to_string()))),
            ("latestHandshake", peer.last_handshake.map(|at| json!(at.as_secs()))),
            ("transferRx", Some(json!(peer.received_bytes))),
            ("transferTx", Some(json!(peer.sent_bytes))),
            (
                "persistentKeepalive",
                (peer.persistent_keepalive > 0).then(|| json!(peer.persistent_keepalive)),
            ),
            ("allowedIps", Some(peer.allowed_ips.iter().map(|net| json!(net.to_string())).collect())),
        ];
        (peer.public_key.to_string(), object(fields))
    });
    let key = status.private_key.as_ref();
    object([
        ("privateKey", key.and_then(|key| secret(&key.to_base64()))),
        ("publicKey", key.map(|key| json!(key.public_key().to_string()))),
        ("listenPort", (status.listen_port > 0).then(|| json!(status.listen_port))),
        ("fwmark", (status.fwmark > 0).then(|| json!(status.fwmark))),
        ("mtu", device.mtu().map(|(mtu, _)| json!(mtu))),
        ("mtuFrom", device.mtu().map(|(_, source)| json!(source))),
        ("queues", Some(device.queues().iter().map(|queue| self::queue(device, queue)).collect())),
        ("peers", Some(Value::Object(peers.collect()))),
    ])
}

fn queue(device: &ShownInterface<'_>, queue: &str) -> Value {
    let counts = device.counts(queue);
    json!({
        "queue": queue.parse::<u32>().ok(),
        "segmentsSent": counts.sent,
        "tunReads": counts.reads,
        "segmentsReceived": counts.received,
        "tunWrites": counts.writes,
        "dropped": counts.dropped,
    })
}

fn object<const N: usize>(fields: [(&str, Option<Value>); N]) -> Value {
    let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(given.collect::<Map<_, _>>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::update::{DeviceStatus, PeerStatus};
    use crate::metrics::exposition::Exposition;
    use crate::wireguard::keys::{PresharedKey, PrivateKey, PublicKey};

    #[test]
    fn names_are_those_of_wg_json_and_secrets_are_left_out() {
        let peer = PeerStatus {
            preshared_key: PresharedKey::from_bytes([1; 32]),
            sent_bytes: 3,
            allowed_ips: vec!["10.0.0.0/24".parse().unwrap()],
            ..PeerStatus::new(PublicKey::from_bytes([1; 32]))
        };
        let key = PrivateKey::from_bytes([9; 32]);
        let (own, public) = (key.public_key().to_string(), peer.public_key.to_string());
        let status =
            DeviceStatus { private_key: Some(key), listen_port: 7, fwmark: 0, peers: vec![peer.clone()] };
        let text = "laneway_segments_total{queue=\"2\",direction=\"outbound\"} 5\n";
        let metrics = Exposition::parse(text).unwrap();
        let now = std::time::Duration::ZERO;
        let shown = ShownInterface {
            interface: "w",
            status: &status,
            metrics: &metrics,
            now,
            secrets: Secrets::Hidden,
        };
        let expected = json!({
            "publicKey": own,
            "listenPort": 7,
            "queues": [{
                "queue": 2, "segmentsSent": 5, "tunReads": 0, "segmentsReceived": 0, "tunWrites": 0, "dropped": 0
            }],
            "peers": { public.clone(): { "transferRx": 0, "transferTx": 3, "allowedIps": ["10.0.0.0/24"] } },
        });
        assert_eq!(device(&shown), expected);
        let open = device(&ShownInterface { secrets: Secrets::Shown, ..shown });
        assert_eq!(open["peers"][&public]["presharedKey"], json!(*peer.preshared_key.to_base64()));
    }
}
