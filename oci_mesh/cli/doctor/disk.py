"""The disk that the node's content is on: room, and whether it is one to keep content on."""

import os
import posixpath
from pathlib import Path
from typing import Final, NamedTuple

from oci_mesh.cli.doctor.finding import Finding, error, ok, skipped, warning
from oci_mesh.cli.doctor.patient import Patient
from oci_mesh.control.health import Health
from oci_mesh.quantity import size_text

_MOUNTS: Final = Path("/proc/self/mountinfo")

# What a reboot empties, and what locks of SQLite cannot be trusted on.
_VOLATILE: Final = frozenset({"tmpfs", "ramfs"})
_NETWORK: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs", "ceph"})

# Left for anybody, if the node cannot be asked what it leaves: what its own default is.
_RESERVE: Final = 1024**3
_RESERVE_SHARE: Final = 20

# Below this much more than the reserve, images of the usual size will soon not fit.
_LOW: Final = 2 * 1024**3
_LOW_SHARE: Final = 10  # and a tenth of a small disk

# Of the inodes of a file system; every blob is a file.
_MIN_FREE_INODES: Final = 1000

# Of `disk-limit`.
_FULL_SHARE: Final = 0.95


class Disk(NamedTuple):
    """A file system. Sizes in bytes."""

    mounted: str
    kind: str
    size: int
    free: int
    inodes: int
    free_inodes: int
    is_read_only: bool


def disk_of(path: Path) -> Disk:
    """The one that `path` is on. Raises `OSError`."""
    stat = os.statvfs(path)
    mounted, kind = _mount(os.path.realpath(path))
    return Disk(
        mounted,
        kind,
        stat.f_blocks * stat.f_frsize,
        stat.f_bavail * stat.f_frsize,
        stat.f_files,
        stat.f_favail,
        bool(stat.f_flag & os.ST_RDONLY),
    )


def _mount(path: str) -> tuple[str, str]:
    """Where the file system of `path` is mounted, and of what kind it is."""
    best = "/", ""
    for line in _MOUNTS.read_text().splitlines():
        left, _, right = line.partition(" - ")
        place = left.split()[4].replace("\\040", " ")
        if posixpath.commonpath([place, path]) == place and len(place) >= len(best[0]):
            best = place, right.split()[0]
    return best


async def look_at_disk(patient: Patient) -> list[Finding]:
    """Of the node's root directory."""
    try:
        disk = disk_of(patient.root)
    except OSError as failure:
        return [skipped(f"cannot look at {patient.root}: {failure.strerror}")]
    return judge_disk(disk, patient.health)


def judge_disk(disk: Disk, health: Health | None) -> list[Finding]:
    """What is wrong with it, if anything."""
    found: list[Finding] = []
    reserve = min(_RESERVE, disk.size // _RESERVE_SHARE) if health is None else health.reserve
    free = f"{size_text(disk.free)} of {size_text(disk.size)} at {disk.mounted} are free"
    room = "free some space (`oci-mesh node gc`, docker system prune), or enlarge the disk"
    if disk.is_read_only:
        found.append(
            error(
                "disk.read-only",
                f"the disk at {disk.mounted} is mounted read-only",
                "dmesg tells whether the kernel did that because of a fault; then mend the disk, "
                f"and mount -o remount,rw {disk.mounted}",
            )
        )
    elif disk.free <= reserve:
        found.append(
            error(
                "disk.full",
                f"{free}, and {size_text(reserve)} have to stay so: pushes are refused, and "
                "nothing new is kept",
                f"{room}, or leave less (--disk-reserve)",
            )
        )
    elif disk.free < reserve + min(_LOW, disk.size // _LOW_SHARE):
        found.append(warning("disk.low", f"{free}, {size_text(reserve)} of it reserved", room))
    if disk.inodes and disk.free_inodes < _MIN_FREE_INODES:
        found.append(
            error(
                "disk.inodes",
                f"{disk.free_inodes} of {disk.inodes} inodes at {disk.mounted} are free: no more "
                "files can be made, whatever the room",
                "remove what has many small files (df -i), or make the file system anew with more",
            )
        )
    if health is not None and health.limit and health.used >= health.limit * _FULL_SHARE:
        found.append(
            warning(
                "disk.limit",
                f"this node holds {size_text(health.used)}, of {size_text(health.limit)} that it "
                "may hold (disk-limit)",
                "oci-mesh rm what is not needed, or raise --disk-limit",
            )
        )
    return found + _judge_kind(disk) or [ok(free)]


def _judge_kind(disk: Disk) -> list[Finding]:
    move = "put the node's root directory on a local disk (--root)"
    if disk.kind in _VOLATILE:
        lost = "what is pushed to this node is gone after a reboot"
        return [
            warning("disk.volatile", f"{disk.mounted} is in memory ({disk.kind}): {lost}", move)
        ]
    if disk.kind in _NETWORK:
        return [
            warning(
                "disk.network",
                f"{disk.mounted} is a network file system ({disk.kind}): its locks and syncs "
                "cannot be trusted, and every byte crosses the network twice",
                move,
            )
        ]
    return []
