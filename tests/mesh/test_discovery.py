"""Names to join by stand for all their addresses, and may fail for now."""

import socket
from pathlib import Path
from typing import Any

import pytest

from oci_mesh.mesh import discovery, gossip
from oci_mesh.mesh.discovery import resolve_seeds
from tests.nodes import eventually, meet, running, seen_by

RESOLVE = socket.getaddrinfo


class Dns:
    """What names stand for now; `asked` counts the look-ups."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.asked = 0

    def getaddrinfo(self, host: str, port: int, *args: Any, **kwargs: Any) -> list[Any]:
        """As `socket.getaddrinfo`; only names that end in .test are ours."""
        if not host.endswith(".test"):
            return RESOLVE(host, port, *args, **kwargs)
        self.asked += 1
        if host not in self.addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [
            (
                socket.AF_INET6 if ":" in address else socket.AF_INET,
                socket.SOCK_STREAM,
                6,
                "",
                (address, port, 0, 0) if ":" in address else (address, port),
            )
            for address in self.addresses[host]
        ]


@pytest.fixture
def dns(monkeypatch: pytest.MonkeyPatch) -> Dns:
    """Names that end in .test."""
    dns = Dns()
    monkeypatch.setattr(socket, "getaddrinfo", dns.getaddrinfo)
    return dns


async def test_a_name_is_all_its_addresses(dns: Dns) -> None:
    """As a Kubernetes headless service has them; IPv6 in brackets, each once."""
    dns.addresses["many.test"] = ["10.0.0.1", "10.0.0.2", "fd00::1", "10.0.0.1"]
    dns.addresses["more.test"] = ["10.0.0.2", "10.0.0.3"]
    found = await resolve_seeds(["many.test:7946", "more.test:7946", "10.0.0.9:80", "[fd00::9]:81"])
    assert found == [
        "10.0.0.1:7946",
        "10.0.0.2:7946",
        "[fd00::1]:7946",
        "10.0.0.3:7946",
        "10.0.0.9:80",
        "[fd00::9]:81",
    ]


@pytest.mark.parametrize("name", ["gone.test", "a..test", "x" * 100 + ".test", "-"])
async def test_a_name_that_cannot_be_looked_up_is_logged_and_left_out(
    name: str, dns: Dns, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others count."""
    if name != "gone.test":
        monkeypatch.setattr(socket, "getaddrinfo", RESOLVE)  # these never get to a server
    assert await resolve_seeds([f"{name}:7946", "127.0.0.1:80"]) == ["127.0.0.1:80"]
    assert f"{name}:7946 cannot be looked up now" in caplog.text


async def test_a_look_up_without_an_answer_is_given_up(
    dns: Dns, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolver may be silent for minutes."""
    monkeypatch.setattr(discovery, "LOOKUP_S", 0.0)
    assert await resolve_seeds(["many.test:7946"]) == []
    assert "no answer" in caplog.text


@pytest.mark.usefixtures("fast_gossip")
async def test_a_name_is_looked_up_again_until_it_leads_somewhere(
    dns: Dns, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A node may start before its DNS; one of many addresses that is alive is enough."""
    async with running(tmp_path, "a") as a:
        port = a.mesh_address.rpartition(":")[2]
        async with running(tmp_path, "b", f"mesh.test:{port}") as b:
            await eventually("it tries again", lambda: dns.asked > 3)
            assert not seen_by(b)
            dns.addresses["mesh.test"] = ["127.0.0.2", "127.0.0.1", "127.0.0.3"]
            await meet(a, b)


async def test_a_node_joins_by_whichever_address_is_alive(dns: Dns, tmp_path: Path) -> None:
    """At its start, when all addresses are tried; no gossip is needed for it."""
    async with running(tmp_path, "a") as a:
        port = a.mesh_address.rpartition(":")[2]
        dns.addresses["mesh.test"] = [f"127.0.0.{number}" for number in (5, 4, 3, 2, 1)]
        assert len(dns.addresses["mesh.test"]) <= gossip.JOIN_FANOUT
        async with running(tmp_path, "b", f"mesh.test:{port}") as b:
            assert seen_by(b) == {"a"}
