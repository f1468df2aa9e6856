"""The official conformance suite of the distribution spec: built at a pinned version, run, read.

The suite is a Go program. Two of its files matter: `results.yaml` says which features were on, and
the worst outcome per API and kind of data; `junit.xml` lists every single check. It exits 0 on a
configuration error, before it writes either: a missing file is a failure, whatever the exit code.
"""

import os
from collections import Counter
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

from tests.e2e import command

PINNED = (
    "github.com/opencontainers/distribution-spec/conformance@v0.0.0-20260831232431-97274622c111"
)
BUILD_SECONDS = 300.0
RUN_SECONDS = 300.0

_APIS = (
    *("PULL", "PUSH", "REFERRER", "TAGS_ATOMIC", "TAGS_DELETE", "TAGS_LIST"),
    *("BLOBS_ATOMIC", "BLOBS_DELETE", "BLOBS_DIGEST_HEADER"),
    *("BLOBS_MOUNT_ANONYMOUS", "BLOBS_UPLOAD_CANCEL"),
    *("MANIFESTS_ATOMIC", "MANIFESTS_DELETE", "MANIFESTS_DIGEST_HEADER", "MANIFESTS_TAG_PARAM"),
)
_DATA = (
    *("IMAGE", "INDEX", "INDEX_LIST", "ARTIFACT", "ARTIFACT_LIST", "SUBJECT", "SUBJECT_LIST"),
    *("SUBJECT_MISSING", "DATA_FIELD", "NONDISTRIBUTABLE", "CUSTOM_FIELDS", "NO_LAYERS"),
    *("EMPTY_BLOB", "SHA512"),
)


class Check(NamedTuple):
    """One check of the suite: its path, its outcome (`passed`, `skipped`, …), what it said."""

    name: str
    outcome: str
    message: str


class Results(NamedTuple):
    """What one run said."""

    features: dict[str, str]
    """Every switch of the configuration, as the suite understood it (`blobs.delete` -> `true`)."""
    areas: dict[str, str]
    """API or kind of data -> `Pass`, `Skip`, `FAIL`, `Error` or `Disabled`."""
    checks: list[Check]

    def counts(self) -> Counter[str]:
        """How many checks had which outcome."""
        return Counter(check.outcome for check in self.checks)

    def not_passed(self) -> list[Check]:
        """Every check that did not pass."""
        return [check for check in self.checks if check.outcome != "passed"]


def build() -> Path:
    """The suite's program, built once per version into the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "oci-mesh-tests" / PINNED.rpartition("@")[2]
    program = folder / "conformance"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        command.run("go", "install", PINNED, env={"GOBIN": str(folder)}, timeout=BUILD_SECONDS)
    return program


def run(program: Path, registry: str, version: str, results: Path, *, sparse: bool) -> Results:
    """Run every API and data feature against the registry at HOST:PORT (plain HTTP)."""
    outputs = [results / name for name in ("results.yaml", "junit.xml")]
    for path in outputs:
        path.unlink(missing_ok=True)
    switches = {f"OCI_API_{name}": "true" for name in _APIS}
    switches |= {f"OCI_DATA_{name}": "true" for name in _DATA}
    switches |= {"OCI_DATA_SPARSE": str(sparse).lower(), "OCI_VERSION": version}
    switches |= {"OCI_REGISTRY": registry, "OCI_TLS": "disabled", "OCI_RESULTS_DIR": str(results)}
    done = command.run(program, cwd=results, env=switches, check=False, timeout=RUN_SECONDS)
    missing = [path.name for path in outputs if not path.exists()]
    assert not missing, f"no {missing}, exit {done.returncode}: {done.stderr.decode()}"
    features, areas = _read_results(outputs[0].read_text())
    return Results(features, areas, _read_checks(outputs[1]))


def _read_results(text: str) -> tuple[dict[str, str], dict[str, str]]:
    """The leaves below `config:`, by path, and those of `apis:` and `data:`, by name.

    The part of YAML that this file uses: nested mappings of plain scalars, two spaces a level.
    """
    features, areas = {}, {}
    path: list[str] = []
    for line in text.splitlines():
        key, _, value = line.strip().partition(": ")
        path = [*path[: (len(line) - len(line.lstrip())) // 2], key.rstrip(":")]
        if value and path[0] == "config":
            features[".".join(path[1:])] = value
        elif value and path[0] in {"apis", "data"}:
            areas[path[1]] = value
    return features, areas


def _read_checks(path: Path) -> list[Check]:
    cases = ET.parse(path).iter("testcase")
    return [
        Check(case.get("name", ""), case.get("status", ""), case.findtext("system-out") or "")
        for case in cases
    ]
