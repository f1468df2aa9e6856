"""A roll: who is in the swarm of one blob, kept by the blob's rendezvous, which gives out slots.

Slots are dense: the lowest that is free, and free again when a node is done or gone. A node keeps
the slot that it has: should the rendezvous change, it brings it along. Two nodes with one slot
(given by two rendezvous that did not know of each other) stand beside each other, ordered by id:
that costs a little balance, nothing else.

Readers ask for what changed since the version that they know. Versions mean nothing across rolls,
so a roll has a random `epoch`, too.
"""

import heapq
from collections import Counter
from collections.abc import Iterable
from typing import Final

import msgspec

from oci_mesh.swarm.view import Entry

# A node in the swarm says at least this often that it still is. One that has not for three times
# as long is dropped: its slot is wanted.
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
        self._taken: Counter[int] = Counter()
        self._free: list[int] = []  # a heap; some of it may be taken again
        self._next = 0  # slots below were given out, or are free

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
        if entry.complete:
            slot = -1
        elif known is not None and known.slot >= 0 and slot in (-1, known.slot):
            slot = known.slot
        elif slot < 0:
            slot = self._take_slot()
        placed = msgspec.structs.replace(entry, slot=slot)
        if known is None or known.slot != slot:
            self._release(-1 if known is None else known.slot)
            if slot >= 0:
                self._taken[slot] += 1
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
            self._release(entry.slot)
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

    def _take_slot(self) -> int:
        while self._free:
            slot = heapq.heappop(self._free)
            if slot not in self._taken:
                return slot
        while self._next in self._taken:
            self._next += 1
        self._next += 1
        return self._next - 1

    def _release(self, slot: int) -> None:
        if slot < 0:
            return
        self._taken[slot] -= 1
        if not self._taken[slot]:
            del self._taken[slot]
            if slot < self._next:
                heapq.heappush(self._free, slot)


def _facts(entry: Entry) -> tuple[str, int, str, bool, bool]:
    return entry.address, entry.slot, entry.zone, entry.complete, entry.fed
