//! What stands in for the commands that `wg-quick` would run.

/// Returns what to use instead of `command`, for a log line.
pub(super) fn replacement(command: &str) -> &'static str {
    let has = |words: &[&str]| words.iter().any(|word| command.to_ascii_lowercase().contains(word));
    if has(&["masquerade", " -j snat", "snat to"]) {
        "LANEWAY_MASQUERADE=auto, or an interface's name, does this"
    } else if has(&["ip_forward", ".forwarding", "/forwarding"]) {
        "set the sysctl for the host, container or pod; `laneway doctor` names the place"
    } else if has(&["resolvconf", "resolvectl", "resolv.conf", "systemd-resolve"]) {
        "name resolution is left to the container or host"
    } else if has(&["ip route", "ip -4 route", "ip -6 route", "ip rule", "ip -4 rule", "ip -6 rule"]) {
        "routes follow AllowedIPs and Table; add others outside"
    } else if has(&["mss"]) {
        "clamp the MSS outside, or lower MTU"
    } else if has(&["forward"]) {
        "allow forwarding in the host's firewall if its policy drops"
    } else if has(&["wg set", "private-key"]) {
        "LANEWAY_PRIVATE_KEY_FILE names a key file"
    } else {
        "run it outside"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_commands_have_a_replacement() {
        for (command, part) in [
            (
                "iptables -A FORWARD -i %i -j ACCEPT; iptables -t nat -A POSTROUTING -o eth0 -j MASQUERADE",
                "LANEWAY_MASQ",
            ),
            ("nft add rule ip nat postrouting oifname eth0 masquerade", "LANEWAY_MASQ"),
            ("sysctl -w net.ipv4.ip_forward=1", "sysctl"),
            ("iptables -A FORWARD -i wg0 -j ACCEPT", "firewall"),
            ("resolvectl dns %i 10.0.0.1", "name resolution"),
            ("ip route add 10.0.0.0/8 dev %i", "AllowedIPs and Table"),
            (
                "iptables -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu",
                "MSS",
            ),
            ("wg set %i private-key /etc/wireguard/key", "LANEWAY_PRIVATE_KEY_FILE"),
            ("curl https://example.net", "run it outside"),
        ] {
            assert!(replacement(command).contains(part), "{command}");
        }
    }
}
