"""Sizes and rates as people write them: what they come to, and what is refused."""

import pytest

from oci_mesh.errors import ConfigError
from oci_mesh.quantity import parse_rate, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("500", 500),
        ("1B", 1),
        ("1kB", 1000),
        ("1KB", 1000),
        ("1KiB", 1024),
        ("50MB", 50_000_000),
        ("50 MiB", 50 * 2**20),
        ("1.5GB", 1_500_000_000),
        ("0.1GiB", 107_374_182),
        (" 2TiB ", 2 * 2**40),
    ],
)
def test_bytes_are_a_size_and_a_rate(text: str, expected: int) -> None:
    """Prefixes in either case; parts of a byte are left off."""
    assert parse_size(text) == expected
    assert parse_rate(text) == parse_rate(text.strip() + "/s") == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8bit", 1), ("100Mbit", 12_500_000), ("1 gbit/s", 125_000_000), ("1Mibit", 131_072)],
)
def test_bits_are_a_rate_only(text: str, expected: int) -> None:
    """Eight to a byte."""
    assert parse_rate(text) == expected
    with pytest.raises(ConfigError, match="no size"):
        parse_size(text)


@pytest.mark.parametrize(
    "text",
    [
        "MB",
        "-1",
        "+1",
        "1e6",
        "1,5MB",
        ".5MB",
        "5.MB",
        "50Mb",
        "50mb",
        "50M",
        "5Gi",
        "1iB",
        "1/h",
        "1MB/h",
        "nan",
        "0x10",
        "٣MB",
        "",
        " ",
        "1 M B",
        "9999999999TB",
        "9999999999999999999",
    ],
)
def test_what_could_mean_two_things_or_nothing_is_refused(text: str) -> None:
    """With what was written, and how to write it."""
    for parse in (parse_size, parse_rate):
        with pytest.raises(ConfigError) as refusal:
            parse(text)
        assert repr(text) in str(refusal.value)
