"""The door of the mesh listener: who is at the other end, and what that allows.

    POST /mesh/v1/enrol    `Application` -> `Issued`: the only thing for who has but a join token
    GET  /mesh/v1/trust    the authorities of this mesh, signed

All else is for nodes, and goes on to them with the id that their certificate proves (`peer_of`).
A node that cannot sign hands an application on to those that can. Who signs looks at two things: an
id that a live node has with another key is not given out, nor another live node's address. The id
of a node that is gone may be: that is how a node that lost its disk comes back under its name.
"""

import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from aiohttp import web

from oci_mesh.errors import PeerError
from oci_mesh.members.clock import HybridClock
from oci_mesh.mesh import wire
from oci_mesh.mesh.body import read_body
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.credentials import Credentials
from oci_mesh.mesh.enrolment import Issued, Issuer, Keeper
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.pki import application as applications
from oci_mesh.pki.application import MAX_APPLICATION_BYTES, Application, Checked
from oci_mesh.pki.certificates import Role

_log = logging.getLogger(__name__)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

_PEER: Final = web.RequestKey("oci_mesh.peer", str)

# How long the few bytes of an application may take to come.
_BODY_S: Final = 5.0

# A connection whose certificate expires this soon is closed after the answer, so that the node at
# its other end opens a new one, with the certificate that it has got by now. Longer than idle
# connections are kept, so that none is left when the time comes.
_STALE_S: Final = 90.0


class Refused(PeerError):
    """An application that will not be granted, whoever is asked."""


def peer_of(request: web.BaseRequest) -> str | None:
    """The id of the node that asks, as its certificate proves; None if nodes prove nothing here."""
    return request.get(_PEER)


class Door:
    """Stands before the handler of the mesh listener where that speaks TLS."""

    def __init__(
        self,
        credentials: Credentials,
        issuer: Issuer | None,
        keeper: Keeper,
        gossip: Gossip,
        client: PeerClient,
        inner: Handler,
    ) -> None:
        self._credentials = credentials
        self._issuer = issuer
        self._keeper = keeper
        self._gossip = gossip
        self._client = client
        self._inner = inner

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request."""
        if request.transport is None:
            raise ConnectionResetError("the other node went away")
        session = request.transport.get_extra_info("ssl_object")
        try:
            peer = self._credentials.peer(session)
        except PeerError as error:
            request.protocol.close()
            return web.Response(status=403, text=str(error))
        if peer.not_after - time.time() < _STALE_S:
            request.protocol.close()
        if request.path == wire.ENROL_PATH and request.method == "POST":
            return await self._enrol(request, is_node=peer.role is Role.NODE)
        if peer.role is not Role.NODE:
            return web.Response(status=403, text="a join token lets nobody in: enrol first")
        if request.path == wire.TRUST_PATH and request.method == "GET":
            assert self._credentials.trust is not None
            return web.Response(body=self._credentials.trust.encoded)
        request[_PEER] = peer.name
        return await self._inner(request)

    async def _enrol(self, request: web.BaseRequest, *, is_node: bool) -> web.StreamResponse:
        try:
            application = _decode(await read_body(request, MAX_APPLICATION_BYTES, _BODY_S))
            trust = self._credentials.trust
            assert trust is not None
            try:
                asked = applications.check(application, trust, time.time())
            except PeerError as error:
                raise Refused(str(error)) from None
            remote = request.remote or ""
            is_relayed = bool(application.seen) and is_node
            application.seen = application.seen if is_relayed else remote
            if self._keeper.can_sign:
                issued = await self._issue(asked, application.seen)
                return web.Response(body=msgspec.json.encode(issued))
            if is_relayed:
                return web.Response(status=503, text="this node does not sign any more")
            return await self._hand_on(application)
        except Refused as error:
            _log.warning("refused a certificate to %s: %s", request.remote, error)
            return web.Response(status=403, text=str(error))
        except PeerError as error:
            return web.Response(status=400, text=str(error))

    async def _hand_on(self, application: Application) -> web.StreamResponse:
        signers = [member for member in self._gossip.live() if member.signs]
        for member in random.sample(signers, len(signers)):
            try:
                status, body = await self._client.enrol(member.address, application, member.id)
            except PeerError as error:
                _log.info("cannot hand on an application: %s", error)
                continue
            if status in (200, 403):
                return web.Response(status=status, body=body)
        return web.Response(
            status=503, text="no node that signs certificates (--ca) can be reached now"
        )

    async def _issue(self, asked: Checked, seen: str) -> Issued:
        """Raises `Refused`."""
        assert self._issuer is not None
        assert self._credentials.trust is not None
        await self._check_id(asked)
        self._check_hosts(asked, seen)
        hosts = asked.hosts or ([seen] if seen else [])
        now = time.time()
        try:
            certificate = self._issuer.authority.issue(
                asked.node_id, asked.public_key, hosts, self._issuer.life_s, now
            )
        except ValueError as error:
            raise Refused(str(error)) from None
        _log.info(
            "signed a certificate for node %s at %s, asked for by %s %s",
            asked.node_id,
            ", ".join(hosts),
            asked.credential.role,
            asked.credential.name,
        )
        return Issued(certificate, self._credentials.trust.encoded)

    async def _check_id(self, asked: Checked) -> None:
        """Raises `Refused` unless the applicant may have that id."""
        node_id, credential, me = asked.node_id, asked.credential, self._credentials.identity
        try:
            HybridClock(node_id)
        except ValueError as error:
            raise Refused(f"node name: {error}") from None
        if credential.role is Role.NODE:
            if (credential.name, credential.public_key) != (node_id, asked.public_key):
                raise Refused(f"{credential.name} asks for a certificate as {node_id}")
            return
        taken = Refused(f"another node is called {node_id}: choose another --name")
        if node_id == me.id and asked.public_key != me.public_key:
            raise taken
        for member in self._gossip.live():
            if member.id == node_id:
                key = await self._client.public_key(member.address, node_id)
                if key not in (None, asked.public_key):
                    raise taken

    def _check_hosts(self, asked: Checked, seen: str) -> None:
        """Raises `Refused` for an address of another node, unless the applicant has it too."""
        others = {
            member.address.rpartition(":")[0].strip("[]"): member.id
            for member in [*self._gossip.live(), self._gossip.table.me]
            if member.id != asked.node_id
        }
        for host in asked.hosts:
            if host in others and host != seen:
                raise Refused(f"{host} is the address of {others[host]}, and not where {seen} is")


def _decode(body: bytes) -> Application:
    try:
        return msgspec.json.decode(body, type=Application)
    except (ValueError, RecursionError) as error:
        raise PeerError(f"not an application: {str(error)[:200]}") from None
