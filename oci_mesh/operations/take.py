"""Taking an image because an operator said so, here or at another node: hold it, then import it.

Of an image of this mesh all platforms are taken that there are, as in a push; of those of other
registries, what runs here: the rest nobody here has asked for.
"""

import asyncio
import logging
from typing import TYPE_CHECKING

from oci_mesh.errors import NameInvalid, OciMeshError, OperationFailed, PeerError
from oci_mesh.journal import plain
from oci_mesh.logs import event
from oci_mesh.mesh.holding import Tally, hold
from oci_mesh.mesh.wire import Take, Taken
from oci_mesh.sources import Source
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import Descriptor, Platform
from oci_mesh.spec.platform import runs_on
from oci_mesh.spec.reference import parse_reference
from oci_mesh.spec.scope import is_mirrored, is_private, parse_scope
from oci_mesh.store.base import Store

if TYPE_CHECKING:  # gRPC and all, for nodes that have a containerd only
    from oci_mesh.containerd.importer import Importer


_log = logging.getLogger(__name__)


class Taker:
    """Of this node. `own` has content of this mesh, `mirror` that of other registries; `importer`
    is None where the operator gave the node no containerd.
    """

    def __init__(
        self,
        store: Store,
        own: Source,
        mirror: Source,
        platform: Platform,
        importer: "Importer | None",
    ) -> None:
        self.store = store
        self.platform = platform
        self.importer = importer
        self._own = own
        self._mirror = mirror

    def begin(self, asked: Take) -> "Taking":
        """Not begun yet: `Taking.run` does it. Raises `PeerError` for what is not a valid request,
        `OciError`s for names that are none.
        """
        scope, digest = parse_scope(asked.repository), Digest.parse(asked.digest)
        if scope.private:
            raise PeerError("private images go where they are pulled, with their secrets")
        if asked.image and str(parse_reference(asked.image)) != asked.image:
            raise NameInvalid("containerd knows images by their whole name only")
        return Taking(self, asked.repository, digest, asked.image, asked.sender.id)

    def source(self, repository: str) -> Source:
        """Where a repository's content is had from."""
        return self._mirror if is_mirrored(repository) else self._own


class Taking:
    """One image on its way here."""

    def __init__(
        self, taker: Taker, repository: str, digest: Digest, image: str, asked_by: str
    ) -> None:
        assert not is_private(repository)
        self._taker = taker
        self._repository = repository
        self._digest = digest
        self._image = image
        self._asked_by = asked_by
        self._tally = Tally()
        self._imported = (0, 0)
        self._held = False
        self._end: Taken | None = None

    @property
    def now(self) -> Taken:
        """How far it is, or how it went."""
        if self._end is not None:
            return self._end
        done, total = self._imported if self._held else (self._tally.done, self._tally.total)
        fetched, held = self._tally.fetched, self._held
        return Taken("importing" if held else "fetching", done, total, fetched, held=held)

    async def run(self) -> None:
        """To its end, good or bad: `now` says which."""
        try:
            self._end = await self._run()
        except OciMeshError as error:
            hint = error.hint if isinstance(error, OperationFailed) else ""
            self._end = Taken(
                "failed",
                fetched=self._tally.fetched,
                held=self._held,
                changed=self._tally.fetched > 0,
                reason=plain(str(error) or type(error).__name__),
                hint=plain(hint),
            )
        _log.info(
            "took an image" if self._end.stage == "done" else "could not take an image",
            extra=event(
                asked_by=self._asked_by,
                repository=self._repository,
                digest=self._digest,
                imported_as=self._image if self._end.imported else "",
                bytes=self._end.fetched,
                reason=self._end.reason,
            ),
        )

    async def _run(self) -> Taken:
        """containerd gets what has come while the rest is on its way."""
        source = self._taker.source(self._repository)
        failure: OciMeshError | None = None
        async with asyncio.TaskGroup() as group:
            importing = group.create_task(self._import(source))
            try:
                await self._hold(source)
            except OciMeshError as error:
                failure = error
                importing.cancel()
        if failure is not None:
            raise failure
        written = importing.result()
        if isinstance(written, OciMeshError):
            raise written
        fetched = self._tally.fetched
        return Taken(
            "done",
            fetched=fetched,
            written=written or 0,
            held=True,
            imported=bool(self._image),
            changed=fetched > 0 or written is not None,
        )

    async def _hold(self, source: Source) -> None:
        store = self._taker.store
        await hold(source, self._repository, self._digest, store, self._tally, self._is_wanted)
        self._held = True

    async def _import(self, source: Source) -> int | OciMeshError | None:
        """How many bytes were written, None for nothing to do; or why it failed: the image is to be
        held all the same.
        """
        importer = self._taker.importer
        if not self._image:
            return None
        if importer is None:
            return OperationFailed(
                "this node was given no containerd to import into",
                hint="start it with --containerd-socket /run/containerd/containerd.sock",
            )
        try:
            return await importer.bring(
                source, self._repository, self._digest, self._image, self._told
            )
        except OciMeshError as error:
            return error

    def _told(self, done: int, total: int) -> None:
        self._imported = done, total

    def _is_wanted(self, child: Descriptor) -> bool:
        if not is_mirrored(self._repository) or child.platform is None:
            return True
        return runs_on(child.platform, self._taker.platform)
