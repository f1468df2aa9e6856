"""The guide says what is there: its links lead to files, its commands are of this command line."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from oci_mesh.cli import main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"```.*?\n(.*?)```|^    (?!\|)(.*?)$|`([^`\n]+)`", re.DOTALL | re.MULTILINE)
# Not what helm is to call it, and not the line that a node prints.
_COMMAND = re.compile(r"(?<![\w./-])(?<!install )oci-mesh (?!ready:)(?=[a-z-])([^|;&)>#\n]*)")


def commands(page: Path) -> Iterator[str]:
    """What follows `oci-mesh` wherever it is called in code."""
    for found in _CODE.finditer(page.read_text()):
        code = next(part for part in found.groups() if part is not None)
        for command in _COMMAND.findall(code):
            yield command.replace("\\", " ").replace("…", " ").strip()


def anchors(page: Path) -> set[str]:
    """What its headings are called in links."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """To a file, and to a heading that is in it."""
    for link in _LINK.findall(page.read_text()):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_there(page: Path) -> None:
    """Verbs and options of every `oci-mesh …` that a page tells to type."""
    for text in commands(page):
        words = shlex.split(text)
        command: click.Command = main
        context = click.Context(main)
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            found = command.get_command(context, words.pop(0))
            assert found is not None, f"no such command: oci-mesh {text}"
            command = found
        known = {option for parameter in command.params for option in parameter.opts}
        known |= {option for one in command.params for option in one.secondary_opts}
        known |= {"--help", "--version"}
        for word in words:
            name = word.partition("=")[0]
            assert not name.startswith("--") or name in known, f"no such option: oci-mesh {text}"


def test_pages_have_commands() -> None:
    """The two tests above have something to look at."""
    assert len([*commands(ROOT / "README.md")]) > 15


def test_all_pages_are_found_from_the_readme() -> None:
    """None is left out of the table of what to read."""
    linked = {link.partition("#")[0] for link in _LINK.findall((ROOT / "README.md").read_text())}
    assert {f"docs/{page.name}" for page in PAGES[2:]} <= linked
