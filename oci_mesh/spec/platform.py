"""Platforms as people write them, and which image of an index is for one. Pure."""

from typing import Final

from oci_mesh.errors import ConfigError
from oci_mesh.spec.manifest import Platform

_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386"}


def parse_platform(text: str) -> Platform:
    """Parse `os/architecture[/variant]`; raise `ConfigError` if it is not that."""
    parts = text.split("/")
    if len(parts) not in (2, 3) or not all(parts):
        raise ConfigError(f"{text!r} is not a platform: expected os/arch[/variant], as linux/arm64")
    return Platform(os=parts[0], architecture=parts[1], variant=parts[2] if parts[2:] else None)


def platform_of(machine: str) -> Platform:
    """Of a machine as `uname` calls it, in the words of the OCI (Go's); containers are Linux's
    everywhere.
    """
    return Platform(os="linux", architecture=_ARCHITECTURES.get(machine, machine))


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
