"""Fetches and lets go until it is killed, and says what of it was done.

python -m tests.store.evictor ROOT SEED

blob DIGEST                 (it came, and is whole)
leaving DIGEST DIGEST ...   (they may be gone from now on)
gone DIGEST DIGEST ...      (the others stay)
"""

import asyncio
import os
import random
import sys
from pathlib import Path

from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Store
from oci_mesh.store.disk import DiskStore
from tests.store.content import push_blob

MIRRORED = "app@docker.io"
WORKERS = 4
MAX_BLOB_BYTES = 100_000


def say(*words: object) -> None:
    """One line."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def fetch(store: Store, seed: str) -> None:
    """One blob after the other."""
    chance = random.Random(seed)
    while True:
        content = chance.randbytes(chance.randrange(MAX_BLOB_BYTES))
        await push_blob(store, MIRRORED, content)
        say("blob", Digest.of(content))


async def let_go(store: Store, seed: str) -> None:
    """Of about as many."""
    chance = random.Random(seed)
    while True:
        leaving = (await store.coldest(100))[: chance.randrange(2 * WORKERS)]
        say("leaving", *(content.digest for content in leaving))
        gone = await store.evict(leaving)
        say("gone", *(content.digest for content in gone))


async def main(root: Path, seed: int) -> None:
    """Run until killed."""
    async with await DiskStore.open(root) as store, asyncio.TaskGroup() as workers:
        workers.create_task(let_go(store, f"{seed}"))
        for worker in range(WORKERS):
            workers.create_task(fetch(store, f"{seed}/{worker}"))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
