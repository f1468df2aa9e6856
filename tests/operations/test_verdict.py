"""What pulls came to, from figures alone."""

from collections.abc import Mapping
from typing import Any

import pytest

from oci_mesh.journal import CONTAINERD, KEPT, Arrival, Delivery, Giver
from oci_mesh.operations import verdict
from oci_mesh.operations.verdict import Joined, Rates
from tests.images import sha256

MB = 1_000_000


def arrival(took_s: float = 10.0, *, at: float = 1000.0, seed: str = "x", **more: Any) -> Arrival:
    """100 MB from `seed`, if nothing else is said."""
    defaults: dict[str, Any] = {
        "size": 100 * MB,
        "ended": True,
        "first_s": 0.1,
        "wanting": 1,
        "having": 1,
        "givers": {"seed": Giver(100 * MB, 100)},
    }
    return Arrival("app", sha256(seed.encode()), at, took_s=took_s, **{**defaults, **more})


def pull(*arrivals: Arrival, node: str = "me") -> Joined:
    """Of one node."""
    return Joined(node, arrivals or (arrival(),))


def judged(one: Arrival, rates: Mapping[str, Rates] | None = None) -> str:
    """The verdict on one blob, as one text."""
    return "; ".join(verdict.judge(pull(one), [], rates or {}, None))


# -- which blobs are of one pull


def test_blobs_of_one_pull_are_put_together() -> None:
    """Clients ask for some at a time, and for the next ones when these are there."""
    first = arrival(5.0, at=1000.0)
    beside = arrival(2.0, at=1001.0, seed="y")
    then = arrival(1.0, at=1006.5, seed="z")
    later = arrival(1.0, at=1010.0, seed="w")
    newest, oldest = verdict.join("me", [later, then, first, beside])
    assert newest.arrivals == (later,)
    assert oldest.arrivals == (first, beside, then)
    assert oldest.took_s == 7.5
    assert oldest.bytes == 300 * MB


def test_what_was_here_did_not_come() -> None:
    """Pieces of an earlier attempt are no bytes of this pull."""
    one = arrival(givers={KEPT: Giver(60 * MB), "seed": Giver(40 * MB, 40)})
    assert pull(one).bytes == 40 * MB


def test_givers_of_several_blobs_are_added_up() -> None:
    """With their faults; the one that gave most is the first."""
    a = arrival(givers={"a": Giver(10, 1, faults={"stalled": 1}), "b": Giver(30, 3)})
    b = arrival(seed="y", givers={"a": Giver(50, 5, faults={"stalled": 2})})
    givers = pull(a, b).givers
    assert list(givers) == ["a", "b"]
    assert (givers["a"].bytes, givers["a"].pieces) == (60, 6)
    assert givers["a"].faults == {"stalled": 3}


# -- the bound


def test_no_bound_without_a_known_link() -> None:
    """Nothing is made up."""
    assert verdict.bound(pull(), [], {}) is None
    assert verdict.bound(pull(arrival(givers={})), [], {"me": Rates(MB)}) is None


def test_the_own_link_bounds() -> None:
    """F/d: 100 MB over 20 MB/s, where the seed sends more."""
    bound = verdict.bound(pull(), [], {"me": Rates(20 * MB), "seed": Rates(100 * MB)})
    assert bound is not None
    assert bound.seconds == 5.0
    assert "takes in" in bound.by


def test_the_own_limit_bounds() -> None:
    """Also below what the link carries."""
    bound = verdict.bound(pull(), [], {"me": Rates(20 * MB, download_limit=10 * MB)})
    assert bound is not None
    assert bound.seconds == 10.0
    assert "limit" in bound.by


def test_what_the_seeds_send_bounds() -> None:
    """F/u_s: one seed with a limit of 4 MB/s."""
    rates = {"me": Rates(20 * MB), "seed": Rates(20 * MB, upload_limit=4 * MB)}
    bound = verdict.bound(pull(), [], rates)
    assert bound is not None
    assert bound.seconds == 25.0
    assert "had it" in bound.by
    assert bound.assumed == []  # settings say it


def test_what_all_send_bounds() -> None:
    """N·F/(u_s + Σu): 4 nodes of 100 MB each, of which each sends no more than 5 MB/s."""
    others = [pull(node=name) for name in ("a", "b", "c")]
    slow = Rates(100 * MB, upload_limit=5 * MB)
    rates = dict.fromkeys(("me", "a", "b", "c"), slow) | {"seed": Rates(20 * MB)}
    bound = verdict.bound(pull(), others, rates)
    assert bound is not None
    assert bound.seconds == 400 / 40
    assert "together" in bound.by


def test_links_that_are_not_known_are_said_to_be() -> None:
    """They count as the own one."""
    bound = verdict.bound(pull(), [], {"me": Rates(20 * MB)})
    assert bound is not None
    assert bound.seconds == 5.0
    assert any("1 link is not known" in text for text in bound.assumed)


def test_what_a_registry_can_give_is_not_guessed() -> None:
    """Of a cold pull only the own link is known."""
    cold = arrival(cold=True, givers={"@docker.io": Giver(100 * MB, 100)})
    bound = verdict.bound(pull(cold), [], {"me": Rates(50 * MB)})
    assert bound is not None
    assert bound.seconds == 2.0
    assert any("origin" in text for text in bound.assumed)


def test_only_pulls_at_the_same_time_share() -> None:
    """And not those of the node itself."""
    mine = pull(arrival(10.0, at=1000.0))
    beside = pull(arrival(10.0, at=1005.0), node="a")
    before = pull(arrival(1.0, at=990.0), node="b")
    assert verdict.overlapping(mine, [mine, beside, before]) == [beside]


# -- words


def test_a_quick_pull_needs_none() -> None:
    """Whatever its figures are."""
    assert judged(arrival(0.9, still_s=0.8)) == "nothing was slow"


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({"met_s": 4.0}, "4.0 s (40 %) until it was known who has it"),
        ({"listed_s": 5.0}, "5.0 s (50 %) until a node had listed its pieces"),
        ({"listed_s": 5.0, "cold": True}, "5.0 s (50 %) to hear from its registry"),
        ({"first_s": 8.0}, "8.0 s (80 %) until the first piece came from seed"),
        ({"stored_s": 3.0}, "3.0 s (30 %) for this node's disk"),
        ({"limit": 11 * MB}, "download-rate allows: 11.0 MB/s"),
        ({"wasted": 30 * MB}, "30.0 MB came for nothing"),
        ({"wanting": 9, "having": 2}, "9 nodes fetched it at the same time, and 2 had it"),
        ({"cold": True, "wanting": 4}, "4 nodes shared what came from outside"),
        ({"failure": "no node has it"}, "did not come: no node has it"),
    ],
)
def test_what_was_slow_is_named(figures: dict[str, Any], said: str) -> None:
    """Each with its share of the time."""
    assert said in judged(arrival(**figures))
    assert said not in judged(arrival())


@pytest.mark.parametrize(
    ("giver", "said"),
    [
        (Giver(100 * MB, 100, faults={"corrupt": 2}), "b sent wrong bytes, 2 times"),
        (Giver(100 * MB, 100, faults={"stalled": 3}), "b stood still, 3 times"),
        (Giver(100 * MB, 100, faults={"gone": 1}), "b could not be reached"),
        (Giver(100 * MB, 100, late=50), "50 pieces of b came sooner from another"),
        (Giver(100 * MB, 100, waited_s=90.0, sent_s=10.0), "0.9 s after it was asked for"),
    ],
)
def test_a_source_that_was_slow_is_named(giver: Giver, said: str) -> None:
    """With what it did."""
    assert said in judged(arrival(givers={"b": giver}))
    assert said not in judged(arrival(givers={"b": Giver(100 * MB, 100, sent_s=90.0)}))


def test_who_was_asked_while_nothing_came_is_named() -> None:
    """Not those that had been asked for a moment of it only."""
    givers = {"b": Giver(90 * MB, 90, still_s=6.0), "c": Giver(10 * MB, 10, still_s=1.0)}
    said = judged(arrival(still_s=6.0, givers=givers))
    assert "6.0 s (60 %) when nothing came, while b had been asked" in said


def test_the_weightiest_comes_first() -> None:
    """Of what took time."""
    said = verdict.judge(pull(arrival(met_s=3.0, first_s=6.0)), [], {}, None)
    assert said[0].startswith("6.0 s")
    assert said[1].startswith("3.0 s")


def test_a_registry_that_gives_slowly_is_named() -> None:
    """If this node's link carries more."""
    givers = {"@docker.io": Giver(80 * MB, 80), "b": Giver(20 * MB, 20)}
    said = judged(arrival(cold=True, givers=givers, link=100 * MB))
    assert "80 % came from docker.io, at 10.0 MB/s in all" in said
    assert "docker.io" not in judged(arrival(cold=True, givers=givers, link=11 * MB))


def test_a_client_that_feeds_the_mesh_is_named() -> None:
    """A private image comes by this machine's containerd."""
    givers = {CONTAINERD: Giver(100 * MB, 100)}
    assert "this machine's containerd" in judged(arrival(cold=True, givers=givers, link=100 * MB))


def test_a_sender_with_a_limit_is_named() -> None:
    """By what it says of its settings."""
    limited = {"seed": Rates(upload_limit=11 * MB)}
    assert "seed sends no faster than its upload-rate: 11.0 MB/s" in judged(arrival(), limited)
    free = {"seed": Rates(upload_limit=50 * MB)}
    assert "upload-rate" not in judged(arrival(), free)


def test_a_sender_with_a_limit_sends_to_all_that_pull_at_the_time() -> None:
    """None of them has its rate alone."""
    half = {"seed": Giver(50 * MB, 50), "a": Giver(50 * MB, 50)}
    other = pull(arrival(givers={"seed": Giver(55 * MB, 50)}), node="a")
    limited = {"seed": Rates(upload_limit=11 * MB)}
    one = pull(arrival(givers=half))
    assert "seed sends no faster" in verdict.judge(one, [other], limited, None)[0]
    assert "seed sends" not in verdict.judge(one, [], limited, None)[0]


def test_pieces_that_wait_are_no_fault_where_the_bound_is_reached() -> None:
    """They wait for the same link."""
    one = pull(arrival(givers={"b": Giver(100 * MB, 100, waited_s=90.0, sent_s=10.0)}))
    assert "after it was asked for" in verdict.judge(one, [], {}, 0.5)[0]
    assert verdict.judge(one, [], {}, 0.9) == [
        "nothing was slow: it went as fast as the links carry"
    ]


@pytest.mark.parametrize(
    ("reached", "said"),
    [
        (0.9, "nothing was slow: it went as fast as the links carry"),
        (0.3, "nothing stands out: the bytes came evenly, slower than the link carries"),
        (None, "nothing stands out; how fast the link is has not been seen yet"),
    ],
)
def test_if_nothing_stands_out_it_is_said_so(reached: float | None, said: str) -> None:
    """By the share of the bound."""
    assert verdict.judge(pull(), [], {}, reached) == [said]


# -- clients


def delivery(**figures: Any) -> Delivery:
    """10 s for 100 MB."""
    return Delivery("app", sha256(b"x"), 1000.0, bytes=100 * MB, took_s=10.0, **figures)


def test_a_client_that_waits_for_the_mesh() -> None:
    """It is not the client's fault."""
    (said,) = verdict.judge_delivery(delivery(opened_s=4.0, waited_s=5.5), 0)
    assert said == "9.5 s (95 %) for bytes that were not here yet"


def test_a_client_that_reads_slowly() -> None:
    """What it gets is here, and the link carries more."""
    for stored, link in ((True, 15 * MB), (False, 100 * MB)):
        (said,) = verdict.judge_delivery(delivery(stored=stored), link)
        assert "the client read slowly: 10.0 s (100 %), at 10.0 MB/s" in said
    assert verdict.judge_delivery(delivery(), 15 * MB) == []
    fast = Delivery("app", sha256(b"x"), 1000.0, bytes=600 * MB, took_s=10.0, stored=True)
    assert verdict.judge_delivery(fast, 0) == []


def test_a_client_that_got_nothing() -> None:
    """Whatever the reason, it is said."""
    (said,) = verdict.judge_delivery(delivery(failure="no such blob"), 0)
    assert said == "the client did not get it: no such blob"


def test_a_quick_delivery_is_not_worth_a_word() -> None:
    """Nor is one whose time went evenly."""
    quick = Delivery("app", sha256(b"x"), 1000.0, bytes=MB, took_s=0.5, opened_s=0.4)
    assert verdict.judge_delivery(quick, 0) == []
