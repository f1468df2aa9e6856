"""What the tests of the mesh share."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from oci_mesh.mesh import gossip
from tests.nodes import Client


@pytest.fixture
async def client() -> AsyncIterator[Client]:
    """A client of registries."""
    async with aiohttp.ClientSession() as session:
        yield Client(session)


@pytest.fixture
def fast_gossip(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of gossip follow each other at once, nearly."""
    monkeypatch.setattr(gossip, "PERIOD_S", 0.05)
