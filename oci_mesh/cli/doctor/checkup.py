"""All checks, in the order in which one builds on another; and how they are made."""

from collections.abc import Collection
from typing import Final

import msgspec

from oci_mesh.cli.doctor import certificate, containerd, disk, image, mesh, node, process
from oci_mesh.cli.doctor.asked import look_at_asking
from oci_mesh.cli.doctor.finding import Check, Finding, skipped
from oci_mesh.cli.doctor.patient import Patient
from oci_mesh.cli.failure import first_failure
from oci_mesh.errors import OciMeshError

CHECKS: Final[tuple[Check[Patient], ...]] = (
    Check("node", node.look_at_node),
    Check("listening", node.look_at_listener),
    Check("disk", disk.look_at_disk),
    Check("limits", process.look_at_limits, ("node",)),
    Check("secrets", process.look_at_secrets),
    Check("certificate", certificate.look_at_certificate),
    Check("names", mesh.look_at_names, ("node",)),
    Check("mesh", mesh.look_at_mesh, ("node",)),
    Check("clocks", mesh.look_at_clocks, ("node",)),
    Check("upstreams", mesh.look_at_upstreams, ("node",)),
    Check("runtime", containerd.look_at_runtime),
    Check("containerd", containerd.look_at_containerd, ("runtime",)),
    Check("restart", containerd.look_at_restart, ("runtime", "containerd")),
    Check("asked", look_at_asking, ("node", "listening", "runtime", "containerd")),
    Check("podman", containerd.look_at_podman, ("runtime",)),
    Check("docker", containerd.look_at_docker, ("runtime",)),
)
OF_AN_IMAGE: Final[tuple[Check[Patient], ...]] = (
    Check("name", image.look_at_name, ("node",)),
    Check("image", image.look_at_image, ("node", "name")),
    Check("held", image.look_at_held, ("node", "name")),
)
NAMES: Final = tuple(check.name for check in (*CHECKS, *OF_AN_IMAGE))


class Checked(msgspec.Struct, rename="camel"):
    """One check, and what it found; at least one finding."""

    name: str
    findings: list[Finding]


class Checkup(msgspec.Struct, rename="camel"):
    """What all checks found."""

    checks: list[Checked]
    errors: int
    warnings: int


async def check_up(patient: Patient, without: Collection[str] = ()) -> Checkup:
    """Make all checks but those in `without`; those of an image only if one is asked about."""
    checked: list[Checked] = []
    done: dict[str, list[Finding]] = {}
    for check in (*CHECKS, *(OF_AN_IMAGE if patient.reference else ())):
        if check.name in without:
            findings = [skipped("left out, as asked")]
        elif broken := _broken(check, done):
            findings = [skipped(f"it needs `{broken}`")]
        else:
            findings = await _look(check, patient)
        done[check.name] = findings
        checked.append(Checked(check.name, findings))
    levels = [finding.level for each in checked for finding in each.findings]
    return Checkup(checked, levels.count("error"), levels.count("warning"))


def _broken(check: Check[Patient], done: dict[str, list[Finding]]) -> str:
    """Of the checks that it needs, the first that failed."""
    for name in check.needs:
        if any(finding.level == "error" for finding in done[name]):
            return name
    return ""


async def _look(check: Check[Patient], patient: Patient) -> list[Finding]:
    """What one check finds; what stops it is a finding as well."""
    try:
        return await check.look(patient)
    except TimeoutError:
        return [skipped("the node did not answer in time")]
    except OciMeshError as failure:
        return [skipped(str(failure))]
    except BaseExceptionGroup as group:
        first = first_failure(group)
        if not isinstance(first, OciMeshError):
            raise
        return [skipped(str(first))]
