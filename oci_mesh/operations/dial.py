"""Why a node cannot be spoken to, found out step by step: the name, the connection, who answers.

For a request that failed already. First what any stranger on the network could do: connect, and see
the certificate that the other end shows. If that is right, show ours, and see whether it is taken.
"""

import asyncio
import errno
import socket
import ssl
import time
from typing import Final, NamedTuple

from oci_mesh.control.health import Outcome
from oci_mesh.mesh.client import CONNECT_S
from oci_mesh.pki import certificates
from oci_mesh.pki.certificates import Holder
from oci_mesh.pki.trust import Trust

# Of what the other end says, as much as is shown.
_MAX_DETAIL: Final = 200

_CLOSED: Final = frozenset({errno.ECONNREFUSED, errno.ECONNRESET})

# What OpenSSL says of an answer that is no TLS at all.
_NO_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})


class Reason(NamedTuple):
    """Why not, and what there is to say of it."""

    outcome: Outcome
    detail: str
    node: str = ""
    """Who is there, as its certificate says."""


async def find_reason(
    address: str,
    node_id: str | None,
    trust: Trust | None,
    why: str,
    showing: ssl.SSLContext | None = None,
) -> Reason:
    """Why the node at `address`, which should be `node_id` (None: any), was not reached.

    `trust` is what this mesh believes, None where nodes prove nothing; `why` is how the request
    failed. Without `showing`, which has this node's certificate, it is not found out whether the
    other takes that. It takes four times `CONNECT_S` at most.
    """
    try:
        _, writer = await _connect(address)
    except TimeoutError:
        return Reason("filtered", f"no answer in {CONNECT_S:.0f} s")
    except (socket.gaierror, UnicodeError) as error:
        return Reason("unresolved", str(error)[:_MAX_DETAIL])
    except OSError as error:
        outcome: Outcome = "closed" if error.errno in _CLOSED else "unreachable"
        return Reason(outcome, error.strerror or str(error)[:_MAX_DETAIL])
    try:
        found = await _look(writer, node_id, trust, why)
    finally:
        writer.transport.abort()
    if showing is None or found.outcome != "failing" or not found.node:
        return found
    refused = await _is_refused(address, found.node, showing)
    return found._replace(outcome="refused") if refused else found


async def _connect(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    async with asyncio.timeout(CONNECT_S):
        return await asyncio.open_connection(host.strip("[]"), int(port))


async def _is_refused(address: str, node_id: str, context: ssl.SSLContext) -> bool:
    """Whether the other end hangs up on who shows our certificate.

    On our side the handshake is done by then. Who takes it waits for us to speak.
    """
    writer: asyncio.StreamWriter | None = None
    try:
        reader, writer = await _connect(address)
        async with asyncio.timeout(CONNECT_S):
            await writer.start_tls(context, server_hostname=certificates.server_name(node_id))
            return await reader.read(1) == b""
    except TimeoutError:
        return False
    except OSError:  # cut, with or without an alert of TLS
        return True
    finally:
        if writer is not None:
            writer.transport.abort()


async def _look(
    writer: asyncio.StreamWriter, node_id: str | None, trust: Trust | None, why: str
) -> Reason:
    """Who is at the other end of a connection."""
    try:
        async with asyncio.timeout(CONNECT_S):
            await writer.start_tls(_curious(), server_hostname=certificates.server_name(node_id))
    except ssl.SSLError as error:
        if trust is not None and error.reason in _NO_TLS:
            return Reason("plain", "it speaks no TLS")
        return Reason("failing", why if trust is None else str(error)[:_MAX_DETAIL])
    except (OSError, TimeoutError):  # cut, or silent
        return Reason("failing", why)
    session: ssl.SSLObject = writer.get_extra_info("ssl_object")
    try:
        holder = certificates.read(session.getpeercert(binary_form=True) or b"")
    except ValueError as error:
        return Reason("stranger", str(error)[:_MAX_DETAIL])
    if trust is None:
        return Reason("secured", "it speaks TLS", holder.name)
    return _judge(holder, node_id, trust, why)


def _judge(holder: Holder, node_id: str | None, trust: Trust, why: str) -> Reason:
    now = time.time()
    if holder.issuer not in trust.names:
        ours = ", ".join(sorted(trust.names))
        return Reason("other-mesh", f"it is of {holder.issuer}, we are of {ours}", holder.name)
    if now > holder.not_after:
        return Reason("expired", f"{now - holder.not_after:.0f} s ago", holder.name)
    if now < holder.not_before:
        return Reason("not-yet", f"for {holder.not_before - now:.0f} s more", holder.name)
    if node_id is not None and holder.name != node_id:
        return Reason("other-node", f"{holder.name} is there", holder.name)
    return Reason("failing", why[:_MAX_DETAIL], holder.name)


def _curious() -> ssl.SSLContext:
    """Takes any certificate: what it says is looked at, and nothing is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
