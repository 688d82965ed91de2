"""Amounts of memory are read as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.errors import ConfigError
from deploykit.sizes import parse_bytes, spell_bytes


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        ("1000", 1000),
        ("512MiB", 512 * 2**20),
        ("2 GiB", 2**31),
        ("1.5GB", 1_500_000_000),
        ("1.5gib", 3 * 2**29),
        ("10kb", 10_000),
        ("7B", 7),
        ("0.1B", 0),
        (" 1TiB ", 2**40),
        ("9007199254740993", 2**53 + 1),
    ],
)
def test_is_read(text: str, amount: int) -> None:
    assert parse_bytes(text) == amount


@pytest.mark.parametrize(
    "text", ["", "MiB", "-1", "1e9", "1,5GB", "512 M", "nan", "1.GB", ".5GB", "1 PB", "٣MB", "1" * 19]
)
def test_what_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no amount of memory; write it like 512MiB"):
        parse_bytes(text)


@given(st.integers(0, 2**50))
def test_what_is_spelled_is_nearly_what_is_read(amount: int) -> None:
    assert abs(parse_bytes(spell_bytes(amount)) - amount) <= amount / 100
