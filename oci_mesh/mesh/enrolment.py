"""How this node comes by its certificate, and keeps it: from its own authority, or from a node that
holds one.

A certificate is renewed at two thirds of its life, by any node that can be reached: who cannot sign
hands the application on. The list of trusted authorities is asked of a random node once a minute,
so a change of it is everywhere after a few minutes; whoever learns of one renews, so that what the
old authority signed is soon gone.
"""

import asyncio
import logging
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from oci_mesh.errors import ConfigError, OciMeshError, PeerError
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.credentials import Credentials, TokenCredentials
from oci_mesh.mesh.discovery import resolve_seeds
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.identity import Identity
from oci_mesh.pki.application import Application
from oci_mesh.pki.authority import STATE, Authority
from oci_mesh.pki.certificates import Holder
from oci_mesh.pki.token import Token, load_token
from oci_mesh.pki.trust import Trust

_log = logging.getLogger(__name__)

# How long a new node looks for one that signs. What starts it may try again after that, and a
# person who watches has an answer.
ENROL_S: Final = 60.0

# Between two rounds of that.
ENROL_PAUSE_S: Final = 1.0

# How often the list of authorities is asked for. In a mesh of 1,000 a change is everywhere after
# some ten rounds.
PULL_S: Final = 60.0

# Of a certificate's life, when it is renewed: with a third of it, 8 h of 24, to find a signer.
RENEW_AT: Final = 2 / 3

# After a renewal that failed, an eighth of what is left until the next; within these bounds.
_RETRY_SHARE: Final = 1 / 8
_RETRY_S: Final = (1.0, 60.0)

# Nodes asked for one renewal: with each of them handing it on to all signers, three are plenty.
_RENEW_FANOUT: Final = 3


class Issued(msgspec.Struct):
    """The answer to an application."""

    certificate: bytes
    trust: bytes


class Issuer:
    """The authority's directory, followed while it changes; and how long certificates live."""

    def __init__(self, directory: Path, life_s: float) -> None:
        """Raises `ConfigError`."""
        self._directory = directory
        self.life_s: Final = life_s
        self.authority = Authority.load(directory)
        self._seen = self._stamp()

    def follow(self) -> None:
        """Load it again if it changed; a state between two steps of a change is passed over."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        try:
            self.authority = Authority.load(self._directory)
            self._seen = stamp
        except ConfigError as error:
            _log.warning("the authority changed, and cannot be read now: %s", error)

    def is_current(self, credentials: Credentials, now: float) -> bool:
        """Whether this is the authority that the mesh trusts, and not an older copy of it: with
        that a node takes its certificates from others.
        """
        trust = self.authority.trust(now)
        if credentials.trust is None or trust.version >= credentials.trust.version:
            return True
        _log.error(
            "ca: %s is older than what the mesh trusts, so this node cannot sign: copy the "
            "directory in which the rotation was made",
            self._directory,
        )
        return False

    def _stamp(self) -> tuple[int, int]:
        try:
            status = (self._directory / STATE).stat()
        except OSError:  # between two steps, or on a volume that is being replaced
            return 0, 0
        return status.st_mtime_ns, status.st_ino


async def obtain(
    identity: Identity,
    root: Path,
    issuer: Issuer | None,
    token_text: str | None,
    join: Sequence[str],
    hosts: Sequence[str],
    *,
    once: bool = False,
) -> Credentials | None:
    """Valid credentials for a node that can be reached at `hosts`: from its own authority, from its
    last run, or for a token from a node in `join`. None if there is nothing of all that. Nodes that
    do not answer are asked again for `ENROL_S`; or not, if `once` is to be enough.

    Raises `ConfigError` if it needs a person, `PeerError` if nobody who signs was found.
    """
    credentials = Credentials(identity, root)
    token = None if token_text is None else load_token(token_text)
    if issuer is None and token is None and not credentials.exist:
        return None
    now = time.time()
    if issuer is not None and issuer.is_current(credentials, now):
        _issue_own(credentials, issuer, hosts, now)
        return credentials
    try:
        credentials.check(now)
    except PeerError as error:
        if token is None:
            raise ConfigError(
                f"{error}: start this node once more with a token (`oci-mesh token create`)"
            ) from None
    else:
        if token is None or not _knows_better(token, credentials.trust, now):
            credentials.activate()
            return credentials
    if now > token.expires:
        expired = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(token.expires))
        raise ConfigError(f"the join token expired at {expired}: `oci-mesh token create` a new one")
    if not join:
        raise ConfigError("a token needs the address of a node that takes it: --join HOST:PORT")
    own = credentials.trust
    trust = own if own is not None and own.version > token.trust.version else token.trust
    credentials.believe(trust)
    await _enrol(credentials, token, trust, root, join, hosts, 0.0 if once else ENROL_S)
    return credentials


def _knows_better(token: Token, trust: Trust | None, now: float) -> bool:
    """Whether a token is of another mesh than this node was in, or of a time after it was cut off.
    Else it is the one that was left over from the first start.
    """
    if trust is None or now > token.expires:
        return False
    same = token.trust.version == trust.version and token.trust.names == trust.names
    return token.trust.version >= trust.version and not same


def _issue_own(credentials: Credentials, issuer: Issuer, hosts: Sequence[str], now: float) -> None:
    identity = credentials.identity
    try:
        certificate = issuer.authority.issue(
            identity.id, identity.public_key, hosts, issuer.life_s, now
        )
    except ValueError as error:
        raise ConfigError(f"no certificate can be made for this node: {error}") from None
    credentials.believe(issuer.authority.trust(now))
    credentials.show(certificate)


async def _enrol(
    credentials: Credentials,
    token: Token,
    trust: Trust,
    root: Path,
    join: Sequence[str],
    hosts: Sequence[str],
    within_s: float,
) -> None:
    identity = credentials.identity
    try:
        application = Application.make(
            identity.id, hosts, identity.key, token.certificate, token.key
        )
    except ValueError as error:
        raise ConfigError(f"no certificate can be made for this node: {error}") from None
    deadline = time.monotonic() + within_s
    async with PeerClient(identity.id, TokenCredentials(token, trust, root)) as client:
        while True:
            seeds = await resolve_seeds(join)
            try:
                take(credentials, await _ask(client, [(seed, None) for seed in seeds], application))
                _log.info("this node has its certificate as %s", identity.id)
                return
            except Denied as error:
                raise ConfigError(f"the mesh does not let this node in: {error}") from None
            except PeerError as error:
                if time.monotonic() >= deadline:
                    raise PeerError(f"no node gave a certificate: {error}") from None
                _log.warning("no certificate yet: %s", error)
            await asyncio.sleep(ENROL_PAUSE_S * random.uniform(0.5, 1.5))


class Denied(PeerError):
    """A node that can sign will not: asking again, or another, does not help."""


async def _ask(
    client: PeerClient, nodes: Sequence[tuple[str, str | None]], application: Application
) -> Issued:
    """The first certificate that one of `nodes` (address, id) gives.

    Raises `Denied`, or `PeerError` with what the last one said.
    """
    last = PeerError("no node is known to ask")
    for address, node_id in nodes:
        try:
            status, body = await client.enrol(address, application, node_id)
            if status == 403:
                raise Denied(f"{address}: {_text(body)}")
            if status != 200:
                raise PeerError(f"{address}: {_text(body)}")
            return msgspec.json.decode(body, type=Issued)
        except Denied:
            raise
        except PeerError as error:
            last = error
        except (ValueError, RecursionError) as error:
            last = PeerError(f"{address} answered nonsense: {str(error)[:200]}")
    raise last


def take(credentials: Credentials, issued: Issued) -> None:
    """Use what was issued, and believe what came with it if it may be believed."""
    trust = Trust(issued.trust)
    if credentials.trust is not None and trust.succeeds(credentials.trust):
        credentials.believe(trust)
    credentials.show(issued.certificate)


def _text(body: bytes) -> str:
    return body[:500].decode(errors="replace").strip() or "no reason given"


class Keeper:
    """Keeps a node's certificate fresh and its list of authorities current: `run` it."""

    def __init__(
        self,
        credentials: Credentials,
        issuer: Issuer | None,
        gossip: Gossip,
        client: PeerClient,
        join: Sequence[str],
        hosts: Sequence[str],
    ) -> None:
        self._credentials = credentials
        self._issuer = issuer
        self._gossip = gossip
        self._client = client
        self._join = join
        self._hosts = hosts
        self._random = random.Random()
        self._renew_at = self._due()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            wait = max(self._renew_at - time.time(), 0.0)
            await asyncio.sleep(min(wait, PULL_S * self._random.uniform(0.5, 1.5)))
            try:
                await self._update_trust()
                if time.time() >= self._renew_at:
                    await self._renew()
                    self._renew_at = self._due()
            except (OciMeshError, OSError) as error:
                left = self._holder.not_after - time.time()
                least, most = _RETRY_S
                retry = min(max(left * _RETRY_SHARE, least), most) if left > 0 else most
                self._renew_at = time.time() + retry * self._random.uniform(0.5, 1.0)
                _log.warning(
                    "the certificate of this node could not be renewed (it is good for %.0f s "
                    "more): %s",
                    left,
                    error,
                )

    async def _update_trust(self) -> None:
        """Believe what our own authority says, or else a random node, if that is news."""
        own = self._credentials.trust
        assert own is not None
        if self._issuer is not None:
            self._issuer.follow()
        if self.can_sign:
            assert self._issuer is not None
            trust = self._issuer.authority.trust(time.time())
            is_news = trust.version > own.version  # the directory needs nobody's signature
        elif live := self._gossip.live():
            member = self._random.choice(live)
            try:
                trust = Trust(await self._client.trust(member.address, member.id))
            except PeerError as error:
                _log.debug("no list of authorities from %s: %s", member.id, error)
                return
            is_news = trust.succeeds(own)
        else:
            return
        if is_news:
            _log.info("the mesh's list of authorities is now number %d", trust.version)
            self._credentials.believe(trust)
            self._renew_at = time.time()

    async def _renew(self) -> None:
        """Raises `PeerError` if nobody signs, `ConfigError` or `OSError` for our own troubles."""
        credentials, identity = self._credentials, self._credentials.identity
        if self._issuer is not None and self.can_sign:
            _issue_own(credentials, self._issuer, self._hosts, time.time())
            return
        assert credentials.certificate is not None
        application = Application.make(
            identity.id, self._hosts, identity.key, credentials.certificate, identity.key
        )
        live = self._gossip.live()
        chosen = self._random.sample(live, min(_RENEW_FANOUT, len(live)))
        nodes: list[tuple[str, str | None]] = [(m.address, m.id) for m in chosen]
        if not nodes:
            nodes = [(seed, None) for seed in await resolve_seeds(self._join)]
        take(credentials, await _ask(self._client, nodes, application))
        _log.info("the certificate of this node was renewed")

    @property
    def can_sign(self) -> bool:
        """Whether this node's authority is the one that the mesh trusts."""
        issuer = self._issuer
        return issuer is not None and issuer.is_current(self._credentials, time.time())

    @property
    def _holder(self) -> Holder:
        assert self._credentials.holder is not None
        return self._credentials.holder

    def _due(self) -> float:
        """When to renew: not all nodes at once, though all may have started at once."""
        now = time.time()
        left = self._holder.not_after - now
        return now + left * RENEW_AT * self._random.uniform(0.9, 1.0)
