"""Changes to files of others: all or none, and taken back to the byte."""

import os
import tempfile
from pathlib import Path

import pytest

from oci_mesh.cli import edits
from oci_mesh.cli.edits import Machine
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.runtime import Wish
from tests.cli.machine import (
    CONFIG,
    NODE,
    call,
    configured,
    done,
    failed,
    files,
    put,
)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """With a file in it."""
    put(tmp_path, "etc/a", "old")
    return Machine(tmp_path)


def test_who_changed_a_file_since_keeps_it(machine: Machine, tmp_path: Path) -> None:
    """Nothing is put back, and it says which file; unless that one is to be left alone."""
    edits.apply(machine, "r", {"/etc/a": b"new", "/etc/b": b"new"})
    put(tmp_path, "etc/b", "theirs")
    with pytest.raises(Failure, match="changed /etc/b since"):
        edits.undo(machine, "r")
    assert machine.read("/etc/a") == b"new"
    assert edits.undo(machine, "r", skip_changed=True) == ["/etc/a"]
    assert (machine.read("/etc/a"), machine.read("/etc/b")) == (b"old", b"theirs")


def test_who_removed_a_file_since_keeps_it_so(machine: Machine) -> None:
    """That is a change like any other."""
    edits.apply(machine, "r", {"/etc/a": b"new"})
    machine.remove("/etc/a")
    with pytest.raises(Failure, match="changed /etc/a since"):
        edits.undo(machine, "r")


def test_our_changes_upon_those_of_others_are_not_undone(machine: Machine, tmp_path: Path) -> None:
    """Theirs would be lost with them."""
    edits.apply(machine, "r", {"/etc/a": b"new"})
    put(tmp_path, "etc/a", "new, and theirs")
    edits.apply(machine, "r", {"/etc/a": b"newer, and theirs"})
    with pytest.raises(Failure, match="changed /etc/a since"):
        edits.undo(machine, "r")


def test_what_is_as_it_was_needs_no_undoing(machine: Machine, tmp_path: Path) -> None:
    """Whoever put it back."""
    edits.apply(machine, "r", {"/etc/a": b"new"})
    put(tmp_path, "etc/a", "old")
    assert edits.undo(machine, "r") == []
    assert edits.can_undo(machine, "r") == []


def test_several_changes_are_undone_at_once(machine: Machine, tmp_path: Path) -> None:
    """To what was there before the first one; each runtime has its own."""
    before = files(tmp_path)
    edits.apply(machine, "other", {"/opt/x/y": b"1"})
    for content in (b"1", b"2", b"1"):
        edits.apply(machine, "r", {"/etc/a": content, "/opt/x/z": content})
    assert edits.undo(machine, "r") == ["/etc/a", "/opt/x/z"]
    assert machine.read("/opt/x/y") == b"1"
    edits.undo(machine, "other")
    assert files(tmp_path) == before


def test_a_crash_before_a_second_change_can_be_undone(machine: Machine, tmp_path: Path) -> None:
    """The ledger is written first: it knows the file as it was made before, too."""
    edits.apply(machine, "r", {"/etc/a": b"1"})
    edits.apply(machine, "r", {"/etc/a": b"2"})
    put(tmp_path, "etc/a", "1")
    assert edits.undo(machine, "r") == ["/etc/a"]
    assert machine.read("/etc/a") == b"old"


@pytest.mark.parametrize("broken", range(3))
def test_a_change_that_fails_leaves_nothing(
    broken: int, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever file cannot be written: no other one, no ledger, no directory."""
    before, write, calls = files(tmp_path), Machine.write, []

    def failing(self: Machine, path: str, content: bytes, mode: int | None = None) -> None:
        calls.append(path)
        if len(calls) == broken + 1:
            raise Failure("the disk is full")
        write(self, path, content, mode)

    monkeypatch.setattr(Machine, "write", failing)
    with pytest.raises(Failure, match="full"):
        edits.apply(machine, "r", {"/etc/a": b"new", "/opt/b": b"new"})
    assert files(tmp_path) == before


def test_an_undo_that_was_broken_off_is_taken_up_again(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was put back already is in nobody's way."""
    put(tmp_path, "etc/b", "old")
    before = files(tmp_path)
    edits.apply(machine, "r", {"/etc/a": b"new", "/etc/b": b"new"})
    write = Machine.write

    def failing(self: Machine, path: str, content: bytes, mode: int | None = None) -> None:
        if path == "/etc/b":
            raise Failure("the disk is full")
        write(self, path, content, mode)

    with monkeypatch.context() as patch:
        patch.setattr(Machine, "write", failing)
        with pytest.raises(Failure, match="full"):
            edits.undo(machine, "r")
    assert machine.read("/etc/a") == b"old"
    assert edits.undo(machine, "r") == ["/etc/b"]
    assert files(tmp_path) == before


def test_a_file_that_cannot_be_written(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Says which and why, and leaves no file beside it."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Failure, match="cannot write /etc/a: No space left on device"):
        machine.write("/etc/a", b"new")
    assert machine.names("/etc") == ["a"]
    assert machine.read("/etc/a") == b"old"


def test_who_may_not_write_is_told_so(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what to do."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", denied)
    with pytest.raises(Failure, match="Permission denied") as raised:
        machine.write("/etc/a", b"new")
    assert raised.value.hint == "run it as root"


def test_links_are_written_through_but_not_out(machine: Machine, tmp_path: Path) -> None:
    """The link stays one; one that leads out of the machine's root is refused."""
    (tmp_path / "etc/link").symlink_to("a")
    edits.apply(machine, "r", {"/etc/link": b"new"})
    assert (tmp_path / "etc/link").is_symlink()
    assert machine.read("/etc/a") == b"new"
    (tmp_path / "etc/out").symlink_to("/etc/hostname")
    with pytest.raises(Failure, match="leads out of"):
        machine.read("/etc/out")


def test_secrets_are_not_for_all_to_read(tmp_path: Path) -> None:
    """The ledger has whole configurations in it."""
    configured(tmp_path, "commented").chmod(0o600)
    done(tmp_path, "configure")
    ledger = tmp_path / edits.LEDGERS.lstrip("/") / "containerd.json"
    assert ledger.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / CONFIG).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("text", ["", "{", "[]", '{"files": [1]}'])
def test_a_damaged_ledger_is_said_to_be_one(text: str, tmp_path: Path) -> None:
    """Nothing is guessed."""
    put(tmp_path, f"{edits.LEDGERS.lstrip('/')}/containerd.json", text)
    assert "is damaged" in call(tmp_path, "undo").stderr
    assert "is damaged" in failed(tmp_path)


def test_a_wish_says_what_the_node_is_asked_for() -> None:
    """Its own names are always resolved by it."""
    assert Wish(NODE, ("a",), resolve=False).capabilities == ["pull"]
    assert Wish(NODE, ("a",), resolve=True).capabilities == ["pull", "resolve"]
    assert Wish(NODE, ("a",), resolve=False, own=True).capabilities == ["pull", "resolve"]
