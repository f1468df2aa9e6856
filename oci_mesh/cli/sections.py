"""The verbs, in sections as `--help` shows them; a verb's module is imported when it is called.

Importing all of them takes half a second, and completion would wait for it at each key.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

from oci_mesh.cli.run import ReportingGroup


class SectionedGroup(ReportingGroup):
    """`sections`: title -> verb -> `module:name` below `oci_mesh.cli`."""

    def __init__(
        self, *arguments: Any, sections: Mapping[str, Mapping[str, str]], **settings: Any
    ) -> None:
        super().__init__(*arguments, **settings)
        self._sections = sections
        self._places = {verb: place for verbs in sections.values() for verb, place in verbs.items()}

    def list_commands(self, context: click.Context) -> list[str]:
        """In the order of the sections."""
        return list(self._places)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Imported now."""
        if name not in self._places:
            return None
        module, _, command = self._places[name].partition(":")
        found = getattr(import_module(f"oci_mesh.cli.{module}"), command)
        assert isinstance(found, click.Command)
        return found

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """A section each."""
        width = formatter.width - 6 - max(map(len, self._places))
        for title, verbs in self._sections.items():
            commands = [(verb, self.get_command(context, verb)) for verb in verbs]
            with formatter.section(title):
                formatter.write_dl(
                    [(verb, found.get_short_help_str(width)) for verb, found in commands if found]
                )
