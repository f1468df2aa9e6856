"""`oci-mesh ca …` and `oci-mesh token …`, as they are called."""

import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from oci_mesh.cli import main
from oci_mesh.pki.authority import Authority
from oci_mesh.pki.token import load_token


def call(*arguments: str | Path) -> Result:
    """`oci-mesh ARGUMENTS`."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def done(*arguments: str | Path) -> Result:
    """Likewise, and it worked."""
    result = call(*arguments)
    assert result.exit_code == 0, result.output
    return result


def test_init_makes_an_authority_once_and_says_what_is_next(tmp_path: Path) -> None:
    """With the directory in the commands that it shows."""
    directory = tmp_path / "etc" / "ca"
    said = done("ca", "init", directory, "--name", "prod").stdout
    assert f"--ca {directory}" in said
    assert f"oci-mesh token create --ca {directory}" in said
    (name,) = Authority.load(directory).trust(time.time()).names
    assert re.fullmatch(r"CN=prod [0-9a-f]{16}", name)
    again = call("ca", "init", directory)
    assert again.exit_code == 1
    assert "not overwritten" in again.stderr


def test_token_create_prints_the_token_alone(tmp_path: Path) -> None:
    """Until when it is good goes to standard error, for a person."""
    directory = tmp_path / "ca"
    done("ca", "init", directory)
    before = time.time()
    result = done("token", "create", "--ca", directory, "--ttl", "90s")
    token = load_token(result.stdout)
    assert result.stdout == f"{token.text()}\n"
    assert before + 89 <= token.expires <= time.time() + 90
    assert "UTC" in result.stderr
    assert load_token(done("token", "create", "--ca", directory).stdout).expires > before + 3599


@pytest.mark.parametrize("ttl", ["", "5", "0s", "-1h", "1w", "1.5h", "9999999999s"])
def test_a_time_to_live_is_a_number_and_a_unit(ttl: str, tmp_path: Path) -> None:
    """Wrong usage: exit code 2."""
    done("ca", "init", tmp_path)
    result = call("token", "create", "--ca", tmp_path, f"--ttl={ttl}")
    assert result.exit_code == 2
    assert "90s, 15m, 12h, 7d" in result.stderr


@pytest.mark.parametrize(
    "command", [("token", "create", "--ca"), ("ca", "rotate"), ("ca", "finish-rotation")]
)
def test_without_an_authority_it_says_how_to_make_one(
    command: tuple[str, ...], tmp_path: Path
) -> None:
    """Exit code 1."""
    result = call(*command, tmp_path / "none")
    assert result.exit_code == 1
    assert f"oci-mesh ca init {tmp_path / 'none'}" in result.stderr


def test_a_rotation_begins_and_ends(tmp_path: Path) -> None:
    """It says when what happens; it does not end early by accident."""
    done("ca", "init", tmp_path, "--name", "prod")
    before = Authority.load(tmp_path).trust(time.time())
    said = done("ca", "rotate", tmp_path, "--overlap", "1h").stdout
    assert said.count("UTC") == 2
    assert Authority.load(tmp_path).trust(time.time()).succeeds(before)
    assert call("ca", "rotate", tmp_path).exit_code == 1
    early = call("ca", "finish-rotation", tmp_path)
    assert early.exit_code == 1
    assert "--early" in early.stderr
    done("ca", "finish-rotation", tmp_path, "--early")
    after = Authority.load(tmp_path).trust(time.time())
    assert not after.names & before.names
    assert all(name.startswith("CN=prod ") for name in after.names)


def test_a_short_overlap_is_short(tmp_path: Path) -> None:
    """For a stolen key: by the clock, without anybody ending it."""
    done("ca", "init", tmp_path)
    done("ca", "rotate", tmp_path, "--overlap", "10m")
    mesh, now = Authority.load(tmp_path), time.time()
    assert len(mesh.trust(now + 1190).authorities) == 2
    assert len(mesh.trust(now + 1210).authorities) == 1
