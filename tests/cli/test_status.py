"""`oci-mesh status`: what people read, what scripts get."""

from pathlib import Path
from typing import Any

import click
import msgspec

from oci_mesh.cli import status as cli
from oci_mesh.control.status import (
    ImageStatus,
    NodeStatus,
    Problem,
    Room,
    Status,
    TagStatus,
    TransferStatus,
)
from tests.cli.conftest import Cli
from tests.images import sha256
from tests.mesh.conftest import client
from tests.mesh.fake_peer import FakePeer
from tests.nodes import Client, make_image, running

__all__ = ["client"]  # a fixture

DIGEST = sha256(b"image")
OTHER = sha256(b"other")


def up(name: str, **more: Any) -> NodeStatus:
    """A node that answered."""
    disk = Room(
        total=100 * 10**9, free=40 * 10**9, reserve=10**9, content=2 * 10**9, cached=0, limit=0
    )
    defaults: dict[str, Any] = {
        "state": "answered",
        "zone": "left",
        "version": "1.2.3",
        "uptime_s": 7200.0,
        "disk": disk,
        "sees": 2,
    }
    return NodeStatus(name, f"{name}:7946", **{**defaults, **more})


def found(**more: Any) -> Status:
    """Two nodes that are well; nothing else."""
    defaults: dict[str, Any] = {
        "nodes": [up("a", state="this"), up("b")],
        "problems": [],
        "images": [],
        "more_images": False,
        "tags": [],
        "transfers": [],
    }
    return Status("a", 0.0, 0.05, **{**defaults, **more})


def lines(*sections: str, **more: Any) -> list[str]:
    """For people, without spaces that align."""
    chosen = [getattr(cli, f"_{name}") for name in sections]
    text = click.unstyle(cli.status_text(found(**more), chosen))
    return [" ".join(line.split()) for line in text.splitlines()]


def test_a_line_for_each_node() -> None:
    """What it is and has; of who is not there, since when and why."""
    gone = NodeStatus("c", "c:7946", "gone", "c:7946 does not answer", silent_s=200.0)
    said = lines("nodes", "problems", nodes=[up("a", state="this"), up("b", draining=True), gone])
    assert said == [
        "NODE STATE ZONE ADDRESS VERSION UP SEES FREE CONTENT",
        "a up (asked) left a:7946 1.2.3 2 h 2 40.0 GB of 100.0 GB 2.0 GB",
        "b up, draining left b:7946 1.2.3 2 h 2 40.0 GB of 100.0 GB 2.0 GB",
        "c down for 3 min - c:7946 - - - - -",
        "2 of 3 nodes answered, in 0.05 s",
        "",
        "What is wrong",
        "c: c:7946 does not answer",
    ]


def test_problems_are_said_in_words() -> None:
    """With the node whose word it is."""
    problem = Problem("reach", "b", "says that it could not reach a 5 s ago: refused", ["a"])
    assert lines("problems", problems=[problem])[1:] == [
        "b: says that it could not reach a 5 s ago: refused"
    ]


def test_an_image_with_the_nodes_that_have_it() -> None:
    """All of them need no names; else the fewer are named."""
    nodes = [up(name) for name in "abcde"]
    images = [
        ImageStatus("app", DIGEST, ["v1", "v2"], list("abcde"), []),
        ImageStatus("few", DIGEST, ["v1"], ["a"], []),
        ImageStatus("most", DIGEST, [], list("abcd"), ["e"]),
        ImageStatus("none", DIGEST, ["v1"], [], ["b"]),
    ]
    assert lines("images", nodes=nodes, images=images)[1:] == [
        f"app v1, v2 {DIGEST[:19]} 5 of 5",
        f"few v1 {DIGEST[:19]} 1 of 5 on a",
        f"most - {DIGEST[:19]} 4 of 5 not on e; a part on e",
        f"none v1 {DIGEST[:19]} 0 of 5 a part on b",
    ]


def test_many_images_are_not_all_shown_unasked() -> None:
    """It says how many there are more, and how to see them."""
    images = [ImageStatus(f"app-{number:02}", DIGEST, [], ["a"], []) for number in range(25)]
    few = lines("few_images", images=images)
    assert len(few) == 22
    assert few[-1] == "and 5 more: oci-mesh status --images"
    assert len(lines("images", images=images)) == 26


def test_tags_that_differ_and_transfers() -> None:
    """Each meaning with its nodes; each blob with how far it is."""
    tag = TagStatus("app", "v1", {DIGEST: ["a"], OTHER: ["b"]})
    assert lines("tags", tags=[tag])[1:] == [
        "app:v1",
        f"{DIGEST[:19]} on a",
        f"{OTHER[:19]} on b",
    ]
    transfers = [
        TransferStatus("b", "app", DIGEST, 200_000_000, 50_000_000, 12_000_000, ["a"]),
        TransferStatus("b", "app", OTHER, -1, 0, 0, []),
    ]
    assert lines("transfers", transfers=transfers)[1:] == [
        f"b {DIGEST[:19]} app 25 % of 200.0 MB 12.0 MB/s a",
        f"b {OTHER[:19]} app looked for 0 B/s -",
    ]


async def test_exit_codes(tmp_path: Path, client: Client, cli: Cli) -> None:
    """0 if all is well, 3 if a node is down, 1 if there is none to ask."""
    options = ("--root", tmp_path / "a")
    async with running(tmp_path, "a") as a:
        await client.push(a, "team/app", make_image("status"), "v1")
        well = await cli("status", *options)
        assert well.exit_code == 0
        assert "team/app" in well.stdout
        only = await cli("status", "--nodes", "--json", *options)
        told = msgspec.json.decode(only.stdout, type=Status)
        assert [node.state for node in told.nodes] == ["this"]
        assert told.images == []
        async with FakePeer("dies") as peer:
            await peer.join(a)
            where = peer.address
        partly = await cli("status", *options)
        assert partly.exit_code == 3
        assert where in partly.stdout
    nobody = await cli("status", *options)
    assert nobody.exit_code == 1
    assert "no node is running in" in nobody.stderr
