"""Pushes until it is killed, and says what was acknowledged.

    python -m tests.store.pusher ROOT SEED

    blob REPOSITORY DIGEST
    image REPOSITORY DIGEST TAG
    deleting REPOSITORY DIGEST TAG      (it may be gone from now on)
    deleted REPOSITORY DIGEST TAG

A line is one `write` to the pipe, after the answer of the store, so what was said outlives us.
"""

import asyncio
import os
import random
import sys
from pathlib import Path

from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Store
from oci_mesh.store.disk import DiskStore
from tests.store.content import image, push_blob, stamp

WORKERS = 6
MAX_BLOB_BYTES = 100_000


def say(*words: object) -> None:
    """One line."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def work(store: Store, repository: str, seed: int) -> None:
    """Push images of two blobs each; now and then delete the one before."""
    chance = random.Random(f"{repository} {seed}")
    for number in range(1_000_000):
        at = stamp(seed * 1_000_000 + number)
        blobs = [chance.randbytes(chance.randrange(MAX_BLOB_BYTES)) for _ in range(2)]
        for content in blobs:
            await push_blob(store, repository, content, at)
            say("blob", repository, Digest.of(content))
        manifest, tag = image(*blobs), f"t{seed}-{number}"
        await store.put_manifest(repository, manifest, [tag], at, manifest.blobs)
        say("image", repository, manifest.digest, tag)
        if chance.random() < 0.3:
            say("deleting", repository, manifest.digest, tag)
            await store.delete_manifest(repository, manifest.digest, at + "-later")
            say("deleted", repository, manifest.digest, tag)


async def main(root: Path, seed: int) -> None:
    """Run until killed."""
    async with await DiskStore.open(root) as store, asyncio.TaskGroup() as workers:
        for worker in range(WORKERS):
            workers.create_task(work(store, f"team/{worker}", seed))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
