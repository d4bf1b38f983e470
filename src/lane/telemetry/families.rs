//! The metric families: name, type and help of each, in one table. A family that is not here cannot
//! be registered, so none is shown without its help.

/// What a family's numbers mean to Prometheus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

/// One family.
#[derive(Debug)]
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) help: &'static str,
}

/// Every family, in the order of the data path.
#[rustfmt::skip]
pub(super) const FAMILIES: &[Family] = &[
    histogram("laneway_drain_packets", "TUN reads per wake-up"),
    counter("laneway_drain_end_total", "Drains of the TUN queue by what ended them"),
    counter("laneway_wakeups_total", "Times a worker came back from sleeping in poll"),
    counter("laneway_tun_read_superpackets_total", "TUN reads by the kind of GSO the kernel left to us"),
    counter("laneway_tun_read_bytes_total", "Bytes of IP packets read from the TUN"),
    counter("laneway_tun_write_bytes_total", "Bytes of IP packets written to the TUN"),
    counter("laneway_segments_total", "Segments: cut from superpackets (outbound) or opened from datagrams (inbound)"),
    counter("laneway_tun_write_superpackets_total", "TUN writes by the kind of GSO they carried"),
    counter("laneway_tun_write_packets_total", "IP packets written to the TUN, counted as the kernel will split them"),
    counter("laneway_coalesced_segments_total", "Segments that were merged into a superpacket with others"),
    counter("laneway_coalesce_seal_total", "Chains of coalesced segments by what closed them"),
    counter("laneway_tun_write_errors_total", "TUN writes the kernel refused"),
    gauge("laneway_tun_gso_enabled", "1 while the TUN queue takes superpackets, 0 when segments are written one by one"),
    counter("laneway_udp_send_runs_total", "UDP sends, each of one or more datagrams"),
    histogram("laneway_udp_run_segments", "Datagrams per UDP send"),
    counter("laneway_udp_receive_batches_total", "UDP receive calls that returned something"),
    histogram("laneway_udp_gro_segments", "Datagrams per received UDP message"),
    counter("laneway_udp_gso_disabled_total", "Times UDP GSO was switched off for a socket"),
    counter("laneway_udp_send_errors_total", "UDP sends the kernel refused"),
    counter("laneway_udp_socket_drops_total", "Datagrams the kernel dropped at the socket, mostly because its receive buffer was full"),
    counter("laneway_shortcuts_total", "Lone packets that a worker wrote out itself because the lane's other worker slept"),
    gauge("laneway_inbox_depth", "Batches that wait in a worker's inbox"),
    counter("laneway_inbox_full_total", "Times a worker found the inbox it hands batches to full"),
    counter("laneway_inbox_dropped_segments_total", "Segments dropped because the inbox they were meant for was full"),
    counter("laneway_pool_exhausted_total", "Times a worker had no free slab and had to wait for one to come back"),
    counter("laneway_worker_cpu_seconds_total", "CPU time a thread has used, in user and kernel mode"),
    gauge("laneway_worker_cpu", "The CPU a thread last ran on"),
    counter("laneway_worker_restarts_total", "Times a worker was restarted after a panic"),
    counter("laneway_dropped_packets_total", "Packets that went no further, by direction and reason"),
    counter("laneway_handshakes_total", "Handshakes by our role in them and how they ended"),
    counter("laneway_handshake_messages_dropped_total", "Handshake messages that were not acted on"),
    counter("laneway_rejects_total", "Packets from the TUN that were not sent, by how their sender was told"),
    counter("laneway_self_forwarded_packets_total", "Packets for the device's own address that were written back"),
    gauge("laneway_peers", "Configured peers: those with series of their own, and those left out of them"),
    counter("wireguard_sent_bytes_total", "Bytes sent to the peer, WireGuard's own included"),
    counter("wireguard_received_bytes_total", "Bytes received from the peer, WireGuard's own included"),
    gauge("wireguard_latest_handshake_seconds", "UNIX time of the peer's last handshake, 0 if there was none"),
    gauge("laneway_build_info", "Always 1; the version is the label"),
    counter("process_cpu_seconds_total", "CPU time the process has used, in user and kernel mode"),
    gauge("process_start_time_seconds", "UNIX time of the process's start"),
    gauge("process_resident_memory_bytes", "Memory of the process that is in RAM"),
    gauge("process_virtual_memory_bytes", "Memory the process has mapped"),
    gauge("process_threads", "Threads of the process"),
    gauge("process_open_fds", "File descriptors the process has open"),
    gauge("process_max_fds", "File descriptors the process may have open"),
];

/// Where in [`FAMILIES`] the counter or gauge called `name` is.
///
/// # Panics
/// If there is none of that name: a family must be in the table first.
pub(super) fn position(name: &str) -> usize {
    let found = FAMILIES.iter().position(|family| family.name == name && family.kind != Kind::Histogram);
    found.unwrap_or_else(|| panic!("metric family {name} is not in the table"))
}

/// The family called `name`.
///
/// # Panics
/// If there is none of that name and type: a family must be in the table first.
pub(super) fn family(name: &str, kind: Kind) -> &'static Family {
    let found = FAMILIES.iter().find(|family| family.name == name && family.kind == kind);
    found.unwrap_or_else(|| panic!("metric family {name} ({kind:?}) is not in the table"))
}

const fn counter(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Counter, help }
}

const fn gauge(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Gauge, help }
}

const fn histogram(name: &'static str, help: &'static str) -> Family {
    Family { name, kind: Kind::Histogram, help }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_only_counters_end_in_total() {
        for family in FAMILIES {
            assert_eq!(family.name.ends_with("_total"), family.kind == Kind::Counter, "{}", family.name);
        }
    }
}
