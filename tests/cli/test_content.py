"""`oci-mesh tags`, `inspect`, `rm` and `copy`, against nodes."""

import asyncio
import hashlib
import json
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest
from aiohttp import web
from click.testing import Result

import oci_mesh
from oci_mesh.cli.run import PARTLY
from oci_mesh.errors import NameUnknown
from oci_mesh.spec.digest import Digest
from tests import images
from tests.cli.conftest import Cli
from tests.cli.guarded import BASIC, guarded, log_in
from tests.cli.servers import Reply, Script, answering, cutting
from tests.cli.test_commands import failed, outcomes
from tests.cli.test_layout import refer_to
from tests.nodes import DEADLINE_S, meet, running

SMALL = {"etc/small": b"small\n"}
OTHER = {"etc/other": b"other\n"}
BIG = {"big": random.Random(7).randbytes(3_000_000)}


@pytest.fixture
async def other(tmp_path: Path) -> AsyncIterator[oci_mesh.Node]:
    """Another node, of another mesh."""
    async with running(tmp_path, "other") as node:
        yield node


def lines(result: Result) -> list[str]:
    """Of standard output; it worked."""
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


async def pushed(cli: Cli, node: oci_mesh.Node, path: Path, ref: str, *layers: images.Files) -> str:
    """The digest of an image that was pushed as `ref`."""
    digest = images.build_layout(path, "v", *layers)
    assert (await cli("push", path, ref, registry=node.url)).exit_code == 0
    return digest


async def forgotten(node: oci_mesh.Node, repository: str) -> None:
    """Wait until the node knows no tag of it."""
    async with asyncio.timeout(DEADLINE_S):
        with suppress(NameUnknown):
            while await node.store.tags(repository):  # noqa: ASYNC110 - a state, no event
                await asyncio.sleep(0.01)


# -- tags


async def test_tags(cli: Cli, node: oci_mesh.Node, tmp_path: Path) -> None:
    """A line each; of a REF those that mean the same; without a name the repositories."""
    one = await pushed(cli, node, tmp_path / "1", "team/app:v1", SMALL)
    await cli("copy", "team/app:v1", "team/app:latest", registry=node.url)
    two = await pushed(cli, node, tmp_path / "2", "team/app:v2", OTHER)
    assert lines(await cli("tags", registry=node.url)) == ["team/app"]
    assert lines(await cli("tags", "team/app", registry=node.url)) == ["latest", "v1", "v2"]
    alike = await cli("tags", "team/app:v1", registry=node.url)
    assert lines(alike) == [f"latest  {one}", f"v1      {one}"]
    assert lines(await cli("tags", f"team/app@{two}", registry=node.url)) == [f"v2  {two}"]
    found = json.loads((await cli("tags", "team/app", "--json", registry=node.url)).stdout)
    assert found["tags"] == [{"name": "latest"}, {"name": "v1"}, {"name": "v2"}]
    digests = await cli("tags", "team/app", "--digests", "--json", registry=node.url)
    found = {tag["name"]: tag["digest"] for tag in json.loads(digests.stdout)["tags"]}
    assert found == {"latest": one, "v1": one, "v2": two}


async def test_tags_on_many_pages(cli: Cli) -> None:
    """All are listed; what is no tag is not, and a list without an end has one."""
    page = b'{"name": "app", "tags": ["a", "\\u001b[31mred"]}'
    link = {"Link": '</v2/app/tags/list?last=a>; rel="next"'}
    last = Reply(body=b'{"name": "app", "tags": ["b"]}')
    script = Script(Reply(body=page, headers=link), last)
    async with answering(script.answer) as url:
        assert lines(await cli("tags", "app", registry=url)) == ["a", "b"]
    assert script.asked == ["GET /v2/app/tags/list", "GET /v2/app/tags/list?last=a"]


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("tags", "team/ap"), "did you mean team/app?"),
        (("tags", "nothing-like-it"), ""),
        (("inspect", "team/ap:v1"), "did you mean team/app:v1?"),
        (("inspect", "team/app:v11"), "did you mean team/app:v1?"),
        (("inspect", "team/app:zzzzzzzzzzzzzz"), "`oci-mesh tags team/app` lists what there is"),
        (("rm", "team/app:v2"), "did you mean team/app:v1?"),
        (("copy", "teem/app:v1", "x:y"), "did you mean team/app:v1?"),
        (("pull", "tem/app:v1", "out"), "did you mean team/app:v1?"),
    ],
)
async def test_names_that_are_not_there(
    cli: Cli,
    node: oci_mesh.Node,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    hint: str,
) -> None:
    """Say the nearest one, and what can be done."""
    monkeypatch.chdir(tmp_path)
    await pushed(cli, node, tmp_path / "1", "team/app:v1", SMALL)
    result = await cli(*arguments, registry=node.url)
    error = failed(result)
    assert arguments[1] in error
    assert node.url in error
    said = [line for line in result.stderr.splitlines() if line.startswith("hint: ")]
    assert said == ([f"hint: {hint}"] if hint else [])
    assert lines(await cli("tags", "team/app", registry=node.url)) == ["v1"]


# -- inspect


async def test_inspect_an_index(cli: Cli, node: oci_mesh.Node, tmp_path: Path) -> None:
    """Platforms with their layers, and what refers to it; in text and as JSON."""
    writer = images.Layout(tmp_path / "s")
    arm = writer.image(SMALL, OTHER, architecture="arm64", command=("/bin/app", "--now"))
    root = writer.index(writer.image(SMALL), arm)
    writer.tag("m", root)
    signature = refer_to(writer, root)
    await cli("push", tmp_path / "s", "app:m", registry=node.url)
    found = json.loads((await cli("inspect", "app:m", "--json", registry=node.url)).stdout)
    assert found["digest"] == root["digest"]
    assert [image["platform"] for image in found["images"]] == ["linux/amd64", "linux/arm64"]
    assert found["images"][1]["digest"] == arm["digest"]
    assert found["images"][1]["command"] == ["/bin/app", "--now"]
    manifest = json.loads((tmp_path / "s/blobs/sha256" / str(arm["digest"])[7:]).read_bytes())
    assert [layer["digest"] for layer in found["images"][1]["layers"]] == [
        layer["digest"] for layer in manifest["layers"]
    ]
    sizes = [blob["size"] for blob in (manifest["config"], *manifest["layers"])]
    assert found["images"][1]["size"] == sum(sizes)
    assert [referrer["digest"] for referrer in found["referrers"]] == [signature["digest"]]
    assert found["referrers"][0]["artifactType"] == "application/x-signature"
    text = (await cli("inspect", "app:m", registry=node.url)).stdout
    for part in ("linux/amd64", "linux/arm64", '["/bin/app","--now"]', str(signature["digest"])):
        assert part in text


async def test_inspect_raw(cli: Cli, node: oci_mesh.Node, tmp_path: Path) -> None:
    """The manifest's own bytes: their digest is its."""
    digest = await pushed(cli, node, tmp_path / "s", "app:v1", SMALL)
    result = await cli("inspect", "app:v1", "--raw", registry=node.url)
    assert "sha256:" + hashlib.sha256(result.stdout_bytes).hexdigest() == digest
    assert (await cli("inspect", "app:v1", "--raw", "--json", registry=node.url)).exit_code == 2


async def test_inspect_what_says_strange_things(
    cli: Cli, node: oci_mesh.Node, tmp_path: Path
) -> None:
    """Labels are foreign text, fit for a terminal; a configuration that is none is no error."""
    writer = images.Layout(tmp_path / "s")
    said = {"Labels": {"k": "\x1b]0;x\x07", "long": "y" * 500}, "User": "0\n0", "Cmd": None}
    manifests = []
    for config in (
        {"architecture": "amd64", "os": "linux", "created": "2026-01-01", "config": said},
        ["no", "object"],
        {"architecture": 7},
    ):
        described = writer.add(images.IMAGE_CONFIG, json.dumps(config).encode())
        document = {"schemaVersion": 2, "mediaType": images.IMAGE_MANIFEST, "config": described}
        manifests.append(
            writer.add(images.IMAGE_MANIFEST, images.encode({**document, "layers": []}))
        )
    writer.tag("m", writer.index(*manifests))
    assert (await cli("push", tmp_path / "s", "app:m", registry=node.url)).exit_code == 0
    text = "\n".join(lines(await cli("inspect", "app:m", registry=node.url)))
    assert "\x1b" not in text
    assert "k=\\x1b]0;x\\x07" in text
    assert "y" * 200 not in text
    assert "2026-01-01" in text
    assert all(str(manifest["digest"]) in text for manifest in manifests)


async def test_inspect_a_sparse_index(cli: Cli, node: oci_mesh.Node, tmp_path: Path) -> None:
    """What is not there is said; the rest is shown."""
    digest = images.build_index(tmp_path / "s", "m", {"amd64": [SMALL], "arm64": [OTHER]})
    index = json.loads((tmp_path / "s/blobs/sha256" / digest[7:]).read_bytes())
    (tmp_path / "s/blobs/sha256" / index["manifests"][1]["digest"][7:]).unlink()
    await cli("push", tmp_path / "s", "app:m", registry=node.url)
    found = json.loads((await cli("inspect", "app:m", "--json", registry=node.url)).stdout)
    assert ["problem" in image for image in found["images"]] == [False, True]


# -- rm


async def test_rm_on_all_nodes(cli: Cli, tmp_path: Path) -> None:
    """A tag goes alone, a digest with its tags; other nodes forget them too."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
    ):
        await meet(a, b)
        one = await pushed(cli, a, tmp_path / "1", "app:v1", SMALL)
        await cli("copy", "app:v1", "app:v2", registry=a.url)
        await cli("copy", "app:v1", "app:v3", registry=a.url)
        assert lines(await cli("rm", "app:v1", registry=a.url)) == [
            "removed app:v1; the same content is still there as app:v2, app:v3"
        ]
        removed = await cli("rm", f"app@{one}", registry=b.url)
        assert lines(removed) == [f"removed app@{one} and its tags v2, v3"]
        for node in (a, b):
            await forgotten(node, "app")
            result = await cli("inspect", f"app@{one}", registry=node.url)
            assert "not in the registry" in failed(result)


async def test_rm_of_several(cli: Cli, node: oci_mesh.Node, tmp_path: Path) -> None:
    """What goes in the same call does not remain; twice named is once removed."""
    one = await pushed(cli, node, tmp_path / "1", "app:v1", SMALL)
    await cli("copy", "app:v1", "app:v2", registry=node.url)
    result = await cli("rm", "app:v2", "app:v1", "app:v2", "--json", registry=node.url)
    removed = json.loads(result.stdout)["removed"]
    assert [entry["reference"] for entry in removed] == ["app:v2", "app:v1"]
    assert [entry["remaining"] for entry in removed] == [[], []]
    assert [entry["digest"] for entry in removed] == [one, one]
    assert lines(await cli("tags", "app", registry=node.url)) == []
    result = await cli("rm", f"app@{one}", registry=node.url)
    assert lines(result) == [f"removed app@{one}"]


async def test_rm_all_or_nothing(cli: Cli, node: oci_mesh.Node, tmp_path: Path) -> None:
    """One name that is not there, and nothing is removed; without a tag it is no name."""
    await pushed(cli, node, tmp_path / "1", "app:v1", SMALL)
    assert "app:v9" in failed(await cli("rm", "app:v1", "app:v9", registry=node.url))
    result = await cli("rm", "app:v1", "app", registry=node.url)
    assert result.exit_code == 2
    assert "app:TAG or app@DIGEST" in result.stderr
    assert lines(await cli("tags", "app", registry=node.url)) == ["v1"]


async def test_rm_that_breaks_off(cli: Cli) -> None:
    """What was removed is said, and that it is not all: exit code 3."""
    index = b'{"schemaVersion": 2, "manifests": []}'
    kind = {"Content-Type": images.IMAGE_INDEX}

    async def answer(request: web.Request) -> web.Response:
        if request.method == "DELETE":
            return web.Response(status=202 if request.path.endswith("a") else 405)
        if "tags" in request.path:
            return web.Response(body=b'{"tags": []}')
        return web.Response(body=index, headers=kind)

    async with answering(answer) as url:
        result = await cli("rm", "app:a", "app:b", registry=url)
        assert result.exit_code == PARTLY
        assert result.stdout.startswith("removed app:a")
        assert "app:b" not in result.stdout
        assert "error: DELETE" in result.stderr
        assert "405" in failed(await cli("rm", "app:b", registry=url))


# -- copy


async def test_copy_between_registries(
    cli: Cli, node: oci_mesh.Node, other: oci_mesh.Node, tmp_path: Path
) -> None:
    """All platforms, every digest as it is, referrers if asked for; a second time sends nothing."""
    writer = images.Layout(tmp_path / "s")
    root = writer.index(writer.image(BIG), writer.image(SMALL, architecture="arm64"))
    writer.tag("m", root)
    signature = refer_to(writer, root)
    await cli("push", tmp_path / "s", "app:m", registry=node.url)
    dest = other.url.removeprefix("http://")
    result = await cli("copy", "app:m", f"{dest}/team/app:m", registry=node.url)
    assert lines(result) == [f"{dest}/team/app@{root['digest']}"]
    assert await other.store.resolve("team/app", "m") == Digest.parse(str(root["digest"]))
    found = json.loads((await cli("inspect", f"{dest}/team/app:m", "--json")).stdout)
    assert found["referrers"] == []
    again = await cli("copy", "app:m", f"{dest}/team/app:m", "--json", registry=node.url)
    assert outcomes(again) == {"exists"}
    await cli("copy", "app:m", f"{dest}/team/app:m", "--referrers", registry=node.url)
    found = json.loads((await cli("inspect", f"{dest}/team/app:m", "--json")).stdout)
    assert [referrer["digest"] for referrer in found["referrers"]] == [signature["digest"]]
    assert (await cli("pull", f"{dest}/team/app:m", tmp_path / "out")).exit_code == 0


async def test_copy_mounts_in_one_registry(cli: Cli, node: oci_mesh.Node, tmp_path: Path) -> None:
    """No blob is sent from one repository to another."""
    await pushed(cli, node, tmp_path / "s", "app:v1", BIG)
    result = await cli("copy", "app:v1", "team/app:v1", "--json", registry=node.url)
    assert outcomes(result) == {"mounted"}


@pytest.mark.parametrize("direction", ["down", "up"])
async def test_copy_through_cuts(
    cli: Cli, node: oci_mesh.Node, other: oci_mesh.Node, tmp_path: Path, direction: str
) -> None:
    """Either side's connection is cut in the middle of a blob: it goes on where it was."""
    digest = await pushed(cli, node, tmp_path / "s", "app:v1", BIG)
    limits = [2_000_000, 500_000, 100_000]
    cut, whole = (node, other) if direction == "down" else (other, node)
    async with cutting(cut.url, limits, direction) as cuts:
        urls = {cut: cuts.url, whole: whole.url}
        source, dest = (urls[one].removeprefix("http://") for one in (node, other))
        result = await cli("copy", f"{source}/app:v1", f"{dest}/app:v1")
        assert lines(result) == [f"{dest}/app@{digest}"]
        assert cuts.connections > len(limits)
        # Nothing is sent all over again: a blob is a bit more than 3 MB.
        assert max(cuts.up, cuts.down) < 4_500_000


async def test_copy_of_what_is_not_what_it_says(
    cli: Cli, other: oci_mesh.Node, tmp_path: Path
) -> None:
    """A layer with another content, or longer, does not get into the other registry."""
    writer = images.Layout(tmp_path / "s")
    image = writer.image(SMALL)
    manifest = (tmp_path / "s/blobs/sha256" / str(image["digest"])[7:]).read_bytes()
    layer = json.loads(manifest)["layers"][0]
    dest = other.url.removeprefix("http://")
    for wrong in (bytes(layer["size"]), bytes(layer["size"] + 1)):

        async def answer(request: web.Request, wrong: bytes = wrong) -> web.Response:
            if "manifests" in request.path:
                kind = {"Content-Type": images.IMAGE_MANIFEST}
                return web.Response(body=manifest, headers=kind)
            name = request.path.rpartition("/")[2]
            if name == layer["digest"]:
                return web.Response(body=wrong)
            return web.Response(body=(tmp_path / "s/blobs/sha256" / name[7:]).read_bytes())

        async with answering(answer) as url:
            source = url.removeprefix("http://")
            error = failed(await cli("copy", f"{source}/app:v1", f"{dest}/app:v1"))
            assert error.startswith(f"blob {layer['digest']}: the registry sen")
            assert "attempts" not in error
    with suppress(NameUnknown):  # the configuration may be there, and nothing that leads to it
        assert await other.store.tags("app") == []


async def test_copy_to_another_digest(cli: Cli, node: oci_mesh.Node, tmp_path: Path) -> None:
    """A digest in the second REF is what has to come out."""
    digest = await pushed(cli, node, tmp_path / "s", "app:v1", SMALL)
    wrong = Digest.of(b"")
    assert "another digest" in failed(
        await cli("copy", "app:v1", f"team/app@{wrong}", registry=node.url)
    )
    result = await cli("copy", "app:v1", f"team/app@{digest}", registry=node.url)
    assert lines(result) == [f"team/app@{digest}"]


# -- who is asking


@pytest.mark.parametrize("kind", ["basic", "bearer"])
async def test_private_registries(
    cli: Cli,
    node: oci_mesh.Node,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    """Push, copy and pull with what `docker login` keeps; without, one sentence says to log in."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    images.build_layout(tmp_path / "s", "v", BIG)
    async with guarded(node.url, kind) as gate:
        place = gate.url.removeprefix("http://")
        result = await cli("push", tmp_path / "s", f"{place}/app:v1")
        assert "401" in failed(result)
        assert f"docker login {place}" in result.stderr
        log_in(tmp_path / "docker", place)
        for arguments in (
            ("push", tmp_path / "s", f"{place}/app:v1"),
            ("copy", f"{place}/app:v1", f"{place}/team/app:v2"),
            ("tags", f"{place}/app"),
            ("pull", f"{place}/team/app:v2", tmp_path / "out"),
            ("rm", f"{place}/app:v1"),
        ):
            assert lines(await cli(*arguments))
        if kind == "bearer":  # the password opens the place of tokens, and nothing else
            assert {path for path, shown in gate.seen if shown == BASIC} == {"/token"}


async def test_a_password_that_is_wrong(
    cli: Cli, node: oci_mesh.Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said which file has it; the password is in no message."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    async with guarded(node.url, "bearer") as gate:
        place = gate.url.removeprefix("http://")
        log_in(tmp_path / "docker", place)
        monkeypatch.setattr("tests.cli.guarded.BASIC", "Basic other")
        result = await cli("inspect", f"{place}/app:v1")
        assert "401" in failed(result)
        assert str(tmp_path / "docker" / "config.json") in result.stderr
        assert "pass:word" not in result.output


async def test_tokens_for_anybody(cli: Cli, node: oci_mesh.Node, tmp_path: Path) -> None:
    """Registries that give tokens to who has no credentials; a token may end at any moment."""
    await pushed(cli, node, tmp_path / "s", "app:v1", SMALL)
    async with guarded(node.url, "bearer", anonymous=True) as gate:
        gate.revoke_at = "/blobs/"
        place = gate.url.removeprefix("http://")
        result = await cli("copy", f"{place}/app:v1", "copied:v1", registry=node.url)
        assert result.exit_code == 0, result.output
        assert [*gate.tokens.values()] == [[], ["repository:app:pull"]]


async def test_credentials_stay_with_their_registry(
    cli: Cli, node: oci_mesh.Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They do not follow a redirect to another place."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    await pushed(cli, node, tmp_path / "s", "app:v1", SMALL)
    shown: list[str | None] = []

    async def elsewhere(request: web.Request) -> web.Response:
        shown.append(request.headers.get("Authorization"))
        raise web.HTTPTemporaryRedirect(f"{node.url}{request.path}")

    async with answering(elsewhere) as there:

        async def answer(request: web.Request) -> web.Response:
            if request.headers.get("Authorization") != BASIC:
                return web.Response(status=401, headers={"WWW-Authenticate": "Basic realm=x"})
            raise web.HTTPTemporaryRedirect(f"{there}{request.path}")

        async with answering(answer) as url:
            place = url.removeprefix("http://")
            log_in(tmp_path / "docker", place)
            assert (await cli("pull", f"{place}/app:v1", tmp_path / "out")).exit_code == 0
    assert shown
    assert set(shown) == {None}


async def test_uploads_elsewhere_get_no_credentials(
    cli: Cli, node: oci_mesh.Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a registry says that its uploads go is not the registry."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    images.build_layout(tmp_path / "s", "v", SMALL)
    shown: list[str | None] = []

    async def elsewhere(request: web.Request) -> web.Response:
        await request.read()
        shown.append(request.headers.get("Authorization"))
        return web.Response(status=201)

    async with answering(elsewhere) as there:

        async def answer(request: web.Request) -> web.Response:
            await request.read()
            if request.headers.get("Authorization") != BASIC:
                return web.Response(status=401, headers={"WWW-Authenticate": "Basic realm=x"})
            if request.method == "POST":
                return web.Response(status=202, headers={"Location": f"{there}/upload"})
            return web.Response(status=404 if request.method == "HEAD" else 201)

        async with answering(answer) as url:
            place = url.removeprefix("http://")
            log_in(tmp_path / "docker", place)
            assert lines(await cli("push", tmp_path / "s", f"{place}/app:v1"))
    assert len(shown) == 2
    assert set(shown) == {None}
