"""Stamps: text that sorts like time, always ahead of what was seen, never far ahead of the wall."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oci_mesh.members.clock import (
    MAX_COUNTER,
    MAX_DRIFT_MS,
    MAX_WALL_MS,
    ClockDrift,
    HybridClock,
    parse_stamp,
)

NOON = 1_760_000_000_000

WRITERS = st.from_regex(r"[A-Za-z0-9._-]{1,64}", fullmatch=True)
PARTS = st.tuples(st.integers(0, MAX_WALL_MS), st.integers(0, MAX_COUNTER), WRITERS)


def stamp_of(wall_ms: int, counter: int, writer: str) -> str:
    """A stamp of these parts."""
    return f"{wall_ms:012x}-{counter:04x}-{writer}"


@given(PARTS)
def test_a_stamp_parses_into_what_it_was_made_of(parts: tuple[int, int, str]) -> None:
    """The format is exact in both directions."""
    assert parse_stamp(stamp_of(*parts)) == parts


@given(PARTS, PARTS)
@example((255, 0, "a"), (256, 0, "a"))
@example((1, 9, "a"), (1, 10, "a"))
@example((1, 1, "a"), (1, 1, "a-"))
def test_stamps_sort_as_text_like_their_parts(
    a: tuple[int, int, str], b: tuple[int, int, str]
) -> None:
    """Lexicographic order is (wall time, counter, writer)."""
    assert (stamp_of(*a) < stamp_of(*b)) == (a < b)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-",
        "0199ce1a2b3c-0000",
        "0199ce1a2b3c-0000-",
        "0199ce1a2b3-0000-a",
        "00199ce1a2b3c-0000-a",
        "0199CE1A2B3C-0000-a",
        "0199ce1a2b3c-000-a",
        "0199ce1a2b3c-00000-a",
        "0199ce1a2b3c_0000_a",
        "-199ce1a2b3c-0000-a",
        "+199ce1a2b3c-0000-a",
        "0x99ce1a2b3c-0000-a",
        "0199ce1a2b3c-0000-a\n",
        "\n0199ce1a2b3c-0000-a",
        " 0199ce1a2b3c-0000-a",
        "0199ce1a2b3c-0000-a b",
        "0199ce1a2b3c-0000-a\0",
        "0199ce1a2b3c-0000-ä",
        "\u0660199ce1a2b3c-0000-a",
        "0199ce1a2b3c-0000-" + 65 * "a",
        "0199ce1a2b3c-0000-" + "a/../b",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    """Near misses, each wrong in one place."""
    with pytest.raises(ValueError, match="is not a stamp"):
        parse_stamp(text)


@given(st.text() | st.text("0123456789abcdef-.", max_size=40))
def test_parsing_returns_a_canonical_stamp_or_raises_value_error(text: str) -> None:
    """No other exception, and no second spelling of one stamp."""
    try:
        parts = parse_stamp(text)
    except ValueError:
        return
    assert stamp_of(*parts) == text


STEPS = st.lists(
    st.tuples(st.booleans(), st.integers(-MAX_DRIFT_MS, MAX_DRIFT_MS), st.integers(0, MAX_COUNTER)),
    max_size=40,
)


@given(STEPS)
def test_a_tick_is_greater_than_all_ticked_or_observed_before(
    steps: list[tuple[bool, int, int]],
) -> None:
    """Whatever the wall clock does: stand, jump, or go back."""
    clock, seen = HybridClock("b"), [""]
    for is_tick, offset_ms, counter in steps:
        if is_tick:
            stamp = clock.tick(NOON + offset_ms)
            assert stamp > max(seen)
        else:
            stamp = stamp_of(NOON + offset_ms, counter, "c")
            clock.observe(stamp, NOON)
        seen.append(stamp)
    assert clock.tick(NOON) > max(seen)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 50)), max_size=60))
def test_a_write_that_has_seen_another_is_greater(schedule: list[tuple[int, int, int]]) -> None:
    """Three nodes whose walls differ by minutes: an effect is never stamped before its cause."""
    skew_ms = (0, 90_000, -120_000)
    clocks = [HybridClock(f"node{index}") for index in range(3)]
    wall_ms = NOON
    for sender, receiver, step_ms in schedule:
        wall_ms += step_ms
        cause = clocks[sender].tick(wall_ms + skew_ms[sender])
        clocks[receiver].observe(cause, wall_ms + skew_ms[receiver])
        assert clocks[receiver].tick(wall_ms + skew_ms[receiver]) > cause


def test_stamps_follow_the_wall_while_it_moves() -> None:
    """The counter starts again with every new millisecond."""
    clock = HybridClock("a")
    assert parse_stamp(clock.tick(NOON)) == (NOON, 0, "a")
    assert parse_stamp(clock.tick(NOON)) == (NOON, 1, "a")
    assert parse_stamp(clock.tick(NOON - 5)) == (NOON, 2, "a")
    assert parse_stamp(clock.tick(NOON + 1)) == (NOON + 1, 0, "a")


def test_a_full_counter_carries_into_the_wall() -> None:
    """The 65,537th write of one millisecond borrows the next."""
    clock = HybridClock("a")
    clock.observe(stamp_of(NOON, MAX_COUNTER, "b"), NOON)
    assert parse_stamp(clock.tick(NOON)) == (NOON + 1, 0, "a")
    assert parse_stamp(clock.tick(NOON + 1)) == (NOON + 1, 1, "a")


def test_a_stamp_from_the_far_future_is_refused_and_moves_nothing() -> None:
    """At the limit it counts; one millisecond beyond, the clock is as if it had never come."""
    clock = HybridClock("a")
    before = clock.tick(NOON)
    with pytest.raises(ClockDrift, match="300 s ahead"):
        clock.observe(stamp_of(NOON + MAX_DRIFT_MS + 1, 0, "b"), NOON)
    with pytest.raises(ClockDrift):
        clock.observe(stamp_of(MAX_WALL_MS, MAX_COUNTER, "b"), NOON)
    assert parse_stamp(clock.tick(NOON)) == (NOON, 1, "a")
    assert issubclass(ClockDrift, ValueError)

    clock.observe(stamp_of(NOON + MAX_DRIFT_MS, 7, "b"), NOON)
    assert before < clock.tick(NOON) == stamp_of(NOON + MAX_DRIFT_MS, 8, "a")


def test_a_refused_stamp_is_taken_once_time_has_come_near() -> None:
    """Refusing is for now: gossip will offer it again."""
    clock, early = HybridClock("a"), stamp_of(NOON + MAX_DRIFT_MS + 1, 0, "b")
    with pytest.raises(ClockDrift):
        clock.observe(early, NOON)
    clock.observe(early, NOON + 1)
    assert clock.tick(NOON + 1) > early


def test_observing_nonsense_raises_value_error() -> None:
    """It is no drift, and the clock stays as it was."""
    clock = HybridClock("a")
    with pytest.raises(ValueError, match="is not a stamp"):
        clock.observe("tomorrow", NOON)
    assert parse_stamp(clock.tick(NOON)) == (NOON, 0, "a")


@pytest.mark.parametrize("writer", ["", "a b", "a/b", "a\n", "ä", 65 * "a"])
def test_a_writer_whose_stamps_would_not_parse_is_refused(writer: str) -> None:
    """Else its records would be refused everywhere."""
    with pytest.raises(ValueError, match="cannot be a writer"):
        HybridClock(writer)
