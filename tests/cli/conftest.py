"""A node to push to and pull from, and the CLI called in a thread of this process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest
from click.testing import CliRunner, Result

import oci_mesh
from oci_mesh.cli import main
from oci_mesh.cli.files import Content

Cli = Callable[..., Awaitable[Result]]
MakeContent = Callable[[bytes], Content]


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[oci_mesh.Node]:
    """One node, alone."""
    config = oci_mesh.NodeConfig(
        root=tmp_path / "node", listen="127.0.0.1:0", mesh_listen="127.0.0.1:0", drain=0
    )
    async with oci_mesh.Node(config) as running:
        yield running


@pytest.fixture
def cli() -> Cli:
    """Run `oci-mesh ARGUMENTS`; `stdin` is bytes. A traceback fails the test."""

    async def run(*arguments: object, stdin: bytes | None = None, registry: str = "") -> Result:
        environment = {"OCI_MESH_REGISTRY": registry} if registry else {}
        result = await asyncio.to_thread(
            CliRunner().invoke, main, [*map(str, arguments)], input=stdin, env=environment
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run


@pytest.fixture
def content(tmp_path: Path) -> Iterator[MakeContent]:
    """Bytes in an open file, with other bytes around them; closed after the test."""
    files: list[BinaryIO] = []

    def make(data: bytes) -> Content:
        path = tmp_path / f"content-{len(files)}"
        path.write_bytes(b"before" + data + b"after")
        files.append(path.open("rb"))
        return Content(files[-1], len(b"before"), len(data))

    yield make
    for file in files:
        file.close()
