"""What is remembered of the last pulls, and that it stays bounded."""

import msgspec
import pytest

from oci_mesh.journal import (
    KEPT,
    MAX_FAULTS,
    MAX_GIVERS,
    OTHERS,
    Arrival,
    Delivery,
    Journal,
    Meter,
    Taking,
    plain,
)
from oci_mesh.spec.digest import Digest

DIGEST = Digest.of(b"x")


class Clock:
    """Seconds as a test says."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        """Now."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Of one test."""
    return Clock()


def taking(journal: Journal, clock: Clock) -> Taking:
    """Of a blob of 1000 bytes that is asked for from now on."""
    taking = journal.take("app", DIGEST, clock)
    taking.begin(1000, cold=False, kept=0)
    return taking


def write(one: Taking, clock: Clock) -> None:
    """Fail at it, after a while."""
    with one.timed("stored_s"):
        clock.now += 8
        raise OSError("full")


def ended(journal: Journal) -> Arrival:
    """The only record."""
    (arrival,) = journal.arrivals("app", {str(DIGEST)}, 10)
    return arrival


def test_a_blob_that_is_on_its_way_is_not_told_of(clock: Clock) -> None:
    """Its figures would mean nothing yet."""
    journal = Journal()
    one = taking(journal, clock)
    assert journal.arrivals("app", {str(DIGEST)}, 10) == []
    one.end("")
    assert ended(journal).ended


def test_where_the_time_goes(clock: Clock) -> None:
    """Each step by itself, and all of it."""
    journal = Journal(limit=77)
    one = journal.take("app", DIGEST, clock)
    with one.timed("met_s"):
        clock.now += 1
    for _ in range(2):
        with one.timed("listed_s"):
            clock.now += 2
    one.begin(1000, cold=True, kept=0)
    clock.now += 4
    one.came("a", 1000)
    with pytest.raises(OSError, match="full"):
        write(one, clock)
    one.end("")
    arrival = ended(journal)
    assert (arrival.met_s, arrival.listed_s, arrival.first_s, arrival.stored_s) == (1, 4, 4, 8)
    assert (arrival.took_s, arrival.limit, arrival.cold) == (17, 77, True)


def test_what_came_from_whom(clock: Clock) -> None:
    """Pieces, bytes and times of each; what went wrong; what came for nothing."""
    journal = Journal()
    one = taking(journal, clock)
    one.came("a", 300, waited_s=0.5, sent_s=0.25)
    one.came("a", 300, waited_s=0.5, sent_s=0.25)
    one.came("b", 400)
    one.late("b")
    one.fault("c", "stalled")
    one.fault("c", "stalled")
    one.received(1200)
    one.end("")
    arrival = ended(journal)
    a, b, c = (arrival.givers[name] for name in "abc")
    assert (a.bytes, a.pieces, a.waited_s, a.sent_s) == (600, 2, 1.0, 0.5)
    assert (b.bytes, b.late) == (400, 1)
    assert (c.bytes, c.faults) == (0, {"stalled": 2})
    assert arrival.wasted == 200


def test_a_failed_attempt_gives_nothing_but_its_faults(clock: Clock) -> None:
    """Its bytes were dropped, so they came for nothing."""
    journal = Journal()
    one = taking(journal, clock)
    one.came("liar", 1000)
    one.fault("liar", "corrupt")
    one.received(1000)
    one.begin(1000, cold=False, kept=100)
    one.came("b", 900)
    one.received(900)
    one.end("")
    arrival = ended(journal)
    assert arrival.givers["liar"].bytes == 0
    assert arrival.givers["liar"].faults == {"corrupt": 1}
    assert arrival.givers[KEPT].bytes == 100
    assert arrival.attempts == 2
    assert arrival.wasted == 900  # of the first attempt's 1000, 100 were kept


def test_what_was_here_before_is_no_use_of_what_came(clock: Clock) -> None:
    """It did not come now."""
    journal = Journal()
    one = journal.take("app", DIGEST, clock)
    one.begin(1000, cold=False, kept=400)
    one.came("a", 600)
    one.received(700)
    one.end("")
    assert ended(journal).wasted == 100


def test_standing_still_is_laid_to_those_who_are_asked(clock: Clock) -> None:
    """Only while nothing at all comes."""
    journal = Journal()
    one = taking(journal, clock)
    clock.now += 1
    one.sample(500, lambda: {"a"})
    clock.now += 1
    one.sample(500, lambda: {"a", "b"})
    clock.now += 1
    one.sample(500, lambda: {"b"})
    clock.now += 0.1
    one.sample(500, lambda: {"b"})  # too soon to tell
    one.end("")
    arrival = ended(journal)
    assert arrival.still_s == 2
    assert (arrival.givers["a"].still_s, arrival.givers["b"].still_s) == (1, 2)


def test_the_most_nodes_of_a_swarm(clock: Clock) -> None:
    """Those that want it, and those that have it, each at its time."""
    journal = Journal()
    one = taking(journal, clock)
    one.swarm(5, 1)
    one.swarm(2, 4)
    one.end("")
    assert (ended(journal).wanting, ended(journal).having) == (5, 4)


def test_records_are_bounded(clock: Clock) -> None:
    """In number, in givers, in kinds of faults, in text; sums stay right."""
    journal = Journal(most=3)
    for _ in range(5):
        one = taking(journal, clock)
        for number in range(40):
            one.came(f"n{number:02}", 10 + number)
        for number in range(40):
            one.fault("n39", f"fault {number}")
        one.end("x" * 10_000 + "\x1b")
    found = journal.arrivals("app", {str(DIGEST)}, 10)
    assert len(found) == 3
    assert len(journal.arrivals("app", {str(DIGEST)}, 2)) == 2
    assert len(found[0].givers) == MAX_GIVERS + 1
    assert sum(giver.bytes for giver in found[0].givers.values()) == sum(range(10, 50))
    assert found[0].givers[OTHERS].pieces == 40 - MAX_GIVERS
    assert len(found[0].givers["n39"].faults) == MAX_FAULTS
    for arrival in found:  # what is written here, other nodes take
        assert msgspec.json.decode(msgspec.json.encode(arrival), type=Arrival) == arrival


def test_only_what_is_asked_for_is_told(clock: Clock) -> None:
    """Of that repository, of these digests; the newest first."""
    journal = Journal()
    for repository, content in (("app", b"1"), ("app", b"2"), ("other", b"1")):
        journal.take(repository, Digest.of(content), clock).end("")
        journal.note(Delivery(repository, str(Digest.of(content)), 5.0))
    both = {str(Digest.of(b"1")), str(Digest.of(b"2"))}
    digests = [a.digest for a in journal.arrivals("app", both, 10)]
    assert digests == [str(Digest.of(b"2")), str(Digest.of(b"1"))]
    assert [d.digest for d in journal.deliveries("app", both, 10)] == digests
    assert len(journal.arrivals("app", {str(Digest.of(b"1"))}, 10)) == 1


def test_the_link_is_measured_over_seconds() -> None:
    """Of all that comes together; a burst after a rest is none."""
    meter = Meter()
    meter.add(0, 10.0)
    meter.add(300, 10.5)
    meter.add(700, 11.0)
    assert meter.best == 1000
    meter.add(50_000, 60.0)  # since long ago, or at once: nobody knows
    assert meter.best == 1000
    meter.add(3000, 61.5)
    assert meter.best == 2000


def test_short_transfers_tell_little_of_the_link() -> None:
    """Buffers carry them."""
    meter = Meter()
    meter.rate(1_000_000, 0.01)
    assert meter.best == 0
    meter.rate(1000, 0.5)
    assert meter.best == 2000


def test_text_is_made_fit_for_a_terminal() -> None:
    """Whatever an error quotes."""
    assert plain("a\x1b[31m\nb\u202e") == "a?[31m?b?"


@pytest.mark.parametrize(
    "record",
    [
        {"repository": "app", "digest": "x\x1b[2J", "at": 1},
        {"repository": "app", "digest": "x", "at": 1, "givers": {"\n": {}}},
        {"repository": "app", "digest": "x", "at": 1, "failure": "y" * 1000},
        {"repository": "app", "digest": "x", "at": 1, "size": 2**63},
        {"repository": "app", "digest": "x", "at": -5.0},
        {"repository": "app", "digest": "x", "at": 1, "givers": {str(n): {} for n in range(99)}},
    ],
)
def test_records_of_others_are_bounded_too(record: dict[str, object]) -> None:
    """What a node says goes to a terminal, and through sums."""
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(record), type=Arrival)
