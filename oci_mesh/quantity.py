"""Amounts as people write them in settings: `10GiB`, `50MB`, `100Mbit`; 0 is always 0. And as they
read them.

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

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 24 * 3600}
_DURATION: Final = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)

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


def size_text(size: float) -> str:
    """`12.3 MB`, in powers of ten as networks are sold."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def parse_duration(text: str) -> float:
    """Seconds: `90s`, `15m`, `12h`, `7d`. Raises `ConfigError`."""
    match = _DURATION.fullmatch(text.strip())
    if match is None:
        raise ConfigError(f"{quoted(text)} is not a duration such as 90s, 15m, 12h, 7d")
    return float(int(match[1]) * _SECONDS[match[2]])


def duration_text(seconds: float) -> str:
    """`40 s`, `3 h`: the largest unit of which there are two. What is below 0 is 0."""
    seconds = max(0.0, seconds)
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


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
