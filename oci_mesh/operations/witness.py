"""Sees a certain request of a client arrive: what proves that a container runtime asks this node.

Only what somebody looks out for is noticed. It is answered late, and with 404: whoever waits for it
can break it off before the client goes on at another place.
"""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Final

from oci_mesh.control.witness import (
    MAX_WITHIN_S,
    NONCE_LENGTH,
    REPOSITORY,
    Sighting,
    WitnessRequest,
)
from oci_mesh.errors import OperationFailed

# At a time: an operator has one terminal, a fleet's monitor some.
MAX_AWAITED: Final = 16

# How late it is answered.
HOLD_S: Final = 1.0

_NONCE: Final = re.compile(rf"[0-9a-f]{{{NONCE_LENGTH}}}")
_PATH: Final = re.compile(rf"/v2/(?:([^/]+)/)?{REPOSITORY}/([0-9a-f]{{{NONCE_LENGTH}}})/")


class Witness:
    """Of one node."""

    def __init__(self) -> None:
        self._awaited: dict[str, asyncio.Future[str]] = {}

    async def answer(self, asked: WitnessRequest) -> AsyncGenerator[Sighting, None]:
        """Look out from the first document on; the last one says whether it came."""
        if _NONCE.fullmatch(asked.nonce) is None:
            raise OperationFailed(f"a nonce is {NONCE_LENGTH} hexadecimal digits")
        if len(self._awaited) >= MAX_AWAITED:
            raise OperationFailed(
                f"{MAX_AWAITED} such requests are waited for already", hint="try again in a minute"
            )
        seen: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._awaited[asked.nonce] = seen
        try:
            yield Sighting(seen=False)
            async with asyncio.timeout(min(max(asked.within_s, 0.0), MAX_WITHIN_S)):
                registry = await seen
            yield Sighting(seen=True, registry=registry)
        except TimeoutError:
            yield Sighting(seen=False)
        finally:
            del self._awaited[asked.nonce]

    @property
    def looks_out(self) -> bool:
        """Whether anything is awaited: else `sees` sees nothing."""
        return bool(self._awaited)

    async def sees(self, path: str, registry: str) -> bool:
        """Whether a client's request is one that is looked out for; it is to be answered 404.

        `registry` is what the client says with `ns`.
        """
        match = _PATH.match(path)
        if match is None or match[2] not in self._awaited:
            return False
        seen = self._awaited[match[2]]
        if not seen.done():
            seen.set_result(registry or match[1] or "")
        await asyncio.sleep(HOLD_S)
        return True
