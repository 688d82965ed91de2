"""Which weight keeps how many bits, and how each is rounded."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from deploykit.config import BLOCK_SIZES, QuantizeConfig
from deploykit.errors import ConfigError
from deploykit.quantize.blocks import Bits
from deploykit.quantize.rounding import Scheme

_NAMED: Final = 3
"""Names that an error shows."""


class Key(NamedTuple):
    """A weight as it is stored."""

    name: str
    transposed: bool
    """Whether it is [N, K] already."""
    looked_up: bool = False
    """Whether it is the second copy of a table, which is looked up only."""

    @property
    def label(self) -> str:
        """What it is called in the graph and in the record."""
        return f"{self.name}.table" if self.looked_up else self.name


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

    def scheme(self, name: str, *, looked_up: bool = False) -> Scheme:
        """Return how a weight is stored; `looked_up` asks for the copy of a table that is stored twice."""
        bits = self._bits(name, looked_up=looked_up)
        # Only what is looked up needs rows of whole blocks.
        table = looked_up or not self.twice(name)
        return Scheme(
            bits=bits,
            block=self.tables.get(name, self.config.block_size) if table else self.config.block_size,
            symmetric=self.config.symmetric,
            # At 8 bits the ways of rounding can't be told apart; in int4 only what has 4 bits is worth their time.
            rounding=self.config.rounding if bits == self._usual else "rtn",
        )

    def twice(self, name: str) -> bool:
        """Return whether a weight is a table that keeps other bits where it is looked up than where it is the head."""
        return name in self.tables and self._bits(name, looked_up=True) != self._bits(name, looked_up=False)

    @property
    def _usual(self) -> Bits:
        return 8 if self.config.precision == "int8" else 4

    def _bits(self, name: str, *, looked_up: bool) -> Bits:
        if name in self.more:
            return 8
        table_bits = self.config.table_bits or self.config.head_bits
        return (
            max(self._usual, table_bits if looked_up else self.config.head_bits) if name in self.head else self._usual
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
