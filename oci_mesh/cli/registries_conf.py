"""What podman, CRI-O, skopeo and buildah are told: a file of ours in registries.conf.d.

The registry that an image is of is looked up by `prefix`, and of two files that have one, the later
one in alphabetical order counts: all of it. So nothing is written where somebody else has said
something of the same registry. Mirrors get no `ns=`: the registry's name is part of the path.

What this does not do: change files of others.
"""

import posixpath
from typing import Any, Final
from urllib.parse import urlsplit

from oci_mesh.cli import hosts_toml
from oci_mesh.cli.edits import Machine
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.runtime import DEFAULT_NAME, Plan, Wish

MAIN: Final = "/etc/containers/registries.conf"
DIRECTORY: Final = "/etc/containers/registries.conf.d"
OURS: Final = f"{DIRECTORY}/50-oci-mesh.conf"

RELOAD: Final = "have CRI-O read it, if it runs: `systemctl reload crio`"

_HEADER: Final = (
    "# Written by `oci-mesh containerd configure --for podman`, which wants it back as it is;\n"
    "# `oci-mesh containerd undo --for podman` removes it.\n"
)


def plan(machine: Machine, wish: Wish) -> Plan:
    """What to change. Raises `Failure` where others have said something of the same registries."""
    if DEFAULT_NAME in wish.names:
        raise Failure(
            "podman and CRI-O have no settings for all registries at once",
            hint="name them: oci-mesh containerd configure --for podman docker.io quay.io",
        )
    _check_others(machine, wish)
    registries = read(machine)
    registries |= {name: _registry(name, wish) for name in wish.names}
    made = Plan({OURS: _rendered(registries).encode()}, [RELOAD])
    if not (wish.resolve or wish.own):
        made.notes.append(
            "podman and CRI-O now ask the mesh for images by digest only: --resolve is for those "
            "by tag, too"
        )
    return made


def read(machine: Machine) -> dict[str, dict[str, Any]]:
    """What our file says, by registry. Raises `Failure` if somebody else changed it."""
    text = machine.text(OURS)
    if text is None:
        return {}
    said = hosts_toml.parse(text, OURS).get("registry", [])
    registries = {str(registry.get("prefix", "")): registry for registry in said}
    if _rendered(registries) != text:
        raise Failure(
            f"somebody changed {OURS}",
            hint=f"rename it, if that is to stay, or remove it; the mesh needs it as {OURS} alone",
        )
    return registries


def _registry(name: str, wish: Wish) -> dict[str, Any]:
    url = urlsplit(wish.node)
    plain = url.scheme == "http"
    if wish.own:
        return {"prefix": name, "location": url.netloc, "insecure": plain}
    mirror = {"location": f"{url.netloc}/{name}", "insecure": plain}
    digest_only = {} if wish.resolve else {"mirror-by-digest-only": True}
    return {"prefix": name, "location": name, **digest_only, "mirror": [mirror]}


def _rendered(registries: dict[str, dict[str, Any]]) -> str:
    return _HEADER + "".join(_table("registry", said) for _, said in sorted(registries.items()))


def _table(name: str, said: dict[str, Any]) -> str:
    lines, below = [], []
    for key, value in said.items():
        if isinstance(value, list):
            below += [_table(f"{name}.{key}", item) for item in value]
        else:
            shown = str(value).lower() if isinstance(value, bool) else f'"{value}"'
            lines.append(f"{key} = {shown}\n")
    return "".join([f"\n[[{name}]]\n", *lines, *below])


def _check_others(machine: Machine, wish: Wish) -> None:
    names = [name for name in machine.names(DIRECTORY) if name.endswith(".conf")]
    for path in (MAIN, *(posixpath.join(DIRECTORY, name) for name in names)):
        text = machine.text(path)
        if text is None or path == OURS:
            continue
        said = hosts_toml.parse(text, path)
        if "registries" in said:
            raise Failure(
                f"{path} is of the first version of its format, which excludes all other files",
                hint="write it anew: `man containers-registries.conf`",
            )
        for registry in said.get("registry", []):
            prefix = registry.get("prefix") or registry.get("location")
            if prefix in wish.names:
                mirror = _table("registry.mirror", _registry(prefix, wish).get("mirror", [{}])[0])
                raise Failure(
                    f"{path} has settings for {prefix}, which another file would replace",
                    hint=f"put this below them, before other mirrors:{mirror}",
                )
