"""The daemon: where its settings come from, what it prints, how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from oci_mesh import NodeConfig, logs, serve
from oci_mesh.pki import authority
from tests.images import IMAGE_MANIFEST, sha256
from tests.nodes import DEADLINE_S, make_image

REPOSITORY = Path(__file__).parents[1]
PROGRAM = (sys.executable, "-m", "oci_mesh.serve")


# -- settings, without a process


@dataclass
class Served:
    """What a command line came to: `config` is None if it was refused."""

    result: Result
    config: NodeConfig | None

    @property
    def shown(self) -> dict[str, str]:
        """Setting -> `value  (origin)`, as printed."""
        lines = (line.partition(" = ") for line in self.result.stdout.splitlines())
        return {name: text for name, equals, text in lines if equals}


class Command:
    """`python -m oci_mesh.serve`, as far as the node's start."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file = root / "config.toml"
        self._configs: list[NodeConfig] = []

        async def capture(config: NodeConfig) -> None:
            self._configs.append(config)

        monkeypatch.setattr(serve, "_serve", capture)
        monkeypatch.setattr(logs, "configure", lambda level, form: None)

    def __call__(
        self, *arguments: str, toml: str | None = None, env: Mapping[str, str] | None = None
    ) -> Served:
        """Run it with this file, and these OCI_MESH_… variables."""
        if toml is not None:
            self.file.write_text(toml)
            arguments = ("--config", str(self.file), *arguments)
        variables = {f"OCI_MESH_{name}": value for name, value in (env or {}).items()}
        self._configs.clear()
        result = CliRunner().invoke(serve.main, arguments, env=variables)
        return Served(result, self._configs[0] if self._configs else None)


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """The command, in an environment without OCI_MESH_… variables but that of the root."""
    for name in [name for name in os.environ if name.startswith("OCI_MESH_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OCI_MESH_ROOT", str(tmp_path / "store"))
    return Command(tmp_path, monkeypatch)


SETTINGS = [
    ("listen", "127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:0"),
    ("mesh-listen", "127.0.0.1:1", "127.0.0.1:2", "0.0.0.0:0"),
    ("name", "one", "two", "three"),
    ("zone", "one", "two", "three"),
    ("advertise", "a:1", "b:2", "c:3"),
    ("sparse", "allow", "deny", "index"),
    ("copies", 3, 4, 5),
    ("upload-expiry", 1.5, 2.0, 3.0),
    ("drain", 1.5, 0.0, 3.0),
    ("certificate-life", 1.5, 2.0, 3.0),
    ("upload-rate", 100_000, 200_000, 0),
    ("download-rate", 100_000, 200_000, 0),
    ("max-connections", 16, 17, 18),
    ("disk-limit", 1, 2, 3),
    ("disk-reserve", 1, 2, 0),
    ("tag-ttl", 1.0, 0.0, 3.5),
    ("stale-limit", 1.0, 0.0, 3.5),
    ("private", "nodes", "strict", "nodes"),
    ("keep", "handover", "cache", "handover"),
    ("cache-limit", 1, 2, 3),
    ("cache-share", 0.25, 1.0, 0.75),
]


@pytest.mark.parametrize(("name", "file", "variable", "argument"), SETTINGS)
def test_an_argument_wins_over_a_variable_over_the_file_over_the_default(
    name: str, file: object, variable: object, argument: object, command: Command
) -> None:
    """And each value is printed with where it came from."""
    field = name.replace("-", "_")
    environment = {field.upper(): str(variable)}
    toml = f"{name} = {json.dumps(file)}\n"
    default = NodeConfig.__dataclass_fields__[field].default
    for served, value, origin in (
        (command(f"--{name}", str(argument), toml=toml, env=environment), argument, "argument"),
        (command(toml=toml, env=environment), variable, "environment"),
        (command(toml=toml), file, "config file"),
        (command(), default, "default"),
    ):
        assert served.config is not None, served.result.output
        assert getattr(served.config, field) == value
        assert served.shown[name] == f"{'' if value is None else value}  ({origin})"


def test_join_is_given_many_times_in_each_place(command: Command) -> None:
    """Repeated as an argument, separated by spaces in the environment, a list in the file."""
    toml = 'join = ["a:1", "b:2"]\n'
    for served, value, origin in (
        (
            command("--join", "e:5", "--join", "f:6", toml=toml, env={"JOIN": "c:3 d:4"}),
            "e:5 f:6",
            "arg",
        ),
        (command(toml=toml, env={"JOIN": " c:3  d:4 "}), "c:3 d:4", "environment"),
        (command(toml=toml), "a:1 b:2", "config file"),
        (command(), "", "default"),
    ):
        assert served.config is not None, served.result.output
        assert served.config.join == tuple(value.split())
        assert served.shown["join"].startswith(f"{value}  ({origin}")


def test_upstreams_are_named_in_each_place(command: Command) -> None:
    """With a URL or without; the places win over one another as always."""
    toml = 'upstream = ["a.corp", "b.corp=http://b:5000"]\n'
    for served, named, urls, origin in (
        (
            command("--upstream", "c.corp", toml=toml, env={"UPSTREAM": "d.corp"}),
            "c.corp",
            ["https://c.corp"],
            "argument",
        ),
        (
            command(toml=toml, env={"UPSTREAM": "d.corp E.corp=https://e/x"}),
            "d.corp e.corp",
            ["https://d.corp", "https://e/x"],
            "environment",
        ),
        (command(toml=toml), "a.corp b.corp", ["https://a.corp", "http://b:5000"], "config file"),
        (command(), "", [], "default"),
    ):
        assert served.config is not None, served.result.output
        assert [url for upstream in served.config.upstreams for url in upstream.urls] == urls
        assert served.shown["upstream"] == f"{named}  ({origin})"


def test_tables_of_the_file_say_all_of_an_upstream(command: Command) -> None:
    """An argument that names one takes it from there; one with a URL is another."""
    toml = """
        [upstream."registry.corp:5000"]
        url = ["https://one.corp", "https://two.corp"]
        username = "mesh"
        password-file = "/run/secrets/corp"
        [upstream."docker.io"]
        private = true
    """
    served = command(toml=toml)
    assert served.config is not None, served.result.output
    corp, docker = served.config.upstreams
    assert (corp.urls, corp.username) == (("https://one.corp", "https://two.corp"), "mesh")
    assert docker.private
    assert served.shown["upstream"] == "registry.corp:5000 docker.io  (config file)"
    served = command("--upstream", "docker.io", "--upstream", "other", toml=toml)
    assert served.config is not None, served.result.output
    assert [upstream.private for upstream in served.config.upstreams] == [True, False]
    served = command("--upstream", "docker.io=https://mirror.corp", toml=toml)
    assert served.config is not None, served.result.output
    assert [upstream.private for upstream in served.config.upstreams] == [False]


def test_public_registries_are_mirrored_unless_switched_off(command: Command) -> None:
    """By one flag, wherever; what is configured otherwise stays as it is configured."""
    names = {u.name for u in NodeConfig(root=Path("x")).mirrored}
    assert {"docker.io", "ghcr.io", "quay.io", "registry.k8s.io"} <= names
    for served in (
        command("--no-public-registries", "--upstream", "a.corp"),
        command("--upstream", "a.corp", env={"PUBLIC_REGISTRIES": "false"}),
        command(toml='public-registries = false\nupstream = ["a.corp"]\n'),
    ):
        assert served.config is not None, served.result.output
        assert [upstream.name for upstream in served.config.mirrored] == ["a.corp"]
    served = command("--public-registries", "--upstream", "docker.io=https://x.corp")
    assert served.config is not None, served.result.output
    urls = {u.name: u.urls for u in served.config.mirrored}
    assert urls["docker.io"] == ("https://x.corp",)
    assert urls.keys() == names


def test_amounts_have_units_in_each_place(command: Command) -> None:
    """Rates in bytes or bits, sizes in bytes; what they come to is shown."""
    for served in (
        command("--upload-rate", "100Mbit", "--disk-limit", "1.5 GiB"),
        command(env={"UPLOAD_RATE": "12.5MB/s", "DISK_LIMIT": "1536MiB"}),
        command(toml='upload-rate = "12500kB"\ndisk-limit = 1610612736\n'),
    ):
        assert served.config is not None, served.result.output
        assert served.config.upload_rate == 12_500_000
        assert served.config.disk_limit == 3 * 2**29
        assert served.shown["upload-rate"].startswith("12500000  (")


def test_the_zone_comes_from_kubernetes_if_nobody_says_another(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The label of the node, which a pod may be given as a variable; empty where there is none."""
    monkeypatch.setenv("TOPOLOGY_KUBERNETES_IO_ZONE", "eu-1a")
    for served, zone in (
        (command(), "eu-1a"),
        (command(env={"ZONE": ""}), "eu-1a"),
        (command(env={"ZONE": "rack-7"}), "rack-7"),
        (command("--zone", "rack-8", env={"ZONE": "rack-7"}), "rack-8"),
    ):
        assert served.config is not None, served.result.output
        assert served.config.zone == zone
    monkeypatch.setenv("TOPOLOGY_KUBERNETES_IO_ZONE", "")
    assert command().shown["zone"] == "  (default)"


def test_a_token_comes_from_anywhere_and_is_never_printed(command: Command) -> None:
    """It is a secret; and it excludes `insecure`."""
    for served in (
        command("--token", "secret"),
        command(env={"TOKEN": "secret"}),
        command(toml='token = "secret"\n'),
    ):
        assert served.config is not None, served.result.output
        assert served.config.token == "secret"
        assert "secret" not in served.result.output
    assert command("--insecure").shown["insecure"] == "True  (argument)"
    assert command(toml="insecure = true\n").shown["insecure"] == "True  (config file)"
    _assert_refused(command("--insecure", "--token", "secret"), "insecure")
    _assert_refused(command("--insecure", "--ca", "/x"), "insecure")


def test_the_root_and_the_file_can_come_from_anywhere(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root from the file, the file from the environment; underscores will do in keys."""
    command.file.write_text(f'root = "{tmp_path}/elsewhere"\nmesh_listen = "127.0.0.1:9"\n')
    monkeypatch.delenv("OCI_MESH_ROOT")
    served = command(env={"CONFIG": str(command.file)})
    assert served.config is not None, served.result.output
    assert served.config.root == tmp_path / "elsewhere"
    assert served.config.mesh_listen == "127.0.0.1:9"


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ("lisen = 'a:1'", "lisen"),
        ("[node]\nlisten = 'a:1'", "node"),
        ("config = 'x'", "config"),
        ("listen = ", "config.toml"),
        ("listen = 'a:1'\nlisten = 'b:1'", "config.toml"),
        ("copies = 'many'", "copies"),
        ("copies = 0", "copies"),
        ("copies = [2]", "copies"),
        ("copies = 2.5", "copies"),
        ("copies = true", "copies"),
        ("sparse = 'maybe'", "sparse"),
        ("listen = 'nowhere'", "nowhere"),
        ("listen = ['a:1']", "listen"),
        ("listen = {a = 1}", "listen"),
        ("join = 'a:1'", "join"),
        ("join = ['a:1', 'b']", "'b'"),
        ("join = [7946]", "'7946'"),
        ("upload-expiry = 0", "upload-expiry"),
        ("drain = 'long'", "drain"),
        ("drain = nan", "drain"),
        ("upload-rate = '50Mb'", "upload-rate"),
        ("upload-rate = true", "upload-rate"),
        ("upload-rate = -1", "upload-rate"),
        ("download-rate = 1", "download_rate"),
        ("disk-limit = '1Gbit'", "disk-limit"),
        ("disk-reserve = ''", "disk-reserve"),
        ("max-connections = 1", "max-connections"),
        ("log-level = 'loud'", "log-level"),
        ("upstream = 'a.corp'", "upstream"),
        ("upstream = ['a/b']", "a/b"),
        ("upstream = ['a=ftp://b']", "a"),
        ("upstream = ['a.corp', 'a.corp=http://b']", "a.corp"),
        ("[upstream]\na = 1", "upstream a"),
        ("[upstream.a]\nurls = 'http://b'", "urls"),
        ("[upstream.a]\npassword-file = '/x'", "username"),
        ("public-registries = 'perhaps'", "public-registries"),
        ("tag-ttl = -1", "tag-ttl"),
        ("stale-limit = 'long'", "stale-limit"),
        ("private = 'all'", "private"),
        ("keep = 'nothing'", "keep"),
        ("cache-share = 0", "cache-share"),
        ("cache-share = 1.5", "cache-share"),
        ("cache-limit = '50%'", "cache-limit"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(
    toml: str, named: str, command: Command
) -> None:
    """Which names what is wrong; no traceback, exit code 1 or 2."""
    _assert_refused(command(toml=toml), named)


@pytest.mark.parametrize(
    ("arguments", "environment", "named"),
    [
        (["--lisen", "a:1"], {}, "--lisen"),
        (["--listen", "a"], {}, "'a'"),
        (["--join", "a:b"], {}, "'a:b'"),
        (["--copies", "x"], {}, "copies"),
        (["--drain", "nan"], {}, "drain"),
        ([], {"COPIES": "0"}, "copies"),
        ([], {"JOIN": "a:1 b"}, "'b'"),
        ([], {"SPARSE": "x"}, "sparse"),
        (["--config", "/no/such/file"], {}, "/no/such/file"),
        (["--config", "/"], {}, "/"),
        (["extra"], {}, "extra"),
    ],
)
def test_a_command_line_that_cannot_be_used_is_refused_in_one_line(
    arguments: list[str], environment: dict[str, str], named: str, command: Command
) -> None:
    """Likewise."""
    _assert_refused(command(*arguments, env=environment), named)


def test_without_a_root_it_does_not_start(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no directory that would be right for everyone."""
    monkeypatch.delenv("OCI_MESH_ROOT")
    _assert_refused(command(), "--root")


def _assert_refused(served: Served, named: str) -> None:
    result = served.result
    assert served.config is None
    assert result.exit_code in (1, 2), result.exception
    assert isinstance(result.exception, SystemExit)
    *_, last = result.stderr.splitlines()
    assert named in last
    assert "Traceback" not in result.output


def test_help_names_every_setting(command: Command) -> None:
    """With its default."""
    shown = " ".join(command("--help").result.stdout.split())
    for field in NodeConfig.__dataclass_fields__:
        name = serve._OPTIONS.get(field, field)
        assert f"--{name.replace('_', '-')} " in shown
    assert "[default: 127.0.0.1:5000]" in shown


# -- a process


class Daemon:
    """A process on ports of its own; it is killed if its test does not end it."""

    def __init__(
        self, root: Path, *arguments: str, program: Sequence[str] = PROGRAM, **environment: str
    ) -> None:
        self.log = root.with_suffix(".log")
        command = [*program, "--root", str(root)]
        command += ["--listen", "127.0.0.1:0", "--mesh-listen", "127.0.0.1:0", *arguments]
        with self.log.open("wb") as stderr:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
            )
        self.printed: list[str] = []

    def ready(self) -> dict[str, str]:
        """Wait for the line that says so, and take it apart."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.printed.append(line)
            if line.startswith("oci-mesh ready: "):
                words = line.removeprefix("oci-mesh ready: ").partition(" with ")[0].split()
                return dict(zip(words[::2], words[1::2], strict=True))
        raise AssertionError(f"ended before it was ready: {self.log.read_text()}")

    def end(self, number: signal.Signals) -> int:
        """Send a signal; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)


@contextmanager
def daemon(
    root: Path, *arguments: str, program: Sequence[str] = PROGRAM, **environment: str
) -> Iterator[Daemon]:
    """Run a daemon; `program` may be another one that wraps it."""
    process = Daemon(root, *arguments, program=program, **environment)
    with process.process:
        try:
            yield process
        finally:
            process.process.kill()


def ask(
    url: str, method: str = "GET", body: bytes | None = None, content_type: str = "a/b"
) -> tuple[int, Message, bytes]:
    """One request: status, headers, body."""
    headers = {"Content-Type": content_type} if body is not None else {}
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=DEADLINE_S) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.headers, error.read()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_is_answers_there_and_ends_with_0(
    number: signal.Signals, tmp_path: Path
) -> None:
    """Whichever way it is told to end; with nothing on standard error but its log."""
    with daemon(tmp_path / "a", "--name", "a", OCI_MESH_COPIES="3") as a:
        ready = a.ready()
        assert ready.keys() == {"registry", "mesh", "node"}
        assert "copies = 3  (environment)\n" in a.printed
        assert "name = a  (argument)\n" in a.printed
        assert "zone =   (default)\n" in a.printed
        assert a.printed[-1].endswith("with nobody else yet\n")
        assert ask(ready["registry"] + "/v2/")[0] == 200
        assert ask(ready["registry"] + "/healthz")[0] == 200
        assert json.loads(ask(ready["registry"] + "/readyz")[2]) == {"node": "a", "members": 1}
        assert b"oci_mesh_requests_total" in ask(ready["registry"] + "/metrics")[2]
        assert a.end(number) == 0
        assert "Traceback" not in a.log.read_text()


def test_the_ready_line_names_who_is_in_the_mesh(tmp_path: Path) -> None:
    """By then it has met them."""
    with daemon(tmp_path / "a", "--name", "a") as a:
        seed = a.ready()["mesh"]
        with daemon(tmp_path / "b", "--name", "b", "--join", seed) as b:
            b.ready()
            assert b.printed[-1].endswith(" node b with a\n")


def test_what_was_acknowledged_with_copies_survives_a_kill_of_its_node(tmp_path: Path) -> None:
    """SIGKILL, at once after the answer: the others have it, tag and all."""
    image = make_image("survivor", 2_000_000)
    with daemon(tmp_path / "b", "--name", "b") as b:
        there = b.ready()
        with daemon(tmp_path / "a", "--name", "a", "--join", there["mesh"]) as a:
            here = a.ready()["registry"]
            for content in image.blobs:
                path = f"/v2/app/blobs/uploads/?digest={sha256(content)}"
                assert ask(here + path, "POST", content)[0] == 201
            put = ask(f"{here}/v2/app/manifests/v1", "PUT", image.manifest, IMAGE_MANIFEST)
            assert (put[0], put[1]["OCI-Mesh-Copies"]) == (201, "2")
            assert a.end(signal.SIGKILL) == -signal.SIGKILL
        at = there["registry"]
        assert ask(f"{at}/v2/app/manifests/v1")[2] == image.manifest
        for content in image.blobs:
            assert ask(f"{at}/v2/app/blobs/{sha256(content)}")[2] == content


def test_a_killed_node_comes_back_with_its_id_and_its_content(tmp_path: Path) -> None:
    """The lock went with the process."""
    with daemon(tmp_path / "a") as a:
        first = a.ready()
        path = f"/v2/app/blobs/uploads/?digest={sha256(b'kept')}"
        assert ask(first["registry"] + path, "POST", b"kept")[0] == 201
        a.end(signal.SIGKILL)
    with daemon(tmp_path / "a") as a:
        again = a.ready()
        assert again["node"] == first["node"]
        assert ask(f"{again['registry']}/v2/app/blobs/{sha256(b'kept')}")[2] == b"kept"


def test_logs_are_json_if_so_asked(tmp_path: Path) -> None:
    """Every line of them, the last one too."""
    arguments = ["--log-format", "json", "--log-level", "debug", "--join", "127.0.0.1:9"]
    with daemon(tmp_path / "a", *arguments) as a:
        url = a.ready()["registry"]
        ask(f"{url}/v2/app/manifests/none")
        assert a.end(signal.SIGTERM) == 0
        entries = [json.loads(line) for line in a.log.read_text().splitlines()]
        assert all({"time", "level", "logger", "message"} <= entry.keys() for entry in entries)
        assert {"debug", "info"} <= {entry["level"] for entry in entries}
        assert entries[-1]["message"] == "stopped"


def test_what_cannot_be_served_is_said_in_one_line(tmp_path: Path) -> None:
    """A root in use, an address in use, a root that is no directory: exit code 1."""
    (tmp_path / "file").touch()
    with daemon(tmp_path / "a") as a, socket.socket() as taken:
        a.ready()
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        for root, arguments, named in (
            ("a", [], str(tmp_path / "a")),
            ("b", ["--listen", address], address),
            ("c", ["--mesh-listen", address], address),
            ("file", [], str(tmp_path / "file")),
            ("d", ["--zone", "a zone"], "a zone"),
        ):
            with daemon(tmp_path / root, *arguments) as refused:
                assert refused.process.wait(DEADLINE_S) == 1
                text = (tmp_path / root).with_suffix(".log").read_text()
                *_, last = text.splitlines()
                assert last.startswith("oci-mesh: cannot serve: ")
                assert named in last
                assert "Traceback" not in text


# As a user for whom permissions count: root has to give up what lets it pass over them.
UNPRIVILEGED = (
    ("setpriv", "--bounding-set=-all", "--inh-caps=-all", *PROGRAM) if not os.geteuid() else PROGRAM
)


def test_what_may_not_be_read_is_named_in_one_line(tmp_path: Path) -> None:
    """No traceback, no exit code 0; and it starts once all that is mended."""
    authority.init(tmp_path / "ca", "mesh", time.time())
    (tmp_path / "a.toml").write_text("copies = 1\n")
    (tmp_path / "token").touch()
    options = ["--config", str(tmp_path / "a.toml"), "--ca", str(tmp_path / "ca")]
    with daemon(tmp_path / "a", *options) as a:
        a.ready()
        assert a.end(signal.SIGTERM) == 0
    for closed, advice in (
        ("a", "--root"),
        ("a/lock", "the node's user"),
        ("a/metadata.sqlite", "the node's user"),
        ("a/identity/node.key", "the node's user"),
        ("a.toml", "--config"),
        ("ca/ca.key", "Permission denied"),
        ("token", "Permission denied"),
    ):
        which = ["--token", str(tmp_path / "token")] if closed == "token" else options
        mode = (tmp_path / closed).stat().st_mode
        (tmp_path / closed).chmod(0)
        with daemon(tmp_path / "a", *which, program=UNPRIVILEGED) as refused:
            assert refused.process.wait(DEADLINE_S) in (1, 2)
        (tmp_path / closed).chmod(mode)
        text = refused.log.read_text()
        *_, last = text.splitlines()
        assert Path(closed).name in last
        assert advice in last
        assert "Traceback" not in text
    with daemon(tmp_path / "a", *options, program=UNPRIVILEGED) as a:
        a.ready()


def test_a_signal_while_it_joins_ends_it(tmp_path: Path) -> None:
    """The seed takes connections and says nothing: it is not waited for longer than others."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        seed = f"127.0.0.1:{silent.getsockname()[1]}"
        with daemon(tmp_path / "a", "--join", seed) as a:
            silent.accept()[0].close()
            deadline = time.monotonic() + DEADLINE_S
            a.process.send_signal(signal.SIGTERM)
            assert a.process.wait(deadline - time.monotonic()) == 0
