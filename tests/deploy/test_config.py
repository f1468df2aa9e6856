"""deploy/config.toml: every setting is in it, with the default that it has, and it is accepted."""

import re
import tomllib
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from oci_mesh import NodeConfig, logs, serve
from tests.deploy.unit import DEPLOY

TEXT = (DEPLOY / "config.toml").read_text()

# A commented setting or table; prose has a space behind its `#`.
UNCOMMENTED = re.sub(r"(?m)^#(?=\S)", "", TEXT)

# Those whose default is nothing, so that the example shows a value.
EXAMPLES = {"advertise", "name", "ca", "token", "disk-reserve", "containerd", "containerd-socket"}


def defaults() -> dict[str, Any]:
    """What every key is if nobody sets it."""
    found = {}
    for parameter in serve.main.params:
        if parameter.name in ("config", None):
            continue
        spec = NodeConfig.__dataclass_fields__.get(str(parameter.name))
        default = parameter.default if spec is None else spec.default
        key = str(parameter.name).replace("_", "-")
        found[key] = [] if default == () or key == "upstream" else default
    return found


def test_every_setting_is_there_with_its_default() -> None:
    """No more and no less, in whatever order; the root has none."""
    shown = tomllib.loads(UNCOMMENTED.partition("[upstream.")[0])
    expected = defaults()
    assert shown.keys() == expected.keys()
    assert expected.pop("root") is MISSING
    for key, default in expected.items():
        if key in EXAMPLES:
            assert default is None
            assert isinstance(shown[key], str)
        else:
            assert shown[key] == default, key


def test_commented_out_it_is_the_defaults() -> None:
    """So that nobody who copies it gets anything else than with no file."""
    assert tomllib.loads(TEXT) == {"root": "/var/lib/oci-mesh"}


@pytest.mark.parametrize("text", [TEXT, UNCOMMENTED.replace("upstream = []\n", "")])
def test_a_node_takes_it(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it is, and with all of it uncommented but what excludes something else."""
    configs: list[NodeConfig] = []

    async def capture(config: NodeConfig) -> None:
        configs.append(config)

    monkeypatch.setattr(serve, "_serve", capture)
    monkeypatch.setattr(logs, "configure", lambda level, form: None)
    file = tmp_path / "config.toml"
    file.write_text(text)
    assert isinstance(serve.main, click.Command)
    ran = CliRunner().invoke(serve.main, ["--config", str(file)], env={"OCI_MESH_ROOT": None})
    assert ran.exit_code == 0, ran.output
    assert configs[0].root == Path("/var/lib/oci-mesh")
    named = [upstream.name for upstream in configs[0].upstreams]
    assert named == (["registry.corp"] if text is not TEXT else [])
