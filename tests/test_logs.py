"""A line per event, whatever is in it."""

import io
import json
import logging
from collections.abc import Iterator

import pytest

from oci_mesh import logs


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """The root logger as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def logged(form: str, monkeypatch: pytest.MonkeyPatch, *, level: str = "info") -> list[str]:
    """The lines that some events come to."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure(level, form)
    log = logging.getLogger("oci_mesh.test")
    log.debug("too little to tell")
    log.info("pushed %s", "v1", extra=logs.event(repository="app", copies=2))
    log.warning('with "quotes", a \n new line and ünicode')
    try:
        raise ValueError("broken")
    except ValueError:
        log.exception("failed")
    return stream.getvalue().splitlines()


def test_json_is_an_object_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the fields of the event, and a traceback inside."""
    pushed, quoted, failed = map(json.loads, logged("json", monkeypatch))
    assert pushed["level"] == "info"
    assert pushed["logger"] == "oci_mesh.test"
    assert pushed["message"] == "pushed v1"
    assert pushed["time"].endswith("+00:00")
    assert (pushed["repository"], pushed["copies"]) == ("app", 2)
    assert quoted["message"] == 'with "quotes", a \n new line and ünicode'
    assert "ValueError: broken" in failed["traceback"]


def test_text_is_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same events, with their fields as name=value."""
    lines = logged("text", monkeypatch)
    assert lines[0].endswith("INFO    oci_mesh.test: pushed v1 repository=app copies=2")
    assert lines[-1] == "ValueError: broken"


def test_the_level_is_the_least_that_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of it under debug."""
    assert len(logged("json", monkeypatch, level="debug")) == 4
    assert len(logged("json", monkeypatch, level="error")) == 1
