"""How many pieces are under way at a time, of all blobs together."""

# ruff: noqa: D103 -- the names are sentences

from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.swarm.window import LEAST, MOST, Window


def window(swarms: int) -> Window:
    shared = Window()
    for _ in range(swarms):
        shared.enter()
    return shared


@given(st.integers(0, 20_000), st.integers(0, 30))
def test_a_share_is_within_its_limits(nodes: int, swarms: int) -> None:
    assert LEAST <= window(swarms).share(nodes) <= MOST


@given(st.integers(0, 20_000), st.integers(0, 20_000), st.integers(1, 30))
def test_the_more_nodes_the_more_and_the_more_blobs_the_less(a: int, b: int, swarms: int) -> None:
    """The pipeline is deeper; and links are shared."""
    few, many = sorted((a, b))
    assert window(swarms).share(few) <= window(swarms).share(many)
    assert window(swarms + 1).share(few) <= window(swarms).share(few)


@given(st.integers(1, 20_000), st.integers(1, 10))
def test_together_they_have_no_more_than_one_alone(nodes: int, swarms: int) -> None:
    """But for the least that each has."""
    shared = window(swarms)
    assert swarms * shared.share(nodes) <= max(window(1).share(nodes), swarms * LEAST)


def test_who_leaves_makes_room() -> None:
    shared = window(4)
    before = shared.share(100)
    for _ in range(3):
        shared.leave()
    assert before < shared.share(100) == window(1).share(100)
