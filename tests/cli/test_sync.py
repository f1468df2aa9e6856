"""`oci-mesh sync` as it is called: arguments, exit codes, what is printed."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from oci_mesh import Node
from oci_mesh.cli.run import FAILED, MISUSED, PARTLY
from oci_mesh.members.table import Member
from tests import images
from tests.cli.conftest import Cli
from tests.nodes import free_port, meet, running

HERE = images.host_architecture()


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """What `docker save` writes."""
    path = tmp_path / "app.tar"
    images.build_docker_archive(path, "app:v1", {"a": b"1"}, {"b": b"2"}, architecture=HERE)
    return path


async def sync(cli: Cli, node: Node, *words: object, stdin: bytes | None = None) -> Result:
    """`oci-mesh sync WORDS` for that node."""
    return await cli("sync", *words, "--root", node.config.root, stdin=stdin)


def document(result: Result) -> dict[str, Any]:
    """What `--json` printed."""
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def add_dead(node: Node) -> None:
    """Have the node know of another one that is not there any more."""
    assert node._gossip is not None
    member = Member("dead", f"127.0.0.1:{free_port()}", incarnation=1)
    node._gossip.table.merge([member], asyncio.get_running_loop().time())


async def test_from_a_pipe_to_all_nodes(tmp_path: Path, archive: Path, cli: Cli) -> None:
    """It is called by the name given, and on each node; the others are not waited for twice."""
    async with running(tmp_path, "a", copies=2) as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        done = await sync(cli, a, "-", "app:v1", "--json", stdin=archive.read_bytes())
        assert done.exit_code == 0, done.stderr
        found = document(done)
        states = {one["node"]: one["state"] for one in found["nodes"]}
        assert states == {"a": "already", "b": "held"}, "no copy was made by the push"
        assert (found["reference"], found["repository"], found["image"]) == ("app:v1", "app", "")
        for node in (a, b):
            assert str(await node.store.resolve("app", "v1")) == found["digest"]
        again = await sync(cli, b, "app:v1")
        assert (again.exit_code, again.stdout.count("already")) == (0, 2)
        assert f"held as app:v1 on 2 of 2 nodes: {found['digest']}" in again.stdout


async def test_a_name_with_a_host_never_leads_out(tmp_path: Path, archive: Path, cli: Cli) -> None:
    """What comes from a file is the mesh's own, whatever it is called."""
    async with running(tmp_path, "a") as a:
        for name, repository in (
            ("docker.io/library/app:v1", "docker.io/library/app"),
            ("internal.cluster.local:5000/team/app:v1", "team/app"),
        ):
            done = await sync(cli, a, archive, name, "--json")
            assert (done.exit_code, document(done)["repository"]) == (0, repository)
            assert (await sync(cli, a, name)).exit_code == 0


async def test_some_nodes_down_is_done_in_part(tmp_path: Path, archive: Path, cli: Cli) -> None:
    """Said by the exit code, and by name."""
    async with running(tmp_path, "a") as a:
        add_dead(a)
        done = await sync(cli, a, archive, "app:v1")
        assert done.exit_code == PARTLY
        assert [line.split()[:2] for line in done.stdout.splitlines()[:2]] == [
            ["a", "already"], ["dead", "failed"]
        ]  # fmt: skip
        assert "hint (dead): see that it is up, and run this again" in done.stdout
        assert (await sync(cli, a, "app:v1", "--nodes", "dead")).exit_code == FAILED
        assert (await sync(cli, a, "app:v1", "--nodes", "a")).exit_code == 0


async def test_no_containerd_to_import_into(tmp_path: Path, archive: Path, cli: Cli) -> None:
    """The image is held, and the command has failed all the same."""
    async with running(tmp_path, "a") as a:
        done = await sync(cli, a, archive, "app:v1", "--import")
        assert done.exit_code == FAILED
        assert "in containerd as docker.io/library/app:v1 on 0 of 1 nodes" in done.stdout
        assert "--containerd-socket" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "b", "c"], "expected [SOURCE] REF"),
        (["app:v1", "--as", "x"], "goes with --import"),
        (["app:v1", "--image", "x"], "--image is about SOURCE"),
        (["app:v1", "--nodes", ","], "names no node"),
        (["App:v1"], "not a repository name"),
        (["app:v1", "--import", "--as", "A!"], "not a repository name"),
        (["missing.tar", "app:v1"], "no file or directory missing.tar"),
        (["app:v1", "--nodes", "b"], "no node called b: there are node-1"),
        (["app:v1", "--nodes", "node-1,node2"], "no node called node2: did you mean node-1?"),
    ],
)
async def test_wrong_calls(words: list[str], said: str, tmp_path: Path, cli: Cli) -> None:
    """Each is said in one sentence, before anything is done."""
    async with running(tmp_path, "node-1") as node:
        done = await sync(cli, node, *words)
        assert (done.exit_code, said in done.stderr) == (MISUSED, True), done.stderr


@pytest.mark.parametrize("content", [b"", b"no archive", b"\0" * 10240])
async def test_what_is_no_archive(content: bytes, tmp_path: Path, cli: Cli) -> None:
    """Nothing is pushed, nobody is asked for anything."""
    async with running(tmp_path, "a") as a:
        done = await sync(cli, a, "-", "app:v1", stdin=content)
        assert done.exit_code == FAILED
        assert "\nerror: " in f"\n{done.stderr}"
        assert (await a.store.usage()).blobs == 0


async def test_no_node_here(tmp_path: Path, cli: Cli) -> None:
    """It is said where one was looked for, and how to name another place."""
    done = await cli("sync", "app:v1", "--root", tmp_path)
    assert done.exit_code == FAILED
    assert "no node is running in" in done.stderr
    assert "--root" in done.stderr
