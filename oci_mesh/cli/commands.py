"""The verbs' arguments, and their help: what people read before they read any of this."""

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypeVar

import click

from oci_mesh.cli.compression import Compression, Method
from oci_mesh.cli.export import STANDARD_OUTPUT, new_file, write_docker_archive, write_oci_tar
from oci_mesh.cli.files import DirectoryFiles
from oci_mesh.cli.layout_directory import open_layout
from oci_mesh.cli.progress import make_progress
from oci_mesh.cli.pull import Pull
from oci_mesh.cli.push import Push
from oci_mesh.cli.registry_client import RegistryClient
from oci_mesh.cli.result import Result
from oci_mesh.cli.run import run
from oci_mesh.cli.selection import parse_platform, this_platform
from oci_mesh.cli.source import STANDARD_INPUT, open_source
from oci_mesh.cli.target import DEFAULT_REGISTRY, Target, resolve
from oci_mesh.cli.tree import Tree
from oci_mesh.errors import ConfigError, OciError

Value = TypeVar("Value")

OCI_DIR: Final = "oci-dir"
OCI_TAR: Final = "oci-tar"
DOCKER_ARCHIVE: Final = "docker-archive"


def _common(command: Callable[..., None]) -> Callable[..., None]:
    """The options that all verbs have."""
    options = [
        click.option(
            "--registry",
            metavar="URL",
            envvar="OCI_MESH_REGISTRY",
            show_envvar=True,
            default=DEFAULT_REGISTRY,
            show_default=True,
            help="The local node: what a REF without a host means.",
        ),
        click.option(
            "--plain-http/--tls",
            default=None,
            help="Speak HTTP, or HTTPS, whatever the host. Default: HTTP to this machine "
            "(127.0.0.0/8, ::1, localhost), HTTPS to others. SSL_CERT_FILE names the certificates "
            "to trust.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print the result as JSON."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command("push")
@click.argument("source", type=click.Path(exists=True, allow_dash=True))
@click.argument("ref")
@click.option(
    "--compression",
    type=click.Choice(["gzip", "zstd", "none"]),
    default="gzip",
    show_default=True,
    help="How to pack layers that come as plain tar. gzip: every client can pull it. zstd: smaller "
    "and several times faster to pack and unpack, but needs containerd 1.5, docker 23 or podman 3 "
    "at the other end.",
)
@click.option(
    "--level", type=int, help="1 to 9 for gzip (default 6), 1 to 22 for zstd (default 3)."
)
@click.option(
    "--image",
    metavar="NAME",
    help="Which image of SOURCE, if it holds several: its REPO:TAG, tag or digest there.",
)
@_common
def push_command(
    source: str,
    ref: str,
    compression: Method,
    level: int | None,
    image: str | None,
    registry: str,
    plain_http: bool | None,
    as_json: bool,
) -> None:
    """Push an image from a file to a registry.

    SOURCE is what `docker save` writes, an OCI layout (a directory or a tar), either of them
    compressed if you like, or - for standard input. REF is [HOST[:PORT]/]REPOSITORY[:TAG]; without
    a host it means the local node.

    An OCI layout is pushed byte for byte: every platform of an index that is there, and the
    signatures and other artifacts that refer to it. Layers of a docker archive that are plain tar
    are compressed, always to the same bytes, and compared with the image's configuration. What the
    registry has is not sent again. Temporary files go to TMPDIR.

    Prints the reference by digest of what was pushed.
    """
    target = _usage(lambda: resolve(ref, registry, plain_http))
    packing = _usage(lambda: Compression(compression, level))
    if source == STANDARD_INPUT and sys.stdin.isatty():
        raise click.UsageError("SOURCE is standard input, but nothing is piped into it")
    with make_progress() as progress, open_source(source, progress) as files:

        async def work() -> Result:
            async with RegistryClient(target.registry, progress.note) as client:
                return await Push(files, client, target, progress).run(image, packing)

        result = run(work())
    click.echo(result.json() if as_json else result.reference)


@click.command("pull")
@click.argument("ref")
@click.argument("dest", type=click.Path(allow_dash=True))
@click.option(
    "--format",
    "form",
    type=click.Choice([OCI_DIR, OCI_TAR, DOCKER_ARCHIVE]),
    help="What to write. docker-archive is what `docker load` reads: one image for one platform, "
    "layers unpacked. Default: oci-tar if DEST is - or ends in .tar, else oci-dir.",
)
@click.option(
    "--platform",
    metavar="OS/ARCH[/VARIANT]",
    help="Of an image for several platforms, only this one. Default: all; for docker-archive, "
    "this machine's.",
)
@click.option(
    "--referrers", is_flag=True, help="Signatures and other artifacts that refer to it as well."
)
@_common
def pull_command(
    ref: str,
    dest: str,
    form: str | None,
    platform: str | None,
    referrers: bool,
    registry: str,
    plain_http: bool | None,
    as_json: bool,
) -> None:
    """Pull an image from a registry into a file.

    REF is [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]; without a host it means the local node. DEST is
    a directory, which becomes an OCI layout, an archive *.tar, or - for standard output.

    Every byte is compared with its digest before DEST has it. A directory that an earlier pull left
    half done is continued; one that holds other images keeps them. An archive appears when it is
    whole, and needs twice its size beside it (beside -, in TMPDIR) while it is made.

    Prints the reference by digest of what was pulled (to standard error if DEST is -).
    """
    target = _usage(lambda: resolve(ref, registry, plain_http))
    wanted = _usage(lambda: parse_platform(platform)) if platform else None
    form = form or (OCI_TAR if dest == STANDARD_OUTPUT or dest.endswith(".tar") else OCI_DIR)
    to_stdout = dest == STANDARD_OUTPUT
    if to_stdout and form == OCI_DIR:
        raise click.UsageError("an oci-dir is a directory: DEST cannot be -")
    if to_stdout and sys.stdout.isatty():
        raise click.UsageError("DEST is standard output, and that is a terminal")
    if form == DOCKER_ARCHIVE and referrers:
        raise click.UsageError("a docker-archive has no room for --referrers")
    fallback = this_platform() if form == DOCKER_ARCHIVE else None

    def pull_into(root: Path) -> tuple[Result, Tree]:
        async def work() -> tuple[Result, Tree]:
            async with RegistryClient(target.registry, progress.note) as client:
                pull = Pull(client, target, layout, progress)
                return await pull.run(wanted, fallback=fallback, referrers=referrers)

        with open_layout(root) as layout:
            return run(work())

    with make_progress() as progress:
        if form == OCI_DIR:
            result, _ = pull_into(Path(dest))
        else:
            beside = None if to_stdout else Path(dest).parent
            with tempfile.TemporaryDirectory(dir=beside, prefix=".oci-mesh-") as staging:
                result, tree = pull_into(Path(staging))
                _export(Path(staging), tree, form, target, dest)
    click.echo(result.json() if as_json else result.reference, err=to_stdout)


def _export(root: Path, tree: Tree, form: str, target: Target, dest: str) -> None:
    files = DirectoryFiles(root)
    with new_file(dest) as file:
        if form == OCI_TAR:
            write_oci_tar(files, tree, file)
        else:
            write_docker_archive(files, tree, str(target) if target.tag else None, file)


def _usage(parse: Callable[[], Value]) -> Value:
    """What cannot be parsed was typed wrongly: exit code 2."""
    try:
        return parse()
    except (OciError, ConfigError) as error:
        raise click.UsageError(str(error)) from None
