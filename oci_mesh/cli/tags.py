"""`oci-mesh tags`: the names that a registry has."""

import asyncio
from typing import Final

import msgspec

from oci_mesh.cli.failure import Failure
from oci_mesh.cli.lookup import look_up, look_up_tags
from oci_mesh.cli.output import columns
from oci_mesh.cli.registry_client import RegistryClient
from oci_mesh.cli.target import Target
from oci_mesh.spec.digest import Digest

# HEAD requests at once; registries count them.
_AT_ONCE: Final = 8


class Tagged(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A tag, and if it was asked for, what it means."""

    name: str
    digest: str | None = None


class Tags(msgspec.Struct, frozen=True, rename="camel"):
    """The tags of a repository."""

    name: str
    registry: str
    tags: list[Tagged]

    def text(self) -> str:
        """A line each."""
        if any(tag.digest for tag in self.tags):
            return columns([(tag.name, tag.digest or "?") for tag in self.tags])
        return "\n".join(tag.name for tag in self.tags)


class Repositories(msgspec.Struct, frozen=True, rename="camel"):
    """The repositories of a registry."""

    registry: str
    repositories: list[str]

    def text(self) -> str:
        """A line each."""
        return "\n".join(self.repositories)


async def list_repositories(client: RegistryClient, registry: str) -> Repositories:
    """Raises `Failure` if the registry does not list them."""
    found = await client.repositories()
    if found is None:
        raise Failure(f"the registry {registry} does not list its repositories")
    return Repositories(registry, found)


async def list_tags(client: RegistryClient, target: Target, *, alike: bool, digests: bool) -> Tags:
    """All tags of the repository; if `alike`, those that mean what `target` means."""
    if alike:
        wanted = (await look_up(client, target)).digest
        found = await digests_of(client, target, await client.tags(target.repository) or [])
        tags = [Tagged(tag, str(digest)) for tag, digest in found.items() if digest == wanted]
        return Tags(target.name, target.registry, tags)
    names = await look_up_tags(client, target)
    if not digests:
        return Tags(target.name, target.registry, [Tagged(name) for name in names])
    found = await digests_of(client, target, names)
    tags = [Tagged(tag, str(digest) if digest else None) for tag, digest in found.items()]
    return Tags(target.name, target.registry, tags)


async def digests_of(
    client: RegistryClient, target: Target, tags: list[str]
) -> dict[str, Digest | None]:
    """What tags mean; None for one that has gone meanwhile."""
    turn = asyncio.Semaphore(_AT_ONCE)

    async def find(tag: str) -> Digest | None:
        async with turn:
            return await client.find(target.repository, tag)

    async with asyncio.TaskGroup() as group:
        tasks = {tag: group.create_task(find(tag)) for tag in tags}
    return {tag: task.result() for tag, task in tasks.items()}
