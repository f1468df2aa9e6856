"""A roll: who is in the swarm of one blob, kept by the blob's rendezvous, which gives out slots.

Slots are given out in order of arrival. Who arrives within `WAVE_S` of the first of a wave is of
that wave; the next one begins another. A node keeps the slot that it has, also once it has the
blob; should the rendezvous change, it brings it along. Who brings none has begun anew, and gets one
of now. Two nodes with one slot (given by two rendezvous that did not know of each other) stand
beside each other, ordered by id: that costs a little balance, nothing else.

Readers ask for what changed since the version that they know. Versions mean nothing across rolls,
so a roll has a random `epoch`, too.
"""

import math
from collections.abc import Iterable
from typing import Final

import msgspec

from oci_mesh.swarm.view import SLOTS, WAVE_BITS, Entry, wave

# Nodes that arrive so close together share trees, and may wait this much for each other; who comes
# later would keep the first ones waiting for what it has yet to fetch. As long as nodes take that
# were told at one moment.
WAVE_S: Final = 1.0

# A node in the swarm says at least this often that it still is. One that has not for three times
# as long is dropped: nobody is to wait for it.
REFRESH_S: Final = 10.0
EXPIRY_S: Final = 3 * REFRESH_S

# Nodes that have the blob are remembered longer: they have no reason to call.
SEED_EXPIRY_S: Final = 3600.0

# Four times as many as a table of members holds. Somebody who makes up more is refused.
MAX_ENTRIES: Final = 16_384


class Roll:
    """Times are seconds of any one clock."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self.version = 0
        self._entries: dict[str, Entry] = {}
        self._changed: dict[str, int] = {}  # id -> version; in order of versions
        self._gone: dict[str, int] = {}
        self._expires: dict[str, float] = {}
        self._next = 0  # the slot after the last that was given out, or brought
        self._wave_ends = -math.inf

    def __len__(self) -> int:
        return len(self._entries)

    def enter(self, entry: Entry, now: float) -> Entry:
        """Take or refresh a node's entry; return it, with the slot that it has now.

        Beyond `MAX_ENTRIES` it is not kept, and has no slot: such a node asks seeds only.
        """
        known = self._entries.get(entry.id)
        if known is None and len(self._entries) >= MAX_ENTRIES:
            return entry
        slot = entry.slot
        if slot < 0 and not entry.complete:
            slot = self._take_slot(now)
        elif slot < 0 and known is not None:
            slot = known.slot
        self._next = max(self._next, slot + 1)
        placed = msgspec.structs.replace(entry, slot=slot)
        self._entries[entry.id] = placed
        self._gone.pop(entry.id, None)
        if known is None or _facts(known) != _facts(placed):
            self.version += 1
        if known != placed:  # a frontier alone wakes nobody, but goes along
            self._changed.pop(entry.id, None)
            self._changed[entry.id] = self.version
        self._expires[entry.id] = now + (SEED_EXPIRY_S if placed.complete else EXPIRY_S)
        return placed

    def drop(self, node_ids: Iterable[str]) -> None:
        """Take nodes off; unknown ids pass."""
        for node_id in node_ids:
            entry = self._entries.pop(node_id, None)
            if entry is None:
                continue
            self._changed.pop(node_id)
            del self._expires[node_id]
            self.version += 1
            self._gone[node_id] = self.version
            while len(self._gone) > MAX_ENTRIES:
                del self._gone[next(iter(self._gone))]

    def expire(self, now: float) -> None:
        """Drop those not heard of for too long."""
        self.drop([node_id for node_id, until in self._expires.items() if until < now])

    def since(self, version: int) -> tuple[list[Entry], list[str]]:
        """What changed at or after `version`: entries, and ids of those that are gone."""
        entries = []
        for node_id, changed in reversed(self._changed.items()):
            if changed < version:
                break
            entries.append(self._entries[node_id])
        return entries, [node_id for node_id, gone in self._gone.items() if gone >= version]

    def _take_slot(self, now: float) -> int:
        if now >= self._wave_ends:
            self._wave_ends = now + WAVE_S
            if self._next:
                self._next = (wave(self._next - 1) + 1) << WAVE_BITS
        self._next %= SLOTS  # after the last wave the first: an order, if an odd one
        return self._next


def _facts(entry: Entry) -> tuple[str, int, str, bool, bool]:
    return entry.address, entry.slot, entry.zone, entry.complete, entry.fed
