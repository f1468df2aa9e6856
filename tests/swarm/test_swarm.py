"""One swarm, told what happens: what it says to do about it."""

# ruff: noqa: D101, D102, D103 -- the names are sentences

from collections.abc import Iterable

import pytest

from oci_mesh.swarm import swarm as swarm_module
from oci_mesh.swarm.accusations import MAX_NAMED
from oci_mesh.swarm.events import (
    Ask,
    Asked,
    Begun,
    Cancel,
    Command,
    Completed,
    Dropped,
    Ended,
    Event,
    Failed,
    Fed,
    Feed,
    Refuse,
    Send,
    Tick,
    Viewed,
    Wanted,
)
from oci_mesh.swarm.peers import Fault
from oci_mesh.swarm.swarm import (
    COLD_PATIENCE_S,
    FIRST_WINDOW,
    GROWTH,
    HEDGE,
    LEAVE_OUT_S,
    MAX_HEDGES,
    MAX_WAIT_S,
    MIN_HEDGE_S,
    MIN_SILENT_S,
    MIN_WAIT_S,
    PATIENCE,
    PIECE_S,
    RETRY_S,
    SLACK_S,
    Swarm,
)
from oci_mesh.swarm.uplink import MAX_QUEUE, MIN_QUEUE, Uplink
from oci_mesh.swarm.view import ORIGIN, WAVE_BITS, Entry, View, key
from oci_mesh.swarm.window import Window
from tests.swarm.fleet import pieces_of

PIECES = 400
SEED = Entry("seed", "", complete=True)
ME = Entry("me", "", 0)


class Node:
    """A swarm, with the time, and what it asked for and was not answered."""

    def __init__(
        self,
        *others: Entry,
        have: Iterable[int] = (),
        pieces: int = PIECES,
        run: int = 1,
        slot: int = 0,
    ) -> None:
        self.now = 100.0
        self.run = run
        self.uplink = Uplink()
        self.window = Window()
        self.me = Entry("me", "", slot)
        self.swarm = Swarm("me", slot, pieces_of(pieces), self.uplink, self.window, have, run)
        self.open: dict[int, Ask] = {}
        self.others = others

    def tell(self, event: Event, after_s: float = 0.0) -> list[Command]:
        self.now += after_s
        commands = self.swarm.handle(event, self.now)
        for command in commands:
            if isinstance(command, Ask):
                self.open[command.request] = command
            elif isinstance(command, Cancel):
                del self.open[command.request]
        return commands

    def join(self) -> list[Ask]:
        return asks(self.tell(Viewed(View([self.me, *self.others], self.run))))

    def complete(self, ask: Ask, frontier: int = 0, after_s: float = 0.0) -> list[Command]:
        del self.open[ask.request]
        return self.tell(Completed(ask.request, frontier), after_s)

    def fail(self, ask: Ask, fault: Fault, frontier: int = 0) -> list[Command]:
        del self.open[ask.request]
        return self.tell(Failed(ask.request, fault, frontier))

    def until_due(self) -> list[Command]:
        """Pass the time until it says something."""
        for _ in range(10_000):
            due = self.swarm.next_deadline()
            assert due is not None
            self.now = max(self.now, due)
            if commands := self.tell(Tick()):
                return commands
        raise AssertionError

    def ask_of(self, piece: int) -> Ask:
        """What is asked for a piece."""
        (ask,) = (ask for ask in self.open.values() if ask.piece == piece)
        return ask


def asks(commands: Iterable[Command]) -> list[Ask]:
    return [command for command in commands if isinstance(command, Ask)]


def before_me(piece: int, nodes: int = 8) -> list[Entry]:
    """Who stands before `me` in the order of a piece, of the slots from 1 on."""
    others = (Entry(f"n{i}", "", i) for i in range(1, nodes))
    return [e for e in others if key(piece, e.slot, e.id) < key(piece, 0, "me")]


class TestWindow:
    def test_few_are_asked_for_at_first_in_order(self) -> None:
        node = Node(SEED)
        assert [ask.piece for ask in node.join()] == list(range(FIRST_WINDOW))

    def test_it_grows_with_each_piece_up_to_its_share(self) -> None:
        node = Node(SEED)
        node.join()
        sizes = []
        for _ in range(100):
            node.complete(min(node.open.values(), key=lambda ask: ask.piece))
            sizes.append(len(node.open))
        most = node.window.share(2)
        assert sizes == [min(FIRST_WINDOW + GROWTH * i, most) for i in range(1, 101)]

    def test_it_shrinks_when_there_are_more_blobs(self) -> None:
        node = Node(SEED)
        node.join()
        for _ in range(100):
            node.complete(next(iter(node.open.values())))
        for _ in range(4):
            node.window.enter()
        for _ in range(100):
            node.complete(next(iter(node.open.values())))
        assert len(node.open) == node.window.share(2) < 16

    def test_all_is_asked_for_once_in_order_and_then_it_is_complete(self) -> None:
        node = Node(SEED, have=[2, 5])
        pieces = [ask.piece for ask in node.join()]
        while node.open:
            commands = node.complete(next(iter(node.open.values())), after_s=0.1)
            pieces += [ask.piece for ask in asks(commands)]
        assert pieces == [p for p in range(node.swarm.pieces.count) if p not in (2, 5)]
        assert node.swarm.complete
        assert node.swarm.progress_at == node.now
        assert node.swarm.frontier == node.swarm.pieces.count


class TestWanted:
    def test_what_a_client_waits_for_goes_first(self) -> None:
        node = Node(SEED)
        asked = len(node.join())
        assert node.tell(Wanted(200, 203)) == []
        pieces = []
        for _ in range(3):
            commands = node.complete(next(iter(node.open.values())))
            pieces += [ask.piece for ask in asks(commands)]
        others = 3 * (1 + GROWTH) - 4
        assert pieces == [200, 201, 202, 203, *range(asked, asked + others)]

    def test_what_is_here_or_asked_for_is_not_asked_for_again(self) -> None:
        node = Node(SEED, have=[0, 1])
        pieces = [ask.piece for ask in node.join()]
        node.tell(Wanted(0, 40))
        while node.open:
            commands = node.complete(next(iter(node.open.values())))
            pieces += [ask.piece for ask in asks(commands)]
        assert pieces == list(range(2, node.swarm.pieces.count))

    def test_wanting_it_often_costs_nothing(self) -> None:
        """With all others busy, and with nobody there."""
        for node in (Node(SEED), Node()):
            node.join()
            for _ in range(200):
                node.tell(Wanted(100, 107))
            assert len(node.swarm._again) <= 8
            for _ in range(5):
                node.tell(Tick(), RETRY_S)
                node.tell(Wanted(100, 107))
            assert len(node.swarm._deadlines._heap) <= node.swarm.pieces.count


class TestClimbing:
    def test_the_parent_first_then_its_ancestors_then_a_seed(self) -> None:
        """Each once; `final` tells it that there is nobody else but a seed with many to send to."""
        others = [Entry(f"n{i}", "", i) for i in range(1, 8)]
        piece = next(p for p in range(9) if len(before_me(p)) > 4)
        node = Node(SEED, *others, have=range(piece))
        node.join()
        path = list(View([ME, SEED, *others]).path(piece, "me"))
        for peer in path:
            ask = node.ask_of(piece)
            assert ask.peer == peer
            assert ask.final == (peer in path[-2:])
            node.fail(ask, Fault.NOT_YET)
        assert all(ask.piece != piece for ask in node.open.values())
        assert node.tell(Tick(), RETRY_S) == [], "others have its room"
        again = asks(node.complete(next(iter(node.open.values()))))
        assert [ask.peer for ask in again if ask.piece == piece] == path[:1]

    def test_not_yet_is_about_one_piece_only(self) -> None:
        node = Node(SEED, Entry("other", "", complete=True))
        first = node.join()[0]
        (again,) = asks(node.fail(first, Fault.NOT_YET))
        assert again.piece == first.piece
        assert again.peer != first.peer
        later: set[str] = set()
        for _ in range(6):
            commands = node.complete(next(iter(node.open.values())))
            later.update(ask.peer for ask in asks(commands))
        assert later == {"seed", "other"}

    @pytest.mark.parametrize("fault", [Fault.BUSY, Fault.MISSING, Fault.GONE, Fault.STALLED])
    def test_another_fault_is_about_all_of_them_for_a_while(self, fault: Fault) -> None:
        node = Node(SEED, Entry("other", "", complete=True))
        first = node.join()[0]
        node.fail(first, fault)
        while node.now < 100.4:
            for ask in list(node.open.values()):
                if ask.request > FIRST_WINDOW:
                    assert ask.peer != first.peer
                node.complete(ask, after_s=0.01)
        later: set[str] = set()
        for _ in range(60):
            ask = next(iter(node.open.values()))
            later.update(a.peer for a in asks(node.complete(ask, after_s=0.2)))
        assert first.peer in later

    def test_a_liar_is_not_asked_again(self) -> None:
        node = Node(SEED, Entry("other", "", complete=True))
        first = node.join()[0]
        node.fail(first, Fault.CORRUPT)
        for ask in list(node.open.values()):
            node.complete(ask)
        while node.open:
            ask = next(iter(node.open.values()))
            assert ask.peer != first.peer
            node.complete(ask, after_s=0.5)
        assert node.swarm.complete

    def test_who_lied_in_another_swarm_is_asked_for_nothing_in_this_one(self) -> None:
        liar, other = (Entry(name, "", complete=True) for name in ("liar", "other"))
        node = Node(liar, other)
        asked = [ask for ask in node.join() if ask.peer == "liar"]
        assert asked
        commands = node.tell(Viewed(View([ME, liar, other]), ("liar",)))
        assert [c.request for c in commands if isinstance(c, Cancel)] == [a.request for a in asked]
        assert {ask.piece for ask in asks(commands)} == {ask.piece for ask in asked}
        assert {ask.peer for ask in asks(commands)} == {"other"}
        assert node.swarm.named == ("liar",)

    def test_some_of_many_that_lied_are_named(self) -> None:
        node = Node()
        liars = tuple(f"liar {i}" for i in range(2 * MAX_NAMED))
        node.tell(Viewed(View([ME]), liars))
        assert node.swarm.named == liars[:MAX_NAMED]

    def test_who_is_accused_is_asked_after_others_but_before_a_busy_seed(self) -> None:
        """So no lie of others has a seed send more."""
        piece = next(p for p in range(99) if len(before_me(p)) > 1)
        node = Node(SEED, *before_me(piece), have=[p for p in range(PIECES) if p != piece])
        path = list(View([ME, SEED, *before_me(piece)]).path(piece, "me"))
        assert len(path) > 2
        for accuser in ("a", "b"):
            node.tell(Asked(1, 10**6, accuser, 9, 1.0, named=(path[0],)))
        assert node.join() == []
        (ask,) = asks(node.tell(Tick(), RETRY_S))
        tried = [ask.peer]
        while len(tried) < len(path):
            (ask,) = asks(node.fail(ask, Fault.NOT_YET))
            tried.append(ask.peer)
        assert tried == [*path[1:-1], path[0], "seed"]

    def test_nobody_there_it_tries_again_a_little_later(self) -> None:
        node = Node()
        assert node.join() == []
        assert node.swarm.next_deadline() == node.now + RETRY_S
        node.others = (SEED,)
        assert node.join() == []
        assert len(asks(node.tell(Tick(), RETRY_S))) == FIRST_WINDOW

    def test_who_is_gone_is_not_asked_for_a_while_though_there_is_nobody_else(self) -> None:
        """Or it would be called on for each piece in turn, four times a second."""
        node = Node(SEED)
        for ask in node.join():
            assert node.fail(ask, Fault.GONE) == []
        began = node.now
        assert asks(node.until_due())
        assert node.now - began > 2 * RETRY_S

    def test_who_is_gone_is_in_no_tree_until_it_sends(self) -> None:
        node = Node(SEED)
        for ask in node.join():
            node.fail(ask, Fault.GONE)
        node.tell(Tick(), LEAVE_OUT_S)
        assert "seed" not in node.swarm._view.entries
        node.join()
        assert "seed" not in node.swarm._view.entries, "a new view brings it back"
        ask = asks(node.until_due())[0]
        assert ask.peer == "seed"
        node.complete(ask)
        node.tell(Tick(), LEAVE_OUT_S)
        assert "seed" in node.swarm._view.entries

    def test_a_slow_one_is_better_than_nobody(self) -> None:
        """While there are others it is left alone; nothing stands still for it when they go."""
        fast = [Entry(f"fast{i}", "", complete=True) for i in range(8)]
        node = Node(Entry("slow", "", complete=True), *fast)
        node.join()
        for _ in range(100):
            ask = next(iter(node.open.values()))
            node.tell(Begun(ask.request))
            node.complete(ask, after_s=3.0 if ask.peer == "slow" else 0.1)
        assert "slow" not in {ask.peer for ask in node.open.values()}
        for _ in range(100):
            ask = next(iter(node.open.values()))
            if ask.peer == "slow":
                break
            node.fail(ask, Fault.GONE)
        assert "slow" in {ask.peer for ask in node.open.values()}


class TestTime:
    def test_a_wait_that_brings_nothing_ends_by_itself(self) -> None:
        node = Node(SEED, Entry("other", "", complete=True))
        first = node.join()[0]
        assert MIN_WAIT_S <= first.wait_s <= MAX_WAIT_S
        assert node.swarm.next_deadline() == pytest.approx(100.0 + MIN_SILENT_S)
        (other,) = (ask for ask in asks(node.until_due()) if ask.piece == first.piece)
        assert other.peer != first.peer
        while first.request in node.open:
            node.until_due()
        assert node.now == pytest.approx(100.0 + first.wait_s + SLACK_S)
        assert node.swarm.in_flight == len(node.open)

    def test_once_begun_it_has_longer(self) -> None:
        node = Node(SEED, pieces=1)
        (ask,) = node.join()
        node.tell(Begun(ask.request), 0.5)
        assert node.until_due()[0] == Cancel(ask.request)
        assert node.now == pytest.approx(100.5 + PIECE_S)

    def test_deeper_swarms_wait_longer_for_what_takes_longer(self) -> None:
        node = Node(SEED, pieces=3000)
        node.join()
        for latency_s in (1.2 * MIN_WAIT_S / PATIENCE, 1.5 * MAX_WAIT_S / PATIENCE):
            for _ in range(20):
                node.now += latency_s
                for ask in list(node.open.values()):
                    node.tell(Begun(ask.request))
                for ask in list(node.open.values()):
                    node.complete(ask)
            (wait_s,) = {ask.wait_s for ask in node.open.values()}
            assert wait_s == pytest.approx(min(MAX_WAIT_S, PATIENCE * latency_s))

    def test_time_in_no_number_is_none(self) -> None:
        """A peer may say that it waits for `nan` seconds; timers still come in order."""
        node = Node()
        piece = next(p for p in range(9) if key(p, 0, "me") < key(p, 1, "late"))
        node.tell(Asked(1, piece, "late", 1, float("nan")))
        node.tell(Asked(2, piece, "late", 1, 1.0))
        assert Refuse(2, Fault.NOT_YET) in node.until_due()
        assert Refuse(1, Fault.NOT_YET) in node.until_due()

    def test_memory_of_requests_is_bounded_by_the_time(self) -> None:
        node = Node(SEED, pieces=3000)
        node.join()
        most = 0
        while node.open:
            ask = next(iter(node.open.values()))
            node.tell(Begun(ask.request))
            node.complete(ask, after_s=0.1)
            due = node.swarm.next_deadline()
            if due is not None and due <= node.now:
                node.tell(Tick())
            most = max(most, len(node.swarm._deadlines._heap))
        # One entry for asking and one for hedging, in each tenth of a second until both are past.
        assert most <= 2 * 10 * (MAX_WAIT_S + SLACK_S) + 2 * 64


class TestHedge:
    def started(self) -> Node:
        """All that is asked for is coming in; a piece usually takes 0.1 s."""
        node = Node(SEED, Entry("other", "", complete=True))
        node.join()
        for _ in range(30):
            ask = next(iter(node.open.values()))
            node.tell(Begun(ask.request))
            node.complete(ask, after_s=0.1)
        for ask in node.open.values():
            node.tell(Begun(ask.request))
        return node

    def test_what_takes_too_long_is_asked_of_another_as_well(self) -> None:
        node = self.started()
        before = dict(node.open)
        hedges = asks(node.until_due())
        assert hedges
        assert node.now >= 100.0 + max(MIN_HEDGE_S, HEDGE * 0.1)
        for hedge in hedges:
            (slow,) = (ask for ask in before.values() if ask.piece == hedge.piece)
            assert slow.peer != hedge.peer
            assert slow.request in node.open

    def test_a_few_at_a_time(self) -> None:
        node = self.started()
        before = len(node.open)
        sizes = []
        for _ in range(20):
            node.tell(Tick(), 0.1)
            sizes.append(len(node.open))
        assert max(sizes) == before + MAX_HEDGES

    @pytest.mark.parametrize("winner", [0, 1])
    def test_the_first_to_be_whole_counts_and_the_other_is_cancelled(self, winner: int) -> None:
        node = self.started()
        hedge = asks(node.until_due())[0]
        pair = [ask for ask in node.open.values() if ask.piece == hedge.piece]
        commands = node.complete(pair[winner])
        assert Cancel(pair[1 - winner].request) in commands
        assert node.swarm.has(hedge.piece)
        assert all(ask.piece != hedge.piece for ask in node.open.values())

    def test_what_does_not_begin_is_asked_of_a_seed_as_well(self) -> None:
        """Though that has others to send to: who is to send it may wait for one that never will."""
        node = Node(SEED, *(Entry(f"n{i}", "", i) for i in range(1, 9)))
        node.join()
        view = View([node.me, *node.others])
        late = next(a for a in node.open.values() if [*view.path(a.piece, "me")][1:] == ["seed"])
        assert not [a for a in asks(node.tell(Tick(), MIN_SILENT_S / 2)) if a.piece == late.piece]
        hedges = asks(node.tell(Tick(), MIN_SILENT_S))
        assert [hedge.peer for hedge in hedges if hedge.piece == late.piece] == ["seed"]
        assert late.request in node.open

    def test_one_of_two_that_fails_leaves_the_other(self) -> None:
        node = self.started()
        hedge = asks(node.until_due())[0]
        pair = [ask for ask in node.open.values() if ask.piece == hedge.piece]
        node.fail(pair[0], Fault.NOT_YET)
        assert node.ask_of(hedge.piece) == pair[1]

    def test_hedges_that_ended_make_room_for_others(self) -> None:
        node = self.started()
        for _ in range(4):
            hedge = asks(node.until_due())[0]
            for ask in [ask for ask in node.open.values() if ask.piece == hedge.piece][:1]:
                node.complete(ask)
            for ask in node.open.values():
                node.tell(Begun(ask.request))


class TestLateJoiner:
    def test_who_has_it_goes_before_a_seed(self) -> None:
        """Those that began long ago have the first pieces; the seed has others to send to."""
        old = [Entry(f"n{i}", "", i, frontier=100) for i in range(1, 9)]
        node = Node(SEED, *old)
        for _ in range(12):
            for ask in node.join():
                assert ask.peer != "seed"
            node.complete(next(iter(node.open.values())))
        assert len({ask.peer for ask in node.open.values()}) > 2

    def test_the_wave_before_is_asked_for_all_and_waited_for_when_it_is_busy(self) -> None:
        """Those of earlier waves have that to send to, seeds those of the first."""
        waves = [Entry(f"w{n}-{i}", "", (n << WAVE_BITS) + i) for n in range(3) for i in range(2)]
        node = Node(SEED, *waves, slot=3 << WAVE_BITS)
        for _ in range(40):
            for ask in node.join():
                assert ask.peer.startswith("w2")
            node.complete(next(iter(node.open.values())))
        first, other = "w2-0", "w2-1"
        for ask in [ask for ask in node.open.values() if ask.peer == first]:
            for again in asks(node.fail(ask, Fault.BUSY)):
                assert again.peer == other
        asked = next(iter(node.open.values()))
        (again, *_) = asks(node.fail(asked, Fault.BUSY))
        assert again.peer == first
        assert again.final

    @pytest.mark.parametrize("fault", [Fault.GONE, Fault.CORRUPT, Fault.MISSING])
    def test_where_the_wave_before_fails_the_one_before_that_is_asked(self, fault: Fault) -> None:
        waves = [Entry(f"w{n}", "", n << WAVE_BITS) for n in range(3)]
        node = Node(SEED, *waves, slot=3 << WAVE_BITS)
        node.join()
        asked = next(iter(node.open.values()))
        assert asked.peer == "w2"
        (again,) = (ask for ask in asks(node.fail(asked, fault)) if ask.piece == asked.piece)
        assert again.peer == "w1"

    def test_who_is_left_out_is_no_wave_any_more(self) -> None:
        """What then is the wave before is not scarce: there is no need to queue at one of it."""
        waves = [Entry("w1", "", 1 << WAVE_BITS), Entry("w0-0", "", 0), Entry("w0-1", "", 1)]
        node = Node(SEED, *waves, slot=2 << WAVE_BITS)
        asked = node.join()[0]
        assert asked.peer == "w1"
        (again, *_) = asks(node.fail(asked, Fault.CORRUPT))
        assert again.final
        node.tell(Tick(), LEAVE_OUT_S)
        (again, *_) = asks(node.complete(again))
        assert again.peer.startswith("w0")
        assert not again.final

    def test_what_nobody_has_yet_is_asked_for_along_the_tree(self) -> None:
        old = [Entry(f"n{i}", "", i, frontier=2) for i in range(1, 9)]
        view = View([ME, SEED, *old])
        node = Node(SEED, *old)
        for ask in node.join():
            if ask.piece >= 2:
                assert ask.peer == next(view.path(ask.piece, "me"))

    def test_seeds_that_are_many_carry_their_share(self) -> None:
        seeds = [Entry(f"s{i}", "", complete=True) for i in range(4)]
        node = Node(*seeds, Entry("n", "", 1, frontier=100))
        assert "n" not in {ask.peer for ask in node.join() if ask.peer.startswith("s")}
        assert {ask.peer for ask in node.open.values()} & {"s0", "s1", "s2", "s3"}

    @pytest.mark.parametrize("answer", ["completed", "failed"])
    def test_how_far_others_are_is_learnt_from_their_answers(self, answer: str) -> None:
        other = Entry("n", "", 1)
        node = Node(SEED, other)
        node.join()
        asked = next(ask for ask in node.open.values() if ask.peer == "n")
        if answer == "completed":
            node.complete(asked, frontier=300)
        else:
            node.fail(asked, Fault.NOT_YET, frontier=300)
        for _ in range(30):
            node.complete(next(iter(node.open.values())))
        assert {ask.peer for ask in node.open.values()} == {"n"}

    def test_without_a_seed_anybody_who_has_it_is_asked(self) -> None:
        """Of many nodes, one has it, and stands behind this one."""
        others = [Entry(f"n{i}", "", i) for i in range(1, 60)]
        for rich in others:
            node = Node(
                *(e for e in others if e is not rich),
                Entry(rich.id, "", rich.slot, frontier=PIECES),
                have=range(1, PIECES),
            )
            (ask,) = node.join()
            tried = {ask.peer}
            while ask.peer != rich.id:
                (ask,) = asks(node.fail(ask, Fault.NOT_YET))
                assert ask.peer not in tried
                tried.add(ask.peer)


class TestAnswering:
    def waiting(self, node: Node, count: int = 1) -> list[Asked]:
        """Questions for pieces that come later, by one who stands behind this node there."""
        pieces = [p for p in range(PIECES) if key(p, 0, "me") < key(p, 1, "late")][:count]
        return [Asked(i, piece, "late", 1, 2.0) for i, piece in enumerate(pieces, 1)]

    def test_what_is_here_is_sent(self) -> None:
        node = Node(have=[3])
        assert node.tell(Asked(7, 3, "anybody", -1, 1.0)) == [Send(7, 3)]

    def test_what_comes_is_sent_when_it_comes(self) -> None:
        node = Node(SEED)
        node.join()
        (asked,) = self.waiting(node)
        assert node.tell(asked) == []
        assert Send(1, asked.piece) in node.complete(node.ask_of(asked.piece))

    def test_it_is_held_for_those_behind_only(self) -> None:
        """I1; whatever either believes: both slots are facts."""
        node = Node(SEED)
        for piece in range(40):
            mine = key(piece, 0, "me")
            for ticket, (peer, slot) in enumerate([("a", 0), ("z", 0), ("b", 1), ("c", -1)]):
                commands = node.tell(Asked(ticket + 10 * piece, piece, peer, slot, 1.0))
                expected = Refuse(ticket + 10 * piece, Fault.NOT_YET)
                assert (expected not in commands) == (mine < key(piece, slot, peer))

    def test_who_has_no_slot_holds_nothing(self) -> None:
        swarm = Swarm("me", -1, pieces_of(9), Uplink(), Window())
        for piece in range(9):
            assert swarm.handle(Asked(piece, piece, "n", 1, 1.0), 0.0)[0] == Refuse(
                piece, Fault.NOT_YET
            )

    def test_it_is_held_no_longer_than_asked_for(self) -> None:
        node = Node()
        asked, forever = self.waiting(node, 2)
        node.tell(asked)
        node.tell(Asked(9, forever.piece, "late", 1, 1e9))
        assert Refuse(1, Fault.NOT_YET) not in node.tell(Tick(), 1.9)
        assert Refuse(1, Fault.NOT_YET) in node.tell(Tick(), 0.2)
        assert Refuse(9, Fault.NOT_YET) in node.tell(Tick(), MAX_WAIT_S)

    def test_who_hung_up_is_forgotten(self) -> None:
        node = Node(SEED)
        node.join()
        (asked,) = self.waiting(node)
        node.tell(asked)
        node.tell(Dropped(1))
        node.tell(Dropped(77))
        assert not any(isinstance(c, Send) for c in node.complete(node.ask_of(asked.piece)))

    def test_there_is_a_most_that_it_holds(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(swarm_module, "MAX_HELD", 5)
        node = Node()
        answers = [node.tell(asked) for asked in self.waiting(node, 6)]
        assert answers == [[]] * 5 + [[Refuse(6, Fault.BUSY)]]
        node.tell(Dropped(1))
        assert node.tell(Asked(7, self.waiting(node)[0].piece, "late", 1, 1.0)) == []

    def test_busy_unless_there_is_nobody_else(self) -> None:
        """And then, too, when there is no more room at all."""
        node = Node(have=[0])
        for i in range(100):
            node.uplink.enqueue(("other", i), 10_000_000, 0.0)
        node.uplink.finished(("other", 0), 10.0)
        assert len(node.uplink) > MIN_QUEUE
        assert node.tell(Asked(1, 0, "n", 1, 1.0)) == [Refuse(1, Fault.BUSY)]
        assert node.tell(Asked(2, 0, "n", 1, 1.0, final=True)) == [Send(2, 0)]
        for i in range(MAX_QUEUE):
            node.uplink.enqueue(("more", i), 1, 0.0)
        assert node.tell(Asked(3, 0, "n", 1, 1.0, final=True)) == [Refuse(3, Fault.BUSY)]

    def test_who_lied_is_served_after_those_who_ask_later_but_served(self) -> None:
        liar = Entry("liar", "", complete=True)
        node = Node(liar, have=[9])
        ask, waiting, begun = node.join()
        node.tell(Begun(begun.request))
        assert Cancel(waiting.request) in node.fail(ask, Fault.CORRUPT)
        assert list(node.open) == [begun.request], "what begun to come may be right"
        assert node.swarm.named == ("liar",)
        sent = {}
        for ticket, peer in enumerate(["a", "b", "c", "d", "liar", "honest"]):
            (send,) = node.tell(Asked(ticket, 9, peer, 1, 1.0))
            assert isinstance(send, Send)
            sent[peer] = node.uplink.enqueue(peer, 1, node.now, last=send.last)
        assert sent == {"a": ["a"], "b": ["b"], "c": ["c"], "d": ["d"], "liar": [], "honest": []}
        assert node.uplink.finished("a", node.now) == ["honest"]
        assert node.uplink.finished("b", node.now) == ["liar"]

    def test_who_is_accused_by_two_is_served_last_also_what_it_waited_for(self) -> None:
        node = Node(SEED, have=[0])
        node.join()
        held = self.waiting(node, 2)[-1]
        assert node.tell(held) == []
        for i, accuser in enumerate(["a", "a", "late"], 2):
            node.tell(Asked(i, 10**6, accuser, 1, 1.0, named=("late",)))
        assert node.tell(Asked(9, 0, "late", 1, 1.0)) == [Send(9, 0)]
        node.tell(Asked(8, 10**6, "b", 1, 1.0, named=("late",)))
        assert node.tell(Asked(9, 0, "late", 1, 1.0)) == [Send(9, 0, last=True)]
        sent = node.complete(node.ask_of(held.piece))
        assert Send(held.ticket, held.piece, last=True) in sent

    def test_who_is_served_last_hears_sooner_that_it_is_busy(self) -> None:
        node = Node(SEED, have=[0])
        for i in range(MIN_QUEUE + 4):
            node.uplink.enqueue(i, 1, node.now, last=True)
        for accuser in ("a", "b"):
            node.tell(Asked(1, 10**6, accuser, 1, 1.0, named=("late",)))
        assert node.tell(Asked(2, 0, "late", 1, 1.0)) == [Refuse(2, Fault.BUSY)]
        assert node.tell(Asked(3, 0, "n", 1, 1.0)) == [Send(3, 0)]
        assert node.tell(Asked(4, 0, "late", 1, 1.0, final=True)) == [Send(4, 0, last=True)]

    @pytest.mark.parametrize("piece", [-1, pieces_of(PIECES).count, 10**9])
    def test_there_is_no_such_piece(self, piece: int) -> None:
        assert Node().tell(Asked(1, piece, "n", 1, 1.0)) == [Refuse(1, Fault.MISSING)]


OUTSIDE = Entry(ORIGIN, "", complete=True)
RUN = 8


class TestOrigin:
    """While no node has it."""

    def rooted(self, others: Iterable[Entry], me: bool, start: int = 0) -> int:
        """The first piece of a run of which `me` is the root, or is not."""
        view = View([OUTSIDE, ME, *others], RUN)
        runs = range(start, PIECES, RUN)
        return next(p for p in runs if (next(view.path(p, "me")) == ORIGIN) == me)

    def others(self, count: int = 3) -> list[Entry]:
        return [Entry(f"n{i}", "", i) for i in range(1, count + 1)]

    def test_a_run_is_asked_for_at_once_and_in_order(self) -> None:
        """Beyond the first window; and then no more than the window."""
        node = Node(OUTSIDE, run=RUN)
        assert [(ask.peer, ask.piece) for ask in node.join()] == [(ORIGIN, p) for p in range(RUN)]

    def test_what_is_here_of_it_is_left_out(self) -> None:
        node = Node(OUTSIDE, run=RUN, have=[2, 3, 7])
        assert [ask.piece for ask in node.join()] == [0, 1, 4, 5, 6]

    def test_a_client_that_waits_has_its_run_asked_for_from_the_start(self) -> None:
        node = Node(OUTSIDE, run=RUN)
        node.join()
        node.tell(Wanted(205, 208))
        pieces = []
        while 208 not in pieces:
            pieces += [a.piece for a in asks(node.complete(next(iter(node.open.values()))))]
        assert pieces[: 2 * RUN] == list(range(200, 216))

    def test_who_is_no_root_asks_others(self) -> None:
        others = self.others()
        first = self.rooted(others, False)
        node = Node(OUTSIDE, *others, run=RUN, have=range(first))
        assert ORIGIN not in {ask.peer for ask in node.join()}

    def test_a_root_keeps_anybody_waiting(self) -> None:
        """It waits for nobody in the mesh; also before it asks."""
        others = self.others()
        node = Node(OUTSIDE, *others, run=RUN)
        node.join()
        ticket = 0
        for start in (self.rooted(others, True), self.rooted(others, True, 200)):
            for piece in range(start, start + RUN):
                for other in others:
                    ticket += 1
                    asked = Asked(ticket, piece, other.id, other.slot, 1.0)
                    assert Refuse(ticket, Fault.NOT_YET) not in node.tell(asked)

    @pytest.mark.parametrize("cancelled", [True, False])
    def test_who_is_no_root_any_more_sends_away_whom_it_may_have_to_ask(
        self, cancelled: bool
    ) -> None:
        """And withdraws what an origin has not begun to answer."""
        late = self.others()
        run = next(
            start
            for start in range(0, PIECES, RUN)
            if self.rooted([], True, start) == start and self.rooted(late, False, start) == start
        )
        node = Node(OUTSIDE, run=RUN, have=range(run))
        mine = [ask.request for ask in node.join()]
        ahead = next(e for p in [run] for e in late if key(p, e.slot, e.id) < key(p, 0, "me"))
        assert node.tell(Asked(1, run, ahead.id, ahead.slot, 5.0)) == []
        if not cancelled:
            node.tell(Begun(mine[0]))
        node.others = (OUTSIDE, *late)
        commands = node.tell(Viewed(View([ME, *node.others], RUN)))
        assert ([Cancel(r) for r in mine] == commands[:RUN]) == cancelled
        assert (Refuse(1, Fault.NOT_YET) in commands) == cancelled
        assert (ORIGIN in {ask.peer for ask in node.open.values()}) != cancelled

    def test_pieces_of_a_run_that_come_one_after_the_other_are_not_late(self) -> None:
        """However slow each is, within what a piece may take."""
        node = Node(OUTSIDE, run=RUN, pieces=RUN)
        first = node.join()

        def wait(seconds: float) -> None:
            for _ in range(30):
                assert node.tell(Tick(), seconds / 30) == []

        for ask in first:
            wait(0.9 * MIN_WAIT_S)
            node.tell(Begun(ask.request))
            wait(0.9 * PIECE_S)
            assert node.complete(ask) == []
        assert len(first) == RUN
        assert node.swarm.has(RUN - 1)

    def test_a_run_that_comes_to_a_halt_is_given_up(self) -> None:
        node = Node(OUTSIDE, run=RUN, pieces=RUN)
        first = node.join()
        node.tell(Begun(first[0].request), 5.0)
        node.complete(first[0], after_s=30.0)
        began = node.now
        assert node.until_due() == [Cancel(ask.request) for ask in first[1:]]
        assert node.now == pytest.approx(began + MIN_WAIT_S + SLACK_S)

    def test_a_run_that_does_not_begin_is_given_up_and_asked_for_again(self) -> None:
        node = Node(OUTSIDE, run=RUN, pieces=RUN)
        first = node.join()
        began = node.now
        cancelled = node.until_due()
        assert [Cancel(ask.request) for ask in first] == cancelled
        assert node.now == pytest.approx(began + MIN_WAIT_S + SLACK_S)
        again = asks(node.until_due())
        assert [ask.piece for ask in again] == [ask.piece for ask in first]

    def test_how_slow_it_is_makes_nobody_wait_longer_elsewhere(self) -> None:
        others = self.others()
        mine = self.rooted(others, True)
        node = Node(OUTSIDE, *others, run=RUN, have=range(mine))
        for ask in node.join():
            if ask.peer == ORIGIN:
                node.tell(Begun(ask.request), 8.0)
                node.complete(ask, after_s=8.0)
        assert {ask.wait_s for ask in node.open.values()} == {MIN_WAIT_S}

    @pytest.mark.parametrize("fault", [Fault.GONE, Fault.STALLED, Fault.MISSING])
    def test_who_cannot_reach_it_keeps_nobody_waiting_for_it(self, fault: Fault) -> None:
        """Others may reach it; they do not have to wait until a question times out."""
        others = self.others()
        mine = self.rooted(others, True)
        rest = [p for p in range(pieces_of(PIECES).count) if p // RUN != mine // RUN]
        node = Node(OUTSIDE, *others, run=RUN, have=rest)
        node.join()
        ticket = 0
        for other in others:
            ticket += 1
            assert node.tell(Asked(ticket, mine, other.id, other.slot, 60.0)) == []
        commands: list[Command] = []
        for ask in [ask for ask in node.open.values() if ask.peer == ORIGIN]:
            commands += node.fail(ask, fault)
        while not any(ask.peer == ORIGIN for ask in node.open.values()):
            commands += node.until_due()
        assert not any(isinstance(c, Refuse) for c in commands), "once says nothing"
        for ask in [ask for ask in node.open.values() if ask.peer == ORIGIN]:
            commands += node.fail(ask, fault)
        refused = [c for c in commands if isinstance(c, Refuse)]
        assert refused == [Refuse(t, Fault.NOT_YET) for t in range(1, ticket + 1)]
        assert node.tell(Asked(99, mine, "n1", 1, 9.0)) == [Refuse(99, Fault.NOT_YET)]

    def test_while_it_is_busy_all_wait(self) -> None:
        """It is so for others, too."""
        others = self.others()
        mine = self.rooted(others, True)
        node = Node(OUTSIDE, *others, run=RUN, have=range(mine))
        node.join()
        assert node.tell(Asked(1, mine, "n1", 1, 9.0)) == []
        for ask in [ask for ask in node.open.values() if ask.peer == ORIGIN]:
            assert not any(isinstance(c, Refuse) for c in node.fail(ask, Fault.BUSY))
        assert node.tell(Asked(2, mine, "n2", 2, 9.0)) == []

    def test_it_is_asked_again_after_a_while(self) -> None:
        node = Node(OUTSIDE, run=RUN)
        for _ in range(3):
            for ask in list(node.open.values()) or node.join():
                node.fail(ask, Fault.GONE)
            began = node.now
            assert {ask.peer for ask in asks(node.until_due())} == {ORIGIN}
            assert node.now >= began + 1.0

    def test_who_still_waits_is_asked_again_and_not_the_origin(self) -> None:
        """For long, but not for ever: it may never have it."""
        others = self.others()
        first = self.rooted(others, False)
        node = Node(OUTSIDE, *others, run=RUN, have=range(first))
        node.join()
        began, peers = node.now, []
        for _ in range(100):
            ask = node.ask_of(first)
            peers.append(ask.peer)
            if ask.peer == ORIGIN:
                break
            node.now += ask.wait_s + 0.1
            node.fail(ask, Fault.NOT_YET)
            for hedge in [a for a in node.open.values() if a.piece == first][1:]:
                node.fail(hedge, Fault.NOT_YET)
        assert peers[0] == peers[1] == peers[2]
        assert COLD_PATIENCE_S < node.now - began < 3 * COLD_PATIENCE_S

    def test_whoever_says_at_once_that_it_will_not_have_it_is_not(self) -> None:
        others = self.others()
        first = self.rooted(others, False)
        node = Node(OUTSIDE, *others, run=RUN, have=range(first))
        node.join()
        asked = []
        while ORIGIN not in asked:
            ask = node.ask_of(first)
            assert ask.peer not in asked
            asked.append(ask.peer)
            node.fail(ask, Fault.NOT_YET)


class TestFed:
    """All pieces of a node come from outside."""

    def test_it_asks_nobody(self) -> None:
        node = Node(SEED)
        node.tell(Feed())
        assert node.swarm.fed
        assert node.join() == []
        assert node.tell(Wanted(0, 9)) == []
        assert node.swarm.next_deadline() is None

    def test_what_was_asked_for_is_cancelled(self) -> None:
        node = Node(SEED)
        requests = [ask.request for ask in node.join()]
        assert node.tell(Feed()) == [Cancel(request) for request in requests]
        assert node.swarm.in_flight == 0

    def test_it_keeps_anybody_waiting_and_passes_on_what_comes(self) -> None:
        node = Node()
        node.tell(Feed())
        for piece in range(20):
            for ticket, slot in ((2 * piece, 1), (2 * piece + 1, -1)):
                assert node.tell(Asked(ticket, piece, "n", slot, 60.0)) == []
        for piece in range(20):
            assert node.tell(Fed(piece)) == [Send(2 * piece, piece), Send(2 * piece + 1, piece)]
            assert node.swarm.frontier == piece + 1
            assert node.swarm.progress_at == node.now

    def test_who_is_fed_no_longer_sends_all_away_and_asks(self) -> None:
        """It may come to wait for those who waited for it."""
        node = Node(SEED, have=[0])
        node.join()
        node.tell(Feed())
        node.tell(Fed(1))
        for ticket in range(5):
            node.tell(Asked(ticket, 9 + ticket, "n", -1, 60.0))
        commands = node.tell(Feed(on=False))
        assert commands[:5] == [Refuse(ticket, Fault.NOT_YET) for ticket in range(5)]
        assert [ask.piece for ask in asks(commands)] == list(range(2, 2 + FIRST_WINDOW))

    def test_a_piece_from_outside_is_asked_of_nobody_else(self) -> None:
        """Whoever is not fed may be given one as well."""
        node = Node(SEED, Entry("other", "", complete=True))
        first, second, *_ = node.join()
        node.until_due()
        pair = [ask for ask in node.open.values() if ask.piece == first.piece]
        assert len(pair) == 2
        commands = node.tell(Fed(first.piece))
        assert commands[:2] == [Cancel(ask.request) for ask in pair]
        assert node.tell(Fed(first.piece)) == []
        assert second.request in node.open
        while node.open:
            node.complete(next(iter(node.open.values())))
        assert node.swarm.complete


class TestEnded:
    def test_all_that_is_under_way_ends(self) -> None:
        node = Node(SEED, have=[9])
        requests = {ask.request for ask in node.join()}
        piece = next(p for p in range(9) if key(p, 0, "me") < key(p, 1, "late"))
        node.tell(Asked(1, piece, "late", 1, 2.0))
        commands = node.tell(Ended())
        assert {c.request for c in commands if isinstance(c, Cancel)} == requests
        assert Refuse(1, Fault.MISSING) in commands
        assert len(commands) == len(requests) + 1
        assert node.swarm.in_flight == 0

    def test_then_it_asks_for_nothing_but_gives_what_it_has(self) -> None:
        node = Node(SEED, have=[9])
        node.join()
        node.tell(Ended())
        assert node.tell(Viewed(View([ME, SEED]))) == []
        assert node.tell(Wanted(100, 104)) == []
        assert node.tell(Asked(1, 9, "n", 1, 1.0)) == [Send(1, 9)]
        assert node.tell(Asked(2, 8, "n", 1, 1.0)) == [Refuse(2, Fault.MISSING)]
        for _ in range(50):
            assert node.tell(Tick(), 5.0) == []
        assert node.swarm.next_deadline() is None


def test_answers_to_what_was_cancelled_change_nothing() -> None:
    """They may be on their way when it is."""
    node = Node(SEED, pieces=1)
    (ask,) = node.join()
    assert Cancel(ask.request) in node.until_due()
    for event in (Begun(ask.request), Completed(ask.request), Failed(ask.request, Fault.CORRUPT)):
        node.tell(event)
    assert not node.swarm.complete
    node.now += 100.0
    assert asks(node.until_due()), "it would not be asked, had the late answer banned it"
