"""A node's id and its key outlive its restarts."""

from pathlib import Path

import pytest

from oci_mesh.errors import ConfigError
from oci_mesh.mesh.identity import load_identity, load_node_id, verify


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


def test_a_key_is_made_once_and_signs(tmp_path: Path) -> None:
    """Whatever the node is called; another root has another key."""
    one, again = load_identity(tmp_path, "a"), load_identity(tmp_path, "b")
    assert (one.id, again.id) == ("a", "b")
    assert one.public_key == again.public_key
    assert verify(one.public_key, b"message", again.sign(b"message"))
    (tmp_path / "other").mkdir()
    other = load_identity(tmp_path / "other", "a")
    assert other.public_key != one.public_key
    assert not verify(other.public_key, b"message", one.sign(b"message"))


def test_the_key_is_the_nodes_alone(tmp_path: Path) -> None:
    """Neither its group's nor anybody's; and a lost one is not replaced in silence."""
    load_identity(tmp_path, "a")
    directory = tmp_path / "identity"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert [(f.name, f.stat().st_mode & 0o777) for f in directory.iterdir()] == [
        ("node.key", 0o600)
    ]
    (directory / "node.key").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"node\.key"):
        load_identity(tmp_path, "a")
