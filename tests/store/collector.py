"""Pushes images, and collects what no manifest names yet, until it is killed; says what was pushed.

python -m tests.store.collector ROOT SEED

image DIGEST          (it was acknowledged, with all its blobs)
collected NUMBER      (blobs that nothing named then)
aside NUMBER          (damaged blobs of other registries that went into quarantine)
"""

import asyncio
import random
import sys
from contextlib import suppress
from pathlib import Path

from oci_mesh.errors import ManifestBlobUnknown
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Store
from oci_mesh.store.disk import DiskStore
from tests.store.content import image, push_blob
from tests.store.evictor import MIRRORED, say
from tests.store.upkeep_contract import SOON, harm, no_pace

OWN = "team/a"
WORKERS = 4
MAX_BLOB_BYTES = 50_000


async def push(store: Store, seed: str) -> None:
    """One image after the other; some blobs are shared, and some are never named."""
    chance = random.Random(seed)
    while True:
        blobs = [chance.randbytes(chance.randrange(MAX_BLOB_BYTES)) for _ in range(2)]
        blobs.append(b"shared %d" % chance.randrange(8))
        for content in (*blobs, chance.randbytes(10)):
            await push_blob(store, OWN, content)
        manifest = image(*blobs)
        with suppress(ManifestBlobUnknown):  # a blob was collected before this came
            await store.put_manifest(OWN, manifest, (), None, manifest.blobs)
            say("image", manifest.digest)


async def collect(store: Store, seed: str) -> None:
    """Some of it, and without any grace; so that some images get through."""
    chance = random.Random(seed)
    while True:
        garbage = await store.unnamed(OWN, SOON)
        gone = await store.collect(chance.sample(garbage, min(2, len(garbage))), SOON)
        say("collected", len(gone))
        await asyncio.sleep(0.01)


async def set_aside(store: Store, seed: str) -> None:
    """Blobs that are damaged as soon as they are here."""
    chance = random.Random(seed)
    while True:
        content = chance.randbytes(1000)
        await push_blob(store, MIRRORED, content)
        harm(store, Digest.of(content), content[::-1])
        damage = await store.check(Digest.of(content), no_pace)
        assert damage is not None
        say("aside", len(await store.quarantine(damage)))


async def main(root: Path, seed: int) -> None:
    """Run until killed."""
    async with await DiskStore.open(root) as store, asyncio.TaskGroup() as workers:
        workers.create_task(collect(store, f"{seed}/garbage"))
        workers.create_task(set_aside(store, f"{seed}/aside"))
        for worker in range(WORKERS):
            workers.create_task(push(store, f"{seed}/{worker}"))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
