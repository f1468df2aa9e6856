"""What docker is told: `registry-mirrors` in daemon.json. It has mirrors of docker.io only."""

import json
import re
from typing import Any, Final

from oci_mesh.cli.edits import Machine
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.runtime import Plan, Wish

CONFIG: Final = "/etc/docker/daemon.json"
REGISTRY: Final = "docker.io"
RELOAD: Final = "have docker read it: `systemctl reload docker`"

_KEY: Final = "registry-mirrors"
_INDENT: Final = 4


def plan(machine: Machine, wish: Wish) -> Plan:
    """What to change; the mirrors that are there stay, after ours."""
    if wish.names != (REGISTRY,) or wish.own:
        raise Failure(
            "docker has mirrors of docker.io only",
            hint="images of other registries are pulled through the node by its own address: "
            f"docker pull {wish.node.split('://')[-1]}/REPOSITORY:TAG",
        )
    text = machine.text(CONFIG)
    said = _parsed(text or "{}")
    mirrors = mirrors_of(said)
    if mirrors[:1] == [wish.node]:
        return Plan()
    said[_KEY] = [wish.node, *(mirror for mirror in mirrors if mirror != wish.node)]
    indent = re.search(r"\n([ \t]+)\"", text or "")
    after = json.dumps(said, indent=indent[1] if indent else _INDENT, ensure_ascii=False)
    end = "\n" if text is None or text.endswith("\n") else ""
    return Plan(
        {CONFIG: f"{after}{end}".encode()},
        [
            RELOAD,
            "docker asks mirrors for tags in any case, and says which registry it means only if "
            "it keeps images in containerd (`docker info`: Storage Driver overlayfs, the default "
            "from 29 on); others find nothing at the node, and go on at docker.io",
        ],
    )


def read(machine: Machine) -> list[str]:
    """The mirrors that docker asks, in order."""
    return mirrors_of(_parsed(machine.text(CONFIG) or "{}"))


def mirrors_of(said: dict[str, Any]) -> list[str]:
    """Those that are in a daemon.json."""
    mirrors = said.get(_KEY, [])
    if not isinstance(mirrors, list) or not all(isinstance(mirror, str) for mirror in mirrors):
        raise Failure(f"{CONFIG}: {_KEY} has to be a list of URLs")
    return [mirror.rstrip("/") for mirror in mirrors]


def _parsed(text: str) -> dict[str, Any]:
    try:
        said = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise Failure(f"{CONFIG} is not valid JSON: {error}") from None
    if not isinstance(said, dict):
        raise Failure(f"{CONFIG} is no JSON object")
    return said


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    said = dict(pairs)
    if len(said) != len(pairs):
        raise ValueError("a key is there twice")
    return said
