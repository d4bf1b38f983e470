//! The table of metric families: name, type and help. Only families in the table can be registered, so
//! every exposed family has a help text.

/// The Prometheus type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MetricKind {
    /// A value that only grows.
    Counter,
    /// A value that can go up and down.
    Gauge,
    /// Counts of samples by size.
    Histogram,
}

/// One metric family.
#[derive(Debug)]
pub(super) struct MetricFamily {
    pub(super) name: &'static str,
    pub(super) kind: MetricKind,
    pub(super) help: &'static str,
}

/// All families, in the order of the data path.
#[rustfmt::skip]
pub(super) const FAMILIES: &[MetricFamily] = &[
    histogram("laneway_drain_packets", "TUN reads per wake-up"),
    counter("laneway_drain_end_total", "Drains of the TUN queue by reason they ended"),
    counter("laneway_wakeups_total", "Times a worker woke from sleeping in poll"),
    counter("laneway_tun_read_superpackets_total", "TUN reads by kind of GSO left for us to split"),
    counter("laneway_tun_read_bytes_total", "Bytes of IP packets read from the TUN"),
    counter("laneway_tun_write_bytes_total", "Bytes of IP packets written to the TUN"),
    counter("laneway_segments_total", "Segments cut from superpackets (outbound) or opened from datagrams (inbound)"),
    counter("laneway_tun_write_superpackets_total", "TUN writes by kind of GSO"),
    counter("laneway_tun_write_packets_total", "IP packets written to the TUN, counted after the kernel splits them"),
    counter("laneway_coalesced_segments_total", "Segments merged with others into a superpacket"),
    counter("laneway_coalesce_seal_total", "Chains of coalesced segments by reason they were closed"),
    counter("laneway_tun_write_errors_total", "TUN writes that failed, by errno"),
    gauge("laneway_tun_gso_enabled", "1 while the TUN queue accepts superpackets, 0 if segments are written one by one"),
    counter("laneway_udp_send_runs_total", "UDP sends, each of one or more datagrams"),
    histogram("laneway_udp_run_segments", "Datagrams per UDP send"),
    counter("laneway_udp_receive_batches_total", "UDP receive calls that returned datagrams"),
    histogram("laneway_udp_gro_segments", "Datagrams per received UDP message"),
    counter("laneway_udp_gso_disabled_total", "Times UDP GSO was disabled for a socket, by errno"),
    counter("laneway_udp_send_errors_total", "UDP sends that failed, by errno"),
    counter("laneway_udp_socket_drops_total", "Datagrams the kernel dropped at the socket, usually because its receive buffer was full"),
    counter("laneway_foreign_sockets_total", "Sockets of other processes found on the router's UDP port"),
    counter("laneway_shortcuts_total", "Lone packets that a worker sent or wrote itself because the lane's other worker slept"),
    gauge("laneway_inbox_depth", "Batches waiting in a worker's ring"),
    counter("laneway_inbox_full_total", "Times a worker found the ring it pushes batches to full"),
    counter("laneway_inbox_dropped_segments_total", "Segments dropped because the inside worker's ring was full"),
    counter("laneway_pool_exhausted_total", "Times a worker had no free batch and had to wait for one to be returned"),
    counter("laneway_jobs_total", "Batches a worker submitted for sealing or opening, by who did it"),
    counter("laneway_helper_calls_total", "Times a worker was woken to help others with their jobs"),
    counter("laneway_worker_cpu_seconds_total", "CPU time used by a thread, in user and kernel mode"),
    gauge("laneway_worker_cpu", "CPU a thread last ran on"),
    counter("laneway_worker_restarts_total", "Times a worker was restarted after a panic"),
    counter("laneway_take_overs_total", "Take-overs by or of this process, by result"),
    gauge("laneway_take_over_gap_seconds", "How long packets waited when this process took over; 0 if it did not"),
    counter("laneway_http_connections_total", "Connections to the metrics' address, by result"),
    gauge("laneway_drop_sampling", "1 while dropped packets are sampled, because somebody follows them"),
    counter("laneway_drop_samples_total", "Samples of dropped packets that were read from the workers"),
    counter("laneway_dropped_packets_total", "Packets dropped, by direction and reason"),
    counter("laneway_handshakes_total", "Handshakes by our role and result"),
    counter("laneway_handshake_messages_dropped_total", "Handshake messages dropped by the peer actor, by reason"),
    counter("laneway_rejects_total", "Packets from the TUN that were not sent, by kind of answer to their sender"),
    counter("laneway_self_forwarded_packets_total", "Packets for the device's own addresses that were written back to the TUN"),
    gauge("laneway_interface_info", "Always 1, labeled with the interface"),
    gauge("laneway_peers", "Configured peers, by whether they have series of their own"),
    counter("wireguard_sent_bytes_total", "Bytes sent to the peer, including WireGuard overhead"),
    counter("wireguard_received_bytes_total", "Bytes received from the peer, including WireGuard overhead"),
    gauge("wireguard_latest_handshake_seconds", "UNIX time of the peer's latest handshake, 0 if there was none"),
    gauge("laneway_tun_mtu_bytes", "MTU of the interface, by what sets it"),
    gauge("laneway_build_info", "Always 1, labeled with the version"),
    counter("process_cpu_seconds_total", "CPU time used by the process, in user and kernel mode"),
    gauge("process_start_time_seconds", "UNIX time at which the process started"),
    gauge("process_resident_memory_bytes", "Resident memory of the process"),
    gauge("process_virtual_memory_bytes", "Virtual memory of the process"),
    gauge("process_threads", "Threads of the process"),
    gauge("process_open_fds", "Open file descriptors of the process"),
    gauge("process_max_fds", "Limit of open file descriptors of the process"),
];

/// Returns the index in [`FAMILIES`] of the counter or gauge called `name`.
///
/// # Panics
/// If the table has no counter or gauge of that name.
pub(super) fn position(name: &str) -> usize {
    let found =
        FAMILIES.iter().position(|family| family.name == name && family.kind != MetricKind::Histogram);
    found.unwrap_or_else(|| panic!("metric family {name} is not in the table"))
}

/// Returns the family called `name`.
///
/// # Panics
/// If the table has no family of that name and type.
pub(super) fn family(name: &str, kind: MetricKind) -> &'static MetricFamily {
    let found = FAMILIES.iter().find(|family| family.name == name && family.kind == kind);
    found.unwrap_or_else(|| panic!("metric family {name} ({kind:?}) is not in the table"))
}

const fn counter(name: &'static str, help: &'static str) -> MetricFamily {
    MetricFamily { name, kind: MetricKind::Counter, help }
}

const fn gauge(name: &'static str, help: &'static str) -> MetricFamily {
    MetricFamily { name, kind: MetricKind::Gauge, help }
}

const fn histogram(name: &'static str, help: &'static str) -> MetricFamily {
    MetricFamily { name, kind: MetricKind::Histogram, help }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_only_counters_end_in_total() {
        for family in FAMILIES {
            assert_eq!(
                family.name.ends_with("_total"),
                family.kind == MetricKind::Counter,
                "{}",
                family.name
            );
        }
    }
}
