"""Which one is meant: of several images in an archive, of several platforms in an index. Pure.

Not here: guessing. Where two fit, the answer is an error that lists them.
"""

import platform as machine
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from oci_mesh.cli.failure import Failure, shown
from oci_mesh.cli.target import Target
from oci_mesh.errors import OciError
from oci_mesh.spec.manifest import Descriptor, Platform
from oci_mesh.spec.platform import parse_platform as parse_platform
from oci_mesh.spec.platform import platform_of
from oci_mesh.spec.platform import platform_text as platform_text
from oci_mesh.spec.platform import runs_on as runs_on
from oci_mesh.spec.reference import parse_reference

Item = TypeVar("Item")

_MAX_LISTED: Final = 20  # names in an error; an archive may have thousands


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


def this_platform() -> Platform:
    """Where we run."""
    return platform_of(machine.machine())


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
