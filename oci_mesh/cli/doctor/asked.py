"""Does containerd really ask the node: have it pull an image that there is not, and see the request
arrive.

The image is asked for by digest, so that mirrors are asked that are not told tags, too; its name is
one of a kind. When the request has come the pull is broken off, before containerd goes on at the
registry itself. Nothing is left behind.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Final

from oci_mesh.cli.containerd_config import RESTART
from oci_mesh.cli.doctor.containerd import socket_of
from oci_mesh.cli.doctor.finding import Finding, error, ok, skipped
from oci_mesh.cli.doctor.patient import Patient
from oci_mesh.cli.failure import shown
from oci_mesh.cli.runtime import DEFAULT_NAME
from oci_mesh.containerd.api import NoService, NoSocket
from oci_mesh.containerd.cri import Cri
from oci_mesh.control.client import ControlClient
from oci_mesh.control.witness import NONCE_LENGTH, REPOSITORY, VERB, Sighting, WitnessRequest
from oci_mesh.errors import OperationFailed

# containerd asks within milliseconds; a mirror before the node may take as long as it likes.
WITHIN_S: Final = 10.0

# For a sighting that is on its way when containerd has given up.
_GRACE_S: Final = 1.0

# Registries tried, one after another: each has a file of its own, and they are all alike.
MAX_TRIED: Final = 4

# For `_default`: a registry that there is not, and never will be (RFC 2606).
_NO_REGISTRY: Final = "doctor.oci-mesh.invalid"


async def look_at_asking(patient: Patient) -> list[Finding]:
    """By pulls through containerd's CRI, for the registries that it is to ask the node for."""
    if not patient.asked_for:
        return [skipped("containerd is not to ask the node first for anything: see `containerd`")]
    try:
        path = socket_of(patient)
        tried = patient.asked_for[:MAX_TRIED]
        answers = [(name, await _is_asked(patient.root, path, name)) for name in tried]
    except NoService:
        return [
            error(
                "asked.cri-off",
                f"containerd at {path} runs without its CRI plugin, so no kubelet can use it",
                "take cri out of disabled_plugins in its config.toml; if it is not there, "
                "containerd's log says why it was not loaded",
            )
        ]
    except NoSocket as failure:
        return [_no_socket(path, failure.error)]
    missed = [(name, why) for name, why in answers if why]
    if not missed:
        names = ", ".join(tried)
        return [ok(f"containerd was had to pull, and asked the node first: {names}")]
    name, why = missed[0]
    fix = (
        RESTART
        if patient.restart_due
        else "restart containerd: it may have read its configuration before it was changed; then "
        f"see the hosts.toml of {name} in {patient.hosts}"
    )
    return [
        error(
            "asked.not",
            f"containerd was had to pull from {name}, and did not ask the node ({why})",
            fix,
        )
    ]


def _no_socket(path: Path, failure: OSError) -> Finding:
    if isinstance(failure, PermissionError):
        return skipped(f"{path} may not be opened: run this as root")
    return error(
        "asked.no-containerd",
        f"containerd does not run: {path}: {failure.strerror or failure}",
        "systemctl start containerd; journalctl -u containerd says why it does not",
    )


async def _is_asked(root: Path, socket: Path, name: str) -> str:
    """Why the node was not asked for an image of the registry `name`; empty if it was."""
    registry = _NO_REGISTRY if name == DEFAULT_NAME else name
    nonce = secrets.token_hex(NONCE_LENGTH // 2)
    reference = f"{registry}/{REPOSITORY}/{nonce}@sha256:{nonce}{nonce}"
    request = WitnessRequest(nonce, WITHIN_S)
    async with (
        Cri(socket) as cri,
        ControlClient(root) as client,
        aclosing(client.stream(VERB, request, Sighting)) as sightings,
        asyncio.TaskGroup() as group,
    ):
        await anext(sightings)  # from now on it looks out
        pull = group.create_task(_failure(cri, reference))
        sighting = group.create_task(_last(sightings))
        await asyncio.wait([pull, sighting], return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait([sighting], timeout=_GRACE_S)
        for task in (pull, sighting):
            task.cancel()
    if not sighting.cancelled() and sighting.result().seen:
        return ""
    if pull.cancelled():
        return f"nothing came within {WITHIN_S:.0f} s"
    if isinstance(failure := pull.result(), NoService):
        raise failure
    return shown(str(failure))[1:-1]


async def _failure(cri: Cri, reference: str) -> OperationFailed:
    try:
        await cri.pull(reference, 2 * WITHIN_S)
    except OperationFailed as failure:
        return failure
    return OperationFailed("it was given an image that there is not")


async def _last(sightings: AsyncIterator[Sighting]) -> Sighting:
    return await anext(sightings)
