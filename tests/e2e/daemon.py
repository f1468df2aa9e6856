"""`python -m oci_mesh.serve` as an operator starts it: in a namespace, or on loopback."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, Self

from tests.e2e import command
from tests.e2e.namespaces import Namespace

REPOSITORY = Path(__file__).resolve().parents[2]
READY_SECONDS = 30.0
STOP_SECONDS = 30.0
_READY = re.compile(
    r"^oci-mesh ready:.*registry http://(?P<registry>\S+).*mesh (?P<mesh>\S+)", re.M
)
ENVIRONMENT = {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"}


class Response(NamedTuple):
    """An HTTP response as curl saw it; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


class Daemon:
    """A node's process: start it, ask it, stop it or kill it, start it again on the same root."""

    def __init__(
        self,
        root: Path,
        *options: str,
        namespace: Namespace | None = None,
        listen: str = "127.0.0.1:0",
        mesh_listen: str = "127.0.0.1:0",
        module: str = "oci_mesh.serve",
    ) -> None:
        """Describe the node; nothing runs yet. `options` go to the command line as they are.

        `module` is what runs: another one wraps the daemon.
        """
        self.root = root
        self.options = options
        self.listen = listen
        self.mesh_listen = mesh_listen
        self.registry = ""
        self.mesh = ""
        self._namespace = namespace
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._output = root.with_suffix(".out")
        self._log = root.with_suffix(".log")

    def __enter__(self) -> Self:
        """Start, wait until ready."""
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill, if still running."""
        self.kill()

    def start(self) -> None:
        """Start and wait for the ready line, which says where it listens."""
        self.launch()
        self.await_ready()

    def launch(self) -> None:
        """Start without waiting: many do at once."""
        assert self._process is None, "already started"
        self._output.unlink(missing_ok=True)
        self._process = command.start(
            *self.argv(), stdout=self._output, stderr=self._log, env=ENVIRONMENT
        )

    def await_ready(self) -> None:
        """Wait for the ready line of a node that was launched."""
        command.eventually("a ready line", self._is_ready, timeout=READY_SECONDS)

    @property
    def pid(self) -> int:
        """The process that runs."""
        assert self._process is not None, "not started"
        return self._process.pid

    def stop(self) -> int:
        """SIGTERM; wait for the end and return the exit code."""
        self.terminate()
        return self.wait()

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        assert self._process is not None, "not started"
        self._process.terminate()

    def wait(self) -> int:
        """Wait for the end of the process; its exit code."""
        assert self._process is not None, "not started"
        try:
            return self._process.wait(STOP_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """SIGKILL, as a crash would; nothing if it does not run."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            process.wait()

    def run(self) -> subprocess.CompletedProcess[bytes]:
        """Run the same command line to its end: for a daemon that is to refuse to start."""
        return command.run(*self.argv(), env=ENVIRONMENT, check=False, timeout=READY_SECONDS)

    def argv(self) -> tuple[str | Path, ...]:
        """The command line, inside its namespace if it has one."""
        words: list[str | Path] = [sys.executable, "-m", self._module, "--root", self.root]
        words += ["--listen", self.listen, "--mesh-listen", self.mesh_listen, *self.options]
        return self._namespace.enter(*words) if self._namespace else tuple(words)

    def request(self, method: str, path: str, *options: str) -> Response:
        """One HTTP request to the registry listener, made from where this node is (curl)."""
        curl = ["curl", "--silent", "--show-error", "--max-time", "30", "--include", *options]
        curl += ["--head"] if method == "HEAD" else ["--request", method]
        curl += ["--header", "Expect:", f"http://{self.registry}{path}"]
        done = self._namespace.run(*curl) if self._namespace else command.run(*curl)
        return _parse(done.stdout)

    def download(self, path: str, target: Path, rate: str) -> subprocess.Popen[bytes]:
        """Begin a GET of `path` into `target` at `rate` bytes a second (curl's words: 10M)."""
        curl = ["curl", "--silent", "--fail", "--limit-rate", rate, "--output", str(target)]
        argv = [*curl, f"http://{self.registry}{path}"]
        words = self._namespace.enter(*argv) if self._namespace else tuple(argv)
        return command.start(*words, stdout=self._log, stderr=self._log)

    def status(self, path: str) -> int:
        """The status of a GET."""
        return self.request("GET", path).status

    def members(self) -> int:
        """How many nodes it takes for alive, itself among them."""
        return int(json.loads(self.request("GET", "/readyz").body)["members"])

    def log(self) -> str:
        """What it wrote to standard error, all starts together."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def output(self) -> str:
        """What it wrote to standard output since the last start."""
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def _is_ready(self) -> bool:
        assert self._process is not None
        ended = self._process.poll()
        assert ended is None, f"exit {ended} before it was ready\n{self.output()}\n{self.log()}"
        found = _READY.search(self.output())
        if found:
            self.registry, self.mesh = found["registry"].rstrip(","), found["mesh"].rstrip(",")
        return found is not None


def push(source: Path, reference: str, *options: str, namespace: Namespace | None = None) -> str:
    """`oci-mesh push SOURCE REF`; what it printed on standard output."""
    return oci_mesh("push", *options, source, reference, namespace=namespace)


def pull(reference: str, destination: Path, *options: str) -> str:
    """`oci-mesh pull REF DEST`; what it printed on standard output."""
    return oci_mesh("pull", *options, reference, destination)


def oci_mesh(*words: str | Path, namespace: Namespace | None = None) -> str:
    """`oci-mesh WORDS`; what it printed on standard output."""
    argv: tuple[str | Path, ...] = (sys.executable, "-c", "from oci_mesh.cli import main; main()")
    argv = (*argv, *words)
    if namespace is not None:
        return namespace.run(*argv, env=ENVIRONMENT).stdout.decode()
    return command.run(*argv, env=ENVIRONMENT).stdout.decode()


def _parse(raw: bytes) -> Response:
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines)
    return Response(
        int(first.split()[1]), {name.lower(): value.strip() for name, _, value in pairs}, body
    )
