"""What holds for all tests of this part."""

import pytest

from oci_mesh.containerd import content
from tests.nodes import DEADLINE_S


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions wait for their answer, however slow the machine."""
    monkeypatch.setattr(content, "SETTLE_S", DEADLINE_S)
    monkeypatch.setattr(content, "SETTLE_KNOWN_S", DEADLINE_S)
