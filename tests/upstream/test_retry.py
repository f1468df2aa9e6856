"""Which URL is asked when, of one that works and others that do not."""

import asyncio
import time
from email.utils import formatdate

import pytest

from oci_mesh.errors import UpstreamError, UpstreamLimited, UpstreamUnavailable
from oci_mesh.spec.manifest import encode_index, parse_manifest
from oci_mesh.upstream import breaker
from oci_mesh.upstream.breaker import FAILURES
from oci_mesh.upstream.retry import MAX_ROUNDS, parse_retry_after
from tests.upstream.conftest import client_of
from tests.upstream.fake import FakeRegistry, hang_up, redirect, serving, status

INDEX = parse_manifest(encode_index([]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("120", 120),
        (" 7 ", 7),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        (None, None),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("٣", None),
        ("Fri, 99 Foo 2026 00:00:00 GMT", None),
    ],
)
def test_retry_after(text: str | None, expected: float | None) -> None:
    """In seconds or as a date; anything else is none."""
    assert parse_retry_after(text) == expected
    assert parse_retry_after("9" * 5000) == 999_999_999
    soon = formatdate(time.time() + 100, usegmt=True)
    assert parse_retry_after(soon) == pytest.approx(100, abs=30)


async def test_urls_are_asked_in_order(registry: FakeRegistry) -> None:
    """The first as long as it works, and again as soon as it does."""
    second = FakeRegistry()
    for server in (registry, second):
        server.add_manifest(INDEX, "v1")
    async with serving(second), client_of(registry.url, second.url) as client:
        for faults, counts in (
            ([], (1, 0)),
            ([status(503)], (2, 1)),
            ([hang_up] * 2, (4, 2)),
            ([status(429, Retry_After="0")], (5, 3)),
            ([redirect("ftp://x")], (6, 4)),
            ([], (7, 4)),
        ):
            registry.faults = list(faults)
            assert await client.manifest("app", "v1") == INDEX
            assert (len(registry.seen), len(second.seen)) == counts


@pytest.mark.parametrize("code", [401, 403, 404])
async def test_an_answer_is_an_answer(registry: FakeRegistry, code: int) -> None:
    """Of the first: the others are the same registry, not other ones."""
    second = FakeRegistry()
    registry.faults = [status(code)]
    async with serving(second), client_of(registry.url, second.url) as client:
        try:
            assert await client.manifest("app", "v1") is None
        except UpstreamError:
            assert code != 404
    assert second.seen == []


async def test_a_wrong_answer_is_asked_for_once_of_each(registry: FakeRegistry) -> None:
    """And then it is the outcome."""
    second = FakeRegistry()
    registry.faults = second.faults = [redirect("ftp://x")] * 9
    async with serving(second), client_of(registry.url, second.url) as client:
        with pytest.raises(UpstreamError, match="not a URL"):
            await client.manifest("app", "v1")
    assert (len(registry.seen), len(second.seen)) == (1, 1)


async def test_rounds(registry: FakeRegistry) -> None:
    """Each goes through all URLs."""
    second = FakeRegistry()
    registry.faults = second.faults = [status(500)] * 20
    async with serving(second), client_of(registry.url, second.url) as client:
        with pytest.raises(UpstreamUnavailable):
            await client.manifest("app", "v1")
    assert (len(registry.seen), len(second.seen)) == (MAX_ROUNDS, MAX_ROUNDS)


async def test_a_broken_upstream_is_left_alone(
    registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After some failures of all requests together: callers are told at once. One probe then finds
    out, and if it works, it works for all.
    """
    monkeypatch.setattr(breaker, "REST_S", 0.5)
    registry.add_manifest(INDEX, "v1")
    registry.faults = [status(500)] * FAILURES
    async with client_of(registry.url) as client:
        for _ in range(2):
            with pytest.raises(UpstreamUnavailable, match="500"):
                await client.manifest("app", "v1")
        assert len(registry.seen) == FAILURES
        for _ in range(5):
            with pytest.raises(UpstreamUnavailable, match="failed too often"):
                await client.manifest("app", "v1")
        assert len(registry.seen) == FAILURES
        assert caplog.text.count("is not asked for") == 1
        async with asyncio.timeout(30):
            while True:
                try:
                    assert await client.manifest("app", "v1") == INDEX
                    break
                except UpstreamUnavailable:
                    await asyncio.sleep(0.05)
        assert len(registry.seen) == FAILURES + 1
        async with asyncio.TaskGroup() as group:
            for _ in range(10):
                group.create_task(client.manifest("app", "v1"))


async def test_one_broken_url_costs_nothing(registry: FakeRegistry) -> None:
    """Once it is known to be."""
    async with serving(FakeRegistry()) as gone:
        pass
    registry.add_manifest(INDEX, "v1")
    async with client_of(gone, registry.url) as client:
        for _ in range(3 * FAILURES):
            assert await client.manifest("app", "v1") == INDEX
    assert len(registry.seen) == 3 * FAILURES


async def test_patience_holds_for_all(registry: FakeRegistry) -> None:
    """A registry that wants a minute gets it from everybody, and callers know until when."""
    registry.faults = [status(429, Retry_After="60")]
    async with client_of(registry.url) as client:
        for _ in range(3):
            with pytest.raises(UpstreamLimited) as caught:
                await client.manifest("app", "v1")
            assert 50 < caught.value.retry_after_s <= 60
    assert len(registry.seen) == 1


async def test_a_failure_may_say_when(registry: FakeRegistry) -> None:
    """503 with Retry-After: a short one is waited for, a long one is not."""
    registry.add_manifest(INDEX, "v1")
    registry.faults = [status(503, Retry_After="1")]
    loop = asyncio.get_running_loop()
    async with client_of(registry.url) as client:
        begun = loop.time()
        assert await client.manifest("app", "v1") == INDEX
        assert loop.time() - begun > 0.9
        registry.faults = [status(503, Retry_After="100")]
        with pytest.raises(UpstreamUnavailable):
            await client.manifest("app", "v1")
    assert len(registry.seen) == 3
