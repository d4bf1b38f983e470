use super::*;

fn read(vars: &[(&str, &str)]) -> Result<Environment, ConfigError> {
    Environment::read(vars.iter().map(|(name, value)| (name.into(), value.into())))
}

#[test]
fn every_variable_is_read() {
    let values = [
        "/etc/lw.conf",
        "lw0",
        "4",
        "on",
        "off",
        "0-1",
        "2,3",
        "50",
        "on",
        "16",
        "32",
        "off",
        "off",
        "auto",
        "1380",
        "51820",
        "/run/key",
        "8388608",
        "off",
        "/etc/laneway/web.yml",
        "50",
        "allow",
        "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
        "laneway=debug",
        "json",
        "drop",
        "inherit",
        "auto",
        "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=",
        "/tmp/wg",
        "off",
        "eth0",
        "on",
    ];
    let vars: Vec<_> = NAMES.into_iter().zip(values).collect();
    let environment = read(&vars).unwrap();
    let expected = Environment {
        config: Some("/etc/lw.conf".into()),
        interface: Some("lw0".into()),
        queues: Some(Queues::Fixed(4)),
        share: Some(Sharing::On),
        pin: Some(Switch::Off),
        inside_cpus: Some("0-1".parse().unwrap()),
        outside_cpus: Some("2,3".parse().unwrap()),
        spin: Some(Duration::from_micros(50)),
        short_queues: Some(ShortQueues::On),
        inbox_depth: Some(16),
        drain_cap: Some(32),
        tun_offload: Some(Switch::Off),
        tunnel_merge: Some(Switch::Off),
        udp_offload: Some(Switch::Auto),
        mtu: Some(1380),
        listen_port: Some(51820),
        private_key_file: Some("/run/key".into()),
        socket_buffer: Some(8 << 20),
        metrics_addr: Some(None),
        metrics_config: Some("/etc/laneway/web.yml".into()),
        metrics_peers: Some(50),
        metrics_from_tunnel: Some(true),
        ready_peer: Some("xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=".parse().unwrap()),
        log: Some("laneway=debug".into()),
        log_format: Some(LogFormat::Json),
        reject: Some(RejectPolicy::Drop),
        dscp: Some(Dscp::Inherit),
        aead: Some(AeadChoice::Auto),
        spread_ports: Some(SpreadPorts::Peers(vec![
            "xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=".parse().unwrap(),
        ])),
        uapi_dir: Some("/tmp/wg".into()),
        seccomp: Some(Switch::Off),
        masquerade: Some(Some(Masquerade::Interface("eth0".into()))),
        keep: Some(true),
    };
    assert_eq!(environment, expected);
}

#[test]
fn a_bad_value_is_named_with_what_is_allowed() {
    for (name, value, allowed) in [
        ("LANEWAY_QUEUES", "0", "`auto` or a number from 1 to 256"),
        ("LANEWAY_PIN", "on", "`auto` or `off`"),
        ("LANEWAY_INSIDE_CPUS", "3-1", "as in `0-3,8`"),
        ("LANEWAY_DSCP", "64", "`inherit` or a number from 0 to 63"),
        ("LANEWAY_AEAD", "avx2", "`portable` or `auto`"),
        ("LANEWAY_DRAIN_CAP", "129", "from 1 to 128 packets"),
        ("LANEWAY_MTU", "100", "from 576 to"),
        ("LANEWAY_METRICS_ADDR", "9586", "`127.0.0.1:9586`"),
        ("LANEWAY_LOG", "laneway=loud", "a level (`off`, `error`, `warn`, `info`"),
        ("LANEWAY_LOG", "warning", "a level"),
        ("LANEWAY_LOG", "info,verbose", "a level"),
        ("LANEWAY_LOG", "lanewy=debug", "one for `laneway`"),
        ("LANEWAY_REJECT", "", "not empty"),
        ("LANEWAY_MASQUERADE", "a/b", "`off`, `auto`, or the name of the interface"),
        ("LANEWAY_MASQUERADE", "on", "`off`, `auto`, or the name of the interface"),
    ] {
        let message = read(&[(name, value)]).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{name}={value}: expected ")), "{message}");
        assert!(message.contains(allowed), "{message}");
    }
}

#[test]
fn log_filters_are_levels_and_targets() {
    for filter in [
        "info",
        "WARN",
        "Error",
        "off",
        "laneway=debug",
        "laneway",
        "warn,laneway::peers=trace",
        "warn,hyper=off",
    ] {
        assert_eq!(read(&[("LANEWAY_LOG", filter)]).unwrap().log.as_deref(), Some(filter));
    }
}

#[test]
fn a_misspelt_variable_is_not_ignored() {
    let message = read(&[("LANEWAY_QUEUE", "2")]).unwrap_err().to_string();
    assert_eq!(message, "LANEWAY_QUEUE: unknown variable; did you mean LANEWAY_QUEUES?");
}

#[test]
fn other_programs_variables_are_left_alone() {
    let kubernetes = [
        ("LANEWAY_SERVICE_HOST", "10.96.0.9"),
        ("LANEWAY_PORT", "tcp://10.96.0.9:9586"),
        ("LANEWAY_PORT_9586_TCP_PROTO", "tcp"),
    ];
    let unset = Environment::default();
    assert_eq!(read(&[("PATH", ""), ("WG_TUN_FD", "x")]).unwrap(), unset);
    assert_eq!(read(&kubernetes).unwrap(), unset);
}
