"""A content store as containerd leaves it on disk: real files and renames, without containerd.

The order of steps is that of containerd's `content/local`: a download's `ref`, then its `data`,
which grows; a commit renames that, sets its times and mode, and takes the rest away.
"""

import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

from oci_mesh.containerd.content import ContainerdContent
from oci_mesh.containerd.directory import CONTENT
from oci_mesh.spec.digest import Digest
from oci_mesh.tasks import Background
from tests.nodes import Image, eventually

PRIVATE = "team/app@registry.corp!"
PUBLIC = "library/app@docker.io"


class FakeContainerd:
    """A content store under `root`; with its directories, unless it never ran."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.content = root / CONTENT
        self._numbers = count(1)

    def start(self) -> None:
        """What containerd makes when it starts."""
        (self.content / "ingest").mkdir(parents=True, exist_ok=True)

    def path(self, digest: Digest) -> Path:
        """Where a committed blob is."""
        return self.content / "blobs" / digest.algorithm / digest.hex

    def begin(self, digest: Digest, kind: str = "layer", namespace: str = "k8s.io") -> "Download":
        """Begin to download a blob."""
        return Download(self, digest, f"{namespace}/{next(self._numbers)}/{kind}-{digest}")

    def commit(self, content: bytes) -> Digest:
        """Download and commit a blob."""
        digest = Digest.of(content)
        download = self.begin(digest)
        download.write(content)
        download.commit()
        return digest

    def pull(self, image: Image) -> Digest:
        """The manifest and what it names; the manifest's digest."""
        digest = self.commit(image.manifest)
        for blob in image.blobs:
            self.commit(blob)
        return digest

    def delete(self, digest: Digest) -> None:
        """What its garbage collection does."""
        self.path(digest).unlink()


class Download:
    """One directory under `ingest`."""

    def __init__(self, containerd: FakeContainerd, digest: Digest, ref: str) -> None:
        self._containerd = containerd
        self._digest = digest
        name = hashlib.sha256(ref.encode()).hexdigest()
        self.directory = containerd.content / "ingest" / name
        self.directory.mkdir(parents=True)
        (self.directory / "ref").write_text(ref)
        self.data = self.directory / "data"
        self.data.touch()

    def write(self, chunk: bytes) -> None:
        """So much more has come."""
        with self.data.open("ab") as file:
            file.write(chunk)

    def reset(self) -> None:
        """Begin anew."""
        os.truncate(self.data, 0)

    def abort(self) -> None:
        """Give up."""
        shutil.rmtree(self.directory)

    def commit(self) -> None:
        """It is whole."""
        target = self._containerd.path(self._digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.data.rename(target)
        os.utime(target, (time.time(), time.time()))
        shutil.rmtree(self.directory)
        target.chmod(0o444)


@asynccontextmanager
async def followed(content: ContainerdContent) -> AsyncIterator[Background]:
    """`content.run()`, for the time of the block."""
    async with Background() as background:
        background.spawn(content.run())
        yield background


async def known(content: ContainerdContent, digest: Digest) -> None:
    """Wait until a manifest that names this is known."""
    await eventually(f"{digest} is named", lambda: bool(content.sizes(digest)))
