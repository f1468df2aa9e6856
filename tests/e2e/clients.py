"""skopeo, podman and buildah with nothing of the machine's: its folders are covered by our own."""

from pathlib import Path

from tests.e2e import command
from tests.e2e.namespaces import Namespace

# In a mount namespace of the command's own, so that it leaves neither mounts nor files behind.
_BIND = 'for d in $FOLDERS; do mkdir -p "/$d" "$0/$d" && mount --bind "$0/$d" "/$d" || exit; done'
_ENVIRONMENT = {
    "FOLDERS": "etc/containers var/lib/containers run dev/shm",
    "STORAGE_DRIVER": "vfs",  # asks nothing of the file system that the tests run on
}


class Clients:
    """The three clients built on containers/image, their whole state below one directory."""

    def __init__(
        self, directory: Path, namespace: Namespace | None = None, registries: str = ""
    ) -> None:
        """Configure them: accept unsigned images, search no registry. In the network of
        `namespace`, if given; `registries` goes into registries.conf.
        """
        self._directory = directory
        self._namespace = namespace
        etc = directory / "etc" / "containers"
        etc.mkdir(parents=True)
        (etc / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
        (etc / "registries.conf").write_text(f"unqualified-search-registries = []\n{registries}")

    def skopeo(self, *words: str) -> str:
        """`skopeo WORDS`; its standard output."""
        return self.run("skopeo", *words)

    def podman(self, *words: str) -> str:
        """`podman WORDS`; its standard output."""
        return self.run("podman", *words)

    def buildah(self, *words: str) -> str:
        """`buildah WORDS`; its standard output."""
        return self.run("buildah", *words)

    def run(self, *argv: str, timeout: float = command.SECONDS) -> str:
        """Any command that uses one of them; its standard output."""
        inside: tuple[str | Path, ...] = ("sh", "-c", f'{_BIND}; exec "$@"', self._directory, *argv)
        words = ("unshare", "--mount", *inside)
        where = self._namespace.enter(*words) if self._namespace else words
        return command.run(*where, env=_ENVIRONMENT, timeout=timeout).stdout.decode()
