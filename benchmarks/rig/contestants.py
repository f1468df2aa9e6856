"""What we measure ourselves against, each as it is used, on fresh machines of the same rig."""

import hashlib
import importlib.util
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Final

from benchmarks.processes import docker_registry
from benchmarks.rig import torrent
from benchmarks.rig.image import Image
from benchmarks.rig.mesh import push
from benchmarks.rig.meter import available_bytes
from benchmarks.rig.race import Course, Finish, race
from benchmarks.rig.readers import containerd_on, readers
from benchmarks.rig.run import Run
from benchmarks.rig.runners import Outcome, Runner, gated
from benchmarks.rig.topology import Machine
from tests.e2e import command

SSHD: Final = "/usr/sbin/sshd"  # it has to be started by its full path, and is not on every PATH
REGISTRY_PORT: Final = 5000

# The archive, the blobs that containerd copies out of it, and what it unpacks from these.
_ARCHIVES_PER_NODE: Final = 3

STOP_S: Final = 60.0  # for a peer to write what it has, and to hash it


def missing(name: str, course: Course) -> str:
    """What a contestant needs and this machine has not; empty if nothing."""
    tools = {
        "scp": [SSHD, "ssh", "scp", "ssh-keygen", "containerd", "ctr"],
        "scp-parallel": [SSHD, "ssh", "scp", "ssh-keygen", "containerd", "ctr"],
        "registry": ["docker-registry"],
        "bittorrent": [],
    }[name]
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if name == "registry" and course.client == "containerd":
        absent += [tool for tool in ("containerd", "ctr") if shutil.which(tool) is None]
    if absent:
        return f"not installed: {', '.join(absent)}"
    if name == "bittorrent" and importlib.util.find_spec("libtorrent") is None:
        return "not installed: libtorrent (pip install '.[bench]')"
    if name.startswith("scp"):
        need = course.nodes * _ARCHIVES_PER_NODE * course.image.archive.stat().st_size
        free = min(available_bytes(), shutil.disk_usage(course.directory).free)
        if need > free:
            return f"needs {need >> 20} MiB for unpacked images, {free >> 20} are free"
    return ""


def scp(course: Course) -> Run:
    """The sync script: for each node in turn, scp of the `docker save` archive, then its import."""
    return _sync(course, "scp", lambda source, steps: [gated(source, *chain(*steps))])


def scp_parallel(course: Course) -> Run:
    """The same, for all nodes at once."""
    return _sync(
        course, "scp-parallel", lambda source, steps: [gated(source, *each) for each in steps]
    )


Steps = list[list[str]]


def _sync(
    course: Course, name: str, runners: Callable[[Machine, list[Steps]], list[Runner]]
) -> Run:
    with course.machines() as machines, ExitStack() as stack:
        source, *nodes = machines
        config = _ssh_keys(source.directory)
        steps = []
        for node in nodes:
            _sshd(node, source.directory, stack)
            containerd = stack.enter_context(containerd_on(node))
            steps.append(_sync_steps(course.image, node, config, containerd.words))
        finish = race(course, machines, runners(source, steps))
        outcomes = _by_node(finish.outcomes, len(nodes))
        run = _run(name, "scp + ctr images import", course, finish, outcomes)
        run.more = {"import_share": _import_share(finish.outcomes)}
        return run


def _ssh_keys(directory: Path) -> Path:
    """A key pair and a client's configuration. Hosts are not verified: they live for one run."""
    key, config = directory / "key", directory / "config"
    command.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
    config.write_text(
        f"User root\nIdentityFile {key}\nIdentitiesOnly yes\nStrictHostKeyChecking no\n"
        "UserKnownHostsFile /dev/null\nLogLevel ERROR\n"
    )
    return config


def _sshd(node: Machine, keys: Path, stack: ExitStack) -> None:
    """An sshd of the machine's own, with its defaults but for who may log in."""
    config, log = node.directory / "sshd_config", node.directory / "sshd.log"
    config.write_text(
        f"ListenAddress {node.address}\nHostKey {keys / 'key'}\nStrictModes no\nUsePAM no\n"
        f"AuthorizedKeysFile {keys / 'key.pub'}\nPermitRootLogin prohibit-password\nPidFile none\n"
        "Subsystem sftp internal-sftp\n"
    )
    # It wants a directory of its own there; the mount is this machine's alone.
    node.namespace.run("sh", "-c", "mount -t tmpfs tmpfs /run && mkdir /run/sshd")
    process = command.start(
        *node.namespace.enter(SSHD, "-D", "-e", "-f", config), stdout=log, stderr=log
    )
    stack.callback(process.wait)
    stack.callback(process.kill)
    command.eventually(
        f"sshd of {node.name} listens", lambda: "Server listening" in log.read_text()
    )


def _sync_steps(image: Image, node: Machine, config: Path, ctr_words: list[str]) -> Steps:
    target = node.directory / "image.tar"
    words = f"{' '.join(ctr_words)} images import {target} && rm {target}"
    return [
        ["scp", "-q", "-F", str(config), str(image.archive), f"{node.address}:{target}"],
        ["ssh", "-F", str(config), node.address, words],
    ]


def _by_node(outcomes: Sequence[Outcome], nodes: int) -> list[Outcome]:
    """One outcome per node, each with the ends of its copy and its import."""
    if len(outcomes) == nodes:
        return list(outcomes)
    [whole] = outcomes
    pairs = [whole.ends_s[i : i + 2] for i in range(0, 2 * nodes, 2)]
    return [
        Outcome(whole.start_s, ends_s, whole.problem if len(ends_s) < 2 else "") for ends_s in pairs
    ]


def _import_share(outcomes: Sequence[Outcome]) -> float:
    """How much of the runners' time was spent in imports."""
    spent_s = total_s = 0.0
    for outcome in outcomes:
        ends_s = outcome.ends_s
        spent_s += sum(b - a for a, b in zip(ends_s[::2], ends_s[1::2], strict=False))
        total_s += outcome.seconds
    return round(spent_s / total_s, 4)


def registry(course: Course) -> Run:
    """All nodes pull at once from one `docker-registry`, which is on the source."""
    with course.machines() as machines, ExitStack() as stack:
        source, *nodes = machines
        root, log = source.directory / "registry", source.directory / "registry.log"
        address = f"{source.address}:{REGISTRY_PORT}"
        words = docker_registry().command(root, f":{REGISTRY_PORT}")
        process = command.start(*source.namespace.enter(*words), stdout=log, stderr=log)
        stack.callback(process.wait)
        stack.callback(process.kill)
        command.eventually("docker-registry answers", lambda: _answers(source, address))
        push(source, address, course.image.layout)
        pulls = stack.enter_context(readers(course.client, nodes, address))
        finish = race(course, machines, pulls)
        return _run("registry", course.client, course, finish, finish.outcomes)


def _answers(machine: Machine, address: str) -> bool:
    asked = machine.namespace.run("curl", "-sf", f"http://{address}/v2/", check=False)
    return asked.returncode == 0


def bittorrent(course: Course) -> Run:
    """A libtorrent swarm: the source seeds one file of all blobs' bytes, all peers are known."""
    with course.machines() as machines:
        payload = machines[0].directory / torrent.NAME
        metainfo = machines[0].directory / "torrent"
        digest = _join_blobs(course.image, payload)
        metainfo.write_bytes(torrent.metainfo(payload))
        addresses = ",".join(machine.address for machine in machines)
        peers = [
            Runner(
                machine, torrent.__name__, *map(str, (metainfo, home, machine.address)), addresses
            )
            for machine in machines
            for home in [machine.directory]
        ]
        found: list[str] = []

        def stop() -> None:
            for peer in peers:
                peer.tell("stop")
            found.extend(peer.line(time.monotonic() + STOP_S) for peer in peers)

        finish = race(course, machines, peers, afterwards=stop)
        outcomes = [
            outcome if has == digest else replace(outcome, problem=f"the file has {has}")
            for outcome, has in zip(finish.outcomes, found, strict=True)
        ]
        return _run("bittorrent", "libtorrent", course, finish, outcomes[1:])


def _join_blobs(image: Image, path: Path) -> str:
    """Write all blobs into one file; return its SHA-256."""
    hasher = hashlib.sha256()
    with path.open("wb") as file:
        for descriptor in image.descriptors():
            content = image.blob(descriptor["digest"]).read_bytes()
            hasher.update(content)
            file.write(content)
    return hasher.hexdigest()


def _run(
    name: str, client: str, course: Course, finish: Finish, outcomes: Sequence[Outcome]
) -> Run:
    return Run(
        name=name,
        scenario="together",
        client=client,
        size=course.image.size,
        bound_s=course.bound_s,
        outcomes=outcomes,
        readings=finish.readings,
        busy_before=finish.busy_before,
        numbers=range(1, course.nodes + 1),
    )


CONTESTANTS: Final[dict[str, Callable[[Course], Run]]] = {
    "scp": scp,
    "scp-parallel": scp_parallel,
    "registry": registry,
    "bittorrent": bittorrent,
}
