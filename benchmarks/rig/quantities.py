"""Rates and sizes as people write them."""

import re
from typing import Final

_UNITS: Final = {
    "kbit": 10**3, "mbit": 10**6, "gbit": 10**9,
    "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30,
}  # fmt: skip


def rate(text: str) -> int:
    """`100mbit` as bits per second. Raises `ValueError`."""
    return _number(text, "kbit", "mbit", "gbit")


def size(text: str) -> int:
    """`300MB` or `20MiB` as bytes. Raises `ValueError`."""
    return _number(text, "kb", "mb", "gb", "kib", "mib", "gib")


def _number(text: str, *units: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?) ?([a-z]+)", text.strip().lower())
    if not match or match[2] not in units or float(match[1]) == 0:
        raise ValueError(f"{text!r}: expected a number above 0 and one of {', '.join(units)}")
    return round(float(match[1]) * _UNITS[match[2]])
