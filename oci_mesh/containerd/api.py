"""containerd's own API, as far as an image is brought into it: content, images, leases.

gRPC over the socket of this machine's containerd. Whoever may open that socket may do everything
on this machine, so a node has it only if its operator gave it (`containerd_socket`).

Not here: what an image consists of (`importer`); and reading: gRPC carries 0.14 GB/s, the files of
the content store (`directory`) thirty times that.
"""

import asyncio
import errno
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from google.protobuf.message import DecodeError
from grpclib.client import Channel, Stream, StreamStreamMethod, UnaryUnaryMethod
from grpclib.const import Status
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError

from oci_mesh.containerd import messages_pb2 as pb
from oci_mesh.errors import OperationFailed

Reply = TypeVar("Reply")

# containerd is on this machine and answers at once; a disk that is very busy takes seconds.
ANSWER_S: Final = 30.0

# To commit a blob it syncs it to disk: 10 GB at 100 MB/s.
COMMIT_S: Final = 120.0

# Taking back what was begun, when time is short already.
ABORT_S: Final = 5.0

# Of what containerd complains of, as much as is worth a line.
_MAX_REASON: Final = 300

_CONTENT: Final = "/containerd.services.content.v1.Content/"
_IMAGES: Final = "/containerd.services.images.v1.Images/"
_LEASES: Final = "/containerd.services.leases.v1.Leases/"


class ContainerdFailed(OperationFailed):
    """containerd could not be asked, or did not do what it was asked for."""


class Missing(ContainerdFailed):
    """It has no such thing."""


class NoService(ContainerdFailed):
    """It is too old for that, or was told to do without."""


class NoSocket(ContainerdFailed):
    """There is no containerd to be asked; `error` says why."""

    def __init__(self, message: str, error: OSError, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.error = error


class Exists(ContainerdFailed):
    """It has that already."""


class Containerd:
    """One containerd, in one of its namespaces; `async with` it. Raises `ContainerdFailed`.

    With a `lease`, nothing that is written, or found to be there, is collected as garbage before
    the lease is deleted or runs out.
    """

    def __init__(self, socket: Path, namespace: str) -> None:
        self._socket = socket
        self._namespace = namespace
        self._lease = ""
        self._channel: Channel

    async def __aenter__(self) -> Self:
        await _try(self._socket)
        self._channel = Channel(path=str(self._socket))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._channel.close()

    @asynccontextmanager
    async def lease(self, name: str, until: str) -> AsyncIterator[None]:
        """All calls within the block are under a lease; `until` (RFC 3339) is when it runs out, if
        this process does not get to delete it.
        """
        labels = {"containerd.io/gc.expire": until}
        create = pb.CreateLeaseRequest(id=name, labels=labels)
        await self.call(f"{_LEASES}Create", create, pb.CreateLeaseResponse)
        self._lease = name
        try:
            yield
        finally:
            self._lease = ""
            delete = pb.DeleteLeaseRequest(id=name)
            await self.call(f"{_LEASES}Delete", delete, pb.Empty, ABORT_S)

    async def image(self, name: str) -> pb.Image | None:
        """What goes by a name; None if nothing does."""
        try:
            reply = await self.call(
                f"{_IMAGES}Get", pb.GetImageRequest(name=name), pb.GetImageResponse
            )
        except Missing:
            return None
        return reply.image

    async def put_image(self, image: pb.Image) -> None:
        """Have `image` go by its name, whatever did before."""
        try:
            create = pb.CreateImageRequest(image=image)
            await self.call(f"{_IMAGES}Create", create, pb.ImageResponse)
        except Exists:
            update = pb.UpdateImageRequest(image=image)
            await self.call(f"{_IMAGES}Update", update, pb.ImageResponse)

    async def labels(self, digest: str) -> Mapping[str, str] | None:
        """The labels of some content; None if it is not there."""
        try:
            reply = await self.call(
                f"{_CONTENT}Info", pb.InfoRequest(digest=digest), pb.InfoResponse
            )
        except Missing:
            return None
        return reply.info.labels

    async def set_labels(self, digest: str, labels: Mapping[str, str]) -> None:
        """Add to the labels of content that is there."""
        mask = pb.FieldMask(paths=[f"labels.{name}" for name in labels])
        update = pb.UpdateRequest(info=pb.Info(digest=digest, labels=labels), update_mask=mask)
        await self.call(f"{_CONTENT}Update", update, pb.UpdateResponse)

    @asynccontextmanager
    async def writing(self, ref: str, digest: str, size: int) -> AsyncIterator["Writer"]:
        """Write some content. Raises `Exists` on entry if it is there; it is under the lease then.

        What the block does not commit is taken back.
        """
        method: StreamStreamMethod[Any, Any] = StreamStreamMethod(
            self._channel,
            f"{_CONTENT}Write",
            pb.WriteContentRequest,
            pb.WriteContentResponse,
        )
        committed = False
        try:
            with self._named():
                async with method.open(metadata=self._metadata) as stream:
                    writer = Writer(stream, ref, digest, size)
                    await writer.begin()
                    yield writer
                    committed = writer.committed
        except Exists:
            committed = True
            raise
        finally:
            if not committed:
                await self._abort(ref)

    async def _abort(self, ref: str) -> None:
        with suppress(ContainerdFailed):  # nothing was begun; or the lease's end takes it away
            await self.call(f"{_CONTENT}Abort", pb.AbortRequest(ref=ref), pb.Empty, ABORT_S)

    async def call(
        self, method: str, request: Any, kind: type[Reply], within_s: float = ANSWER_S
    ) -> Reply:
        """One method, `/PACKAGE.SERVICE/METHOD`, that takes a message and answers one."""
        call: UnaryUnaryMethod[Any, Reply] = UnaryUnaryMethod(
            self._channel, method, type(request), kind
        )
        with self._named():
            async with asyncio.timeout(within_s):
                return await call(request, metadata=self._metadata)

    @property
    def _metadata(self) -> dict[str, str]:
        lease = {"containerd-lease": self._lease} if self._lease else {}
        return {"containerd-namespace": self._namespace, **lease}

    @contextmanager
    def _named(self) -> Iterator[None]:
        """Whatever goes wrong with containerd, as a `ContainerdFailed`."""
        try:
            yield
        except GRPCError as error:
            raise _failure(error) from None
        except TimeoutError:
            raise ContainerdFailed(
                "containerd does not answer", hint=f"look at its log: is {self._socket} the right "
                "socket, and its disk well?"
            ) from None  # fmt: skip
        except (OSError, StreamTerminatedError, ProtocolError, DecodeError) as error:
            raise ContainerdFailed(
                f"containerd broke off: {str(error)[:_MAX_REASON] or type(error).__name__}",
                hint="was it stopped or restarted? Run this again when it is up",
            ) from None


class Writer:
    """One content under way into containerd, in order."""

    def __init__(self, stream: "Stream[Any, Any]", ref: str, digest: str, size: int) -> None:
        self._stream = stream
        self._ref = ref
        self._digest = digest
        self._size = size
        self.offset = 0
        """Where to go on: an attempt that was killed may have left something."""
        self.committed = False

    async def begin(self) -> None:
        """Say what is to come."""
        self.offset = await self._ask(pb.STAT, ANSWER_S)

    async def write(self, chunk: bytes) -> None:
        """Append some bytes, of at most some MiB."""
        self.offset = await self._ask(pb.WRITE, ANSWER_S, data=chunk)

    async def commit(self, labels: Mapping[str, str]) -> None:
        """The content is there, if it is what was said to come: containerd has hashed it."""
        await self._ask(pb.COMMIT, COMMIT_S, labels=labels)
        self.committed = True

    async def _ask(self, action: pb.WriteAction, within_s: float, **more: Any) -> int:
        message = pb.WriteContentRequest(
            action=action,
            ref=self._ref,
            total=self._size,
            expected=self._digest,
            offset=self.offset,
            **more,
        )
        async with asyncio.timeout(within_s):
            await self._stream.send_message(message, end=action == pb.COMMIT)
            reply = await self._stream.recv_message()
            if reply is None:  # it has ended the stream, and says why
                await self._stream.recv_trailing_metadata()
                raise ProtocolError("no answer to a write")
        return int(reply.offset)


async def _try(socket: Path) -> None:
    """Raise `ContainerdFailed` if nobody can be asked there; grpclib would not say why."""
    try:
        async with asyncio.timeout(ANSWER_S):
            _, writer = await asyncio.open_unix_connection(str(socket))
    except PermissionError as error:
        raise NoSocket(
            f"this node may not use {socket}",
            error,
            hint="run the node as a user of the socket's group, or leave out --containerd-socket",
        ) from None
    except OSError as error:
        reason = error.strerror or errno.errorcode.get(error.errno or 0, "no answer")
        raise NoSocket(
            f"no containerd answers at {socket} ({reason})",
            error,
            hint="start containerd, or name its socket by --containerd-socket (k3s: "
            "/run/k3s/containerd/containerd.sock)",
        ) from None
    writer.transport.abort()


def _failure(error: GRPCError) -> ContainerdFailed:
    reason = (error.message or error.status.name)[:_MAX_REASON]
    if error.status is Status.NOT_FOUND:
        return Missing(f"containerd: {reason}")
    if error.status is Status.ALREADY_EXISTS:
        return Exists(f"containerd: {reason}")
    if "no space left on device" in reason or "disk quota exceeded" in reason:
        return ContainerdFailed(
            "the disk of containerd is full", hint="free some space there, and run this again"
        )
    if error.status is Status.UNIMPLEMENTED:
        return NoService(
            f"this containerd is too old, or lacks a plugin: {reason}",
            hint="1.6 and later do; or import the image by hand: oci-mesh pull, ctr images import",
        )
    if error.status is Status.UNAVAILABLE and "locked" in reason:
        return ContainerdFailed(
            f"somebody else is just writing that into containerd: {reason}",
            hint="run this again in a moment",
        )
    return ContainerdFailed(f"containerd: {reason}")
