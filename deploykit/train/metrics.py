"""How good predictions are: sums over validation batches in, figures out."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

_HAN: Final = re.compile("[\u3400-\u9fff\u3040-\u30ff]")
_MOST: Final = 700.0
"""Loss beyond which its exponential is no number."""


@dataclass(kw_only=True)
class Seen:
    """What validation saw in some batches."""

    loss: float = 0.0
    """Sum over the labels."""
    labels: int = 0
    hits: int = 0
    """Labels that were the likeliest prediction."""
    classes: list[tuple[int, int]] = field(default_factory=list)
    """(predicted, right) for each text with a label."""
    pairs: list[tuple[str, str]] = field(default_factory=list)
    """(generated, reference) for each pair that was generated."""


def total(parts: Sequence[Seen]) -> Seen:
    """Return all that was seen in `parts`."""
    return Seen(
        loss=sum(part.loss for part in parts),
        labels=sum(part.labels for part in parts),
        hits=sum(part.hits for part in parts),
        classes=[one for part in parts for one in part.classes],
        pairs=[one for part in parts for one in part.pairs],
    )


def perplexity(loss: float) -> float:
    """Return exp(loss), the loss being a mean in nats; infinite where that is beyond a float."""
    return math.exp(loss) if loss < _MOST else math.inf


def class_metrics(classes: Sequence[tuple[int, int]]) -> Mapping[str, float]:
    """Return the accuracy and the macro F1: the mean over the classes that occur, each as weighty as another."""
    predicted, right = (np.array(column) for column in zip(*classes, strict=True))
    scores = []
    for one in np.union1d(predicted, right):
        both = np.sum((predicted == one) & (right == one))
        scores.append(2 * both / (np.sum(predicted == one) + np.sum(right == one)))
    return {"accuracy": float(np.mean(predicted == right)), "f1": float(np.mean(scores))}


def pair_metrics(pairs: Sequence[tuple[str, str]]) -> Mapping[str, float]:
    """Return BLEU and chrF (0 to 100, as sacrebleu has them) and the part of the pairs that are equal (0 to 1).

    Chinese and Japanese are cut into characters for BLEU, as they have no spaces between words (sacrebleu's `zh`).
    """
    # It takes a third of a second to import.
    from sacrebleu import corpus_bleu, corpus_chrf

    generated, references = ([pair[side] for pair in pairs] for side in (0, 1))
    words = "zh" if any(_HAN.search(reference) for reference in references) else "13a"
    return {
        # `force`: no warning where the text looks tokenized.
        "bleu": corpus_bleu(generated, [references], tokenize=words, force=True).score,
        "chrf": corpus_chrf(generated, [references]).score,
        "exact_match": float(np.mean([one.strip() == other.strip() for one, other in pairs])),
    }
