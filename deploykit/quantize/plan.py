"""Which weight keeps how many bits, and how each is rounded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from deploykit.config import BLOCK_SIZES, QuantizeConfig
from deploykit.errors import ConfigError
from deploykit.quantize.blocks import Bits
from deploykit.quantize.rounding import Scheme

_NAMED: Final = 3
"""Names that an error shows."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How each weight is stored, by name."""

    config: QuantizeConfig
    head: frozenset[str]
    """Weights that make the logits, and embedding tables."""
    more: frozenset[str]
    """Weights that keep 8 bits."""
    tables: Mapping[str, int]
    """Blocks of the embedding tables."""

    def scheme(self, name: str) -> Scheme:
        """Return how a weight is stored."""
        usual: Bits = 8 if self.config.precision == "int8" else 4
        bits = max(usual, self.config.head_bits) if name in self.head else usual
        bits = 8 if name in self.more else bits
        return Scheme(
            bits=bits,
            block=self.tables.get(name, self.config.block_size),
            symmetric=self.config.symmetric,
            # At 8 bits the ways of rounding can't be told apart; in int4 only what has 4 bits is worth their time.
            rounding=self.config.rounding if bits == usual else "rtn",
        )


def table_block(columns: int, block: int) -> int | None:
    """Return the largest block, `block` at most, that cuts rows of `columns` into whole blocks; None if there is none.

    A row that is filled up could not be looked up without what fills it.
    """
    return next((size for size in BLOCK_SIZES[::-1] if size <= block and columns % size == 0), None)


def named(names: Iterable[str], parts: Sequence[str]) -> frozenset[str]:
    """Return the names that hold one of `parts`, in whole words between dots or slashes.

    Raises:
        ConfigError: one of `parts` is in none of them.
    """
    words = {name: "." + name.replace("/", ".") + "." for name in names}
    found = {part: [name for name, text in words.items() if f".{part}." in text] for part in parts}
    for part, hits in found.items():
        if not hits:
            known = list(words)
            shown = ", ".join(known[:: max(1, len(known) // _NAMED)][:_NAMED])
            raise ConfigError(
                f"more_bits {part!r}: in none of the {len(known)} names of weights, such as {shown}; give whole words "
                "between dots, such as layers.0 or down_proj"
            )
    return frozenset(name for hits in found.values() for name in hits)
