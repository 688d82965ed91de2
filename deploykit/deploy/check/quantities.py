"""Amounts as Kubernetes writes them: `500m`, `2`, `1.5Gi`, `12e6`."""

import re
from fractions import Fraction
from typing import Final

from deploykit.errors import ConfigError

_DECIMAL: Final = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: Final = {name: power for power, name in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)}
_QUANTITY: Final = re.compile(
    r"(?P<sign>[+-]?)(?P<whole>[0-9]*)(?:\.(?P<part>[0-9]*))?(?:[eE](?P<exponent>[+-]?[0-9]{1,3})|(?P<suffix>[A-Za-z]*))",
    re.ASCII,
)
"""<signedNumber><suffix> of k8s.io/apimachinery/pkg/api/resource; longer exponents mean nothing."""
_LONGEST: Final = 64


class QuantityError(ConfigError):
    """A text is no quantity of Kubernetes."""

    def __init__(self, value: object, remedy: str) -> None:
        super().__init__(f"{_brief(value)} is no quantity; {remedy}")
        self.remedy = remedy


def parse_quantity(value: object) -> Fraction:
    """Return how much a quantity is, exactly: cores, bytes or a plain count.

    Raises:
        QuantityError: it isn't a number with one of the suffixes that Kubernetes knows.
    """
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise QuantityError(value, "write a number such as 2, 500m, 512Mi or 1.5Gi")
    text = str(value)
    found = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None or not (found["whole"] or found["part"]):
        raise QuantityError(value, "write a number such as 2, 500m, 512Mi or 1.5Gi, without spaces")
    whole, part = found["whole"], found["part"] or ""
    number = Fraction(int(whole + part), 10 ** len(part))
    amount = number * _scale(value, found["suffix"] or "", found["exponent"])
    return -amount if found["sign"] == "-" else amount


def spell_quantity(amount: Fraction | int) -> str:
    """Return an amount of bytes as a manifest would have it, in the largest binary unit that keeps it short."""
    value = Fraction(amount)
    for name, power in reversed(_BINARY.items()):
        scaled = value / 1024**power
        if abs(scaled) >= 1 and (scaled.denominator == 1 or abs(scaled) >= 10):
            return f"{float(scaled):.4g}{name}"
    return f"{float(value):.10g}"


def _scale(value: object, suffix: str, exponent: str | None) -> Fraction:
    if exponent is not None:
        return Fraction(10) ** int(exponent)
    if suffix in _BINARY:
        return Fraction(1024 ** _BINARY[suffix])
    if suffix in _DECIMAL:
        return Fraction(10) ** _DECIMAL[suffix]
    raise QuantityError(value, _instead(suffix))


def _instead(suffix: str) -> str:
    """Return which suffix was probably meant."""
    first = suffix[:1]
    if suffix.lower().rstrip("b") in ("ki", "mi", "gi", "ti", "pi", "ei"):
        return f"write {first.upper()}i"
    if suffix.lower() in ("k", "kb"):
        return "write Ki (1024) or k (1000)"
    if suffix.lower() in ("m", "mb", "g", "gb", "t", "tb", "p", "pb"):
        return f"write {first.upper()}i (powers of 1024) or {first.upper()} (powers of 1000)"
    return f"suffixes are {', '.join(name for name in (*_DECIMAL, *_BINARY) if name)}"


def _brief(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
