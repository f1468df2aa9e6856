"""The send gate: in order, a few at a time, and busy when there is too much."""

# ruff: noqa: D101, D102, D103 -- the names are sentences

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oci_mesh.swarm import uplink as uplink_module
from oci_mesh.swarm.uplink import BUSY_S, MIN_QUEUE, SENDS, Uplink

PIECE = 1_000_000


def measured(rate: float, sends: int = 1) -> Uplink:
    """An idle uplink that has sent a while at so many bytes a second."""
    uplink = Uplink(sends)
    for i in range(50):
        uplink.enqueue(("past", i), int(rate), float(i))
        uplink.finished(("past", i), i + 1.0)
    return uplink


class TestOrder:
    def test_a_few_at_a_time_in_the_order_of_asking(self) -> None:
        uplink = Uplink(2)
        started = [ticket for i in range(6) for ticket in uplink.enqueue(i, PIECE, 0.0)]
        assert started == [0, 1]
        assert len(uplink) == 6
        assert uplink.finished(1, 1.0) == [2]
        assert uplink.finished(0, 1.0) == [3]
        assert len(uplink) == 4

    def test_what_was_cancelled_in_the_queue_is_never_begun(self) -> None:
        uplink = Uplink(1)
        for i in range(4):
            uplink.enqueue(i, PIECE, 0.0)
        assert uplink.finished(2, 0.5, sent=False) == []
        assert uplink.finished(0, 1.0) == [1]
        assert uplink.finished(1, 2.0) == [3]
        assert uplink.finished(3, 3.0) == []
        assert len(uplink) == 0

    def test_cancelled_while_it_is_sent_it_makes_room(self) -> None:
        uplink = Uplink(1)
        uplink.enqueue("a", PIECE, 0.0)
        uplink.enqueue("b", PIECE, 0.0)
        assert uplink.finished("a", 1.0, sent=False) == ["b"]

    def test_a_ticket_that_it_does_not_know_changes_nothing(self) -> None:
        uplink = Uplink(1)
        uplink.enqueue("a", PIECE, 0.0)
        assert uplink.finished("b", 1.0) == []
        assert len(uplink) == 1

    def test_who_is_served_last_waits_for_all_others_and_among_themselves_in_order(self) -> None:
        uplink = Uplink(1)
        uplink.enqueue("sent", PIECE, 0.0)
        for ticket in ("liar 1", "liar 2"):
            assert uplink.enqueue(ticket, PIECE, 0.0, last=True) == []
        assert uplink.enqueue("a", PIECE, 0.0) == []
        assert uplink.finished("sent", 1.0) == ["a"]
        assert uplink.enqueue("b", PIECE, 1.0) == []
        assert uplink.finished("a", 2.0) == ["b"]
        assert uplink.finished("b", 3.0) == ["liar 1"]
        assert uplink.finished("liar 1", 4.0) == ["liar 2"]

    def test_alone_it_is_served_at_once(self) -> None:
        assert Uplink(1).enqueue("liar", PIECE, 0.0, last=True) == ["liar"]

    @settings(max_examples=50, deadline=None)
    @given(st.integers(0, 2**32), st.integers(1, 5))
    def test_whatever_happens_each_is_begun_once_in_order(self, seed: int, sends: int) -> None:
        random, uplink = Random(seed), Uplink(sends)
        first: list[int] = []
        last: list[int] = []
        sending: set[int] = set()
        for i in range(60):
            waiting = random.choice([first, last])
            if random.random() < 0.6:
                begun = uplink.enqueue(i, PIECE, float(i), last=waiting is last)
                waiting.append(i)
            elif waiting and random.random() < 0.3:
                begun = uplink.finished(waiting.pop(random.randrange(len(waiting))), float(i))
            elif sending:
                begun = uplink.finished(sending.pop(), float(i), sent=random.random() < 0.7)
            else:
                continue
            assert begun == (first + last)[: len(begun)]
            sending |= set((first + last)[: len(begun)])
            first = [ticket for ticket in first if ticket not in sending]
            last = [ticket for ticket in last if ticket not in sending]
            assert len(sending) == sends or not (first or last)
            assert len(uplink) == len(sending) + len(first) + len(last)
            assert uplink._queued_bytes == len(first) * PIECE
            assert uplink._last_bytes == len(last) * PIECE


class TestBusy:
    def test_by_how_long_the_queue_takes(self) -> None:
        """A hundred waiting are little for a fast link, eight are much for a slow one."""
        for rate in (PIECE, 100 * PIECE):
            uplink = measured(rate)
            waits = 0
            uplink.enqueue("sent", PIECE, 100.0)
            while not uplink.is_busy():
                uplink.enqueue(waits, PIECE, 100.0)
                waits += 1
            assert waits == max(MIN_QUEUE, int(BUSY_S * rate / PIECE) + 1)

    def test_a_few_may_always_wait(self) -> None:
        uplink = measured(1.0)
        uplink.enqueue("sent", PIECE, 100.0)
        for i in range(MIN_QUEUE):
            assert not uplink.is_busy()
            uplink.enqueue(i, PIECE, 100.0)
        assert uplink.is_busy()

    def test_what_was_sent_or_cancelled_waits_no_more(self) -> None:
        uplink = measured(PIECE)
        for i in range(2 * MIN_QUEUE):
            uplink.enqueue(i, PIECE, 100.0)
        assert uplink.is_busy()
        for i in range(2 * MIN_QUEUE):
            uplink.finished(i, 101.0, sent=i % 2 == 0)
        assert not uplink.is_busy()
        assert uplink._queued_bytes == 0

    def test_who_is_served_last_makes_it_busy_for_its_like_only(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(uplink_module, "MAX_QUEUE", 2 * MIN_QUEUE)
        uplink = measured(1.0)
        uplink.enqueue("sent", PIECE, 100.0)
        for i in range(MIN_QUEUE):
            assert not uplink.is_busy(last=True)
            uplink.enqueue(("liar", i), PIECE, 100.0, last=True)
        assert uplink.is_busy(last=True)
        for i in range(MIN_QUEUE):
            assert not uplink.is_busy()
            assert not uplink.is_full(last=True)
            uplink.enqueue(i, PIECE, 100.0)
        assert uplink.is_busy()
        assert uplink.is_full(last=True)
        assert not uplink.is_full()

    def test_there_is_a_most(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(uplink_module, "MAX_QUEUE", 7)
        uplink = Uplink(1)
        for i in range(8):
            assert not uplink.is_full()
            uplink.enqueue(i, PIECE, 0.0)
        assert uplink.is_full()


class TestRate:
    def test_nothing_is_known_before_the_first(self) -> None:
        assert Uplink().rate == 0.0

    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**32), st.integers(1, 8), st.floats(0.0, 1.0))
    def test_it_is_what_the_link_carries(self, seed: int, sends: int, jitter: float) -> None:
        """However many go out at a time, and whether they end together or apart."""
        random, uplink = Random(seed), Uplink(sends)
        link = 10 * PIECE
        now, queued = 0.0, 0
        sending: list[object] = []
        for _ in range(40):
            while len(sending) < sends:
                sending += uplink.enqueue(queued, PIECE, now)
                queued += 1
            # The link carries a round of pieces; within it they end at any moments.
            took = sends * PIECE / link
            ends = sorted(now + took * (1 - jitter * random.random()) for _ in sending)
            ends[-1] = now + took
            for ticket, end in zip(list(sending), ends, strict=True):
                uplink.finished(ticket, end)
            sending.clear()
            now += took
        assert link * 0.3 < uplink.rate < link * 3

    def test_idle_time_does_not_count(self) -> None:
        uplink = Uplink(1)
        for i in range(10):
            uplink.enqueue(i, PIECE, i * 100.0)
            uplink.finished(i, i * 100.0 + 1.0)
        assert uplink.rate == pytest.approx(PIECE)

    def test_what_was_not_sent_does_not_count(self) -> None:
        uplink = measured(PIECE)
        for i in range(50):
            uplink.enqueue(i, PIECE, 100.0)
            uplink.finished(i, 100.0, sent=False)
        assert uplink.rate == pytest.approx(PIECE)

    def test_it_follows_a_link_that_changes(self) -> None:
        uplink = measured(PIECE)
        for i in range(30):
            uplink.enqueue(i, PIECE, 100.0 + i)
            uplink.finished(i, 100.1 + i)
        assert uplink.rate == pytest.approx(10 * PIECE, rel=0.1)


def test_the_usual_number_at_a_time() -> None:
    uplink = Uplink()
    assert sum(len(uplink.enqueue(i, PIECE, 0.0)) for i in range(99)) == SENDS
