"""A real containerd pulls from a real registry with a secret, and is read while it does."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, aclosing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from oci_mesh.containerd.access import ContainerdAccess
from oci_mesh.containerd.content import ContainerdContent
from oci_mesh.containerd.ingest import IngestOrigins
from oci_mesh.containerd.source import ContainerdSource
from oci_mesh.errors import BlobUnknown
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import parse_manifest
from tests import images
from tests.containerd.fake import followed
from tests.e2e.containerd import Containerd
from tests.e2e.namespaces import network
from tests.e2e.requirements import require, require_namespaces
from tests.e2e.test_mirror import CONTAINERDS, programs
from tests.e2e.upstream import PASSWORD, USER, Upstream
from tests.nodes import MIB, eventually, noise

pytestmark = pytest.mark.e2e

HOST = "registry.corp.test"
REFERENCE = f"{HOST}/team/app:v1"
PRIVATE = f"team/app@{HOST}!"

# The layer takes two seconds, some hundred times as long as it takes to see that it has begun.
LAYER_BYTES = 8 * MIB
RATE = "32mbit"


@dataclass
class Machine:
    """A containerd, and a private image that it can pull, slowly."""

    containerd: Containerd
    blobs: dict[Digest, bytes]
    manifest: Digest

    @property
    def layer(self) -> Digest:
        """The large one."""
        return max(self.blobs, key=lambda digest: len(self.blobs[digest]))

    async def pull(self) -> None:
        """With the secret, as a kubelet would."""
        secret = ["--user", f"{USER}:{PASSWORD}"]
        await asyncio.to_thread(self.containerd.pull, REFERENCE, *secret)


@contextmanager
def machine(directory: Path, found: Path | None) -> Iterator[Machine]:
    """Both machines in namespaces of their own."""
    with ExitStack() as stack:
        node, last = stack.enter_context(network(directory, 2, {HOST: [2]}))
        upstream = Upstream(directory / "up", last, host=HOST, private=True)
        stack.enter_context(upstream)
        layout = directory / "layout"
        name = images.build_layout(layout, "v1", {"data": noise(LAYER_BYTES)})
        upstream.push(layout, "team/app", "v1")
        shape = ["rate", RATE, "burst", "64kb", "latency", "100ms"]
        last.run("tc", "qdisc", "replace", "dev", "eth0", "root", "tbf", *shape)
        containerd = Containerd(
            directory / "c",
            node,
            host=HOST,
            peer=None,
            upstream=upstream,
            programs=found,
            area="k8s.io",
        )
        blobs = [path.read_bytes() for path in (layout / "blobs" / "sha256").iterdir()]
        yield Machine(
            stack.enter_context(containerd),
            {Digest.of(blob): blob for blob in blobs},
            Digest.parse(name),
        )


@pytest.fixture(params=CONTAINERDS)
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """With each containerd that this machine has."""
    require_namespaces()
    require("containerd", "ctr", "docker-registry", "tc")
    with machine(tmp_path, programs(request.param)) as made:
        yield made


async def nowhere(repository: str, digest: Digest) -> bool:
    """Whether a blob is public."""
    return False


async def test_pull_is_read_while_it_goes_on(running: Machine) -> None:
    """The right comes with the manifest, the first bytes long before the last, the whole blob with
    the commit; and the end of all of it with containerd's garbage collection.
    """
    committed: list[Digest] = []
    content = ContainerdContent(running.containerd.root, committed.append)
    access, layer = ContainerdAccess(content), running.layer
    blob = Path(content.directory.path) / "blobs" / layer.algorithm / layer.hex
    async with followed(content) as background, asyncio.TaskGroup() as group:
        source = ContainerdSource(content, background, nowhere)
        await eventually("it follows", lambda: content._following)
        assert not await source.entitled(layer)
        pulling = group.create_task(running.pull())
        await eventually("the manifest is there", lambda: bool(content.sizes(layer)))
        assert not blob.exists()
        assert access.proof(PRIVATE, layer, "a")
        origin = await IngestOrigins(content).origin(PRIVATE, layer)
        assert origin is not None
        assert origin.size == len(running.blobs[layer])
        async with aclosing(origin.read(0, origin.size)) as chunks:
            got = await anext(chunks)
            assert not blob.exists()
            async for chunk in chunks:
                got += chunk
        assert got == running.blobs[layer]
        await pulling
        named = {d.checked_digest for d in parse_manifest(running.blobs[running.manifest]).blobs}
        for digest in named:
            async with await source.blob(PRIVATE, digest) as opened:
                read = [chunk async for chunk in opened.chunks(0, opened.size)]
                assert b"".join(read) == running.blobs[digest]
        await eventually("its commit is told", lambda: layer in committed)
        await asyncio.to_thread(running.containerd.forget, REFERENCE)
        await eventually("the right is gone", lambda: not content.sizes(layer))
        with pytest.raises(BlobUnknown):
            await source.blob(PRIVATE, layer)
        assert not access.proof(PRIVATE, layer, "a")
