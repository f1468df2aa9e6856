"""A node's id outlives its restarts."""

from pathlib import Path

import pytest

from oci_mesh.errors import ConfigError
from oci_mesh.mesh.identity import load_node_id


def test_an_id_is_made_once(tmp_path: Path) -> None:
    """And another one for another root."""
    made = load_node_id(tmp_path, None)
    assert load_node_id(tmp_path, None) == made
    (tmp_path / "other").mkdir()
    assert load_node_id(tmp_path / "other", None) != made


def test_a_name_is_the_id_and_is_not_kept(tmp_path: Path) -> None:
    """Configured today, another tomorrow."""
    assert load_node_id(tmp_path, "a.b-c_1") == "a.b-c_1"
    assert load_node_id(tmp_path, None) != "a.b-c_1"


@pytest.mark.parametrize("name", ["a b", "a/b", "ä", "x" * 65, "a\n"])
def test_a_name_that_cannot_be_one_is_refused(name: str, tmp_path: Path) -> None:
    """Ids sign stamps and are gossiped: they have a grammar."""
    with pytest.raises(ConfigError, match="node name"):
        load_node_id(tmp_path, name)


@pytest.mark.parametrize("content", ["../..", "a b", "\x00"])
def test_a_damaged_file_is_refused_and_an_empty_one_replaced(content: str, tmp_path: Path) -> None:
    """A power cut can leave an empty file; it had no id that anybody knew."""
    file = tmp_path / "node-id"
    file.write_text(content)
    with pytest.raises(ConfigError):
        load_node_id(tmp_path, None)
    file.write_text("")
    made = load_node_id(tmp_path, None)
    assert load_node_id(tmp_path, None) == made
