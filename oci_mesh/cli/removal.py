"""`oci-mesh rm`: tags and manifests leave a registry; in a mesh, all nodes of it.

Everything is looked up before anything is removed. Blobs are not this verb's: other manifests may
need them, and a registry drops those that none does.
"""

from collections.abc import AsyncIterator, Sequence

import msgspec

from oci_mesh.cli.lookup import look_up
from oci_mesh.cli.registry_client import RegistryClient
from oci_mesh.cli.tags import digests_of
from oci_mesh.cli.target import Target


class Removed(msgspec.Struct, frozen=True, rename="camel"):
    """One REF. By tag only that tag was removed, by digest the manifest and all `tags` of it.

    `remaining` are tags that still mean the same.
    """

    reference: str
    registry: str
    name: str
    digest: str
    tags: list[str]
    remaining: list[str]
    content_remains: bool
    """Whether the manifest can still be had by its digest."""

    def text(self) -> str:
        """What is gone, and what is not."""
        if not self.content_remains:
            tags = f" and its tags {', '.join(self.tags)}" if self.tags else ""
            return f"removed {self.reference}{tags}"
        if self.remaining:
            others = ", ".join(f"{self.name}:{tag}" for tag in self.remaining)
            return f"removed {self.reference}; the same content is still there as {others}"
        return (
            f"removed {self.reference}; its content is still there without a tag: "
            f"`oci-mesh rm {self.name}@{self.digest}` removes that as well"
        )


class RemovedAll(msgspec.Struct, frozen=True, rename="camel"):
    """All of it, in the order in which it was removed."""

    removed: list[Removed]


Place = tuple[RegistryClient, Target]


async def remove(places: Sequence[Place]) -> AsyncIterator[Removed]:
    """Remove all of them; if one is not there, nothing: raises `Failure`.

    One that somebody else removes meanwhile is removed. May be repeated for what is left.
    """
    plans = [(client, target, await _plan(client, target)) for client, target in places]
    plans.sort(key=lambda plan: plan[1].digest is not None)  # a digest takes its tags along
    gone = {(plan.registry, plan.name, tag) for _, _, plan in plans for tag in plan.tags}
    for client, target, plan in plans:
        await client.delete_manifest(target.repository, target.wanted)
        left = [tag for tag in plan.remaining if (plan.registry, plan.name, tag) not in gone]
        yield msgspec.structs.replace(plan, remaining=left)


async def _plan(client: RegistryClient, target: Target) -> Removed:
    digest = (await look_up(client, target)).digest
    found = await digests_of(client, target, await client.tags(target.repository) or [])
    same = [tag for tag, meant in found.items() if meant == digest]
    by_digest = target.digest is not None
    return Removed(
        reference=f"{target.name}@{digest}" if by_digest else str(target),
        registry=target.registry,
        name=target.name,
        digest=str(digest),
        tags=same if by_digest else [str(target.tag)],
        remaining=[] if by_digest else [tag for tag in same if tag != target.tag],
        content_remains=not by_digest,
    )
