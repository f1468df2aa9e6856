"""The manifest that REF means; if it is not there, what was probably meant."""

from contextlib import suppress

from oci_mesh.cli.failure import Failure
from oci_mesh.cli.nearest import most_like, nearest
from oci_mesh.cli.registry_client import RegistryClient
from oci_mesh.cli.target import Target
from oci_mesh.spec.manifest import Manifest


async def look_up(client: RegistryClient, target: Target) -> Manifest:
    """Raises `Failure` if the registry does not have it, with the nearest name that it has."""
    manifest = await client.manifest(target.repository, target.wanted)
    if manifest is None:
        raise await unknown(client, target)
    return manifest


async def look_up_tags(client: RegistryClient, target: Target) -> list[str]:
    """All tags of the repository. Raises `Failure` if there is no such repository."""
    tags = await client.tags(target.repository)
    if tags is None:
        near = await _nearest_repository(client, target)
        raise Failure(
            f"there is no repository {target.name} in the registry {target.registry}",
            hint=f"did you mean {_full(target, near)}?" if near else "",
        )
    return tags


async def unknown(client: RegistryClient, target: Target) -> Failure:
    """What to say if the registry has no `target`."""
    hint = ""
    with suppress(Failure):  # registries need not list anything
        hint = await _nearest_tag(client, target, target.repository)
        if not hint and (near := await _nearest_repository(client, target)):
            hint = await _nearest_tag(client, target, near)
            hint = hint or f"did you mean {_full(target, near)}?"
    return Failure(f"{target} is not in the registry {target.registry}", hint=hint)


async def _nearest_tag(client: RegistryClient, target: Target, repository: str) -> str:
    tags = await client.tags(repository)
    if not tags or target.tag is None:
        return ""
    name = _full(target, repository)
    hint = nearest(str(target), [f"{name}:{tag}" for tag in tags])
    return hint or f"`oci-mesh tags {name}` lists what there is"


async def _nearest_repository(client: RegistryClient, target: Target) -> str:
    """Empty if none is like it, or the registry does not say."""
    with suppress(Failure):
        known = set(await client.repositories() or []) - {target.repository}
        return most_like(target.repository, known)
    return ""


def _full(target: Target, repository: str) -> str:
    """As the user would write it."""
    return target.name.removesuffix(target.repository) + repository
