"""`oci-mesh node …`, as it is called."""

import json
import os
import time
import tomllib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from click.testing import Result

from oci_mesh import Digest, Node, NodeConfig
from oci_mesh.cli import node_config
from oci_mesh.cli.failure import Failure
from oci_mesh.control import upkeep
from oci_mesh.pki import authority
from oci_mesh.pki.authority import Authority
from oci_mesh.store.lock import RootLock
from tests.cli.conftest import Cli
from tests.mesh.conftest import client, fast_gossip
from tests.nodes import Client, eventually, free_port, make_image, meet, running

__all__ = ["client", "fast_gossip"]  # fixtures

pytestmark = pytest.mark.usefixtures("fast_gossip")

APP = make_image("app")
HOUR_S = 3600.0


@pytest.fixture
def ca(tmp_path: Path) -> Path:
    """The authority of a mesh."""
    authority.init(tmp_path / "ca", "test", time.time())
    return tmp_path / "ca"


@pytest.fixture
async def first(tmp_path: Path, ca: Path) -> AsyncIterator[Node]:
    """Its first node, which signs."""
    async with running(tmp_path, "first", ca=ca) as node:
        yield node


def token(ca: Path, ttl: float = HOUR_S) -> str:
    """A new one."""
    return Authority.load(ca).make_token("t", ttl, time.time()).text()


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """Root and config file of the node that joins; neither is there yet."""
    return tmp_path / "new" / "root", tmp_path / "etc" / "config.toml"


def tree(*places: Path) -> dict[Path, bytes]:
    """All files beneath, and what is in them."""
    return {
        path: path.read_bytes()
        for place in places
        for path in [place, *place.rglob("*")]
        if path.is_file()
    }


async def test_a_plain_machine_in_two_commands(
    cli: Cli, first: Node, ca: Path, places: tuple[Path, Path], tmp_path: Path
) -> None:
    """Join, start; the config has no secret, and holds after a restart. Again: nothing happens."""
    root, config = places
    secret = tmp_path / "token"
    secret.write_text(token(ca))
    arguments = ["node", "join", first.mesh_address, "--token", secret, "--root", root]
    arguments += ["--config", config]
    said = await cli(*arguments)
    assert said.exit_code == 0, said.output
    assert "systemctl enable --now oci-mesh" in said.stdout
    written = tomllib.loads(config.read_text())
    assert written == {"root": str(root), "join": [first.mesh_address]}
    before = tree(root, config)
    assert (await cli(*arguments)).exit_code == 0
    assert (await cli(*arguments[:3], "--config", config)).exit_code == 0, "by its certificate"
    assert tree(root, config) == before
    gone = await cli("node", "join", f"127.0.0.1:{free_port()}", "--config", config)
    assert gone.exit_code == 1
    assert "closed" in gone.stderr
    assert tree(root, config) == before
    started = {**written, "listen": "127.0.0.1:0", "mesh_listen": "127.0.0.1:0", "drain": 0.05}
    async with Node(NodeConfig(**{**started, "join": tuple(written["join"])})) as node:
        await meet(first, node)
        assert node.id in said.stdout
        again = await cli(*arguments[:3], "--root", root, "--config", config, "--json")
        assert again.exit_code == 0, again.output
        assert json.loads(again.stdout)["members"] == [first.id]
        assert tree(config) == {config: before[config]}


async def test_a_node_that_runs_joins_at_once(
    cli: Cli, first: Node, ca: Path, tmp_path: Path
) -> None:
    """And after its next start, by the file."""
    config = tmp_path / "config.toml"
    config.write_text(
        '# mine\nroot = "/elsewhere" # kept\n\n[upstream."a.corp"]\nurl = ["https://a"]\n'
    )
    async with running(tmp_path, "second", ca=ca) as second:
        assert second.members() == []
        said = await cli(
            *("node", "join", first.mesh_address, "--root", second.config.root),
            *("--config", config),
        )
        assert said.exit_code == 0, said.output
        await meet(first, second)
    text = config.read_text()
    assert text.startswith('# mine\nroot = "/elsewhere" # kept\n')
    assert tomllib.loads(text) == {
        "root": "/elsewhere",
        "join": [first.mesh_address],
        "upstream": {"a.corp": {"url": ["https://a"]}},
    }


def wrong_token(ca: Path, tmp_path: Path) -> str:
    """Which was not copied whole."""
    return token(ca)[:-20]


def expired_token(ca: Path, tmp_path: Path) -> str:
    """Too late."""
    return Authority.load(ca).make_token("t", 1.0, time.time() - 100).text()


def foreign_token(ca: Path, tmp_path: Path) -> str:
    """Of another mesh that has the same name."""
    authority.init(tmp_path / "other", "test", time.time())
    return token(tmp_path / "other")


def no_token(ca: Path, tmp_path: Path) -> str:
    """A file that there is not."""
    return str(tmp_path / "missing")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (wrong_token, "damaged"),
        (expired_token, "expired"),
        (foreign_token, "other-mesh"),
        (no_token, "neither a join token"),
    ],
)
async def test_tokens_that_do_not_let_in(
    make: Callable[[Path, Path], str],
    text: str,
    cli: Cli,
    first: Node,
    ca: Path,
    places: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    """One sentence, and nothing is left."""
    root, config = places
    secret = make(ca, tmp_path)
    before = tree(tmp_path)
    said = await cli(
        *("node", "join", first.mesh_address, "--token", secret, "--root", root),
        *("--config", config),
    )
    assert said.exit_code == 1
    assert text in said.stderr
    assert len(said.stderr.splitlines()) <= 2
    assert not root.exists()
    assert not root.parent.exists()
    assert not config.parent.exists()
    assert secret not in said.output or make is no_token
    assert {path for path in tree(tmp_path) if "first" not in path.parts} == {
        path for path in before if "first" not in path.parts
    }


async def test_nobody_there(cli: Cli, ca: Path, places: tuple[Path, Path]) -> None:
    """And no wait of a minute for who may come."""
    root, config = places
    before_s = time.monotonic()
    said = await cli(
        *("node", "join", f"127.0.0.1:{free_port()}", "--token", token(ca), "--root", root),
        *("--config", config),
    )
    assert said.exit_code == 1
    assert "closed" in said.stderr
    assert "hint: " in said.stderr
    assert time.monotonic() - before_s < 30
    assert not root.parent.exists()
    assert not config.parent.exists()


async def test_no_token_at_all(cli: Cli, places: tuple[Path, Path]) -> None:
    """Said before anybody is asked."""
    root, config = places
    said = await cli("node", "join", "10.255.255.1:7946", "--root", root, "--config", config)
    assert said.exit_code == 1
    assert "token create" in said.stderr
    assert not config.parent.exists()


async def test_one_of_two_addresses_is_enough(
    cli: Cli, first: Node, ca: Path, places: tuple[Path, Path]
) -> None:
    """Both are written down; which one failed is said, and the exit code is 3."""
    root, config = places
    gone = f"127.0.0.1:{free_port()}"
    said = await cli(
        *("node", "join", gone, first.mesh_address, "--token", token(ca), "--root", root),
        *("--config", config),
    )
    assert said.exit_code == 3, said.output
    assert f"not reached: {gone}" in said.stderr
    assert tomllib.loads(config.read_text())["join"] == [gone, first.mesh_address]


async def test_a_running_node_does_not_change_into_another_mesh(
    cli: Cli, first: Node, tmp_path: Path
) -> None:
    """Its certificate is of no use there."""
    authority.init(tmp_path / "other", "test", time.time())
    config = tmp_path / "config.toml"
    async with running(tmp_path, "second", ca=tmp_path / "other") as second:
        said = await cli(
            *("node", "join", first.mesh_address, "--root", second.config.root),
            *("--config", config),
        )
        assert said.exit_code == 1
        assert "other-mesh" in said.stderr
        assert second._gossip is not None
        assert second._gossip._join == []
    assert not config.exists()


async def test_a_root_that_is_in_use(
    cli: Cli, first: Node, ca: Path, places: tuple[Path, Path]
) -> None:
    """By a process that does not answer, or not yet."""
    root, config = places
    root.mkdir(parents=True)
    lock = RootLock(str(root / "lock"))
    said = await cli(
        *("node", "join", first.mesh_address, "--token", token(ca), "--root", root),
        *("--config", config),
    )
    lock.release()
    assert said.exit_code == 1
    assert "in use" in said.stderr
    assert list(tree(root)) == [root / "lock"]
    assert not config.exists()


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory in which nobody may write, as far as the CLI finds out beforehand."""
    place = tmp_path / "etc"
    place.mkdir()
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != place and access(path, mode))
    return place


async def test_no_permission(
    cli: Cli, first: Node, ca: Path, places: tuple[Path, Path], read_only: Path
) -> None:
    """It is found out before anything is done."""
    root, config = places
    said = await cli(
        *("node", "join", first.mesh_address, "--token", token(ca), "--root", root),
        *("--config", config),
    )
    assert said.exit_code == 1
    assert "root" in said.stderr
    assert not root.exists()
    assert not config.exists()


@pytest.mark.parametrize("address", ["10.0.0.1", "host:port", "a:1:2", ""])
async def test_what_is_no_address(address: str, cli: Cli) -> None:
    """Wrong usage."""
    assert (await cli("node", "join", address)).exit_code == 2


# -- the file


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", {"root": "/r", "join": ["10.0.0.1:7946"], "mesh-listen": node_config.LISTEN}),
        ('join = ["b:1"]\nroot = "/x"\n', {"root": "/x", "join": ["b:1", "10.0.0.1:7946"]}),
        ('mesh_listen = "10.0.0.9:1"', {"root": "/r", "mesh_listen": "10.0.0.9:1"}),
        ('[upstream."a"]\nurl = ["https://b"]\n', {"upstream": {"a": {"url": ["https://b"]}}}),
        ('# join = []\nroot = """\n/r"""', {"root": "/r"}),
    ],
)
def test_what_a_file_says_stays(text: str, wanted: dict[str, object], tmp_path: Path) -> None:
    """Only what is missing is added; and once."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    before = node_config.read(path)
    after = node_config.joined(before, Path("/r"), ["10.0.0.1:7946"])
    said = tomllib.loads(after)
    assert {key: said[key] for key in wanted} == wanted
    assert said["join"][-1] == "10.0.0.1:7946"
    for line in text.splitlines():
        assert line in after or line.startswith("join")
    path.write_text(after)
    assert node_config.joined(node_config.read(path), Path("/r"), ["10.0.0.1:7946"]) == after


@pytest.mark.parametrize("text", ["join = 5", "root = [", 'insecure = "no"', 'advertise = "x"'])
def test_a_file_that_no_node_could_start_with(text: str, tmp_path: Path) -> None:
    """Nothing is added to it."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(Failure, match=r"config\.toml"):
        node_config.read(path)


# -- drain, gc, scrub


async def done(cli: Cli, node: Node, *arguments: str) -> Result:
    """It worked."""
    said = await cli("node", *arguments, "--root", node.config.root)
    assert said.exit_code == 0, said.output
    return said


async def test_drain(cli: Cli, tmp_path: Path, client: Client) -> None:
    """What is missing is named first; the last node fails."""
    async with running(tmp_path, "a") as a:
        await client.push(a, "app", APP)
        said = await cli("node", "drain", "--root", a.config.root)
        assert said.exit_code == 1
        assert f"app@{APP.digest[:19]}" in said.stdout
        assert "no other node" in said.stdout
        async with running(tmp_path, "b", a.mesh_address) as b:
            await meet(a, b)
            plan = await done(cli, a, "drain", "--dry-run")
            assert "has to be handed over" in plan.stdout
            result = json.loads((await done(cli, a, "drain", "--within", "60s", "--json")).stdout)
            assert result["left"] is True
            assert result["handedOver"][0]["holders"] == ["b"]
            assert "has left" in (await done(cli, a, "drain")).stdout


async def test_gc(cli: Cli, tmp_path: Path, client: Client) -> None:
    """What went, by kind; 3 if a node did not answer."""
    async with running(tmp_path, "a") as a:
        await client.push_blob(a, "app", b"garbage")
        (tmp_path / "a" / "blobs" / "sha256").stat()
        assert "0 B would be freed" in (await done(cli, a, "gc", "--dry-run")).stdout
        await eventually("a second has passed", _a_second_later())
        said = json.loads((await done(cli, a, "gc", "--grace", "0s", "--json")).stdout)
        assert {"kind": "blobs", "count": 1, "bytes": 7} in said["freed"]
        async with running(tmp_path, "b", a.mesh_address) as b:
            await meet(a, b)
            await client.push_blob(a, "app", b"more")
            await eventually("a second has passed", _a_second_later())
            await b._mesh_server.__aexit__(None, None, None)
            silent = await cli("node", "gc", "--grace", "0s", "--root", a.config.root)
            assert silent.exit_code == 3
            assert "b did not answer" in silent.stdout


def _a_second_later() -> Callable[[], bool]:
    """Uses are noted in whole seconds."""
    now_s = int(time.time())
    return lambda: int(time.time()) > now_s


async def test_scrub(cli: Cli, tmp_path: Path, client: Client) -> None:
    """All right; then not: what is damaged, and what to do."""
    async with running(tmp_path, "a") as a:
        await client.push(a, "app", APP)
        assert "all are right" in (await done(cli, a, "scrub", "--rate", "0")).stdout
        layer = APP.blobs[1]
        (tmp_path / "a" / "blobs" / "sha256" / Digest.of(layer).hex).write_bytes(layer[::-1])
        said = await cli("node", "scrub", "--root", a.config.root)
        assert said.exit_code == 1
        assert str(Digest.of(layer)) in said.stdout
        assert "push the images" in said.stdout


@pytest.mark.parametrize(
    "arguments",
    [["scrub", "--rate", "fast"], ["gc", "--grace", "soon"], ["drain", "--copies", "0"]],
)
async def test_what_was_typed_wrongly(arguments: list[str], cli: Cli) -> None:
    """Exit code 2."""
    assert (await cli("node", *arguments)).exit_code == 2


@pytest.mark.parametrize("verb", [upkeep.DRAIN, upkeep.GC, upkeep.SCRUB])
async def test_no_node(verb: str, cli: Cli, tmp_path: Path) -> None:
    """It is said how to name it, or start it."""
    said = await cli("node", verb, "--root", tmp_path)
    assert said.exit_code == 1
    assert "no node is running" in said.stderr
