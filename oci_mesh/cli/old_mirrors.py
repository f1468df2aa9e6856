"""The old way to tell containerd of mirrors, in config.toml, in terms of hosts.toml files.

    [….registry.mirrors."docker.io"]  endpoint = ["https://mirror.corp"]      "*" is for all others
    [….registry.configs."mirror.corp".tls]  ca_file, cert_file, key_file, insecure_skip_verify

`configs.*.auth` may stay where it is: containerd takes it together with hosts.toml files.
"""

from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from oci_mesh.cli.failure import Failure, shown
from oci_mesh.cli.runtime import DEFAULT_NAME
from oci_mesh.spec.scope import is_registry

_DOCKER: Final = {"docker.io": "registry-1.docker.io"}


@dataclass
class Moved:
    """By registry: its hosts in order, and what is said of each."""

    hosts: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)


def move(registry: dict[str, Any], path: str) -> Moved:
    """What the `registry` table of the file `path` says. Raises `Failure` for what has no place."""
    tls = {name: said["tls"] for name, said in registry.get("configs", {}).items() if "tls" in said}
    moved, used = Moved(), set()
    for name, said in registry.get("mirrors", {}).items():
        if name != "*" and not is_registry(name):
            raise Failure(f"{path}: mirrors.{shown(name)} is not the name of a registry")
        if "rewrite" in said:
            raise Failure(f"{path}: `rewrite` of mirrors.{name} has no form in hosts.toml")
        hosts = moved.hosts.setdefault(DEFAULT_NAME if name == "*" else name, {})
        for endpoint in said.get("endpoint", []):
            url = urlsplit(endpoint)
            used.add(url.netloc)
            hosts[endpoint] = _settings(url.path, tls.get(url.netloc, {}))
        _drop_itself(hosts, name)
    for name, said in tls.items():
        if name not in used and is_registry(name):
            server = f"https://{_DOCKER.get(name, name)}"
            moved.hosts.setdefault(name, {})[server] = _settings("", said)
    moved.hosts = {name: hosts for name, hosts in moved.hosts.items() if hosts}
    return moved


def _settings(path: str, tls: dict[str, Any]) -> dict[str, Any]:
    settings: dict[str, Any] = {"capabilities": ["pull", "resolve"]}
    if path.strip("/") not in ("", "v2"):
        settings["override_path"] = True  # the old way took the path as it was
    if tls.get("ca_file"):
        settings["ca"] = tls["ca_file"]
    if tls.get("cert_file"):
        settings["client"] = [[tls["cert_file"], tls.get("key_file", "")]]
    if tls.get("insecure_skip_verify"):
        settings["skip_verify"] = True
    return settings


def _drop_itself(hosts: dict[str, dict[str, Any]], name: str) -> None:
    """The registry itself is asked last in any case, and needs not be listed for that."""
    if not hosts:
        return
    last = next(reversed(hosts))
    plain = hosts[last] == _settings("", {})
    if plain and last.rstrip("/") == f"https://{_DOCKER.get(name, name)}":
        del hosts[last]
