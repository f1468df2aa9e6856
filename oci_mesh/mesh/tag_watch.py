"""Which node looks at a tag of an upstream for all, and asking that one.

The members of highest hash(repository:tag, member) are the tag's, in the same order for all: the
first looks, the next are asked where one node's word is not enough. They say nothing but that a
tag is still what the asking node knows; what is believed of that, `upstream.tags` decides.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from oci_mesh.errors import NameInvalid, PeerError
from oci_mesh.members.table import Member, rendezvous
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.gossip import Gossip
from oci_mesh.mesh.wire import Claim, Confirmation
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.reference import parse_tag
from oci_mesh.spec.scope import is_mirrored, is_private, parse_scope
from oci_mesh.tasks import loop_time

_log = logging.getLogger(__name__)

# For an answer. Whoever is asked may have to fetch a token and then ask the upstream: 0.8 s across
# an ocean. Who waited in vain asks the upstream itself, and its client waits for both.
CONFIRM_S: Final = 1.5

# A node that could not be asked is passed over for so long, and the next one looks instead.
REST_S: Final = 10.0

Confirm = Callable[[str, str, Digest], Awaitable[float | None]]
"""Of repository, tag and digest: how many seconds ago this node itself saw that it is that."""


class TagWatch:
    """The other nodes that look at tags: a `Colleague` of `upstream.tags`."""

    def __init__(self, gossip: Gossip, client: PeerClient) -> None:
        self._gossip = gossip
        self._client = client
        self._rests: dict[str, float] = {}  # id -> until when

    async def confirm(self, repository: str, tag: str, digest: Digest, voices: int) -> float | None:
        """How many seconds ago the first `voices` members for the tag saw that it is `digest`: the
        longest of these. None if one does not say so in time, or if this node is the first.
        """
        places = self._places(f"{repository}:{tag}")
        me = self._gossip.table.me.id
        others = [member for member in places if member.id != me][:voices]
        if places[0].id == me or len(others) < voices:
            return None
        claim = Claim(repository, tag, str(digest))
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._ask(member, claim)) for member in others]
        ages = [age_s for task in asked if (age_s := task.result()) is not None]
        return max(ages) if len(ages) == voices else None

    async def _ask(self, member: Member, claim: Claim) -> float | None:
        try:
            async with asyncio.timeout(CONFIRM_S):
                answer = await self._client.confirm(member.address, claim, member.id)
        except (PeerError, TimeoutError) as error:
            self._rests[member.id] = loop_time() + REST_S
            reason = str(error) or f"no answer within {CONFIRM_S} s"
            name = f"{claim.repository}:{claim.tag}"
            _log.info("node %s does not look at %s: %s", member.id, name, reason)
            return None
        return answer.age_s

    def _places(self, key: str) -> list[Member]:
        now = loop_time()
        self._rests = {member: until for member, until in self._rests.items() if until > now}
        live = (member for member in self._gossip.live() if member.id not in self._rests)
        return rendezvous(key, [*live, self._gossip.table.me])


async def answer(claim: Claim, confirm: Confirm) -> Confirmation:
    """What this node says to another one's claim. Raises an `OciError` for one that is none."""
    scope = parse_scope(claim.repository)
    if not is_mirrored(claim.repository) or is_private(claim.repository):
        raise NameInvalid(f"the tags of {scope} are not looked at for others")
    digest = Digest.parse(claim.digest)
    return Confirmation(await confirm(claim.repository, parse_tag(claim.tag), digest))
