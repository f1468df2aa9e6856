"""Why would a pod not pull: names, what containerd makes of them, and what the mesh has."""

import json
from pathlib import Path
from typing import Literal

import aiohttp
import pytest

from oci_mesh import Node
from oci_mesh.cli.doctor.image import Way, judge_held, judge_image, judge_way
from oci_mesh.cli.doctor.patient import Patient
from oci_mesh.cli.edits import Machine
from oci_mesh.control.explain import Explanation, Rule
from oci_mesh.control.health import Asked
from oci_mesh.spec.reference import parse_reference
from tests import images
from tests.cli.doctor.report import Report, examine, findings, judged, levels, provoked
from tests.cli.machine import configured, done
from tests.nodes import Client, make_image, meet, running

OWN = "registry.internal"
IMAGE = make_image("doctor")


async def asked(node: Node, tmp_path: Path, reference: str, *configure: str) -> Report:
    """On a machine where containerd was configured like this."""
    machine = tmp_path / "machine"
    machine.mkdir(exist_ok=True)
    configured(machine, "debian")
    if configure:
        done(machine, "configure", "--registry", node.url, *configure)
    root = node.config.root
    return await examine(root, machine, reference=reference)


async def test_an_image_that_a_pod_can_have(tmp_path: Path) -> None:
    """By a name that only the mesh has, and by the node's own address."""
    async with running(tmp_path, "a") as node, aiohttp.ClientSession() as session:
        await Client(session).push(node, "app", IMAGE, "v1")
        for reference in (f"{OWN}/app:v1", f"{node.url.removeprefix('http://')}/app:v1"):
            report = await asked(node, tmp_path, reference, OWN, "--own")
            assert levels(report, "name") == ["ok"], report
            assert levels(report, "image") == ["ok"], report
        assert "image" not in str((await asked(node, tmp_path, ""))["checks"][-1]["name"])


async def test_names(tmp_path: Path) -> None:
    """A short one, one of another registry, one of which the node is not asked for tags."""
    async with running(tmp_path, "a") as node, aiohttp.ClientSession() as session:
        await Client(session).push(node, "app", IMAGE, "v1")
        found = provoked(await asked(node, tmp_path, "app:v1"), "name.short")
        assert "docker.io/library/app:v1" in found["found"]
        provoked(await asked(node, tmp_path, f"{OWN}/app:v1"), "name.not-asked")
        hosts = tmp_path / "machine/etc/containerd/certs.d" / OWN / "hosts.toml"
        report = await asked(node, tmp_path, f"{OWN}/app:v1", OWN, "--own")
        assert levels(report, "name") == ["ok"]
        hosts.write_text(hosts.read_text().replace('"pull", "resolve"', '"pull"'))
        report = await examine(tmp_path / "a", tmp_path / "machine", reference=f"{OWN}/app:v1")
        provoked(report, "name.no-resolve")
        digest = f"{OWN}/app@{IMAGE.digest}"
        report = await examine(tmp_path / "a", tmp_path / "machine", reference=digest)
        assert levels(report, "name") == ["ok"]


def test_which_registry_is_tried(tmp_path: Path) -> None:
    """Where the image would come from, as a pod names it."""
    for reference, registry in (("app:v1", "docker.io"), (f"{OWN}/app", OWN), ("", "")):
        patient = Patient(tmp_path, "", Machine(tmp_path), "", reference=reference)
        assert patient.registry_of_image == registry


def test_a_registry_that_does_not_answer() -> None:
    """Of which tags are asked."""
    reference = parse_reference("quay.io/app:v1")
    silent = [Asked("quay.io", ["quay.io"], error="no connection")]
    way = Way("x", asks=True, resolves=False)
    assert "--resolve" in judged(judge_way(reference, way, silent), "name.registry-silent").fix
    assert judge_way(reference, way._replace(resolves=True), silent) == []
    assert judge_way(reference, way, [Asked("docker.io", [], error="x")]) == []


async def test_what_is_not_there(tmp_path: Path) -> None:
    """No such tag, no such digest, and none for this machine."""
    async with running(tmp_path, "a") as node, aiohttp.ClientSession() as session:
        client = Client(session)
        await client.push(node, "app", IMAGE, "v1")
        own = (OWN, "--own")
        provoked(await asked(node, tmp_path, f"{OWN}/app:v2", *own), "image.no-tag")
        nothing = f"{OWN}/app@sha256:{'0' * 64}"
        provoked(await asked(node, tmp_path, nothing, *own), "image.no-manifest")
        foreign = {"os": "plan9", "architecture": "mips"}
        entry = images.descriptor(images.IMAGE_MANIFEST, IMAGE.manifest, platform=foreign)
        index = {"schemaVersion": 2, "mediaType": images.IMAGE_INDEX, "manifests": [entry]}
        answer = await client.put(node, "app", "other", json.dumps(index).encode())
        assert answer.status == 201
        found = provoked(await asked(node, tmp_path, f"{OWN}/app:other", *own), "image.no-platform")
        assert "plan9/mips" in found["found"]


async def test_a_registry_that_is_switched_off(tmp_path: Path) -> None:
    """The node does not go there."""
    async with running(tmp_path, "a", public_registries=False) as node:
        report = await asked(node, tmp_path, "quay.io/app:v1", "quay.io")
        provoked(report, "image.not-mirrored")


async def test_a_layer_that_no_node_has(tmp_path: Path) -> None:
    """It was deleted where it was."""
    async with running(tmp_path, "a") as node, aiohttp.ClientSession() as session:
        client = Client(session)
        await client.push(node, "app", IMAGE, "v1")
        await client.delete(node, f"/v2/app/blobs/{images.sha256(IMAGE.blobs[1])}")
        report = await asked(node, tmp_path, f"{OWN}/app:v1", OWN, "--own")
        provoked(report, "image.incomplete")


async def test_on_which_nodes_it_is(tmp_path: Path) -> None:
    """Those that have to get it first are named."""
    async with (
        running(tmp_path, "a") as a,
        running(tmp_path, "b", a.mesh_address) as b,
        aiohttp.ClientSession() as session,
    ):
        await meet(a, b)
        client = Client(session)
        await client.push(a, "app", IMAGE, "v1")
        report = await asked(a, tmp_path, f"{OWN}/app:v1", OWN, "--own")
        found = provoked(report, "image.not-everywhere")
        assert "not on b yet" in found["found"]
        assert await client.has(b, "app", IMAGE, "v1")
        report = await asked(a, tmp_path, f"{OWN}/app:v1", OWN, "--own")
        assert findings(report, "image")[0]["found"] == "all of it is on each of 2 nodes"


def test_what_containerd_has() -> None:
    """Nothing, that, or another one by the same name."""
    image = parse_reference(f"{OWN}/app:latest")
    assert "Always" in judged(judge_held(image, ["sha256:1"], "sha256:2"), "held.old").fix
    for held, now in ((None, "sha256:2"), (["sha256:2"], "sha256:2"), (["sha256:1"], "")):
        assert [finding.level for finding in judge_held(image, held, now)] == ["ok"]


@pytest.mark.parametrize(
    ("kind", "level"), [("own", "error"), ("upstream", "warning"), ("public", "warning")]
)
def test_what_its_registry_may_have(kind: Literal["own", "upstream", "public"], level: str) -> None:
    """Not an error: the node gets it when it is asked."""
    explained = Explanation("quay.io/app:v1", "a", "linux/amd64", stopped_at="tag", why="nobody")
    explained.rule = Rule(kind, "app@quay.io")
    assert [finding.level for finding in judge_image(explained)] == [level]
