"""The register of names: all nodes come to hold the same, whatever happened on the way."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.members.clock import HybridClock
from oci_mesh.members.names import BUCKETS, NameRecord, NameRegister, validate

SHA_A, SHA_B = (f"sha256:{letter * 64}" for letter in "ab")
SHA_512 = f"sha512:{'c' * 128}"
REPOSITORIES = ["app", "team/app", "x"]
TAGS = ["latest", "v1", "v2"]

# Few names and few moments, so that records meet: same name, same stamp, other target.
STAMPS = st.builds(
    lambda wall, counter, writer: f"{wall:012x}-{counter:04x}-{writer}",
    st.integers(1, 3),
    st.integers(0, 1),
    st.sampled_from("pq"),
)
TAG_RECORDS = st.builds(
    NameRecord,
    st.sampled_from(REPOSITORIES),
    st.sampled_from(TAGS),
    st.sampled_from([SHA_A, SHA_B, SHA_512, None]),
    STAMPS,
)
DIGEST_RECORDS = st.builds(
    lambda repository, digest, deleted, stamp: NameRecord(
        repository, digest, None if deleted else digest, stamp
    ),
    st.sampled_from(REPOSITORIES),
    st.sampled_from([SHA_A, SHA_512]),
    st.booleans(),
    STAMPS,
)
RECORDS = TAG_RECORDS | DIGEST_RECORDS


def stamp(wall_ms: int, counter: int = 0, writer: str = "w") -> str:
    """A stamp of these parts."""
    return f"{wall_ms:012x}-{counter:04x}-{writer}"


def tag(name: str, target: str | None, wall_ms: int) -> NameRecord:
    """A name in the repository `app`, set at that time."""
    return NameRecord("app", name, target, stamp(wall_ms))


def register_of(records: Iterable[NameRecord]) -> NameRegister:
    """A new register that holds these."""
    register = NameRegister()
    register.merge(records)
    return register


def content(register: NameRegister) -> set[NameRecord]:
    """All that a register holds, in a form that compares."""
    records = register.all()
    assert len(records) == len(set(records)) == len(register)
    return set(records)


def fold(records: Iterable[NameRecord]) -> set[NameRecord]:
    """What must come out, in one line: of every name the record with the greatest stamp."""
    ordered = sorted(records, key=lambda record: (record.stamp, record.target or ""))
    return set({record.key: record for record in ordered}.values())


class TestMerge:
    """A least upper bound: order, repetition and grouping do not matter."""

    @given(st.lists(RECORDS), st.randoms(use_true_random=False))
    def test_any_order_and_repetition_gives_the_same(
        self, records: list[NameRecord], random: Random
    ) -> None:
        """Commutative, associative, idempotent: equal to the fold, hashes included."""
        shuffled = records * 2
        random.shuffle(shuffled)
        one_by_one = NameRegister()
        for record in shuffled:
            one_by_one.merge([record])
        at_once = register_of(records)
        assert content(one_by_one) == content(at_once) == fold(records)
        assert one_by_one.buckets() == at_once.buckets()
        assert one_by_one.newest() == at_once.newest()

    @given(st.lists(RECORDS), st.lists(RECORDS), st.lists(RECORDS))
    def test_registers_merge_associatively(
        self, a: list[NameRecord], b: list[NameRecord], c: list[NameRecord]
    ) -> None:
        """(a + b) + c is a + (b + c), of whole registers."""
        left = register_of([*register_of(a + b).all(), *register_of(c).all()])
        right = register_of([*register_of(a).all(), *register_of(b + c).all()])
        assert content(left) == content(right)
        assert left.buckets() == right.buckets()

    @given(st.lists(st.lists(RECORDS)))
    def test_what_it_returns_is_what_changed(self, batches: list[list[NameRecord]]) -> None:
        """A store that applies the returned records holds what the register holds."""
        register = NameRegister()
        stored: dict[tuple[str, str], NameRecord] = {}
        for batch in batches:
            accepted = register.merge(batch)
            for record in accepted:
                assert stored.get(record.key) != record
                assert register.get(*record.key) == record
                stored[record.key] = record
            assert register.merge(batch) == []
        assert set(stored.values()) == content(register)

    def test_the_later_stamp_wins_and_a_delete_is_a_record(self) -> None:
        """push, delete, push again; then an old copy of each comes along."""
        register = NameRegister()
        pushed, deleted, again = tag("v1", SHA_A, 1), tag("v1", None, 2), tag("v1", SHA_B, 3)
        for record in (pushed, deleted, again):
            assert register.merge([record]) == [record]
            assert register.get("app", "v1") == record
        assert register.merge([deleted, pushed]) == []
        assert register.get("app", "v1") == again
        assert register.get("app", "v2") is None
        assert register.get("x", "v1") is None

    def test_of_equal_stamps_content_wins(self) -> None:
        """A fault, but one that may not split the mesh."""
        register = register_of([tag("v1", None, 1)])
        register.merge([tag("v1", SHA_A, 1)])
        register.merge([tag("v1", SHA_B, 1)])
        register.merge([tag("v1", SHA_A, 1), tag("v1", None, 1)])
        assert content(register) == {tag("v1", SHA_B, 1)}

    def test_newest_is_the_greatest_stamp(self) -> None:
        """Whatever name it is of."""
        assert NameRegister().newest() is None
        assert register_of([tag("a", SHA_A, 2), tag("b", SHA_A, 1)]).newest() == stamp(2)


class TestBuckets:
    """Hashes that show which part of two registers differs."""

    @given(st.lists(st.lists(RECORDS)), st.integers(0, 4))
    def test_hashes_depend_on_content_alone(
        self, batches: list[list[NameRecord]], before_ms: int
    ) -> None:
        """Kept step by step, over merges and prunes, they are those of a new register."""
        register = NameRegister()
        for batch in batches:
            register.merge(batch)
            register.prune(before_ms)
        assert register.buckets() == register_of(register.all()).buckets()

    def test_hashes_are_the_same_on_every_node(self) -> None:
        """The protocol in full: nothing of the process, its platform or its release goes in."""

        def blake(*fields: str) -> int:
            text = b"\0".join(field.encode() for field in fields)
            return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")

        expected = [0] * 256
        for name, target in (("v1", SHA_A), (SHA_B, None)):
            bucket = blake("app", name) % 256
            expected[bucket] ^= blake("app", name, target or "", stamp(5))
        assert register_of([tag("v1", SHA_A, 5), tag(SHA_B, None, 5)]).buckets() == expected

    @given(st.sets(RECORDS), st.sets(RECORDS))
    def test_differing_finds_every_difference(
        self, ours: set[NameRecord], theirs: set[NameRecord]
    ) -> None:
        """What only one side has is in a differing bucket; registers alike have none."""
        a, b = register_of(ours), register_of(theirs)
        differing = a.differing(b.buckets())
        assert differing == b.differing(a.buckets())
        assert len(differing) <= len(content(a) ^ content(b))
        sent = {*a.records(differing, 1000, 0), *b.records(differing, 1000, 0)}
        assert sent >= content(a) ^ content(b)

    @pytest.mark.parametrize("hashes", [[], [0] * (BUCKETS - 1), [0] * (BUCKETS + 1)])
    def test_another_number_of_hashes_is_refused(self, hashes: Sequence[int]) -> None:
        """It comes from the wire."""
        with pytest.raises(ValueError, match="bucket hashes instead of 256"):
            NameRegister().differing(hashes)

    @pytest.mark.parametrize("buckets", [[-1], [BUCKETS], [0, 999], [-256, 3]])
    def test_a_bucket_that_there_is_not_is_refused(self, buckets: Sequence[int]) -> None:
        """Likewise."""
        with pytest.raises(ValueError, match="0 to 255"):
            NameRegister().records(buckets, 10, 0)

    @given(st.integers(1, 40), st.integers(1, 45), st.integers(0, 10**9))
    def test_a_rotating_start_covers_everything(self, size: int, limit: int, start: int) -> None:
        """In as few capped answers as it takes, none longer than the limit, none with repeats."""
        register = register_of(tag(f"v{index}", SHA_A, 1) for index in range(size))
        seen: set[NameRecord] = set()
        for turn in range(-(-size // limit)):
            answer = register.records(range(BUCKETS), limit, start + turn * limit)
            assert len(answer) == len(set(answer)) == min(limit, size)
            seen.update(answer)
        assert seen == content(register)

    def test_a_repeated_bucket_counts_once(self) -> None:
        """A peer may ask for one bucket a million times in one message."""
        register = register_of([tag("v1", SHA_A, 1)])
        assert register.records([*range(BUCKETS), *range(BUCKETS)], 10, 0) == [tag("v1", SHA_A, 1)]
        assert register.records([], 10, 7) == []
        assert NameRegister().records([1, 2], 10, 7) == []


class TestPrune:
    """Tombstones do not live forever, and do not wander between nodes either."""

    def test_only_old_tombstones_go(self) -> None:
        """Content stays, however old; the horizon itself is not before itself."""
        old, edge, tagged = tag("v1", None, 9), tag("v2", None, 10), tag("v3", SHA_A, 1)
        register = register_of([old, edge, tagged])
        assert register.prune(10) == [old]
        assert register.prune(10) == []
        assert content(register) == {edge, tagged}
        assert register.get("app", "v1") is None
        assert register.newest() == stamp(10)

    def test_a_clock_before_the_retention_prunes_nothing(self) -> None:
        """Machines without a clock of their own wake up in 1970."""
        register = register_of([tag("v1", None, 0)])
        assert register.prune(-5) == []
        assert len(register) == 1

    def test_an_expired_tombstone_is_not_taken_back(self) -> None:
        """Nor after a prune with a clock that went back."""
        register = register_of([tag("v1", None, 9)])
        register.prune(10)
        register.prune(3)
        assert register.merge([tag("v1", None, 9)]) == []
        assert len(register) == 0

    def test_an_expired_tombstone_still_deletes(self) -> None:
        """Who holds the name has missed the delete: it counts, and goes with the next prune."""
        register, late = register_of([tag("v1", SHA_A, 5)]), tag("v1", None, 9)
        register.prune(10)
        assert register.merge([late]) == [late]
        assert register.prune(10) == [late]
        assert len(register) == 0

    def test_nodes_that_prune_at_different_times_agree_in_the_end(self) -> None:
        """No tombstone goes back and forth between one that has pruned and one that has not."""
        both = [tag("v1", None, 9), tag("v2", SHA_A, 9)]
        a, b = register_of(both), register_of(both)
        a.prune(10)
        exchange(a, b, limit=10, start=0)
        b.prune(11)
        exchange(a, b, limit=10, start=0)
        a.prune(12)
        assert a.buckets() == b.buckets()
        assert content(a) == content(b) == {tag("v2", SHA_A, 9)}


def exchange(a: NameRegister, b: NameRegister, limit: int, start: int) -> None:
    """One anti-entropy exchange, as `mesh` does it."""
    differing = b.differing(a.buckets())
    ours, theirs = (register.records(differing, limit, start) for register in (a, b))
    a.merge(theirs)
    b.merge(ours)


@dataclass
class Write:
    """One node changes a name, and the messages that say so get lost, come late, or twice."""

    writer: int
    repository: str
    name: str
    target: str | None
    step_ms: int
    receivers: list[int]


REPLICAS = 4
WRITES = st.builds(
    Write,
    st.integers(0, REPLICAS - 1),
    st.sampled_from(REPOSITORIES),
    st.sampled_from(TAGS),
    st.sampled_from([SHA_A, SHA_B, None]),
    st.integers(0, 3),
    st.lists(st.integers(0, REPLICAS - 1), max_size=REPLICAS + 2),
)


class TestConvergence:
    """k replicas, each with its own clock; writes anywhere; a network that does what it likes."""

    @given(st.lists(WRITES, max_size=30), st.integers(1, 5), st.randoms(use_true_random=False))
    def test_after_loss_disorder_and_repetition_all_hold_the_fold(
        self, writes: list[Write], limit: int, random: Random
    ) -> None:
        """Messages first, then capped exchanges of random pairs, in a bounded number."""
        replicas = [NameRegister() for _ in range(REPLICAS)]
        clocks = [HybridClock(f"node{index}") for index in range(REPLICAS)]
        written: list[NameRecord] = []
        in_flight: list[tuple[int, NameRecord]] = []
        wall_ms = 1000
        for write in writes:
            wall_ms += write.step_ms
            own_stamp = clocks[write.writer].tick(wall_ms)
            record = NameRecord(write.repository, write.name, write.target, own_stamp)
            assert replicas[write.writer].merge([record]) == [record], "one's own write counts"
            written.append(record)
            in_flight += [(receiver, record) for receiver in write.receivers]
            random.shuffle(in_flight)
            while in_flight and random.random() < 0.6:
                receiver, late = in_flight.pop()
                replicas[receiver].merge([late])
                clocks[receiver].observe(late.stamp, wall_ms)

        starts = dict.fromkeys([(a, b) for a in range(REPLICAS) for b in range(a)], 0)
        # Each pass over all pairs moves at least one record, or has turned the window by `limit`.
        names = len({record.key for record in written})
        for _ in range((names * REPLICAS + 1) * (names + 1)):
            if all(replica.buckets() == replicas[0].buckets() for replica in replicas):
                break
            for pair in random.sample(sorted(starts), len(starts)):
                exchange(replicas[pair[0]], replicas[pair[1]], limit, starts[pair])
                starts[pair] += limit
        for replica in replicas:
            assert content(replica) == fold(written)

    def test_capped_messages_repair_a_long_absence(self) -> None:
        """5,000 names, a fifth missing on each side, 100 a message: at most two passes' worth."""
        records = [tag(f"v{index}", SHA_A, index + 1) for index in range(5000)]
        a, b = register_of(records[:4000]), register_of(records[1000:])
        for turn in range(2 * 5000 // 100):
            exchange(a, b, limit=100, start=turn * 100)
        assert a.buckets() == b.buckets()
        assert content(a) == content(b) == set(records)

    def test_records_that_are_refused_do_not_hold_up_the_others(self) -> None:
        """A peer may not take some (their clock is ahead): the window still moves over them.

        As buckets become equal the rest shifts under the window, so it may take some passes.
        """
        records = [tag(f"v{index}", SHA_A, index + 1) for index in range(1000)]
        source, target = register_of(records), NameRegister()
        refused = set(records[::3])
        for turn in range(10 * 1000 // 10):
            sent = source.records(target.differing(source.buckets()), 10, turn * 10)
            target.merge(record for record in sent if record not in refused)
        assert content(target) == set(records) - refused


class TestValidate:
    """Nothing from the wire goes further unless it is in exact form."""

    @given(RECORDS)
    def test_what_we_write_passes(self, record: NameRecord) -> None:
        """Tags, deleted tags, deleted and revived digests."""
        validate(record)

    @pytest.mark.parametrize(
        ("record", "why"),
        [
            (NameRecord("", "v1", SHA_A, stamp(1)), "not a repository name"),
            (NameRecord("App", "v1", SHA_A, stamp(1)), "not a repository name"),
            (NameRecord("a/../b", "v1", SHA_A, stamp(1)), "not a repository name"),
            (NameRecord("a" * 256, "v1", SHA_A, stamp(1)), "longer than 255"),
            (NameRecord("app", "", SHA_A, stamp(1)), "not a tag"),
            (NameRecord("app", "../v1", SHA_A, stamp(1)), "not a tag"),
            (NameRecord("app", "v1\0", SHA_A, stamp(1)), "not a tag"),
            (NameRecord("app", "v" * 129, SHA_A, stamp(1)), "not a tag"),
            (NameRecord("app", "md5:" + 32 * "a", None, stamp(1)), "not a digest"),
            (NameRecord("app", SHA_A.upper(), None, stamp(1)), "not a digest"),
            (NameRecord("app", "v1", "v2", stamp(1)), "not a digest"),
            (NameRecord("app", "v1", "", stamp(1)), "not a digest"),
            (NameRecord("app", SHA_A, SHA_B, stamp(1)), "another digest as its target"),
            (NameRecord("app", "v1", SHA_A, ""), "not a stamp"),
            (NameRecord("app", "v1", SHA_A, "zzz"), "not a stamp"),
            (NameRecord("app", "v1", SHA_A, stamp(1) + "\n"), "not a stamp"),
        ],
    )
    def test_what_no_node_writes_is_refused(self, record: NameRecord, why: str) -> None:
        """Each wrong in one place."""
        with pytest.raises(ValueError, match=why):
            validate(record)

    @given(st.text(), st.text() | st.just("v1"), st.text() | st.none(), st.text() | STAMPS)
    def test_nothing_but_value_error_comes_of_nonsense(
        self, repository: str, name: str, target: str | None, when: str
    ) -> None:
        """And what passes can be hashed and merged."""
        record = NameRecord(repository, name, target, when)
        try:
            validate(record)
        except ValueError:
            return
        assert register_of([record]).all() == [record]
