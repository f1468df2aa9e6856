"""What the tests of one upstream share."""

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from oci_mesh.upstream import retry
from oci_mesh.upstream.client import UpstreamClient
from oci_mesh.upstream_config import UpstreamConfig
from tests.e2e.authority import issue
from tests.upstream.fake import FakeRegistry, serving


@pytest.fixture(autouse=True)
def no_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between attempts; what a registry asks for is waited for."""
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.0)
    monkeypatch.setattr(retry, "LIMITED_S", 0.0)


@pytest.fixture
async def registry() -> AsyncIterator[FakeRegistry]:
    """Without TLS and authentication."""
    server = FakeRegistry()
    async with serving(server):
        yield server


class Authority:
    """Signs the certificate of servers on localhost."""

    def __init__(self, directory: Path) -> None:
        issue(directory / "tls", ["localhost"])
        self.ca = directory / "tls" / "ca.pem"
        self.certificate = directory / "tls" / "server.pem"
        self.key = directory / "tls" / "server.key"

    def server_context(self) -> ssl.SSLContext:
        """For a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        return context

    def client_context(self) -> ssl.SSLContext:
        """For a client that is not the one under test."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(self.ca)
        return context


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Of this run of the tests."""
    return Authority(tmp_path_factory.mktemp("authority"))


@asynccontextmanager
async def client_of(*urls: str, **settings: Any) -> AsyncIterator[UpstreamClient]:
    """A client of an upstream called registry.test at these URLs."""
    async with UpstreamClient(UpstreamConfig(name="registry.test", urls=urls, **settings)) as made:
        yield made


@pytest.fixture
async def client(registry: FakeRegistry) -> AsyncIterator[UpstreamClient]:
    """Of `registry`."""
    async with client_of(registry.url) as made:
        yield made


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file with a password."""
    path = tmp_path / "secret"
    path.write_text("correct horse battery\n")
    return path
