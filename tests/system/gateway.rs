//! A router as a gateway: packets from the tunnel go on into another network, with the gateway's address.

use std::process::Stdio;

use crate::support::binary::{BINARY, command, serves};
use crate::support::folder::Folder;
use crate::support::network::{cable, host, ip, sysctl};
use crate::support::ping::answers;
use crate::support::process::{Process, attempt, command_in, output};
use crate::support::wg::KeyPair;
use crate::support::{device_name, require_root, wait_until};
use laneway::cli::demo::lab::Side;
use nix::sys::signal::Signal;

/// The address of a host beyond the gateway, which has no route back into the tunnel.
const WORLD: [u8; 4] = [198, 51, 100, 2];

/// Starts `laneway run` with this file and waits until it can be configured.
fn run(side: &Side, folder: &Folder, device: &str, text: &str, environment: &[(&str, &str)]) -> Process {
    let file = folder.write(&format!("{device}.conf"), text);
    let environment = [&[("LANEWAY_METRICS_ADDR", "off")], environment].concat();
    let mut process = Process::start_quietly(&mut command(side, &["run", "--config", &file], &environment));
    wait_until("a router", || {
        assert!(process.is_running(), "it exited during the start: {}", process.said());
        serves(device)
    });
    process
}

/// Returns a client, a gateway and a host beyond the gateway.
fn hosts() -> [Side; 3] {
    let client = host([192, 0, 2, 1], "::");
    let gateway = host([192, 0, 2, 2], "::");
    let world = host(WORLD, "::");
    cable((&client, "wan", &["192.0.2.1/24"]), (&gateway, "lan", &["192.0.2.2/24"]));
    cable((&gateway, "wan", &["198.51.100.1/24"]), (&world, "wan", &["198.51.100.2/24"]));
    [client, gateway, world]
}

#[test]
fn packets_from_the_tunnel_leave_with_the_gateways_address_and_the_rules_are_gone_with_it() {
    require_root!();
    let [client, gateway, world] = hosts();
    let (folder, devices) = (Folder::new(), [device_name("lc"), device_name("lg")]);
    let keys = [KeyPair::generate(&client), KeyPair::generate(&gateway)];
    let text = |own: &KeyPair, host: u8, peer: &KeyPair, more: &str| {
        format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 51820\nAddress = 10.50.0.{host}/24\n\
             [Peer]\nPublicKey = {}\n{more}\n",
            own.private, peer.public
        )
    };
    let leads_out =
        text(&keys[0], 1, &keys[1], "Endpoint = 192.0.2.2:51820\nAllowedIPs = 10.50.0.2/32, 198.51.100.0/24");
    let _client = run(&client, &folder, &devices[0], &leads_out, &[]);
    let leads_in = text(
        &keys[1],
        2,
        &keys[0],
        "Endpoint = 192.0.2.1:51820\nAllowedIPs = 10.50.0.1/32\nPersistentKeepalive = 1",
    );
    let tables = || output(&gateway.namespace, &["nft", "list", "tables"], "");
    if attempt(&gateway.namespace, &["nft", "add", "table", "inet", "probe"], "").is_err() {
        crate::support::skip::report("this kernel has no nftables");
        return;
    }

    for (choice, end) in [("auto", Signal::SIGTERM), ("wan", Signal::SIGKILL)] {
        sysctl(&gateway, "ipv4/ip_forward", "0");
        let mut router = run(&gateway, &folder, &devices[1], &leads_in, &[("LANEWAY_MASQUERADE", choice)]);
        assert!(router.said().contains("ip_forward=1"), "{}", router.said());
        sysctl(&gateway, "ipv4/ip_forward", "1");
        wait_until("the world beyond", || answers(&client.namespace, WORLD.into()));
        assert!(tables().contains(&format!("laneway-{}", devices[1])), "{}", tables());
        router.signal(end);
        router.wait();
        assert_eq!(tables(), "table inet probe\n");
    }

    // Without it, nothing comes back.
    let _router = run(&gateway, &folder, &devices[1], &leads_in, &[]);
    wait_until("the gateway itself", || answers(&client.namespace, [10, 50, 0, 2].into()));
    assert!(!answers(&client.namespace, WORLD.into()));
    ip(&world, "route add 10.50.0.0/24 via 198.51.100.1");
    wait_until("the world with a route", || answers(&client.namespace, WORLD.into()));
}

/// Returns the commands that the README's section on gateways lists below a line that begins with `intro`.
fn commands(intro: &str) -> String {
    let readme = include_str!("../../README.md");
    let (_, section) = readme.split_once("\n## Run a gateway\n").expect("the section");
    let (_, rest) = section.split_once(&format!("\n{intro}")).expect("the line");
    let (_, rest) = rest.split_once("\n```sh\n").expect("commands");
    rest.split_once("\n```\n").expect("their end").0.to_owned()
}

/// Runs the README's commands in a shell that has the binary in its path, and `folder` as `/etc` and `/run`.
fn follow(side: &Side, folder: &Folder, commands: &str) -> Process {
    let (etc, run) = (folder.join("etc"), folder.join("run"));
    let programs = std::path::Path::new(BINARY).parent().expect("a folder").display();
    let (before, last) = commands.rsplit_once('\n').expect("several commands");
    let script = format!(
        "mount --bind {etc} /etc && mount --bind {run} /run && export PATH={programs}:$PATH && set -e\n{before}\nexec env {last}"
    );
    let mut command = command_in(&side.namespace, "unshare");
    command.args(["--mount", "sh", "-c", &script]).stdin(Stdio::null()).stdout(Stdio::null());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LANEWAY_") {
            command.env_remove(name);
        }
    }
    let mut process = Process::start_quietly(&mut command);
    wait_until("the router", || {
        assert!(process.is_running(), "it ended: {}", process.said());
        process.said().contains("router is up")
    });
    process
}

#[test]
fn the_commands_of_the_readme_make_a_gateway() {
    require_root!();
    let [client, gateway, _world] = hosts();
    if attempt(&gateway.namespace, &["nft", "add", "table", "inet", "probe"], "").is_err() {
        crate::support::skip::report("this kernel has no nftables");
        return;
    }
    let folder = Folder::new();
    for part in ["etc", "run"] {
        std::fs::create_dir(folder.join(part)).expect("a folder");
    }
    let _gateway = follow(&gateway, &folder, &commands("On the gateway"));
    let _client = follow(&client, &folder, &commands("On the client"));
    wait_until("the gateway", || answers(&client.namespace, [10, 0, 0, 1].into()));
    wait_until("the world beyond", || answers(&client.namespace, WORLD.into()));
}
