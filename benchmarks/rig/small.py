"""Small blobs from a peer: how long a client waits for one that only another node has.

`python -m benchmarks.rig.small HOST:PORT REPOSITORY REFERENCE PEER:PORT` waits at the gate, then
reads the blobs of an image one after the other and tells the milliseconds of each, by size, and
the round trip to the peer (the median time of a connect).
"""

import socket
import sys
import time
from collections import defaultdict
from pathlib import Path
from random import Random
from statistics import median, quantiles
from typing import Final

from benchmarks.rig.client import Image as Pulled
from benchmarks.rig.gate import await_start, say_done
from benchmarks.rig.image import TAG, Image
from tests import images

SIZES: Final = (4_000, 64_000, 1_000_000)
COUNT: Final = 30  # of each size
CONNECTS: Final = 21
CONNECT_S: Final = 10.0


def build(directory: Path) -> Image:
    """An image of small blobs of noise, the sizes in turns. (It cannot be unpacked.)"""
    image, dice = Image(directory), Random(0)
    directory.mkdir()
    layout = images.Layout(image.layout)
    blobs = [dice.randbytes(size) for _ in range(COUNT) for size in SIZES]
    manifest = {
        "schemaVersion": 2,
        "mediaType": images.IMAGE_MANIFEST,
        "config": layout.add(images.IMAGE_CONFIG, b"{}"),
        "layers": [layout.add(images.LAYER_GZIP, blob) for blob in blobs],
    }
    layout.tag(TAG, layout.add(images.IMAGE_MANIFEST, images.encode(manifest)))
    return image


def _round_trip_s(address: str) -> float:
    host, _, port = address.rpartition(":")
    times = []
    for _ in range(CONNECTS):
        start_s = time.perf_counter()
        socket.create_connection((host, int(port)), CONNECT_S).close()
        times.append(time.perf_counter() - start_s)
    return median(times)


def main() -> None:
    """Read one image, blob by blob."""
    address, repository, reference, peer = sys.argv[1:]
    await_start()
    image = Pulled(address, repository)
    rtt_s = _round_trip_s(peer)
    by_size: dict[int, list[float]] = defaultdict(list)
    retries = 0
    manifest, _ = image.manifest(reference)
    for layer in manifest["layers"]:
        start_s = time.perf_counter()
        retries += image.verify(layer)
        by_size[layer["size"]].append(1000 * (time.perf_counter() - start_s))
    told = {str(size): _summary(each) for size, each in sorted(by_size.items())}
    told["all"] = _summary([ms for each in by_size.values() for ms in each])
    say_done([time.monotonic()], latency_ms=told, rtt_ms=round(1000 * rtt_s, 3), retries=retries)


def _summary(values: list[float]) -> dict[str, float]:
    return {
        "p50": round(median(values), 2),
        "p90": round(quantiles(values, n=10)[-1], 2),
        "max": round(max(values), 2),
    }


if __name__ == "__main__":
    main()
