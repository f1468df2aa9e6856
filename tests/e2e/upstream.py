"""Another registry, as the mesh sees it: Debian's `docker-registry` on a machine of its own.

It speaks TLS under a name, with a certificate of an authority that the test makes; a private one
wants a user and a password for everything. Content is put there by a back door: a second process
on the same files that listens on that machine's loopback alone and wants nothing.

What was asked of it is read from its access log. With `faulty` there is a proxy between it and its
clients that does wrong as it is told (faults.py).
"""

import json
import re
import subprocess
import sys
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from tests.e2e import command
from tests.e2e.authority import issue
from tests.e2e.daemon import ENVIRONMENT, oci_mesh
from tests.e2e.namespaces import Namespace

BACK_DOOR: Final = "127.0.0.1:5001"
BEHIND_PROXY: Final = "127.0.0.1:5002"
USER: Final = "puller"
PASSWORD: Final = "hunter-of-the-lost-layer"
# bcrypt of it, at the lowest cost: each request is checked.
_PASSWORD_FILE: Final = f"{USER}:$2b$04$abcdefghijklmnopqrstuuqOwinBXCD6S3/IbvdzG60G19QYwFVBS\n"
SECRETS: Final = (PASSWORD, b64encode(f"{USER}:{PASSWORD}".encode()).decode())
"""The forms that the password has wherever it is sent or written."""

# The combined log format of web servers.
_LINE: Final = re.compile(
    r'^(?P<client>\S+) - \S+ \[[^]]*\] "(?P<method>\S+) (?P<path>\S+) [^"]*" '
    r'(?P<status>\d+) (?P<size>\d+) "[^"]*" "(?P<agent>[^"]*)"$',
    re.M,
)


class Request(NamedTuple):
    """What somebody asked of the upstream, and how many bytes of body the answer had."""

    client: str
    method: str
    path: str
    status: int
    size: int
    agent: str

    @property
    def has_layer(self) -> bool:
        """Whether it brought a blob, or a part of one."""
        return self.method == "GET" and "/blobs/" in self.path and self.status in (200, 206)


class Upstream:
    """Start it, load it, ask what was asked of it, stop it, start it again."""

    def __init__(
        self,
        directory: Path,
        namespace: Namespace,
        *,
        host: str,
        aliases: Sequence[str] = (),
        private: bool = False,
        faulty: bool = False,
    ) -> None:
        """Describe the registry called `host` (a name that the other machines resolve), and by
        other names, each of which is another registry to a mesh.
        """
        self.hosts = [host, *aliases]
        self.private = private
        self.namespace = namespace
        self.ca = directory / "tls" / "ca.pem"
        self._faulty = faulty
        self._directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []
        directory.mkdir()
        issue(directory / "tls", self.hosts)
        (directory / "htpasswd").write_text(_PASSWORD_FILE)
        self.do()

    def __enter__(self) -> "Upstream":
        """Open for all, and the back door."""
        self._serve("back-door", {"addr": BACK_DOOR}, locked=False)
        self._await(f"http://{BACK_DOOR}")
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Kill all of it."""
        while self._processes:
            self._kill()

    def start(self) -> None:
        """Serve its clients."""
        certificate, key = (self._directory / "tls" / f"server.{end}" for end in ("pem", "key"))
        http: dict[str, object] = {"addr": BEHIND_PROXY}
        if not self._faulty:
            http = {"addr": ":443", "tls": {"certificate": str(certificate), "key": str(key)}}
        self._serve("front", http, locked=self.private)
        if self._faulty:
            words = (sys.executable, "-m", "tests.e2e.faults", "443", f"http://{BEHIND_PROXY}")
            self._run("proxy", *words, certificate, key, self._rules, self._proxy_log)
        self._await(f"https://{self.hosts[0]}")

    def kill(self) -> None:
        """As a crash would: clients are refused until it is started again."""
        while len(self._processes) > 1:
            self._kill()

    def do(self, *rules: dict[str, object]) -> None:
        """What the proxy is to do wrong from now on."""
        new = self._rules.with_suffix(".new")
        new.write_text(json.dumps(rules))
        new.rename(self._rules)

    def did(self, what: str) -> int:
        """How often the proxy did so."""
        lines = map(json.loads, self._proxy_log.read_text().splitlines())
        return sum(line["did"] == what for line in lines)

    def push(self, layout: Path, repository: str, tag: str) -> None:
        """Load what `tag` is in an OCI layout, all platforms, by the back door."""
        target = f"{BACK_DOOR}/{repository}:{tag}"
        words = ("push", "--plain-http", "--image", tag, layout, target)
        oci_mesh(*words, namespace=self.namespace)

    def requests(self) -> list[Request]:
        """What its clients have asked so far; what the tests asked to see it live is left out."""
        found = parse_log((self._directory / "front.out").read_text(errors="replace"))
        own = self.namespace.address
        return [request for request in found if request.client not in (own, "127.0.0.1")]

    @property
    def _rules(self) -> Path:
        return self._directory / "rules.json"

    @property
    def _proxy_log(self) -> Path:
        return self._directory / "proxy.log"

    def _serve(self, name: str, http: dict[str, object], *, locked: bool) -> None:
        config: dict[str, object] = {
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {
                "filesystem": {"rootdirectory": str(self._directory / "content")},
                "delete": {"enabled": True},
            },
            "http": http,
        }
        if locked:
            passwords = str(self._directory / "htpasswd")
            config["auth"] = {"htpasswd": {"realm": "the tests", "path": passwords}}
        path = self._directory / f"{name}.yml"
        path.write_text(json.dumps(config))  # JSON is YAML
        self._run(name, "docker-registry", "serve", path)

    def _run(self, name: str, *words: str | Path) -> None:
        log, argv = self._directory / f"{name}.out", self.namespace.enter(*words)
        self._processes.append(command.start(*argv, stdout=log, stderr=log, env=ENVIRONMENT))

    def _kill(self) -> None:
        process = self._processes.pop()
        process.kill()
        process.wait()

    def _await(self, url: str) -> None:
        words = ["curl", "-so", "/dev/null", "--cacert", str(self.ca), f"{url}/v2/"]
        command.eventually(
            f"docker-registry answers at {url}",
            lambda: self.namespace.run(*words, check=False).returncode == 0,
        )


def parse_log(text: str) -> list[Request]:
    """The requests that an access log tells of."""
    return [
        Request(m["client"], m["method"], m["path"], int(m["status"]), int(m["size"]), m["agent"])
        for m in _LINE.finditer(text)
    ]


def direct(requests: Sequence[Request]) -> dict[str, int]:
    """Bytes of blobs that each client (its address) got straight from the upstream."""
    found: dict[str, int] = {}
    for request in requests:
        if request.has_layer:
            found[request.client] = found.get(request.client, 0) + request.size
    return found
