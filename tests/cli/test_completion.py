"""Shell completion, by a real bash in a real terminal, with a node that has images."""

import asyncio
import os
import pty
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import oci_mesh
from tests import images
from tests.cli.conftest import Cli
from tests.cli.servers import Reply, Script, answering
from tests.nodes import DEADLINE_S

pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


class Terminal:
    """A bash at a prompt, with completion loaded."""

    def __init__(self, file: int) -> None:
        self._file = file

    def typed(self, keys: str, until: str) -> str:
        """What is on the screen after `keys`, when `until` has appeared; the line is then dropped.

        Fails if it never appears.
        """
        os.write(self._file, keys.encode())
        shown = self._read(until)
        os.write(self._file, b"\x15echo done-$((6*7))\n")
        self._read("done-42")
        return shown

    def _read(self, until: str) -> str:
        shown, deadline = "", time.monotonic() + DEADLINE_S
        while until not in shown:
            ready, _, _ = select.select([self._file], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"{until!r} never came: {shown!r}"
            shown += os.read(self._file, 4096).decode()
        return shown


@contextmanager
def bash(path: Path, registry: str) -> Iterator[Terminal]:
    """One whose `oci-mesh` is ours, and talks to `registry`."""
    program = path / "oci-mesh"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m oci_mesh.cli "$@"\n')
    program.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{path}:{os.environ['PATH']}",
        "OCI_MESH_REGISTRY": registry,
        "INPUTRC": "/dev/null",
        "TERM": "dumb",
        "PS1": "$ ",
        "HISTFILE": "",
    }
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            terminal = Terminal(ours)
            terminal.typed("bind 'set bell-style none'\n", "none")
            terminal.typed('source <(oci-mesh completion bash); echo "loaded"-$?\n', "loaded-0")
            yield terminal
        finally:
            process.kill()
            os.close(ours)


async def test_a_real_bash(cli: Cli, node: oci_mesh.Node, tmp_path: Path) -> None:
    """Verbs, repositories, and tags behind the colon at which bash breaks words."""
    images.build_layout(tmp_path / "s", "v", {"f": b"1"})
    for ref in ("team/app:v1.10", "team/app:v1.11", "zebra:latest"):
        assert (await cli("push", tmp_path / "s", ref, registry=node.url)).exit_code == 0

    def type_all() -> None:
        with bash(tmp_path, node.url) as terminal:
            terminal.typed("oci-mesh insp\t", "inspect ")
            terminal.typed("oci-mesh inspect ze\t", "zebra:latest ")
            terminal.typed("oci-mesh inspect te\t", "team/app:v1.1")
            shown = terminal.typed("oci-mesh rm zebra:latest team/app:v\t\t\t", "v1.11")
            assert "v1.10" in shown
            terminal.typed("oci-mesh copy team/app:v1.10\t", "v1.10 ")
            terminal.typed("oci-mesh pull --for\t", "--format ")
            terminal.typed(f"oci-mesh push {tmp_path}/oci-m\t", "/oci-mesh ")

    await asyncio.to_thread(type_all)


async def completed(registry: str, line: str) -> list[str]:
    """What is offered for that line."""
    environment = {
        **os.environ,
        "COMP_WORDS": line,
        "_OCI_MESH_COMPLETE": "bash_complete",
        "OCI_MESH_REGISTRY": registry,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "oci_mesh.cli",
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert err == b""
    return out.decode().split()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(status=500),
        Reply(body=b"<html>"),
        Reply(body=b"[]"),
        Reply(body=b"{}"),
        Reply(body=b'{"repositories": 7}'),
        Reply(body=b'{"repositories": null}'),
        Reply(body=b'{"repositories": ["$(touch x)", "a b", "x\\ny"]}'),
    ],
)
async def test_silent_where_nothing_can_be_said(reply: Reply) -> None:
    """Whatever the node answers; names that a shell would read as more than names are left out."""
    async with answering(Script(reply).answer) as url:
        assert await completed(url, "oci-mesh inspect ") == []


async def test_silent_without_a_node() -> None:
    """Nobody listens, or what is set is no URL."""
    async with answering(Script(Reply()).answer) as url:
        pass
    for registry in (url, "nonsense", "http://"):
        assert await completed(registry, "oci-mesh inspect a") == []


async def test_the_node_that_is_named_is_asked(cli: Cli, node: oci_mesh.Node) -> None:
    """`--registry` before the name counts."""
    script = Script(Reply(body=b'{"repositories": ["one", "two"]}'))
    async with answering(script.answer) as url:
        offered = await completed(node.url, f"oci-mesh tags --registry {url} ")
    assert offered == ["plain,one", "plain,two"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
async def test_scripts(cli: Cli, shell: str) -> None:
    """For each shell one that calls us by our name."""
    result = await cli("completion", shell)
    assert result.exit_code == 0
    assert f"_OCI_MESH_COMPLETE={shell}_complete" in result.stdout
    assert (await cli("completion", "tcsh")).exit_code == 2
