"""How it ends: exit codes, signals, no traceback for others' faults."""

import asyncio
import errno
import os
import signal
import sys
from pathlib import Path

import click
import pytest
from aiohttp import web
from click.testing import CliRunner

from oci_mesh.cli.failure import Failure, first_failure, shown
from oci_mesh.cli.run import ReportingGroup
from oci_mesh.errors import PeerError
from tests import images
from tests.cli.servers import answering


def ending_with(error: BaseException) -> tuple[int, str]:
    """Exit code and standard error of a verb that raises."""
    group = ReportingGroup(name="test")

    @group.command("verb")
    def verb() -> None:
        raise error

    result = CliRunner().invoke(group, ["verb"])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stderr


NESTED = ExceptionGroup("", [ExceptionGroup("", [Failure("inner")]), Failure("second")])


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (Failure("it broke", hint="mend it"), "error: it broke\nhint: mend it\n"),
        (PeerError("gone"), "error: gone\n"),
        (NESTED, "error: inner\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            "error: Permission denied: /x\n",
        ),
        (BrokenPipeError(), "error: the program that standard output goes to has ended\n"),
    ],
)
def test_others_faults(error: Exception, text: str) -> None:
    """What happened and what to do; exit code 1."""
    assert ending_with(error) == (1, text)


def test_a_full_disk() -> None:
    """Says where temporary files can go instead."""
    code, text = ending_with(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert code == 1
    assert "TMPDIR" in text


@pytest.mark.parametrize("error", [AssertionError("bug"), ExceptionGroup("", [KeyError("bug")])])
def test_our_own_faults(error: Exception) -> None:
    """They keep their traceback."""
    with pytest.raises(type(error)):
        ending_with(error)


def test_foreign_text_is_harmless() -> None:
    """No control codes, no megabytes."""
    assert shown("a\x1b[31m\n") == r"'a\x1b[31m\n'"
    assert len(shown("x" * 1_000_000)) < 200


def test_the_first_of_a_group() -> None:
    """However deep."""
    assert str(first_failure(NESTED)) == "inner"


async def start(*arguments: str) -> asyncio.subprocess.Process:
    """`oci-mesh` as a process of its own."""
    pipe = asyncio.subprocess.PIPE
    command = (sys.executable, "-m", "oci_mesh.cli", *arguments)
    return await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)


async def test_sigterm_leaves_nothing_behind(tmp_path: Path) -> None:
    """In the middle of a pull: it ends, and its temporary files are gone."""
    asked, release = asyncio.Event(), asyncio.Event()
    config = images.descriptor(images.IMAGE_CONFIG, b"{}")
    manifest = {"schemaVersion": 2, "mediaType": images.IMAGE_MANIFEST, "config": config}

    async def answer(request: web.Request) -> web.StreamResponse:
        if "/manifests/" in request.path:
            return web.Response(
                body=images.encode({**manifest, "layers": []}),
                headers={"Content-Type": images.IMAGE_MANIFEST},
            )
        asked.set()
        await release.wait()
        return web.Response()

    async with answering(answer) as url:
        process = await start("pull", "--registry", url, "app:v1", str(tmp_path / "x.tar"))
        await asked.wait()
        assert [path.name[:10] for path in tmp_path.iterdir()] == [".oci-mesh-"]
        process.send_signal(signal.SIGTERM)
        output, errors = await process.communicate()
        release.set()
    assert process.returncode == 1
    assert output == b""
    assert b"Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


async def test_as_a_module() -> None:
    """`python -m oci_mesh.cli` is `oci-mesh`; with nothing on standard input there is no image."""
    process = await start("push", "-", "app:v1")
    output, errors = await process.communicate(b"")
    assert (process.returncode, output) == (1, b"")
    assert b"standard input is empty" in errors
    process = await start("--help")
    output, _ = await process.communicate()
    assert output.startswith(b"Usage: oci-mesh ")


def test_usage_errors_are_clicks() -> None:
    """They pass unchanged, with their exit code."""
    group = ReportingGroup(name="test")

    @group.command("verb")
    def verb() -> None:
        raise click.UsageError("wrong")

    result = CliRunner().invoke(group, ["verb"])
    assert result.exit_code == 2
    assert "wrong" in result.stderr
