"""Our daemon against Debian's `docker-registry`, in turns in one run, on one disk.

    python -m benchmarks.registry [--quick] [--only CASE ...] [--json FILE] [--directory DIR]

Each case lets both do the same a few times, A B A B …, and reports the median ratio of the pairs
with the smallest and the largest. CPU is the server's alone, from /proc. Both run with their
defaults, on new directories. Both fsync a blob's file before they answer; ours alone also fsyncs
the directory that names it. All on loopback: this measures registries, not networks.

The `bare` column is the same work without a registry: a thread per client in sendfile; one thread
(16 for the small blobs) that hashes, writes and fsyncs; an aiohttp handler that returns 2 kB.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks import bare, machine, report
from benchmarks.load import Address, Client, repeat
from benchmarks.machine import GIB
from benchmarks.processes import Server, docker_registry, docker_registry_version, oci_mesh
from benchmarks.report import Row
from benchmarks.traffic import (
    CONNECTIONS,
    IMAGE_TYPE,
    Payload,
    Push,
    blob_target,
    manifest_target,
    pull_blob,
    push_blob,
    push_blobs,
    push_image,
    push_patch,
    push_put,
    start_upload,
)
from benchmarks.turns import Sample, Turns, cpu, rates, timed

MIB: Final = 1024**2
PATTERN_MIB: Final = 64
LAYERS: Final = 10  # of the image whose manifest is asked for: 2 kB of JSON, a usual size
SLOW_READERS: Final = 64
SLOW_BYTES: Final = 1024  # what each takes per second
SLOW_BUFFER: Final = 4096  # and what its kernel takes ahead
MEMORY_LIMIT_MIB: Final = 128.0
SWEEP_GRACE_S: Final = 60.0  # for uploads to go, after they have expired


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    rounds: int
    blob_patterns: int  # of PATTERN_MIB each
    small_blobs: int
    request_s: float
    huge_patterns: int
    reading_s: int
    uploads: int
    expiry_s: float


FULL: Final = Sizes(5, 16, 400, 4.0, 160, 20, 10_000, 30.0)
QUICK: Final = Sizes(2, 2, 64, 1.0, 4, 3, 1_000, 4.0)


class Bench:
    """What the cases share."""

    def __init__(self, sizes: Sizes, directory: Path) -> None:
        self.sizes = sizes
        self.turns = Turns(directory, sizes.rounds, oci_mesh(), docker_registry())
        self.noise = memoryview(os.urandom(PATTERN_MIB * MIB))
        self.blob = Payload(self.noise, sizes.blob_patterns)

    def blobs(self, size: int, count: int) -> list[Payload]:
        """Different blobs of one size, their digests computed."""
        step = (len(self.noise) - size) // count
        blobs = [Payload(self.noise[at : at + size]) for at in range(0, step * count, step)]
        assert len({blob.digest for blob in blobs}) == count
        return blobs


def get(bench: Bench) -> Iterator[Row]:
    """GET of one blob, by one client and by 16 at once; each takes all of it."""
    blob = bench.blob
    with bench.turns.running() as servers, bare.file_server(bench.turns.directory, blob) as floor:
        for server in servers:
            push_blob(server.address, blob)
            pull_blob(server.address, blob)
        for clients in (1, CONNECTIONS):
            yield from _get(bench, servers, floor, clients)


def _get(bench: Bench, servers: list[Server], floor: Address, clients: int) -> Iterator[Row]:
    def pull(address: Address) -> float:
        return pull_blob(address, bench.blob, clients) / GIB

    samples = bench.turns.alternate(
        servers, lambda server: timed(server, lambda: pull(server.address))
    )
    case = f"GET of {bench.blob.size // MIB} MiB by {clients}"
    yield rates(samples, case, "GiB/s", 1.0, bench.turns.bare(lambda _: pull(floor)))
    yield cpu(samples, case, "CPU s/GiB", 1.0)


def push(bench: Bench) -> Iterator[Row]:
    """Push of one blob, in one PUT (containerd) and as a chunked stream (docker)."""
    floor = bench.turns.bare(lambda directory: bare.store(directory, bench.blob) / GIB)
    for name, way in (("PUT", push_put), ("chunked PATCH", push_patch)):
        samples = bench.turns.fresh(_pushing(bench.blob, way))
        case = f"{name} of {bench.blob.size // MIB} MiB"
        yield rates(samples, case, "GiB/s", 1.3, floor)
        yield cpu(samples, case, "CPU s/GiB", 1.0)


def _pushing(blob: Payload, way: Push) -> Callable[[Server], Sample]:
    return lambda server: timed(server, lambda: push_blob(server.address, blob, way) / GIB)


def small(bench: Bench) -> Iterator[Row]:
    """Push of many blobs of 1 MB over 16 connections, POST and PUT each."""
    blobs = bench.blobs(1_000_000, bench.sizes.small_blobs)

    def store_all(directory: Path) -> float:
        with ThreadPoolExecutor(CONNECTIONS) as threads:
            return len(list(threads.map(lambda blob: bare.store(directory, blob), blobs)))

    samples = bench.turns.fresh(
        lambda server: timed(server, lambda: push_blobs(server.address, blobs))
    )
    yield rates(samples, "PUT of 1 MB blobs", "1/s", 1.0, bench.turns.bare(store_all))
    yield cpu(samples, "PUT of 1 MB blobs", "CPU s", 1.0)


def manifests(bench: Bench) -> Iterator[Row]:
    """GET and HEAD of a manifest, by tag and by digest, over 16 connections.

    `docker-registry` 2.8 builds its router anew for each request, almost half of its CPU here;
    distribution 3 is several times faster.
    """
    layers = bench.blobs(1024, LAYERS)
    with bench.turns.running() as servers, bench.turns.running(bare.aiohttp_server()) as [floor]:
        digests = {push_image(server.address, layers, "v1") for server in servers}
        for method in ("GET", "HEAD"):
            limit = _asking(bench, method, "/")(floor).rate
            for kind, reference in (("tag", "v1"), ("digest", *digests)):
                ask = _asking(bench, method, manifest_target(reference))
                samples = bench.turns.alternate(servers, ask)
                case = f"{method} of a manifest by {kind}"
                yield rates(samples, case, "1/s", 2.0, [limit])


def _asking(bench: Bench, method: str, target: str) -> Callable[[Server], Sample]:
    def ask(server: Server) -> float:
        seconds = bench.sizes.request_s
        return repeat(server.address, method, target, IMAGE_TYPE, CONNECTIONS, seconds)

    return lambda server: timed(server, lambda: ask(server))


def readers(bench: Bench) -> Iterator[Row]:
    """The memory that 64 readers of a huge blob cost, who take 1 KiB a second each.

    The blob is pushed to the process that is measured, so its peak includes that.
    """
    blob = Payload(memoryview(bytes(PATTERN_MIB * MIB)), bench.sizes.huge_patterns)
    with bench.turns.running(oci_mesh()) as [server], ExitStack() as stack:
        push_blob(server.address, blob)
        clients = [
            stack.enter_context(Client(server.address, receive_buffer=SLOW_BUFFER))
            for _ in range(SLOW_READERS)
        ]
        for client in clients:
            client.begin("GET", blob_target(blob))
            client.head(200)
        for _ in range(bench.sizes.reading_s):
            for client in clients:
                client.trickle(SLOW_BYTES)
            time.sleep(1)
        peak = server.peak_rss_bytes() / MIB
    case = f"{SLOW_READERS} slow readers of {blob.size // MIB} MiB"
    yield Row(case, "MiB", MEMORY_LIMIT_MIB, [peak], at_most=True)


def abandoned(bench: Bench) -> Iterator[Row]:
    """What is left of uploads that were opened and abandoned, once they have expired."""
    count, expiry_s = bench.sizes.uploads, bench.sizes.expiry_s
    with bench.turns.running(oci_mesh("--upload-expiry", str(expiry_s))) as [server]:
        before = files_under(server.root)
        with Client(server.address) as client:
            for _ in range(count):
                start_upload(client)
        opened_s, opened = time.monotonic(), files_under(server.root) - before
        deadline_s = opened_s + expiry_s + SWEEP_GRACE_S
        while (left := files_under(server.root) - before) and time.monotonic() < deadline_s:
            time.sleep(0.5)
        gone_s = time.monotonic() - opened_s - expiry_s
        peak = server.peak_rss_bytes() / MIB
    case = f"{count} abandoned uploads"
    yield Row(f"{case}: while open", "files", count, [len(opened)])
    yield Row(f"{case}: left", "files", 0, [len(left)], at_most=True)
    yield Row(f"{case}: gone after expiry by", "s", SWEEP_GRACE_S, [gone_s], at_most=True)
    yield Row(f"{case}: memory", "MiB", MEMORY_LIMIT_MIB, [peak], at_most=True)


def files_under(root: Path) -> set[Path]:
    """All files there; any may go while this looks."""
    return {Path(directory, name) for directory, _, names in os.walk(root) for name in names}


CASES: Final = {case.__name__: case for case in (get, push, small, manifests, readers, abandoned)}


def main() -> None:
    """Run the cases that are asked for; print and save."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, two rounds")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), metavar="CASE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the results")
    parser.add_argument(
        "--directory",
        type=Path,
        default=Path(tempfile.gettempdir()),
        help="on the disk to measure, with 12 GiB free (1 GiB for --quick)",
    )
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that all is removed then too
    rows: list[Row] = []
    about = {**machine.describe(arguments.directory), "against": docker_registry_version()}
    print("\n".join(f"{key}: {value}" for key, value in about.items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="oci-mesh-bench-", dir=arguments.directory) as name:
        bench = Bench(QUICK if arguments.quick else FULL, Path(name))
        for case in arguments.only:
            title, *_ = (CASES[case].__doc__ or case).splitlines()
            print(f"\n{title}", file=sys.stderr, flush=True)
            for row in CASES[case](bench):
                rows.append(row)
                print("  ".join(row.cells()), file=sys.stderr, flush=True)
    print(f"\n{report.show(rows, ('oci-mesh', 'docker-registry'))}")
    if arguments.json:
        report.save(arguments.json, about, rows)


if __name__ == "__main__":
    main()
