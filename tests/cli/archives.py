"""Tar archives built member by member, as nobody should write them."""

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path

Member = tuple[str, bytes | str]
"""A name, and a file's content or (str) a symbolic link's target."""


def tar_bytes(members: Sequence[Member], form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive of exactly these members, in this order, names as given."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                archive.addfile(entry)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def read_tar(path: Path) -> dict[str, bytes]:
    """The regular files of an archive, by name."""
    with tarfile.open(path) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        return {name: file.read() for name, file in files.items() if file is not None}
