"""SOURCE of a push: a path or standard input -> files by name.

What cannot be read out of order (standard input) or at all (an archive that is compressed as a
whole, as `docker save | gzip` makes) is first copied to an unnamed temporary file in TMPDIR: disk
as long as the archive, memory as one chunk. The file has no name, so nothing is left behind even by
`kill -9`.
"""

import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, cast

from oci_mesh.cli.compression import MAGIC_BYTES, Decompressed, layer_media_type
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.files import CHUNK_BYTES, DirectoryFiles, Files
from oci_mesh.cli.progress import Progress
from oci_mesh.cli.tar_files import TarFiles
from oci_mesh.spec import media_types

STANDARD_INPUT: Final = "-"


@contextmanager
def open_source(source: str, progress: Progress) -> Iterator[Files]:
    """The files of SOURCE within the context; `progress` shows it being copied, if it has to be.

    Raises `Failure` if it is neither a directory nor a tar archive.
    """
    if source != STANDARD_INPUT and Path(source).is_dir():
        yield DirectoryFiles(Path(source))
        return
    with ExitStack() as stack:
        file: BinaryIO
        if source == STANDARD_INPUT:
            file = stack.enter_context(_spooled(sys.stdin.buffer, "standard input", progress))
        else:
            opened = stack.enter_context(Path(source).open("rb"))
            file = opened
            if not _is_plain(opened):
                file = stack.enter_context(_spooled(opened, source, progress))
        yield TarFiles(file)


def _is_plain(file: io.BufferedReader) -> bool:
    """Whether its bytes can be taken as they are, in any order."""
    head = file.peek(MAGIC_BYTES)[:MAGIC_BYTES]
    return file.seekable() and layer_media_type(head) == media_types.LAYER_TAR


@contextmanager
def _spooled(file: BinaryIO, name: str, progress: Progress) -> Iterator[BinaryIO]:
    """A copy of what can be read from `file`, decompressed."""
    buffered: io.BufferedReader = io.BufferedReader(cast("io.RawIOBase", file))  # or any file
    task = progress.task(name)
    task.phase("reading", None)
    with ExitStack() as stack:
        copy = stack.enter_context(tempfile.TemporaryFile(prefix="oci-mesh-"))
        stack.callback(buffered.detach)  # else it would close what is not its own
        reader = Decompressed(buffered)
        while chunk := reader.read(CHUNK_BYTES):
            copy.write(chunk)
            task.at(copy.tell())
        if not copy.tell():
            raise Failure(f"{name} is empty", hint="did the command that writes it fail?")
        copy.flush()
        task.done("read", name, copy.tell())
        yield copy
