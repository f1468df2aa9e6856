"""The public names: all there, all documented, and cheap to import."""

import inspect
import subprocess
import sys

import pytest

import oci_mesh


@pytest.mark.parametrize("name", oci_mesh.__all__)
def test_public_names(name: str) -> None:
    """Every name in `__all__` can be had, has a docstring of its own, and lives in oci_mesh."""
    value = getattr(oci_mesh, name)
    assert inspect.isclass(value) or inspect.isfunction(value)
    assert value.__module__.startswith("oci_mesh.")
    assert value.__name__ == name
    assert vars(value).get("__doc__") if inspect.isclass(value) else value.__doc__


def test_all_is_sorted_and_whole() -> None:
    """Nothing public is missing from `__all__`, nothing is in it twice."""
    assert oci_mesh.__all__ == sorted(set(oci_mesh.__all__))
    eager = {
        name
        for name, value in vars(oci_mesh).items()
        if getattr(value, "__module__", "").startswith("oci_mesh.") and not name.startswith("_")
    }
    assert eager <= {*oci_mesh.__all__}


def test_other_names_are_none() -> None:
    """A name that is not there is an `AttributeError`, as of any module."""
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = oci_mesh.no_such_name


def test_import_brings_no_http_stack() -> None:
    """`import oci_mesh` for a digest does not pay for aiohttp."""
    code = "import sys, oci_mesh; oci_mesh.Digest.of(b''); sys.exit('aiohttp' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
