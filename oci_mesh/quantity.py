"""Amounts as people write them in settings: `10GiB`, `50MB`, `100Mbit`; 0 is always 0.

Decimal and binary prefixes mean what IEC 80000-13 says. What could mean two things is refused
instead of guessed: `50Mb` (bytes or bits?), `50M` (1000 or 1024, of what?).
"""

import re
from typing import Final

from oci_mesh.errors import ConfigError, quoted

_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

_AMOUNT: Final = re.compile(
    r"(?P<number>\d{1,18}(?:\.\d{1,9})?)"
    r"(?: *(?:(?P<prefix>[kmgtKMGT])(?P<binary>i?))?(?P<unit>B|[bB]it))?(?P<per>/s)?",
    re.ASCII,
)

# More than any disk or link has, and small enough for every API that takes a size.
MAX: Final = 2**62


def parse_size(text: str) -> int:
    """A number of bytes: `500`, `10GB`, `1.5 GiB`. Raises `ConfigError`."""
    match = _AMOUNT.fullmatch(text.strip())
    if match is None or match["per"] or match["unit"] not in ("B", None):
        raise ConfigError(f"{quoted(text)} is no size: write bytes, or as in 500MB or 10GiB")
    return _bytes(text, match)


def parse_rate(text: str) -> int:
    """Bytes a second: `50MB`, `100Mbit` (12.5 MB), each with or without `/s`.

    Raises `ConfigError`.
    """
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise ConfigError(
            f"{quoted(text)} is no rate: write bytes a second, or as in 50MB or 100Mbit"
        )
    return _bytes(text, match)


def _bytes(text: str, match: re.Match[str]) -> int:
    whole, _, fraction = match["number"].partition(".")
    base = 1024 if match["binary"] else 1000
    power = _POWERS[(match["prefix"] or "").lower()]
    amount: int = int(whole + fraction) * base**power // 10 ** len(fraction)
    if match["unit"] not in ("B", None):
        amount //= 8
    if amount > MAX:
        raise ConfigError(f"{quoted(text)} is more than there is")
    return amount
