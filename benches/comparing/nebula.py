"""Nebula, which is not WireGuard: certificates and a configuration file for each end."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from .addresses import TUNNEL_MTU
from .lab import LabError, run, wait_until
from .tunnels import Program

# With the system's small default, its receiver drops whole GRO batches.
SOCKET_BUFFER = 4 * 1024 * 1024


@dataclass
class Nebula(Program):
    """Nebula with large socket buffers and Laneway's cipher."""

    version_option = "-version"

    @property
    def cipher(self):
        return "aes" if self.suite == "aes256gcm" else "chachapoly"

    def settings(self):
        return [f"cipher={self.cipher}", f"buffers of {SOCKET_BUFFER >> 20} MiB"]

    def start_ends(self, lab, ends):
        folder = lab.folder / ends[0].device
        folder.mkdir(exist_ok=True)
        authority = self._certify(folder, "authority", "ca", "-name", "benchmark")
        for end, other in (ends, ends[::-1]):
            own = self._certify(folder, end.device, "sign", "-name", end.device,
                                "-ip", f"{end.address}/24", "-ca-crt", authority.with_suffix(".crt"),
                                "-ca-key", authority.with_suffix(".key"))
            config = folder / f"{end.device}.yml"
            # JSON is also YAML.
            config.write_text(json.dumps(self._config(end, other, authority, own)))
            end.process = end.namespace.start(self.name, [self.path, "-config", config])
        for end in ends:
            wait_until(lambda end=end: (end.process.must_run(), end.has_device())[1],
                       f"{self.name}: its device")

    def _certify(self, folder, name, command, *options):
        """Makes NAME.key and NAME.crt in the folder; returns their path without the extension."""
        path = folder / name
        for ending in (".key", ".crt"):
            path.with_suffix(ending).unlink(missing_ok=True)
        run([self._certifier(), command, *options,
             "-out-key", path.with_suffix(".key"), "-out-crt", path.with_suffix(".crt")])
        return path

    def _certifier(self):
        beside = Path(self.path).with_name("nebula-cert")
        found = beside if beside.exists() else shutil.which("nebula-cert")
        if not found:
            raise LabError("nebula-cert not found, neither beside nebula nor on PATH")
        return found

    def _config(self, end, other, authority, own):
        everything = [{"port": "any", "proto": "any", "host": "any"}]
        return {
            "pki": {
                "ca": str(authority.with_suffix(".crt")),
                "cert": str(own.with_suffix(".crt")),
                "key": str(own.with_suffix(".key")),
            },
            "static_host_map": {other.address: [f"{other.underlay}:{other.port}"]},
            "lighthouse": {"am_lighthouse": False},
            "listen": {"host": "0.0.0.0", "port": end.port,
                       "read_buffer": SOCKET_BUFFER, "write_buffer": SOCKET_BUFFER},
            "cipher": self.cipher,
            "tun": {"dev": end.device, "mtu": TUNNEL_MTU},
            "firewall": {"outbound": everything, "inbound": everything},
            "logging": {"level": "error"},
        }
