"""What a node finds out about itself and what it depends on, for who looks for a fault.

Everything is tried at once, and each attempt has a deadline, so the whole takes some seconds
whatever does not answer. What another node says of itself is bounded, and what it says of a third
one is not asked. Nothing here changes anything: no node is taken for dead because of it.
"""

import asyncio
import math
import resource
import socket
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeVar, get_args

from oci_mesh.config import NodeConfig
from oci_mesh.containerd.watch import Watch
from oci_mesh.control.health import (
    Asked,
    Certificate,
    Double,
    Health,
    HealthRequest,
    Outcome,
    Tried,
)
from oci_mesh.errors import ConfigError, PeerError, UpstreamError, UpstreamRefused
from oci_mesh.members.table import Member
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.credentials import Credentials
from oci_mesh.mesh.discovery import LOOKUP_S, resolve_seeds
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.wire import Feel, Pulse
from oci_mesh.operations.dial import find_reason
from oci_mesh.pki.authority import KEYS, Authority
from oci_mesh.pki.token import PREFIX
from oci_mesh.store.base import Store
from oci_mesh.store.room import reserve_of
from oci_mesh.tasks import loop_time
from oci_mesh.upstream.client import UpstreamClient

Value = TypeVar("Value")

# Nodes and registries tried at a time.
FANOUT: Final = 32

# For all other nodes: half of a hundred may be gone, each for several seconds.
TRY_S: Final = 20.0

# Addresses behind one name that are tried: a headless Service of a large cluster has hundreds, and
# gossip tells of all of them.
MAX_PER_SEED: Final = 8

# For one registry, with its tokens and redirects; containerd's patience is not the measure here.
ASK_S: Final = 8.0

# A repository that no registry has: only whether it answers counts.
_NOWHERE: Final = "oci-mesh-doctor/probe"

_MAX_VERSION: Final = 40
_OUTCOMES: Final = frozenset(get_args(Outcome))

_FILES: Final = Path("/proc/self/fd")


class HealthCheck:
    """Of this node. `registry` is the URL of its listener for clients."""

    def __init__(
        self,
        config: NodeConfig,
        registry: str,
        version: str,
        store: Store,
        gossip: Gossip,
        client: PeerClient,
        credentials: Credentials | None,
        upstreams: Sequence[UpstreamClient],
    ) -> None:
        self._config = config
        self._registry = registry
        self._version = version
        self._store = store
        self._gossip = gossip
        self._client = client
        self._credentials = credentials
        self._upstreams = upstreams

    async def answer(self, asked: HealthRequest) -> AsyncGenerator[Health, None]:
        """One document: all that was found."""
        members = self._others()
        chosen = self._chosen(asked)
        async with asyncio.TaskGroup() as group:
            others = group.create_task(self._try_all(members))
            seeds = group.create_task(self._try_seeds())
            upstreams = group.create_task(_each([self._ask(upstream) for upstream in chosen]))
        found, unresolved = seeds.result()
        health = await self._found([*others.result(), *found], unresolved, upstreams.result())
        health.untried = len(members) - len(others.result())
        yield health

    async def feel(self, sender: str, asked: Feel) -> Pulse:
        """The answer to another node: how this one is, and how it reaches that one.

        It is tried where gossip says it is, and nowhere else.
        """
        back = ""
        if asked.back:
            found = [member for member in self._others() if member.id == sender]
            tried = [await self._try(member, back=False) for member in found]
            back = tried[0].outcome if tried else ""
        return Pulse(time.time(), self._version, back)

    async def _found(
        self,
        others: list[Tried],
        unresolved: list[str],
        upstreams: list[Asked],
    ) -> Health:
        config, now = self._config, loop_time()
        usage = await self._store.usage()
        me = self._gossip.table.me
        return Health(
            version=self._version,
            node=me.id,
            registry=self._registry,
            mesh=me.address,
            now=time.time(),
            secure=self._credentials is not None,
            join=list(config.join),
            unresolved=unresolved,
            others=others,
            doubles=[Double(place, now - at) for place, at in self._gossip.doubles.items()],
            certificate=self._certificate(),
            upstreams=upstreams,
            secrets=[str(path) for path in self._secrets()],
            reserve=reserve_of(config.root, config.disk_reserve),
            limit=config.disk_limit,
            used=usage.bytes,
            files=len(list(_FILES.iterdir())),
            max_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            connections=config.max_connections,
            containerd="" if config.containerd is None else str(config.containerd),
            watch_error=_watch_error(config.containerd),
        )

    # -- other nodes

    def _others(self) -> list[Member]:
        return [member for member in self._gossip.table.others() if not member.left]

    async def _try_all(self, members: Sequence[Member]) -> list[Tried]:
        """All of them, as far as `TRY_S` suffices."""
        done: list[Tried] = []

        async def one(member: Member) -> None:
            done.append(await self._try(member))

        with suppress(TimeoutError):
            async with asyncio.timeout(TRY_S):
                await _each([one(member) for member in members])
        return sorted(done, key=lambda tried: tried.node)

    async def _try(self, member: Member, *, back: bool = True) -> Tried:
        return await self._try_at(member.address, member.id, back=back)

    async def _try_at(self, address: str, node_id: str, seed: str = "", *, back: bool) -> Tried:
        asked_at, wall = loop_time(), time.time()
        try:
            pulse = await self._client.feel(address, Feel(back), node_id or None)
            took = loop_time() - asked_at
            tried = _checked(pulse, address, node_id, wall + took / 2)
        except PeerError as error:
            mine = self._credentials
            trust, showing = (None, None) if mine is None else (mine.trust, mine.client)
            reason = await find_reason(address, node_id or None, trust, str(error), showing)
            found = reason.node or node_id
            tried = Tried(address, found, reason.outcome, detail=reason.detail)
        tried.seed = seed
        return tried

    async def _try_seeds(self) -> tuple[list[Tried], list[str]]:
        """Those that are not known by gossip anyway; and the names that lead nowhere."""
        join = self._config.join
        places = await _each([resolve_seeds([seed]) for seed in join])
        known = {m.address for m in self._others()} | {self._gossip.table.me.address}
        tries = [
            self._try_at(place, "", seed, back=False)
            for seed, found in zip(join, places, strict=True)
            for place in found[:MAX_PER_SEED]
            if place not in known
        ]
        unresolved = [seed for seed, found in zip(join, places, strict=True) if not found]
        return await _each(tries), unresolved

    # -- other registries

    def _chosen(self, asked: HealthRequest) -> list[UpstreamClient]:
        names = {asked.registry, *(upstream.name for upstream in self._config.upstreams)}
        return [u for u in self._upstreams if asked.public or u.config.name in names]

    async def _ask(self, upstream: UpstreamClient) -> Asked:
        config = upstream.config
        hosts = sorted({place.host for place in config.places})
        looked_up = await _each([_resolves(host) for host in hosts])
        asked = Asked(config.name, hosts)
        asked.unresolved = [h for h, ok in zip(hosts, looked_up, strict=True) if not ok]
        if config.private:
            return asked  # it is never asked without a client's secret
        try:
            async with asyncio.timeout(ASK_S):
                await upstream.resolve(_NOWHERE, "probe")
        except UpstreamRefused as error:
            # Many refuse what they do not have to whoever has shown nothing.
            asked.refused = config.has_credentials
            asked.error = str(error) if config.has_credentials else ""
        except UpstreamError as error:
            asked.error = str(error)
        except TimeoutError:
            asked.error = f"{config.name}: no answer in {ASK_S:.0f} s"
        return asked

    # -- this node

    def _certificate(self) -> Certificate | None:
        credentials, config = self._credentials, self._config
        if credentials is None or credentials.holder is None or credentials.trust is None:
            return None
        holder, trust = credentials.holder, credentials.trust
        outdated, authority_error = False, ""
        if config.ca is not None:
            try:
                outdated = Authority.load(config.ca).trust(time.time()).version < trust.version
            except ConfigError as error:
                authority_error = str(error)
        signs = config.ca is not None and not (outdated or authority_error)
        return Certificate(
            not_before=holder.not_before,
            not_after=holder.not_after,
            authority=holder.issuer,
            authority_ends=max(each.not_valid_after_utc.timestamp() for each in trust.authorities),
            signers=signs + sum(member.signs for member in self._gossip.live()),
            outdated=outdated,
            authority_error=authority_error,
        )

    def _secrets(self) -> list[Path]:
        config = self._config
        found = [] if config.ca is None else [config.ca / KEYS]
        if config.token is not None and not config.token.startswith(PREFIX):
            found.append(Path(config.token))
        for upstream in config.upstreams:
            found += [p for p in (upstream.password_file, upstream.token_file) if p is not None]
        return found


def _checked(pulse: Pulse, address: str, node_id: str, now: float) -> Tried:
    """What a node says of itself, bounded."""
    ahead = pulse.now - now
    version = pulse.version[:_MAX_VERSION]
    return Tried(
        address,
        node_id,
        "ok",
        ahead_s=ahead if math.isfinite(ahead) else None,
        version=version if version.isprintable() else "",
        back=pulse.back if pulse.back in _OUTCOMES else "",
    )


def _watch_error(containerd: Path | None) -> str:
    if containerd is None:
        return ""
    try:
        with Watch([str(containerd)], lambda: None):
            return ""
    except OSError as error:
        return error.strerror or str(error)


async def _resolves(host: str) -> bool:
    try:
        async with asyncio.timeout(LOOKUP_S):
            await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return True


async def _each(work: Sequence[Coroutine[Any, Any, Value]]) -> list[Value]:
    """The results of all, in their order; `FANOUT` at a time."""
    gate = asyncio.Semaphore(FANOUT)

    async def one(each: Coroutine[Any, Any, Value]) -> Value:
        async with gate:
            return await each

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(each)) for each in work]
    return [task.result() for task in tasks]
