"""What the verbs about content do, from arguments that were checked to a result.

Each opens the registries that it needs, runs one of `Push`, `Pull`, `Copy`, …, and blocks until it
is done.
"""

import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from oci_mesh.cli import removal, tags
from oci_mesh.cli.compression import Compression
from oci_mesh.cli.copying import Copy
from oci_mesh.cli.export import STANDARD_OUTPUT, new_file, write_docker_archive, write_oci_tar
from oci_mesh.cli.files import DirectoryFiles
from oci_mesh.cli.inspection import Inspected, Inspection
from oci_mesh.cli.layout_directory import open_layout
from oci_mesh.cli.progress import Progress, make_progress
from oci_mesh.cli.pull import Pull
from oci_mesh.cli.push import Push
from oci_mesh.cli.registry_client import RegistryClient
from oci_mesh.cli.removal import Removed, RemovedAll
from oci_mesh.cli.result import Result
from oci_mesh.cli.run import report, run
from oci_mesh.cli.source import open_source
from oci_mesh.cli.tags import Repositories, Tags
from oci_mesh.cli.target import Target
from oci_mesh.cli.tree import Tree
from oci_mesh.errors import OciMeshError
from oci_mesh.spec.manifest import Platform


def push(source: str, target: Target, image: str | None, packing: Compression) -> Result:
    """An image of `source`, a path or `-`."""
    with make_progress() as progress, open_source(source, progress) as files:

        async def work() -> Result:
            async with RegistryClient(target.registry, progress.note) as client:
                return await Push(files, client, target, progress).run(image, packing)

        return run(work())


def pull(target: Target, dest: Path, platform: Platform | None, *, referrers: bool) -> Result:
    """Into the layout at `dest`."""
    with make_progress() as progress:
        return _pull(target, dest, platform, None, progress, referrers=referrers)[0]


def pull_archive(
    target: Target,
    dest: str,
    platform: Platform | None,
    fallback: Platform | None,
    *,
    referrers: bool,
    for_docker: bool,
) -> Result:
    """Into an archive at `dest`, a path or `-`: one that `docker load` reads, or an OCI layout."""
    beside = None if dest == STANDARD_OUTPUT else Path(dest).parent
    with (
        make_progress() as progress,
        tempfile.TemporaryDirectory(dir=beside, prefix=".oci-mesh-") as staging,
    ):
        root = Path(staging)
        result, tree = _pull(target, root, platform, fallback, progress, referrers=referrers)
        with new_file(dest) as file:
            if for_docker:
                name = str(target) if target.tag else None
                write_docker_archive(DirectoryFiles(root), tree, name, file)
            else:
                write_oci_tar(DirectoryFiles(root), tree, file)
    return result


def _pull(
    target: Target,
    root: Path,
    platform: Platform | None,
    fallback: Platform | None,
    progress: Progress,
    *,
    referrers: bool,
) -> tuple[Result, Tree]:
    with open_layout(root) as layout:

        async def work() -> tuple[Result, Tree]:
            async with RegistryClient(target.registry, progress.note) as client:
                pull = Pull(client, target, layout, progress)
                return await pull.run(platform, fallback=fallback, referrers=referrers)

        return run(work())


def copy(source: Target, goal: Target, *, referrers: bool) -> Result:
    """From registry to registry."""
    with make_progress() as progress:

        async def work() -> Result:
            async with (
                RegistryClient(source.registry, progress.note) as origin,
                RegistryClient(goal.registry, progress.note) as to,
            ):
                job = Copy((origin, source), (to, goal), progress)
                return await job.run(referrers=referrers)

        return run(work())


@asynccontextmanager
async def _asking(registry: str) -> AsyncIterator[RegistryClient]:
    """For verbs that move little: no bars, but a line for what has to be tried again."""
    with make_progress() as progress:
        async with RegistryClient(registry, progress.note) as client:
            yield client


def list_repositories(registry: str) -> Repositories:
    """Of `registry`, a URL."""

    async def work() -> Repositories:
        async with _asking(registry) as client:
            return await tags.list_repositories(client, registry)

    return run(work())


def list_tags(target: Target, *, alike: bool, digests: bool) -> Tags:
    """As `tags.list_tags`."""

    async def work() -> Tags:
        async with _asking(target.registry) as client:
            return await tags.list_tags(client, target, alike=alike, digests=digests)

    return run(work())


def manifest(target: Target) -> bytes:
    """Its bytes."""

    async def work() -> bytes:
        async with _asking(target.registry) as client:
            return await Inspection(client, target).raw()

    return run(work())


def inspect(target: Target) -> Inspected:
    """As `Inspection.run`."""

    async def work() -> Inspected:
        async with _asking(target.registry) as client:
            return await Inspection(client, target).run()

    return run(work())


def remove(targets: Sequence[Target]) -> tuple[RemovedAll, bool]:
    """What was removed, and whether that is all of it: if not, the reason was reported.

    Raises if nothing was removed.
    """
    done: list[Removed] = []

    async def work() -> None:
        async with AsyncExitStack() as stack:
            clients: dict[str, RegistryClient] = {}
            for target in targets:
                if target.registry not in clients:
                    client = await stack.enter_async_context(_asking(target.registry))
                    clients[target.registry] = client
            places = [(clients[target.registry], target) for target in targets]
            async for removed in removal.remove(places):
                done.append(removed)  # noqa: PERF401 - one by one: the next may fail

    try:
        run(work())
    except OciMeshError as error:
        if not done:
            raise
        report(error)
        return RemovedAll(done), False
    return RemovedAll(done), True
