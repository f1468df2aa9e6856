"""Which one is meant: of several images in an archive, of several platforms in an index. Pure.

Not here: guessing. Where two fit, the answer is an error that lists them.
"""

import platform as machine
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from oci_mesh.cli.failure import Failure, shown
from oci_mesh.cli.target import Target
from oci_mesh.errors import ConfigError, OciError
from oci_mesh.spec.manifest import Descriptor, Platform
from oci_mesh.spec.reference import parse_reference

Item = TypeVar("Item")

_MAX_LISTED: Final = 20  # names in an error; an archive may have thousands
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


@dataclass(frozen=True, slots=True)
class Candidate(Generic[Item]):
    """An image in SOURCE and what it is called there; it may have no name."""

    names: tuple[str, ...]
    item: Item


def choose_image(candidates: Sequence[Candidate[Item]], wanted: str | None, target: Target) -> Item:
    """The image called `wanted`; without it the only one, or the only one called like REF.

    Raises `Failure`, listing what there is.
    """
    if wanted is not None:
        found = [c.item for c in candidates if any(_same(name, wanted) for name in c.names)]
    elif len(candidates) == 1:
        found = [candidates[0].item]
    else:
        found = [c.item for c in candidates if any(_names(name, target) for name in c.names)]
    if len(found) == 1:
        return found[0]
    if not candidates:
        raise Failure("SOURCE holds no image")
    names = [name for c in candidates for name in c.names or ("(no name)",)]
    listed = ", ".join(shown(name) for name in names[:_MAX_LISTED])
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    if wanted is not None:
        problem = f"{'several images are' if found else 'no image is'} called {shown(wanted)}"
    else:
        problem = f"SOURCE holds {len(candidates)} images and REF does not say which"
    raise Failure(f"{problem}: {listed}{more}", hint="choose one with --image NAME")


def _names(name: str, target: Target) -> bool:
    """Whether an image's name is REF's: whole, without the host, or (OCI layouts) the tag."""
    if name == target.tag:
        return True
    return _same(name, str(target)) or _same(name, f"{target.repository}:{target.tag}")


def _same(name: str, other: str) -> bool:
    return name == other or _normal(name) == _normal(other)


def _normal(name: str) -> str:
    """docker.io/library/app:latest and app are one name; a layout may have names of any form."""
    try:
        return str(parse_reference(name))
    except OciError:
        return name


def parse_platform(text: str) -> Platform:
    """Parse `os/architecture[/variant]`; raise `ConfigError` if it is not that."""
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise ConfigError(f"{text!r} is not a platform: expected os/arch[/variant], as linux/arm64")
    return Platform(os=parts[0], architecture=parts[1], variant=parts[2] if parts[2:] else None)


def this_platform() -> Platform:
    """Where we run, in the words of the OCI (Go's); containers are Linux's everywhere."""
    architecture = machine.machine()
    return Platform(os="linux", architecture=_ARCHITECTURES.get(architecture, architecture))


def platform_text(platform: Platform | None) -> str:
    """`os/architecture[/variant]`, as a user would write it."""
    if platform is None:
        return "(any)"
    parts = (platform.os, platform.architecture, platform.variant)
    return "/".join(part for part in parts if part)


def runs_on(offered: Platform | None, wanted: Platform) -> bool:
    """Whether an image for `offered` is what `wanted` asks for; no variant asked means any."""
    return (
        offered is not None
        and (offered.os, offered.architecture) == (wanted.os, wanted.architecture)
        and wanted.variant in (None, offered.variant)
    )


def choose_platform(manifests: Sequence[Descriptor], wanted: Platform) -> Descriptor:
    """The first image of an index for `wanted`: indexes list the preferred one first.

    Raises `Failure`, listing what there is.
    """
    for descriptor in manifests:
        if runs_on(descriptor.platform, wanted):
            return descriptor
    offered = sorted({platform_text(d.platform) for d in manifests if d.platform})
    raise Failure(
        f"there is no image for {platform_text(wanted)}: {', '.join(offered) or 'none at all'}",
        hint="name one of these with --platform",
    )
