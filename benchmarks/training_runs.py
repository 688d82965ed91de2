"""What a training on pairs is, and what it took, whoever does it."""

import time
from dataclasses import asdict, dataclass
from typing import Any

BOS, EOS, PAD = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """An encoder-decoder's, under the names of torch.nn.Transformer."""

    d_model: int
    nhead: int
    num_layers: int
    dim_feedforward: int
    dropout: float = 0.1

    @property
    def of_the_model(self) -> dict[str, Any]:
        """All of them but dropout."""
        return {name: value for name, value in asdict(self).items() if name != "dropout"}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """Tokens of source and target, `<eos>` at the end of both."""

    source: list[int]
    target: list[int]

    @property
    def tokens(self) -> int:
        """Tokens of both."""
        return len(self.source) + len(self.target)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One epoch."""

    tokens: int
    """Of source and target, padding not counted."""
    seconds: float
    """By the clock."""
    cpu_seconds: float
    """Of all the process's threads: what other programs on the machine disturb least."""
    padding: float
    """Part of the positions that were padding."""

    @property
    def tokens_per_second(self) -> float:
        """Tokens that were learnt from a second."""
        return self.tokens / self.seconds

    @property
    def tokens_per_cpu_second(self) -> float:
        """Tokens that were learnt from a second of a core."""
        return self.tokens / self.cpu_seconds


class Watch:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def run(self, pairs: list[Pair], places: int) -> Run:
        """Return an epoch of `pairs` that took `places` positions."""
        clock, cpu = self._began
        tokens = sum(pair.tokens for pair in pairs)
        return Run(
            tokens=tokens,
            seconds=time.perf_counter() - clock,
            cpu_seconds=time.process_time() - cpu,
            padding=1 - tokens / places,
        )


def rows_a_step(pairs: list[Pair], tokens: int) -> int:
    """Return the rows that have `tokens` tokens on average."""
    return max(1, round(tokens * len(pairs) / sum(pair.tokens for pair in pairs)))
