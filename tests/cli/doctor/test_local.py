"""What the node is on: disk, limits, secrets, certificates."""

import ssl
import time
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from oci_mesh import UpstreamConfig
from oci_mesh.cli.doctor.certificate import judge_certificate
from oci_mesh.cli.doctor.disk import Disk, disk_of, judge_disk
from oci_mesh.cli.doctor.process import judge_limits
from oci_mesh.control.health import Certificate
from oci_mesh.pki import authority
from oci_mesh.pki.keys import KeyPair
from tests.cli.doctor.report import examine, healthy, judged, levels, provoked
from tests.nodes import Client, free_port, make_image, meet, running, stop

GB = 1000**3
DAY = 86_400.0
ISSUED = 1_000_000.0


def disk(**changes: Any) -> Disk:
    """A large disk with much room, but for `changes`."""
    return Disk("/", "ext4", 500 * GB, 300 * GB, 10**7, 10**6, False)._replace(**changes)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"is_read_only": True}, "disk.read-only"),
        ({"free": GB}, "disk.full"),
        ({"free": 2 * GB}, "disk.low"),
        ({"size": 10 * GB, "free": 500_000_000}, "disk.full"),
        ({"size": 10 * GB, "free": GB}, "disk.low"),
        ({"free_inodes": 10}, "disk.inodes"),
        ({"kind": "tmpfs"}, "disk.volatile"),
        ({"kind": "nfs4"}, "disk.network"),
    ],
)
def test_disks(changes: dict[str, Any], code: str) -> None:
    """Each has its fault, and no other."""
    judged(judge_disk(disk(**changes), None), code)


def test_a_disk_that_is_well() -> None:
    """Some file systems count no inodes."""
    for well in (disk(), disk(inodes=0, free_inodes=0), disk(size=10 * GB, free=2 * GB)):
        assert [finding.level for finding in judge_disk(well, None)] == ["ok"]


async def test_what_the_settings_leave(tmp_path: Path) -> None:
    """The node's own reserve counts, and its limit."""
    async with running(tmp_path, "a", disk_reserve=2**60):
        provoked(await examine(tmp_path / "a"), "disk.full")
    image = make_image("limit", 100_000)
    async with (
        running(tmp_path, "b", disk_limit=102_000) as node,
        aiohttp.ClientSession() as session,
    ):
        await Client(session).push(node, "app", image)
        provoked(await examine(tmp_path / "b"), "disk.limit")


def test_where_a_disk_is_mounted() -> None:
    """The innermost mount that a path is below."""
    found = disk_of(Path("/proc/self"))
    assert (found.mounted, found.kind) == ("/proc", "proc")


def test_limits_of_the_process() -> None:
    """As many connections as are allowed could not all be open; or hardly any more."""
    judged(judge_limits(healthy(max_files=512, connections=256)), "limits.files")
    judged(judge_limits(healthy(files=950, max_files=1000)), "limits.files-used")
    assert [finding.level for finding in judge_limits(healthy())] == ["ok"]


async def test_a_containerd_that_cannot_be_followed(tmp_path: Path) -> None:
    """Its directory is not there."""
    async with running(tmp_path, "a", containerd=tmp_path / "nothing"):
        found = provoked(await examine(tmp_path / "a"), "limits.watch")
        assert "No such file" in found["found"]


async def test_secrets_that_others_may_read(tmp_path: Path) -> None:
    """The node's key, whether it runs or not, and what its settings name."""
    ca = tmp_path / "ca"
    authority.init(ca, "test", time.time())
    async with running(tmp_path, "a", ca=ca):
        assert levels(await examine(tmp_path / "a"), "secrets") == ["ok"]
        (ca / "ca.key").chmod(0o640)
        found = provoked(await examine(tmp_path / "a"), "secrets.readable")
        assert str(ca / "ca.key") in found["fix"]
    key = tmp_path / "a" / "identity" / "node.key"
    key.chmod(0o604)
    report = await examine(tmp_path / "a", registry=f"http://127.0.0.1:{free_port()}")
    assert str(key) in provoked(report, "secrets.readable")["fix"]


async def test_secrets_that_the_settings_name(tmp_path: Path) -> None:
    """The file of a join token, and of a registry's password."""
    ca, token, password = tmp_path / "ca", tmp_path / "token", tmp_path / "password"
    made = authority.init(ca, "test", time.time())
    token.write_text(made.make_token("t", 600.0, time.time()).text())
    password.write_text("secret")
    upstream = UpstreamConfig(
        name="127.0.0.1:1", urls=("http://127.0.0.1:1",), username="u", password_file=password
    )
    for path in (token, password):
        path.chmod(0o644)
    async with (
        running(tmp_path, "a", ca=ca) as a,
        running(tmp_path, "b", a.mesh_address, token=str(token), upstreams=(upstream,)),
    ):
        found = provoked(await examine(tmp_path / "b"), "secrets.readable")
        assert found["fix"].startswith(f"chmod 600 {token} {password};")


async def test_an_authority_that_is_gone(tmp_path: Path) -> None:
    """Its volume was taken away: nothing is signed any more."""
    ca = tmp_path / "ca"
    authority.init(ca, "test", time.time())
    async with running(tmp_path, "a", ca=ca):
        (ca / "ca.key").unlink()
        codes = ("certificate.no-signer", "certificate.authority-unreadable")
        assert "ca.key" in provoked(await examine(tmp_path / "a"), *codes)["found"]


def certificate(**changes: Any) -> Certificate:
    """One that is good for another hour, but for `changes`."""
    made = Certificate(ISSUED - 300, ISSUED + DAY, "CN=test", ISSUED + 1000 * DAY, signers=1)
    for name, value in changes.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("changes", "age_s", "code"),
    [
        ({}, DAY + 1, "certificate.expired"),
        ({}, -301, "certificate.not-yet"),
        ({}, DAY * 0.8, "certificate.overdue"),
        ({"signers": 0}, 0, "certificate.no-signer"),
        ({"outdated": True}, 0, "certificate.old-authority"),
        ({"authority_ends": ISSUED + 10 * DAY}, 0, "certificate.authority-ends"),
    ],
)
def test_certificates(changes: dict[str, Any], age_s: float, code: str) -> None:
    """Each has its fault, and no other."""
    judged(judge_certificate(certificate(**changes), ISSUED + age_s), code)


def test_a_certificate_that_is_well() -> None:
    """From the first second, and as long as its renewal is not overdue."""
    for age_s in (-300, 0, DAY * 0.7):
        found = judge_certificate(certificate(), ISSUED + age_s)
        assert [finding.level for finding in found] == ["ok"]


@pytest.mark.parametrize(
    ("since", "code"), [(-3 * DAY, "certificate.expired"), (DAY, "certificate.not-yet")]
)
async def test_a_certificate_on_disk(tmp_path: Path, since: float, code: str) -> None:
    """It is read while the node is down, which may be why."""
    made = authority.init(tmp_path / "ca", "test", time.time())
    identity = tmp_path / "a" / "identity"
    identity.mkdir(parents=True)
    now = time.time()
    der = made.issue("a", KeyPair.new().public_key, [], DAY, now + since)
    (identity / "node.crt").write_text(ssl.DER_cert_to_PEM_cert(der))
    (identity / "trust").write_bytes(made.trust(now).encoded)
    report = await examine(tmp_path / "a", registry=f"http://127.0.0.1:{free_port()}")
    provoked(report, "node.absent", code)


async def test_nobody_signs_any_more(tmp_path: Path) -> None:
    """The one node with the authority has stopped."""
    ca = tmp_path / "ca"
    authority.init(ca, "test", time.time())
    token = authority.Authority.load(ca).make_token("t", 600.0, time.time()).text()
    async with (
        running(tmp_path, "a", ca=ca) as a,
        running(tmp_path, "b", a.mesh_address, token=token) as b,
    ):
        await meet(a, b)
        assert levels(await examine(tmp_path / "b"), "certificate") == ["ok"]
        await stop(a)
        found = provoked(await examine(tmp_path / "b"), "certificate.no-signer")
        assert "--ca" in found["fix"]
