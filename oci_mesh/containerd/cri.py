"""What a kubelet asks of containerd about images: the CRI, over containerd's socket.

By this way containerd goes by its own configuration (hosts.toml and all), as it does for pods.
runtime.v1 of it is in containerd from 1.6 on.
"""

from pathlib import Path
from typing import Final, NamedTuple, Self

from oci_mesh.containerd.api import ANSWER_S, Containerd
from oci_mesh.containerd.cri_pb2 import (
    ImageSpec,
    ImageStatusRequest,
    ImageStatusResponse,
    PullImageRequest,
    PullImageResponse,
)

_SERVICE: Final = "/runtime.v1.ImageService/"

# Where Kubernetes keeps its images.
_NAMESPACE: Final = "k8s.io"


class HeldImage(NamedTuple):
    """An image that containerd has."""

    id: str
    """The digest of its configuration."""
    digests: list[str]
    """NAME@DIGEST for each name of it, of its manifest or index."""


class Cri:
    """Of one containerd; `async with` it. Raises `ContainerdFailed`; `NoService` if this one runs
    without its CRI plugin.
    """

    def __init__(self, socket: Path) -> None:
        self._containerd = Containerd(socket, _NAMESPACE)

    async def __aenter__(self) -> Self:
        await self._containerd.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._containerd.__aexit__(*exception)

    async def pull(self, reference: str, within_s: float) -> str:
        """Pull an image as for a pod; the id that it has then."""
        request = PullImageRequest(image=ImageSpec(image=reference))
        method = f"{_SERVICE}PullImage"
        reply = await self._containerd.call(method, request, PullImageResponse, within_s)
        return reply.image_ref

    async def image(self, reference: str) -> HeldImage | None:
        """What containerd has by a name; None if there is none."""
        request = ImageStatusRequest(image=ImageSpec(image=reference))
        method = f"{_SERVICE}ImageStatus"
        reply = await self._containerd.call(method, request, ImageStatusResponse, ANSWER_S)
        if not reply.HasField("image"):
            return None
        return HeldImage(reply.image.id, list(reply.image.repo_digests))
