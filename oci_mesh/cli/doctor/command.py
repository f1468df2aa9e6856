"""`oci-mesh doctor`, as it is called and what it prints."""

from pathlib import Path
from typing import Final

import click

from oci_mesh.cli.completion import REF
from oci_mesh.cli.containerd_config import CONFIG
from oci_mesh.cli.doctor.checkup import NAMES, Checkup, check_up
from oci_mesh.cli.doctor.finding import Finding, Level
from oci_mesh.cli.doctor.patient import Patient
from oci_mesh.cli.edits import Machine
from oci_mesh.cli.options import json_option, registry_option, root_option, usage
from oci_mesh.cli.output import show
from oci_mesh.cli.run import FAILED, run
from oci_mesh.cli.target import resolve
from oci_mesh.spec.reference import parse_reference

_COLOURS: Final[dict[Level, str]] = {"ok": "green", "warning": "yellow", "error": "red"}
_MARKS: Final[dict[Level, str]] = {"ok": "ok", "warning": "warn", "error": "FAIL", "skipped": "-"}


@click.command("doctor")
@click.argument("reference", metavar="[REF]", type=REF, default="")
@click.option(
    "--public",
    is_flag=True,
    help="Try the registries as well that all nodes mirror unasked: docker.io, ghcr.io and others.",
)
@click.option(
    "--skip",
    "without",
    multiple=True,
    metavar="CHECK",
    type=click.Choice(NAMES),
    help="Leave a check out, with those that need it no worse off; may be given many times.",
)
@click.option(
    "--machine",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path("/"),
    help="Where the machine's file system is, if it is not this one's: in a container, where its "
    "/etc and /run are mounted.",
)
@click.option(
    "--config",
    metavar="PATH",
    default=CONFIG,
    show_default=True,
    help="containerd's own configuration.",
)
@registry_option
@root_option
@json_option
def doctor_command(
    reference: str,
    *,
    public: bool,
    without: tuple[str, ...],
    machine: Path,
    config: str,
    registry: str,
    root: Path,
    as_json: bool,
) -> None:
    """Look for what is wrong with this machine's node, and with what asks it for images.

    To be run on the machine, as root. It changes nothing. A line for each check; below what failed,
    what to do about it. What cannot be judged because something else failed is skipped, and says
    so. It works, as far as it can, while the node is down.

    With REF, also why a pod would not pull that image: what the name means there, whether
    containerd asks the node for it, whether it is for this machine, and which nodes have it.

    Exit code 0 if there is no error (warnings are none), 1 if there is.

    \b
    Examples:
      oci-mesh doctor
      oci-mesh doctor registry.internal/team/app:v1
      oci-mesh doctor --json | jq '.checks[] | select(.findings[].level == "error")'
    """
    if reference:
        usage(lambda: parse_reference(reference))
    usage(lambda: resolve("app:v1", registry))
    patient = Patient(
        root=root,
        registry=registry.rstrip("/"),
        machine=Machine(machine),
        config=config,
        files=machine,
        reference=reference,
        public=public,
    )
    checkup = run(check_up(patient, without))
    show(checkup, as_json=as_json, text=_text(checkup))
    if checkup.errors:
        raise SystemExit(FAILED)


def _text(checkup: Checkup) -> str:
    width = max(map(len, NAMES))
    lines = [
        line
        for checked in checkup.checks
        for finding in checked.findings
        for line in _lines(checked.name.ljust(width), finding)
    ]
    lines.append(f"errors: {checkup.errors}, warnings: {checkup.warnings}")
    return "\n".join(lines)


def _lines(name: str, finding: Finding) -> list[str]:
    mark = click.style(_MARKS[finding.level].ljust(4), fg=_COLOURS.get(finding.level))
    lines = [f"{mark}  {name}  {finding.found}"]
    if finding.fix:
        first, *more = finding.fix.splitlines()
        lines += [f"      {' ' * len(name)}  -> {first}"]
        lines += [f"      {' ' * len(name)}     {line}" for line in more]
    return lines
