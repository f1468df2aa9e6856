"""`oci-mesh push` and `oci-mesh pull`, against a node."""

import asyncio
import gzip
import json
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

import oci_mesh
from oci_mesh.cli.layout import blob_name
from oci_mesh.spec import media_types
from tests import images
from tests.cli.archives import Member, read_tar, tar_bytes
from tests.cli.conftest import Cli
from tests.cli.servers import Reply, Script, answering, cutting
from tests.cli.test_layout import refer_to

SMALL = {"etc/small": b"small\n"}
LARGE = {"large": b"".join(b"line %d\n" % number for number in range(400_000))}


def done(result: Result) -> str:
    """The digest that a verb printed; it worked."""
    assert result.exit_code == 0, result.output
    reference, at, digest = result.stdout.strip().partition("@")
    assert reference == "app"
    assert at == "@"
    return digest


def failed(result: Result) -> str:
    """The error that a verb printed: one line, perhaps a hint, nothing on standard output."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return lines[0].removeprefix("error: ")


def outcomes(result: Result) -> set[str]:
    """Of the blobs in a JSON result."""
    return {blob["outcome"] for blob in json.loads(result.stdout)["blobs"]}


def archive_members(path: Path) -> dict[str, bytes]:
    """manifest.json's first image: its configuration and layers, in order."""
    files = read_tar(path)
    (image,) = json.loads(files["manifest.json"])
    return {name: files[name] for name in (image["Config"], *image["Layers"])}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """What `docker save app:v1` writes."""
    path = tmp_path / "app.tar"
    images.build_docker_archive(path, "app:v1", SMALL, LARGE)
    return path


async def test_round_trip(cli: Cli, node: oci_mesh.Node, archive: Path, tmp_path: Path) -> None:
    """docker archive -> node -> layout -> node -> tar -> node -> docker archive: one digest all
    along, and at the end the configuration and the layers of the beginning.
    """
    digest = done(await cli("push", archive, "app:v1", registry=node.url))
    assert done(await cli("pull", "app:v1", tmp_path / "dir", registry=node.url)) == digest
    assert done(await cli("push", tmp_path / "dir", "app:v2", registry=node.url)) == digest
    assert done(await cli("pull", "app:v2", tmp_path / "a.tar", registry=node.url)) == digest
    assert done(await cli("push", tmp_path / "a.tar", "app:v3", registry=node.url)) == digest
    again = tmp_path / "again.tar"
    arguments = ("pull", "app:v3", again, "--format", "docker-archive")
    assert done(await cli(*arguments, registry=node.url)) == digest
    assert [*archive_members(again).values()] == [*archive_members(archive).values()]
    assert json.loads(read_tar(again)["manifest.json"])[0]["RepoTags"] == ["app:v3"]


def skopeo_inspect(image: str) -> bytes:
    """What skopeo says of it."""
    return subprocess.run(["skopeo", "inspect", image], capture_output=True, check=True).stdout


@pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
async def test_skopeo_agrees(cli: Cli, node: oci_mesh.Node, archive: Path, tmp_path: Path) -> None:
    """With what we push, and with each form of what we pull."""
    digest = done(await cli("push", archive, "app:v1", registry=node.url))
    layers = [f"sha256:{name.partition('/')[0]}" for name in archive_members(archive)][1:]
    for name, form in (("dir", "oci-dir"), ("a.tar", "oci-tar"), ("d.tar", "docker-archive")):
        path = tmp_path / name
        done(await cli("pull", "app:v1", path, "--format", form, registry=node.url))
        kind = {"oci-dir": "oci", "oci-tar": "oci-archive"}.get(form, form)
        tag = "" if form == "docker-archive" else ":v1"
        found = json.loads(await asyncio.to_thread(skopeo_inspect, f"{kind}:{path}{tag}"))
        if form == "docker-archive":
            assert found["Layers"] == layers
        else:
            assert found["Digest"] == digest


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
async def test_a_second_push_sends_nothing(
    cli: Cli, node: oci_mesh.Node, archive: Path, compression: str
) -> None:
    """Packing again gives the same layers, which are found; the result says what became what."""
    arguments = ("push", archive, "app:v1", "--json", "--compression", compression)
    first = await cli(*arguments, registry=node.url)
    second = await cli(*arguments, registry=node.url)
    assert outcomes(first) == {"pushed"}
    assert outcomes(second) == {"exists"}
    blobs = [
        {key: value for key, value in blob.items() if key != "outcome"}
        for blob in sorted(json.loads(first.stdout)["blobs"], key=lambda blob: blob["digest"])
    ]
    layers = {blob["diffId"]: blob for blob in blobs if "diffId" in blob}
    config, *names = archive_members(archive)
    assert {f"sha256:{name.partition('/')[0]}" for name in names} == set(layers)
    assert {layer["mediaType"] for layer in layers.values()} == {
        f"application/vnd.oci.image.layer.v1.tar+{compression}"
    }
    assert f"sha256:{config.removesuffix('.json')}" in {blob["digest"] for blob in blobs}


async def test_standard_input_and_output(
    cli: Cli, node: oci_mesh.Node, archive: Path, tmp_path: Path
) -> None:
    """`docker save | oci-mesh push -` and `oci-mesh pull - | docker load`."""
    data = gzip.compress(archive.read_bytes(), 1)
    digest = done(await cli("push", "-", "app:v1", stdin=data, registry=node.url))
    pulled = await cli("pull", "app:v1", "-", "--format", "docker-archive", registry=node.url)
    (tmp_path / "out.tar").write_bytes(pulled.stdout_bytes)
    assert [*archive_members(tmp_path / "out.tar").values()] == [*archive_members(archive).values()]
    assert pulled.stderr.splitlines()[-1] == f"app@{digest}"


async def test_docker_25_archives_are_packed(
    cli: Cli, node: oci_mesh.Node, archive: Path, tmp_path: Path
) -> None:
    """They are OCI layouts as well, of unpacked layers: these are compressed all the same."""
    members = archive_members(archive)
    config, *layers = members.values()
    blobs = {images.sha256(data): data for data in members.values()}
    manifest = images.encode(
        {
            "schemaVersion": 2,
            "mediaType": images.IMAGE_MANIFEST,
            "config": images.descriptor(images.IMAGE_CONFIG, config),
            "layers": [images.descriptor(media_types.LAYER_TAR, layer) for layer in layers],
        }
    )
    blobs[images.sha256(manifest)] = manifest
    entry = images.descriptor(images.IMAGE_MANIFEST, manifest)
    entry["annotations"] = {
        "io.containerd.image.name": "docker.io/library/app:v1",
        "org.opencontainers.image.ref.name": "v1",
    }
    paths = [blob_name(images.sha256(data)) for data in (config, *layers)]
    listing = [{"Config": paths[0], "RepoTags": ["app:v1"], "Layers": paths[1:]}]
    newer = tmp_path / "newer.tar"
    newer.write_bytes(
        tar_bytes(
            [
                *((blob_name(digest), data) for digest, data in blobs.items()),
                ("index.json", images.encode({"schemaVersion": 2, "manifests": [entry]})),
                ("manifest.json", json.dumps(listing).encode()),
                ("oci-layout", b"{}"),
            ]
        )
    )
    digest = done(await cli("push", archive, "app:v1", registry=node.url))
    assert done(await cli("push", newer, "app:v1", registry=node.url)) == digest


async def test_every_platform_of_an_index(cli: Cli, node: oci_mesh.Node, tmp_path: Path) -> None:
    """Goes and comes back byte for byte; one of them can be had alone."""
    source = tmp_path / "source"
    digest = images.build_index(source, "m", {"amd64": [SMALL, LARGE], "arm64": [SMALL]})
    assert done(await cli("push", source, "app:m", registry=node.url)) == digest
    assert done(await cli("pull", "app:m", tmp_path / "all", registry=node.url)) == digest
    blobs = {path.name: path.read_bytes() for path in (source / "blobs/sha256").iterdir()}
    assert blobs == {
        path.name: path.read_bytes() for path in (tmp_path / "all/blobs/sha256").iterdir()
    }
    one = await cli(
        "pull", "app:m", tmp_path / "one", "--platform", "linux/arm64", registry=node.url
    )
    (index,) = [json.loads(blobs[digest.removeprefix("sha256:")])]
    assert done(one) == index["manifests"][1]["digest"]
    assert len([*(tmp_path / "one/blobs/sha256").iterdir()]) == 3
    pulled = await cli(
        "pull", "app:m", tmp_path / "x", "--platform", "linux/s390x", registry=node.url
    )
    assert "no image for linux/s390x: linux/amd64, linux/arm64" in failed(pulled)
    assert not (tmp_path / "x").exists()


async def test_an_image_for_another_platform(cli: Cli, node: oci_mesh.Node, tmp_path: Path) -> None:
    """One that is no index says in its configuration where it runs."""
    digest = images.build_layout(tmp_path / "source", "v1", SMALL, architecture="arm64")
    done(await cli("push", tmp_path / "source", "app:v1", registry=node.url))
    arguments = ("pull", "app:v1", tmp_path / "out", "--platform")
    result = await cli(*arguments, "linux/amd64", registry=node.url)
    assert "an image for linux/arm64 only, not for linux/amd64" in failed(result)
    assert done(await cli(*arguments, "linux/arm64", registry=node.url)) == digest


async def test_children_before_parents(cli: Cli, tmp_path: Path) -> None:
    """A registry that takes no manifest before all that it names takes our indexes."""
    writer = images.Layout(tmp_path / "s")
    root = writer.index(writer.index(writer.image(SMALL)), writer.image(LARGE))
    writer.tag("m", root)
    config = oci_mesh.NodeConfig(
        root=tmp_path / "strict",
        listen="127.0.0.1:0",
        mesh_listen="127.0.0.1:0",
        sparse="deny",
        drain=0,
    )
    async with oci_mesh.Node(config) as strict:
        assert (
            done(await cli("push", tmp_path / "s", "app:m", registry=strict.url)) == root["digest"]
        )


async def test_referrers_come_when_asked_for(cli: Cli, node: oci_mesh.Node, tmp_path: Path) -> None:
    """A signature goes with its image, and comes back with `--referrers`."""
    writer = images.Layout(tmp_path / "source")
    image = writer.image(SMALL)
    writer.tag("v1", image)
    signature = refer_to(writer, image)
    digest = done(await cli("push", tmp_path / "source", "app:v1", registry=node.url))
    assert digest == image["digest"]
    done(await cli("pull", "app:v1", tmp_path / "bare", registry=node.url))
    done(await cli("pull", "app:v1", tmp_path / "all", "--referrers", registry=node.url))
    name = blob_name(str(signature["digest"]))
    assert not (tmp_path / "bare" / name).exists()
    assert (tmp_path / "all" / name).exists()
    assert done(await cli("push", tmp_path / "all", "app:v2", registry=node.url)) == digest


async def test_sparse_indexes(cli: Cli, node: oci_mesh.Node, tmp_path: Path) -> None:
    """What is not in the layout is not pushed, and said not to be there when it is pulled."""
    digest = images.build_index(tmp_path / "s", "m", {"amd64": [SMALL], "arm64": [LARGE]})
    index = json.loads((tmp_path / "s" / blob_name(digest)).read_bytes())
    gone = index["manifests"][1]["digest"]
    (tmp_path / "s" / blob_name(gone)).unlink()
    for arguments in (("push", tmp_path / "s", "app:m"), ("pull", "app:m", tmp_path / "out")):
        result = await cli(*arguments, "--json", registry=node.url)
        assert json.loads(result.stdout)["absent"] == [gone]
        assert json.loads(result.stdout)["digest"] == digest


async def test_a_blob_that_only_the_registry_has(
    cli: Cli, node: oci_mesh.Node, tmp_path: Path
) -> None:
    """Layouts may leave out layers; if the registry does not have them either, it fails."""
    digest = images.build_layout(tmp_path / "s", "v1", SMALL)
    manifest = json.loads((tmp_path / "s" / blob_name(digest)).read_bytes())
    layer = tmp_path / "s" / blob_name(manifest["layers"][0]["digest"])
    kept = layer.read_bytes()
    layer.unlink()
    result = await cli("push", tmp_path / "s", "app:v1", registry=node.url)
    assert "is neither in SOURCE nor in app" in failed(result)
    layer.write_bytes(kept)
    done(await cli("push", tmp_path / "s", "app:v1", registry=node.url))
    layer.unlink()
    assert done(await cli("push", tmp_path / "s", "app:v2", registry=node.url)) == digest


async def test_one_layout_for_many_images(
    cli: Cli, node: oci_mesh.Node, archive: Path, tmp_path: Path
) -> None:
    """Each pull adds one; a push takes the one that is called as REF."""
    other = tmp_path / "other"
    images.build_layout(other, "x", SMALL)
    first = done(await cli("push", archive, "app:v1", registry=node.url))
    second = done(await cli("push", other, "app:v2", registry=node.url))
    for tag in ("v1", "v2", "v1"):
        done(await cli("pull", f"app:{tag}", tmp_path / "out", registry=node.url))
    assert done(await cli("push", tmp_path / "out", "app:v1", registry=node.url)) == first
    assert done(await cli("push", tmp_path / "out", "app:v2", registry=node.url)) == second
    result = await cli("push", tmp_path / "out", "app:v3", registry=node.url)
    assert "SOURCE holds 2 images and REF does not say which: 'app:v2'" in failed(result)
    arguments = ("push", tmp_path / "out", "app:v3", "--image", "app:v1")
    assert done(await cli(*arguments, registry=node.url)) == first


async def test_a_pull_goes_on(cli: Cli, node: oci_mesh.Node, archive: Path, tmp_path: Path) -> None:
    """What an earlier one left is hashed, kept if it is right, and fetched again if it is not."""
    digest = done(await cli("push", archive, "app:v1", registry=node.url))
    out = tmp_path / "out"
    done(await cli("pull", "app:v1", out, registry=node.url))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    layers = sorted((out / "blobs" / "sha256").iterdir(), key=lambda path: path.stat().st_size)
    layers[-1].write_bytes(b"damaged")
    data = before[layers[-2]]
    layers[-2].unlink()
    (out / ".oci-mesh").mkdir()
    (out / ".oci-mesh" / f"sha256-{layers[-2].name}").write_bytes(data[:100])
    (out / "index.json").unlink()
    result = await cli("pull", "app:v1", out, "--json", registry=node.url)
    outcome = {blob["digest"][7:]: blob["outcome"] for blob in json.loads(result.stdout)["blobs"]}
    assert outcome[layers[-1].name] == "pulled"
    assert json.loads(result.stdout)["digest"] == digest
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.mark.parametrize("junk", [b"junk", bytes(10_000_000)], ids=["short", "long"])
async def test_a_partial_that_is_junk(
    cli: Cli, node: oci_mesh.Node, archive: Path, tmp_path: Path, junk: bytes
) -> None:
    """It costs the bytes again, and nothing else."""
    digest = done(await cli("push", archive, "app:v1", registry=node.url))
    done(await cli("pull", "app:v1", tmp_path / "good", registry=node.url))
    (tmp_path / "out" / ".oci-mesh").mkdir(parents=True)
    (tmp_path / "out" / "oci-layout").write_bytes(b"{}")
    for blob in (tmp_path / "good" / "blobs" / "sha256").iterdir():
        (tmp_path / "out" / ".oci-mesh" / f"sha256-{blob.name}").write_bytes(junk)
    assert done(await cli("pull", "app:v1", tmp_path / "out", registry=node.url)) == digest


async def test_a_pull_over_a_bad_line(
    cli: Cli, node: oci_mesh.Node, archive: Path, tmp_path: Path
) -> None:
    """Cut time and again, each byte comes about once."""
    digest = done(await cli("push", archive, "app:v1", "--compression", "none", registry=node.url))
    async with cutting(node.url, [300_000] * 9, "down") as cuts:
        assert done(await cli("pull", "app:v1", tmp_path / "out", registry=cuts.url)) == digest
    assert cuts.connections > 9
    assert cuts.down < 2 * len(LARGE["large"])


async def test_a_registry_without_ranges(cli: Cli, tmp_path: Path) -> None:
    """It sends all of a blob that is half there: then all of it is taken anew."""
    config = images.descriptor(images.IMAGE_CONFIG, b"{}")
    document = {"schemaVersion": 2, "mediaType": images.IMAGE_MANIFEST, "config": config}
    manifest = images.encode({**document, "layers": []})
    script = Script(
        Reply(body=manifest, headers={"Content-Type": images.IMAGE_MANIFEST}), Reply(body=b"{}")
    )
    partial = tmp_path / "out" / ".oci-mesh" / config["digest"].replace(":", "-")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"{")
    (tmp_path / "out" / "oci-layout").write_bytes(b"{}")
    async with answering(script.answer) as url:
        done(await cli("pull", "app:v1", tmp_path / "out", registry=url))
    assert (tmp_path / "out" / blob_name(config["digest"])).read_bytes() == b"{}"


async def test_a_registry_that_lies(cli: Cli, tmp_path: Path) -> None:
    """Other bytes than the digest says are never kept, and the directory gets no image."""
    config = images.descriptor(images.IMAGE_CONFIG, b"{}")
    document = {"schemaVersion": 2, "mediaType": images.IMAGE_MANIFEST, "config": config}
    manifest = images.encode({**document, "layers": []})
    reply = Reply(body=manifest, headers={"Content-Type": images.IMAGE_MANIFEST})
    for lie, problem in ((b"[]", "the registry sent"), (b"{}more", "sends more than 2 bytes")):
        script = Script(reply, Reply(body=lie))
        async with answering(script.answer) as url:
            result = await cli("pull", "app:v1", tmp_path / "out", registry=url)
        assert problem in failed(result)
        assert not (tmp_path / "out" / "index.json").exists()
        assert not (tmp_path / "out" / blob_name(config["digest"])).exists()


def listing(**changes: Any) -> Member:
    """A manifest.json of one image, changed."""
    image = {"Config": "c.json", "RepoTags": ["app:v1"], "Layers": ["l/layer.tar"], **changes}
    return "manifest.json", json.dumps([image]).encode()


LAYER = images.layer_tar(SMALL)
CONFIG = json.dumps({"rootfs": {"type": "layers", "diff_ids": [images.sha256(LAYER)]}}).encode()
GOOD: Mapping[str, Member] = {
    "listing": listing(),
    "config": ("c.json", CONFIG),
    "layer": ("l/layer.tar", LAYER),
}


def changed(**members: Member | None) -> bytes:
    """A good archive with members replaced, added, or left out (None)."""
    found = {**GOOD, **members}
    return tar_bytes([member for member in found.values() if member is not None])


HOSTILE = {
    "no manifest.json": (changed(listing=None), "neither what docker save writes"),
    "no layer": (changed(layer=None), "no member 'l/layer.tar'"),
    "no configuration": (changed(config=None), "no member 'c.json'"),
    "not JSON": (changed(listing=("manifest.json", b"no")), "not what docker save writes"),
    "no image": (changed(listing=("manifest.json", b"[]")), "holds no image"),
    "another layer": (changed(layer=("l/layer.tar", b"x" * 512)), "configuration says"),
    "half a layer": (changed(layer=("l/layer.tar", gzip.compress(LAYER)[:-5])), "damaged"),
    "a layer too many": (changed(listing=listing(Layers=[])), "lists 0 layers"),
    "a name that leads out": (changed(more=("../../x", b"")), "outside of the archive"),
    "an absolute name": (changed(more=("/etc/cron.d/x", b"")), "outside of the archive"),
    "a layer outside": (changed(listing=listing(Layers=["/etc/passwd"])), "outside of the"),
    "a link that leads out": (changed(layer=("l/layer.tar", "/etc/passwd")), "outside of the"),
    "links in circles": (changed(layer=("l/layer.tar", "layer.tar")), "run in circles"),
    "a dangling link": (changed(layer=("l/layer.tar", "../m")), "no member 'l/layer.tar'"),
    "two of one name": (changed(more=("c.json", b"{}")), "two members called 'c.json'"),
    "truncated": (changed()[:1800], "damaged"),
    "truncated in a pipe": (gzip.compress(changed())[:300], "damaged"),
    "not an archive": (b"<html>", "not a tar archive"),
    "nothing": (b"", "empty"),
}


@pytest.mark.parametrize(("data", "problem"), HOSTILE.values(), ids=HOSTILE)
async def test_hostile_archives(
    cli: Cli, node: oci_mesh.Node, tmp_path: Path, data: bytes, problem: str
) -> None:
    """One error that says what is wrong, exit code 1; no tag, and no file anywhere."""
    (tmp_path / "hostile.tar").write_bytes(data)
    assert problem in failed(
        await cli("push", tmp_path / "hostile.tar", "app:v1", registry=node.url)
    )
    result = await cli("pull", "app:v1", tmp_path / "out", registry=node.url)
    assert failed(result) == f"app:v1 is not in the registry {node.url}"


async def test_the_good_archive_is_good(cli: Cli, node: oci_mesh.Node, tmp_path: Path) -> None:
    """What the hostile ones are made from; with a compressed layer, and with links, too."""
    link = changed(layer=("l/layer.tar", "../m/layer.tar"), more=("m/layer.tar", LAYER))
    for data in (changed(), changed(layer=("l/layer.tar", gzip.compress(LAYER))), link):
        (tmp_path / "good.tar").write_bytes(data)
        done(await cli("push", tmp_path / "good.tar", "app:v1", registry=node.url))


async def test_digests_in_references(
    cli: Cli, node: oci_mesh.Node, archive: Path, tmp_path: Path
) -> None:
    """A push under a digest has to have it; a pull by digest needs no tag."""
    digest = done(await cli("push", archive, "app:v1", registry=node.url))
    assert done(await cli("push", archive, f"app@{digest}", registry=node.url)) == digest
    assert done(await cli("pull", f"app@{digest}", tmp_path / "out", registry=node.url)) == digest
    other = f"app:v9@{images.sha256(b'other')}"
    assert f"the image in SOURCE is {digest}" in failed(
        await cli("push", archive, other, registry=node.url)
    )
    assert "not in the registry" in failed(
        await cli("pull", other, tmp_path / "out", registry=node.url)
    )


async def test_archives_appear_whole_or_not_at_all(
    cli: Cli, node: oci_mesh.Node, archive: Path, tmp_path: Path
) -> None:
    """An old one stays until the new one is there; nothing else is left beside it."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "x.tar").write_bytes(b"old")
    arguments = ("pull", "app:v1", out / "x.tar")
    failed(await cli(*arguments, registry=node.url))
    assert (out / "x.tar").read_bytes() == b"old"
    images.build_index(tmp_path / "i", "m", {"s390x": [SMALL]})
    done(await cli("push", tmp_path / "i", "app:v1", registry=node.url))
    result = await cli(*arguments, "--format", "docker-archive", registry=node.url)
    assert "no image for" in failed(result)
    assert [path.name for path in out.iterdir()] == ["x.tar"]
    done(await cli("push", archive, "app:v1", registry=node.url))
    done(await cli(*arguments, registry=node.url))
    assert [path.name for path in out.iterdir()] == ["x.tar"]
    assert tarfile.is_tarfile(out / "x.tar")


async def test_archives_are_deterministic(
    cli: Cli, node: oci_mesh.Node, archive: Path, tmp_path: Path
) -> None:
    """The same image gives the same file."""
    done(await cli("push", archive, "app:v1", registry=node.url))
    for form in ("oci-tar", "docker-archive"):
        for name in ("a", "b"):
            arguments = ("pull", "app:v1", tmp_path / name, "--format", form)
            done(await cli(*arguments, registry=node.url))
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


async def test_what_is_no_image_is_no_docker_archive(
    cli: Cli, node: oci_mesh.Node, tmp_path: Path
) -> None:
    """An artifact can be pulled, as a layout."""
    writer = images.Layout(tmp_path / "s")
    empty = writer.add(media_types.OCI_EMPTY, b"{}")
    document = {"schemaVersion": 2, "mediaType": images.IMAGE_MANIFEST, "config": empty}
    manifest = images.encode({**document, "artifactType": "a/b", "layers": [empty]})
    writer.tag("v1", writer.add(images.IMAGE_MANIFEST, manifest))
    digest = done(await cli("push", tmp_path / "s", "app:v1", registry=node.url))
    arguments = ("pull", "app:v1", tmp_path / "x.tar", "--format", "docker-archive")
    assert "configuration cannot be read" in failed(await cli(*arguments, registry=node.url))
    assert done(await cli("pull", "app:v1", tmp_path / "x.tar", registry=node.url)) == digest


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("nonsense",),
        ("push",),
        ("push", "/no/such/file", "app"),
        ("push", "{source}", "UPPER"),
        ("push", "{source}", "app", "--compression", "lzma"),
        ("push", "{source}", "app", "--compression", "zstd", "--level", "99"),
        ("push", "{source}", "app", "--registry", "ftp://x"),
        ("pull", "app"),
        ("pull", "app:.", "x"),
        ("pull", "app", "x", "--platform", "linux"),
        ("pull", "app", "x", "--format", "zip"),
        ("pull", "app", "-", "--format", "oci-dir"),
        ("pull", "app", "x", "--format", "docker-archive", "--referrers"),
    ],
)
async def test_wrong_usage(cli: Cli, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """Exit code 2, and how it is used; no registry was asked."""
    (tmp_path / "source").mkdir()
    result = await cli(*(text.format(source=tmp_path / "source") for text in arguments))
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    assert result.stdout == ""


async def test_help_and_version(cli: Cli) -> None:
    """Both on standard output."""
    assert oci_mesh.__version__ in (await cli("--version")).stdout
    for verb in ("push", "pull"):
        assert f"{verb} [OPTIONS]" in (await cli(verb, "--help")).stdout


async def test_files_that_cannot_be_written(
    cli: Cli, node: oci_mesh.Node, archive: Path, tmp_path: Path
) -> None:
    """The system's own words, and which file."""
    done(await cli("push", archive, "app:v1", registry=node.url))
    for dest, problem in (
        (archive, "is a file, not a directory"),
        (tmp_path / "no" / "such" / "x.tar", "No such file or directory"),
        (tmp_path / "node" / "..", "is not an OCI layout"),
    ):
        arguments = ("pull", "app:v1", dest, "--format")
        form = "oci-tar" if str(dest).endswith("x.tar") else "oci-dir"
        assert problem in failed(await cli(*arguments, form, registry=node.url))
    assert tarfile.is_tarfile(archive)
