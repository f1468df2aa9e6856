"""The circuit breaker, by a clock that only the test moves."""

from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.upstream.breaker import (
    FAILURES,
    MAX_LIMITED_S,
    MAX_REST_S,
    PROBE_S,
    REST_S,
    Breaker,
)


def broken(now: float = 0.0) -> Breaker:
    """One that has just opened."""
    breaker = Breaker()
    told = []
    for _ in range(FAILURES):
        assert breaker.admits(now)
        told.append(breaker.failed(now))
    assert told == [False] * (FAILURES - 1) + [True]
    return breaker


def test_failures_in_a_row_open_it() -> None:
    """All that ask are turned away, until the rest is over."""
    breaker = broken()
    assert not breaker.admits(0.0)
    assert not breaker.admits(REST_S - 0.1)
    assert breaker.rest_s(1.0) == REST_S - 1.0
    assert breaker.admits(REST_S)


def test_a_success_between_counts_anew() -> None:
    """Failures now and then are no reason to stop."""
    breaker = Breaker()
    for _ in range(10 * FAILURES):
        for _ in range(FAILURES - 1):
            assert not breaker.failed(0.0)
        breaker.succeeded()
        assert breaker.admits(0.0)


def test_one_probe_decides() -> None:
    """While it is under way nobody else may; after its success all may."""
    breaker = broken()
    assert breaker.admits(REST_S)
    assert not breaker.admits(REST_S)
    breaker.succeeded()
    assert breaker.admits(REST_S)
    assert not breaker.failed(REST_S)


def test_rests_grow_up_to_a_limit() -> None:
    """With each probe that fails; after a success they are short again."""
    breaker, now, rests = broken(), 0.0, []
    for _ in range(40):
        rests.append(breaker.rest_s(now))
        now += rests[-1]
        assert breaker.admits(now)
        assert breaker.failed(now)
    assert rests[:3] == [REST_S, 2 * REST_S, 4 * REST_S]
    assert rests[-1] == MAX_REST_S == max(rests)
    breaker.succeeded()
    for _ in range(FAILURES):
        breaker.failed(now)
    assert breaker.rest_s(now) == REST_S


def test_many_at_once_are_one_rest() -> None:
    """What was under way when it opened, and fails after, says nothing new."""
    breaker = broken()
    for _ in range(100):
        assert not breaker.failed(0.1)
    assert breaker.admits(REST_S)


def test_a_probe_that_nobody_reports() -> None:
    """Was cancelled with its caller: another one is let through."""
    breaker = broken()
    assert breaker.admits(REST_S)
    assert not breaker.admits(REST_S + PROBE_S - 0.1)
    assert breaker.admits(REST_S + PROBE_S)


def test_patience_is_kept() -> None:
    """As long as was asked for, but no longer than is sensible; the longest of several counts."""
    breaker = Breaker()
    breaker.limited(0.0, 10.0)
    breaker.limited(1.0, 2.0)
    assert breaker.limited_s(4.0) == 6.0
    assert not breaker.admits(9.9)
    assert breaker.admits(10.0)
    breaker.limited(10.0, 1e9)
    assert breaker.admits(10.0 + MAX_LIMITED_S)


def test_a_limit_is_an_answer() -> None:
    """A registry that says so works."""
    breaker = broken()
    assert breaker.admits(REST_S)
    breaker.limited(REST_S, 0.0)
    assert breaker.admits(REST_S)
    assert breaker.admits(REST_S)


@given(st.lists(st.tuples(st.sampled_from("slf-"), st.integers(0, 50)), max_size=60))
def test_it_is_never_shut_for_good(events: list[tuple[str, int]]) -> None:
    """Whatever happens in whatever order, after the longest rest somebody is let through."""
    breaker, now = Breaker(), 0.0
    for kind, later in events:
        now += later
        breaker.admits(now)
        if kind == "s":
            breaker.succeeded()
        elif kind == "l":
            breaker.limited(now, later * 3)
        elif kind == "f":
            breaker.failed(now)
        assert 0 <= breaker.rest_s(now) <= MAX_REST_S
        assert 0 <= breaker.limited_s(now) <= MAX_LIMITED_S
    assert breaker.admits(now + max(MAX_REST_S, MAX_LIMITED_S, PROBE_S))
