"""What a swarm is told, and what it says to do about it.

Requests are this node's questions to others, tickets are other nodes' questions to this one. A
question is a blocking GET: who does not have the piece yet keeps it, for `wait_s` at most.
"""

from dataclasses import dataclass

from oci_mesh.swarm.peers import Fault
from oci_mesh.swarm.view import View

# -- events


@dataclass(frozen=True, slots=True)
class Viewed:
    """The list of who is in the swarm has changed; `banned` are those who lied to this node."""

    view: View
    banned: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Wanted:
    """A client waits for these pieces now: they go before others."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Begun:
    """The first byte of an answer came."""

    request: int


@dataclass(frozen=True, slots=True)
class Completed:
    """A piece came, and is what the list says; who sent it has all before `frontier`."""

    request: int
    frontier: int = 0


@dataclass(frozen=True, slots=True)
class Failed:
    """A request ended without its piece."""

    request: int
    fault: Fault
    frontier: int = 0


@dataclass(frozen=True, slots=True)
class Fed:
    """A piece came from outside of the swarm, and may be passed on."""

    piece: int


@dataclass(frozen=True, slots=True)
class Feed:
    """From now on all pieces come from outside (this node leads), or no longer."""

    on: bool = True


@dataclass(frozen=True, slots=True)
class Asked:
    """Another node wants a piece; `final`: it would rather queue here than ask anybody else. Those
    it `named` lied to it, as it says.
    """

    ticket: int
    piece: int
    peer: str
    slot: int
    wait_s: float
    final: bool = False
    named: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Dropped:
    """It no longer wants it."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Nothing but the time: `next_deadline` has come."""


@dataclass(frozen=True, slots=True)
class Ended:
    """This node fetches the blob no longer: whoever waits is to go elsewhere."""


Event = Viewed | Wanted | Begun | Completed | Failed | Fed | Feed | Asked | Dropped | Tick | Ended

# -- commands


@dataclass(frozen=True, slots=True)
class Ask:
    """Request a piece from a node."""

    request: int
    peer: str
    piece: int
    wait_s: float
    final: bool


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a request; nothing of it is to be reported any more."""

    request: int


@dataclass(frozen=True, slots=True)
class Send:
    """Queue a piece to who asked; the uplink says when. To some after all others."""

    ticket: int
    piece: int
    last: bool = False


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer without it."""

    ticket: int
    fault: Fault


Command = Ask | Cancel | Send | Refuse
