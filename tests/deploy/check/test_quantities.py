import contextlib
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploykit.deploy.check.quantities import QuantityError, parse_quantity, spell_quantity


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("0", 0),
        (2, 2),
        (0.5, Fraction(1, 2)),
        ("500m", Fraction(1, 2)),
        ("100n", Fraction(1, 10**7)),
        ("3u", Fraction(3, 10**6)),
        ("1.5Gi", 1610612736),
        ("512Mi", 536870912),
        ("1Ki", 1024),
        ("2Ei", 2 * 1024**6),
        ("3k", 3000),
        ("4M", 4_000_000),
        ("1E", 10**18),
        ("1e3", 1000),
        ("1E3", 1000),
        ("12e-3", Fraction(12, 1000)),
        ("+.5", Fraction(1, 2)),
        ("5.", 5),
        ("-1", -1),
    ],
)
def test_reads_what_the_api_reads(text: object, amount: object) -> None:
    assert parse_quantity(text) == amount


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        ("512MB", "write Mi"),
        ("2gb", "write Gi"),
        ("1G i", "without spaces"),
        ("8KB", r"write Ki \(1024\) or k \(1000\)"),
        ("1gi", "write Gi"),
        ("2GiB", "write Gi"),
        ("2 Gi", "without spaces"),
        ("", "write a number"),
        (".", "write a number"),
        ("two", "write a number"),
        ("1x", "suffixes are"),
        ("1e99999", "suffixes are|write a number"),
        ("1" * 65, "write a number"),
        (True, "write a number"),
        (None, "write a number"),
        (["1"], "write a number"),
        ("١", "write a number"),
    ],
)
def test_refuses_what_the_api_refuses_and_says_what_to_write(text: object, remedy: str) -> None:
    with pytest.raises(QuantityError, match=remedy):
        parse_quantity(text)


@given(st.integers(0, 2**62), st.sampled_from(["", "k", "M", "Ki", "Mi", "Gi"]))
def test_a_suffix_only_multiplies(number: int, suffix: str) -> None:
    assert parse_quantity(f"{number}{suffix}") == number * parse_quantity(f"1{suffix}")


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(QuantityError):
        parse_quantity(text)


@pytest.mark.parametrize(
    ("amount", "text"), [(0, "0"), (1000, "1000"), (512 * 2**20, "512Mi"), (3 * 2**29, "1536Mi"), (2**34, "16Gi")]
)
def test_spells_bytes_as_a_manifest_has_them(amount: int, text: str) -> None:
    assert spell_quantity(amount) == text
    assert parse_quantity(text) == amount
