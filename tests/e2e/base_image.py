"""A base image made of this machine's own Debian packages: Python, a shell, and what these need.

For machines that no registry can be reached from. It stands in for `BASE` of deploy/Dockerfile, and
has the same places in it: `python3` with venv and pip on the PATH, `sh`, coreutils.
"""

import os
import tarfile
from pathlib import Path

from tests.e2e import command
from tests.e2e.requirements import absent, require

_PACKAGES = ("python3-venv", "dash", "coreutils")
_ONLY_NEEDED = [f"--no-{kind}" for kind in ("recommends", "suggests", "conflicts", "breaks")]
_ONLY_NEEDED += ["--no-replaces", "--no-enhances", "--installed", "--recurse"]

# What a machine's user expects where Debian 12 has only links to it.
_MERGED = {name: f"usr/{name}" for name in ("bin", "sbin", "lib", "lib64")}
_DIRECTORIES = ("tmp", "proc", "sys", "dev", "etc", "var/lib", "opt", "root")
_USERS = "root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/nonexistent:/bin/false\n"

# Half of the packages' bytes, and never read in a container.
_LEFT_OUT = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/")


def build(path: Path) -> None:
    """Write the base image's only layer to `path`, a tar. Skips (fails in CI) without dpkg."""
    require("dpkg-query", "apt-cache")
    words = ("apt-cache", "depends", *_ONLY_NEEDED, *_PACKAGES)
    listed = command.run(*words).stdout.decode().splitlines()
    packages = sorted({line for line in listed if line and line[0] not in " <|"})
    found = command.run("dpkg-query", "--listfiles", *packages, check=False)
    if found.returncode != 0:
        absent(f"not installed: {found.stderr.decode().strip().splitlines()[0]}")
    with tarfile.open(path, "w") as layer:
        for name, target in _MERGED.items():
            layer.addfile(_entry(name, tarfile.SYMTYPE, linkname=target))
        for name in _DIRECTORIES:
            layer.addfile(_entry(name, tarfile.DIRTYPE, mode=0o1777 if name == "tmp" else 0o755))
        for name in sorted(_places(found.stdout.decode().splitlines())):
            layer.add(f"/{name}", name, recursive=False)
        users = path.with_suffix(".passwd")
        users.write_text(_USERS)
        layer.add(users, "etc/passwd")


def _places(files: list[str]) -> set[str]:
    """Where the packages' files really are, relative to the root; no directories."""
    places = set()
    for file in files:
        if not file.startswith("/") or file.startswith(_LEFT_OUT):
            continue  # dpkg says what was diverted, too
        directory, name = os.path.split(file)
        place = os.path.join(os.path.realpath(directory), name)
        if os.path.lexists(place) and (os.path.islink(place) or not os.path.isdir(place)):
            places.add(place.removeprefix("/"))
    return places - {"etc/passwd"} - set(_MERGED)


def _entry(name: str, kind: bytes, *, mode: int = 0o777, linkname: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode, entry.linkname = kind, mode, linkname
    return entry
