"""Amounts of memory as people write them."""

import re
from typing import Final

from deploykit.errors import ConfigError

_NAMES: Final = ("B", "KiB", "MiB", "GiB", "TiB")
_UNITS: Final[dict[str, int]] = {
    "": 1,
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate("kmgt", start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate("kmgt", start=1)},
}
_AMOUNT: Final = re.compile(r"(?P<number>\d{1,18}(?:\.\d{1,18})?)\s*(?P<unit>[A-Za-z]{0,3})", re.ASCII)


def parse_bytes(text: str) -> int:
    """Return how many bytes `512MiB`, `1.5GB` or a plain number are; units in any case, halves of a byte dropped.

    Raises:
        ConfigError: it isn't such an amount.
    """
    found = _AMOUNT.fullmatch(text.strip())
    unit = _UNITS.get(found["unit"].lower()) if found else None
    if found is None or unit is None:
        raise ConfigError(f"{text!r} is no amount of memory; write it like 512MiB, 2GiB, 1.5GB or 1000000 (bytes)")
    whole, _, part = found["number"].partition(".")
    # In whole numbers: a float would round what is larger than 2**53.
    return int(whole) * unit + int(part or "0") * unit // int(10 ** len(part))


def spell_bytes(amount: float) -> str:
    """Return an amount as a reader likes it, in powers of 1024: `1.5 GiB`."""
    power = min(4, max(0, int(amount).bit_length() - 1) // 10)
    scaled = amount / 1024**power
    return f"{scaled:.3g} {_NAMES[power]}" if scaled < 1000 else f"{scaled:.0f} {_NAMES[power]}"
