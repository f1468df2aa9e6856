"""A rate is kept over any few seconds, whoever takes how much when; nothing is lost by waiting."""

# ruff: noqa: D103 -- the names are sentences

import heapq
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.swarm.rate import MAX_SLICE_BYTES, MIN_SLICE_BYTES, SLACK_S, Rate
from oci_mesh.swarm.window import AHEAD_S, MOST, Window

MB = 1_000_000


def sent(rate: Rate, senders: int, until_s: float, late_s: float, seed: int) -> int:
    """What senders that always have something send in that time, if timers are so late at most."""
    random, total = Random(seed), 0
    due = [(0.0, number) for number in range(senders)]
    while due[0][0] < until_s:
        now, number = heapq.heappop(due)
        size = random.randint(1, rate.slice_bytes)
        wait_s = rate.take(size, now)
        wait_s += random.random() * late_s if wait_s else 0
        if now + wait_s < until_s:
            total += size
        heapq.heappush(due, (now + wait_s, number))
    return total


@given(
    limit=st.integers(MB, 10_000 * MB),
    senders=st.integers(1, 64),
    late_s=st.sampled_from([0.0, 0.001, 0.02]),
    seed=st.integers(),
)
def test_what_is_sent_together_is_the_limit(
    limit: int, senders: int, late_s: float, seed: int
) -> None:
    total = sent(Rate(limit), senders, 5.0, late_s, seed)
    assert 0.95 * 5 * limit < total < 1.05 * 5 * limit


@given(
    takes=st.lists(st.tuples(st.floats(0, 3), st.integers(0, MB)), min_size=1),
    limit=st.integers(1000, 10 * MB),
)
def test_in_no_span_more_than_its_share_and_a_little(
    takes: list[tuple[float, int]], limit: int
) -> None:
    """Also after a long pause; and who takes first is served first."""
    rate, now, goes = Rate(limit), 0.0, []
    for pause_s, size in takes:
        now += pause_s
        goes.append((now + rate.take(size, now), size))
    times = [at for at, _ in goes]
    assert all(later > sooner - 1e-6 for sooner, later in pairwise(times))  # sums are rounded
    for first, (begin, _) in enumerate(goes):
        for last in range(first, len(goes)):
            # The last one only begins at its time.
            before = sum(size for _, size in goes[first:last])
            assert before <= (times[last] - begin + SLACK_S) * limit * (1 + 1e-9) + 1


def test_what_came_is_waited_for_until_it_is_paid() -> None:
    rate = Rate(MB)
    assert rate.received(MB, 10.0) == pytest.approx(1 - SLACK_S)
    assert rate.received(MB, 10.5) == pytest.approx(1.5 - SLACK_S)
    assert rate.received(0, 20.0) == 0


@pytest.mark.parametrize(
    ("limit", "slice_bytes"),
    [(1, MIN_SLICE_BYTES), (20 * MB, 100_000), (10**10, MAX_SLICE_BYTES)],
)
def test_slices_are_a_few_milliseconds(limit: int, slice_bytes: int) -> None:
    assert Rate(limit).slice_bytes == slice_bytes


@given(
    limit=st.integers(100_000, 10**10),
    piece_bytes=st.sampled_from([2**18, 2**20, 2**22]),
    swarms=st.integers(0, 20),
)
def test_no_more_is_asked_for_than_comes_in_time(limit: int, piece_bytes: int, swarms: int) -> None:
    window, free = Window(rate=limit), Window()
    for each in (window, free):
        for _ in range(swarms):
            each.enter()
    pieces = window.in_time(piece_bytes)
    assert pieces >= 1
    assert pieces == 1 or max(1, swarms) * pieces * piece_bytes <= limit * AHEAD_S
    assert free.in_time(piece_bytes) == MOST
