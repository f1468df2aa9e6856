"""Fills partials until it is killed, and says what it wrote. A next run goes on with what is left.

python -m tests.store.filler ROOT SEED

piece BLOB START        (written, by this run)
blob BLOB               (committed)
"""

import asyncio
import os
import random
import sys
from pathlib import Path

from oci_mesh.errors import BlobUnknown
from oci_mesh.spec.digest import Digest
from oci_mesh.store.base import Store
from oci_mesh.store.disk import DiskStore

A = "team/a"
PIECE = 16 * 1024
PIECES = 40


def content(number: int) -> bytes:
    """Of the `number`-th blob."""
    return random.Random(number).randbytes(PIECES * PIECE - number)


def say(*words: object) -> None:
    """One line."""
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


async def fill(store: Store, number: int, chance: random.Random) -> None:
    """Write the pieces that are not right yet, in any order, and commit."""
    whole = content(number)
    digest = Digest.of(whole)
    async with await store.partial(A, digest, len(whole)) as partial:
        starts = list(range(0, len(whole), PIECE))
        chance.shuffle(starts)
        for start in starts:
            piece = whole[start : start + PIECE]
            if partial.read(start, start + len(piece)) != piece:
                partial.write(start, piece)
                say("piece", number, start)
        partial.advance(len(whole))
        assert partial.verified()
        say("committing", number)
        await partial.commit()
        say("blob", number)


async def main(root: Path, seed: int) -> None:
    """Run until killed."""
    chance = random.Random(seed)
    async with await DiskStore.open(root) as store:
        for number in range(1_000_000):
            try:
                await store.stat(A, Digest.of(content(number)))
            except BlobUnknown:
                await fill(store, number, chance)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
