"""The register of names: what every tag means, and which content was deleted, on all nodes alike.

A last-writer-wins map, (repository, name) -> record (`spec/names.py` says what records mean). Merge
is commutative, associative and idempotent, so records may come in any order, twice, or late. Lost
ones are found by anti-entropy: two nodes compare 256 hashes of their records, and exchange only
the buckets that differ.

Deletes are records too (tombstones), or another node's copy would bring the name back. They are
dropped after `TOMBSTONE_RETENTION_MS`; from a node that has not dropped its own yet they are then
not taken back.

What this does not do: judge stamps from the future (`clock.observe` does), know whether content
exists, or withstand a member that lies: the hashes find loss, not malice.
"""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Final, TypeAlias

from oci_mesh.errors import OciError
from oci_mesh.members.clock import MAX_WALL_MS, Stamp, parse_stamp
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.names import NameRecord
from oci_mesh.spec.reference import parse_repository, parse_tag

__all__ = ["BUCKETS", "TOMBSTONE_RETENTION_MS", "NameRecord", "NameRegister", "validate"]

# Every exchange carries all hashes: 2 kB (5 as JSON). One changed name out of 100,000 then costs
# a comparison of 400 records.
BUCKETS: Final = 256

# How long a delete is remembered. A node that was away for longer can bring back what was deleted
# meanwhile: a month outlasts a repair or a holiday, and a tombstone takes some 500 bytes.
TOMBSTONE_RETENTION_MS: Final = 30 * 24 * 3600 * 1000

_Key: TypeAlias = tuple[str, str]


class NameRegister:
    """All names that this node knows of. `merge` is the only way in, `prune` the only way out."""

    def __init__(self) -> None:
        self._buckets: list[dict[_Key, NameRecord]] = [{} for _ in range(BUCKETS)]
        self._hashes = [0] * BUCKETS  # of each bucket, the XOR of its records' hashes
        self._newest: Stamp | None = None
        self._horizon: Stamp = ""  # what was stamped before it has been pruned

    def merge(self, records: Iterable[NameRecord]) -> list[NameRecord]:
        """Take what is newer than what is known; return what now holds and did not before.

        Of one name the later stamp wins. Of equal stamps (a fault: one writer wrote two) a target
        wins over none, the greater over the smaller. Records from other nodes must have passed
        `validate` first.
        """
        accepted: dict[_Key, NameRecord] = {}
        for record in records:
            key = record.key
            index = _bucket(*key)
            held = self._buckets[index].get(key)
            if held is None:
                if self._is_expired(record):
                    continue
            elif _rank(record) <= _rank(held):
                continue
            else:
                self._hashes[index] ^= _hash_record(held)
            self._hashes[index] ^= _hash_record(record)
            self._buckets[index][key] = accepted[key] = record
            self._newest = max(self._newest or "", record.stamp)
        return list(accepted.values())

    def prune(self, before_wall_ms: int) -> list[NameRecord]:
        """Drop tombstones stamped before `before_wall_ms`, and learn of none such from now on.

        To be called with the wall time less `TOMBSTONE_RETENTION_MS`: on start, and then every
        hour or so. Returns what was dropped. Idempotent; looks at every record.
        """
        assert before_wall_ms <= MAX_WALL_MS, before_wall_ms
        self._horizon = max(self._horizon, f"{max(before_wall_ms, 0):012x}")
        expired = [record for record in self.all() if self._is_expired(record)]
        for record in expired:
            index = _bucket(*record.key)
            self._hashes[index] ^= _hash_record(record)
            del self._buckets[index][record.key]
        return expired

    def get(self, repository: str, name: str) -> NameRecord | None:
        """What is known of a name, which may be that it was deleted; None if nothing is."""
        return self._buckets[_bucket(repository, name)].get((repository, name))

    def all(self) -> list[NameRecord]:
        """Every record, tombstones too, in no particular order."""
        return list(chain.from_iterable(bucket.values() for bucket in self._buckets))

    def newest(self) -> Stamp | None:
        """The greatest stamp ever merged (be it pruned since): a clock must be ahead of it."""
        return self._newest

    def buckets(self) -> list[int]:
        """`BUCKETS` hashes of 64 bits each, equal in two registers that hold the same records."""
        return list(self._hashes)

    def differing(self, theirs: Sequence[int]) -> list[int]:
        """The buckets in which a register with the hashes `theirs` differs from this one.

        Raises `ValueError` unless there are `BUCKETS` hashes.
        """
        if len(theirs) != BUCKETS:
            raise ValueError(f"{len(theirs)} bucket hashes instead of {BUCKETS}")
        return [i for i, (a, b) in enumerate(zip(self._hashes, theirs, strict=True)) if a != b]

    def records(self, buckets: Iterable[int], limit: int, start: int) -> list[NameRecord]:
        """At most `limit` records of `buckets`, beginning with the `start`-th, round and round.

        `start` is any number: who adds `limit` to it from one exchange with a peer to the next, or
        draws it at random, gets everything across in the end. Raises `ValueError` for a bucket
        that there is not.
        """
        chosen = sorted(set(buckets))
        if chosen and not 0 <= chosen[0] <= chosen[-1] < BUCKETS:
            raise ValueError(f"buckets are numbered 0 to {BUCKETS - 1}")
        found = list(chain.from_iterable(self._buckets[index].values() for index in chosen))
        first = start % max(len(found), 1)
        return (found[first:] + found[:first])[:limit]

    def __len__(self) -> int:
        return sum(len(bucket) for bucket in self._buckets)

    def _is_expired(self, record: NameRecord) -> bool:
        return record.target is None and record.stamp < self._horizon


def validate(record: NameRecord) -> None:
    """Raise `ValueError` unless a record, decoded from another node's message, is one.

    A repository, a tag or digest, a digest or None (of a name that is a digest: the same digest),
    and a stamp, each in its exact grammar and thereby bounded in length.
    """
    try:
        parse_repository(record.repository)
        if record.target is not None:
            Digest.parse(record.target)
        if record.is_tag:
            parse_tag(record.name)
        else:
            Digest.parse(record.name)
    except OciError as error:
        raise ValueError(error.message) from None
    if not record.is_tag and record.target not in (None, record.name):
        raise ValueError(f"digest {record.name} with another digest as its target")
    parse_stamp(record.stamp)


def _rank(record: NameRecord) -> tuple[Stamp, str]:
    return record.stamp, record.target or ""


def _bucket(repository: str, name: str) -> int:
    return _hash(repository, name) % BUCKETS


def _hash_record(record: NameRecord) -> int:
    return _hash(record.repository, record.name, record.target or "", record.stamp)


def _hash(*fields: str) -> int:
    """64 bits, the same on every node and in every release. No field holds a NUL."""
    text = "\0".join(fields)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
