"""The house rules of the source tree, read from the source itself: nothing is imported.

Imports flow one way:

    errors <- spec, pki <- swarm, members, store <- sources <- registry, upstream, containerd, mesh,
    mirror <- node
    node <- serve, cli, web
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "oci_mesh"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# What each part may import of the others. A new part has to be put here: that is a decision.
BASE = {"errors", "spec", "tasks"}
STORE = BASE | {"store"}
SOURCE = STORE | {"sources", "metrics", "logs", "journal"}
MESH = SOURCE | {"swarm", "members", "pki"}
NODE = MESH | {
    "config",
    "upstream_config",
    "registry",
    "upstream",
    "mesh",
    "mirror",
    "cache",
    "containerd",
}
MAY_IMPORT = {
    "errors": set(),
    "tasks": set(),
    "pki": {"errors"},
    "metrics": set(),
    "logs": set(),
    "journal": {"errors", "spec"},
    "quantity": {"errors"},
    "upstream_config": {"errors", "spec"},
    "config": {"errors", "spec", "upstream_config"},
    "spec": {"errors"},
    "swarm": {"errors", "spec"},
    "members": {"errors", "spec"},
    "store": BASE,
    "sources": STORE,
    "registry": SOURCE,
    "upstream": SOURCE | {"upstream_config"},
    "containerd": SOURCE,
    "mirror": SOURCE,
    "cache": SOURCE,
    "mesh": MESH,
    "node": NODE | {"control", "operations", "version"},
    "notify": set(),
    "serve": {
        "errors",
        "config",
        "logs",
        "node",
        "notify",
        "quantity",
        "tasks",
        "upstream_config",
    },
    # containerd: doctor asks this machine's, as root, which the node may not be. operations: what
    # `node join` does before there is a node.
    "cli": {
        "errors",
        "spec",
        "config",
        "control",
        "containerd",
        "operations",
        "pki",
        "quantity",
        "version",
    },
    "web": {"errors", "spec", "config", "node"},
    "control": {"errors"},
    "operations": NODE - {"registry"} | {"control", "quantity"},
    "version": set(),
    "__init__": {
        "version",
        "errors",
        "spec",
        "store",
        "sources",
        "config",
        "upstream_config",
        "node",
    },
}

# Parts that decide and never do: no IO, no clock, no chance (a `Random` is an argument).
PURE = {"spec", "swarm", "members"}
IMPURE_MODULES = {"asyncio", "os", "random", "socket", "threading", "time"}

# The homes of third-party packages: parts, or files of them.
HOMES = {
    "aiohttp": {"control/server", "registry", "upstream", "mesh", "node", "cli/http"},
    "yarl": {"registry", "upstream", "mesh", "node", "cli/http", "cli/registry_client"},
    "click": {"cli", "serve"},
    "asyncinotify": {"containerd"},
    "cryptography": {"pki"},
    "google": {"containerd"},
    "grpclib": {"containerd"},
    "msgspec": set(MAY_IMPORT),
    "prometheus_client": {"metrics"},
    "rich": {"cli/progress"},
    "tomlkit": {"cli/hosts_toml", "cli/node_config"},
    "zstandard": {"cli/compression"},
}

MAX_FUNCTION_LINES = 70
MAX_FILE_LINES = 600


def _place(source: Path) -> str:
    """`cli/progress` for oci_mesh/cli/progress.py."""
    return source.relative_to(PACKAGE).with_suffix("").as_posix()


def _part(source: Path) -> str:
    """The first step below the package: `cli` for oci_mesh/cli/progress.py."""
    return _place(source).partition("/")[0]


def _imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    """(module, name) of everything imported at run time: not under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from ((alias.name, "") for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: a relative import"
            yield from ((child.module or "", alias.name) for alias in child.names)
        yield from _imports(child)


def _tree(source: Path) -> ast.Module:
    return ast.parse(source.read_bytes(), source)


def _parts_imported(tree: ast.AST) -> set[str]:
    """Which parts of oci_mesh; the public names in `oci_mesh` itself are one, called `__init__`."""
    parts = set()
    for module, name in _imports(tree):
        top, _, below = module.partition(".")
        if top == "oci_mesh":
            known = below.partition(".")[0] or (name if name in MAY_IMPORT else "__init__")
            parts.add(known)
    return parts


def _violations(source: Path) -> Iterator[str]:
    tree, part, place = _tree(source), _part(source), _place(source)
    for other in sorted(_parts_imported(tree) - MAY_IMPORT[part] - {part}):
        yield f"{part} may not import {other}"
    modules = {module.partition(".")[0] for module, _ in _imports(tree)}
    for module in sorted(modules - sys.stdlib_module_names - {"oci_mesh"}):
        if not {part, place} & HOMES.get(module, set()):
            yield f"{module} is at home in {sorted(HOMES.get(module, ()))}"
    if part in PURE:
        used = {m.partition(".")[0] for m, n in _imports(tree) if (m, n) != ("random", "Random")}
        for module in sorted(used & IMPURE_MODULES):
            yield f"{part} is pure and may not import {module}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _starts_an_orphan(ast.unparse(node.func)):
            yield f"line {node.lineno}: a task outside of any group"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = (node.end_lineno or 0) - node.lineno + 1
            if length > MAX_FUNCTION_LINES:
                yield f"line {node.lineno}: {node.name} has {length} lines"
    if len(source.read_bytes().splitlines()) > MAX_FILE_LINES:
        yield f"more than {MAX_FILE_LINES} lines"


def _starts_an_orphan(function: str) -> bool:
    """Whether this makes a task that no `TaskGroup` waits for."""
    owner, _, name = function.rpartition(".")
    of_a_group = owner.endswith("group")
    return name == "ensure_future" or (name == "create_task" and not of_a_group)


@pytest.mark.parametrize("source", SOURCES, ids=_place)
def test_house_rules(source: Path) -> None:
    """Layers, purity, homes of third-party packages, no orphan tasks, nothing too long."""
    assert list(_violations(source)) == []


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ("spec/bad.py", "from oci_mesh.store.base import Store"),
        ("spec/bad.py", "from oci_mesh import store"),
        ("spec/bad.py", "from oci_mesh import Node"),
        ("spec/bad.py", "import oci_mesh.node"),
        ("spec/bad.py", "import time"),
        ("members/bad.py", "def f():\n    from asyncio import sleep"),
        ("members/bad.py", "from random import random"),
        ("registry/bad.py", "from oci_mesh.mesh.client import PeerClient"),
        ("registry/bad.py", "from oci_mesh.members.table import Member"),
        ("mesh/bad.py", "from oci_mesh.registry import api"),
        ("mesh/bad.py", "from oci_mesh.config import NodeConfig"),
        ("store/bad.py", "import aiohttp.web"),
        ("store/bad.py", "import requests"),
        ("cli/bad.py", "from rich.progress import Progress"),
        ("mesh/bad.py", "asyncio.create_task(f())"),
        ("mesh/bad.py", "asyncio.get_running_loop().create_task(f())"),
        ("mesh/bad.py", "asyncio.ensure_future(f())"),
        ("mesh/bad.py", "from asyncio import create_task\ncreate_task(f())"),
        ("mesh/bad.py", "def f():\n" + "    x = 1\n" * 70),
        ("mesh/bad.py", "x = 1\n" * 601),
    ],
)
def test_the_rules_bite(
    place: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each rule finds the violation that it is there for."""
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    source = tmp_path / place
    source.parent.mkdir()
    source.write_text(text)
    assert len(list(_violations(source))) == 1


def test_imports_for_typing_are_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pure part may name the type of what it is given."""
    monkeypatch.setattr(f"{__name__}.PACKAGE", tmp_path)
    source = tmp_path / "swarm.py"
    source.write_text("from random import Random\nif TYPE_CHECKING:\n    from os import PathLike\n")
    assert list(_violations(source)) == []
