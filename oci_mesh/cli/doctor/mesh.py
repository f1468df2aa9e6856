"""Other nodes and registries, as this node found them: names, ports, who answers, clocks."""

from collections.abc import Sequence
from statistics import median
from typing import Final

from oci_mesh.cli.doctor.finding import Finding, error, ok, warning
from oci_mesh.cli.doctor.patient import Patient
from oci_mesh.cli.failure import shown
from oci_mesh.cli.output import some
from oci_mesh.control.health import Asked, Health, Outcome, Tried

# Between machines that keep time, milliseconds. From here on logs cannot be compared.
APART_S: Final = 30.0

# Beyond, names that the other node gives out are refused (`members.clock`), and fresh certificates
# too (`pki.certificates`).
REFUSED_S: Final = 300.0

_REACH: Final = "let its port through, both ways, between all nodes: firewall, security group, "
_OUTCOMES: Final[dict[Outcome, tuple[str, str]]] = {
    "unresolved": (
        "the name that it is reached by leads nowhere",
        "give it an address that others know: --advertise HOST:PORT",
    ),
    "unreachable": ("there is no route to it", "ip route get ADDRESS; is its machine up?"),
    "closed": (
        "its machine answers, and nothing listens there",
        "start the node there; if it runs, is --mesh-listen on 127.0.0.1, or a firewall rejecting?",
    ),
    "filtered": ("no answer to a connection", f"{_REACH}NetworkPolicy; is its machine up?"),
    "plain": (
        "it speaks plain HTTP, and this node TLS",
        "start it without --insecure, with a --token; or all of them with --insecure",
    ),
    "secured": (
        "it speaks TLS, and this node plain HTTP",
        "start this node with a --token, and without --insecure",
    ),
    "stranger": ("what answers there is no node", "correct --join, or its --advertise"),
    "other-mesh": (
        "it is of another mesh, even if the names are the same: another authority signed its "
        "certificate",
        "one of the two was begun anew (`oci-mesh ca init`): start the nodes of the wrong one with "
        "a token of the other, or take its address out of --join",
    ),
    "other-node": ("another node is there", "restart the one whose --advertise is wrong"),
    "expired": (
        "its certificate has expired",
        "compare the clocks of both machines; then start it with a new token",
    ),
    "not-yet": (
        "its certificate is not valid yet by this machine's clock",
        "set the clocks of both machines: timedatectl set-ntp true",
    ),
    "refused": (
        "it does not take this node's certificate",
        "compare the clocks of both machines, and `certificate` above; then start this node with a "
        "new token",
    ),
    "failing": ("it does not answer as a node should", "its log says why"),
}


async def look_at_names(patient: Patient) -> list[Finding]:
    """Do the names resolve that the settings have."""
    assert patient.health is not None, "needs `node`"
    return judge_names(patient.health)


def judge_names(health: Health) -> list[Finding]:
    """Those of `join`, and the hosts of registries."""
    found = [
        error(
            "names.join",
            f"{place} leads nowhere, so no node is found by it",
            f"getent hosts {place.rpartition(':')[0]}; correct --join, or the DNS (on Kubernetes, "
            "the headless Service)",
        )
        for place in health.unresolved
    ]
    lost = [host for asked in health.upstreams for host in asked.unresolved]
    if lost:
        found.append(
            warning(
                "names.upstream",
                f"{some(lost)}: the names of registries that lead nowhere",
                "correct url of the upstream, or this machine's DNS; without a way out the mesh "
                "goes on with what it holds",
            )
        )
    return found or [ok("the names in the settings resolve")]


async def look_at_mesh(patient: Patient) -> list[Finding]:
    """Is every other node reached, and does it reach this one."""
    assert patient.health is not None, "needs `node`"
    return judge_mesh(patient.health)


def judge_mesh(health: Health) -> list[Finding]:
    """Of the attempts, what went wrong: one finding for each way."""
    found: list[Finding] = []
    for outcome, (text, fix) in _OUTCOMES.items():
        nodes = [tried for tried in health.others if tried.outcome == outcome]
        if nodes:
            detail = f" ({shown(nodes[0].detail)[1:-1]})" if nodes[0].detail else ""
            found.append(error(f"mesh.{outcome}", f"{_names(nodes)}: {text}{detail}", fix))
    cannot = [tried for tried in health.others if tried.back not in ("", "ok")]
    if cannot:
        found.append(
            error(
                "mesh.one-way",
                f"{_names(cannot)}: reached from here, but does not reach this node at "
                f"{health.mesh} ({cannot[0].back})",
                f"{_REACH}NetworkPolicy; or give this node the address at which it is reached: "
                "--advertise HOST:PORT",
            )
        )
    found += [
        error(
            "mesh.double",
            f"the node at {double.address} goes by this one's id, {health.node} (heard "
            f"{double.age_s:.0f} s ago): each is taken for the other",
            "start one of them with another --name; if its directory is a copy, remove node-id and "
            "identity/ from it first",
        )
        for double in health.doubles
    ]
    reached = [tried for tried in health.others if tried.outcome == "ok"]
    if health.join and not health.others and not health.doubles:
        found.append(
            warning(
                "mesh.alone",
                f"no other node was found behind {some(health.join)}",
                "name the mesh address of another node by --join (not this one's own)",
            )
        )
    found += _judge_versions(health, reached)
    if not found and not reached:
        return [ok("no other node is known: this one is the whole mesh")]
    rest = f"; for {health.untried} more there was no time" if health.untried else ""
    return found or [ok(f"other nodes that are reached, and reach this one: {len(reached)}{rest}")]


def _judge_versions(health: Health, reached: Sequence[Tried]) -> list[Finding]:
    others = [tried for tried in reached if tried.version != health.version]
    if not others:
        return []
    return [
        warning(
            "mesh.versions",
            f"{_names(others)}: version {shown(others[0].version)[1:-1]}, and this one is "
            f"{health.version}",
            "upgrade all nodes, one after another",
        )
    ]


async def look_at_clocks(patient: Patient) -> list[Finding]:
    """Do the clocks of the other nodes agree with this one's."""
    assert patient.health is not None, "needs `node`"
    return judge_clocks(patient.health.others)


def judge_clocks(others: Sequence[Tried]) -> list[Finding]:
    """By what each said when it was asked."""
    known = [(tried, tried.ahead_s) for tried in others if tried.ahead_s is not None]
    if not known:
        return [ok("no other node to compare the clock with")]
    apart = [(tried, ahead) for tried, ahead in known if abs(ahead) >= APART_S]
    if not apart:
        most = max(abs(ahead) for _, ahead in known)
        return [ok(f"the clocks of {len(known)} other nodes differ by {most:.1f} s at most")]
    usual = median(ahead for _, ahead in known)
    if len(known) > 1 and abs(usual) >= APART_S:
        who = f"this machine's clock is {_apart(-usual)} that of most other nodes"
        worst = usual
    else:
        who = f"{_names([tried for tried, _ in apart])}: the clock is {_apart(apart[0][1])} ours"
        worst = max((ahead for _, ahead in apart), key=abs)
    fix = "timedatectl set-ntp true, on that machine; chronyc tracking shows what it goes by"
    if abs(worst) >= REFUSED_S:
        lost = "pushes on one side are not taken over by the other, and certificates are refused"
        return [error("clocks.far-apart", f"{who}: {lost}", fix)]
    return [warning("clocks.apart", f"{who}: of two pushes the wrong one may win", fix)]


def _apart(seconds: float) -> str:
    return f"{abs(seconds):.0f} s {'ahead of' if seconds > 0 else 'behind'}"


async def look_at_upstreams(patient: Patient) -> list[Finding]:
    """Do the registries answer that this node mirrors."""
    assert patient.health is not None, "needs `node`"
    return judge_upstreams(patient.health.upstreams)


def judge_upstreams(upstreams: Sequence[Asked]) -> list[Finding]:
    """None of this is an error: without them the mesh goes on with what it holds."""
    found = [
        warning(
            "upstreams.refused",
            f"{asked.name} does not take what this node has for it: {asked.error}",
            "see username, password-file or token-file in its [upstream] table; some registries "
            "say this of every repository that they do not have",
        )
        for asked in upstreams
        if asked.refused
    ]
    silent = [asked for asked in upstreams if asked.error and not asked.refused]
    if silent:
        found.append(
            warning(
                "upstreams.silent",
                f"{some([asked.name for asked in silent])} cannot be asked ({silent[0].error}): "
                "what is not in the mesh cannot be had from there",
                f"curl -v https://{silent[0].hosts[0]}/v2/ from this machine; without a way out "
                "this is as it has to be: pull on a machine that has one, and push to the mesh",
            )
        )
    return found or [ok(f"{len(upstreams)} registries were tried, and answer")]


def _names(nodes: Sequence[Tried]) -> str:
    return some([f"{tried.node or 'the node'} at {tried.address}" for tried in nodes])
