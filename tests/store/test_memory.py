"""The store in memory keeps the contract."""

# ruff: noqa: D102 -- the names are sentences

from collections.abc import AsyncIterator

import pytest

from oci_mesh.store.base import Store
from oci_mesh.store.memory import MemoryStore
from tests.store.contract import StoreContract


class TestMemoryStore(StoreContract):
    """See `StoreContract`."""

    @pytest.fixture
    async def store(self) -> AsyncIterator[Store]:
        async with MemoryStore() as store:
            yield store
