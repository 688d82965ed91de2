"""What every contender is asked to do: the same prompts, the same number of tokens."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PROMPT = 64
NEW = 64
LONG = 512
REQUESTS_A_STREAM = 2
SAMPLING = {"temperature": 0.8, "top_k": 40}


@dataclass(frozen=True, kw_only=True)
class Work:
    """Closed loops: `streams` requests at a time until all prompts are answered."""

    name: str
    prompts: list[list[int]]
    streams: int
    new: int = NEW
    """Tokens each answer has; with 1, what is measured is reading the prompt."""
    sampling: dict[str, Any] | None = None
    """How tokens are chosen; greedily where None."""


def works(vocabulary: int) -> dict[str, Work]:
    """Return everything that is measured, prompts of random tokens, by name."""
    numbers = np.random.default_rng(0)

    def prompts(count: int, length: int) -> list[list[int]]:
        # The first few tokens are a tokenizer's special ones.
        return [numbers.integers(3, vocabulary, length).tolist() for _ in range(count)]

    several = {streams: prompts(REQUESTS_A_STREAM * streams, PROMPT) for streams in (8, 16)}
    made = [
        Work(name="1 stream", prompts=several[8][:3], streams=1),
        Work(name="8 streams", prompts=several[8], streams=8),
        Work(name="16 streams", prompts=several[16], streams=16),
        Work(name="prefill", prompts=prompts(2, LONG), streams=1, new=1),
        Work(name="8 streams, top-k 40", prompts=several[8], streams=8, sampling=SAMPLING),
        Work(name="decode only", prompts=prompts(1, 1), streams=1, new=128),
    ]
    return {work.name: work for work in made}


def texts(tokenizer: Path, count: int) -> list[str]:
    """Return different texts of exactly `PROMPT` tokens each."""
    from tokenizers import Tokenizer

    reader = Tokenizer.from_file(str(tokenizer))
    numbers = np.random.default_rng(0)
    # Characters that the tokenizer knows only as single bytes: one token each.
    letters = [letter for letter in "QXZJKVWYBPMDGH" if len(reader.encode(letter).ids) == 1]
    found = ["".join(numbers.choice(letters, PROMPT)) for _ in range(count)]
    assert all(len(reader.encode(text).ids) == PROMPT for text in found)
    return found
