"""The attempts at one operation: at which of an upstream's places next, and when.

Each place is tried once in a round, in the order of the configuration; between rounds there is a
wait, longer each time. What may pass (no connection, a cut, 5xx, 429) is tried again, an answer
that is wrong in itself only elsewhere, a refusal nowhere.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from random import uniform
from typing import Final

from aiohttp import ClientResponse
from yarl import URL

from oci_mesh.errors import UpstreamError, UpstreamLimited, UpstreamRefused, UpstreamUnavailable
from oci_mesh.tasks import loop_time
from oci_mesh.upstream.breaker import Breaker
from oci_mesh.upstream_config import Place

_log = logging.getLogger(__name__)

# Without progress. A client waits meanwhile, and has another way to go: to the upstream itself.
MAX_ROUNDS: Final = 3
FIRST_WAIT_S: Final = 0.25

# A registry that asks for more patience than this is not waited for: its callers are told, and
# fetch with fewer connections, or send the client there by itself.
MAX_WAIT_S: Final = 5.0

# What a 429 without Retry-After stands for.
LIMITED_S: Final = 1.0


@dataclass(slots=True)
class Endpoint:
    """One of an upstream's URLs, and how it has been lately."""

    url: URL
    place: Place
    breaker: Breaker = field(default_factory=Breaker)


class Attempts:
    """At one operation. `next`, and then `failed` if it did."""

    def __init__(self, name: str, endpoints: Sequence[Endpoint]) -> None:
        self._name = name
        self._endpoints = endpoints
        self._left = list(endpoints)
        """Those of this round."""
        self._wrong: list[Endpoint] = []
        """Those that are not asked again."""
        self._rounds = 1
        self._wait_s = 0.0
        self._error: UpstreamError | None = None

    def progress(self) -> None:
        """Something was achieved: begin to count anew."""
        self._rounds = 1

    async def next(self) -> Endpoint:
        """Where to try now; waits if that is not yet. Raises the last error if enough was tried."""
        while True:
            now = loop_time()
            while self._left:
                endpoint = self._left.pop(0)
                if endpoint.breaker.admits(now):
                    return endpoint
            wait_s = self._until_next_round(now)
            self._rounds += 1
            self._left = [each for each in self._endpoints if each not in self._wrong]
            await asyncio.sleep(wait_s)

    def failed(self, endpoint: Endpoint, error: UpstreamError) -> None:
        """Take note. Raises `error` again if it is of the kind that no other attempt changes."""
        self._error = error
        now = loop_time()
        if isinstance(error, UpstreamRefused):
            raise error
        if isinstance(error, UpstreamLimited):
            endpoint.breaker.limited(now, error.retry_after_s)
        elif isinstance(error, UpstreamUnavailable):
            self._wait_s = max(self._wait_s, error.retry_after_s)
            if endpoint.breaker.failed(now):
                rest_s = endpoint.breaker.rest_s(now)
                _log.warning("%s is not asked for %.0f s: %s", endpoint.place, rest_s, error)
        else:
            self._wrong.append(endpoint)
        _log.debug("%s: %s", self._name, error)

    def _until_next_round(self, now: float) -> float:
        """Seconds; or raise what this operation has come to."""
        able = [each for each in self._endpoints if each not in self._wrong]
        unbroken = [each for each in able if each.breaker.rest_s(now) == 0]
        if not able or self._rounds >= MAX_ROUNDS or not unbroken:
            raise self._error or self._nobody(now)
        wait_s = FIRST_WAIT_S * 2.0 ** (self._rounds - 1) * uniform(0.5, 1.0)
        limited_s = min(each.breaker.limited_s(now) for each in unbroken)
        wait_s = max(wait_s, self._wait_s, limited_s)
        self._wait_s = 0.0
        if wait_s > MAX_WAIT_S:
            raise self._error or self._nobody(now)
        return wait_s

    def _nobody(self, now: float) -> UpstreamError:
        """Nothing was tried, as nothing may be asked."""
        limited_s = max(each.breaker.limited_s(now) for each in self._endpoints)
        if limited_s > 0:
            return UpstreamLimited(
                f"{self._name} wants to be asked again in {limited_s:.0f} s",
                retry_after_s=limited_s,
            )
        rest_s = min(each.breaker.rest_s(now) for each in self._endpoints)
        return UpstreamUnavailable(
            f"{self._name} has failed too often and is asked again in {rest_s:.0f} s",
            retry_after_s=rest_s,
        )


def passing(response: ClientResponse, what: str) -> UpstreamError | None:
    """What a status comes to that another attempt may change: 408, 429, 5xx. `what` says which."""
    wait_s = parse_retry_after(response.headers.get("Retry-After"))
    if response.status == 429:
        wait_s = LIMITED_S if wait_s is None else wait_s
        return UpstreamLimited(f"{what}: it wants to be asked less", retry_after_s=wait_s)
    if response.status == 408 or response.status >= 500:
        return UpstreamUnavailable(what, retry_after_s=wait_s or 0.0)
    return None


def parse_retry_after(text: str | None) -> float | None:
    """`Retry-After` (RFC 9110, §10.2.3) in seconds from now; None if there is none that counts."""
    text = (text or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
