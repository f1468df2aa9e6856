"""deploy/oci-mesh.service as a text: its settings, and the system calls that it lets through."""

import subprocess
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
UNIT = DEPLOY / "oci-mesh.service"


def settings(section: str) -> dict[str, list[str]]:
    """Every setting of a section, with its values in order."""
    found: dict[str, list[str]] = {}
    current = ""
    for line in UNIT.read_text().splitlines():
        if line.startswith("["):
            current = line.strip("[]")
        elif "=" in line and not line.startswith("#") and current == section:
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def system_calls() -> list[str]:
    """What `SystemCallFilter` comes to, and what systemd always allows, by name.

    Needs systemd-analyze.
    """
    allowed = _expanded("@default")
    for line in settings("Service")["SystemCallFilter"]:
        names = {name for word in line.lstrip("~").split() for name in _expanded(word)}
        allowed = allowed - names if line.startswith("~") else allowed | names
    return sorted(allowed)


def _expanded(word: str) -> set[str]:
    if not word.startswith("@"):
        return {word}
    shown = subprocess.run(
        ["systemd-analyze", "syscall-filter", word], capture_output=True, text=True, check=True
    )
    members = [line.strip() for line in shown.stdout.splitlines()[1:] if line.startswith("    ")]
    return {name for each in members if not each.startswith("#") for name in _expanded(each)}
