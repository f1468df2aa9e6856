"""`oci-mesh inspect`: what is behind a name, without fetching any layer."""

import asyncio
from typing import Any, Final

import msgspec

from oci_mesh.cli.docker_archive import MAX_CONFIG_BYTES
from oci_mesh.cli.failure import shown
from oci_mesh.cli.lookup import look_up
from oci_mesh.cli.output import columns
from oci_mesh.cli.pull import IMAGE_CONFIGS, TRANSFERS
from oci_mesh.cli.registry_client import RegistryClient
from oci_mesh.cli.selection import platform_text
from oci_mesh.cli.target import Target
from oci_mesh.errors import OciMeshError
from oci_mesh.quantity import size_text
from oci_mesh.spec import media_types
from oci_mesh.spec.manifest import Descriptor, Manifest, Platform

# Docker's marker of what is in an index beside the images for platforms: provenance and the like.
_ATTESTATION: Final = "unknown/unknown"


class Layer(msgspec.Struct, frozen=True, rename="camel"):
    """A layer, or another blob of a manifest."""

    digest: str
    size: int
    media_type: str


class Image(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """What is for one platform. `problem` says why no more is known of it."""

    digest: str
    platform: str = ""
    media_type: str = ""
    artifact_type: str | None = None
    size: int = 0
    """Of the configuration and all layers."""
    created: str | None = None
    entrypoint: list[str] = []
    command: list[str] = []
    user: str | None = None
    working_dir: str | None = None
    ports: list[str] = []
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}
    layers: list[Layer] = []
    problem: str | None = None


class Referrer(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """A signature, or another artifact that refers to it."""

    digest: str
    size: int
    artifact_type: str | None = None
    annotations: dict[str, str] = {}


class Inspected(msgspec.Struct, frozen=True, rename="camel"):
    """All of it. An index has several images, any other manifest one."""

    reference: str
    registry: str
    digest: str
    media_type: str
    size: int
    """Of the manifest."""
    images: list[Image]
    referrers: list[Referrer]

    def text(self) -> str:
        """For people. What images say of themselves is foreign text: escaped."""
        lines = [
            self.reference,
            f"  digest    {self.digest}",
            f"  type      {_plain(self.media_type)}",
        ]
        for image in self.images:
            lines += ["", *_image_lines(image)]
        if self.referrers:
            rows = [
                (f"  {found.digest}", size_text(found.size), _plain(found.artifact_type or "?"))
                for found in self.referrers
            ]
            lines += ["", "referrers", columns(rows).rstrip()]
        return "\n".join(lines)


class _Settings(msgspec.Struct, rename="pascal"):
    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    user: str | None = None
    working_dir: str | None = None
    exposed_ports: dict[str, Any] | None = None
    labels: dict[str, str] | None = None


class _Config(msgspec.Struct):
    """What is read of an image's configuration (image-spec, "Image Configuration")."""

    os: str = ""
    architecture: str = ""
    variant: str | None = None
    created: str | None = None
    config: _Settings | None = None


class Inspection:
    """Of one REF."""

    def __init__(self, client: RegistryClient, target: Target) -> None:
        self._client = client
        self._target = target
        self._turn = asyncio.Semaphore(TRANSFERS)

    async def raw(self) -> bytes:
        """The manifest, byte for byte. Raises `Failure`."""
        return (await look_up(self._client, self._target)).content

    async def run(self) -> Inspected:
        """Raises `Failure` if REF leads nowhere. What is behind it and cannot be had is said."""
        target = self._target
        root = await look_up(self._client, target)
        own = Descriptor(root.media_type, str(root.digest), len(root.content))
        async with asyncio.TaskGroup() as group:
            listed = group.create_task(self._client.referrers(target.repository, own))
            if root.media_type in media_types.INDEXES:
                images = [group.create_task(self._child(child)) for child in root.manifests]
            else:
                images = [group.create_task(self._image(root, None))]
        return Inspected(
            reference=str(target),
            registry=target.registry,
            digest=own.digest,
            media_type=root.media_type,
            size=own.size,
            images=[image.result() for image in images],
            referrers=[
                Referrer(d.digest, d.size, d.artifact_type, d.annotations or {})
                for d in listed.result()
            ],
        )

    async def _child(self, child: Descriptor) -> Image:
        """One that cannot be had is no reason not to show the others."""
        platform = platform_text(child.platform) if child.platform else ""
        try:
            async with self._turn:
                manifest = await self._client.manifest(self._target.repository, child.digest)
            if manifest is not None:
                return await self._image(manifest, child.platform)
        except OciMeshError as error:
            return Image(child.digest, platform, child.media_type, problem=str(error))
        return Image(child.digest, platform, child.media_type, problem="not in the registry")

    async def _image(self, manifest: Manifest, platform: Platform | None) -> Image:
        config = await self._config(manifest)
        said = config.config or _Settings()
        platform = platform or Platform(config.architecture, config.os, config.variant)
        return Image(
            digest=str(manifest.digest),
            platform=platform_text(platform),
            media_type=manifest.media_type,
            artifact_type=None if config.architecture else manifest.artifact_type,
            size=sum(blob.size for blob in manifest.blobs),
            created=config.created,
            entrypoint=said.entrypoint or [],
            command=said.cmd or [],
            user=said.user or None,
            working_dir=said.working_dir or None,
            ports=sorted(said.exposed_ports or {}),
            labels=said.labels or {},
            annotations=manifest.annotations or {},
            layers=[Layer(d.digest, d.size, d.media_type) for d in manifest.blobs[1:]],
        )

    async def _config(self, manifest: Manifest) -> _Config:
        """Of an image; of an artifact there is none that says such things."""
        first = next(iter(manifest.blobs), None)
        if first is None or first.media_type not in IMAGE_CONFIGS:
            return _Config()
        async with self._turn:
            repository = self._target.repository
            content = await self._client.small_blob(repository, first, MAX_CONFIG_BYTES)
        try:
            return msgspec.json.decode(content, type=_Config)
        except (msgspec.DecodeError, RecursionError):
            return _Config()


def _image_lines(image: Image) -> list[str]:
    title = image.platform or (image.artifact_type or image.media_type)
    if image.platform == _ATTESTATION:
        title = "attestation"
    lines = [f"{_plain(title)}  {size_text(image.size)}", f"  digest      {image.digest}"]
    if image.problem:
        return [f"{_plain(title)}", lines[1], f"  problem     {image.problem}"]
    said = {
        "created": image.created,
        "entrypoint": _words(image.entrypoint),
        "command": _words(image.command),
        "user": image.user,
        "directory": image.working_dir,
        "ports": ", ".join(image.ports),
    }
    lines += [f"  {name:<11} {_plain(text)}" for name, text in said.items() if text]
    for title, pairs in (("labels", image.labels), ("annotations", image.annotations)):
        if pairs:
            lines.append(f"  {title}")
            lines += [f"    {_plain(key)}={_plain(pairs[key])}" for key in sorted(pairs)]
    if image.layers:
        lines.append("  layers")
        rows = [
            (f"    {layer.digest}", size_text(layer.size), _plain(layer.media_type))
            for layer in image.layers
        ]
        lines += columns(rows).splitlines()
    return lines


def _words(words: list[str]) -> str:
    return msgspec.json.encode(words).decode() if words else ""


def _plain(text: str) -> str:
    """Without quotation marks, but escaped and cut."""
    return shown(text)[1:-1] if not text.isprintable() or len(text) > 100 else text
