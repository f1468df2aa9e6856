"""Small container images built from bytes: no network, no tool, the standard library alone.

The tests and the demo need real images (a root file system that runc can run) whose every digest is
known in advance: the same files give the same digests.

Not here: whiteouts, ownership, hard links, history. Layers are built in memory: keep them < 100 MB.
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

IMAGE_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
IMAGE_INDEX = "application/vnd.oci.image.index.v1+json"
IMAGE_CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
EMPTY_CONFIG = "application/vnd.oci.empty.v1+json"

Files = Mapping[str, bytes | str]
"""Path (no leading slash) -> a file's content (mode 0755), or, if a str, a link's target."""

# An ELF file names its loader, if it needs one, right behind its program headers.
_HEADERS_BYTES = 4096

BUSYBOX_APPLETS = ("sh", "cat", "echo", "ls", "sha256sum", "sleep", "true")


@dataclass(frozen=True)
class Compression:
    """How layers are packed: the media type that says so and the function that does it."""

    media_type: str
    pack: Callable[[bytes], bytes]


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, compresslevel=6, mtime=0)


GZIP = Compression(LAYER_GZIP, _gzip)


def sha256(data: bytes) -> str:
    """The digest of `data` in its OCI form, `sha256:<hex>`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def encode(document: Mapping[str, Any]) -> bytes:
    """JSON as stored: compact and in the order given."""
    return json.dumps(document, separators=(",", ":")).encode()


def descriptor(media_type: str, data: bytes, **more: object) -> dict[str, Any]:
    """The descriptor of `data` (image-spec, descriptor.md)."""
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}


def busybox_files() -> dict[str, bytes | str]:
    """A root file system that runs: this machine's static busybox and links to it.

    Raises FileNotFoundError where there is none (Debian: busybox-static).
    """
    path = shutil.which("busybox")
    program = Path(path).read_bytes() if path else b""
    if not program or b"/ld-" in program[:_HEADERS_BYTES]:  # the loader of a dynamic one
        raise FileNotFoundError("no static busybox on this machine (Debian: busybox-static)")
    files: dict[str, bytes | str] = {f"bin/{applet}": "busybox" for applet in BUSYBOX_APPLETS}
    return {"bin/busybox": program, **files}


def layer_tar(files: Files) -> bytes:
    """An uncompressed layer: sorted entries with their parent directories, root's, of the epoch."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        parents = {str(p) for name in files for p in Path(name).parents} - {"."}
        for name in sorted(parents | files.keys()):
            entry = tarfile.TarInfo(name)
            entry.mode = 0o755
            content = files.get(name)
            if content is None:
                entry.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
            else:
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content) if isinstance(content, bytes) else None)
    return buffer.getvalue()


def _config(layers: Sequence[bytes], architecture: str, command: Sequence[str]) -> bytes:
    return encode(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": list(command)},
            "rootfs": {"type": "layers", "diff_ids": [sha256(layer) for layer in layers]},
        }
    )


class Layout:
    """An OCI image layout directory that is being written (image-spec, image-layout.md)."""

    def __init__(self, directory: Path) -> None:
        """Create `directory` as an empty layout, or go on with the one that is there."""
        self.directory = directory
        self._index: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": IMAGE_INDEX,
            "manifests": [],
        }
        (directory / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        (directory / "oci-layout").write_bytes(encode({"imageLayoutVersion": "1.0.0"}))
        if (directory / "index.json").exists():
            self._index = json.loads((directory / "index.json").read_bytes())

    def add(self, media_type: str, data: bytes, **more: object) -> dict[str, Any]:
        """Write a blob and return its descriptor."""
        found = descriptor(media_type, data, **more)
        (self.directory / "blobs" / found["digest"].replace(":", "/")).write_bytes(data)
        return found

    def tag(self, tag: str, target: Mapping[str, Any]) -> None:
        """Point `tag` at the manifest of that descriptor."""
        others = [
            entry
            for entry in self._index["manifests"]
            if entry["annotations"]["org.opencontainers.image.ref.name"] != tag
        ]
        annotations = {"org.opencontainers.image.ref.name": tag}
        self._index["manifests"] = [*others, {**target, "annotations": annotations}]
        (self.directory / "index.json").write_bytes(encode(self._index))

    def image(
        self,
        *layers: Files,
        architecture: str = "amd64",
        command: Sequence[str] = ("/bin/sh",),
        compression: Compression = GZIP,
    ) -> dict[str, Any]:
        """Write an image, one layer per mapping; return its descriptor, with its platform."""
        tars = [layer_tar(files) for files in layers]
        manifest = {
            "schemaVersion": 2,
            "mediaType": IMAGE_MANIFEST,
            "config": self.add(IMAGE_CONFIG, _config(tars, architecture, command)),
            "layers": [self.add(compression.media_type, compression.pack(tar)) for tar in tars],
        }
        platform = {"architecture": architecture, "os": "linux"}
        return self.add(IMAGE_MANIFEST, encode(manifest), platform=platform)

    def index(self, *manifests: Mapping[str, Any]) -> dict[str, Any]:
        """Write an index of those manifests; return its descriptor."""
        document = {"schemaVersion": 2, "mediaType": IMAGE_INDEX, "manifests": list(manifests)}
        return self.add(IMAGE_INDEX, encode(document))


def build_layout(
    directory: Path,
    tag: str,
    *layers: Files,
    architecture: str = "amd64",
    compression: Compression = GZIP,
) -> str:
    """Build an image into the OCI layout at `directory`; return its manifest's digest."""
    layout = Layout(directory)
    target = layout.image(*layers, architecture=architecture, compression=compression)
    layout.tag(tag, target)
    return str(target["digest"])


def build_index(directory: Path, tag: str, platforms: Mapping[str, Sequence[Files]]) -> str:
    """Build an index with an image per architecture; return the index's digest."""
    layout = Layout(directory)
    images = [layout.image(*layers, architecture=name) for name, layers in platforms.items()]
    target = layout.index(*images)
    layout.tag(tag, target)
    return str(target["digest"])


def build_docker_archive(
    path: Path, name: str, *layers: Files, architecture: str = "amd64"
) -> list[str]:
    """Write what `docker save NAME` writes, layers uncompressed; return the layers' diff IDs."""
    tars = [layer_tar(files) for files in layers]
    config = _config(tars, architecture, ["/bin/sh"])
    diff_ids = [sha256(tar) for tar in tars]
    config_name = sha256(config).removeprefix("sha256:") + ".json"
    layer_names = [diff_id.removeprefix("sha256:") + "/layer.tar" for diff_id in diff_ids]
    manifest = [{"Config": config_name, "RepoTags": [name], "Layers": layer_names}]
    members = dict(zip(layer_names, tars, strict=True))
    members |= {config_name: config, "manifest.json": json.dumps(manifest).encode()}
    with tarfile.open(path, "w") as archive:
        for member, data in members.items():
            entry = tarfile.TarInfo(member)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return diff_ids


def host_architecture() -> str:
    """This machine's architecture in the words of the OCI (Go's GOARCH)."""
    machine = os.uname().machine
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
