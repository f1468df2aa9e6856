"""A registry that runs, alone, over a store in memory."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest

from oci_mesh.metrics import Metrics
from oci_mesh.registry.api import Registry
from oci_mesh.registry.manifests import Sparse
from oci_mesh.registry.server import RegistryServer
from oci_mesh.store.memory import MemoryStore
from tests.registry.client import Client
from tests.registry.publisher import LonePublisher

Address = tuple[str, int]
Serve = Callable[..., AbstractAsyncContextManager[RegistryServer]]


@pytest.fixture
def store() -> MemoryStore:
    """What the registry serves."""
    return MemoryStore()


@pytest.fixture
def serve(store: MemoryStore) -> Serve:
    """Run a registry over the store, with a policy of its own if need be."""

    @asynccontextmanager
    async def run(sparse: Sparse = Sparse.INDEX) -> AsyncIterator[RegistryServer]:
        registry = Registry(store, store, LonePublisher(), Metrics(), sparse=sparse)
        async with RegistryServer(registry.handle, "127.0.0.1", 0, drain_s=0) as server:
            yield server

    return run


@pytest.fixture
async def address(serve: Serve) -> AsyncIterator[Address]:
    """Where a registry listens."""
    async with serve() as server:
        yield server.address


@pytest.fixture
async def client(address: Address) -> AsyncIterator[Client]:
    """An honest client of the registry at `address`."""
    async with Client(address) as client:
        yield client
