"""Plain BitTorrent: rarest first among random neighbours, tit for tat, endgame.

After Cohen's paper and libtorrent's defaults, without its refinements. Kinder to it than the real
one: "have" messages are instant and cost nothing, the tracker answers at once, and a peer that
dies or lies is dropped by all its neighbours. Less kind: a piece comes whole from one neighbour
(but for the endgame). Lost messages and outdated views do not concern it.
"""

from collections import deque
from random import Random
from typing import Final

from benchmarks.simulator.network import Flow, Host
from benchmarks.simulator.outcome import World
from benchmarks.simulator.scenario import SOURCE, Part, chance

# About a thousand pieces, as torrent makers choose.
MIN_PIECE_BYTES: Final = 256 * 1024
PIECES: Final = 1024

NEIGHBOURS: Final = 50  # a tracker's answer; others may come until there are
MAX_NEIGHBOURS: Final = 80

UNCHOKED: Final = 4  # besides the optimistic one
RECHOKE_S: Final = 10.0
OPTIMISTIC_ROUNDS: Final = 3  # the optimistic one changes every so many
PIPELINE: Final = 3  # pieces asked of one neighbour
OUTSTANDING: Final = 16  # of all of them

# "Have" messages make the work grow with nodes x pieces x neighbours: 1,000 nodes and 1 GiB take
# some minutes; beyond, hours.
MAX_NODES: Final = 1000


class _Link:
    """One direction: from a peer to another that asks it for pieces."""

    __slots__ = ("flow", "moved", "queue", "receiver", "sender", "unchoked")

    def __init__(self, sender: "_Peer", receiver: "_Peer") -> None:
        self.sender = sender
        self.receiver = receiver
        self.queue: deque[int] = deque()  # asked for; the first is being sent if there is a flow
        self.flow: Flow | None = None
        self.unchoked = False
        self.moved = 0  # bytes since the last rechoke


class _Peer:
    __slots__ = (
        "have",
        "host",
        "joined",
        "liar",
        "links_in",
        "links_out",
        "optimistic",
        "outstanding",
        "pending",
        "ranks",
        "seen",
        "turn",
    )

    def __init__(self, host: Host, pieces: int, *, liar: bool) -> None:
        self.host = host
        self.liar = liar
        self.joined = False
        self.have = 0  # a bit for each piece
        self.pending: dict[int, list[_Link]] = {}
        self.outstanding = 0
        self.seen = [0] * pieces  # how many neighbours have it
        self.ranks = [(1 << pieces) - 1] + [0] * MAX_NEIGHBOURS  # pieces by `seen`, as bits
        self.links_in: dict[_Peer, _Link] = {}
        self.links_out: dict[_Peer, _Link] = {}
        self.optimistic: _Link | None = None
        self.turn = 0


class BitTorrent:
    """All blobs as one torrent."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random: Random = chance(world.scenario, "bittorrent")
        size = world.scenario.size
        piece = MIN_PIECE_BYTES
        while piece * PIECES < size:
            piece *= 2
        self._count = -(-size // piece)
        self._sizes = [piece] * (self._count - 1) + [size - piece * (self._count - 1)]
        self._all = (1 << self._count) - 1
        self._peers = [
            _Peer(host, self._count, liar=part.liar)
            for host, part in zip(world.hosts, world.cast.parts, strict=True)
        ]
        self._swarm: list[_Peer] = []
        self._dying = sum(part.dies is not None for part in world.cast.parts)

    def start(self) -> None:
        self._peers[SOURCE].have = self._all
        self._join(self._world.cast.parts[SOURCE])
        for part in self._world.cast.parts[1:]:
            self._world.clock.at(part.start, self._join, part)
            if part.dies is not None:
                self._world.clock.at(part.dies, self._kill, self._peers[part.index])

    def _join(self, part: Part) -> None:
        peer = self._peers[part.index]
        candidates = [p for p in self._swarm if len(p.links_in) < MAX_NEIGHBOURS]
        for other in self._random.sample(candidates, min(NEIGHBOURS, len(candidates))):
            for sender, receiver in ((peer, other), (other, peer)):
                link = _Link(sender, receiver)
                sender.links_out[receiver] = receiver.links_in[sender] = link
                self._see(receiver, sender.have, 1)
        peer.joined = True
        self._swarm.append(peer)
        for link in list(peer.links_in.values()):
            self._interest(link)
        phase = self._random.uniform(0, RECHOKE_S)
        self._world.clock.at(self._world.clock.now + phase, self._rechoke, peer)

    @staticmethod
    def _see(peer: _Peer, pieces: int, by: int) -> None:
        seen, ranks = peer.seen, peer.ranks
        while pieces:
            bit = pieces & -pieces
            pieces ^= bit
            index = bit.bit_length() - 1
            ranks[seen[index]] ^= bit
            seen[index] += by
            ranks[seen[index]] ^= bit

    def _interest(self, link: _Link) -> None:
        """The receiver may want something of the sender: a free slot is its at once."""
        if link.unchoked:
            self._request(link)
        elif link.sender.have & ~link.receiver.have:
            open_links = sum(out.unchoked for out in link.sender.links_out.values())
            if open_links <= UNCHOKED:
                link.unchoked = True
                self._request(link)

    def _request(self, link: _Link) -> None:
        """Ask for as much as may be under way on this link."""
        receiver = link.receiver
        while len(link.queue) < PIPELINE and receiver.outstanding < OUTSTANDING:
            piece = self._pick(link)
            if piece is None:
                return
            receiver.pending.setdefault(piece, []).append(link)
            receiver.outstanding += 1
            link.queue.append(piece)
            if link.flow is None and len(link.queue) == 1:
                clock, network = self._world.clock, self._world.network
                delay = network.delay(receiver.host, link.sender.host)
                clock.at(clock.now + delay, self._send, link)

    def _pick(self, link: _Link) -> int | None:
        """The rarest piece, by chance among equals; one that was asked of another in the end."""
        receiver = link.receiver
        wanted = link.sender.have & ~receiver.have
        pending = 0
        for piece in receiver.pending:
            pending |= 1 << piece
        fresh = wanted & ~pending
        if not fresh:
            if self._all & ~receiver.have & ~pending:
                return None
            for piece, links in receiver.pending.items():
                if wanted >> piece & 1 and link not in links:
                    return piece
            return None
        for rank in receiver.ranks[1:]:
            rare = fresh & rank
            if rare:
                shift = self._random.randrange(self._count)
                high = rare >> shift << shift or rare
                return (high & -high).bit_length() - 1
        raise AssertionError("a neighbour's piece is seen at least once")

    def _send(self, link: _Link) -> None:
        if link.flow is not None or not link.queue or not link.sender.host.alive:
            return
        link.flow = Flow(
            link.sender.host,
            link.receiver.host,
            self._sizes[link.queue[0]],
            (link, link.queue[0]),
            left=self._left,
            arrived=self._arrived,
            cut=self._cut,
        )
        self._world.network.send(link.flow)

    def _left(self, flow: Flow) -> None:
        link, piece = flow.subject
        link.flow = None
        if link.queue and link.queue[0] == piece:
            link.queue.popleft()
        self._send(link)

    def _cut(self, flow: Flow) -> None:
        """Nothing: `_kill` drops the dead from all its neighbours."""

    def _arrived(self, flow: Flow) -> None:
        link, piece = flow.subject
        peer, size = link.receiver, flow.size
        self._forget(peer, piece, link)
        if link.sender.liar:
            self._world.count("false pieces")
            self._drop(peer, link.sender)
            return
        if peer.have >> piece & 1:
            self._world.count("twice")
            return
        for other in list(peer.pending.get(piece, ())):
            self._forget(peer, piece, other)
            if other.flow is not None and other.flow.subject[1] == piece:
                self._world.network.abort(other.flow)
            elif piece in other.queue:
                other.queue.remove(piece)
        link.moved += size
        peer.have |= 1 << piece
        self._world.got(peer.host, size)
        self._request(link)
        self._tell(peer, piece)

    def _tell(self, peer: _Peer, piece: int) -> None:
        bit = 1 << piece
        for other, link in peer.links_out.items():
            seen, ranks = other.seen, other.ranks
            ranks[seen[piece]] ^= bit
            seen[piece] += 1
            ranks[seen[piece]] ^= bit
            if not other.have & bit and other.outstanding < OUTSTANDING:
                self._interest(link)

    @staticmethod
    def _forget(peer: _Peer, piece: int, link: _Link) -> None:
        links = peer.pending.get(piece, [])
        if link in links:
            links.remove(link)
            peer.outstanding -= 1
            if not links:
                del peer.pending[piece]

    def _choke(self, link: _Link) -> None:
        """Forget what it has asked for, but for what is being sent."""
        link.unchoked = False
        keep = 1 if link.flow is not None else 0
        while len(link.queue) > keep:
            self._forget(link.receiver, link.queue.pop(), link)

    def _rechoke(self, peer: _Peer) -> None:
        """Give the slots to those who gave most; a seed, to those who take fastest."""
        if not peer.host.alive:
            return
        links = [x for x in peer.links_out.values() if peer.have & ~x.receiver.have]
        self._random.shuffle(links)
        if peer.have == self._all:
            links.sort(key=lambda link: -link.moved)
        else:
            links.sort(key=lambda link: -peer.links_in[link.receiver].moved)
        chosen, rest = links[:UNCHOKED], links[UNCHOKED:]
        if peer.turn % OPTIMISTIC_ROUNDS == 0 or peer.optimistic not in rest:
            peer.optimistic = self._random.choice(rest) if rest else None
        peer.turn += 1
        if peer.optimistic is not None:
            chosen.append(peer.optimistic)
        for link in list(peer.links_out.values()):
            if link.unchoked and link not in chosen:
                self._choke(link)
        for link in peer.links_in.values():
            link.moved = 0
        for link in chosen:
            link.unchoked = True
            self._request(link)
        # What was given back by those that were choked is asked of others.
        for link in list(peer.links_in.values()):
            if link.unchoked:
                self._request(link)
        self._world.clock.at(self._world.clock.now + RECHOKE_S, self._rechoke, peer)

    def _drop(self, peer: _Peer, other: _Peer) -> None:
        """End the connection between two peers."""
        for receiver, sender in ((peer, other), (other, peer)):
            link = receiver.links_in.pop(sender, None)
            if link is None:
                continue
            del sender.links_out[receiver]
            self._see(receiver, sender.have, -1)
            for piece in [p for p, links in receiver.pending.items() if link in links]:
                self._forget(receiver, piece, link)
            link.queue.clear()
            if link.flow is not None:
                self._world.network.abort(link.flow)
            for left in list(receiver.links_in.values()):
                if left.unchoked:
                    self._request(left)

    def _kill(self, peer: _Peer) -> None:
        self._world.network.kill(peer.host, silent=False)
        if peer in self._swarm:
            self._swarm.remove(peer)
        for other in list(peer.links_out):
            self._drop(other, peer)
        self._dying -= 1
        if not self._dying and self._world.scenario.kill_source:
            self._reap_source()

    def _reap_source(self) -> None:
        """The source dies once others have all; looked at now and then."""
        source, others = self._peers[SOURCE], 0
        for peer in self._swarm:
            if peer is not source:
                others |= peer.have
        if others == self._all:
            self._kill_source(source)
        else:
            clock = self._world.clock
            clock.at(clock.now + self._world.bound / 100, self._reap_source)

    def _kill_source(self, source: _Peer) -> None:
        self._world.network.kill(source.host, silent=False)
        self._swarm.remove(source)
        for other in list(source.links_out):
            self._drop(other, source)
