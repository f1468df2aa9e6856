"""`WWW-Authenticate` (RFC 9110, §11.6.1): how a registry wants to be asked.

One header may have several challenges, a challenge several parameters, both separated by commas.
What cannot be read ends the reading: what came before it counts.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

_TOKEN: Final = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_SEPARATOR: Final = re.compile(r"[ \t,]*")
_END: Final = r"[ \t]*(?=,|$)"
# Values without quotes may have more than the RFC allows: realms are seen so.
_PARAMETER: Final = re.compile(
    rf'({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=][^\s,"]*)){_END}', re.DOTALL
)
_SCHEME: Final = re.compile(rf"({_TOKEN})(?:[ \t]+|(?=,)|$)")
_TOKEN68: Final = re.compile(rf"[A-Za-z0-9._~+/-]+=*{_END}")
_ESCAPED: Final = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Challenge:
    """`scheme` and the names of parameters in lower case."""

    scheme: str
    parameters: dict[str, str]


def parse_challenges(headers: Iterable[str]) -> list[Challenge]:
    """All challenges of all headers, in order. Of a parameter that is there twice, the first."""
    return [challenge for header in headers for challenge in _parse(header)]


def _parse(header: str) -> list[Challenge]:
    found: list[Challenge] = []
    at = 0
    while True:
        separator = _SEPARATOR.match(header, at)
        at = separator.end() if separator else at
        parameter = _PARAMETER.match(header, at)
        if parameter and found:
            name, quoted, plain = parameter.groups()
            value = plain if quoted is None else _ESCAPED.sub(r"\1", quoted)
            found[-1].parameters.setdefault(name.lower(), value)
            at = parameter.end()
        elif scheme := _SCHEME.match(header, at):
            found.append(Challenge(scheme[1].lower(), {}))
            token68 = None
            if not _PARAMETER.match(header, scheme.end()):
                token68 = _TOKEN68.match(header, scheme.end())
            at = (token68 or scheme).end()
        else:
            return found
