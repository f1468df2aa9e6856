"""What of an image is on some nodes' disks, as the file system tells: files with holes.

A node writes a blob that is on its way into a file of its full length with the digest in its name;
what has not come yet is a hole.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

Extent = tuple[int, int]
"""Start and stop of bytes that are there."""


def is_complete(roots: Iterable[Path], descriptors: Sequence[dict[str, Any]]) -> bool:
    """Whether all bytes of all blobs are on some of the nodes with these roots."""
    found: dict[str, list[Extent]] = {blob["digest"]: [] for blob in descriptors}
    for root in roots:
        for directory, _, names in os.walk(root):
            for name in names:
                digest = f"sha256:{name.rpartition('.')[2]}"
                if digest in found:
                    found[digest] += extents(Path(directory, name))
    return all(covers(found[blob["digest"]], blob["size"]) for blob in descriptors)


def covers(found: Iterable[Extent], size: int) -> bool:
    """Whether extents, in any order, leave no hole in the first `size` bytes."""
    end = 0
    for start, stop in sorted(found):
        if start > end:
            return False
        end = max(end, stop)
    return end >= size


def extents(path: Path) -> Iterator[Extent]:
    """Where a file has bytes; none if it has just gone."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        stop = 0
        while True:
            start = os.lseek(fd, stop, os.SEEK_DATA)
            stop = os.lseek(fd, start, os.SEEK_HOLE)
            yield start, stop
    except OSError as error:
        if error.errno != errno.ENXIO:  # no more data
            raise
    finally:
        os.close(fd)
