"""How results look, and how verbs are found."""

import re

import click
import msgspec
import pytest
from click.testing import CliRunner

from oci_mesh.cli import main
from oci_mesh.cli.nearest import nearest
from oci_mesh.cli.options import json_option, root_option, usage
from oci_mesh.cli.output import columns, json_text, show
from oci_mesh.cli.run import MISUSED, ReportingGroup
from oci_mesh.spec.reference import parse_tag


class Fruit(msgspec.Struct):
    """A result."""

    name: str


def run(command: click.Command, *arguments: str, colour: bool = True, **environment: str) -> str:
    """What it prints, on a terminal that has colours."""
    group = ReportingGroup()
    group.add_command(command, "do")
    result = CliRunner().invoke(group, ["do", *arguments], env=environment, color=colour)
    assert result.exit_code == 0, result.output
    return result.stdout


@click.command()
@json_option
def painted(as_json: bool) -> None:
    """Prints a red pear."""
    show(Fruit("pear"), as_json=as_json, text=click.style("pear", fg="red"))


def test_colours_only_where_they_are_wanted() -> None:
    """On a terminal, unless NO_COLOR is set; never in JSON."""
    assert run(painted) == "\x1b[31mpear\x1b[0m\n"
    assert run(painted, colour=False) == "pear\n"
    assert run(painted, NO_COLOR="1") == "pear\n"
    assert run(painted, "--json") == '{\n  "name": "pear"\n}\n'


def test_nothing_to_say_is_no_line() -> None:
    """An empty list is nothing for a script to read."""

    @click.command()
    def silent() -> None:
        show(Fruit(""), as_json=False, text="")

    assert run(silent) == ""


def test_columns_are_under_each_other() -> None:
    """Also when some of them have colours, which take no room."""
    table = columns([(click.style("a", fg="red"), "1"), ("bbb", "22")], ("name", "n"))
    assert click.unstyle(table) == "name  n\na     1\nbbb   22\n"
    assert columns([]) == ""
    assert json_text(Fruit("fig")) == '{\n  "name": "fig"\n}'


def test_the_nearest_name() -> None:
    """Or nothing, if none is near."""
    assert nearest("ap:v1", ["app:v1", "zebra:v1"]) == "did you mean app:v1?"
    assert nearest("ap:v1", ["zebra"]) == ""
    assert nearest("ap:v1", []) == ""


def test_the_root_directory() -> None:
    """By option, by variable, or where it usually is."""

    @click.command()
    @root_option
    def rooted(root: object) -> None:
        click.echo(root)

    assert run(rooted) == "/var/lib/oci-mesh\n"
    assert run(rooted, OCI_MESH_ROOT="/a") == "/a\n"
    assert run(rooted, "--root", "/b", OCI_MESH_ROOT="/a") == "/b\n"


def test_what_was_typed_wrongly() -> None:
    """Is exit code 2, whoever notices."""
    assert usage(lambda: parse_tag("v1")) == "v1"
    with pytest.raises(click.UsageError) as caught:
        usage(lambda: parse_tag("..."))
    assert caught.value.exit_code == MISUSED == 2


def test_help_has_all_verbs_in_sections() -> None:
    """Each with what it is for; all can be loaded, and each has help of its own."""
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    for title in ("Content:", "The mesh:", "This machine:"):
        assert title in result.output
    verbs = main.list_commands(click.Context(main))
    assert len(verbs) == len(set(verbs))
    for verb in verbs:
        assert re.search(rf"^  {verb} +\S", result.output, re.MULTILINE), verb
        helped = CliRunner().invoke(main, [verb, "--help"])
        assert helped.exit_code == 0, helped.output
        assert "Usage:" in helped.output


def test_a_verb_that_is_none() -> None:
    """Is exit code 2."""
    result = CliRunner().invoke(main, ["pussh"])
    assert result.exit_code == 2
    assert "No such command 'pussh'" in result.output
