"""All upstreams as one source: what is asked of them, what is remembered, and what comes of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from prometheus_client.parser import text_string_to_metric_families

from oci_mesh.errors import (
    BlobUnknown,
    ManifestUnknown,
    NoRanges,
    UpstreamError,
    UpstreamLimited,
    UpstreamRefused,
    UpstreamUnavailable,
)
from oci_mesh.metrics import Metrics
from oci_mesh.spec.digest import Digest
from oci_mesh.store.memory import MemoryStore
from oci_mesh.tasks import Background
from oci_mesh.upstream import source as source_module
from oci_mesh.upstream.client import UpstreamClient
from oci_mesh.upstream.named import Named
from oci_mesh.upstream.source import UpstreamSource
from tests.store.content import image, index
from tests.upstream.conftest import client_of
from tests.upstream.fake import FakeRegistry, hang_up, status

REPOSITORY = "library/app@registry.test"
LAYER = b"a layer " * 10_000
IMAGE = image(b"{}", LAYER)
DIGEST = Digest.of(LAYER)


class Harness:
    """A source over one client, and what it is made of."""

    def __init__(self, client: UpstreamClient, background: Background) -> None:
        self.store = MemoryStore()
        self.named = Named()
        self.metrics = Metrics()
        self.source = UpstreamSource([client], self.store, self.named, background, self.metrics)

    def requests(self, outcome: str) -> float:
        """How many came to this."""
        families = text_string_to_metric_families(self.metrics.render().decode())
        return sum(
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == "oci_mesh_upstream_requests_total"
            and sample.labels == {"registry": "registry.test", "outcome": outcome}
        )

    async def read(self, start: int, stop: int) -> bytes:
        """Of the layer, as whoever fetches it."""
        origin = await self.source.origin(REPOSITORY, DIGEST)
        assert origin is not None
        async with aclosing(origin.read(start, stop)) as chunks:
            return b"".join([chunk async for chunk in chunks])


@pytest.fixture
async def harness(client: UpstreamClient) -> AsyncIterator[Harness]:
    """Over `registry`."""
    async with Background() as background:
        yield Harness(client, background)


async def test_a_manifest_is_fetched_once_and_kept(
    registry: FakeRegistry, harness: Harness
) -> None:
    """However many ask for it at once; the registry knows it by its own name for the repository."""
    registry.add_manifest(IMAGE)
    asked = [harness.source.manifest(REPOSITORY, IMAGE.digest) for _ in range(5)]
    assert await asyncio.gather(*asked) == [IMAGE] * 5
    assert registry.lines == [f"GET /v2/library/app/manifests/{IMAGE.digest}"]
    assert await harness.store.manifest(REPOSITORY, IMAGE.digest) == IMAGE
    assert harness.requests("answered") == 1


async def test_only_what_was_asked_for_is_fetched(registry: FakeRegistry, harness: Harness) -> None:
    """Not the platforms of an index."""
    platforms = index(IMAGE, image(b"{}", note="another platform"))
    registry.add_manifest(platforms)
    await harness.source.manifest(REPOSITORY, platforms.digest)
    assert len(registry.seen) == 1
    assert await harness.store.tags(REPOSITORY) == []


async def test_other_bytes_than_asked_for_are_not_kept(
    registry: FakeRegistry, harness: Harness
) -> None:
    """What a registry says a manifest is, is a claim."""
    registry.manifests[str(IMAGE.digest)] = index()
    with pytest.raises(UpstreamError):
        await harness.source.manifest(REPOSITORY, IMAGE.digest)
    with pytest.raises(ManifestUnknown):
        await harness.store.manifest(REPOSITORY, IMAGE.digest)
    assert harness.requests("nonsense") == 1


async def test_what_the_upstream_does_not_have_is_unknown(
    registry: FakeRegistry, harness: Harness
) -> None:
    """A manifest, a tag, a blob."""
    with pytest.raises(ManifestUnknown):
        await harness.source.manifest(REPOSITORY, IMAGE.digest)
    with pytest.raises(ManifestUnknown):
        await harness.source.resolve(REPOSITORY, "v1")
    with pytest.raises(BlobUnknown):
        await harness.source.stat(REPOSITORY, DIGEST)
    assert await harness.source.origin(REPOSITORY, DIGEST) is None
    assert harness.requests("unknown") == 4
    assert not harness.source.is_refused(REPOSITORY)


@pytest.mark.parametrize("code", [401, 403])
async def test_a_refusal_is_remembered_for_its_repository(
    code: int, registry: FakeRegistry, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a while nothing of it is asked, of whatever kind; other repositories are."""
    registry.add_manifest(IMAGE, "v1")
    registry.faults = [status(code)]
    with pytest.raises(UpstreamRefused):
        await harness.source.resolve(REPOSITORY, "v1")
    asked = len(registry.seen)
    assert harness.source.is_refused(REPOSITORY)
    with pytest.raises(UpstreamRefused):
        await harness.source.manifest(REPOSITORY, IMAGE.digest)
    assert await harness.source.origin(REPOSITORY, DIGEST) is None
    assert len(registry.seen) == asked
    assert await harness.source.resolve("other@registry.test", "v1") == IMAGE.digest
    monkeypatch.setattr(source_module, "loop_time", lambda: 1e12)
    assert not harness.source.is_refused(REPOSITORY)
    assert await harness.source.resolve(REPOSITORY, "v1") == IMAGE.digest


async def test_refusals_do_not_pile_up(
    registry: FakeRegistry, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes up names does not fill the memory: the oldest are forgotten."""
    monkeypatch.setattr(source_module, "MAX_REFUSED", 3)
    registry.gates = [status(403)]
    for i in range(5):
        with pytest.raises(UpstreamRefused):
            await harness.source.resolve(f"a{i}@registry.test", "v1")
    refused = [harness.source.is_refused(f"a{i}@registry.test") for i in range(5)]
    assert refused == [False, False, True, True, True]


@pytest.mark.parametrize("repository", ["app@registry.test!", "app@other.test", "app"])
async def test_what_is_no_public_repository_of_an_upstream_is_never_asked_for(
    repository: str, registry: FakeRegistry, harness: Harness
) -> None:
    """Private ones least of all: the mesh has no right to them, whoever asks."""
    registry.add_blob(LAYER)
    assert harness.source.is_refused(repository)
    assert await harness.source.origin(repository, DIGEST) is None
    with pytest.raises(UpstreamRefused):
        await harness.source.manifest(repository, IMAGE.digest)
    assert registry.seen == []


async def test_an_upstream_that_is_private_is_never_asked(registry: FakeRegistry) -> None:
    """Only its clients have secrets for it."""
    async with client_of(registry.url, private=True) as client, Background() as background:
        source = Harness(client, background).source
        assert source.is_refused(REPOSITORY)
        with pytest.raises(UpstreamRefused):
            await source.resolve(REPOSITORY, "v1")
        assert await source.origin(REPOSITORY, DIGEST) is None
    assert registry.seen == []


async def test_capabilities_are_kept_to(registry: FakeRegistry) -> None:
    """Who is not to resolve has no tags, who is not to be pulled from has no blobs."""
    registry.add_manifest(IMAGE, "v1")
    registry.add_blob(LAYER)
    async with Background() as background:
        async with client_of(registry.url, capabilities=("pull",)) as client:
            source = Harness(client, background).source
            with pytest.raises(ManifestUnknown):
                await source.resolve(REPOSITORY, "v1")
            assert registry.seen == []
            assert await source.origin(REPOSITORY, DIGEST) is not None
        registry.seen.clear()
        async with client_of(registry.url, capabilities=("resolve",)) as client:
            source = Harness(client, background).source
            assert await source.resolve(REPOSITORY, "v1") == IMAGE.digest
            registry.seen.clear()
            assert await source.origin(REPOSITORY, DIGEST) is None
            assert registry.seen == []


# -- origins


async def test_the_size_of_a_blob_is_known_from_its_manifest(
    registry: FakeRegistry, harness: Harness
) -> None:
    """Then nothing is asked for it; without the manifest, once for all who ask."""
    registry.add_manifest(IMAGE)
    registry.add_blob(LAYER)
    sizes = await asyncio.gather(*(harness.source.stat(REPOSITORY, DIGEST) for _ in range(4)))
    assert set(sizes) == {len(LAYER)}
    assert len(registry.seen) == 1
    await harness.source.manifest(REPOSITORY, IMAGE.digest)
    registry.seen.clear()
    origin = await harness.source.origin(REPOSITORY, DIGEST)
    assert origin is not None
    assert (origin.size, origin.striped, origin.follows_client) == (len(LAYER), True, False)
    assert registry.seen == []


async def test_any_part_of_a_blob_can_be_read(registry: FakeRegistry, harness: Harness) -> None:
    """With one request each."""
    registry.add_blob(LAYER)
    assert await harness.read(0, len(LAYER)) == LAYER
    registry.seen.clear()
    assert await harness.read(1000, 30_000) == LAYER[1000:30_000]
    assert registry.lines == [f"GET /v2/library/app/blobs/{DIGEST}"]


async def test_an_upstream_without_ranges_is_read_by_one(
    registry: FakeRegistry, harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From when that is seen: in the middle of a blob, of a manifest's size."""
    registry.ranges = False
    registry.add_manifest(IMAGE)
    registry.add_blob(LAYER)
    await harness.source.manifest(REPOSITORY, IMAGE.digest)
    origin = await harness.source.origin(REPOSITORY, DIGEST)
    assert origin is not None
    assert origin.striped
    with pytest.raises(NoRanges):
        await harness.read(1000, 30_000)
    assert not origin.striped
    assert await harness.read(1000, 30_000) == LAYER[1000:30_000]
    assert harness.requests("whole") == 1
    monkeypatch.setattr(source_module, "loop_time", lambda: 1e12)
    assert origin.striped


async def test_an_upstream_without_ranges_says_so_when_asked_for_a_size(
    registry: FakeRegistry, harness: Harness
) -> None:
    """Then nobody asks it for a part."""
    registry.ranges = False
    registry.add_blob(LAYER)
    origin = await harness.source.origin(REPOSITORY, DIGEST)
    assert origin is not None
    assert not origin.striped


async def test_an_upstream_that_limits_is_read_by_one(
    registry: FakeRegistry, harness: Harness
) -> None:
    """And that it limits is counted."""
    registry.add_blob(LAYER)
    origin = await harness.source.origin(REPOSITORY, DIGEST)
    assert origin is not None
    registry.faults = [status(429, Retry_After="7200")]
    with pytest.raises(UpstreamLimited):
        await harness.read(0, 10)
    assert not origin.striped
    assert harness.requests("limited") == 1


async def test_who_stops_reading_leaves_nothing_behind(
    registry: FakeRegistry, harness: Harness
) -> None:
    """It is not the upstream's fault, either."""
    registry.add_blob(LAYER)
    origin = await harness.source.origin(REPOSITORY, DIGEST)
    assert origin is not None
    async with aclosing(origin.read(0, len(LAYER))) as chunks:
        async for _ in chunks:
            break
    assert harness.requests("answered") == 2


async def test_an_outage_is_no_reason_to_doubt_what_is_known(
    registry: FakeRegistry, harness: Harness
) -> None:
    """What is public stays so while its registry is away."""
    harness.named.learn(REPOSITORY, IMAGE)
    registry.gates = [hang_up]
    with pytest.raises(UpstreamUnavailable):
        await harness.read(0, 10)
    assert harness.named.is_public(REPOSITORY, DIGEST, [IMAGE.digest])
    assert harness.requests("unavailable") == 1


async def test_a_size_that_is_a_lie_is_found_out(registry: FakeRegistry, harness: Harness) -> None:
    """A manifest says more than there is: that fails, and then the registry itself is asked."""
    harness.named.note(REPOSITORY, DIGEST, len(LAYER) + 4)
    registry.add_blob(LAYER)
    origin = await harness.source.origin(REPOSITORY, DIGEST)
    assert origin is not None
    assert origin.size == len(LAYER) + 4
    with pytest.raises(UpstreamError):
        await harness.read(0, origin.size)
    assert await harness.source.stat(REPOSITORY, DIGEST) == len(LAYER)


# -- what manifests name


async def test_what_is_public_is_known_again_after_a_restart() -> None:
    """From the manifests in the store; nothing is public that was not given to the mesh."""
    store, named = MemoryStore(), Named()
    await store.put_manifest(REPOSITORY, IMAGE)
    await store.put_manifest("app@registry.test!", IMAGE)
    await store.put_manifest("own", IMAGE)
    await named.recall(store)
    assert named.is_public(REPOSITORY, DIGEST, [IMAGE.digest])
    assert named.size(REPOSITORY, DIGEST) == len(LAYER)
    assert not named.is_public("app@registry.test!", DIGEST, [IMAGE.digest])
    assert not named.is_public("own", DIGEST, [IMAGE.digest])


async def test_what_a_private_manifest_names_is_not_public() -> None:
    """Though a public one may name it: anybody can write one that does."""
    named, private = Named(), image(b"{}", LAYER, note="of a private image")
    named.learn(REPOSITORY, IMAGE)
    assert named.is_public(REPOSITORY, DIGEST, [IMAGE.digest])
    assert not named.is_public(REPOSITORY, DIGEST, [private.digest])
    assert not named.is_public(REPOSITORY, DIGEST, [IMAGE.digest, private.digest])
    assert not named.is_public(REPOSITORY, DIGEST, [])


async def test_what_was_named_longest_ago_is_forgotten() -> None:
    """The others stay known, in their repository only."""
    named = Named(limit=3)
    first, second = image(b"1"), image(b"2", b"3")
    named.learn("a@b.c", first)
    named.learn("a@b.c", second)
    assert named.size("a@b.c", Digest.of(b"1")) == 1
    named.learn("a@b.c", first)
    named.learn("a@b.c", image(b"4"))
    known = [
        content for content in (b"1", b"2", b"3", b"4") if named.size("a@b.c", Digest.of(content))
    ]
    assert known == [b"1", b"3", b"4"]
    assert named.is_public("a@b.c", Digest.of(b"1"), [first.digest])
    assert not named.is_public("a@d.e", Digest.of(b"1"), [first.digest])
