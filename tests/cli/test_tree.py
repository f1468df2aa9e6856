"""The walk, over manifests that exist only in a dict."""

from collections.abc import Sequence

import pytest

from oci_mesh.cli import tree as tree_module
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.tree import Tree, no_referrers
from oci_mesh.spec.manifest import Descriptor, Manifest, encode_index, parse_manifest


class Library:
    """Indexes by digest."""

    def __init__(self) -> None:
        self.known: dict[str, Manifest] = {}

    def index(self, *children: Descriptor) -> Descriptor:
        """A new index of those."""
        manifest = parse_manifest(encode_index(children))
        self.known[str(manifest.digest)] = manifest
        return manifest.descriptor()

    async def fetch(self, descriptor: Descriptor) -> Manifest | None:
        """What there is."""
        return self.known.get(descriptor.digest)


async def grown(library: Library, root: Descriptor) -> Tree:
    """Without referrers."""
    tree = Tree(root)
    await tree.grow(library.fetch, no_referrers)
    return tree


async def test_children_first_and_once() -> None:
    """A diamond: the shared child comes once, before both of its parents."""
    library = Library()
    leaf = library.index()
    left, right = library.index(leaf), library.index(leaf, leaf)
    tree = await grown(library, library.index(left, right))
    digests = [str(manifest.digest) for manifest in tree.manifests]
    assert digests == [leaf.digest, left.digest, right.digest, tree.root.digest]


async def test_no_root() -> None:
    """Nothing can be done without it."""
    with pytest.raises(Failure, match="is not there"):
        await grown(Library(), Descriptor("a/b", f"sha256:{'0' * 64}", 1))


async def test_an_end_to_depth() -> None:
    """Indexes nested deeper than anybody does are refused."""
    library = Library()
    root = library.index()
    for _ in range(tree_module.MAX_DEPTH):
        root = library.index(root)
    assert len((await grown(library, root)).manifests) == tree_module.MAX_DEPTH + 1
    with pytest.raises(Failure, match="more manifests than any real image"):
        await grown(library, library.index(root))


@pytest.mark.parametrize(("limit", "value"), [("MAX_MANIFESTS", 2), ("MAX_TREE_BYTES", 300)])
async def test_an_end_to_breadth(monkeypatch: pytest.MonkeyPatch, limit: str, value: int) -> None:
    """Many manifests, or a few that are huge."""
    library = Library()
    leaf = library.index()
    root = library.index(leaf, library.index(leaf))
    await grown(library, root)
    monkeypatch.setattr(tree_module, limit, value)
    with pytest.raises(Failure, match="more manifests than any real image"):
        await grown(library, root)


async def test_referrers_that_refer_to_each_other() -> None:
    """A registry may say anything: what was visited is not visited again."""
    library = Library()
    leaf = library.index()
    other = library.index(leaf)

    async def referrers(subject: Descriptor) -> Sequence[Descriptor]:
        return [other, leaf]

    tree = Tree(leaf)
    await tree.grow(library.fetch, referrers)
    assert [str(manifest.digest) for manifest in tree.manifests] == [other.digest, leaf.digest]
