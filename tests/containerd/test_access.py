"""A proof is of who has a manifest, for one node and one blob; nothing else is one."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from oci_mesh.containerd import access as module
from oci_mesh.containerd.access import ContainerdAccess
from oci_mesh.containerd.content import ContainerdContent
from oci_mesh.spec.digest import Digest
from tests.containerd.fake import PRIVATE, FakeContainerd, followed, known
from tests.nodes import Image, eventually, make_image

IMAGE = make_image("access")
LAYER = Digest.of(IMAGE.blobs[1])
CONFIG = Digest.of(IMAGE.blobs[0])


class Machine:
    """A node's containerd, and what the node makes of it."""

    def __init__(self, root: Path, *, any_node: bool = False) -> None:
        self.containerd = FakeContainerd(root)
        self.containerd.start()
        self.content = ContainerdContent(root)
        self.access = ContainerdAccess(self.content, any_node=any_node)

    async def pull(self, *images: Image) -> None:
        """Have their manifests."""
        for image in images:
            self.containerd.commit(image.manifest)
            assert await self.content.entitled(Digest.of(image.blobs[1]))


@pytest.fixture
async def machines(tmp_path: Path) -> AsyncIterator[list[Machine]]:
    """Three, with nothing."""
    async with AsyncExitStack() as stack:
        made = [Machine(tmp_path / name) for name in "abc"]
        for machine in made:
            await stack.enter_async_context(followed(machine.content))
        await eventually("they follow", lambda: all(m.content._following for m in made))
        yield made


def sharing(number: int) -> Image:
    """One of many images with the same blobs."""
    return make_image("access", annotations={"number": str(number)})


async def test_who_has_the_manifest_proves_it_to_who_has_it(machines: list[Machine]) -> None:
    """For each blob that it names."""
    for machine in machines[:2]:
        await machine.pull(IMAGE)
    for digest in (LAYER, CONFIG):
        proof = machines[0].access.proof(PRIVATE, digest, "a")
        assert proof
        assert await machines[1].access.is_proven(PRIVATE, digest, "a", proof)


async def test_a_manifest_of_just_now_counts(machines: list[Machine]) -> None:
    """Two containerds pull one image together: who is asked may have got it a moment ago."""
    await machines[0].pull(IMAGE)
    proof = machines[0].access.proof(PRIVATE, LAYER, "a")
    machines[1].containerd.commit(IMAGE.manifest)
    assert await machines[1].access.is_proven(PRIVATE, LAYER, "a", proof)


async def test_who_has_no_manifest_has_no_proof(machines: list[Machine]) -> None:
    """And believes none: it cannot tell."""
    await machines[0].pull(IMAGE)
    proof = machines[0].access.proof(PRIVATE, LAYER, "a")
    assert machines[2].access.proof(PRIVATE, LAYER, "c") == ""
    assert not await machines[2].access.is_proven(PRIVATE, LAYER, "a", proof)


async def test_proof_is_of_one_node_and_one_blob(machines: list[Machine]) -> None:
    """Seen or asked for by others, it is of no use to them."""
    for machine in machines[:2]:
        await machine.pull(IMAGE)
    proof = machines[0].access.proof(PRIVATE, LAYER, "a")
    checks = machines[1].access
    assert not await checks.is_proven(PRIVATE, LAYER, "c", proof)
    assert not await checks.is_proven(PRIVATE, CONFIG, "a", proof)
    assert not await checks.is_proven(PRIVATE, LAYER, "", proof)


@pytest.mark.parametrize(
    "proof", ["", ",", ",,,,,,,,,,", "member", "0" * 64, "é" * 64, "x" * 100_000, "\udcff", "\0"]
)
async def test_nonsense_proves_nothing(machines: list[Machine], proof: str) -> None:
    """And is no trouble."""
    await machines[0].pull(IMAGE)
    assert not await machines[0].access.is_proven(PRIVATE, LAYER, "a", proof)


async def test_proof_says_nothing_of_the_manifest(machines: list[Machine]) -> None:
    """Nor can it be made of what others know: the digests of the manifest and of the blob."""
    await machines[0].pull(IMAGE)
    proof = machines[0].access.proof(PRIVATE, LAYER, "a")
    assert len(proof) == 64
    assert Digest.of(IMAGE.manifest).hex not in proof
    assert LAYER.hex not in proof


async def test_nodes_with_one_of_many_manifests_in_common(machines: list[Machine]) -> None:
    """A base layer: it is the newest that they have in common; what is shown stays small."""
    first, second, third = machines
    await first.pull(*map(sharing, range(20)), sharing(99))
    await second.pull(sharing(99), *map(sharing, range(20, 20 + module.MAX_COMPARED - 1)))
    proof = first.access.proof(PRIVATE, LAYER, "a")
    assert len(proof.split(",")) == module.MAX_SHOWN
    assert await second.access.is_proven(PRIVATE, LAYER, "a", proof)
    await third.pull(*map(sharing, range(200, 230)))
    assert not await third.access.is_proven(PRIVATE, LAYER, "a", proof)


async def test_right_ends_with_the_manifest(machines: list[Machine]) -> None:
    """A node whose containerd has let go of the image shows nothing any more."""
    await machines[0].pull(IMAGE)
    machines[0].containerd.delete(Digest.of(IMAGE.manifest))
    await eventually("it is gone", lambda: not machines[0].access.proof(PRIVATE, LAYER, "a"))


async def test_any_node_if_the_operator_says_so(tmp_path: Path) -> None:
    """Then nodes without a manifest show that they are members, and all are believed."""
    machine = Machine(tmp_path / "d", any_node=True)
    async with followed(machine.content):
        await eventually("it follows", lambda: machine.content._following)
        assert machine.access.proof(PRIVATE, LAYER, "d")
        assert await machine.access.is_proven(PRIVATE, LAYER, "x", "anything")
        await machine.pull(IMAGE)
        await known(machine.content, LAYER)
        strict = Machine(tmp_path / "e")
        async with followed(strict.content):
            await eventually("it follows", lambda: strict.content._following)
            await strict.pull(IMAGE)
            proof = machine.access.proof(PRIVATE, LAYER, "d")
            assert await strict.access.is_proven(PRIVATE, LAYER, "d", proof)
