//! Remedies, each for the five environments a router runs in.

use super::check::Remedy;

pub(super) const NET_ADMIN: Remedy = Remedy {
    docker: "--cap-add NET_ADMIN",
    compose: "cap_add: [NET_ADMIN]",
    kubernetes: "securityContext: {capabilities: {add: [NET_ADMIN]}}",
    systemd: "AmbientCapabilities=CAP_NET_ADMIN and CapabilityBoundingSet=CAP_NET_ADMIN",
    host: "run as root, or: setcap cap_net_admin+ep laneway",
};

pub(super) const TUN_DEVICE: Remedy = Remedy {
    docker: "--device /dev/net/tun",
    compose: "devices: [/dev/net/tun]",
    kubernetes: "a hostPath volume of type CharDevice for /dev/net/tun, mounted at /dev/net/tun",
    systemd: "DeviceAllow=/dev/net/tun rw, and no PrivateDevices=yes",
    host: "modprobe tun",
};

/// Docker makes a folder of a bind mount's missing source.
pub(super) const NOT_TUN: Remedy = Remedy {
    docker: "on the host: rm -r /dev/net/tun; modprobe tun; mknod /dev/net/tun c 10 200. Then --device /dev/net/tun, no --volume",
    compose: "on the host: rm -r /dev/net/tun; modprobe tun; mknod /dev/net/tun c 10 200. Then devices: [/dev/net/tun], no volumes:",
    kubernetes: "on the node: rm -r /dev/net/tun; modprobe tun; mknod /dev/net/tun c 10 200. Then a hostPath of type CharDevice",
    systemd: "rm -r /dev/net/tun; modprobe tun; mknod /dev/net/tun c 10 200",
    host: "rm -r /dev/net/tun; modprobe tun; mknod /dev/net/tun c 10 200",
};

pub(super) const TUN_MODE: Remedy = Remedy {
    docker: "run as root (--user 0), or on the host: chmod 0666 /dev/net/tun",
    compose: "user: \"0\", or on the host: chmod 0666 /dev/net/tun",
    kubernetes: "securityContext: {runAsUser: 0}, or on the node: chmod 0666 /dev/net/tun",
    systemd: "User=root, or: chmod 0666 /dev/net/tun",
    host: "run as root, or: chmod 0666 /dev/net/tun",
};

pub(super) const NEWER_KERNEL: Remedy = Remedy {
    docker: "a host with a newer kernel: containers share it",
    compose: "a host with a newer kernel: containers share it",
    kubernetes: "nodes with a newer kernel: pods share it",
    systemd: "a newer kernel",
    host: "a newer kernel",
};

pub(super) const BUFFERS: Remedy = Remedy {
    docker: "--cap-add NET_ADMIN, or set the sysctl on the host (a container cannot)",
    compose: "cap_add: [NET_ADMIN], or set the sysctl on the host (a container cannot)",
    kubernetes: "capabilities: {add: [NET_ADMIN]}, or set the sysctl on the node (a pod cannot)",
    systemd: "AmbientCapabilities=CAP_NET_ADMIN, or set the sysctl on the host",
    host: "sysctl -w net.core.rmem_max=33554432 net.core.wmem_max=33554432",
};

pub(super) const UDP_PORT: Remedy = Remedy {
    docker: "stop the other program in this network, or: -e LANEWAY_LISTEN_PORT=PORT",
    compose: "stop the other program in this network, or: environment: {LANEWAY_LISTEN_PORT: PORT}",
    kubernetes: "stop the other program in this pod, or: env: [{name: LANEWAY_LISTEN_PORT, value: \"PORT\"}]",
    systemd: "Environment=LANEWAY_LISTEN_PORT=PORT",
    host: "`ss -ulpn` shows the owner; choose another with ListenPort or LANEWAY_LISTEN_PORT",
};

pub(super) const CONFIGURATION: Remedy = Remedy {
    docker: "correct the named setting: -e NAME=VALUE, or the mounted file",
    compose: "correct the named setting under environment: or volumes:",
    kubernetes: "correct the named setting in env:, the ConfigMap or the Secret",
    systemd: "correct the named setting in Environment= or in the file",
    host: "correct the named setting; the README lists every variable",
};

pub(super) const CPU_LIST: Remedy = Remedy {
    docker: "--cpuset-cpus LIST with the CPUs in the lists, or change the lists",
    compose: "cpuset: LIST with the CPUs in the lists, or change the lists",
    kubernetes: "remove the lists: a pod's CPUs are not known in advance",
    systemd: "AllowedCPUs=LIST and CPUAffinity=LIST with the CPUs in the lists",
    host: "list only allowed CPUs in LANEWAY_INSIDE_CPUS and LANEWAY_OUTSIDE_CPUS",
};

pub(super) const CPU_QUOTA: Remedy = Remedy {
    docker: "no --cpus; --cpuset-cpus LIST instead",
    compose: "no cpus:; cpuset: LIST instead",
    kubernetes: "no limits: {cpu: …}, or whole CPUs as both request and limit with the static CPU manager",
    systemd: "no CPUQuota=; AllowedCPUs=LIST instead",
    host: "fewer queues: LANEWAY_QUEUES=NUMBER",
};

pub(super) const CONTROL_DIRECTORY: Remedy = Remedy {
    docker: "--tmpfs /var/run/wireguard",
    compose: "tmpfs: [/var/run/wireguard]",
    kubernetes: "an emptyDir volume mounted at /var/run/wireguard",
    systemd: "RuntimeDirectory=wireguard",
    host: "LANEWAY_UAPI_DIR=DIRECTORY with a writable directory",
};

pub(super) const STRICT_FILTER: Remedy = Remedy {
    docker: "--sysctl net.ipv4.conf.all.rp_filter=2",
    compose: "sysctls: [net.ipv4.conf.all.rp_filter=2]",
    kubernetes: "set net.ipv4.conf.all.rp_filter=2 in a privileged init container, or allow it in the kubelet's allowedUnsafeSysctls",
    systemd: "ExecStartPre=+sysctl -w net.ipv4.conf.all.rp_filter=2",
    host: "sysctl -w net.ipv4.conf.all.rp_filter=2",
};

pub(super) const IPV6: Remedy = Remedy {
    docker: "--sysctl net.ipv6.conf.all.disable_ipv6=0, or leave IPv6 out of the configuration",
    compose: "sysctls: [net.ipv6.conf.all.disable_ipv6=0], or leave IPv6 out of the configuration",
    kubernetes: "a privileged init container that sets net.ipv6.conf.all.disable_ipv6=0, or no IPv6 in the configuration",
    systemd: "ExecStartPre=+sysctl -w net.ipv6.conf.all.disable_ipv6=0",
    host: "sysctl -w net.ipv6.conf.all.disable_ipv6=0",
};

pub(super) const IPV6_KERNEL: Remedy = Remedy {
    docker: "leave IPv6 out of the configuration, or start the host without ipv6.disable=1",
    compose: "leave IPv6 out of the configuration, or start the host without ipv6.disable=1",
    kubernetes: "leave IPv6 out of the configuration, or start the node without ipv6.disable=1",
    systemd: "leave IPv6 out of the configuration, or start the kernel without ipv6.disable=1",
    host: "leave IPv6 out of the configuration, or start the kernel without ipv6.disable=1",
};

pub(super) const INJECTION: Remedy = Remedy {
    docker: "run the nft command in the container's network namespace",
    compose: "run the nft command in the container's network namespace",
    kubernetes: "run the nft command in a privileged init container of the pod",
    systemd: "ExecStartPost=+nft -f FILE, where FILE has what is in quotes",
    host: "run the nft command; `nft delete table inet laneway_filter_IFNAME` removes the rules",
};

pub(super) const KEPT_SHUT: Remedy = Remedy {
    docker: "start the router's container again, or: laneway down IFNAME in its network",
    compose: "start the router's service again, or: laneway down IFNAME in its network",
    kubernetes: "nothing: the kubelet starts the container again; or: laneway down IFNAME in the pod",
    systemd: "systemctl start laneway@NAME, or: laneway down IFNAME",
    host: "laneway run, or: laneway down IFNAME",
};

pub(super) const OTHER_NAME: Remedy = Remedy {
    docker: "-e LANEWAY_INTERFACE=NAME",
    compose: "environment: {LANEWAY_INTERFACE: NAME}",
    kubernetes: "env: [{name: LANEWAY_INTERFACE, value: NAME}]",
    systemd: "Environment=LANEWAY_INTERFACE=NAME, or another name for the file",
    host: "LANEWAY_INTERFACE=NAME, or another name for the file; `ip link del IFNAME` if nothing uses it",
};
