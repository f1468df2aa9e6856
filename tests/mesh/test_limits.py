"""What people limit, at real nodes: rates, connections, disk; and zones, which cost little to cross
once and much to cross often.
"""

import asyncio
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from oci_mesh import Node
from oci_mesh.swarm.rate import SLACK_S
from tests.nodes import MIB, Client, make_image, meet, metric, noise, running

BLOB = noise(4 * MIB)

# So much more than its part is as good as no limit: for what is slow for other reasons.
FAR = 10


async def pull(client: Client, node: Node, content: bytes = BLOB) -> None:
    """All of it, and right."""
    answer = await client.blob(node, "app", content)
    assert answer.status == 200
    assert answer.body == content


async def timed_pulls(client: Client, *nodes: Node) -> float:
    """How many seconds all of them take together."""
    begun = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for node in nodes:
            group.create_task(pull(client, node))
    return time.monotonic() - begun


async def test_a_node_sends_at_its_upload_rate(tmp_path: Path, client: Client) -> None:
    """To all others together; its own client is given all at once, in far less time."""
    rate = 4 * MIB
    async with (
        running(tmp_path, "a", upload_rate=rate) as a,
        running(tmp_path, "b", a.mesh_address) as b,
    ):
        await meet(a, b)
        await client.push_blob(a, "app", BLOB)
        least_s = len(BLOB) / rate - SLACK_S
        assert await timed_pulls(client, b) > least_s
        sent = metric(a, "oci_mesh_peer_sent_bytes_total")
        assert sent >= len(BLOB)
        begun = time.monotonic()
        for _ in range(FAR):
            await pull(client, a)
        assert time.monotonic() - begun < FAR * least_s


async def test_a_node_receives_at_its_download_rate(tmp_path: Path, client: Client) -> None:
    """From all others together, and without a fault of any of them."""
    rate = 4 * MIB
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        running(tmp_path, "c", a.mesh_address, download_rate=rate) as c,
    ):
        await meet(a, b, c)
        await client.push_blob(a, "app", BLOB)
        await pull(client, b)
        assert await timed_pulls(client, c) > 0.9 * len(BLOB) / rate - SLACK_S
        assert metric(c, "oci_mesh_peer_received_bytes_total") >= len(BLOB)
        assert metric(c, "oci_mesh_peer_faults_total") == 0


async def test_with_few_connections_all_comes_all_the_same(tmp_path: Path, client: Client) -> None:
    """Of many blobs at once, and nobody is taken for dead or faulty because of it."""
    blobs = [noise(2 * MIB, str(number)) for number in range(6)]
    async with (
        running(tmp_path, "a", max_connections=16) as a,
        running(tmp_path, "b", a.mesh_address, max_connections=16) as b,
        running(tmp_path, "c", a.mesh_address, max_connections=16) as c,
    ):
        await meet(a, b, c)
        for content in blobs:
            await client.push_blob(a, "app", content)
        async with asyncio.TaskGroup() as group:
            for node in (b, c):
                for content in blobs:
                    group.create_task(pull(client, node, content))
        for node in (a, b, c):
            assert len(node.members()) == 2
            assert metric(node, "oci_mesh_peer_faults_total") == 0


async def test_a_node_at_its_limit_fetches_nothing_more_and_takes_no_push(
    tmp_path: Path, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """Its clients go elsewhere, its log says why; what it has it still gives, and small things
    still fit.
    """
    small = make_image("small", 1000)
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address, disk_limit=MIB) as b,
    ):
        await meet(a, b)
        await client.push_blob(a, "app", BLOB)
        assert (await client.blob(b, "app", BLOB)).status == 404
        assert "disk-limit" in caplog.text
        path = "/v2/app/blobs/uploads/?digest=sha256:" + "0" * 64
        answer = await client.request("POST", b, path, BLOB)
        assert answer.status == 507
        assert b"disk-limit" in answer.body
        await client.push(a, "app", small)
        assert await client.has(b, "app", small)
        assert metric(b, "oci_mesh_peer_faults_total") == 0
        assert metric(b, "oci_mesh_peer_received_bytes_total") < MIB


async def test_each_piece_enters_a_zone_about_once(tmp_path: Path, client: Client) -> None:
    """Of eight nodes in two zones, from a seed in one: four times, if zones did not matter. Half of
    the pieces go back once: the seed sends each of them once in all.
    """
    content = noise(16 * MIB)
    async with AsyncExitStack() as stack:
        nodes: list[Node] = []
        for number in range(8):
            join = [nodes[0].mesh_address] if nodes else []
            name, zone = f"n{number}", "east" if number % 2 else "west"
            starting = running(tmp_path, name, *join, zone=zone)
            nodes.append(await stack.enter_async_context(starting))
        await meet(*nodes)
        await client.push_blob(nodes[0], "app", content)
        async with asyncio.TaskGroup() as group:
            for node in nodes[1:]:
                group.create_task(pull(client, node, content))
        west = nodes[::2]
        crossed = sum(
            metric(sender, "oci_mesh_peer_sent_bytes_total", peer=receiver.id)
            for sender in nodes
            for receiver in nodes
            if (sender in west) != (receiver in west)
        )
        assert len(content) <= crossed < 2 * len(content)
