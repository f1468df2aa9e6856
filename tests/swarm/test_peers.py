"""What is remembered of others: whom to leave alone, and for how long."""

# ruff: noqa: D103 -- the names are sentences

import pytest

from oci_mesh.swarm.peers import SLOW_AVOID_S, SLOW_TIMES, Fault, Peers, Reserve
from oci_mesh.swarm.view import ORIGIN

RESTS = [Fault.BUSY, Fault.MISSING, Fault.GONE, Fault.STALLED]


def rest_s(peers: Peers, now: float) -> float:
    """For how long a peer is left alone from now on, to a tenth of a second."""
    steps = 0
    while peers.reserve("p", now + steps / 10) not in (Reserve.NONE, Reserve.SILENT):
        steps += 1
        assert steps < 10_000
    return steps / 10


def test_whoever_is_not_known_is_usable() -> None:
    assert Peers().reserve("p", 0.0) is Reserve.NONE


@pytest.mark.parametrize("fault", RESTS)
def test_it_is_left_alone_for_longer_each_time_but_not_for_ever(fault: Fault) -> None:
    peers, now, rests = Peers(), 100.0, []
    for _ in range(20):
        peers.failed("p", fault, now)
        rests.append(rest_s(peers, now))
        now += rests[-1]
    assert rests == sorted(rests)
    assert 0 < rests[0] < rests[2] < rests[-1] <= 64
    assert peers.reserve("other", 100.0) is Reserve.NONE


@pytest.mark.parametrize("fault", RESTS)
def test_a_piece_makes_up_for_its_faults(fault: Fault) -> None:
    peers = Peers()
    peers.failed("p", fault, 0.0)
    first = rest_s(peers, 0.0)
    for _ in range(5):
        peers.failed("p", fault, 0.0)
    peers.succeeded("p", 1000, 1.0, 100.0)
    peers.failed("p", fault, 200.0)
    assert rest_s(peers, 200.0) == first


def test_to_be_late_is_no_fault() -> None:
    peers = Peers()
    peers.failed("p", Fault.NOT_YET, 0.0)
    assert peers.reserve("p", 0.0) is Reserve.NONE


def test_who_is_busy_is_better_than_nobody_and_who_is_gone_is_not() -> None:
    peers = Peers()
    peers.failed("p", Fault.BUSY, 0.0)
    assert peers.reserve("p", 0.1) is Reserve.BUSY
    peers.failed("p", Fault.GONE, 0.2)
    assert peers.reserve("p", 0.3) is Reserve.NEVER


@pytest.mark.parametrize("fault", [Fault.GONE, Fault.STALLED])
def test_who_was_gone_is_the_last_to_be_asked_until_it_sends(fault: Fault) -> None:
    peers = Peers()
    peers.failed("p", fault, 0.0)
    assert peers.reserve("p", 1e9) is Reserve.SILENT
    assert peers.left_out == {"p"}
    peers.succeeded("p", 1000, 1.0, 100.0)
    assert peers.reserve("p", 100.0) is Reserve.NONE
    assert not peers.left_out


def test_a_liar_is_banned_for_ever() -> None:
    peers = Peers()
    peers.failed("p", Fault.CORRUPT, 0.0)
    peers.succeeded("p", 1000, 1.0, 1.0)
    assert peers.reserve("p", 1e9) is Reserve.NEVER


def test_a_slow_one_is_left_alone_while_there_are_others() -> None:
    """Once it has shown it more than once; and then it gets another chance."""
    peers = Peers()
    for i in range(20):
        peers.succeeded("fast", 1000, 1.0, float(i))
    slow_s = 3 * SLOW_TIMES
    reserves = []
    for i in range(5):
        peers.succeeded("p", 1000, slow_s, 20.0 + i)
        reserves.append(peers.reserve("p", 20.0 + i))
    assert reserves[0] is Reserve.NONE
    assert reserves[-1] is Reserve.SLOW
    assert peers.reserve("fast", 24.0) is Reserve.NONE
    assert 0 < rest_s(peers, 24.0) <= SLOW_AVOID_S
    peers.succeeded("p", 1000, slow_s, 50.0)
    assert peers.reserve("p", 50.0) is Reserve.NONE


def test_one_that_is_only_somewhat_slower_is_not() -> None:
    peers = Peers()
    for i in range(20):
        peers.succeeded("fast", 1000, 1.0, float(i))
        peers.succeeded("p", 1000, 0.5 * SLOW_TIMES, float(i))
    assert peers.reserve("p", 20.0) is Reserve.NONE


def test_a_frontier_never_goes_back() -> None:
    peers = Peers()
    peers.advance("p", 7)
    peers.advance("p", 3)
    peers.advance("q", 5)
    assert (peers["p"].frontier, peers["q"].frontier, peers.max_frontier) == (7, 5, 7)


class TestOrigin:
    """An origin outside of the mesh."""

    @pytest.mark.parametrize("fault", RESTS)
    def test_it_is_left_alone_for_a_while_and_no_longer(self, fault: Fault) -> None:
        """Also if it is busy; and it stays in the trees."""
        peers, now, rests = Peers(), 100.0, []
        for _ in range(10):
            peers.failed(ORIGIN, fault, now)
            assert peers.reserve(ORIGIN, now) is Reserve.NEVER
            assert not peers.left_out
            start = now
            while peers.reserve(ORIGIN, now) is not Reserve.NONE:
                now += 0.25
            rests.append(now - start)
        assert rests == sorted(rests)
        assert 0 < rests[0] < rests[2] < rests[-1] <= 64

    def test_requests_that_fail_together_count_once(self) -> None:
        """Those of a run do."""
        peers = Peers()
        for _ in range(9):
            peers.failed(ORIGIN, Fault.GONE, 0.0)
        once = Peers()
        once.failed(ORIGIN, Fault.GONE, 0.0)
        assert peers[ORIGIN].avoid_until == once[ORIGIN].avoid_until

    def test_how_fast_it_is_says_nothing_of_nodes(self) -> None:
        """It is slow for all, and there is no other; what is usual among nodes stays so."""
        peers = Peers()
        for i in range(20):
            peers.succeeded("n", 1000, 1.0, float(i))
            peers.succeeded(ORIGIN, 1000, 100.0 * SLOW_TIMES, float(i))
        assert peers.reserve(ORIGIN, 20.0) is Reserve.NONE
        for i in range(5):
            peers.succeeded("slow", 1000, 3 * SLOW_TIMES, 20.0 + i)
        assert peers.reserve("slow", 24.0) is Reserve.SLOW


def test_who_is_banned_is_never_asked_though_nothing_else_is_known_of_it() -> None:
    peers = Peers()
    peers.ban("n")
    assert peers.reserve("n", 0.0) is Reserve.NEVER
    assert peers.named == ("n",)


def test_who_is_accused_is_as_if_busy_whether_or_not_it_was_asked_before() -> None:
    peers = Peers()
    peers.succeeded("old", 1, 1.0, 0.0)
    for accuser in ("a", "b"):
        peers.accusations.hear(accuser, ("old", "new"))
    for name in ("old", "new"):
        assert peers.is_last(name)
        assert peers.reserve(name, 0.0) is Reserve.BUSY
    assert not peers.is_last("a")
