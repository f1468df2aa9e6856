"""A node that lies: the daemon as it is, but with a flipped bit in all pieces that it sends.

`python -m benchmarks.rig.liar …` takes the options of `oci_mesh.serve`. What it says of itself and
of its pieces is true, and its own client gets what it should: only the bytes for others are wrong.
"""

from asyncio import Transport
from typing import Final
from unittest import mock

from aiohttp import web

from oci_mesh.mesh import pieces
from oci_mesh.serve import main
from oci_mesh.store.base import Blob, Partial

FLIPPED: Final = 0b0000_0100


def corrupt(piece: bytes) -> bytes:
    """The same bytes, but for one bit in the middle."""
    middle = len(piece) // 2
    return piece[:middle] + bytes([piece[middle] ^ FLIPPED]) + piece[middle + 1 :]


async def send_corrupted(
    _: Transport, response: web.StreamResponse, source: Blob | Partial, start: int, stop: int
) -> None:
    """What sends a part of a piece here, in the place of what does so in an honest node."""
    if isinstance(source, Partial):
        piece = source.read(start, stop)
    else:
        piece = b"".join([chunk async for chunk in source.chunks(start, stop)])
    await response.write(corrupt(piece))


if __name__ == "__main__":
    with mock.patch.object(pieces, "_send_slice", send_corrupted):
        main()
