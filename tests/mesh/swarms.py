"""Several real nodes that fetch one blob at a time, and what one of them does wrongly."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web

from oci_mesh import Node
from oci_mesh.mesh import wire
from oci_mesh.mesh.pieces import is_piece
from oci_mesh.mesh.source import MeshSource
from oci_mesh.swarm.roll import Roll
from tests.mesh.fake_peer import Sending
from tests.nodes import Client, eventually, meet, metric, running

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Wrapper = Callable[[web.BaseRequest, Handler], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def nodes(root: Path, *names: str, **zones: str) -> AsyncIterator[list[Node]]:
    """Nodes that know each other; `zones` by name."""
    async with AsyncExitStack() as stack:
        made: list[Node] = []
        for name in names:
            join = [made[0].mesh_address] if made else []
            node = running(root, name, *join, zone=zones.get(name, ""))
            made.append(await stack.enter_async_context(node))
        await meet(*made)
        yield made


def wrap(node: Node, wrapper: Wrapper) -> None:
    """Have `wrapper` answer what other nodes ask `node`; it gets the true handler too."""
    handler = node._peers

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        return await wrapper(request, handler)

    node._peers = handle


def gather(source: Node, count: int) -> None:
    """Let nobody begin before `count` nodes are in the swarm: they then all know of each other.

    `source` tells its list of pieces only then, and they look who is there once they have it.
    """
    asked = 0
    all_asked = asyncio.Event()

    async def wrapper(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
        nonlocal asked
        if request.path == wire.STATEMENT_PATH:
            asked += 1
            if asked == count:
                all_asked.set()
            await all_asked.wait()
        return await handler(request)

    wrap(source, wrapper)


def lie(node: Node, content: bytes, sending: Sending) -> None:
    """Have a node send pieces of `content` as `sending` does, whether or not it has them."""

    async def wrapper(request: web.BaseRequest, handler: Handler) -> web.StreamResponse:
        return await (sending(request, content) if is_piece(request) else handler(request))

    wrap(node, wrapper)


async def pull_all(client: Client, nodes: Sequence[Node], content: bytes) -> None:
    """At the same time; fails if one byte is wrong."""
    async with asyncio.TaskGroup() as group:
        pulls = [group.create_task(client.blob(node, "app", content)) for node in nodes]
    assert all(pull.result().body == content for pull in pulls)


def sent(node: Node, *peers: str) -> float:
    """Blob bytes that it sent to these nodes, or to all."""
    name = "oci_mesh_peer_sent_bytes_total"
    return sum(metric(node, name, peer=peer) for peer in peers) if peers else metric(node, name)


def mesh_source(node: Node) -> MeshSource:
    """What fetches from other nodes."""
    source = node.source._sources[1]
    assert isinstance(source, MeshSource)
    return source


def rolls(node: Node, digest: str) -> list[Roll]:
    """Those that a node keeps of a blob."""
    kept = mesh_source(node)._rendezvous._kept
    return [entry.roll for (_, of), entry in kept.items() if of == digest]


async def all_have(having: Sequence[Node], asked: Sequence[Node], digest: str) -> None:
    """Wait until one of `asked`, the blob's rendezvous, knows that all of `having` have it."""
    ids = {node.id for node in having}

    def known() -> bool:
        held = [roll._entries.values() for node in asked for roll in rolls(node, digest)]
        return any(ids <= {e.id for e in entries if e.complete} for entries in held)

    await eventually(f"it is known that {ids} have it", known)
