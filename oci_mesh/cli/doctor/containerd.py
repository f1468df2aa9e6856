"""Does containerd look at the node: what its configuration says, and whether it has read it.

Whether it really asks is another check (`asked`).
"""

import posixpath
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from oci_mesh.cli import containerd_config, daemon_json, hosts_toml, registries_conf
from oci_mesh.cli.containerd_config import Configuration
from oci_mesh.cli.doctor.finding import Finding, error, ok, skipped, warning
from oci_mesh.cli.doctor.patient import Patient
from oci_mesh.cli.doctor.processes import server_of, started_at
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.runtime import DEFAULT_NAME
from oci_mesh.cli.target import is_loopback

# Where containerd listens if its configuration does not say: its own default, k3s and RKE2.
SOCKETS: Final = ("/run/containerd/containerd.sock", "/run/k3s/containerd/containerd.sock")

_CONFIGURE: Final = "oci-mesh containerd configure"

# containerd's other form of the name of a directory, where `:` is not wanted: HOST_PORT_.
_PORT: Final = re.compile(r"_(\d{1,5})_$")

# Of a clock and of a file system's times.
_SLACK_S: Final = 2.0


async def look_at_runtime(patient: Patient) -> list[Finding]:
    """Which container runtimes there are."""
    found = [name for name in ("containerd", "podman", "docker") if _has(patient, name)]
    if found:
        return [ok(f"found here: {', '.join(found)}")]
    return [
        error(
            "runtime.none",
            "no container runtime was found here: no containerd, CRI-O, podman or docker",
            "run this on the machine itself; in a container, mount the machine's /etc and /run "
            "and name where by --machine; for a machine without one: --skip runtime",
        )
    ]


def _has(patient: Patient, runtime: str) -> bool:
    signs = {
        "containerd": (patient.config, *SOCKETS),
        "podman": (registries_conf.MAIN, "/etc/crio/crio.conf"),
        "docker": (daemon_json.CONFIG, "/run/docker.sock"),
    }
    return any(_exists(patient, path) for path in signs[runtime])


def _exists(patient: Patient, path: str) -> bool:
    try:
        return (patient.files / path.lstrip("/")).exists()
    except PermissionError:
        return True


async def look_at_containerd(patient: Patient) -> list[Finding]:
    """config.toml and the hosts.toml files: `patient.asked_for` are the registries."""
    if not _has(patient, "containerd"):
        return [skipped("no containerd on this machine")]
    try:
        configuration = containerd_config.load(patient.machine, patient.config)
        found, directory = _judge_config(configuration), ""
        if configuration.deciding.hosts:
            directory = configuration.deciding.hosts.split(":")[0].rstrip("/")
            patient.hosts = directory
    except Failure as failure:
        if "cannot read" in failure.message:
            return [error("containerd.no-permission", failure.message, "run this as root")]
        return [
            error(
                "containerd.unreadable",
                f"{failure}: containerd does not start with that, or starts without it",
                failure.hint or "mend it by hand; containerd config dump says what it reads",
            )
        ]
    if found or not directory:
        return found
    return _judge_hosts(patient, directory)


def _judge_config(configuration: Configuration) -> list[Finding]:
    deciding = configuration.deciding
    old = [name for file in configuration.files for name in file.old]
    if old and deciding.hosts:
        return [
            error(
                "containerd.both-ways",
                f"{deciding.path} has `config_path` and the old way ({', '.join(old)}): containerd "
                "loads no CRI plugin with both, and no pod starts",
                f"{_CONFIGURE} --migrate",
            )
        ]
    if old:
        return [
            error(
                "containerd.old-way",
                f"containerd is configured the old way ({', '.join(old)} in {deciding.path}), so "
                "it reads no hosts.toml",
                f"{_CONFIGURE} --migrate --dry-run, then without --dry-run",
            )
        ]
    if not deciding.hosts:
        return [
            error(
                "containerd.no-config-path",
                f"{deciding.path} sets no `config_path`, so containerd reads no hosts.toml and "
                "does not ask the node",
                f"{_CONFIGURE}, then systemctl restart containerd",
            )
        ]
    return []


def _judge_hosts(patient: Patient, directory: str) -> list[Finding]:
    found: list[Finding] = []
    first, later, without = [], [], []
    for name in patient.machine.names(directory):
        path = f"{directory}/{name}/hosts.toml"
        try:
            text = patient.machine.text(path)
            if text is None:
                continue
            hosts = hosts_toml.read_hosts(text, path)
        except Failure as failure:
            hint = failure.hint or "mend it by hand: containerd passes over the whole file"
            found.append(error("containerd.hosts-unreadable", str(failure), hint))
            continue
        ours = [url for url in hosts if patient.is_here(url)]
        name = _PORT.sub(r":\1", name)
        if ours and next(iter(hosts)) == ours[0]:
            first.append(name)
        elif ours:
            later.append(name)
        elif lost := _lost(hosts):
            found.append(_elsewhere(patient, path, lost))
        else:
            without.append(name)
    patient.asked_for = first
    if later:
        found.append(
            warning(
                "containerd.later",
                f"for {', '.join(later)} containerd asks others before the node, in {directory}",
                f"{_CONFIGURE} {' '.join(later)}",
            )
        )
    if not first and not later and not found:
        found.append(
            error(
                "containerd.unconfigured",
                f"no hosts.toml in {directory} names the node at {patient.url}, so containerd "
                "never asks it",
                _CONFIGURE,
            )
        )
    but = f", not for {', '.join(without)}" if without and DEFAULT_NAME in first else ""
    return found or [ok(f"containerd is to ask the node first for {', '.join(first)}{but}")]


def _lost(hosts: Mapping[str, Any]) -> str:
    """A host on this machine that is asked, and is not the node; empty if there is none."""
    for url in hosts:
        if is_loopback(url.rpartition("://")[2].partition("/")[0]):
            return url
    return ""


def _elsewhere(patient: Patient, path: str, lost: str) -> Finding:
    name = posixpath.basename(posixpath.dirname(path))
    names = "" if name == DEFAULT_NAME else f" {name}"
    # What the directory is called here is what `configure` finds again.
    return error(
        "containerd.elsewhere",
        f"{path} has containerd ask {lost}, and the node is at {patient.url}",
        f"{_CONFIGURE}{names} --registry {patient.url}, or start the node with --listen there",
    )


async def look_at_restart(patient: Patient) -> list[Finding]:
    """Was containerd started after its configuration was last changed."""
    try:
        path = socket_of(patient)
        pid = server_of(path)
        started = None if pid is None else started_at(pid)
        configuration = containerd_config.load(patient.machine, patient.config)
        changed = max(_changed_at(patient, file.path) for file in configuration.files)
    except (Failure, OSError) as failure:
        return [skipped(f"containerd's process cannot be seen: {failure}")]
    if started is None:
        return [skipped("containerd's process cannot be seen from here")]
    if changed > started + _SLACK_S:
        patient.restart_due = True
        return [
            warning(
                "restart.due",
                f"containerd was started before {patient.config} was last changed, and goes by "
                "what it was then",
                containerd_config.RESTART,
            )
        ]
    return [ok("containerd was started after its configuration was changed")]


def _changed_at(patient: Patient, path: str) -> float:
    with suppress(FileNotFoundError):
        return (patient.files / path.lstrip("/")).stat().st_mtime
    return 0.0


def socket_of(patient: Patient) -> Path:
    """Where containerd listens on that machine. Raises `Failure`."""
    configuration = containerd_config.load(patient.machine, patient.config)
    said = configuration.files[0].data.get("grpc", {})
    address = said.get("address") if isinstance(said, dict) else None
    if isinstance(address, str) and address:
        return patient.files / address.lstrip("/")
    places = [patient.files / path.lstrip("/") for path in SOCKETS]
    return next((place for place in places if place.exists()), places[0])


async def look_at_podman(patient: Patient) -> list[Finding]:
    """What podman, CRI-O and their kin are told."""
    try:
        said = registries_conf.read(patient.machine)
    except Failure as failure:
        return [error("podman.changed", str(failure), failure.hint)]
    if not said:
        if _has(patient, "podman") and not _has(patient, "containerd"):
            text = "podman and CRI-O are not told of the node"
            fix = f"{_CONFIGURE} --for podman docker.io quay.io"
            return [warning("podman.unconfigured", text, fix)]
        return [skipped("podman and CRI-O are not told of the node (oci-mesh containerd --help)")]
    lost = []
    for name, registry in said.items():
        hosts = [mirror["location"] for mirror in registry.get("mirror", [registry])]
        lost += [name for host in hosts[:1] if not patient.is_here(host.split("/")[0])]
    if lost:
        return [
            error(
                "podman.elsewhere",
                f"for {', '.join(lost)} {registries_conf.OURS} names another address than the "
                f"node's, {patient.url}",
                f"{_CONFIGURE} --for podman {' '.join(lost)} --registry {patient.url}",
            )
        ]
    return [ok(f"podman and CRI-O are to ask the node first for {', '.join(said)}")]


async def look_at_docker(patient: Patient) -> list[Finding]:
    """What docker is told."""
    try:
        mirrors = daemon_json.read(patient.machine)
    except Failure as failure:
        return [error("docker.unreadable", str(failure), "mend it by hand: docker does not start")]
    if any(patient.is_here(url) for url in mirrors):
        return [ok("docker is to ask the node for images of docker.io")]
    if lost := _lost(dict.fromkeys(mirrors)):
        return [
            error(
                "docker.elsewhere",
                f"{daemon_json.CONFIG} has docker ask {lost}, and the node is at {patient.url}",
                f"{_CONFIGURE} --for docker --registry {patient.url}",
            )
        ]
    if _has(patient, "docker") and not _has(patient, "containerd"):
        fix = f"{_CONFIGURE} --for docker"
        return [warning("docker.unconfigured", "docker is not told of the node", fix)]
    return [skipped("docker is not told of the node (oci-mesh containerd --help)")]
