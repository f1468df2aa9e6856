"""What pulls came to: which bound they reached, what was slow, and why. Pure.

The figures are those that nodes gave of themselves (`journal`). Where a figure is not known, what
is taken instead is said.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from oci_mesh.control.explain import Bound
from oci_mesh.journal import CONTAINERD, KEPT, OTHERS, Arrival, Delivery, Giver
from oci_mesh.quantity import size_text
from oci_mesh.spec.digest import short

# Blobs that begin so soon after another ended are of one pull: clients ask for some at a time.
TOGETHER_S: Final = 2.0

# Nobody asks what was slow about less.
QUICK_S: Final = 1.0

# Of the time of a blob: worth naming.
NOTABLE: Final = 0.2

# Of a rate: as good as reached.
REACHED: Final = 0.8

# Bytes a second that a client of this machine reads at least of what is on it.
LOCAL_RATE: Final = 50_000_000

# A piece waits for so long at a node that is behind, or sends to many.
_LONG_WAIT_S: Final = 0.5


class Rates(NamedTuple):
    """What is known of a node's link: bytes a second; 0 is unknown, or no limit."""

    link: int = 0
    download_limit: int = 0
    upload_limit: int = 0

    @property
    def down(self) -> float:
        """That can come in."""
        return _least(self.link, self.download_limit)

    @property
    def up(self) -> float:
        """That can go out, if the link is as good in both directions."""
        return _least(self.link, self.upload_limit)


class Joined(NamedTuple):
    """Blobs that came to one node together."""

    node: str
    arrivals: tuple[Arrival, ...]

    @property
    def at(self) -> float:
        """When the first began, in seconds since 1970."""
        return min(a.at for a in self.arrivals)

    @property
    def end(self) -> float:
        """When the last ended."""
        return max(a.at + a.took_s for a in self.arrivals)

    @property
    def took_s(self) -> float:
        """All of them."""
        return self.end - self.at

    @property
    def givers(self) -> dict[str, Giver]:
        """Of all blobs, those that gave most first."""
        total: dict[str, Giver] = {}
        for name, giver in ((n, g) for a in self.arrivals for n, g in a.givers.items()):
            total[name] = _sum(total.get(name, Giver()), giver)
        return dict(sorted(total.items(), key=lambda item: -item[1].bytes))

    @property
    def bytes(self) -> int:
        """That came, and were of use."""
        return sum(g.bytes for name, g in self.givers.items() if name != KEPT)


def join(node: str, arrivals: Iterable[Arrival]) -> list[Joined]:
    """The pulls that these blobs were of, newest first."""
    pulls: list[list[Arrival]] = []
    end = 0.0
    for arrival in sorted(arrivals, key=lambda a: a.at):
        if not pulls or arrival.at > end + TOGETHER_S:
            pulls.append([])
            end = 0.0
        pulls[-1].append(arrival)
        end = max(end, arrival.at + arrival.took_s)
    return [Joined(node, tuple(pull)) for pull in reversed(pulls)]


def overlapping(pull: Joined, others: Iterable[Joined]) -> list[Joined]:
    """The pulls of other nodes at the same time."""
    return [
        o for o in others if o.node != pull.node and o.at < pull.end and pull.at < o.end and o.bytes
    ]


def bound(pull: Joined, together: Sequence[Joined], rates: Mapping[str, Rates]) -> Bound | None:
    """The least time for a pull, T* = max(F/d, F/u_s, N·F/(u_s + Σu)), as far as it is known.

    F are the bytes that came, d is what this node's link takes, u_s what those send together that
    had all of it, u each of the N nodes that pulled at the same time. None if nothing came, or the
    own link is not known.
    """
    own = rates.get(pull.node, Rates())
    link = max(a.link for a in pull.arrivals)
    own = own._replace(link=own.link or link)
    size = pull.bytes
    if not size or not own.down:
        return None
    what = "its limit" if own.down == own.download_limit else "its link, as fast as it ever was"
    found = [(size / own.down, f"what it takes in: {what}")]
    assumed: list[str] = []
    if any(a.cold for a in pull.arrivals):
        assumed.append("what the origin can give is not known, and not counted")
    else:
        wanting = [pull.node, *(o.node for o in together)]
        seeds = [n for n in pull.givers if not n.startswith("@") and n not in wanting]
        seeds_up, unknown = _up(seeds, rates, own)
        others_up, more = _up(wanting, rates, own)
        sizes = size + sum(o.bytes for o in together)
        if seeds_up:
            found.append((size / seeds_up, "what those that had it send"))
            found.append((sizes / (seeds_up + others_up), "what all of them send together"))
            if not all(_is_limited(rates.get(node, Rates()), own) for node in seeds):
                assumed.append("nodes send as fast as they were ever seen to receive")
        if unknown + more:
            links = "1 link is" if unknown + more == 1 else f"{unknown + more} links are"
            assumed.append(f"{links} not known, and taken for like its own")
    seconds, by = max(found, key=lambda each: each[0])  # of equal ones the own link
    return Bound(seconds, by, assumed)


def judge(
    pull: Joined,
    together: Sequence[Joined],
    rates: Mapping[str, Rates],
    reached: float | None,
) -> list[str]:
    """What was slow, and why; the weightiest first. `reached` is the share of the bound, `together`
    are the pulls of other nodes at the same time.
    """
    failed = [f"{short(a.digest)} did not come: {a.failure}" for a in pull.arrivals if a.failure]
    if pull.took_s < QUICK_S:
        return failed or ["nothing was slow"]
    slowest = max(pull.arrivals, key=lambda a: a.took_s)
    weighed = sorted(_waits(slowest), reverse=True)
    said = failed + [text for _, text in weighed]
    said += _limits(pull, together, rates)
    if not pull.arrivals[0].failure:
        said += _crowd(pull)
    said += _sources(pull, is_bound=reached is not None and reached >= REACHED)
    if said or (reached is not None and reached >= REACHED):
        return said or ["nothing was slow: it went as fast as the links carry"]
    if reached is None:
        return ["nothing stands out; how fast the link is has not been seen yet"]
    return ["nothing stands out: the bytes came evenly, slower than the link carries"]


def judge_delivery(delivery: Delivery, link: int) -> list[str]:
    """Why a client did not get a blob, or late; nothing if it did."""
    if delivery.failure:
        return [f"the client did not get it: {delivery.failure}"]
    if delivery.took_s < QUICK_S:
        return []
    said = []
    waited_s = delivery.opened_s + delivery.waited_s
    reading_s = delivery.took_s - waited_s
    if waited_s >= max(QUICK_S, NOTABLE * delivery.took_s):
        said.append(f"{_time(waited_s, delivery.took_s)} for bytes that were not here yet")
    rate = delivery.bytes / reading_s if reading_s > 0 else 0.0
    usual = LOCAL_RATE if delivery.stored else link / 2
    if reading_s >= max(QUICK_S, NOTABLE * delivery.took_s) and rate < usual:
        said.append(
            f"the client read slowly: {_time(reading_s, delivery.took_s)}, at {_rate(rate)}, for "
            "what was here"
        )
    return said


# -- where the time of one blob went


def _waits(a: Arrival) -> list[tuple[float, str]]:
    whole = a.took_s
    cold = "to hear from its registry" if a.cold else "until a node had listed its pieces"
    steps = [
        (a.met_s, "until it was known who has it"),
        (a.listed_s, cold),
        (a.first_s, f"until the first piece came{_from(a)}"),
        (a.stored_s, "for this node's disk, after the last piece"),
        (a.still_s, _stood_still(a)),
    ]
    return [(s, f"{_time(s, whole)} {text}") for s, text in steps if s >= NOTABLE * whole]


def _stood_still(a: Arrival) -> str:
    still = {name: g.still_s for name, g in a.givers.items() if g.still_s >= a.still_s / 2}
    names = [name_of(name) for name in sorted(still, key=lambda n: -still[n])[:3]]
    return "when nothing came" + (f", while {_and(names)} had been asked" if names else "")


def _from(a: Arrival) -> str:
    first = [name for name in a.givers if name != KEPT][:1]
    return f" from {name_of(first[0])}" if len(a.givers) == 1 and first else ""


def _limits(pull: Joined, together: Sequence[Joined], rates: Mapping[str, Rates]) -> list[str]:
    said = []
    limit = max(a.limit for a in pull.arrivals)
    rate = pull.bytes / pull.took_s
    if limit and rate >= REACHED * limit:
        said.append(f"it went as fast as this node's download-rate allows: {_rate(limit)}")
    for name in pull.givers:
        sending = rates.get(name, Rates()).upload_limit
        sent = sum(p.givers[name].bytes for p in (pull, *together) if name in p.givers)
        if sending and sent / pull.took_s >= REACHED * sending:
            said.append(f"{name} sends no faster than its upload-rate: {_rate(sending)}")
    return said


def _crowd(pull: Joined) -> list[str]:
    wanting = max(a.wanting for a in pull.arrivals)
    having = max(a.having for a in pull.arrivals)
    if any(a.cold for a in pull.arrivals):
        if wanting > 1:
            return [f"no node had it: {wanting} nodes shared what came from outside"]
        return []
    if wanting > 1 and having and wanting > 2 * having:
        return [f"{wanting} nodes fetched it at the same time, and {having} had it"]
    return []


def _sources(pull: Joined, *, is_bound: bool) -> list[str]:
    """What can be said of each source. If the pull reached its bound, waiting for pieces is just
    how that is.
    """
    said = []
    size, rate = pull.bytes, pull.bytes / pull.took_s
    link = max(a.link for a in pull.arrivals)
    for name, giver in pull.givers.items():
        is_outside = name.startswith("@") and name not in (KEPT, OTHERS)
        if is_outside and giver.bytes >= size / 2 and rate < REACHED * link:
            share = 100 * giver.bytes / size
            said.append(f"{share:.0f} % came from {name_of(name)}, at {_rate(rate)} in all")
        if giver.pieces and not is_outside and not is_bound:
            wait_s, send_s = giver.waited_s / giver.pieces, giver.sent_s / giver.pieces
            if wait_s >= _LONG_WAIT_S and wait_s > 2 * send_s:
                said.append(
                    f"a piece of {name_of(name)} came {wait_s:.1f} s after it was asked for: it "
                    "had others to serve first, or did not have it yet"
                )
        said += _faults(name, giver)
    wasted = sum(a.wasted for a in pull.arrivals)
    if wasted >= NOTABLE * max(1, size):
        said.append(f"{size_text(wasted)} came for nothing: twice, or wrong")
    return said


def _faults(name: str, giver: Giver) -> list[str]:
    words = {
        "corrupt": "sent wrong bytes",
        "stalled": "stood still",
        "gone": "could not be reached, or broke off",
    }
    said = [
        f"{name_of(name)} {words[fault]}, {count} times"
        for fault, count in giver.faults.items()
        if fault in words
    ]
    if name.startswith("@"):
        said += [f"{name_of(name)}: {fault}" for fault in giver.faults if fault not in words]
    if giver.late and giver.late >= NOTABLE * (giver.pieces + giver.late):
        said.append(f"{giver.late} pieces of {name_of(name)} came sooner from another")
    return said


# -- words


def name_of(giver: str) -> str:
    """A giver as people call it."""
    names = {
        CONTAINERD: "this machine's containerd",
        KEPT: "an earlier attempt",
        OTHERS: "other nodes",
    }
    return names.get(giver, giver.removeprefix("@"))


def _time(part_s: float, whole_s: float) -> str:
    return f"{part_s:.1f} s ({100 * part_s / whole_s:.0f} %)"


def _rate(rate: float) -> str:
    return f"{size_text(rate)}/s"


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _least(*rates: int) -> float:
    return float(min((rate for rate in rates if rate), default=0))


def _up(nodes: Sequence[str], rates: Mapping[str, Rates], own: Rates) -> tuple[float, int]:
    """What nodes send together; and of how many that is not known."""
    known = [rates.get(node, Rates()) for node in nodes]
    total = sum(r._replace(link=r.link or own.link).up for r in known)
    return total, sum(not r.link and not _is_limited(r, own) for r in known)


def _is_limited(node: Rates, own: Rates) -> bool:
    """Whether its settings, and not its link, say what it sends."""
    return 0 < node.upload_limit <= (node.link or own.link)


def _sum(a: Giver, b: Giver) -> Giver:
    faults = {f: a.faults.get(f, 0) + b.faults.get(f, 0) for f in {**a.faults, **b.faults}}
    return Giver(
        a.bytes + b.bytes,
        a.pieces + b.pieces,
        a.waited_s + b.waited_s,
        a.sent_s + b.sent_s,
        a.late + b.late,
        a.still_s + b.still_s,
        faults,
    )
