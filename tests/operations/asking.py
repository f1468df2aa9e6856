"""Asking a node as an operator does."""

from typing import Any

from oci_mesh import Node
from oci_mesh.control import upkeep
from oci_mesh.control.client import ControlClient
from oci_mesh.control.upkeep import (
    DrainRequest,
    DrainResult,
    GcRequest,
    GcResult,
    ScrubRequest,
    ScrubResult,
)
from oci_mesh.control.wire import Document


async def documents(node: Node, verb: str, asked: Document, kind: Any) -> list[Any]:
    """All that it says."""
    async with ControlClient(node.config.root) as client:
        return [document async for document in client.stream(verb, asked, kind)]


async def drain(node: Node, **asked: Any) -> DrainResult:
    """The result."""
    said = await documents(node, upkeep.DRAIN, DrainRequest(**asked), upkeep.DrainDocument)
    assert isinstance(said[-1], DrainResult)
    return said[-1]


async def collect(node: Node, **asked: Any) -> GcResult:
    """The result of a garbage collection."""
    said = await documents(node, upkeep.GC, GcRequest(**asked), upkeep.GcDocument)
    assert isinstance(said[-1], GcResult)
    return said[-1]


async def scrub(node: Node, **asked: Any) -> ScrubResult:
    """The result."""
    said = await documents(node, upkeep.SCRUB, ScrubRequest(**asked), upkeep.ScrubDocument)
    assert isinstance(said[-1], ScrubResult)
    return said[-1]
