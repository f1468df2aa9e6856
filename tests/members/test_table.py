"""The membership table: each rule by itself. (`test_gossip.py` lets many of them talk.)"""

from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.members import table as table_module
from oci_mesh.members.table import (
    DEAD_AFTER_S,
    DEAD_PROBE_SHARE,
    FORGET_AFTER_S,
    MAX_COUNT,
    RETRY_FAILED_S,
    Member,
    MemberTable,
    rendezvous,
    validate,
)

MEMBERS = st.builds(
    Member,
    id=st.sampled_from(["b", "c"]),
    address=st.sampled_from(["b:1", "c:1"]),
    incarnation=st.integers(0, 2),
    heartbeat=st.integers(0, 2),
    left=st.booleans(),
)


def entry(name: str, heartbeat: int = 1, incarnation: int = 1, left: bool = False) -> Member:
    """What the node `name` says of itself."""
    return Member(name, f"{name}:7000", "rack1", incarnation, heartbeat, left)


def table_of(*others: Member, now: float = 0.0) -> MemberTable:
    """The table of the node `a`, having met these."""
    table = MemberTable(entry("a"))
    table.merge(others, now)
    return table


def live_ids(table: MemberTable, now: float) -> list[str]:
    """Who can be asked, by name."""
    found = sorted(member.id for member in table.live(now))
    assert all(table.is_live(member_id, now) for member_id in found)
    others = {member.id for member in table.entries()} - set(found)
    assert not any(table.is_live(member_id, now) for member_id in (*others, "nobody"))
    return found


class TestMerge:
    """Of two entries for one node the greater (incarnation, heartbeat, left) holds."""

    @given(st.lists(MEMBERS), st.randoms(use_true_random=False))
    def test_order_and_repetition_do_not_matter(
        self, members: list[Member], random: Random
    ) -> None:
        """Commutative, associative, idempotent."""
        shuffled = members * 2
        random.shuffle(shuffled)
        once, piecemeal = table_of(*members), table_of()
        for member in shuffled:
            piecemeal.merge([member], 0.0)
        key = ["incarnation", "heartbeat", "left", "address"]
        ordered = sorted(members, key=lambda member: [getattr(member, name) for name in key])
        expected = {member.id: member for member in ordered}
        for table in (once, piecemeal):
            assert {member.id: member for member in table.entries()[1:]} == expected

    def test_it_tells_who_is_new_and_who_is_back(self) -> None:
        """Once: an entry that only goes on beating is no news."""
        table = table_of()
        assert table.merge([entry("b"), entry("c")], 0.0) == ["b", "c"]
        assert table.merge([entry("b", 2), entry("c")], 1.0) == []
        table.failed("b", 1.0)
        assert table.merge([entry("b", 1, incarnation=2)], 2.0) == ["b"]
        assert table.merge([entry("c", 2)], DEAD_AFTER_S + 1) == ["c"]

    def test_of_an_older_entry_nothing_is_taken(self) -> None:
        """Neither its address, nor its beat, nor that it was still there."""
        table = table_of(entry("b", 5, left=True))
        assert table.merge([entry("b", 4), Member("b", "old:1", "", 0, 99)], 1.0) == []
        assert table.entries()[1:] == [entry("b", 5, left=True)]
        assert table.live(1.0) == []

    def test_a_newcomer_that_has_left_is_no_news_but_is_remembered(self) -> None:
        """Else an entry from before its goodbye, coming later, would make it live."""
        table = table_of()
        assert table.merge([entry("b", 5, left=True)], 0.0) == []
        assert table.merge([entry("b", 4)], 0.0) == []
        assert entry("b", 5, left=True) in table.entries()

    def test_a_full_table_takes_nobody_new(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It counts this node, too; known ones go on; who was forgotten makes room."""
        monkeypatch.setattr(table_module, "MAX_MEMBERS", 3)
        table = table_of(entry("b"), entry("c"))
        assert table.merge([entry("d"), entry("b", 2)], 1.0) == []
        assert [member.id for member in table.entries()] == ["a", "b", "c"]
        assert table.entries()[1].heartbeat == 2
        table.beat(DEAD_AFTER_S + 0.5)  # c was hearsay
        assert table.merge([entry("d", 2)], DEAD_AFTER_S + 0.5) == ["d"]


class TestLife:
    """Who is live, as seen from here."""

    def test_a_member_is_live_while_its_heartbeat_advances(self) -> None:
        """Up to the limit, not beyond it; the same entry again is no advance."""
        table = table_of(entry("b"))
        table.merge([entry("b", 2)], 10.0)
        table.merge([entry("b", 2)], 20.0)
        assert live_ids(table, 10.0 + DEAD_AFTER_S) == ["b"]
        assert live_ids(table, 10.1 + DEAD_AFTER_S) == []

    def test_who_has_left_is_not_live(self) -> None:
        """At once, and traffic that was still under way does not change it."""
        table = table_of(entry("b"))
        table.merge([entry("b", left=True)], 1.0)
        table.heard("b", 1.0)
        assert table.live(1.0) == []

    def test_a_failed_connection_counts_over_gossip(self) -> None:
        """Beats that others pass on do not make it reachable from here; time lets us retry."""
        table = table_of(entry("b"), entry("c"))
        table.failed("b", 1.0)
        table.merge([entry("b", 9)], 2.0)
        assert live_ids(table, 1.0 + RETRY_FAILED_S) == ["c"]
        assert live_ids(table, 1.1 + RETRY_FAILED_S) == ["b", "c"]

    def test_a_failed_member_is_live_again_once_heard(self) -> None:
        """Likewise when it has restarted."""
        table = table_of(entry("b"), entry("c"))
        table.failed("b", 1.0)
        table.failed("c", 1.0)
        table.heard("b", 2.0)
        assert live_ids(table, 2.0) == ["b"]
        table.merge([entry("c", 1, incarnation=2)], 2.0)
        assert live_ids(table, 2.0) == ["b", "c"]

    def test_traffic_keeps_a_member_live(self) -> None:
        """Even if gossip were silent."""
        table = table_of(entry("b"))
        table.heard("b", 25.0)
        assert live_ids(table, 25.0 + DEAD_AFTER_S) == ["b"]

    def test_the_others_are_the_live_the_dead_and_who_has_left(self) -> None:
        """By id, whoever came first; this node is none of them."""
        dead, left, live = entry("d"), entry("c", left=True), entry("b")
        table = table_of(dead, left)
        table.merge([live, entry("a", 7)], DEAD_AFTER_S + 1)
        assert live_ids(table, DEAD_AFTER_S + 1) == ["b"]
        assert table.others() == [live, left, dead]

    def test_what_happens_to_strangers_is_ignored(self) -> None:
        """A connection may outlive its peer's entry."""
        table = table_of()
        table.heard("x", 0.0)
        table.failed("x", 0.0)
        assert table.entries() == [table.me]


class TestForgetting:
    """The dead are kept for a while, and then do not come back."""

    def test_the_dead_are_gossiped_until_forgotten(self) -> None:
        """Then they are gone, and the same heartbeat does not bring them back: a later one does."""
        table = table_of(entry("b", 1))
        table.merge([entry("b", 2)], 0.0)
        table.beat(FORGET_AFTER_S)
        assert entry("b", 2) in table.entries()
        table.beat(FORGET_AFTER_S + 1)
        assert table.entries() == [table.me]
        later = FORGET_AFTER_S + 2
        assert table.merge([entry("b", 2), entry("b", 1), entry("b", 2, left=True)], later) == []
        assert table.entries() == [table.me]
        assert table.merge([entry("b", 3)], later) == ["b"]
        table.beat(later + FORGET_AFTER_S)
        assert entry("b", 3) in table.entries(), "it has advanced: no hearsay"

    def test_hearsay_is_soon_forgotten(self) -> None:
        """Newcomers one after the other cannot hand each other a node that died long ago."""
        dead, newcomer, next_one = entry("b", 7), table_of(), MemberTable(entry("c"))
        newcomer.merge([dead], 0.0)
        newcomer.beat(DEAD_AFTER_S)
        assert dead in newcomer.entries()
        newcomer.beat(DEAD_AFTER_S + 1)
        next_one.merge(newcomer.entries(), DEAD_AFTER_S + 1)
        assert next_one.entries() == [next_one.me, newcomer.me]
        assert newcomer.merge([dead], DEAD_AFTER_S + 1) == []

    def test_the_list_of_the_forgotten_is_bounded(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The longest forgotten first."""
        monkeypatch.setattr(table_module, "MAX_MEMBERS", 4)
        table, now = table_of(), 0.0
        for turn in range(4):
            table.merge([entry(f"{turn}{letter}") for letter in "xy"], now)
            now += DEAD_AFTER_S + 1
            table.beat(now)
        assert table.merge([entry("2x"), entry("3y")], now) == []
        assert table.merge([entry("1y")], now) == ["1y"]

    def test_who_is_forgotten_again_counts_from_then(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The place in that list is that of the last time."""
        monkeypatch.setattr(table_module, "MAX_MEMBERS", 3)
        table, now = table_of(), 0.0
        for member in (entry("b"), entry("c"), entry("b", 2), entry("d"), entry("e")):
            assert table.merge([member], now) == [member.id]
            now += FORGET_AFTER_S + 1
            table.beat(now)
        assert table.merge([entry("b", 2)], now) == []
        assert table.merge([entry("c")], now) == ["c"]


class TestSelf:
    """A node's own entry is its own."""

    def test_a_beat_counts(self) -> None:
        """And is gossiped first."""
        table = table_of()
        table.beat(1.0)
        assert table.entries() == [table.me] == [entry("a", 2)]

    def test_gossip_about_an_earlier_life_is_outbid(self) -> None:
        """A node that restarted with a clock gone back."""
        table = table_of()
        assert table.merge([entry("a", 500, incarnation=9)], 0.0) == []
        assert table.me == entry("a", 1, incarnation=10)
        table.merge([entry("a", 500, incarnation=9)], 0.0)
        assert table.me.incarnation == 10, "once is enough"

    def test_a_premature_obituary_is_refuted(self) -> None:
        """The others then hear that we are here."""
        table, other = table_of(), MemberTable(entry("b"))
        other.merge([entry("a", left=True)], 0.0)
        assert other.live(0.0) == []
        table.merge(other.entries(), 0.0)
        assert table.me == entry("a", 1, incarnation=2)
        assert other.merge(table.entries(), 0.0) == ["a"]

    def test_what_is_old_about_us_needs_no_answer(self) -> None:
        """Our own echo, late."""
        table = table_of()
        table.beat(0.0)
        as_seen = msgspec.structs.replace(table.me, address="z:7000")
        table.merge([entry("a", 1), table.me, entry("a", 1, left=True), as_seen], 0.0)
        assert table.me == entry("a", 2)

    def test_leaving_is_heard_and_stays(self) -> None:
        """Idempotent; its own echo does not call it back, nor does beating on."""
        table, other = table_of(), MemberTable(entry("b"))
        other.merge(table.entries(), 0.0)
        gone = table.leave()
        assert gone == table.leave() == table.me == entry("a", 2, left=True)
        other.merge([gone], 1.0)
        assert other.live(1.0) == []
        table.merge([gone, entry("a", 1)], 1.0)
        table.beat(2.0)
        assert table.me == entry("a", 3, left=True)

    def test_a_new_address_replaces_the_old_one_everywhere(self) -> None:
        """A change is an advance, the same address again is none."""
        table, other = table_of(), MemberTable(entry("b"))
        other.merge(table.entries(), 0.0)
        before = table.me
        table.update_address("10.0.0.1:7000")
        table.update_address("10.0.0.1:7000")
        assert table.me == msgspec.structs.replace(before, address="10.0.0.1:7000", heartbeat=2)
        other.merge([*table.entries(), before], 0.0)
        assert other.live(0.0) == [table.me]


class TestPartner:
    """Whom to gossip with."""

    def test_nobody_is_there(self) -> None:
        """Alone, or with only those who said goodbye."""
        assert table_of().choose_partner(0.0, Random(1)) is None
        assert table_of(entry("b", left=True)).choose_partner(0.0, Random(1)) is None

    def test_mostly_the_live_at_times_the_dead(self) -> None:
        """Every live one gets its turn; the dead get about their share."""
        table = table_of(entry("dead"), entry("gone", left=True))
        now = DEAD_AFTER_S + 1
        table.merge([entry("b"), entry("c")], now)
        random, chosen = Random(2), []
        for _ in range(2000):
            partner = table.choose_partner(now, random)
            assert partner is not None
            chosen.append(partner.id)
        assert set(chosen) == {"b", "c", "dead"}
        assert chosen.count("dead") == pytest.approx(2000 * DEAD_PROBE_SHARE, rel=0.25)
        assert chosen.count("b") == pytest.approx(chosen.count("c"), rel=0.25)

    def test_with_only_dead_ones_it_tries_them(self) -> None:
        """A node alone in its part of a partition."""
        table = table_of(entry("b"))
        table.failed("b", 0.0)
        partner = table.choose_partner(0.0, Random(1))
        assert partner is not None
        assert partner.id == "b"

    def test_with_no_dead_ones_it_takes_the_live(self) -> None:
        """The usual case."""
        table = table_of(entry("b"))
        assert table.choose_partner(0.0, Random(1)) == entry("b")


class TestRendezvous:
    """Everyone asks the same members first, without having agreed."""

    @given(st.text(), st.sets(st.text("abc0123", min_size=1), max_size=20), st.randoms())
    def test_the_order_is_a_function_of_digest_and_ids(
        self, digest: str, ids: set[str], random: Random
    ) -> None:
        """Not of the order in which members are known; and nobody is lost."""
        members = [entry(name) for name in ids]
        order = rendezvous(digest, members)
        random.shuffle(members)
        later = [msgspec.structs.replace(member, heartbeat=9) for member in members]
        assert [member.id for member in rendezvous(digest, later)] == [m.id for m in order]
        assert {member.id for member in order} == ids

    def test_one_that_leaves_moves_no_other(self) -> None:
        """Minimal disruption."""
        members = [entry(f"n{index}") for index in range(30)]
        order = rendezvous("sha256:00", members)
        rest = [member for member in members if member != order[3]]
        assert rendezvous("sha256:00", rest) == order[:3] + order[4:]

    def test_digests_spread_over_members(self) -> None:
        """Each of 10 is first for about a tenth of 5,000 digests."""
        members = [entry(f"n{index}") for index in range(10)]
        first = [rendezvous(f"sha256:{index:064x}", members)[0].id for index in range(5000)]
        for member in members:
            assert first.count(member.id) == pytest.approx(500, rel=0.2)


class TestValidate:
    """Nothing from the wire goes further unless it is in exact form."""

    @pytest.mark.parametrize(
        "change",
        [
            {},
            {"id": "a.b_c-D9" * 8},
            {"address": "[fe80::1]:1"},
            {"address": "node-1.rack.example:65535"},
            {"zone": ""},
            {"registry": "http://10.0.0.1:5000"},
            {"registry": "https://[::1]:5000"},
            {"incarnation": MAX_COUNT, "heartbeat": 0},
        ],
    )
    def test_what_nodes_say_passes(self, change: dict[str, object]) -> None:
        """One field at a time."""
        validate(msgspec.structs.replace(entry("a"), **change))

    @pytest.mark.parametrize(
        "change",
        [
            {"id": ""},
            {"id": "a" * 65},
            {"id": "a/../b"},
            {"id": "a\n"},
            {"address": ""},
            {"address": "host"},
            {"address": "host:"},
            {"address": ":7000"},
            {"address": "host:0"},
            {"address": "host:65536"},
            {"address": "host:-1"},
            {"address": "host:7000\n"},
            {"address": "user@host:7000"},
            {"address": "host/path:7000"},
            {"address": "::1:7000"},
            {"address": "[]:7000"},
            {"address": "h" * 254 + ":7000"},
            {"zone": "a b"},
            {"zone": "a" * 64},
            {"registry": "ftp://host"},
            {"registry": "http://"},
            {"registry": "http://a b"},
            {"registry": "javascript:alert(1)"},
            {"registry": "http://" + "a" * 301},
            {"incarnation": -1},
            {"incarnation": MAX_COUNT + 1},
            {"heartbeat": -1},
            {"heartbeat": MAX_COUNT + 1},
        ],
    )
    def test_what_no_node_says_is_refused(self, change: dict[str, object]) -> None:
        """Each wrong in one place."""
        with pytest.raises(ValueError, match=r"cannot be|is not|out of bounds"):
            validate(msgspec.structs.replace(entry("a"), **change))

    @given(st.builds(Member))
    def test_nothing_but_value_error_comes_of_nonsense(self, member: Member) -> None:
        """And what passes can be merged and gossiped as JSON."""
        try:
            validate(member)
        except ValueError:
            return
        table = table_of(member)
        assert msgspec.json.decode(msgspec.json.encode(table.entries()), type=list[Member])


def test_a_thousand_members_fit_in_a_gossip_message() -> None:
    """With long ids and addresses, 200 kB as JSON."""
    member = Member(
        id="f" * 32,
        address="192.168.100.100:7000",
        zone="europe-west4-b",
        incarnation=1_760_000_000_000,
        heartbeat=10**7,
        registry="http://192.168.100.100:5000",
    )
    assert 1000 * len(msgspec.json.encode(member)) < 200_000
