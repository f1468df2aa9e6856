"""deploy/README.md on two machines with no way out: from one file to a mesh, and back to nothing.

Each machine is a namespace with an /etc, /opt, /usr/local and /var/lib of its own. systemd does not
run there: the test starts what the unit says, as the user that it says.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy import unit
from tests.e2e import command
from tests.e2e.conftest import tag_digest
from tests.e2e.daemon import Daemon
from tests.e2e.namespaces import NETWORK, Namespace, network
from tests.e2e.requirements import absent, require, require_namespaces

pytestmark = pytest.mark.e2e

BUILD_SECONDS = 300.0
README = (unit.DEPLOY / "README.md").read_text()
INSTALL = "tar xzf oci-mesh-*.tar.gz && oci-mesh-*/install"

# Without any Python but Debian's: another user has to be able to read it.
PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Directories of the machine's own, from here on; $1 is where they are.
_SETTLE = """
cp -a /etc "$1/etc" && rm -rf "$1/etc/oci-mesh" && mkdir "$1/opt" "$1/local" "$1/lib" "$1/root" &&
mount --bind "$1/etc" /etc && mount --bind "$1/opt" /opt && mount --bind "$1/local" /usr/local &&
mount --bind "$1/lib" /var/lib && mkdir -p /usr/local/bin && cd "$1/root" && cp "$2" .
"""

# What systemd would do before it starts the unit: whose the directories are.
_PREPARE = "mkdir -p -m 0700 /var/lib/oci-mesh && chown -R oci-mesh:oci-mesh /var/lib/oci-mesh"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The one file, made once."""
    require_namespaces()
    require("tar", "useradd")
    directory = tmp_path_factory.mktemp("bundle")
    program = 'import sys; print("%d.%d" % sys.version_info[:2])'
    version = command.run("python3", "-c", program, env={"PATH": PATH}).stdout.decode().strip()
    environment = {"PYTHON": sys.executable, "PYTHON_VERSION": version}
    made = command.run(
        unit.DEPLOY / "bundle", directory, env=environment, check=False, timeout=BUILD_SECONDS
    )
    if made.returncode != 0:
        absent(f"no bundle can be made: {made.stderr.decode().strip().splitlines()[-1]}")
    return Path(made.stdout.decode().strip())


class Machine:
    """One machine, with what the README's commands have done to it so far."""

    def __init__(self, directory: Path, namespace: Namespace, bundle: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.namespace = namespace
        self.namespace.run("sh", "-c", _SETTLE, "settle", directory, bundle)

    @property
    def home(self) -> Path:
        """Where its administrator is."""
        return self.directory / "root"

    def told(self, line: str) -> str:
        """Run a command of the README, as it stands there; what it printed.

        Addresses are those of this network, and systemctl is left out.
        """
        assert f"\n    {line}\n" in README
        return self.sh(line.replace("10.0.0.", f"{NETWORK}.").split(" && systemctl")[0])

    def sh(self, words: str) -> str:
        """Run a shell command; what it printed."""
        script = f"cd {self.home} && {words}"
        return self.namespace.run("sh", "-c", script, env={"PATH": PATH}).stdout.decode()


class Service(Daemon):
    """The unit's process on a machine."""

    def __init__(self, machine: Machine) -> None:
        super().__init__(machine.directory / "service", namespace=machine.namespace)
        self._machine = machine

    def argv(self) -> tuple[str | Path, ...]:
        """As `Daemon.argv`."""
        service = unit.settings("Service")
        self._machine.sh(_PREPARE)
        who = [f"--reuid={service['User'][0]}", f"--regid={service['Group'][0]}", "--init-groups"]
        rights = ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        words = [*who, *rights, "--", "env", "-i", *service["Environment"][0].split()]
        return self._machine.namespace.enter("setpriv", *words, *service["ExecStart"][0].split())


@pytest.fixture
def machines(bundle: Path, tmp_path: Path) -> Iterator[list[Machine]]:
    """Two of them, with nothing on them but the bundle."""
    with network(tmp_path, 2, {}) as namespaces:
        yield [
            Machine(tmp_path / f"m{i}", namespace, bundle)
            for i, namespace in enumerate(namespaces, start=1)
        ]


def test_two_commands_a_node_make_a_mesh(
    machines: list[Machine], archive: Path, layout: Path
) -> None:
    """Push on one, pull from the other; the service is a user that sees no more than its own."""
    one, two = machines
    one.told(f"{INSTALL} --first 10.0.0.1")
    with Service(one) as first:
        one.told("oci-mesh token create --ca /etc/oci-mesh/ca > token")
        (two.home / "token").write_bytes((one.home / "token").read_bytes())
        two.told(INSTALL)
        two.told(
            "oci-mesh node join 10.0.0.1:7946 --token token && systemctl enable --now oci-mesh"
        )
        with Service(two) as second:
            command.eventually("both are in", lambda: first.members() == second.members() == 2)
            one.sh(f"oci-mesh push --image image {layout} app:v1")
            digest = tag_digest(layout, "image")
            pulled = second.request("HEAD", "/v2/app/manifests/v1")
            assert pulled.headers["docker-content-digest"] == digest
            assert "app" in one.sh("oci-mesh status")
            assert second.stop() == 0, second.log()
            # Again, as an upgrade does it: settings, certificate and content are as they were.
            settings = two.sh("cat /etc/oci-mesh/config.toml")
            two.told(INSTALL)
            assert two.sh("cat /etc/oci-mesh/config.toml") == settings
            second.start()
            command.eventually("back again", lambda: first.members() == 2)
            assert second.status("/v2/app/manifests/v1") == 200
            assert first.stop() == second.stop() == 0
    two.told("oci-mesh-*/install --uninstall")
    two.told("rm -rf /etc/oci-mesh /var/lib/oci-mesh && userdel oci-mesh")
    assert two.sh("ls -d /opt/* /usr/local/bin/* /var/lib/* /etc/oci-mesh 2>/dev/null; true") == ""
