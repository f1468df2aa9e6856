"""The verbs about content: their arguments, and their help, which people read before any of this.

What does the work is in `work.py`, and imported when a verb is called: it takes half a second.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Final, Literal

import click

from oci_mesh.cli.completion import REF
from oci_mesh.cli.options import registry_options, usage
from oci_mesh.cli.output import json_text, show
from oci_mesh.cli.run import PARTLY
from oci_mesh.cli.selection import parse_platform, this_platform
from oci_mesh.cli.target import Target, resolve

OCI_DIR: Final = "oci-dir"
OCI_TAR: Final = "oci-tar"
DOCKER_ARCHIVE: Final = "docker-archive"

STANDARD: Final = "-"
"""Standard input, or output."""


@click.command("push")
@click.argument("source", type=click.Path(exists=True, allow_dash=True))
@click.argument("ref", type=REF)
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
@registry_options
def push_command(
    source: str,
    ref: str,
    compression: Literal["gzip", "zstd", "none"],
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
    from oci_mesh.cli import work
    from oci_mesh.cli.compression import Compression

    target = usage(lambda: resolve(ref, registry, plain_http))
    packing = usage(lambda: Compression(compression, level))
    if source == STANDARD and sys.stdin.isatty():
        raise click.UsageError("SOURCE is standard input, but nothing is piped into it")
    result = work.push(source, target, image, packing)
    show(result, as_json=as_json, text=result.reference)


@click.command("pull")
@click.argument("ref", type=REF)
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
@registry_options
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
    target = usage(lambda: resolve(ref, registry, plain_http))
    wanted = usage(lambda: parse_platform(platform)) if platform else None
    form = form or (OCI_TAR if dest == STANDARD or dest.endswith(".tar") else OCI_DIR)
    to_stdout = dest == STANDARD
    if to_stdout and form == OCI_DIR:
        raise click.UsageError("an oci-dir is a directory: DEST cannot be -")
    if to_stdout and sys.stdout.isatty():
        raise click.UsageError("DEST is standard output, and that is a terminal")
    if form == DOCKER_ARCHIVE and referrers:
        raise click.UsageError("a docker-archive has no room for --referrers")
    from oci_mesh.cli import work

    if form == OCI_DIR:
        result = work.pull(target, Path(dest), wanted, referrers=referrers)
    else:
        is_docker = form == DOCKER_ARCHIVE
        fallback = this_platform() if is_docker else None
        result = work.pull_archive(
            target, dest, wanted, fallback, referrers=referrers, for_docker=is_docker
        )
    click.echo(json_text(result) if as_json else result.reference, err=to_stdout)


@click.command("copy")
@click.argument("source", metavar="REF", type=REF)
@click.argument("dest", metavar="REF", type=REF)
@click.option(
    "--referrers", is_flag=True, help="Signatures and other artifacts that refer to it as well."
)
@registry_options
def copy_command(
    source: str,
    dest: str,
    referrers: bool,
    registry: str,
    plain_http: bool | None,
    as_json: bool,
) -> None:
    """Copy an image from one registry to another, or under another name.

    The first REF is copied to the second: all platforms, every digest as it is. Blobs pass through
    this machine, nothing is written to its disk; what the other registry has is not sent. If it
    breaks off, the same command does the rest.

    Credentials are those of `docker login` or `podman login`: `auths` in ~/.docker/config.json (or
    DOCKER_CONFIG) and XDG_RUNTIME_DIR/containers/auth.json.

    \b
    Examples:
      oci-mesh copy docker.io/library/alpine:3.22 alpine:3.22
      oci-mesh copy registry.corp/team/app:v1 app:v1 --referrers
      oci-mesh copy app:v1 app:stable

    Prints the reference by digest of what was copied.
    """
    from oci_mesh.cli import work

    origin = usage(lambda: resolve(source, registry, plain_http))
    goal = usage(lambda: resolve(dest, registry, plain_http))
    result = work.copy(origin, goal, referrers=referrers)
    show(result, as_json=as_json, text=result.reference)


@click.command("tags")
@click.argument("name", metavar="[REPOSITORY|REF]", type=REF, required=False)
@click.option("--digests", is_flag=True, help="What each tag means, too. A request each.")
@registry_options
def tags_command(
    name: str | None,
    digests: bool,
    registry: str,
    plain_http: bool | None,
    as_json: bool,
) -> None:
    """List the tags of a repository, one a line.

    Of a REF with a tag or a digest: all tags that mean the same content. Without an argument: the
    repositories of the local node.

    \b
    Examples:
      oci-mesh tags
      oci-mesh tags team/app --digests
      oci-mesh tags team/app:latest
    """
    from oci_mesh.cli import work

    if name is None:
        base = usage(lambda: resolve("x", registry, plain_http)).registry
        repositories = work.list_repositories(base)
        show(repositories, as_json=as_json, text=repositories.text())
        return
    target = usage(lambda: resolve(name, registry, plain_http))
    tags = work.list_tags(target, alike=_says_which(name), digests=digests)
    show(tags, as_json=as_json, text=tags.text())


@click.command("inspect")
@click.argument("ref", type=REF)
@click.option("--raw", is_flag=True, help="The manifest itself, byte for byte.")
@registry_options
def inspect_command(
    ref: str, raw: bool, registry: str, plain_http: bool | None, as_json: bool
) -> None:
    """Show what is behind a name: platforms, layers, what would run, labels, what refers to it.

    No layer is fetched.

    \b
    Examples:
      oci-mesh inspect app:v1
      oci-mesh inspect docker.io/library/alpine:3.22 --json
      oci-mesh inspect app:v1 --raw | sha256sum
    """
    from oci_mesh.cli import work

    if raw and as_json:
        raise click.UsageError("--raw and --json are two forms: choose one")
    target = usage(lambda: resolve(ref, registry, plain_http))
    if raw:
        click.echo(work.manifest(target), nl=False)
        return
    inspected = work.inspect(target)
    show(inspected, as_json=as_json, text=inspected.text())


@click.command("rm")
@click.argument("refs", metavar="REF...", type=REF, nargs=-1, required=True)
@registry_options
def rm_command(
    refs: tuple[str, ...], registry: str, plain_http: bool | None, as_json: bool
) -> None:
    """Remove tags, or by digest manifests with all their tags. On a mesh: from all nodes.

    A tag goes alone: its content remains as long as another tag means it, and can be had by its
    digest until that is removed. Nodes that are away forget it when they are back. If one REF is
    not there, nothing is removed.

    \b
    Examples:
      oci-mesh rm app:v1 app:v2
      oci-mesh rm app@sha256:…
    """
    from oci_mesh.cli import work

    targets: dict[Target, None] = {}
    for ref in refs:
        if not _says_which(ref):
            raise click.UsageError(f"{ref} does not say which one: {ref}:TAG or {ref}@DIGEST")
        targets[usage(partial(resolve, ref, registry, plain_http))] = None
    removed, whole = work.remove([*targets])
    show(removed, as_json=as_json, text="\n".join(one.text() for one in removed.removed))
    if not whole:
        raise SystemExit(PARTLY)


def _says_which(ref: str) -> bool:
    """Whether there is a tag or a digest in it: a colon in the last component, or an @."""
    return "@" in ref or ":" in ref.rpartition("/")[2]
