"""Labels to classes, or to numbers."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from deploykit.errors import TrainError
from deploykit.train.corpus.examples import Example
from deploykit.train.corpus.store import Numbers

_LARGEST: Final = 1e15
"""Largest number to be learnt: squared and summed, it is a number in 32 bits still (3.4e38 at most)."""


class Classes:
    """The labels of a training: those of a checkpoint, or those that the training file has."""

    def __init__(self, labels: Sequence[str] | None) -> None:
        self._given = labels is not None
        self._numbers = {label: number for number, label in enumerate(labels or ())}

    def __contains__(self, label: str) -> bool:
        return label in self._numbers

    def learn(self, example: Example, file: Path) -> int:
        """Return the class of a label in the training file; one not met before gets the next.

        Raises:
            TrainError: the labels are given, and this is none of them.
        """
        if self._given and example.target not in self._numbers:
            raise TrainError(
                f"{file} line {example.line}: label {example.target!r} is none of the checkpoint's "
                f"({', '.join(self._numbers)})"
            )
        return self._numbers.setdefault(example.target, len(self._numbers))

    def find(self, example: Example, file: Path, train: Path) -> int:
        """Return the class of a label in the validation file.

        Raises:
            TrainError: the training file never has it.
        """
        if example.target not in self._numbers:
            raise TrainError(
                f"{file} line {example.line}: label {example.target!r} is never learnt: {train.name} doesn't have it, "
                f"only {', '.join(map(repr, list(self._numbers)[:20]))}"
            )
        return self._numbers[example.target]

    def ordered(self) -> tuple[tuple[str, ...], Numbers]:
        """Return the labels in their final order, and the final class of each one met so far.

        Given labels keep their order; others are sorted, numbers by their value.
        """
        met = list(self._numbers)
        labels = met if self._given else sorted(met, key=_by_value)
        final = {label: place for place, label in enumerate(labels)}
        return tuple(labels), np.array([final[label] for label in met], dtype=np.int64)


def _by_value(label: str) -> tuple[float, str]:
    return (int(label) if label.isascii() and label.isdigit() else math.inf, label)


def number(example: Example, file: Path) -> float:
    """Return the number that a text stands for.

    Raises:
        TrainError: the label isn't one.
    """
    try:
        value = float(example.target)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise TrainError(
            f"{file} line {example.line}: label {example.target!r} is no number, which text-regression needs"
        )
    if abs(value) > _LARGEST:
        raise TrainError(
            f"{file} line {example.line}: label {example.target!r} is beyond {_LARGEST:g}, and its square beyond what "
            "training computes with; give numbers in a larger unit"
        )
    return value
