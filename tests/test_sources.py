"""A chain of sources answers like one; work that many ask for is done once."""

import asyncio
from collections.abc import Awaitable

import pytest

from oci_mesh.errors import BlobUnknown, ManifestUnknown, PeerError, StorageFailed
from oci_mesh.sources import Chain, SingleFlight, Source, bring
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor, Manifest, parse_manifest
from oci_mesh.store.base import Blob
from oci_mesh.store.memory import MemoryBlob, MemoryStore
from oci_mesh.store.uses import Uses
from oci_mesh.tasks import Background
from tests.nodes import make_image

CONTENT = b"content"
DIGEST = Digest.of(CONTENT)
MANIFEST = parse_manifest(make_image("source").manifest)
SUBJECT = Digest.of(b"subject")


def descriptor(name: bytes) -> Descriptor:
    """Of a referrer called `name`."""
    return Descriptor("application/x", str(Digest.of(name)), 1)


class Fake:
    """A source that has it all, or raises `error`."""

    def __init__(self, error: Exception | None = None, *referrers: Descriptor) -> None:
        self._error = error
        self._referrers = list(referrers)
        self.asked = 0

    def _ask(self) -> None:
        self.asked += 1
        if self._error is not None:
            raise self._error

    async def stat(self, repository: str, digest: Digest) -> int:
        """7."""
        self._ask()
        return len(CONTENT)

    async def blob(self, repository: str, digest: Digest) -> Blob:
        """`CONTENT`."""
        self._ask()
        return MemoryBlob(DIGEST, CONTENT, Uses())

    async def manifest(self, repository: str, digest: Digest) -> Manifest:
        """`MANIFEST`."""
        self._ask()
        return MANIFEST

    async def referrers(self, repository: str, subject: Digest) -> list[Descriptor]:
        """What it was made with."""
        self._ask()
        return self._referrers


async def _everything(source: Source) -> tuple[int, int, Manifest]:
    blob = await source.blob("app", DIGEST)
    return await source.stat("app", DIGEST), blob.size, await source.manifest("app", DIGEST)


async def test_the_first_that_has_it_answers_and_later_ones_are_not_asked() -> None:
    """Sources are in the order of what they cost."""
    first, second = Fake(), Fake()
    assert await _everything(Chain([first, second])) == (7, 7, MANIFEST)
    assert (first.asked, second.asked) == (3, 0)


async def test_who_has_not_or_cannot_tell_is_passed_over() -> None:
    """Both kinds of unknown, and a peer's failure; chains nest."""
    inner = Chain([Fake(PeerError("gone")), Fake()])
    assert (await _everything(Chain([MemoryStore(), inner])))[0] == 7


@pytest.mark.parametrize("last", [Fake(PeerError("gone")), MemoryStore()])
async def test_what_nobody_has_is_unknown(last: Source) -> None:
    """Also if the last could not tell: clients then go elsewhere, with a 404."""
    for chain in (Chain([MemoryStore(), last]), Chain([last, MemoryStore()]), Chain([])):
        with pytest.raises(BlobUnknown):
            await chain.blob("app", DIGEST)
        with pytest.raises(BlobUnknown):
            await chain.stat("app", DIGEST)
        with pytest.raises(ManifestUnknown):
            await chain.manifest("app", DIGEST)


async def test_a_failure_of_our_own_is_not_hidden() -> None:
    """A disk that fails is no reason to say that nobody has it."""
    with pytest.raises(StorageFailed):
        await Chain([Fake(StorageFailed("disk")), Fake()]).blob("app", DIGEST)


async def test_referrers_come_from_all_each_once_in_order() -> None:
    """Of who cannot tell none."""
    first, second, third = sorted((descriptor(b"1"), descriptor(b"2"), descriptor(b"3")), key=_key)
    chain = Chain([Fake(None, third, first), Fake(PeerError("gone")), Fake(None, second, first)])
    assert await chain.referrers("app", SUBJECT) == [first, second, third]


def _key(found: Descriptor) -> str:
    return found.digest


class Incoming(MemoryBlob):
    """A blob whose bytes can be read before it is stored, if it will be."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__(DIGEST, CONTENT, Uses())
        self.asked, self.settled, self.closed = asyncio.Event(), asyncio.Event(), False
        self._error = error

    async def stored(self) -> None:
        """Once `settled`."""
        self.asked.set()
        await self.settled.wait()
        if self._error is not None:
            raise self._error

    async def close(self) -> None:
        """As `Blob.close`."""
        self.closed = True


@pytest.mark.parametrize("error", [None, PeerError("all left")])
async def test_bring_waits_until_it_is_stored(error: PeerError | None) -> None:
    """To have verified bytes is not enough: whoever asks goes on to say that they are kept."""
    incoming = Incoming(error)

    class Fetching(Fake):
        async def blob(self, repository: str, digest: Digest) -> Blob:
            return incoming

    async with asyncio.TaskGroup() as group:
        bringing = group.create_task(_outcome(bring(Fetching(), "app", DIGEST)))
        await asyncio.wait_for(incoming.asked.wait(), 30)
        assert not bringing.done()
        incoming.settled.set()
        assert await bringing is error
    assert incoming.closed


async def _outcome(work: Awaitable[None]) -> Exception | None:
    try:
        await work
    except Exception as error:  # noqa: BLE001 -- a test looks at it
        return error
    return None


class Work:
    """Counts how often it was done; ends when told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.begun = 0
        self.beginning = asyncio.Event()
        self.go_on = asyncio.Event()
        self._error = error

    async def __call__(self) -> int:
        """How often it was begun."""
        self.begun += 1
        self.beginning.set()
        await self.go_on.wait()
        if self._error is not None:
            raise self._error
        return self.begun


async def test_many_callers_cost_one_run() -> None:
    """For one key; another key is another run, and so is a later time."""
    async with Background() as background:
        flight, work = SingleFlight[str, int](background), Work()
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(flight.run("a", work)) for _ in range(20)]
            await asyncio.sleep(0)
            work.go_on.set()
        assert {call.result() for call in calls} == {1}
        assert await flight.run("b", work) == 2
        assert await flight.run("a", work) == 3


async def test_a_caller_that_goes_away_takes_nothing_from_the_others() -> None:
    """Not even the first one."""
    async with Background() as background:
        flight, work = SingleFlight[str, int](background), Work()
        async with asyncio.TaskGroup() as group:
            first = group.create_task(flight.run("a", work))
            second = group.create_task(flight.run("a", work))
            await work.beginning.wait()
            first.cancel()
            await asyncio.wait([first])
            work.go_on.set()
        assert first.cancelled()
        assert second.result() == 1


async def test_a_failure_is_every_callers_and_nobody_elses() -> None:
    """The background goes on, and the next call is a new run."""
    async with Background() as background:
        flight, work = SingleFlight[str, int](background), Work(BlobUnknown("no"))
        work.go_on.set()
        results = await asyncio.gather(
            *(flight.run("a", work) for _ in range(3)), return_exceptions=True
        )
        assert [type(result) for result in results] == [BlobUnknown] * 3
        assert work.begun == 1
        with pytest.raises(BlobUnknown):
            await flight.run("a", work)
        assert work.begun == 2


async def test_callers_of_work_that_is_stopped_are_cancelled() -> None:
    """They do not wait for ever."""
    work = Work()
    async with asyncio.TaskGroup() as group:
        async with Background() as background:
            flight = SingleFlight[str, int](background)
            call = group.create_task(flight.run("a", work))
            await work.beginning.wait()
        await asyncio.wait([call])
    assert call.cancelled()
