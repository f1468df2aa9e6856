"""The guide's Python runs: each block is a file, named in its first line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = "".join(page.read_text() for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
BLOCKS = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", TEXT, re.DOTALL))


def test_every_block_has_a_name() -> None:
    """No Python in the guide goes untested for want of a file name."""
    assert len(BLOCKS) == TEXT.count("```python")
    assert BLOCKS


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_block_runs(name: str, tmp_path: Path) -> None:
    """A block called test_*.py passes under pytest, any other runs as a program."""
    path = tmp_path / name
    path.write_text(BLOCKS[name])
    command = [sys.executable, str(path)]
    if name.startswith("test_"):
        command = [sys.executable, "-m", "pytest", "-q", "-o", "asyncio_mode=auto", str(path)]
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
