"""Is the node up: its control socket, and its registry."""

import asyncio
from typing import Final
from urllib.parse import urlsplit

import msgspec

from oci_mesh.cli.doctor.finding import Finding, error, ok, skipped, warning
from oci_mesh.cli.doctor.patient import Patient
from oci_mesh.cli.doctor.processes import listener
from oci_mesh.cli.http import Http, read
from oci_mesh.control.client import call
from oci_mesh.control.health import VERB, Health, HealthRequest
from oci_mesh.errors import OciMeshError, OperationFailed
from oci_mesh.version import __version__

# A node tries the others before it answers: two connections each, and a registry for longer.
HEALTH_S: Final = 30.0

# Of its registry on this machine.
READY_S: Final = 5.0

# All answers but the one that says why it does not serve.
_ANY: Final = tuple(status for status in range(200, 600) if status != 503)
_NOT_READY: Final = ": 503 "

_MAX_READY_BYTES: Final = 64 * 1024
_START: Final = "systemctl start oci-mesh, or: python -m oci_mesh.serve --root"


class _Ready(msgspec.Struct):
    node: str


async def look_at_node(patient: Patient) -> list[Finding]:
    """Ask it all that it knows of itself: `patient.health`."""
    root = patient.root
    try:
        exists = root.is_dir()
    except PermissionError:
        exists = True
    if not exists:
        return [
            error(
                "node.no-root",
                f"there is no directory {root}, so no node has ever run there",
                f"name the node's directory by --root or OCI_MESH_ROOT, or start it: {_START} DIR",
            )
        ]
    request = HealthRequest(patient.public, patient.registry_of_image)
    try:
        async with asyncio.timeout(HEALTH_S):
            patient.health = health = await call(root, VERB, request, Health)
    except TimeoutError:
        return [
            error(
                "node.silent",
                f"the node in {root} does not answer within {HEALTH_S:.0f} s",
                "its log (journalctl -u oci-mesh) says what it does; restart it if that is nothing",
            )
        ]
    except OperationFailed as failure:
        found = _failed(failure, patient)
        patient.is_forbidden = found.code == "node.no-permission"
        return [found]
    said = f"node {health.node} runs in {root}, version {health.version}"
    if health.version != __version__:
        return [
            warning(
                "node.other-version",
                f"{said}; this command is version {__version__}",
                "restart the node if it was upgraded, or upgrade it",
            )
        ]
    return [ok(said)]


def _failed(failure: OperationFailed, patient: Patient) -> Finding:
    if "may only be used" in failure.message or "Permission denied" in failure.message:
        return error(
            "node.no-permission",
            f"the control socket in {patient.root} may only be used by the node's user, and root",
            "run this as root: sudo oci-mesh doctor",
        )
    if "refused" in failure.message:
        return error("node.old", failure.message, failure.hint)
    if "no node is running" not in failure.message:
        fix = failure.hint or "its log (journalctl -u oci-mesh) says why"
        return error("node.failing", failure.message, fix)
    return error(
        "node.absent", failure.message, f"start it: {_START} {patient.root}; its log says more"
    )


async def look_at_listener(patient: Patient) -> list[Finding]:
    """Ask its registry, as clients on this machine do."""
    try:
        node = await _ready(patient.url)
    except OciMeshError as failure:
        return [_not_ready(failure, patient)]
    except TimeoutError:
        if patient.health is not None:
            return [_silent(patient, f"no answer in {READY_S:.0f} s")]
        node = ""
    url, health = patient.url, patient.health
    if node and patient.is_forbidden:
        return [ok(f"node {node} answers at {url}")]
    if health is None and node:
        return [
            error(
                "listening.other",
                f"a node answers at {url}, and it is not the one in {patient.root}",
                f"name its directory: oci-mesh doctor --root DIR (its id is {node})",
            )
        ]
    if not node:
        return [_taken(patient)]
    if health is not None and node != health.node:
        return [
            error(
                "listening.another-node",
                f"{url} is answered by node {node}, and not by {health.node}",
                "give one of them another --listen",
            )
        ]
    return [ok(f"its registry answers at {url}")]


async def _ready(url: str) -> str:
    """The id of the node there; empty if it is no node."""
    async with (
        asyncio.timeout(READY_S),
        Http(url, stall_s=READY_S) as http,
        http.request("GET", http.base / "readyz", _ANY, repository="") as response,
    ):
        try:
            body = await read(response, _MAX_READY_BYTES)
            return msgspec.json.decode(body, type=_Ready).node
        except msgspec.MsgspecError:
            return ""


def _not_ready(failure: OciMeshError, patient: Patient) -> Finding:
    url = patient.url
    if _NOT_READY in str(failure):
        return error(
            "listening.not-ready",
            f"the registry at {url} does not serve: {failure}",
            "a node that was started looks for the others for some seconds; one that was drained "
            "serves again after a restart; else its log says why",
        )
    if patient.health is None:
        if listener(_port(url)):
            return _taken(patient)
        return skipped(f"nothing listens at {url}: see `node`")
    return _silent(patient, str(failure))


def _silent(patient: Patient, why: str) -> Finding:
    return error(
        "listening.silent",
        f"the node runs, and clients cannot reach its registry at {patient.url}: {why}",
        "restart it; if this is another network namespace (a pod, a container), run it in there",
    )


def _taken(patient: Patient) -> Finding:
    who = listener(_port(patient.url)) or "something"
    return error(
        "listening.taken",
        f"at {patient.url} {who} answers, which is no node of a mesh",
        "stop that, or give the node another --listen (and `oci-mesh containerd configure "
        "--registry` that address)",
    )


def _port(url: str) -> int:
    return urlsplit(url).port or 80
