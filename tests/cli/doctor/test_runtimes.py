"""What container runtimes are told: the files of machines that are configured wrongly."""

import os
import re
import socket
from pathlib import Path

import pytest

from oci_mesh.cli.doctor.patient import Patient
from oci_mesh.cli.doctor.processes import server_of, started_at
from oci_mesh.cli.edits import Machine
from tests.cli.doctor.report import Report, examine, findings, healthy, levels, provoked, saying
from tests.cli.machine import CONFIG, HOSTS, NODE, configured, done, put

ELSEWHERE = "http://127.0.0.1:5999"
OTHER = '[host."https://mirror.corp"]\n'


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """Its files."""
    (tmp_path / "machine").mkdir()
    return tmp_path / "machine"


async def looked_at(machine: Path, registry: str = NODE) -> Report:
    """A node at `registry` runs there."""
    root = machine.parent / "node"
    async with saying(root, healthy(registry=registry)):
        return await examine(root, machine)


async def test_no_runtime(machine: Path) -> None:
    """Nothing to look at: probably it is a container."""
    report = await looked_at(machine)
    assert "--machine" in provoked(report, "runtime.none")["fix"]
    assert findings(report, "containerd")[0]["found"] == "it needs `runtime`"
    without = await examine(machine.parent / "node", machine, without=("runtime",))
    assert "runtime.none" not in str(without)


async def test_as_it_should_be(machine: Path) -> None:
    """What `configure` writes, for each runtime."""
    configured(machine, "debian")
    done(machine, "configure", "docker.io", "--resolve")
    put(machine, f"{HOSTS}/quay.io/hosts.toml", OTHER)
    done(machine, "configure", "--for", "podman", "quay.io")
    done(machine, "configure", "--for", "docker")
    report = await looked_at(machine)
    for check in ("runtime", "containerd", "podman", "docker"):
        assert levels(report, check) == ["ok"], report
    assert "docker.io" in findings(report, "containerd")[0]["found"]


@pytest.mark.parametrize("config", ["debian", "default-2.1", "docker-package", "version-1"])
async def test_no_directory_is_set(machine: Path, config: str) -> None:
    """As packages bring it, of any version."""
    configured(machine, config)
    if "config_path" in (machine / CONFIG).read_text():
        text = (machine / CONFIG).read_text()
        (machine / CONFIG).write_text(re.sub(r"^( *config_path)", r"# \1", text, flags=re.M))
    provoked(await looked_at(machine), "containerd.no-config-path")


async def test_a_configuration_that_cannot_be_read(machine: Path) -> None:
    """It is no TOML."""
    put(machine, CONFIG, "version = \n")
    found = provoked(await looked_at(machine), "containerd.unreadable")
    assert "config.toml" in found["found"]


async def test_the_old_way(machine: Path) -> None:
    """Alone, and together with the new one."""
    configured(machine, "old-mirrors")
    assert "--migrate" in provoked(await looked_at(machine), "containerd.old-way")["fix"]
    text = (machine / CONFIG).read_text()
    table = '[plugins."io.containerd.grpc.v1.cri".registry]\n'
    assert table in text
    put(machine, CONFIG, text.replace(table, f'{table}config_path = "/etc/containerd/certs.d"\n'))
    provoked(await looked_at(machine), "containerd.both-ways")


async def test_whom_it_asks(machine: Path) -> None:
    """Not the node, or others first, or nobody knows."""
    configured(machine, "debian")
    done(machine, "configure", "docker.io")
    hosts = machine / HOSTS / "docker.io" / "hosts.toml"
    ours = hosts.read_text()
    hosts.write_text(OTHER)
    provoked(await looked_at(machine), "containerd.unconfigured")
    hosts.write_text(f'{OTHER}[host."{NODE}"]\n')
    assert "docker.io" in provoked(await looked_at(machine), "containerd.later")["fix"]
    hosts.write_text("[host\n")
    provoked(await looked_at(machine), "containerd.hosts-unreadable")
    hosts.write_text(ours)
    report = await looked_at(machine, ELSEWHERE)
    assert f"--registry {ELSEWHERE}" in provoked(report, "containerd.elsewhere")["fix"]


async def test_podman(machine: Path) -> None:
    """Not told, told another address, and a file that somebody changed."""
    put(machine, "etc/containers/registries.conf", "")
    provoked(await looked_at(machine), "podman.unconfigured")
    done(machine, "configure", "--for", "podman", "quay.io")
    assert levels(await looked_at(machine), "podman") == ["ok"]
    found = provoked(await looked_at(machine, ELSEWHERE), "podman.elsewhere")
    assert f"--registry {ELSEWHERE}" in found["fix"]
    file = machine / "etc/containers/registries.conf.d/50-oci-mesh.conf"
    file.write_text(file.read_text() + "\n")
    provoked(await looked_at(machine), "podman.changed")


async def test_docker(machine: Path) -> None:
    """Likewise."""
    put(machine, "etc/docker/daemon.json", "{}")
    provoked(await looked_at(machine), "docker.unconfigured")
    done(machine, "configure", "--for", "docker")
    assert levels(await looked_at(machine), "docker") == ["ok"]
    provoked(await looked_at(machine, ELSEWHERE), "docker.elsewhere")
    put(machine, "etc/docker/daemon.json", "{")
    provoked(await looked_at(machine), "docker.unreadable")


@pytest.mark.parametrize(
    ("listens", "asked", "is_here"),
    [
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000", True),
        ("http://127.0.0.1:5000", "http://localhost:5000", True),
        ("http://127.0.0.1:5000", "127.0.0.1:5000", True),
        ("http://0.0.0.0:5000", "http://127.0.0.1:5000", True),
        ("http://0.0.0.0:5000", "http://10.0.0.7:5000", True),
        ("http://[::]:5000", "http://[::1]:5000", True),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001", False),
        ("http://127.0.0.1:5000", "http://10.0.0.7:5000", False),
        ("http://127.0.0.1:5000", "http://[::1]:5000", False),
        ("http://127.0.0.1:5000", "https://mirror.corp", False),
        ("http://127.0.0.1:5000", "http://a:b", False),
    ],
)
def test_which_address_is_the_nodes(listens: str, asked: str, is_here: bool) -> None:
    """Names of one address, and listeners on all of them."""
    patient = Patient(Path("/x"), "", Machine(Path("/")), "", health=healthy(registry=listens))
    assert patient.is_here(asked) is is_here


def test_who_listens_on_a_socket(tmp_path: Path) -> None:
    """This process; since it was started."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        with pytest.raises(ConnectionRefusedError):
            server_of(path)
        listener.listen()
        assert server_of(path) == os.getpid()
    started = started_at(os.getpid())
    assert started is not None
    assert started < path.stat().st_mtime
    assert started_at(2**22 + 1) is None
