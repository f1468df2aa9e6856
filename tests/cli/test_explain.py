"""`oci-mesh explain`: what people read, what scripts get."""

import time
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

import oci_mesh
from oci_mesh.cli.explain import explanation_text
from oci_mesh.control.explain import (
    Bound,
    Content,
    Delivered,
    Differing,
    Explanation,
    Giver,
    Holder,
    NodeAnswer,
    Offer,
    Pull,
    Reading,
    Rule,
    Tag,
)
from tests.cli.conftest import Cli
from tests.images import sha256
from tests.mesh.conftest import client
from tests.nodes import Client, make_image

__all__ = ["client"]  # a fixture

NOW = 10_000.0
DIGEST = sha256(b"image")
LAYER = sha256(b"layer")


def found(**more: Any) -> Explanation:
    """Of an image of the mesh itself, on two nodes."""
    defaults: dict[str, Any] = {
        "rule": Rule("own", "app"),
        "tag": Tag("v1", DIGEST, "register", written_by="a", at=NOW - 40),
        "contents": [
            Content("manifest", DIGEST, 400, "", [Holder("a", "has"), Holder("b", "has")]),
            Content("layer", LAYER, 30_000_000, "", [Holder("a", "has")]),
        ],
        "nodes": [NodeAnswer("a", "10.0.0.1:1", "this"), NodeAnswer("b", "10.0.0.2:1", "answered")],
        "took_s": 0.05,
    }
    return Explanation("app:v1", "a", "linux/amd64", **{**defaults, **more})


def text(**more: Any) -> str:
    """For people."""
    return click.unstyle(explanation_text(found(**more), NOW))


def pull(**more: Any) -> Pull:
    """From one node."""
    defaults: dict[str, Any] = {
        "givers": {"a": Giver(30_000_000, 30, 1.0, 2.0, 0, 0.0, {})},
        "limit": 0,
        "link": 20_000_000,
        "blobs": [],
        "verdict": ["nothing was slow"],
    }
    return Pull("b", NOW - 200, 2.0, 30_000_000, **{**defaults, **more})


def test_the_way_and_who_has_it() -> None:
    """In a few lines."""
    said = text()
    assert "the mesh's own repository app\n" in said
    assert f"v1 = {DIGEST}, written on a 40 s ago" in said
    assert "2 contents, 30.0 MB" in said
    assert f"{DIGEST[:19]}  400 B    all 2 nodes" in said
    assert f"{LAYER[:19]}  30.0 MB  a\n" in said
    assert "2 of 2 answered, in 0.05 s" in said
    assert "Last pulls" not in said


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (Rule("own", "app", "reg.internal:5000"), "(reg.internal:5000 is no registry that is"),
        (Rule("off", "", "docker.io"), "of docker.io, whose mirroring is switched off"),
        (
            Rule("public", "library/app@docker.io", "docker.io", ["https://x"], "library/app"),
            "of docker.io, a public registry; asked at https://x for library/app",
        ),
        (
            Rule("upstream", "app@corp!", "corp", ["https://x"], "app", private=True),
            "of corp, a configured upstream; it gives this only to who has a secret",
        ),
    ],
)
def test_rules(rule: Rule, said: str) -> None:
    """Whose image it is."""
    assert said in text(rule=rule)


@pytest.mark.parametrize(
    ("tag", "said"),
    [
        (Tag("v1"), "v1 is not known"),
        (
            Tag("v1", known_from="register", deleted=True, written_by="b", at=NOW - 5),
            "v1 was deleted, written on b 5 s ago",
        ),
        (
            Tag("v1", DIGEST, "memory", at=NOW - 600, stale=True),
            f"v1 = {DIGEST}, as its registry said 10 min ago; the next pull asks it again",
        ),
        (
            Tag("v1", DIGEST, "register", differing=[Differing("c", LAYER), Differing("d", "")]),
            f"to c it is {LAYER}\n",
        ),
        (Tag("v1", DIGEST, "register", differing=[Differing("d", "")]), "to d it is deleted"),
    ],
)
def test_tags(tag: Tag, said: str) -> None:
    """What it means, since when, and to whom it means something else."""
    assert said in text(tag=tag)


def test_platforms() -> None:
    """The one that is taken, and the others."""
    offers = [Offer("linux/amd64", DIGEST, 1, taken=True), Offer("linux/arm64", LAYER, 1)]
    said = text(offers=offers)
    assert "linux/amd64 is taken" in said
    assert "others: linux/arm64" in said
    assert "it has: linux/arm64" in text(offers=offers[1:])


def test_readings() -> None:
    """Which clients mean what, and which of it is explained."""
    readings = [Reading("us", "app:v1", "app"), Reading("docker", "docker.io/x", "x@docker.io")]
    said = text(readings=readings)
    assert "to us: app:v1 -> app  (explained here)" in said
    assert "to docker: docker.io/x -> x@docker.io\n" in said


def test_each_kind_of_holder() -> None:
    """Proof, word, part and lie are told apart."""
    holders = [
        Holder("a", "has"),
        Holder("b", "says"),
        Holder("c", "says", in_containerd=True),
        Holder("d", "part", 0.4),
        Holder("e", "false"),
    ]
    said = text(contents=[Content("layer", LAYER, 1, "", holders)])
    assert "a; says: b, c (in containerd); on its way: d 40 %; cannot show it: e" in said
    assert "nobody" in text(contents=[Content("layer", LAYER, 1, "", [])])


def test_nodes_that_did_not_answer() -> None:
    """By name, with what became of them."""
    nodes = [
        NodeAnswer("a", "10.0.0.1:1", "this"),
        NodeAnswer("b", "10.0.0.2:1", "silent", "timeout"),
        NodeAnswer("c", "10.0.0.3:1", "gone"),
        NodeAnswer("d", "10.0.0.4:1", "left"),
    ]
    said = text(nodes=nodes)
    assert "1 of 4 answered" in said
    assert "b (10.0.0.2:1) did not answer in time" in said
    assert "c (10.0.0.3:1) is gone" in said
    assert "d (10.0.0.4:1) was shut down" in said


def test_pulls() -> None:
    """Bytes by source, the share of the bound, and why."""
    bound = Bound(1.5, "what it takes in", ["one link"])
    said = text(pulls=[pull(bound=bound, share=0.75, verdict=["it was slow"])])
    assert "b, 3 min ago: 30.0 MB in 2.0 s (15.0 MB/s), 0 blobs" in said
    assert "from a 30.0 MB\n" in said
    assert "75 % of the bound, 1.5 s: what it takes in" in said
    assert "assumed: one link" in said
    assert "- it was slow" in said
    origin = {"@docker.io": Giver(5, 1, 0.0, 0.0, 0, 0.0, {})}
    assert "from docker.io 5 B" in text(pulls=[pull(givers=origin)])


def test_only_clients_with_a_story_are_shown() -> None:
    """The others got it."""
    got = Delivered("b", LAYER, NOW - 3, 5, 0.1, 0.0, 0.0, True, "")
    assert "Clients" not in text(deliveries=[got])
    slow = msgspec.structs.replace(got, verdict=["the client read slowly"])
    assert "- the client read slowly" in text(deliveries=[got, slow])


# -- the verb


async def test_a_name_that_leads_somewhere(cli: Cli, node: oci_mesh.Node, client: Client) -> None:
    """Exit code 0; as JSON, the document of the control socket."""
    image = make_image("cli")
    await client.push(node, "app", image, "v1")
    shown = await cli("explain", "app:v1", "--root", node.config.root)
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert image.digest in shown.stdout
    shown = await cli("explain", "app:v1", "--json", "--root", node.config.root)
    told = msgspec.json.decode(shown.stdout, type=Explanation)
    assert (told.stopped_at, told.node) == ("", node.id)
    assert abs(time.time() - (told.tag or Tag("")).at) < 60


async def test_a_name_that_leads_nowhere(cli: Cli, node: oci_mesh.Node, client: Client) -> None:
    """Exit code 1, where it ends, and the nearest name."""
    await client.push(node, "app", make_image("cli"), "v1")
    shown = await cli("explain", "app:v2", "--root", node.config.root)
    assert shown.exit_code == 1
    assert "at the tag" in shown.stdout
    assert shown.stderr.splitlines() == [
        "error: app:v2 leads nowhere: the mesh has no app:v2",
        "hint: did you mean app:v1?",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("App",), 1, "is not a repository name"),
        (("app", "--platform", "amd64"), 2, "is not a platform"),
        ((), 2, "Missing argument"),
    ],
)
async def test_what_is_called_wrongly(
    cli: Cli, node: oci_mesh.Node, arguments: tuple[str, ...], code: int, said: str
) -> None:
    """In one sentence."""
    shown = await cli("explain", *arguments, "--root", node.config.root)
    assert shown.exit_code == code
    assert said in shown.stderr


async def test_no_node(cli: Cli, tmp_path: Path) -> None:
    """Where it was looked for."""
    shown = await cli("explain", "app", "--root", tmp_path)
    assert shown.exit_code == 1
    assert "no node is running" in shown.stderr
